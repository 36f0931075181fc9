--- What agents send is checked here, before anything is done with it: registrations and heartbeats.

local M = {}

local MAX_SERVICES <const>, MAX_LABELS <const>, MAX_BACKENDS <const> = 256, 32, 256

local function is_name(value, longest)
  return type(value) == "string" and #value >= 1 and #value <= longest and not value:find "[^%w._:@/-]"
end

local function is_text(value, longest)
  return type(value) == "string" and #value <= longest and not value:find "%c" and utf8.len(value) ~= nil -- it is shown as JSON
end

local function services_of(list)
  if list == nil then
    return {}
  elseif type(list) ~= "table" or #list > MAX_SERVICES then
    return nil, ("services wants a list of at most %d"):format(MAX_SERVICES)
  end
  local out = {}
  for i, service in ipairs(list) do
    local kind = type(service) == "table" and (service.kind or "http")
    if not kind or not is_name(service.name, 64) or kind ~= "http" and kind ~= "tcp" then
      return nil, ("services[%d] wants { name = …, kind = \"http\" or \"tcp\" }"):format(i)
    end
    out[i] = { name = service.name, kind = kind }
  end
  return out
end

local function labels_of(given)
  if given == nil then
    return {}
  elseif type(given) ~= "table" then
    return nil, "labels wants a map of texts"
  end
  local out, n = {}, 0
  for key, value in pairs(given) do
    n = n + 1
    if not is_name(key, 64) or not is_text(value, 256) or n > MAX_LABELS then
      return nil, ("labels wants at most %d texts of at most 256 bytes, with names of at most 64"):format(MAX_LABELS)
    end
    out[key] = value
  end
  return out
end

-- nil is fine, and anything else that is short text or an integer.
local function version_of(value)
  if math.type(value) == "integer" then
    return tostring(value)
  end
  return is_text(value, 128) and value or nil
end

--- Checks what `tunnel.register` was asked with.
---@param given any
---@return table? asked, string? why
function M.registration(given)
  if type(given) ~= "table" then
    return nil, "a map is wanted"
  elseif given.protocol ~= 1 then
    return nil, ("this server speaks protocol 1 of the tunnel, not %s"):format(tostring(given.protocol):sub(1, 16))
  elseif not is_name(given.client_id, 128) or not is_name(given.group, 64) then
    return nil, "client_id (128) and group (64 bytes) are names of A-Z a-z 0-9 . _ : @ / -"
  end
  local weight = given.weight == nil and 1 or given.weight
  if type(weight) ~= "number" or not (weight > 0 and weight <= 1000) then
    return nil, "weight is above 0 and at most 1000"
  elseif given.proof ~= nil and (type(given.proof) ~= "string" or #given.proof ~= 32) then
    return nil, "proof is 32 bytes"
  end
  local services, why = services_of(given.services)
  if not services then
    return nil, why
  end
  local labels
  labels, why = labels_of(given.labels)
  if not labels then
    return nil, why
  end
  return {
    client_id = given.client_id, group = given.group, weight = weight, services = services, labels = labels, proof = given.proof,
    version = is_text(given.version, 64) and given.version or "", config_version = version_of(given.config_version),
    boot_id = is_text(given.boot_id, 64) and given.boot_id or "",
  }
end

local function number(value)
  return type(value) == "number" and value == value and value >= 0 and value < math.huge and value or nil
end

--- The figures of a heartbeat: what is of the wrong kind is left out.
---@param given any
---@return table? figures  in_flight, served, errors, bytes_in, bytes_out, at, backends, config_version, config_error; nil: no map
function M.heartbeat(given)
  if type(given) ~= "table" then
    return nil
  end
  local out = { config_version = version_of(given.config_version), backends = {} }
  for _, name in ipairs { "at", "in_flight", "served", "errors", "bytes_in", "bytes_out" } do
    out[name] = number(given[name])
  end
  if is_text(given.config_error, 1024) then
    out.config_error = given.config_error
  end
  local n = 0
  for name, backend in pairs(type(given.backends) == "table" and given.backends or {}) do
    n = n + 1
    if n > MAX_BACKENDS then
      break
    elseif is_name(name, 128) and type(backend) == "table" then
      out.backends[name] = { healthy = backend.healthy ~= false, in_flight = number(backend.in_flight), latency = number(backend.latency) }
    end
  end
  return out
end

return M
