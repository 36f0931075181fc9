-- A network in memory for multicast DNS: what one host sends arrives at all of them, itself included, a millisecond later. Inside
-- `echo.sim.run`, so that the clock is virtual.

local loop = require "echostream.loop"
local mdns = require "echostream.discovery.mdns"
local message = require "echostream.discovery.message"

local M = {}

---@class spec.multicast_hub
local Hub = {}
Hub.__index = Hub

--- A hub. `packets` has all that was sent: { at, from, packet, to }.
---@return spec.multicast_hub
function M.new()
  return setmetatable({ hosts = {}, packets = {} }, Hub)
end

-- A microsecond later for each, so that nothing is overtaken.
local function deliver(host, bytes, ip, port)
  local due = math.max(loop.now() + 0.001, (host.last or 0) + 1e-6)
  host.last = due
  loop.current().core:timer(due - loop.now(), function()
    host.receive(bytes, ip, port, host.link)
  end)
end

--- Sends bytes as if from somewhere.
function Hub:inject(bytes, ip, port, to)
  for _, host in ipairs(self.hosts) do
    if not to or to == host.link.ip4[1] then
      deliver(host, bytes, ip, port or 5353)
    end
  end
end

--- A host with one address, and its engine.
---@param ip string
---@param ip6? string
---@return echostream.discovery.engine engine, table link
function Hub:host(ip, ip6)
  local link = { name = "eth0", ip4 = { ip }, ip6 = { ip6 } }
  local engine = assert(mdns.new(function(receive)
    local host = { receive = receive, link = link }
    table.insert(self.hosts, host)
    local network = { links = { link }, changed = false }
    function network.send(_, _, bytes, to, port)
      table.insert(self.packets, { at = loop.now(), from = ip, packet = assert(message.decode(bytes)), to = to, size = #bytes, bytes = bytes })
      if not to then
        if not host.cut then self:inject(bytes, ip) end
      elseif host.legacy then
        host.legacy(bytes, to, port)
      end
    end
    function network.rescan()
      local was = network.changed
      network.changed = false
      return was
    end
    function network.close() network.links = {} end
    self.last = host
    return network
  end))
  return engine, link, self.last
end

--- What was sent from an address since a time.
function Hub:sent(from, since)
  local list = {}
  for _, entry in ipairs(self.packets) do
    if entry.from == from and entry.at >= (since or 0) then table.insert(list, entry) end
  end
  return list
end

return M
