--- A list that somebody wrote down, by the interface of the other ways to find servers.

local address = require "echostream.address"
local browser = require "echostream.discovery.browser"
local errors = require "echostream.errors"

local M = {}

local function entry_of(given, i)
  if type(given) == "string" or math.type(given) == "integer" then
    given = { address = given }
  elseif type(given) ~= "table" then
    error(("discovery.static: [%d] wants an address or a table, got %s"):format(i, errors.show(given)), 0)
  end
  local addresses = given.addresses or { given.address }
  for _, one in ipairs(addresses) do
    local _, port = address.parse("discovery.static", one, "127.0.0.1")
    if port == 0 then
      error(("discovery.static: [%d] has port 0"):format(i), 0)
    end
  end
  if not addresses[1] then
    error(("discovery.static: [%d] has no address"):format(i), 0)
  end
  return { name = given.name or tostring(addresses[1]), address = tostring(addresses[1]), addresses = addresses,
    properties = given.properties or {}, type = given.type }
end

--- A source of what is in the list. Raises (without a position) when something in it is no address.
---@param list (string|integer|table)[]
---@return table source
function M.new(list)
  local entries = {}
  for i, given in ipairs(list) do
    entries[i] = entry_of(given, i)
  end
  local Source = {}
  function Source.browse(_, what, callbacks)
    return browser.new(callbacks, function(found)
      for i, entry in ipairs(entries) do
        if not entry.type or not what.type or entry.type == what.type then
          found:set(tostring(i), entry)
        end
      end
      found:fail(errors.new("not_found", "it is not in the list")) -- what is not there now will never be
      return function() end
    end)
  end
  return Source
end

return M
