-- A NAT on the loopback interface, between a client and a server of this or another process: datagrams from whoever sends to
-- `nat.address` go on to the server from an outer port, and answers to that port go back. rebind() forgets it and takes another
-- one: what the server still sends to the old one is lost, as with the real thing.

local uv = require "luv"

local M = {}
local Nat = {}
Nat.__index = Nat

local function outer(self, host)
  local socket = uv.new_udp()
  assert(socket:bind(host, 0))
  socket:recv_start(function(err, data, from)
    if not err and data and from and self.client then
      self.back = self.back + 1
      self.inner:try_send(data, self.client.ip, self.client.port)
    end
  end)
  return socket
end

--- Gives the client another outer port, and another outer address where `host` says so.
---@param host? string  127.0.0.2 to 127.255.255.254
function Nat:rebind(host)
  local before = self.outer
  self.outer = outer(self, host or "127.0.0.1")
  before:close()
  self.rebinds = self.rebinds + 1
end

--- What the server sees now.
---@return string
function Nat:outside()
  local name = self.outer:getsockname()
  return ("%s:%d"):format(name.ip, name.port)
end

function Nat:close()
  self.inner:close()
  self.outer:close()
end

--- @param server string  "127.0.0.1:5000"
function M.new(server)
  local host, port = server:match "^(.*):(%d+)$"
  port = tonumber(port)
  local self = setmetatable({ rebinds = 0, back = 0, forth = 0 }, Nat)
  self.inner = uv.new_udp()
  assert(self.inner:bind("127.0.0.1", 0))
  self.outer = outer(self, "127.0.0.1")
  self.inner:recv_start(function(err, data, from)
    if not err and data and from then
      self.client = from
      self.forth = self.forth + 1
      self.outer:try_send(data, host, port)
    end
  end)
  local name = self.inner:getsockname()
  self.address = ("%s:%d"):format(name.ip, name.port)
  return self
end

return M
