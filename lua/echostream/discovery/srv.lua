--- Servers that a domain names by SRV records (RFC 2782): `_echostream._udp.example.org`. Asked for again when their TTL is over.

local address = require "echostream.address"
local browser = require "echostream.discovery.browser"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"
local resolver = require "echostream.discovery.resolver"
local task = require "echostream.task"

local M = {}

local TYPE = message.TYPE

-- Seconds between questions at least and at most, and after a failure.
local REFRESH_MIN, REFRESH_MAX, RETRY = 5, 3600, 15
local MAX_SERVERS = 256

--- The order in which servers are to be tried: lower priorities first, and within one by chance in proportion to the weights.
---@param records { priority: integer, weight: integer }[]
---@param random fun(): number
---@return table[] records
function M.order(records, random)
  local left = table.move(records, 1, #records, 1, {})
  table.sort(left, function(a, b)
    if a.priority ~= b.priority then
      return a.priority < b.priority
    end
    return a.weight < b.weight -- those of weight 0 first, so that they have a small chance
  end)
  local ordered = {}
  while left[1] do
    local total, last = 0, 0
    while left[last + 1] and left[last + 1].priority == left[1].priority do
      last = last + 1
      total = total + left[last].weight
    end
    local pick, at = math.floor(random() * (total + 1)), 1
    local sum = left[1].weight
    while sum < pick and at < last do
      at = at + 1
      sum = sum + left[at].weight
    end
    ordered[#ordered + 1] = table.remove(left, at)
  end
  return ordered
end

-- The servers of a domain in order, and the seconds for which that is so; or nil, err.
local function look_up(name, servers)
  local packet, err = resolver.query(name, TYPE.SRV, servers)
  if not packet then
    return nil, err
  end
  local records, ips, ttl = {}, {}, REFRESH_MAX
  for _, list in ipairs { packet.answers, packet.additionals } do
    for _, record in ipairs(list) do
      local key = message.key(record.name)
      if record.type == TYPE.SRV and list == packet.answers and #records < MAX_SERVERS then
        records[#records + 1], ttl = record, math.min(ttl, record.ttl)
      elseif record.address then
        ips[key] = ips[key] or {}
        table.insert(ips[key], record.address)
      end
    end
  end
  local found = {}
  for _, record in ipairs(M.order(records, loop.random)) do
    if record.target ~= "" and record.port > 0 then -- "." as the target: expressly not there
      local host = record.target
      local addresses = {}
      for i, ip in ipairs(ips[message.key(host)] or {}) do
        addresses[i] = address.join(ip, record.port)
      end
      if not addresses[1] then
        addresses[1] = address.join(host, record.port) -- whoever connects resolves it
      end
      table.sort(addresses, function(a, b) return (a:find "^%[" and 1 or 0) < (b:find "^%[" and 1 or 0) end)
      found[#found + 1] = { name = ("%s:%d"):format(host, record.port), address = addresses[1], addresses = addresses, properties = {},
        host = host, port = record.port, priority = record.priority, weight = record.weight, rank = #found + 1 }
    end
  end
  if not found[1] then
    return nil, errors.new("not_found", ("%s names no server"):format(name))
  end
  return found, math.max(ttl, REFRESH_MIN)
end

local function same(a, b)
  return table.concat(a.addresses, " ") == table.concat(b.addresses, " ") and a.priority == b.priority and a.weight == b.weight
end

local function watch(target, name, servers, known)
  while true do
    local found, rest = look_up(name, servers)
    if found then
      local there = {}
      for _, entry in ipairs(found) do
        there[entry.name] = true
        if not known[entry.name] or not same(known[entry.name], entry) then
          known[entry.name] = entry
          target:set(entry.name, entry)
        end
      end
      for key in pairs(known) do
        if not there[key] then
          known[key] = nil
          target:unset(key)
        end
      end
      target:fail(nil)
    elseif rest.code == "cancelled" then
      return
    else
      target:fail(rest)
    end
    if not task.sleep(found and rest or RETRY) then
      return
    end
  end
end

--- A source of a domain's servers.
---@param domain string
---@param type string  "_echostream._udp"
---@param servers? { [1]: string, [2]: integer }[]  name servers; default: the system's
---@return table source
function M.new(domain, type, servers)
  local name = type .. "." .. domain:gsub("%.$", "")
  local Source = {}
  function Source.browse(_, _, callbacks)
    return browser.new(callbacks, function(target)
      local running = task.spawn(watch, target, name, servers, {})
      return function()
        running:cancel()
      end
    end)
  end
  --- All of them at once, in the order of RFC 2782. In a task.
  function Source.look_up()
    local found, err = look_up(name, servers)
    return found, not found and err or nil
  end
  return Source
end

return M
