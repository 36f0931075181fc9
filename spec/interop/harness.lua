-- Runs one case of cases.lua: in the simulator, or between this process and a server in another, with an impairment proxy
-- in between.

local echo = require "echostream"
local handlers = require "spec.interop.handlers"
local impair = require "spec.support.impair"
local process = require "spec.support.process"

local M = {}

local LINE = { rate = 1e7, delay = 0.015, queue = 25 }

-- An option table as Lua text.
local function text_of(value)
  if type(value) ~= "table" then
    return type(value) == "string" and ("%q"):format(value) or tostring(value)
  end
  local words = {}
  for key, v in pairs(value) do
    words[#words + 1] = ("[%s] = %s"):format(text_of(key), text_of(v))
  end
  return "{ " .. table.concat(words, ", ") .. " }"
end

local function merge(into, from)
  for key, value in pairs(from) do
    into[key] = type(value) == "table" and merge(into[key] or {}, value) or value
  end
  return into
end

local Test = {}
Test.__index = Test

function Test:connect(opts)
  opts = merge({ pin = self.pin }, opts or {})
  local client, err = echo.connect(self.address, opts)
  self.clients[#self.clients + 1] = client
  return client, err
end

function Test:http(opts)
  local client = echo.http.client(merge({ pin = self.pin, bind = self.bind, idle_timeout = 60 }, opts or {}))
  self.clients[#self.clients + 1] = client
  return client
end

function Test:set(settings)
  merge(self.settings, settings)
  self:apply(settings)
end

local function new_test(kind, case)
  local settings = merge(merge({}, case.bulk and LINE or {}), case.network or {})
  return setmetatable({ kind = kind, settings = settings, clients = {} }, Test)
end

-- Both ends ---------------------------------------------------------------------------------------------------

local function run_body(t, case)
  local results = table.pack(xpcall(case.run, function(raised)
    return type(raised) == "string" and debug.traceback(raised, 2) or raised
  end, t))
  for _, client in ipairs(t.clients) do
    client:close()
  end
  return table.unpack(results, 1, results.n)
end

-- In the simulator --------------------------------------------------------------------------------------------

local function simulated(case, seed)
  local t = new_test("sim", case)
  local server_ip = case.ipv6 and "fd00::1" or "10.0.0.1"
  local function apply_to(net)
    local plain = {}
    for key, value in pairs(t.settings) do
      plain[key] = type(value) ~= "table" and value or nil
    end
    net:path(plain)
    for _, direction in ipairs { "up", "down" } do
      if t.settings[direction] then
        local from, to = direction == "down" and server_ip or nil, direction == "up" and server_ip or nil
        net:path(merge(merge({}, plain), t.settings[direction]), from, to)
      end
    end
  end
  return echo.sim.run({ seed = seed, trace = true, limit = case.limit or 60 }, function(net)
    function t.apply() apply_to(net) end
    local hosts = 0
    function t:rebind(with_address)
      for _, client in ipairs(self.clients) do
        hosts = hosts + 1
        assert(net:rebind(client, with_address and ("10.200.0.%d:0"):format(hosts) or nil))
      end
    end
    function t:gone(seconds) net:blackout(0, seconds) end -- luacheck: ignore self
    local server = echo.server(merge({ bind = (case.ipv6 and "[%s]:5000" or "%s:5000"):format(server_ip), quiet = true },
      case.server or {}))
    handlers.install(server)
    assert(server:start())
    t.address, t.pin = server.address, server.pin
    function t.lost() return net:stats().lost + net:stats().queue_dropped end
    local bytes = { up_sent = 0, up_arrived = 0, down_sent = 0, down_arrived = 0 }
    function t.traffic()
      for _, record in ipairs(net:trace()) do
        local direction = record.from == server.address and "down" or "up"
        local what = record.fate == "delivered" and "_arrived" or record.fate ~= "no_listener" and "_sent"
        if what then
          bytes[direction .. what] = bytes[direction .. what] + record.size
        end
      end
      return bytes
    end
    apply_to(net)
    local connect = t.connect
    function t.connect(self, opts)
      return connect(self, merge({ bind = case.ipv6 and "[::]:0" or nil }, opts or {}))
    end
    return run_body(t, case)
  end)
end

-- Between processes -------------------------------------------------------------------------------------------

local function real(case, seed)
  local t = new_test("real", case)
  local limit = case.limit or 60
  local dir = process.directory()
  local env = merge({ XDG_STATE_HOME = dir }, type(case.env) == "function" and case.env(dir) or case.env or {})
  local server = process.start((".ci/env lua5.4 spec/interop/server.lua %s %s"):format(case.ipv6 and "'[::1]:0'" or "127.0.0.1:0",
    process.quote(text_of(case.server or {}))), { seconds = limit + 20, env = env })
  local address, pin = server:expect "^listening on (%S+)", server:expect "^pin (%S+)"
  local proxy = impair.new(merge({ to = address, seed = seed }, t.settings))
  t.address, t.pin = case.direct and address or proxy.address, pin
  function t.apply(_, settings) proxy:set(settings) end
  function t.rebind(_, with_address)
    proxy:set { rebind_address = with_address and 1 or 0 }
    proxy:rebind()
  end
  function t.gone(_, seconds) proxy:gone(seconds) end
  function t.lost() return proxy:stats().up.lost + proxy:stats().down.lost end
  function t.traffic()
    local stats = proxy:stats()
    return { up_sent = stats.up.bytes, up_arrived = stats.up.delivered_bytes, down_sent = stats.down.bytes,
      down_arrived = stats.down.delivered_bytes }
  end
  local results
  local task = echo.spawn(function()
    results = table.pack(run_body(t, case))
  end)
  local ended, err = task:wait(limit)
  echo.sleep(0.1) -- what is still on its way through the proxy: of clients that it never hears leave, the server waits for 2 s
  proxy:close()
  server:stop()
  echo.sleep(0.001) -- luv 1.44 does not bear handles that are still closing at exit
  process.remove(dir)
  if not ended then
    return false, ("did not end within %g s: %s"):format(limit, tostring(err))
  end
  return table.unpack(results, 1, results.n)
end

--- Runs a case; `kind` is "sim" or "real". True and a text, or false and what is wrong.
function M.run(case, kind, seed)
  local results = table.pack(pcall(kind == "sim" and simulated or real, case, seed or 1))
  if not results[1] then
    return false, tostring(results[2])
  elseif not results[2] then
    return false, tostring(results[3])
  end
  return true, results[3] or ""
end

-- Is this ngtcp2 at least of version `wanted`?
local function has_version(wanted)
  local major, minor = echo.libraries.ngtcp2:match "^(%d+)%.(%d+)"
  local a, b = wanted:match "^(%d+)%.(%d+)"
  return tonumber(major) * 1000 + tonumber(minor) >= tonumber(a) * 1000 + tonumber(b)
end

--- Does the case exist for that kind, and with this library?
function M.has(case, kind)
  return (not case.only or case.only == kind) and (not case.needs or has_version(case.needs))
end

return M
