--- WebTransport: sessions of the native protocol that come through the door of HTTP/3, as those of browsers do. On a server they are
--- sessions like all others: the same handlers, hooks and middleware see them, and `session.door` is "webtransport".

local address = require "echostream.address"
local options = require "echostream.options"

local M = {}

M.PATH = "/echostream"

-- Streams of one session that the client opens in one direction: its control stream and at most eight lanes; and those of HTTP/3.
local UNI_OF_SESSION, UNI_OF_HTTP = 9, 3

--- The server's option `webtransport`.
---@type table<string, echostream.options.field>
M.server_fields = {
  path = { type = "string", default = M.PATH },
  origins = { type = "strings" },
  max_sessions = { type = "integer", min = 1, max = 64, default = 4 },
}

--- The client's option `webtransport`.
---@type table<string, echostream.options.field>
M.client_fields = {
  path = { type = "string", default = M.PATH },
  origin = { type = "string" },
  authority = { type = "string" },
}

local function check_path(where, path, query)
  if not path:match("^/[%w%-%._~!$&'()*+,;=:@%%/]*" .. (query and "%??[%w%-%._~!$&'()*+,;=:@%%/?]*" or "") .. "$") then
    error(('%s: option "path" wants a path such as %s, got "%s"'):format(where, M.PATH, path), options.users_level(3))
  end
end

-- "https://example.org:8443" as browsers write it: without what is the default anyway.
local function check_origin(where, origin)
  local scheme, rest = origin:match "^(%l[%l%d+.-]*)://([^/%s]+)$"
  if origin ~= "null" and origin ~= "*" and not scheme then
    error(('%s: an origin is like "https://example.org:8443", got "%s"'):format(where, origin), options.users_level(3))
  end
  return scheme and scheme .. "://" .. rest:lower() or origin
end

--- Checks the server's option.
---@param where string
---@param value boolean|table|nil
---@return table|nil checked  nil: it takes none
---@package
function M.check_server(where, value)
  if not value then
    return nil
  end
  where = where .. ".webtransport"
  local checked = options.check(where, value == true and {} or value, M.server_fields)
  check_path(where, checked.path)
  local origins = {}
  for _, origin in ipairs(checked.origins or {}) do
    origin = check_origin(where, origin)
    if origin == "*" then
      checked.any_origin = true
    else
      origins[#origins + 1] = origin
    end
  end
  checked.origins = origins
  return checked
end

--- Checks the client's option.
---@param where string
---@param value boolean|table|nil
---@return table|nil checked  nil: it dials for the native protocol
---@package
function M.check_client(where, value)
  if not value then
    return nil
  end
  where = where .. ".webtransport"
  local checked = options.check(where, value == true and {} or value, M.client_fields)
  check_path(where, checked.path, true)
  if checked.origin then
    check_origin(where, checked.origin)
  end
  return checked
end

--- What a host of HTTP/3 takes in the core.
---@param server echostream.server
---@return table|nil
---@package
function M.accept(server)
  local checked = server._options.webtransport
  return checked and {
    host = server._host,
    path = checked.path,
    origins = checked.origins,
    any_origin = checked.any_origin,
    max_sessions = checked.max_sessions,
  } or nil
end

--- The transport options of a server whose sessions share connections: enough streams for all of them.
---@param transport table
---@param checked table|nil
---@return table
---@package
function M.transport(transport, checked)
  if not checked or transport.max_streams_uni then
    return transport
  end
  local more = {}
  for key, value in pairs(transport) do
    more[key] = value
  end
  more.max_streams_uni = math.max(16, UNI_OF_HTTP + UNI_OF_SESSION * checked.max_sessions)
  return more
end

--- What `core.dial` takes.
---@param checked table|nil
---@param name string  the server's
---@param port integer
---@return table|nil
---@package
function M.dial(checked, name, port)
  return checked and {
    path = checked.path,
    origin = checked.origin,
    authority = checked.authority or address.join(name, port),
  } or nil
end

return M
