--- Ways of choosing a member. Each is made of the members that may be chosen, and made anew when that set changes; choosing one does not walk
--- through all of them.
---
--- A policy has `choose(request, usable, peek)` → node | nil, and `changed(node)`, told when a node's requests in flight changed. `usable(node)`
--- says whether a node may be taken this time: the first choice mostly is. `peek`: whose turn it is does not move on.

local keys = require "echostream.tunnel.limits.keys"
local loop = require "echostream.loop"

local M = {}

---@class echostream.tunnel.node  what a group knows of a member
---@field member table
---@field id string
---@field weight number
---@field in_flight integer
---@field load number      in flight for each unit of weight
---@field seed integer     of hashes
---@field turn number      of round robin: when it is due
---@field picks integer    a counter's value when it was chosen last

-- A binary heap that knows the places of its nodes ---------------------------------------------------------------

local function sift_up(heap, before, i)
  local place, node = heap.place, heap[i]
  while i > 1 do
    local parent = i // 2
    if not before(node, heap[parent]) then
      break
    end
    heap[i] = heap[parent]
    place[heap[i]] = i
    i = parent
  end
  heap[i], place[node] = node, i
end

local function sift_down(heap, before, i)
  local place, node, n = heap.place, heap[i], #heap
  while true do
    local child = i * 2
    if child > n then
      break
    elseif child < n and before(heap[child + 1], heap[child]) then
      child = child + 1
    end
    if not before(heap[child], node) then
      break
    end
    heap[i] = heap[child]
    place[heap[i]] = i
    i = child
  end
  heap[i], place[node] = node, i
end

