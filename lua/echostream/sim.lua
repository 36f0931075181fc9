--- Simulation: the same servers and clients over a network that exists in memory, on a clock that jumps.
---
---     local sim = require "echostream.sim"
---     sim.run({ seed = 42, loss = 0.05 }, function(net)
---       local server = assert(echo.server{ bind = "10.0.0.1:5000" }:start())
---       local client = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
---       print(client:request("math.add", 1, 2), net:now())
---     end)
---
--- Addresses are names only: any IP will do, nothing leaves the process. A server is reached under the very address it is
--- bound to. The seed fixes the schedule and every datagram's fate: the same seed and the same code give the same trace.

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"

local M = {}

local function probability()
  return { type = "number", min = 0, max = 1 }
end

local path_schema = {
  loss = probability(),
  burst = { type = "integer", min = 1 },
  duplicate = probability(),
  reorder = probability(),
  burst_enter = probability(),
  burst_leave = probability(),
  burst_loss = probability(),
  corrupt = probability(),
  corrupt_span = { type = "integer", min = 0, max = 65535 },
  delay = { type = "seconds" },
  jitter = { type = "seconds" },
  rate = { type = "number", min = 0 },
  queue = { type = "integer", min = 0 },
  queue_bytes = { type = "integer", min = 0 },
  mark = { type = "integer", min = 0 },
  bleach = { type = "boolean" },
  mtu = { type = "integer", min = 0, max = 65535 },
  on = { type = "seconds" },
  off = { type = "seconds" },
}

local schema = {
  seed = { type = "integer", default = 1 },
  limit = { type = "seconds" },
  trace = { type = { "boolean", "string" } },
}
for name, field in pairs(path_schema) do
  schema[name] = field
end

---@class echostream.sim.net
local Net = {}
Net.__index = Net
Net.__name = "echostream.sim.net"

--- Seconds of virtual time since the simulation began.
---@return number
function Net:now()
  return self._rec.core:now() - self._began
end

--- Changes the paths from now on: all of them, or one direction. The last call that speaks of a path counts.
---@param opts echostream.options.path  every value not given has its default again
---@param from? string  IP address of who sends; nil: everybody
---@param to? string    IP address of who receives; nil: everybody
---@return echostream.sim.net self
function Net:path(opts, from, to)
  self._rec.core:path(options.check("net:path", opts, path_schema), from, to)
  return self
end

--- Nothing passes for a while.
---@param after number     seconds from now
---@param duration number  seconds
---@return echostream.sim.net self
function Net:blackout(after, duration)
  options.argument("net:blackout", "after", after, "seconds")
  options.argument("net:blackout", "duration", duration, "seconds")
  self._rec.core:blackout(after, duration)
  return self
end

--- Gives a server or client a wall clock that is wrong, from now on: its clock probes, the times it stamps. Everything else has the right time,
--- and timers go by another clock.
---@param what echostream.client|echostream.server
---@param ahead number   seconds by which it is ahead now; below 0: behind
---@param drift? number  seconds that it gains in each second: 0.00005 is 50 ppm (0)
---@return echostream.sim.net self
function Net:skew(what, ahead, drift)
  options.argument("net:skew", "host", what, "table")
  options.argument("net:skew", "ahead", ahead, "number")
  if drift ~= nil then
    options.argument("net:skew", "drift", drift, "number")
  end
  if what._rec ~= self._rec or not what._host then
    error("net:skew: wants a server or client of this simulation", 2)
  end
  what._host:skew(ahead, drift)
  return self
end

local function endpoint_of(self, what)
  if type(what) == "table" then
    return what._endpoint
  end
  for endpoint in pairs(self._rec.endpoints) do
    if endpoint:address() == what then
      return endpoint
    end
  end
end

