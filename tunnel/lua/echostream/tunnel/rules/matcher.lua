--- Finds the first rule that matches, without walking through those that cannot: by host, and by the first segment of the path.
--- The order of the list is what counts, whatever the index is.

local M = {}

local FEW <const> = 4 -- rules of a host that are walked through without a further index

---@class echostream.tunnel.matcher
---@field rules echostream.tunnel.rule[]
local Matcher = { __name = "echostream.tunnel.matcher" }
Matcher.__index = Matcher

local function put(map, key, rule)
  local list = map[key] or {}
  map[key] = list
  if list[#list] ~= rule then
    list[#list + 1] = rule
  end
end

local function by_index(a, b)
  return a.index < b.index
end

-- Lists of rules as one, in the order of the rules, each once.
local function merged(lists)
  local seen, all = {}, {}
  for _, list in ipairs(lists) do
    for _, rule in ipairs(list) do
      if not seen[rule] then
        seen[rule] = true
        all[#all + 1] = rule
      end
    end
  end
  table.sort(all, by_index)
  return all
end

-- A list of rules, with those lists of it that each first segment of a path leaves.
local function bucket_of(rules)
  local bucket = { all = rules }
  if #rules <= FEW then
    return bucket
  end
  local by_segment, others = {}, {}
  for _, rule in ipairs(rules) do
    for segment in pairs(rule.segments or {}) do
      by_segment[segment] = {}
    end
  end
  if next(by_segment) == nil then
    return bucket
  end
  for _, rule in ipairs(rules) do
    if rule.segments then
      for segment in pairs(rule.segments) do
        put(by_segment, segment, rule)
      end
    else
      others[#others + 1] = rule
      for _, list in pairs(by_segment) do
        list[#list + 1] = rule
      end
    end
  end
  bucket.by_segment, bucket.others = by_segment, others
  return bucket
end

-- The name under which the rules of a host are kept: its own, when a rule names it; else that of the longest wildcard that fits; else "".
local function key_of(self, host)
  if self._exact[host] then
    return host, nil
  end
  local wild = self._wild
  local dot = self._has_wild and host:find(".", 1, true)
  while dot do
    local suffix = host:sub(dot + 1)
    if wild[suffix] then
      return "*." .. suffix, suffix
    end
    dot = host:find(".", dot + 1, true)
  end
  return "", nil
end

-- Makes the bucket of a host (or of a wildcard's hosts) when it is asked for first. There are no more of them than names in the rules.
local function make_bucket(self, host, key, suffix)
  local lists = { self._any }
  if self._exact[key] then
    lists[#lists + 1] = self._exact[key]
  end
  local name = suffix and "x." .. suffix or host
  local dot = key ~= "" and name:find(".", 1, true)
  while dot do
    local list = self._wild[name:sub(dot + 1)]
    if list then
      lists[#lists + 1] = list
    end
    dot = name:find(".", dot + 1, true)
  end
  local bucket = bucket_of(merged(lists))
  self._buckets[key] = bucket
  return bucket
end

--- The rules that can match a request, in order.
---@param request echostream.tunnel.request
---@return echostream.tunnel.rule[]
function Matcher:candidates(request)
  local host = request.host
  local bucket = self._buckets[host] -- a key is a host's name, or begins with "*.", which no host does
  if not bucket then
    local key, suffix = key_of(self, host)
    bucket = self._buckets[key] or make_bucket(self, host, key, suffix)
  end
  local by_segment = bucket.by_segment
  if by_segment then
    return by_segment[request.path:match "^/([^/]*)" or ""] or bucket.others
  end
  return bucket.all
end

--- Makes one of compiled rules.
---@param rules echostream.tunnel.rule[]
---@return echostream.tunnel.matcher
function M.new(rules)
  local self = { rules = rules, _exact = {}, _wild = {}, _has_wild = false, _any = {}, _buckets = {} }
  for _, rule in ipairs(rules) do
    local host = rule.host
    if not host or host.any then
      self._any[#self._any + 1] = rule
    else
      for name in pairs(host.exact) do
        put(self._exact, name, rule)
      end
      for suffix in pairs(host.wild) do
        put(self._wild, suffix, rule)
        self._has_wild = true
      end
    end
  end
  return setmetatable(self, Matcher)
end

return M
