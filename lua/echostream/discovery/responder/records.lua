--- The records that a service is published by, and what is done with sets of them.

local dns_sd = require "echostream.discovery.dns_sd"
local message = require "echostream.discovery.message"

local M = {}

---@package
--- What tells records apart.
function M.key(record)
  return record.type .. "\0" .. message.key(record.name) .. "\0" .. record.rdata
end

---@package
--- Makes the records of a service, anew when it has another name.
function M.name(service)
  service.instance = dns_sd.instance(service.name, service.type)
  service.key, service.host_key = message.key(service.instance), message.key(service.host)
  service.shared, service.unique = dns_sd.records(service)
end

---@package
--- The addresses of a service's host, as this link sees them.
function M.addresses(service, link)
  local list = {}
  for _, addresses in ipairs { link.ip4, link.ip6 } do
    for _, ip in ipairs(addresses) do
      if not service.ip or service.ip == ip or service.ip == "0.0.0.0" and not ip:find ":" then
        local rdata, kind = message.pack_address(ip)
        list[#list + 1] = message.record { name = service.host, type = kind, rdata = rdata, address = ip, ttl = dns_sd.HOST_TTL,
          flush = true }
      end
    end
  end
  return list
end

---@package
--- All records of a service on a link, shared and unique ones; none where it has no address.
function M.on(service, link)
  local list = M.addresses(service, link)
  if #list == 0 then
    return {}, {}
  end
  local unique = table.move(service.unique, 1, #service.unique, 1, {})
  table.move(list, 1, #list, #unique + 1, unique)
  return service.shared, unique
end

---@package
function M.concat(a, b)
  return table.move(b, 1, #b, #a + 1, table.move(a, 1, #a, 1, {}))
end

---@package
--- Copies, each of which is changed.
function M.copies(records, change)
  local list = {}
  for i, record in ipairs(records) do
    local copy = {}
    for key, value in pairs(record) do
      copy[key] = value
    end
    change(copy)
    list[i] = copy
  end
  return list
end

-- Who was first ------------------------------------------------------------------------------------------------

-- Lua compares strings by the locale: bytes are meant here.
local function compare_bytes(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then
      return x - y
    end
  end
  return #a - #b
end

---@package
--- Records of a name in the order of section 8.2: the later set wins.
function M.sorted_set(records, key)
  local set = {}
  for _, record in ipairs(records) do
    if message.key(record.name) == key then
      set[#set + 1] = (">I2I2"):pack(record.class, record.type) .. record.rdata
    end
  end
  table.sort(set, function(a, b) return compare_bytes(a, b) < 0 end)
  return set
end

---@package
--- Below 0: the first set is the earlier one.
function M.compare_sets(a, b)
  for i = 1, math.max(#a, #b) do
    if not a[i] or not b[i] then
      return a[i] and 1 or -1
    end
    local order = compare_bytes(a[i], b[i])
    if order ~= 0 then
      return order
    end
  end
  return 0
end

return M
