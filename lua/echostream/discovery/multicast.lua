--- The network under multicast DNS: the group 224.0.0.251 and ff02::fb, port 5353, on every interface.
---
--- For IPv4 there is one socket that joins on each interface; the interface that a datagram came in by is the one whose network has
--- its sender, and what comes from no network of ours is dropped (RFC 6762, section 11). For IPv6 each interface has a socket, since a
--- link-local group binds to it. The sockets are bound to the groups, so that nothing is taken from others who use the port, such as
--- avahi: their unicast datagrams are not ours. What is sent comes back, too: this process may look for its own services.

local message = require "echostream.discovery.message"
local udp = require "echostream.loop.udp"

local M = {}

local GROUP4, GROUP6, PORT, TTL = "224.0.0.251", "ff02::fb", 5353, 255

---@class echostream.discovery.link
---@field name string   of the interface
---@field ip4 string[]
---@field ip6 string[]

---@class echostream.discovery.multicast
---@field links echostream.discovery.link[]
---@field on_end fun()  the Lua state ends: last words
local Multicast = {}
Multicast.__index = Multicast

local function number_of(ip)
  return (">I4"):unpack((message.pack_address(ip)))
end

-- The link whose network an IPv4 address is in.
local function link_of(self, ip)
  local number = number_of(ip)
  for _, link in ipairs(self.links) do
    for _, network in ipairs(link.networks) do
      if number & network.mask == network.number then
        return link
      end
    end
  end
end

local function take(self, link, bytes, ip, port)
  if link then
    self._receive(bytes, ip, port, link)
  end
end

local function shape_of(interface)
  local parts = { interface.name }
  for _, entry in ipairs(interface.ip4) do
    parts[#parts + 1] = entry.ip .. "/" .. entry.netmask
  end
  table.move(interface.ip6, 1, #interface.ip6, #parts + 1, parts)
  return table.concat(parts, " ")
end

local function wanted(self)
  local list = {}
  for _, interface in ipairs(udp.interfaces()) do
    if #interface.ip4 + #interface.ip6 > 0 and (not self._only or self._only[interface.name]) then
      list[#list + 1] = interface
    end
  end
  return list
end

local function open_link(self, interface, shape)
  local link = { name = interface.name, shape = shape, ip4 = {}, ip6 = interface.ip6, networks = {}, joined = {} }
  for i, entry in ipairs(interface.ip4) do
    local mask = number_of(entry.netmask)
    link.ip4[i], link.networks[i] = entry.ip, { mask = mask, number = number_of(entry.ip) & mask }
  end
  if link.ip4[1] and self._socket4 and self._socket4:join(GROUP4, link.ip4[1]) then
    link.joined[1] = link.ip4[1]
  end
  if link.ip6[1] and not interface.internal then
    local scope = "%" .. interface.name
    local socket = udp.open({ ip = GROUP6 .. scope, port = PORT, shared = true, only6 = true }, function(bytes, ip, port)
      take(self, link, bytes, ip, port)
    end)
    if socket and socket:join(GROUP6, "::" .. scope) and socket:multicast("::" .. scope, TTL) then
      link.socket6 = socket
    elseif socket then
      socket:close()
    end
  end
  return link
end

local function close_link(self, link)
  if link.joined[1] and self._socket4 then
    self._socket4:leave(GROUP4, link.joined[1])
  end
  if link.socket6 then
    link.socket6:close()
    link.socket6 = nil
  end
end

-- When the Lua state ends, sockets are finalised before what was made earlier and may still want to say goodbye by them. The sentinel is
-- younger than every socket: `on_end` says the goodbyes, and nothing is sent afterwards.
local function watch_end(self)
  self._sentinel = setmetatable({}, { __gc = function(sentinel)
    if self._sentinel == sentinel then
      pcall(self.on_end)
      self._socket4, self.links = nil, {}
    end
  end })
end

--- Looks at the interfaces again.
---@return boolean changed
---@package
function Multicast:rescan()
  local before, links, changed = {}, {}, false
  for _, link in ipairs(self.links) do
    before[link.shape] = link
  end
  local new = {}
  for _, interface in ipairs(wanted(self)) do
    local shape = shape_of(interface)
    if before[shape] then
      links[#links + 1], before[shape] = before[shape], nil
    else
      new[#new + 1] = { interface, shape }
    end
  end
  for _, link in pairs(before) do
    close_link(self, link)
    changed = true
  end
  for _, entry in ipairs(new) do
    local link = open_link(self, entry[1], entry[2])
    changed = true
    links[#links + 1] = link
  end
  self.links = links
  if changed then
    watch_end(self)
  end
  return changed
end

--- Sends to everybody on a link, or to one who asked from a port of its own.
---@param link echostream.discovery.link
---@param bytes string
---@param ip? string
---@param port? integer
---@package
function Multicast:send(link, bytes, ip, port)
  if ip then
    local socket, at = self._socket4, ip
    if ip:find ":" then
      socket, at = link.socket6, ip:find "^fe80" and ip .. "%" .. link.name or ip
    end
    if socket then
      socket:send(bytes, at, port)
    end
    return
  end
  if link.joined[1] and self._socket4 and self._socket4:multicast(link.joined[1], TTL) then
    self._socket4:send(bytes, GROUP4, PORT)
  end
  if link.socket6 then
    link.socket6:send(bytes, GROUP6 .. "%" .. link.name, PORT)
  end
end

--- Closes the sockets; harmless twice.
---@package
function Multicast:close()
  self._sentinel = nil
  for _, link in ipairs(self.links) do
    close_link(self, link)
  end
  self.links = {}
  if self._socket4 then
    self._socket4:close()
    self._socket4 = nil
  end
end

--- Opens it. Links that cannot be used are left out.
---@param interfaces string[]?  names of the only ones
---@param receive fun(bytes: string, ip: string, port: integer, link: echostream.discovery.link)
---@return echostream.discovery.multicast? network, string? err
function M.open(interfaces, receive)
  local self = setmetatable({ links = {}, _receive = receive, _only = nil, _socket4 = nil, on_end = function() end }, Multicast)
  if interfaces then
    self._only = {}
    for _, name in ipairs(interfaces) do
      self._only[name] = true
    end
  end
  local err
  self._socket4, err = udp.open({ ip = GROUP4, port = PORT, shared = true }, function(bytes, ip, port)
    take(self, link_of(self, ip), bytes, ip, port)
  end)
  self:rescan()
  for _, link in ipairs(self.links) do
    if link.joined[1] or link.socket6 then
      return self
    end
  end
  self:close()
  return nil, err or "no network interface for multicast"
end

return M
