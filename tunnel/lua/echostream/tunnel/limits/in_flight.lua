--- What is in flight: requests and bytes, counted for everybody, for each group, rule and visitor, and given back exactly.

local errors = require "echostream.tunnel.errors"

local M = {}

---@class echostream.tunnel.counts  by key; a key is there only while something of it is in flight
---@field requests integer
---@field bytes integer

---@class echostream.tunnel.in_flight
local Counters = { __name = "echostream.tunnel.in_flight" }
Counters.__index = Counters

local none = { requests = 0, bytes = 0 }

--- What a key has in flight.
---@param key string
---@return { requests: integer, bytes: integer }
function Counters:of(key)
  return self._by_key[key] or none
end

--- Begins a request that counts for several keys, or for none of them.
---@param wanted { key: string, name: string, requests: integer?, bytes: integer? }[]  name: for the error, such as "visitor"
---@param retry_after number
---@return table? taken, echostream.error? err  503 that names the limit; `taken` for `add` and `give`
function Counters:take(wanted, retry_after)
  local by_key = self._by_key
  for i = 1, #wanted do
    local want = wanted[i]
    local counts = by_key[want.key]
    local over = counts and (want.requests and counts.requests >= want.requests and "requests" or want.bytes and counts.bytes >= want.bytes
      and "bytes")
    if over then
      local limit = want.name .. " " .. over
      return nil, errors.new(503, ("too many %s in flight: %s"):format(over, limit), { limit = limit, retry_after = retry_after })
    end
  end
  for i = 1, #wanted do
    local key = wanted[i].key
    local counts = by_key[key]
    if counts then
      counts.requests = counts.requests + 1
    else
      by_key[key] = { requests = 1, bytes = 0 }
    end
  end
  return wanted
end

--- Counts bytes that came into flight, or left it.
---@param taken table
---@param n integer
---@param retry_after number
---@return true? ok, echostream.error? err  503 that names the limit: nothing was counted
function Counters:add(taken, n, retry_after)
  if n > 0 then
    for i = 1, #taken do
      local want = taken[i]
      if want.bytes and self._by_key[want.key].bytes + n > want.bytes then
        local limit = want.name .. " bytes"
        return nil, errors.new(503, "too many bytes in flight: " .. limit, { limit = limit, retry_after = retry_after })
      end
    end
  end
  for i = 1, #taken do
    local counts = self._by_key[taken[i].key]
    counts.bytes = counts.bytes + n
  end
  return true
end

--- Ends a request. To be called once.
---@param taken table
---@param bytes integer  of it that are in flight still
function Counters:give(taken, bytes)
  for i = 1, #taken do
    local key = taken[i].key
    local counts = self._by_key[key]
    counts.requests, counts.bytes = counts.requests - 1, counts.bytes - bytes
    if counts.requests == 0 then
      self._by_key[key] = nil
    end
  end
end

---@return echostream.tunnel.in_flight
function M.new()
  return setmetatable({ _by_key = {} }, Counters)
end

return M
