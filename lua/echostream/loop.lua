--- The loop: the only file that knows luv. It owns the core's loop, ties its one descriptor to luv, and pumps both for the
--- main thread.
---
--- How the two fit together: the core has one pollable descriptor. Per Lua state there is exactly one `uv.new_poll` on it,
--- referenced while the core's loop is alive (an endpoint, a timer or an unfinished task exists) and unreferenced
--- otherwise; it is never closed, because luv 1.44 uses a handle after freeing it when the process ends right after a
--- close. What the main thread or a bare luv callback queues makes the descriptor readable (the core sees to that).
--- Simulated loops (`sim.lua`) have a record of their own and are stepped without luv.

local core = require "echostream.core"
local errors = require "echostream.errors"
local log = require "echostream.log"

local M = {}

---@class echostream.loop
---@field core echostream.core.loop
---@field sim boolean              a simulation: virtual time, no luv
---@field stepping boolean         the core's step is on the C stack
---@field anchors table<any, true> started servers and connected clients: not collected while they live
---@field endpoints table<any, true> weak: what can still be woken by the network
---@field stop_asked boolean
---@field poll_referenced boolean?  the real one: whether its poll handle keeps luv running

-- luv's loop lives in a userdata that only the module table of luv's first load refers to (its field `_loop`); every later
-- load uses that loop and keeps nothing alive. Whoever empties package.loaded (test runners, reloaders) lets the first table
-- be collected, which closes every handle and frees the loop under the later ones: a crash in uv_run. So the first table
-- that is seen here stays for the life of the Lua state, and everybody gets that one.
local LUV = "echostream.luv"

local function library()
  local vim = rawget(_G, "vim") -- Neovim has luv inside
  if vim and (vim.uv or vim.loop) then
    return vim.uv or vim.loop
  end
  local registry = debug.getregistry()
  if registry[LUV] then
    return registry[LUV]
  end
  local ok, uv = pcall(require, "luv")
  if not ok then
    error("echostream needs luv (luarocks install luv, or Debian's lua-luv): " .. tostring(uv), 0)
  end
  -- The loop's metatable exists when luv made a loop in this state (hosts may give it theirs).
  if not rawget(uv, "_loop") and registry["uv_loop.meta"] then
    log.write("warn", "luv was loaded before and then dropped from package.loaded: if that first module table is collected, "
      .. "luv's loop is freed while it is in use. Keep it, or load echostream first")
  end
  registry[LUV] = uv
  return uv
end

local uv            -- luv, loaded with the first real loop
local real          -- the record of the real loop
local core_loop     -- its core
local core_step, core_alive, core_run -- methods of it, looked up once: they run at every wake-up
local current       -- the record that new objects belong to; nil: the real one
local poll
local signal_int, signal_term
local host_pump     -- set_pump

local function record(ud, sim)
  return {
    core = ud,
    sim = sim,
    stepping = false,
    stop_asked = false,
    anchors = {},
    endpoints = setmetatable({}, { __mode = "k" }),
  }
end

-- Keeps luv running exactly while the core has something to wait for.
local function settle(alive)
  if alive == nil then
    alive = core_alive(core_loop)
  end
  if alive ~= real.poll_referenced then
    real.poll_referenced = alive
    if alive then
      poll:ref()
    else
      poll:unref()
    end
  end
end

local around -- nil, or a list of { before, after }: see M.around_steps

local function call_around(which)
  for _, functions in ipairs(around) do
    local ok, problem = pcall(functions[which])
    if not ok then
      log.write("error", "what goes with the loop's steps failed: " .. tostring(problem))
    end
  end
end

-- One step of the core. Errors leave as they are: the callers decide who may see them.
local function step(rec, budget)
  local with = around and rec == real
  rec.stepping = true
  if with then
    call_around(1)
  end
  local ok, n = pcall(rec.core.step, rec.core, budget)
  rec.stepping = false
  if with and around then
    call_around(2)
  end
  if not ok then
    error(n, 0)
  end
  return n
end

-- The trampoline: luv ends the process when a callback raises, so nothing leaves here.
local function on_readable()
  if real.stepping or real.ending then
    return -- somebody runs luv inside a handler; the step that is on the stack goes on afterwards
  end
  real.stepping = true
  if around then
    call_around(1)
  end
  local ok, done, alive = pcall(core_step, core_loop)
  real.stepping = false
  if around then
    call_around(2)
    alive = nil -- it may be otherwise now
  end
  if not ok then
    log.write("error", "the loop's step failed: " .. tostring(done))
  end
  settle(alive)
