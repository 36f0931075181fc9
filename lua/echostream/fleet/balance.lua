--- Choosing one of several: the ways in which fleets, and handlers that share a name, spread calls.
---
--- A policy is `fn(candidates, state, key)`: the candidates are a list that is never empty, `state` is a table of the policy's own, and
--- what is chosen is one of the candidates. A candidate has `name` and `in_flight()`.

local errors = require "echostream.errors"
local loop = require "echostream.loop"

local M = {}

-- A random index.
local function any(n)
  return math.min(math.floor(loop.random() * n) + 1, n)
end

local function round_robin(candidates, state)
  state.last = (state.last or 0) + 1
  return candidates[(state.last - 1) % #candidates + 1]
end

-- The least busy; among equals, one after the other.
local function least_in_flight(candidates, state)
  state.last = (state.last or 0) + 1
  local best, least
  for i = 0, #candidates - 1 do
    local candidate = candidates[(state.last + i - 1) % #candidates + 1]
    local n = candidate:in_flight()
    if not least or n < least then
      best, least = candidate, n
    end
  end
  return best
end

-- The less busy of two that chance names: nearly as even as looking at all of them, and no herd runs to the one that was idle.
local function power_of_two(candidates)
  local n = #candidates
  if n == 1 then
    return candidates[1]
  end
  local i = any(n)
  local j = any(n - 1)
  j = j >= i and j + 1 or j
  local a, b = candidates[i], candidates[j]
  return b:in_flight() < a:in_flight() and b or a
end

-- FNV-1a, and a finish that spreads what differs in its last bytes only.
local function hash(text)
  local h = 0xcbf29ce484222325
  for i = 1, #text do
    h = (h ~ text:byte(i)) * 0x100000001b3
  end
  h = (h ~ h >> 33) * 0xff51afd7ed558ccd
  return h ~ h >> 33
end

-- Places of one candidate on the ring.
local PLACES = 160

local function ring_of(candidates)
  local ring = {}
  for _, candidate in ipairs(candidates) do
    for place = 1, PLACES do
      ring[#ring + 1] = { at = hash(candidate.name .. "#" .. place), name = candidate.name }
    end
  end
  table.sort(ring, function(a, b)
    return math.ult(a.at, b.at)
  end)
  return ring
end

-- The candidates that there are now stand on a ring, in many places each; a key belongs to the next place. When one goes, only its keys
-- move.
local function consistent_hash(candidates, state, key)
  local names, by_name = {}, {}
  for i, candidate in ipairs(candidates) do
    names[i], by_name[candidate.name] = candidate.name, candidate
  end
  table.sort(names)
  local set = table.concat(names, "\0")
  if state.set ~= set then
    state.set, state.ring = set, ring_of(candidates)
  end
  local ring, at = state.ring, hash(key == nil and tostring(any(1 << 30)) or tostring(key))
  local low, high = 1, #ring + 1
  while low < high do
    local middle = (low + high) // 2
    if math.ult(ring[middle].at, at) then
      low = middle + 1
    else
      high = middle
    end
  end
  return by_name[(ring[low] or ring[1]).name]
end

--- The policies by name.
---@type table<string, fun(candidates: table[], state: table, key: any): table>
M.policies = {
  round_robin = round_robin,
  least_in_flight = least_in_flight,
  power_of_two = power_of_two,
  consistent_hash = consistent_hash,
}

--- The names of the policies, for options.
M.names = { "round_robin", "least_in_flight", "power_of_two", "consistent_hash" }

-- A function of the user's, whose choice is looked at.
local function watched(where, fn)
  return function(candidates, state, key)
    local chosen = fn(candidates, state, key)
    for _, candidate in ipairs(candidates) do
      if rawequal(candidate, chosen) then
        return chosen
      end
    end
    error(("%s: the function that is the option \"balance\" wants to return one of its candidates, it returned %s")
      :format(where, errors.show(chosen)), 0)
  end
end

--- The policy that an option means: a name of those above, or a function of the user's.
---@param where string
---@param given string|function
---@param level? integer
---@return fun(candidates: table[], state: table, key: any): table
function M.of(where, given, level)
  if type(given) == "function" then
    return watched(where, given)
  end
  local policy = M.policies[given]
  if not policy then
    error(('%s: option "balance" wants one of %s, or a function, got %s'):format(where, table.concat(M.names, ", "), errors.show(given)),
      (level or 2) + 1)
  end
  return policy
end

return M
