--- Token buckets by key, of which no more than so many are remembered.

local M = {}

---@class echostream.tunnel.buckets
local Buckets = { __name = "echostream.tunnel.buckets" }
Buckets.__index = Buckets

-- There are two generations: when the young one has half of what may be remembered, it becomes the old one, and what was in the old one and not
-- used since is forgotten, and thereby full again. So memory is bounded, and nothing has to be searched.
local function bucket_of(self, key, burst, now)
  local bucket = self._young[key]
  if bucket then
    return bucket
  end
  bucket = self._old[key] or { tokens = burst, at = now }
  if self._n >= self._half then
    self._old, self._young, self._n = self._young, {}, 0
  end
  self._young[key], self._n = bucket, self._n + 1
  return bucket
end

-- With what came since.
local function filled(self, key, rate, burst, now)
  local bucket = bucket_of(self, key, burst, now)
  if now > bucket.at then
    local tokens = bucket.tokens + (now - bucket.at) * rate
    bucket.tokens = tokens < burst and tokens or burst
    bucket.at = now
  end
  return bucket
end

--- Takes a token.
---@param key string
---@param rate number   tokens a second
---@param burst number  tokens at most
---@param now number    seconds
---@return true? ok, number? wait  seconds until there is one again
function Buckets:take(key, rate, burst, now)
  local bucket = filled(self, key, rate, burst, now)
  if bucket.tokens >= 1 then
    bucket.tokens = bucket.tokens - 1
    return true
  end
  return nil, (1 - bucket.tokens) / rate
end

--- Takes n tokens, also of those that are yet to come.
---@param key string
---@param n number
---@param rate number
---@param burst number
---@param now number
---@return number wait  seconds until the debt is paid; 0: there is none
function Buckets:spend(key, n, rate, burst, now)
  local bucket = filled(self, key, rate, burst, now)
  bucket.tokens = bucket.tokens - n
  return bucket.tokens < 0 and -bucket.tokens / rate or 0
end

--- How many tokens a key has, without taking any.
---@param key string
---@param rate number
---@param burst number
---@param now number
---@return number
function Buckets:level(key, rate, burst, now)
  local bucket = self._young[key] or self._old[key]
  return bucket and math.min(burst, bucket.tokens + math.max(now - bucket.at, 0) * rate) or burst
end

---@param max integer  keys that are remembered
---@return echostream.tunnel.buckets
function M.new(max)
  return setmetatable({ _young = {}, _old = {}, _n = 0, _half = math.max(1, max // 2) }, Buckets)
end

return M