end

local function on_idle_at_prompt()
  if real and not real.stepping and uv.loop_mode() == nil then
    pcall(uv.run, "nowait")
  end
end

-- The real loop and its poll handle belong to the Lua state, not to this module: a module that is loaded a second time (a
-- hot reload, a test runner that empties package.loaded) finds them again, for luv must never see the descriptor closed.
local KEY = "echostream.loop.real" -- the name alone is its metatable

local function make_real()
  uv = uv or library()
  local kept = debug.getregistry()[KEY]
  if kept then
    real, poll = kept.real, kept.poll
    core_loop = real.core
    core_step, core_alive, core_run = core_loop.step, core_loop.alive, core_loop.run
    return real
  end
  core_loop = core.loop()
  core_step, core_alive, core_run = core_loop.step, core_loop.alive, core_loop.run
  real = record(core_loop, false)
  poll = assert(uv.new_poll(real.core:fd()))
  poll:unref()
  real.poll_referenced = false
  poll:start("r", on_readable)
  debug.getregistry()[KEY] = { real = real, poll = poll }
  if uv.guess_handle(0) == "tty" then
    core.set_idle_hook(on_idle_at_prompt)
  end
  return real
end

--- The loop that objects made now belong to: the simulation inside `loop.with`, else the real one (made on first use).
---@return echostream.loop
function M.current()
  return current or real or make_real()
end

--- Runs `fn(...)` with another current loop: what it makes belongs to that one, and waiting on the main thread steps it.
---@param rec echostream.loop
---@param fn function
---@return any ...
function M.with(rec, fn, ...)
  local before = current
  current = rec
  local results = table.pack(pcall(fn, ...))
  current = before
  if not results[1] then
    error(results[2], 0)
  end
  return table.unpack(results, 2, results.n)
end

--- A record for a simulated loop.
---@param ud echostream.core.loop from core.sim
---@return echostream.loop
function M.simulated(ud)
  return record(ud, true)
end