--- Gives a host another address, as a NAT does: it is told nothing, and what it sends from now on comes from there. What is
--- still under way to the old address finds nobody.
---@param what echostream.client|echostream.server|echostream.quic.listener|string  or the address it is bound to
---@param addr? string  "10.9.9.9:4000"; port 0: any that is free; nil: another port of the same IP address
---@return true|nil ok, echostream.error? err  `not_found`: it is not connected, or not of this simulation; `already_exists`
function Net:rebind(what, addr)
  options.argument("net:rebind", "host", what, { "table", "string" })
  if addr ~= nil then
    options.argument("net:rebind", "address", addr, "string")
  end
  local endpoint = endpoint_of(self, what)
  if not endpoint then
    return nil, errors.new("not_found", "no endpoint of this simulation: " .. errors.show(what))
  end
  return self._rec.core:sim_move(endpoint, addr)
end

---@class echostream.sim.record  what happened to a datagram, at one end of its way
---@field time number      virtual seconds since the simulation began
---@field number integer   of the datagram, from 1, in the order of sending; a second copy has its original's
---@field from string      address and port
---@field to string
---@field size integer     bytes of UDP payload
---@field fate string      what became of it, see below
---@field corrupted? boolean  a byte was changed
---@field marked? boolean  the queue was so long that it is marked CE (ECN)

--- What happened to every datagram since the last call, with the option `trace = true`. A trace that goes into a file is
--- written out. Fates where a datagram is sent: `sent`, `duplicated` (there is a second copy too), `lost` (by chance), `dark` (in
--- a blackout), `too_large`, `queue_dropped`. Where it ends: `delivered`, `no_listener`, `dark`. In a file a line has time,
--- number, from, to, size and fate, and `corrupted` or `marked` where it is so, with tabs between.
---@return echostream.sim.record[]
function Net:trace()
  return self._rec.core:sim_records() or {}
end

--- { sent, delivered, lost, duplicated, reordered, corrupted, marked, queue_dropped, no_listener }: datagrams so far. `lost`
--- counts those by chance, in a blackout and over the `mtu`.
---@return table<string, integer>
function Net:stats()
  return self._rec.core:sim_stats()
end

local function traced(raised)
  if type(raised) == "string" then
    return debug.traceback(raised, 2)
  end
  return raised
end

--- Runs `fn(net)` as a task of a new simulation and returns its results. Servers and clients made inside live in it; waiting
--- costs no real time. What `fn` raises is raised here. Afterwards everything in the simulation is closed.
---@param opts? echostream.options.sim
---@param fn fun(net: echostream.sim.net): any ...
---@return any ...
function M.run(opts, fn)
  if type(opts) == "function" and fn == nil then
    opts, fn = nil, opts
  end
  opts = options.check("sim.run", opts, schema)
  options.argument("sim.run", "function", fn, "function")
  local limit, trace = opts.limit, opts.trace
  opts.limit, opts.trace = nil, nil
  local simulated = core.sim(opts)
  if trace then
    simulated:sim_trace(type(trace) == "string" and trace or nil)
  end
  local rec = loop.simulated(simulated)
  rec.seed = opts.seed
  local net = setmetatable({ _rec = rec, _began = rec.core:now() }, Net)
  local results
  local ok, err = pcall(loop.with, rec, function()
    local over = false
    local task = core.spawn(rec.core, function()
      results = table.pack(xpcall(fn, traced, net))
    end)
    task:on_end(function()
      over = true
    end)
    if limit then
      rec.core:timer(limit, function()
        if not over then
          results = results or table.pack(false, errors.new("timeout",
            ("the simulation did not end within %g virtual seconds"):format(limit)))
          over = true
        end
      end)
    end
    local ended, problem = loop.pump(function()
      return over
    end)
    if not ended then
      error(problem, 0)
    end
  end)
  pcall(rec.core.close, rec.core)
  if not ok then
    error(err, 0)
  elseif not results then
    error(errors.new("cancelled", "the simulation's function was cancelled"), 0)
  elseif not results[1] then
    error(results[2], 0)
  end
  return table.unpack(results, 2, results.n)
end

return M
