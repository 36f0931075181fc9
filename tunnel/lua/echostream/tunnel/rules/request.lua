--- What rules, groups, limits and logs see of a request: made once, from the head and from what the listener knows. The head is given the
--- canonical host and path, so that the backend gets what was judged.

local canonical = require "echostream.tunnel.rules.canonical"
local errors = require "echostream.tunnel.errors"

local M = {}

---@class echostream.tunnel.request
---@field head echostream.tunnel.head?  nil of "tcp" and "tls"
---@field host string        lower case, without port; "" when there is none
---@field host_port integer? what the visitor named beside the host
---@field path string        canonical; "" of a CONNECT without a protocol, of "tcp" and "tls"
---@field query string?      without "?"
---@field method string
---@field scheme string      "http" or "https"
---@field kind "http"|"grpc"|"websocket"|"connect"|"tcp"|"tls"
---@field protocol string    "http/1.1", "h2", "h3" or "raw"
---@field port integer       the listener's
---@field listener string?   its name
---@field peer_ip string     who is connected
---@field peer_port integer?
---@field client_ip string   who asks: peer_ip, or what a trusted proxy said of it (forwarded.lua)
---@field sni string?        lower case
---@field id string?         ids.lua
---@field trace_id string?
---@field received number?   seconds, as of loop.now()
---@field user string?       who auth found
---@field trusted boolean?   who is connected is a proxy on our list (forwarded.lua)
---@field forwarded_host string?  what it says that the visitor asked for
---@field shadowed echostream.tunnel.shadow_verdict[]?  what shadow rules would have done

---@class echostream.tunnel.request_info
---@field peer_ip string
---@field peer_port? integer
---@field port? integer
---@field listener? string
---@field protocol? string
---@field sni? string
---@field tls? boolean      how the visitor came: decides the scheme, whatever the head says
---@field received? number
---@field kind? "tcp"|"tls"  there is no head

local function bad(why)
  return nil, errors.new(400, why)
end

local function kind_of(head)
  if head.method == "CONNECT" or head.protocol then -- POST may ask for another protocol, too
    return head.protocol == "websocket" and "websocket" or "connect"
  end
  local content = head:get "content-type"
  if content and content:lower():find "^application/grpc%f[^%w-]" then
    return "grpc"
  end
  return "http"
end

--- Makes one. The head's `path` and `authority` get their canonical form.
---@param head echostream.tunnel.head?  nil with info.kind "tcp" or "tls"
---@param info echostream.tunnel.request_info
---@return echostream.tunnel.request?, echostream.error? err  status 400: host or target cannot be read in one way only
function M.new(head, info)
  local self = {
    head = head, host = "", path = "", method = "", scheme = "", kind = info.kind, protocol = info.protocol or "raw", port = info.port or 0,
    listener = info.listener, peer_ip = info.peer_ip, peer_port = info.peer_port, client_ip = info.peer_ip, sni = info.sni and info.sni:lower(),
    received = info.received,
    -- What comes later, named so that the table has its size at once.
    host_port = nil, query = nil, id = nil, trace_id = nil, trusted = nil,
  }
  if not head then
    self.host = self.sni or ""
    return self
  end
  local method, target = head.method, head.path
  self.method, self.scheme, self.kind = method, head.scheme or "", kind_of(head)
  if info.tls ~= nil then
    self.scheme = info.tls and "https" or "http"
  end
  local authority = head.authority
  if authority and authority ~= "" then
    local host, port = canonical.authority(authority)
    if not host then
      return bad(port)
    end
    self.host, self.host_port = host, port
    local clean = port and host .. ":" .. port or host
    if clean ~= authority then
      head.authority = clean
    end
  elseif self.kind == "connect" then
    return bad "CONNECT wants an authority"
  end
  if self.kind == "connect" and not head.protocol then -- with a protocol (RFC 8441) there is a path, which is judged
    return self
  elseif target == "*" and method ~= "OPTIONS" then
    return bad "the target * is for OPTIONS only"
  elseif not target or target == "" then
    return bad "there is no path"
  end
  local path, query = canonical.target(target)
  if not path then
    return bad(query)
  end
  self.path, self.query = path, query
  local clean = query and path .. "?" .. query or path
  if clean ~= target then
    head.path = clean
  end
  return self
end

return M
