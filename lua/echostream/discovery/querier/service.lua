--- What the records that were heard say of a service: where it is reached, and its properties.

local address = require "echostream.address"
local dns_sd = require "echostream.discovery.dns_sd"
local message = require "echostream.discovery.message"

local M = {}

local TYPE = message.TYPE

local function order_of(ip)
  return (ip:find "^127%." or ip == "::1") and 4 or not ip:find ":" and 1 or ip:find "^fe8" and 3 or 2
end

-- The addresses under which a service is reached, best first.
local function addresses_of(cache, srv_entries)
  local list, seen = {}, {}
  for _, srv in ipairs(srv_entries) do
    local key = message.key(srv.record.target)
    for _, kind in ipairs { TYPE.A, TYPE.AAAA } do
      for _, entry in ipairs(cache:entries(kind, key)) do
        local ip = entry.record.address
        local order = order_of(ip)
        local full = address.join(order == 3 and ip .. "%" .. entry.link.name or ip, srv.record.port)
        if not seen[full] and srv.record.port > 0 then
          seen[full] = true
          list[#list + 1] = { order, full }
        end
      end
    end
  end
  table.sort(list, function(a, b)
    if a[1] ~= b[1] then
      return a[1] < b[1]
    end
    return a[2] < b[2]
  end)
  for i, entry in ipairs(list) do
    list[i] = entry[2]
  end
  return list
end

--- What is known of a service; nil while it is too little.
---@param cache echostream.discovery.cache
---@param service table
---@return echostream.discovery.found|nil found
---@return string? signature  another one when something is different
function M.describe(cache, service)
  local srv, txt = cache:entries(TYPE.SRV, service.key), cache:entries(TYPE.TXT, service.key)
  if not srv[1] or not txt[1] then
    return nil
  end
  local addresses = addresses_of(cache, srv)
  if not addresses[1] then
    return nil
  end
  local newest = txt[1]
  for _, entry in ipairs(txt) do
    newest = entry.born > newest.born and entry or newest
  end
  return {
    name = service.name, type = service.type, address = addresses[1], addresses = addresses,
    properties = dns_sd.properties_of(newest.record.strings), host = srv[1].record.target, port = srv[1].record.port,
  }, table.concat(addresses, " ") .. "\0" .. newest.record.rdata
end

return M
