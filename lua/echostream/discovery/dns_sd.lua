--- DNS-based service discovery (RFC 6763): names of services and their records, and the key=value strings of TXT records.

local errors = require "echostream.errors"
local message = require "echostream.discovery.message"

local M = {}

local TYPE = message.TYPE

--- Seconds that others keep what has a host's name or address in it, and the rest (RFC 6762, section 10).
M.HOST_TTL, M.OTHER_TTL = 120, 4500

--- The type of service when none is said.
M.DEFAULT = "_echostream._udp"

-- Everything in a TXT record together; answers should fit into one packet of an Ethernet.
local MAX_TXT = 1000

--- The type of a service, in full: nil and "echostream" give "_echostream._udp", "chat" "_chat._udp"; "_ipp._tcp" stays. Raises
--- without a position when it is none.
---@param where string  for the message
---@param type? string
---@return string
function M.type_of(where, type)
  if type == nil then
    return M.DEFAULT
  end
  local full = type:gsub("%.local%.?$", "")
  if not full:find "^_" then
    full = "_" .. full .. "._udp"
  end
  local name = full:match "^_([%w-]+)%._[ut][dc]p$"
  -- RFC 6335, section 5.1
  if not name or #name > 15 or not name:find "%a" or name:find "^%-" or name:find "%-$" or name:find "%-%-" then
    error(('%s: %s is no type of service: write "chat" or "_chat._udp", with at most 15 letters, digits and hyphens'):format(where,
      errors.show(type)), 0)
  end
  return full
end

--- Whether a word is the type of a service, and not a service's name.
---@param word string
---@return boolean
function M.is_type(word)
  return word:find "^_[%w-]+%._[ut][dc]p" ~= nil
end

--- The next name after one that is taken: "printer" -> "printer (2)" -> "printer (3)". At most 63 bytes of whole characters.
---@param name string
---@return string
function M.next_name(name)
  local base, number = name:match "^(.*) %((%d+)%)$"
  local suffix = (" (%d)"):format(base and #number < 10 and tonumber(number) + 1 or 2)
  return M.cut(base and #number < 10 and base or name, 63 - #suffix) .. suffix
end

--- The first bytes of a text, without cutting a UTF-8 character in two.
---@param text string
---@param most integer
---@return string
function M.cut(text, most)
  if #text <= most then
    return text
  end
  while most > 0 and text:byte(most + 1) & 0xC0 == 0x80 do
    most = most - 1
  end
  return text:sub(1, most)
end

--- Properties as the strings of a TXT record: `true` is a key without a value. Raises without a position when they cannot be sent.
---@param where string
---@param properties table<string, string|number|boolean>
---@return string[]
function M.strings_of(where, properties)
  local strings, total = {}, 0
  for key, value in pairs(properties) do
    if type(key) ~= "string" or key == "" or key:find "[^ -~]" or key:find "=" then
      error(("%s: a property's name is printable ASCII without \"=\", got %s"):format(where, errors.show(key)), 0)
    end
    local kind = type(value)
    if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
      error(("%s: property %s wants a string, a number or true, got %s"):format(where, errors.show(key), errors.show(value)), 0)
    end
    if value ~= false then
      local text = value == true and key or key .. "=" .. tostring(value)
      if #text > 255 then
        error(("%s: property %s is longer than the 255 bytes of a TXT string"):format(where, errors.show(key)), 0)
      end
      strings[#strings + 1], total = text, total + #text + 1
    end
  end
  if total > MAX_TXT then
    error(("%s: the properties have %d bytes together, %d are the most"):format(where, total, MAX_TXT), 0)
  end
  table.sort(strings)
  return strings
end

--- The properties in the strings of a TXT record. The first of several with one name counts (RFC 6763, section 6.4); names are in
--- lower case.
---@param strings string[]?
---@return table<string, string|true>
function M.properties_of(strings)
  local properties = {}
  for _, text in ipairs(strings or {}) do
    local key, value = text:match "^([^=]+)=(.*)$"
    key = (key or not text:find "=" and text or ""):lower()
    if key ~= "" and properties[key] == nil then
      properties[key] = value or true
    end
  end
  return properties
end

--- The full name of an instance.
---@param name string  any UTF-8
---@param type string
---@return string
function M.instance(name, type)
  return message.escape(name) .. "." .. type .. ".local"
end

--- The name that people see, of an instance of a type; nil when it is none of it.
---@param instance string
---@param type string
---@return string?
function M.name_of(instance, type)
  local suffix = message.key("." .. type .. ".local")
  if message.key(instance:sub(-#suffix)) ~= suffix then
    return nil
  end
  local labels = message.labels(instance:sub(1, -#suffix - 1))
  return #labels == 1 and labels[1] or nil
end

--- The records of a service but those of its host's addresses: shared ones, and those that only it may have.
---@param service { name: string, type: string, subtypes: string[], host: string, port: integer, strings: string[] }
---@return echostream.dns.record[] shared, echostream.dns.record[] unique
function M.records(service)
  local instance, full = M.instance(service.name, service.type), service.type .. ".local"
  local shared = {
    message.record { name = full, type = TYPE.PTR, ttl = M.OTHER_TTL, target = instance },
    message.record { name = "_services._dns-sd._udp.local", type = TYPE.PTR, ttl = M.OTHER_TTL, target = full, meta = true },
  }
  for _, subtype in ipairs(service.subtypes) do
    shared[#shared + 1] = message.record { name = M.subtype(subtype, service.type), type = TYPE.PTR, ttl = M.OTHER_TTL,
      target = instance }
  end
  return shared, {
    message.record { name = instance, type = TYPE.SRV, ttl = M.HOST_TTL, flush = true, priority = 0, weight = 0,
      port = service.port, target = service.host },
    message.record { name = instance, type = TYPE.TXT, ttl = M.OTHER_TTL, flush = true, strings = service.strings },
  }
end

--- The name under which a subtype is asked for (RFC 6763, section 7.1).
---@param subtype string
---@param type string
---@return string
function M.subtype(subtype, type)
  return message.escape(subtype) .. "._sub." .. type .. ".local"
end

return M
