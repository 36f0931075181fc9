--- A plugin: how many calls, events and streams somebody may begin in a second. Token buckets.
---
---     server:plugin(echo.plugins.rate_limit { rate = 10, burst = 50, per = "address" })

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local parts = require "echostream.plugins.parts"

local M = {}

---@class echostream.options.rate_limit
---@field rate number  tokens a second, in the long run; a call, an event or a stream takes one when it begins
---@field burst? number  tokens in a bucket at most, and in the beginning (default: `rate`, at least 1)
---@field per? string|string[]|fun(call: echostream.middleware.call): any  who shares a bucket: "session", "address" (IPv6: the /64),
--- "identity" (of those without one, and anonymous ones: the address), "method", "all"; a list: who has all of them in common; or a function that
--- returns a string (512 bytes of it count), number or boolean, and nil for no limit. Over HTTP "session" is the connection for those
--- without an identity (default: "session")
---@field only? string[]  names of what is limited, or beginnings and "*" (default: everything)
---@field kinds? string[]  of "rpc", "event" and "stream" (default: all three)
---@field direction? "in"|"out"  "out": our own calls (default: "in")
---@field max_buckets? integer  buckets that are remembered; of more, those that were used longest ago are forgotten, and are full
--- again (default: 10,000)
---@field name? string  of the plugin, when there are several (default: "rate_limit")

local schema = {
  rate = { type = "number", min = 0.000001, max = 1e9, required = true },
  burst = { type = "number", min = 1, max = 1e9 },
  per = { type = { "string", "strings", "function" }, default = "session" },
  only = { type = "strings" },
  kinds = { type = "strings", default = { "rpc", "event", "stream" } },
  direction = { type = "string", one_of = { "in", "out" }, default = "in" },
  max_buckets = { type = "integer", min = 2, max = 1 << 30, default = 10000 },
  name = { type = "string", default = "rate_limit" },
}

local MAX_KEY <const> = 512 -- bytes of a key that count: peers may choose it

local keys = {}

local function is_known(session)
  return parts.who(session) ~= nil and not session:get "auth.anonymous"
end

-- Over HTTP a peer gets another session for each set of credentials that it shows: those that nobody looked at must not be new buckets.
function keys.session(call)
  local session = call.session
  if session and session.door == "h3" and not is_known(session) then
    return session.peer_addr
  end
  return session and session.id or 0
end

function keys.address(call)
  return parts.address(call.session)
end

function keys.identity(call)
  local session = call.session
  if not session or not is_known(session) then
    return parts.address(session)
  end
  return "=" .. parts.who(session) -- no address begins so
end

function keys.method(call)
  return call.kind .. " " .. call.name
end

function keys.all()
  return true
end

-- What makes the key of a call.
local function key_of(per)
  if type(per) == "function" then
    return per
  end
  local makers = {}
  for i, word in ipairs(type(per) == "table" and per or { per }) do
    makers[i] = keys[word] or error(("plugins.rate_limit: option \"per\" wants session, address, identity, method or all, got %s")
      :format(errors.show(word)), 3)
  end
  if #makers == 1 then
    return makers[1]
  end
  return function(call)
    local words = {}
    for i, make in ipairs(makers) do
      local word = tostring(make(call))
      words[i] = ("%d:%s"):format(#word, word) -- nobody's name is two words
    end
    return table.concat(words)
  end
end

---@class echostream.rate_limit: echostream.plugin
---@field passed integer   so far
---@field refused integer  so far

-- The bucket of a key. There are two generations: when the young one has half of what may be remembered, it becomes the old one,
-- and what was in the old one and not used since is forgotten. So memory is bounded, and nothing has to be searched.
local function bucket_of(self, key, now)
  local bucket = self._young[key]
  if bucket then
    return bucket
  end
  bucket = self._old[key] or { tokens = self._burst, at = now }
  if self._n_young >= self._max // 2 then
    self._old, self._young, self._n_young = self._young, {}, 0
  end
  self._young[key], self._n_young = bucket, self._n_young + 1
  return bucket
end

-- Takes a token. Nil, seconds: none before that.
local function take(self, key)
  local now = loop.now()
  local bucket = bucket_of(self, key, now)
  bucket.tokens = math.min(self._burst, bucket.tokens + math.max(now - bucket.at, 0) * self._rate)
  bucket.at = now
  if bucket.tokens >= 1 then
    bucket.tokens = bucket.tokens - 1
    return true
  end
  return nil, (1 - bucket.tokens) / self._rate
end

local function install(self, host)
  host:middleware(function(call, next)
    if not self._kinds[call.kind] or self._only and not self._only(call.name) then
      return next(call)
    end
    local key = self._key(call)
    if key == nil or key ~= key then
      return next(call)
    elseif type(key) == "string" and #key > MAX_KEY then
      key = key:sub(1, MAX_KEY) .. #key
    elseif type(key) == "table" or type(key) == "function" then
      error("plugins.rate_limit: function \"per\" returned no string, number or boolean", 0)
    end
    local ok, wait = take(self, key)
    if ok then
      self.passed = self.passed + 1
      return next(call)
    end
    self.refused = self.refused + 1
    local response = call:reject("resource_exhausted", "too many: the rate is limited")
    response.err.retry_after = math.max(wait, 0.001)
    return response
  end, { direction = self._direction })
end

-- The file that installs the plugin was loaded again: nobody gets new tokens by that.
local function adopt(self, old)
  self._young, self._old, self._n_young = old._young, old._old, old._n_young
end

--- Makes the plugin. What is over the limit is refused with `resource_exhausted`, whose `retry_after` says in how many seconds there will be a
--- token again; events are dropped. The handler does not run.
---@param opts echostream.options.rate_limit
---@return echostream.rate_limit
function M.rate_limit(opts)
  local checked = options.check("plugins.rate_limit", opts, schema)
  local kinds = {}
  for _, kind in ipairs(checked.kinds) do
    if kind ~= "rpc" and kind ~= "event" and kind ~= "stream" then
      error(("plugins.rate_limit: option \"kinds\" wants rpc, event and stream, got %s"):format(errors.show(kind)), 2)
    end
    kinds[kind] = true
  end
  for _, pattern in ipairs(checked.only or {}) do
    parts.check_patterns("plugins.rate_limit", "only", { [pattern] = true }, 2)
  end
  local key = key_of(checked.per)
  return {
    name = checked.name,
    install = install,
    adopt = adopt,
    passed = 0,
    refused = 0,
    _rate = checked.rate,
    _burst = checked.burst or math.max(checked.rate, 1),
    _key = key,
    _only = checked.only and parts.one_of(checked.only),
    _kinds = kinds,
    _direction = checked.direction,
    _max = checked.max_buckets,
    _young = {}, -- by key: { tokens =, at = }
    _old = {},
    _n_young = 0,
  }
end

return M
