-- A server whose code is loaded again and again under load: handlers that change, come and go, middleware, plugins with timers and modules
-- beside the file, all swapped while calls are under way. No call fails, every answer is of a version that was there, and memory stays.
--
--   RELOADS=1000 lua5.4 spec/campaigns/reload.lua      (make campaign-reload)

local echo = require "echostream"
local percentile = require("spec.support.statistics").percentile
local process = require "spec.support.process"

local M = {}

local APP = [[
local server = ...
local echo = require "echostream"
local part = require "campaign_reload_part"
local VERSION = @
server:add_rpc("now", function(_, n) return n + 1, part.version end)
server:add_rpc("soon", function(_, n) echo.sleep(0.02 * math.random()) return n + 1, part.version end)
if VERSION % 2 == 0 then server:add_rpc("now.and.then", function() return VERSION end) end
server:add_stream("talk", function(_, stream)
  for frame in stream:frames() do stream:send(frame.data .. " " .. VERSION) end
end)
server:add_event("note", function(session, n) session:set("noted", n) end)
server:middleware(function(call, next) return next(call) end)
server:plugin { name = "clock", install = function(_, host)
  host:add_rpc("clock", function() return VERSION end)
  host:every(0.05, function() server.context:set("ticks", (server.context:get "ticks" or 0) + 1) end)
end }
server:on_unload(function() server.context:set("unloaded", (server.context:get "unloaded" or 0) + 1) end)
]]

local function fail(state, what)
  state.failed = state.failed + 1
  state.example = state.example or what
end

-- One call after the other; half of them take a while, so that there are always some of the version before.
local function work(state, client)
  while not state.over do
    state.calls = state.calls + 1
    local n = state.calls
    local oldest = state.version
    local answer, version = client:request(n % 2 == 0 and "soon" or "now", n)
    if answer ~= n + 1 then
      fail(state, tostring(version))
    elseif version < oldest or version > state.newest then
      fail(state, ("version %d, between %d and %d"):format(version, oldest, state.newest))
    end
  end
end

-- A stream that stays open for some reloads talks to the version it began with.
local function talk(state, client)
  while not state.over do
    local stream = assert(client:create_stream("talk"))
    local began
    for i = 1, 20 do
      state.messages = state.messages + 1
      local ok = stream:send("x" .. i)
      local frame = ok and stream:recv(30)
      local text, version = (frame and frame.data or ""):match "^(%S+) (%d+)$"
      began = began or version
      if text ~= "x" .. i or version ~= began then
        fail(state, ("a stream of version %s got %s"):format(began, frame and frame.data))
        break
      end
      echo.sleep(0.01)
    end
    stream:close()
  end
end

local function memory()
  collectgarbage()
  collectgarbage()
  local file <close> = assert(io.open("/proc/self/statm"))
  local _, pages = file:read("n", "n")
  return collectgarbage "count", pages * 4
end

--- Runs the campaign in a task.
---@param options { reloads: integer, workers?: integer, say?: fun(text: string) }
---@return table tally
function M.run(options)
  local dir = process.directory()
  local function write(version)
    process.write(dir .. "/campaign_reload_part.lua", "return { version = " .. version .. " }")
    process.write(dir .. "/app.lua", (APP:gsub("@", tostring(version))))
  end
  write(1)
  local server = echo.server { quiet = true, state_dir = dir, bind = "127.0.0.1:0" }
  assert(server:load(dir .. "/app.lua"))
  assert(server:start())
  local client = assert(echo.connect(server.address, { pin = server.pin, max_calls = 1000 }))
  local state = { calls = 0, messages = 0, failed = 0, version = 1, newest = 1, over = false }
  local workers = {}
  for i = 1, options.workers or 32 do workers[i] = echo.spawn(work, state, client) end
  for _ = 1, 4 do workers[#workers + 1] = echo.spawn(talk, state, client) end
  local took, lua_then, kib_then = {}, nil, nil
  local quarter = math.max(options.reloads // 4, 1)
  for version = 2, options.reloads + 1 do
    write(version)
    state.newest = version -- its code may answer before reload returns here
    local begun = echo.now()
    local summary, err = server:reload()
    if not summary then
      fail(state, tostring(err))
    end
    state.version = version
    took[#took + 1] = (echo.now() - begun) * 1000
    local seen, ends = state.calls, echo.now() + 60
    while state.calls < seen + 20 and echo.now() < ends do
      echo.sleep(0.002)
    end
    if version == quarter + 1 then
      lua_then, kib_then = memory()
    end
    if options.say and version % 100 == 1 then
      options.say(("%d reloads, %d calls, %d failed"):format(version - 1, state.calls, state.failed))
    end
  end
  state.over = true
  for _, worker in ipairs(workers) do worker:wait(60) end
  local versions = client:describe("now").versions
  local lua_now, kib_now = memory()
  local unloaded, clock = server.context:get "unloaded", client:request("clock")
  client:close()
  server:stop()
  process.remove(dir)
  table.sort(took)
  return { reloads = #took, calls = state.calls, messages = state.messages, failed = state.failed, example = state.example,
    versions = versions, unloaded = unloaded, clock = clock, p50 = percentile(took, 0.5), max = took[#took],
    lua_kib = lua_now - lua_then, rss_kib = kib_now - kib_then }
end

if arg and arg[0] and arg[0]:find "campaigns/reload%.lua$" then
  local good = false
  echo.set_log(function(record)
    if record.level ~= "info" then
      io.stderr:write(record.level, ": ", record.message, "\n")
    end
  end)
  echo.spawn(function()
    local tally = M.run { reloads = tonumber(os.getenv "RELOADS") or 1000, say = print }
    print(("%d reloads under load: %d calls and %d messages of streams, %d failed%s"):format(tally.reloads, tally.calls, tally.messages,
      tally.failed, tally.example and " (" .. tally.example .. ")" or ""))
    print(("a reload takes %.1f ms (median; longest %.1f); since the first quarter Lua grew by %.0f KiB, the process by %d KiB; now %s")
      :format(tally.p50, tally.max, tally.lua_kib, tally.rss_kib, tally.versions))
    good = tally.failed == 0 and tally.lua_kib < 512 and tally.rss_kib < 8192 and tally.clock == tally.reloads + 1
      and tally.unloaded == tally.reloads
    print(good and "everything holds" or "IT DOES NOT HOLD")
  end):wait()
  os.exit(good, false)
end

return M
