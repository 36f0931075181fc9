--- echostream: RPC, events and streams over QUIC, with handlers that are plain Lua functions.
---
---     local echo = require "echostream"
---     local server = echo.server { bind = "127.0.0.1:5000" }
---     server:add_rpc("math.add", function(session, a, b) return a + b end, { idempotent = true })
---     server:run()

local core = require "echostream.core"
local call = require "echostream.call"
local client = require "echostream.client"
local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local server = require "echostream.server"
local task = require "echostream.task"

---@class echostream
---@field version string                the version of the package
---@field libraries table<string, string|true>  what the core runs with: the versions of ngtcp2, gnutls and lua; `qlog`: true, or
--- why the transport option of that name cannot be given
---@field null userdata                 null inside tables, where nil cannot be
---@field quic table                    raw QUIC for other protocols (loaded on first use)
---@field sim table                     simulation (loaded on first use)
---@field codec table                   MessagePack and JSON (loaded on first use)
---@field frame table                   frames of the wire protocol (loaded on first use)
---@field discovery table               finding servers: multicast DNS, SRV records, lists (loaded on first use)
---@field fleet table                 many servers behind one object (loaded on first use)
---@field resubscribe table           the plugin that subscribes again after a reconnection (loaded on first use)
---@field plugins table             the plugins that come along, by name: `echo.plugins.auth { … }` (loaded on first use)
---@field service table               protocols with versions, over streams (loaded on first use)
---@field split table                 large data over several streams at once (loaded on first use)
---@field session_cache table           where clients keep session tickets (loaded on first use)
---@field metrics table                 counters, gauges and histograms (loaded on first use)
---@field trace table                   W3C Trace Context (loaded on first use)
---@field log table                     what writes the log, and as what
---@field breaker table                 circuit breakers (loaded on first use)
---@field attach table                 prompts inside a running server (loaded on first use)
---@field repl table                   the engine of a prompt (loaded on first use)
---@field pretty table                 values as text for people (loaded on first use)
---@field jitter table                 buffers that even out when messages come (loaded on first use)
---@field backoff table                 pauses before trying again (loaded on first use)
---@field introspect table              what servers say about themselves, and pages made of it (loaded on first use)
---@field schema table                  what arguments and results have to look like (loaded on first use)
---@field doctor table                  what is wrong here or on the way to a server (loaded on first use)
---@field http table                    parts of HTTP: routes, header fields, files … (loaded on first use)
---@field retry table                   policies of retries (loaded on first use)
local M = {
  version = core.version,
  libraries = setmetatable(core.libraries, {
    __index = function(_, key)
      if key == "qlog" then
        local ok, reason = require("echostream.qlog").available()
        return ok or reason
      end
    end,
  }),
  null = core.null,
}

--- Makes a server; see server.lua for the options.
M.server = server.new

--- Makes a client that is not connected yet; see client.lua for the options.
M.client = client.new

--- Connects: `echo.client(opts)` and `:connect(addr)` in one. Of `echo.connect(echo.discovery.discover "name")` with nothing found,
--- the result is what discover said: nil, err.
---@param addr string|integer|table "127.0.0.1:5000", "example.org:5000", "[::1]:5000"; or what `echo.discovery` found
---@param opts? table  as `echo.client`
---@param callback? fun(client: echostream.client?, err: echostream.error?)
---@return echostream.client|nil client, echostream.error? err
function M.connect(addr, opts, callback)
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  if addr == nil and errors.is_error(opts) then
    return nil, opts
  elseif type(addr) == "table" then
    addr, opts = require("echostream.discovery").dial(addr, opts)
  end
  return client.new(opts):connect(addr, callback)
end

M.spawn = task.spawn
M.all = task.all
M.sleep = task.sleep

--- Waits for something that calls back: `echo.await(function(resume) start_it(resume) end, 5)` returns what `resume` was given.
M.await = task.await
M.wrap = task.wrap
M.run = task.run
M.stop = loop.stop

--- Seconds on the loop's clock: monotonic, or virtual inside a simulation.
M.now = loop.now

--- The call that the running handler serves, or nil.
M.call = call.current

--- Makes an error object: echo.error(code, message, details).
M.error = errors.new

--- Whether a value is an error object.
M.is_error = errors.is_error

--- Marks a table (a new one when none is given) as a list, so that it stays one when empty.
---@type fun(t?: table): table
M.array = core.array

--- Marks a table (a new one when none is given) as a map, also when its keys are 1 to n.
---@type fun(t?: table): table
M.map = core.map

--- Sends the log of this Lua state to a function; nil: to standard error.
M.set_log = log.set

-- Parts that are loaded when somebody uses them; none of those above needs them.
local parts = {
  quic = "echostream.quic",
  sim = "echostream.sim",
  codec = "echostream.codec",
  frame = "echostream.frame",
  service = "echostream.service",
  session_cache = "echostream.session_cache",
  split = "echostream.split",
  metrics = "echostream.metrics",
  trace = "echostream.trace",
  log = "echostream.log",
  backoff = "echostream.backoff",
  jitter = "echostream.jitter",
  retry = "echostream.retry",
  breaker = "echostream.breaker",
  fleet = "echostream.fleet",
  pretty = "echostream.pretty",
  doctor = "echostream.doctor",
  introspect = "echostream.introspect",
  schema = "echostream.schema",
  repl = "echostream.repl",
  attach = "echostream.attach",
  loop = "echostream.loop",
  discovery = "echostream.discovery",
  resubscribe = "echostream.plugins.resubscribe",
  plugins = "echostream.plugins",
  http = "echostream.http",
}

return setmetatable(M, {
  __name = "echostream",
  __methods = parts, -- for the prompt's completion, which follows what is loaded on first use as well
  __lookup = function(self, key)
    return self[key]
  end,
  __index = function(self, key)
    if parts[key] then
      local part = require(parts[key])
      rawset(self, key, part)
      return part
    end
  end,
})