local function heap_of(nodes, before)
  local heap = table.move(nodes, 1, #nodes, 1, {})
  heap.place = {}
  for i, node in ipairs(heap) do
    heap.place[node] = i
  end
  for i = #heap // 2, 1, -1 do
    sift_down(heap, before, i)
  end
  return heap
end

-- The first in order that is usable, when the very first is not.
local function first_usable(nodes, before, usable)
  local best
  for _, node in ipairs(nodes) do
    if usable(node) and (not best or before(node, best)) then
      best = node
    end
  end
  return best
end

local function nothing() end

-- Round robin -----------------------------------------------------------------------------------------------------

local function is_even(nodes)
  for i = 2, #nodes do
    if nodes[i].weight ~= nodes[1].weight then
      return false
    end
  end
  return true
end

local function in_turn(nodes)
  local last = math.floor(loop.random() * #nodes) -- not every server begins with the same one
  return { changed = nothing, choose = function(_, usable, peek)
    local n = #nodes
    for i = 1, n do
      local node = nodes[(last + i - 1) % n + 1]
      if usable(node) then
        last = peek and last or (last + i) % n
        return node
      end
    end
  end }
end

local function by_turn(a, b)
  return a.turn < b.turn or a.turn == b.turn and a.picks < b.picks
end

-- Weights are kept by due times: who is chosen is due again after 1 / weight. So turns are spread evenly, too: a a b a, not a a a b.
local function round_robin(nodes)
  if is_even(nodes) then
    return in_turn(nodes)
  end
  for _, node in ipairs(nodes) do
    node.turn = 1 / node.weight
  end
  local heap, picks = heap_of(nodes, by_turn), 0
  return { changed = nothing, choose = function(_, usable, peek)
    local due = heap[1]
    local node = usable(due) and due or first_usable(nodes, by_turn, usable)
    if node and not peek then
      picks = picks + 1
      -- Turns that were missed while it was not usable are not made up for.
      node.turn, node.picks = math.max(node.turn, due.turn) + 1 / node.weight, picks
      sift_down(heap, by_turn, heap.place[node])
    end
    return node
  end }
end

-- The least busy --------------------------------------------------------------------------------------------------

local function by_load(a, b)
  return a.load < b.load or a.load == b.load and a.picks < b.picks
end

local function least_in_flight(nodes)
  local heap, picks = heap_of(nodes, by_load), 0
  return { choose = function(_, usable, peek)
    local node = usable(heap[1]) and heap[1] or first_usable(nodes, by_load, usable)
    if node and not peek then
      picks = picks + 1
      node.picks = picks -- among equals, one after the other
      sift_down(heap, by_load, heap.place[node])
    end
    return node
  end, changed = function(node)
    if heap.place[node] then
      sift_up(heap, by_load, heap.place[node])
      sift_down(heap, by_load, heap.place[node])
    end
  end }
end

-- By chance -------------------------------------------------------------------------------------------------------

-- fn() -> a node, each as often as its weight says.
local function draw(nodes)
  local n = #nodes
  if is_even(nodes) then
    return function()
      return nodes[math.min(math.floor(loop.random() * n) + 1, n)]
    end
  end
  local sums, sum = {}, 0
  for i, node in ipairs(nodes) do
    sum = sum + node.weight
    sums[i] = sum
  end
  return function()
    local x = loop.random() * sum
    local low, high = 1, n
    while low < high do
      local middle = (low + high) // 2
      if sums[middle] > x then
        high = middle
      else
        low = middle + 1
      end
    end
    return nodes[low]
  end
end

-- One of those that are usable, when chance named none.
local function any_usable(nodes, usable)
  local from = math.floor(loop.random() * #nodes)
  for i = 1, #nodes do
    local node = nodes[(from + i - 1) % #nodes + 1]
    if usable(node) then
      return node
    end
  end
end

local function random(nodes)
  local one = draw(nodes)
  return { changed = nothing, choose = function(_, usable)
    local node = one()
    return usable(node) and node or any_usable(nodes, usable)
  end }
end

-- The less busy of two that chance names: nearly as even as looking at all, and no herd runs to the one that was idle.
local function two_choices(nodes)
  local one = draw(nodes)
  return { changed = nothing, choose = function(_, usable)
    local a, b = one(), one()
    if a == b and #nodes > 1 then
      b = one()
    end
    a, b = usable(a) and a or nil, usable(b) and b or nil
    if a and b then
      return b.load < a.load and b or a
    end
    return a or b or any_usable(nodes, usable)
  end }
end

-- By hash ---------------------------------------------------------------------------------------------------------

local SLOTS <const> = 16384

local function mix(h)
  h = (h ~ h >> 33) * 0xff51afd7ed558ccd
  h = (h ~ h >> 33) * 0xc4ceb9fe1a85ec53
  return h ~ h >> 33
end

--- A number of a text (FNV-1a, finished).
---@param text string
---@return integer
function M.hash(text)
  local h = 0xcbf29ce484222325
  for i = 1, #text do
    h = (h ~ text:byte(i)) * 0x100000001b3
  end
  return mix(h)
end
local hash = M.hash

-- Rendezvous hashing with weights: the node with the highest score of a slot has it. When a node goes, only its slots move; when one comes, only
-- those that it gets.
local function best_of(nodes, slot, usable)
  local best, highest
  for _, node in ipairs(nodes) do
    if not usable or usable(node) then
      local u = ((mix(node.seed ~ slot * 0x9e3779b97f4a7c15) >> 12) + 0.5) / (1 << 52) -- (0, 1)
      local score = -node.weight / math.log(u)
      if not best or score > highest then
        best, highest = node, score
      end
    end
  end
  return best
end

-- Keys share slots, whose nodes are found out when they are asked for first.
local function by_hash(nodes, key_of)
  local owners = {}
  return { changed = nothing, choose = function(request, usable)
    local slot = hash(key_of(request) or "") % SLOTS
    local node = owners[slot]
    if not node then
      node = best_of(nodes, slot)
      owners[slot] = node
    end
    return usable(node) and node or best_of(nodes, slot, usable)
  end }
end

local makers = {
  round_robin = round_robin,
  least_in_flight = least_in_flight,
  random = random,
  two_choices = two_choices,
  hash = by_hash,
}

--- The names of the policies.
M.names = { "round_robin", "least_in_flight", "two_choices", "random", "hash" }

--- Makes a policy of nodes, at least one.
---@param name string
---@param nodes echostream.tunnel.node[]
---@param key_of? fun(request: echostream.tunnel.request): string?  of "hash"; default: the visitor's address
---@return { choose: fun(request: table, usable: fun(node: table): boolean, peek: boolean?): table?, changed: fun(node: table) }
function M.new(name, nodes, key_of)
  return makers[name](nodes, key_of or function(request)
    return keys.address(request.client_ip or "")
  end)
end

return M