--- A local address of its own for the next client of a simulation.
---@param rec echostream.loop
---@return string
function M.simulated_address(rec)
  rec.clients = (rec.clients or 0) + 1
  return ("10.1.%d.%d:0"):format(rec.clients // 250 % 250, rec.clients % 250 + 1)
end

--- Seconds on the current loop's clock (monotonic, or virtual).
---@return number
function M.now()
  return M.current().core:now()
end

--- A random number from 0 to 1 for pauses and choices; in a simulation its seed fixes it.
---@return number
function M.random()
  local rec = M.current()
  if not rec.sim then
    return math.random()
  end
  -- xorshift64*: its own state, so that nobody else's use of math.random changes a simulation.
  local x = rec.random_state or ((rec.seed or 1) * 0x9E3779B97F4A7C15 | 1)
  x = x ~ x >> 12
  x = x ~ x << 25
  x = x ~ x >> 27
  rec.random_state = x
  return (x * 0x2545F4914F6CDD1D >> 11) / (1 << 53)
end

--- Makes an endpoint of the current loop and remembers that the network can wake it.
---@param options table as core.endpoint's
---@return echostream.core.endpoint?, echostream.error?
function M.endpoint(options)
  local rec = M.current()
  local endpoint, err = core.endpoint(rec.core, options)
  if not endpoint then
    return nil, err
  end
  rec.endpoints[endpoint] = true
  M.note(rec)
  return endpoint
end

--- Closes an endpoint made by `loop.endpoint`.
function M.close_endpoint(rec, endpoint)
  rec.endpoints[endpoint] = nil
  endpoint:close()
  M.note(rec)
end

--- Calls `before()` and `after()` around each step of the real loop: for who has a descriptor and a queue of his own, and wants to
--- send at once, and together, what tasks wrote in a step. They must not raise (it is logged) nor wait; `after` may use `inside`. Returns
--- what ends it.
---@param before fun()
---@param after fun()
---@return fun() remove
function M.around_steps(before, after)
  local functions = { before, after }
  around = table.move(around or {}, 1, around and #around or 0, 1, {}) -- a step may be under way
  around[#around + 1] = functions
  return function()
    local left = {}
    for _, other in ipairs(around or {}) do
      if other ~= functions then
        left[#left + 1] = other
      end
    end
    around = #left > 0 and left or nil
  end
end

--- Runs `fn(...)` as a part of a step of the real loop: for callbacks of other descriptors that make tasks ready. Those run when it
--- returned, at once and without a turn of luv's loop. What it raises is raised. Inside of a step it is just called.
---@param fn function
function M.inside(fn, ...)
  local rec = real or make_real()
  if rec.stepping then
    fn(...)
    return
  end
  rec.stepping = true
  local ok, alive = pcall(core_run, core_loop, fn, ...)
  rec.stepping = false
  settle(ok and alive or nil)
  if not ok then
    error(alive, 0)
  end
end

--- Call after something was started from outside a step: luv learns whether to stay.
---@param rec echostream.loop
function M.note(rec)
  if rec == real and not rec.stepping then
    settle()
  end
end

--- Call after something was queued from outside a step: on the main thread it leaves at once, since nobody may run the
--- loop for a while; from a luv callback it leaves when luv comes round.
---@param rec echostream.loop
function M.touch(rec)
  if rec == real and not rec.stepping then
    settle()
    if uv.loop_mode() == nil then
      rec.core:flush()
    end
  end
end

--- Whether the caller, who is not in a task, may wait by pumping. nil and the reason when not.
---@return boolean? ok, string? reason
function M.can_pump()
  local rec = M.current()
  if rec.stepping then
    return nil, "this code runs inside the loop but in no task (a foreign coroutine or a callback), so it cannot wait: "
      .. "wrap it in echo.spawn; for generators use echo.wrap instead of coroutine.wrap"
  end
  if not rec.sim and not host_pump and uv.loop_mode() ~= nil then
    return nil, "a bare luv callback cannot wait: wrap its body in echo.spawn"
  end
  return true
end

-- Nothing can ever change what the main thread waits for: no clock (which the caller has seen), no network, no luv handle.
local function deadlocked(rec)
  if not rec.core:alive() then
    return not uv.loop_alive()
  end
  if next(rec.endpoints) ~= nil then
    return false -- the network can wake it
  end
  poll:unref()
  local others = uv.loop_alive()
  if real.poll_referenced then
    poll:ref()
  end
  return not others
end

-- Signal handles are reused, never closed (see the head of this file).
local function listen_for_signals(both, fn)
  if not signal_int then
    signal_int, signal_term = uv.new_signal(), uv.new_signal()
    signal_int:unref()
    signal_term:unref()
  end
  local function guarded(name)
    local ok, err = pcall(fn, name)
    if not ok then
      log.write("error", "the signal handler failed: " .. tostring(err))
    end
  end
  signal_int:start("sigint", function() guarded("sigint") end)
  if both then
    signal_term:start("sigterm", function() guarded("sigterm") end)
  end
end

local function ignore_signals()
  signal_int:stop()
  signal_term:stop()
end

-- timeout(1) and some supervisors send a signal twice in a row, to the process and to its group: that is one wish.
local SAME_SIGNAL = 0.25

-- Calls `stop` for the first signal; a second one ends the process at once.
local function stop_then_exit(rec, stop)
  local first
  return function(name)
    local now = rec.core:now()
    if not first then
      first = now
      stop(name)
    elseif now - first > SAME_SIGNAL then
      os.exit(name == "sigterm" and 143 or 130, false)
    end
  end
end

local function pump_luv(rec, done, on_signal)
  local interrupted = false
  listen_for_signals(on_signal ~= nil, on_signal and stop_then_exit(rec, on_signal) or function()
    interrupted = true
  end)
  local ok, err = pcall(function()
    local run, next_due = uv.run, core_loop.next
    settle()
    while not done() do
      if interrupted then -- first: a loop that is never idle must hear it too
        error("interrupted!", 0)
      end
      local due = next_due(core_loop)
      if due == 0 then
        step(rec)
        run("nowait")
        settle()
      elseif due == nil and deadlocked(rec) then
        return "deadlock"
      else
        run("once") -- settled: whatever changes what the core waits for sees to that (on_readable, note, touch)
      end
    end
  end)
  ignore_signals()
  settle() -- whoever runs luv next (the idle prompt, the user's own uv.run) must find the poll referenced as it should be
  if not ok then
    error(err, 0)
  end
  if err == "deadlock" then
    return nil, errors.new("deadlock", "waiting for something that can never happen: nothing can wake the loop")
  end
  return true
end

local function pump_simulation(rec, done)
  while not done() do
    if step(rec) == 0 and not done() then
      return nil, errors.new("deadlock", "waiting for something that can never happen in this simulation")
    end
  end
  return true
end

--- Runs the current loop until `done()` is true. For the main thread only; tasks wait by yielding (task.lua).
---@param done fun(): boolean
---@param on_signal? fun(name: "sigint"|"sigterm")  takes the first SIGINT or SIGTERM, and a second one ends the process at
--- once; without it SIGTERM is left alone and Ctrl-C raises "interrupted!"
---@return true|nil ok, echostream.error? err  code `deadlock` when nothing could ever make it true
function M.pump(done, on_signal)
  local may, reason = M.can_pump()
  if not may then
    error(reason, 0)
  end
  local rec = M.current()
  if rec.sim then
    return pump_simulation(rec, done)
  elseif host_pump then
    settle()
    host_pump(done)
    if done() then
      return true
    end
    return nil, errors.new("cancelled", "the host's loop gave up waiting")
  end
  return pump_luv(rec, done, on_signal)
end

--- For hosts that own luv's loop (Neovim, luvit): `fn(done)` must run the host's loop until `done()` is true. In Neovim:
--- `loop.set_pump(function(done) vim.wait(2^31 - 1, done, 5) end)`. nil restores the default.
---@param fn fun(done: fun(): boolean)|nil
function M.set_pump(fn)
  if fn ~= nil and type(fn) ~= "function" then
    error("loop.set_pump: wants a function or nil, got " .. errors.show(fn), 2)
  end
  host_pump = fn
end

--- Makes the innermost `echo.run` return.
function M.stop()
  local rec = M.current()
  rec.stop_asked = true
  if not rec.sim and not rec.stepping then
    rec.core:timer(0, function() end) -- called from a luv callback: the pump looks again when the core was stepped
    M.note(rec)
  end
end

-- What the name service's errors mean.
local unresolved = {
  EAI_NONAME = "there is no such name (EAI_NONAME)",
  EAI_NODATA = "the name has no address (EAI_NODATA)",
  EAI_AGAIN = "the name service does not answer (EAI_AGAIN)",
}

--- Resolves a host name to numeric addresses. `done(addresses, err)` is called once, from the loop.
---@param host string
---@param done fun(addresses: string[]?, err: echostream.error?)
function M.resolve(host, done)
  local rec = M.current()
  if host == "localhost" or host:find("%.localhost$") then -- RFC 6761: always the loopback, whatever the system knows
    return done(rec.sim and { "127.0.0.1" } or { "127.0.0.1", "::1" })
  end
  if rec.sim then
    return done(nil, errors.new("not_found", ("the simulation has no name service: no address of %s"):format(host)))
  end
  local function answer(err, list)
    local addresses, seen = {}, {}
    for _, entry in ipairs(list or {}) do
      if not seen[entry.addr] then
        seen[entry.addr] = true
        addresses[#addresses + 1] = entry.addr
      end
    end
    if #addresses == 0 then
      done(nil, errors.new("not_found", ("no address of %s: %s"):format(host, unresolved[err] or tostring(err or "none found"))))
    else
      done(addresses)
    end
  end
  local ok, err = uv.getaddrinfo(host, nil, { socktype = "dgram" }, function(err, list)
    local good, problem = pcall(answer, err, list)
    if not good then
      log.write("error", "the name service's callback failed: " .. tostring(problem))
    end
  end)
  if not ok then
    done(nil, errors.new("io", ("cannot look up %s: %s"):format(host, tostring(err))))
  end
end

-- For the files of the room loop/ -------------------------------------------------------------------------------

-- Handles that are being closed. Each has a sentinel, which is younger than its handle and so is finalised before it when the Lua
-- state ends: it lets luv finish the close while the handle's memory is still there (luv 1.44 does not see to that itself).
local closing = {}

local function finish_closes(sentinel)
  if closing[sentinel.handle] == sentinel then
    if real then
      real.ending = true
    end
    pcall(uv.run, "nowait")
  end
end

--- Closes a handle of luv's; harmless twice. Every file of the room loop/ closes through this.
---@param handle userdata
function M.close_handle(handle)
  if handle:is_closing() then
    return
  end
  local sentinel = setmetatable({ handle = handle }, { __gc = finish_closes })
  closing[handle] = sentinel
  handle:close(function()
    closing[handle] = nil
  end)
end

--- luv, for the files of the room loop/ alone: everybody else uses what they offer.
---@return table
function M.luv()
  uv = uv or library()
  return uv
end

--- A callback for luv, which ends the process when one raises: what goes wrong inside is logged under `what`.
---@param what string  names the work in the log
---@param fn function
---@return function
function M.guard(what, fn)
  return function(...)
    local ok, problem = pcall(fn, ...)
    if not ok then
      log.write("error", what .. " failed: " .. tostring(problem))
    end
  end
end

return M
