--- UDP sockets on the loop, for the small protocols beside QUIC: questions to name servers, and multicast DNS.

local loop = require "echostream.loop"

local M = {}

---@class echostream.udp.place
---@field ip string         numeric; a multicast group too: then nothing else is received
---@field port integer
---@field shared? boolean   others on this machine may use the port as well
---@field only6? boolean    an IPv6 socket that takes no IPv4

---@class echostream.udp
---@field port integer
local Udp = {}
Udp.__index = Udp
Udp.__name = "echostream.udp"

--- Sends a datagram at once or not at all.
---@param bytes string
---@param ip string   numeric; "ff02::fb%eth0" with the interface
---@param port integer
---@return true|nil ok, string? err
function Udp:send(bytes, ip, port)
  if self._handle:is_closing() then
    return nil, "closed"
  end
  local sent, err = self._handle:try_send(bytes, ip, port)
  if not sent then
    return nil, err
  end
  return true
end

--- Joins a multicast group on the interface that has this address ("fe80::1%eth0" for IPv6).
---@param group string
---@param interface string
---@return true|nil ok, string? err
function Udp:join(group, interface)
  local ok, err = self._handle:set_membership(group, interface, "join")
  return ok and true or nil, err
end

--- Leaves it.
---@param group string
---@param interface string
function Udp:leave(group, interface)
  if not self._handle:is_closing() then
    self._handle:set_membership(group, interface, "leave") -- fails when the interface is gone, and then the membership is too
  end
end

--- Sends multicast by the interface that has this address, with this TTL, and to this machine as well.
---@param interface string
---@param ttl integer
---@return true|nil ok, string? err
function Udp:multicast(interface, ttl)
  local handle = self._handle
  local ok, err = handle:set_multicast_interface(interface)
  if ok then
    ok, err = handle:set_multicast_ttl(ttl)
  end
  if ok then
    ok, err = handle:set_multicast_loop(true)
  end
  return ok and true or nil, err
end

--- Closes; harmless twice.
function Udp:close()
  loop.close_handle(self._handle)
end

--- Opens a socket of the real loop. It keeps the process alive until it is closed.
---@param place echostream.udp.place
---@param take fun(bytes: string, ip: string, port: integer)  what it raises is logged
---@return echostream.udp? socket, string? err, string? name  as luv says it ("EADDRINUSE")
function M.open(place, take)
  if loop.current().sim then
    return nil, "the simulation has no sockets of this kind", "ENOTSUP"
  end
  local handle = loop.luv().new_udp()
  local ok, err, name = handle:bind(place.ip, place.port, { reuseaddr = place.shared or nil, ipv6only = place.only6 or nil })
  if ok then
    ok, err, name = handle:recv_start(loop.guard("a UDP socket's receiver", function(problem, bytes, from)
      if not problem and bytes and from then
        take(bytes, from.ip, from.port)
      end
    end))
  end
  if not ok then
    loop.close_handle(handle)
    return nil, err, name
  end
  return setmetatable({ _handle = handle, port = handle:getsockname().port }, Udp)
end

---@class echostream.udp.interface
---@field name string
---@field internal boolean       the loopback
---@field ip4 { ip: string, netmask: string }[]
---@field ip6 string[]           without scope

--- The network interfaces that are up, by name.
---@return echostream.udp.interface[]
function M.interfaces()
  local list = {}
  for name, addresses in pairs(loop.luv().interface_addresses() or {}) do
    local interface = { name = name, internal = false, ip4 = {}, ip6 = {} }
    for _, entry in ipairs(addresses) do
      interface.internal = interface.internal or entry.internal
      if entry.family == "inet" then
        table.insert(interface.ip4, { ip = entry.ip, netmask = entry.netmask })
      elseif entry.family == "inet6" then
        table.insert(interface.ip6, (entry.ip:gsub("%%.*$", "")))
      end
    end
    table.sort(interface.ip6)
    table.sort(interface.ip4, function(a, b) return a.ip < b.ip end)
    list[#list + 1] = interface
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

--- This machine's name.
---@return string
function M.hostname()
  return loop.luv().os_gethostname()
end

return M
