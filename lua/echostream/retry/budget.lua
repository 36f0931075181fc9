--- A retry budget: a bucket of tokens that keeps retries from making an outage worse.
---
--- Every call puts `ratio` of a token into the bucket, time puts `per_second` in, and every retry takes a whole one out; without one
--- there is no retry. So in the long run there are at most `ratio` times as many retries as calls, and `per_second` beside them for
--- those who call seldom. `burst` is the most that the bucket holds, and what it begins with.

local loop = require "echostream.loop"
local options = require "echostream.options"

local M = {}

---@class echostream.options.budget
---@field ratio? number  retries for each call, in the long run (default: 0.2)
---@field per_second? number  retries per second beside that (default: 1)
---@field burst? number  tokens in the bucket at most, and in the beginning (default: 20)

---@type table<string, echostream.options.field>
M.schema = {
  ratio = { type = "number", min = 0, max = 1000, default = 0.2 },
  per_second = { type = "number", min = 0, max = 1e6, default = 1 },
  burst = { type = "number", min = 0, max = 1e6, default = 20 },
}

---@class echostream.budget
---@field tokens number  now
local Budget = { __name = "echostream.retry.budget" }
Budget.__index = Budget

---@package
--- Makes a budget, full.
---@param opts? echostream.options.budget
---@param where? string  for messages
---@return echostream.budget
function M.new(opts, where)
  local checked = options.check(where or "budget.new", opts, M.schema, 3)
  return setmetatable({
    _ratio = checked.ratio,
    _per_second = checked.per_second,
    _burst = checked.burst,
    _filled = nil, -- when `tokens` was right; the clock starts with the first question
    tokens = checked.burst,
  }, Budget)
end

---@package
--- A call is made.
function Budget:deposit()
  local tokens = self.tokens + self._ratio
  self.tokens = tokens < self._burst and tokens or self._burst
end

---@package
--- May a retry be made? Takes its token.
---@return boolean
function Budget:withdraw()
  local now = loop.now()
  local passed = now - (self._filled or now)
  self._filled = now
  if passed < 0 then -- another loop's clock, as in a simulation
    passed = 0
  end
  self.tokens = math.min(self.tokens + passed * self._per_second, self._burst)
  if self.tokens < 1 then
    return false
  end
  self.tokens = self.tokens - 1
  return true
end

return M
