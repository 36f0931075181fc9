--- Where a request comes from, in the fields that backends read: X-Forwarded-For, -Proto, -Host and -Port, Forwarded (RFC 7239) and Via (RFC 9110,
--- 7.6.3). What proxies in front of us say is believed when they are on a list, and replaced when they are not.

local addresses = require "echostream.tunnel.limits.addresses"
local check = require "echostream.tunnel.rules.check"

local M = {}

---@class echostream.tunnel.options.forwarded
---@field trusted? string[]  networks of proxies in front of us: "10.0.0.0/8"; "all" (default: nobody)
---@field name? string       ours, in Via and as `by` in Forwarded (default: "echostream")

local schema = {
  trusted = { type = "strings", default = {} },
  name = { type = "string", default = "echostream" },
}

---@class echostream.tunnel.forwarded
local Forwarded = { __name = "echostream.tunnel.forwarded" }
Forwarded.__index = Forwarded

local MAX_HOPS <const> = 32 -- that are looked at

-- The address in a piece such as "192.0.2.1", "192.0.2.1:80", "[2001:db8::1]:80", "2001:db8::1"; nil: there is none.
local function address_of(text)
  local ip = text:match "^%[([%x:.]+)%]:?%d*$" or text:match "^(%d+%.%d+%.%d+%.%d+):?%d*$" or text
  return addresses.parse(ip) and ip or nil
end

-- The pieces of a list, first to last; at most so many, from the end.
local function pieces(value)
  local list = {}
  for piece in value:gmatch "[^,]+" do
    list[#list + 1] = piece:match "^%s*(.-)%s*$"
  end
  return list
end

-- The hops that Forwarded names: { for, proto, host }. A quoted comma is nobody's address.
local function hops_of(value)
  local list = {}
  for _, piece in ipairs(pieces(value)) do
    local hop = {}
    for pair in piece:gmatch "[^;]+" do
      local name, text = pair:match '^%s*(%a+)%s*=%s*"?([^"]*)"?%s*$'
      if name then
        hop[name:lower()] = text
      end
    end
    list[#list + 1] = hop
  end
  return list
end

--- Whether who is connected is on the list.
---@param ip string
---@return boolean
function Forwarded:is_trusted(ip)
  return self._trusted.count > 0 and self._trusted:find(ip) == true
end

-- Who asks: from the last hop to the first, as long as those who say so are trusted.
local function client_of(self, peer, said)
  local client = peer
  for i = #said, math.max(1, #said - MAX_HOPS + 1), -1 do
    if not self:is_trusted(client) then
      break
    end
    local ip = said[i] and address_of(said[i])
    if not ip then
      break -- "unknown", "_hidden": nobody knows what is before
    end
    client = ip
  end
  return client
end

-- What a trusted proxy says: the addresses, and the scheme and host that the visitor used.
local function said_by(head)
  local said, proto, host = {}, head:get "x-forwarded-proto", head:get "x-forwarded-host"
  local field = head:get "x-forwarded-for"
  if field then
    said = pieces(field)
  else
    field = head:get "forwarded"
    for i, hop in ipairs(field and hops_of(field) or {}) do
      said[i] = hop["for"] or "unknown"
      proto, host = hop.proto or proto, hop.host or host
    end
  end
  return said, proto and proto:match "([^,%s]+)%s*$", host and host:match "([^,%s]+)%s*$"
end

--- Finds out who asks, before rules are asked: sets `request.client_ip`, and `request.scheme` and `forwarded_host` from what a trusted proxy says.
---@param request echostream.tunnel.request
---@return boolean trusted  who is connected is on the list
function Forwarded:judge(request)
  local trusted = self:is_trusted(request.peer_ip)
  request.client_ip = request.peer_ip
  request.trusted = trusted
  if trusted and request.head then
    local said, proto, host = said_by(request.head)
    request.client_ip = client_of(self, request.peer_ip, said)
    proto = proto and proto:lower()
    if proto == "http" or proto == "https" then
      request.scheme = proto
    end
    request.forwarded_host = host
  end
  return trusted
end

local function quoted_address(ip)
  return ip:find(":", 1, true) and ('"[%s]"'):format(ip) or ip
end

-- Our own hop in Forwarded, and whether it says the host. Visitors ask the same more than once: the last one is kept.
local function hop_of(self, peer, scheme, host)
  if peer ~= self._peer or scheme ~= self._scheme or host ~= self._host then
    local hop = ("for=%s;by=_%s;proto=%s"):format(quoted_address(peer), self._name, scheme)
    self._named = host ~= "" and not host:find '[%c"\\]'
    if self._named then
      hop = ('%s;host="%s"'):format(hop, host)
    end
    self._peer, self._scheme, self._host, self._hop = peer, scheme, host, hop
  end
  return self._hop, self._named
end

local versions = { ["http/1.1"] = "1.1", h2 = "2", h3 = "3" }

local ours = { "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded", "x-real-ip" }

--- Writes the fields into the request's head, before it is rewritten. Of who is not trusted nothing stays of what came.
---@param request echostream.tunnel.request  after `judge`
function Forwarded:apply(request)
  local head = request.head
  if not head then
    return
  end
  local peer, host = request.peer_ip, request.head.authority or request.host
  local chain, forwarded, port
  if request.trusted then
    chain, forwarded, port = head:get "x-forwarded-for", head:get "forwarded", head:get "x-forwarded-port"
    host = request.forwarded_host or host
    if not forwarded and chain then -- the chain is told whole in both fields, or in none
      local list = {}
      for i, piece in ipairs(pieces(chain)) do
        local ip = address_of(piece)
        list[i] = "for=" .. (ip and quoted_address(ip) or "unknown")
      end
      forwarded = table.concat(list, ", ")
    elseif forwarded and not chain then
      local list = {}
      for i, hop in ipairs(hops_of(forwarded)) do
        list[i] = hop["for"] and address_of(hop["for"]) or "unknown"
      end
      chain = table.concat(list, ", ")
    end
  else
    for _, name in ipairs(ours) do
      head:remove(name)
    end
  end
  head:set("x-forwarded-for", chain and chain ~= "" and chain .. ", " .. peer or peer)
  head:set("x-forwarded-proto", request.scheme)
  head:set("x-forwarded-port", port or tostring(request.port))
  local hop, named = hop_of(self, peer, request.scheme, host)
  if named then
    head:set("x-forwarded-host", host)
  end
  head:set("forwarded", forwarded and forwarded ~= "" and forwarded .. ", " .. hop or hop)
  self:via(head, request.protocol)
end

--- Adds us to Via.
---@param head echostream.tunnel.head
---@param protocol string  that it came by: "http/1.1", "h2", "h3"
function Forwarded:via(head, protocol)
  head:add("via", (versions[protocol] or "1.1") .. self._via)
end

--- Makes one.
---@param opts? echostream.tunnel.options.forwarded
---@param field? string  how the options are called in errors (default: "forwarded")
---@return echostream.tunnel.forwarded? forwarded, echostream.error? err  `invalid_argument`, its `field` the name of the field
function M.new(opts, field)
  field = field or "forwarded"
  return check.try(function()
    local checked = check.table(field, opts or {}, schema)
    if not checked.name:find "^[%w._-]+$" then
      check.fail(field .. ".name", "wants letters, digits, dots, hyphens and underscores")
    end
    return setmetatable({ _trusted = check.made(field .. ".trusted", addresses.set, checked.trusted), _name = checked.name,
      _via = " " .. checked.name }, Forwarded)
  end)
end

return M
