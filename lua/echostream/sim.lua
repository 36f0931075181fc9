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
--- bound to. The seed fixes the schedule and every datagram's fate.

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
  corrupt = probability(),
  delay = { type = "seconds" },
  jitter = { type = "seconds" },
  rate = { type = "number", min = 0 },
  queue = { type = "integer", min = 0 },
  mtu = { type = "integer", min = 0 },
}

local schema = { seed = { type = "integer", default = 1 }, limit = { type = "seconds" } }
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

--- Changes the paths from now on.
---@param opts echostream.options.path  every value not given has its default again
---@param from? string  IP address; nil: every one
---@param to? string
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

--- { sent, delivered, lost, duplicated, reordered, corrupted, queue_dropped, no_listener }: datagrams so far.
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
  local limit = opts.limit
  opts.limit = nil
  local rec = loop.simulated(core.sim(opts))
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
