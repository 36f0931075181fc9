-- Declares specs twice: over QUIC sockets on the loopback interface, and in the simulator.
--
--   net.each(function(env)
--     env.it("adds", function()
--       local server, client = env.pair()
--       …
--     end)
--   end)
--
-- Every spec runs in a task, has a time limit, and closes what it made; afterwards nothing may be alive.

local busted = require "busted"
local echo = require "echostream"
local loop = require "echostream.loop"
local log = require "echostream.log"
local scratch = require "spec.support.scratch"

local M = {}

M.LIMIT = 20 -- seconds (virtual ones in the simulator)

local state_dir

-- A directory for made keys that is not the user's.
function M.state_dir()
  state_dir = state_dir or scratch.path ".state"
  return state_dir
end

local function traced(raised)
  if type(raised) == "string" then
    return debug.traceback(raised, 2)
  end
  return raised
end

local function make_env(kind, door)
  local env = { kind = kind, door = door, logs = {}, opened = {} }

  -- A started server. Options as echo.server's.
  function env.server(opts, prepare)
    opts = opts or {}
    opts.bind = opts.bind or "127.0.0.1:0"
    opts.quiet = true
    if opts.webtransport == nil then
      opts.webtransport = door == "webtransport"
    end
    if door == "tcp" and opts.tcp == nil then
      opts.tcp = true
    end
    if kind == "quic" then
      opts.state_dir = opts.state_dir or M.state_dir()
    end
    local server = echo.server(opts)
    table.insert(env.opened, server)
    if prepare then
      prepare(server)
    end
    return assert(server:start())
  end

  -- A client that is not connected yet.
  function env.client(server, opts)
    opts = opts or {}
    if not opts.pin and not opts.skip_verification and server then
      opts.pin = server.pin
    end
    if opts.webtransport == nil then
      opts.webtransport = door == "webtransport"
    end
    if door == "tcp" then
      local transport = { carrier = type(opts.transport) == "string" and opts.transport or "tcp" }
      for key, value in pairs(type(opts.transport) == "table" and opts.transport or {}) do
        transport[key] = value -- the table may be the server's too
      end
      opts.transport = transport
    end
    local client = echo.client(opts)
    table.insert(env.opened, client)
    return client
  end

  function env.connect(server, opts)
    return assert(env.client(server, opts):connect(server.address))
  end

  function env.pair(prepare, server_options, client_options)
    local server = env.server(server_options, prepare)
    return server, env.connect(server, client_options)
  end

  -- The first log record whose message contains `text`.
  function env.logged(text)
    for _, record in ipairs(env.logs) do
      if record.message:find(text, 1, true) or (record.traceback or ""):find(text, 1, true) then
        return record
      end
    end
  end

  -- Waits until `fn()` is true; fails after two seconds.
  function env.eventually(fn, what)
    local ends = echo.now() + 2
    while not fn() do
      if echo.now() > ends then
        error("did not happen within 2 s: " .. (what or "?"), 2)
      end
      echo.sleep(0.005)
    end
  end

  local function clean()
    for i = #env.opened, 1, -1 do
      local thing = env.opened[i]
      if thing.stop then
        thing:stop { grace = 0 }
      else
        thing:close()
      end
    end
    env.opened = {}
  end

  local function body(fn, net)
    local ok, err = xpcall(fn, traced, net)
    local cleaned, problem = xpcall(clean, traced)
    if not ok then
      error(err, 0)
    elseif not cleaned then
      error(problem, 0)
    end
  end

  local function run_quic(fn, options)
    local outcome
    local task = echo.spawn(function()
      outcome = table.pack(pcall(body, fn, nil))
    end)
    local ended, err = task:wait(options and options.limit or M.LIMIT)
    if not ended then
      error(("the spec did not end: %s"):format(tostring(err)), 0)
    elseif not outcome[1] then
      error(outcome[2], 0)
    end
    local core_loop = loop.current().core
    local ends = os.time() + 3
    while core_loop:alive() and os.time() < ends do
      echo.sleep(0.01) -- closing messages are on their way
      echo.sleep(0)
    end
    if core_loop:alive() then
      error("something is still alive after the spec", 0)
    end
  end

  local function run_sim(fn, options)
    local settings = { limit = M.LIMIT * 10 }
    for key, value in pairs(options or { seed = 1 }) do
      settings[key] = value
    end
    echo.sim.run(settings, function(net)
      body(fn, net)
    end)
  end

  -- Declares one spec. `options`: of the simulation; over sockets, `limit` in seconds for what starts many processes.
  function env.it(name, fn, options)
    busted.it(name, function()
      env.logs, env.opened = {}, {}
      log.set(function(record)
        table.insert(env.logs, record)
      end)
      local ok, err = pcall(kind == "quic" and run_quic or run_sim, fn, options)
      log.set(nil)
      if not ok then
        error(err, 0)
      end
    end)
  end

  return env
end

-- One kind only. `door`: how sessions come, "native" unless it is said; to try out what was not asked for, the environment's
-- SPEC_DOOR says otherwise.
function M.only(kind, declare, door)
  door = door or os.getenv "SPEC_DOOR" or "native"
  if door == "tcp" and kind == "sim" then
    return -- a simulated network has no TCP
  end
  local name = (kind == "quic" and "(over sockets" or "(simulated") .. (door ~= "native" and ", " .. door or "") .. ")"
  busted.describe(name, function()
    declare(make_env(kind, door))
  end)
end

-- Calls `declare(env)` for each kind of network.
function M.each(declare)
  M.only("quic", declare)
  M.only("sim", declare)
end

-- For each kind of network and each door; the door of browsers in the simulator only, unless `all`; that of TCP with "tcp", or `all`.
function M.each_door(declare, all)
  M.each(declare)
  M.only("sim", declare, "webtransport")
  if all == true then
    M.only("quic", declare, "webtransport")
  end
  if all then
    M.only("quic", declare, "tcp")
  end
end

return M
