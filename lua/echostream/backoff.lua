--- Pauses before trying again: they grow exponentially up to a cap, and are spread at random, so that those who failed together do not
--- come back together. Whoever here tries something again asks this: retries, clients that come back, the pools of fleets.
---
---     local pauses = echo.backoff.new { first = 0.1, cap = 5 }
---     repeat
---       local ok = attempt()
---     until ok or not echo.sleep(pauses:next())

local loop = require "echostream.loop"
local options = require "echostream.options"

local M = {}

---@class echostream.options.backoff  of `echo.backoff.new`
---@field first? number  seconds: the first pause is at most so long (default: 0.1)
---@field factor? number  each further one is at most so many times longer (default: 2)
---@field cap? number  seconds: none is longer (default: 5)
---@field jitter? number  0 to 1: the part of a pause that is random; 1: anything from nothing to the whole of it (default: 1)
---@field stable? number  seconds that it has to work before pauses are short again (default: twice `first`)
---@field random? fun(): number  0 to 1 (default: at random; in a simulation by its seed)

---@package
--- Fields of the options. `reconnect` and `retry` have their own, with their own defaults.
---@type table<string, echostream.options.field>
M.schema = {
  first = { type = "seconds", max = 1e6, default = 0.1 },
  factor = { type = "number", min = 1, max = 100, default = 2 },
  cap = { type = "seconds", max = 1e6, default = 5 },
  jitter = { type = "number", min = 0, max = 1, default = 1 },
  stable = { type = "seconds" },
  random = { type = "function" },
}

-- Growth beyond this is beyond every cap, and no number is infinite.
local STEPS <const> = 64

---@package
--- The pause before the nth further attempt, from 1: of something that counts its attempts itself.
---@param opts table  first, factor, cap, jitter, random?
---@param n integer
---@return number seconds
function M.pause(opts, n)
  local longest = math.min(opts.cap, opts.first * opts.factor ^ math.min(n - 1, STEPS))
  return longest * (1 - opts.jitter * (opts.random or loop.random)())
end

---@class echostream.backoff
---@field attempts integer  pauses since the beginning, or since it last worked
local Backoff = { __name = "echostream.backoff" }
Backoff.__index = Backoff

---@package
--- As `new`, of options that were checked.
---@param opts table
---@return echostream.backoff
function M.of(opts)
  return setmetatable({ attempts = 0, _opts = opts }, Backoff)
end

--- Makes one that has seen no failure.
---@param opts? echostream.options.backoff
---@return echostream.backoff
function M.new(opts)
  return M.of(options.check("backoff.new", opts, M.schema))
end

--- It failed: how long to wait before the next attempt.
---@return number seconds
function Backoff:next()
  self.attempts = self.attempts + 1
  return M.pause(self._opts, self.attempts)
end

--- It worked, for so long: when that was more than `stable`, or twice the first pause, the next one is short again. What works only for a
--- moment, again and again, did not. (To ask for as long a time as the last pause was would keep a client far behind whose server restarts often.)
---@param seconds? number  default: long enough
---@return boolean worked  whether it counts as that
function Backoff:worked(seconds)
  if seconds ~= nil then
    options.argument("backoff:worked", "seconds", seconds, "number")
  end
  local long_enough = seconds == nil or seconds > (self._opts.stable or 2 * self._opts.first)
  if long_enough then
    self.attempts = 0
  end
  return long_enough
end

return M
