-- A UDP port that swallows everything, until it is opened: then it forwards to a server, and back. A network that blocks UDP for a while.
--
--   local gate = udp_gate.new(server.address)     -- gate.address
--   gate:open()  gate:shut()  gate:close()

local uv = require "luv"

local Gate = {}
Gate.__index = Gate

local M = {}

function M.new(address)
  local host, port = address:match "^(.*):(%d+)$"
  local self = setmetatable({ passing = false, swallowed = 0, outer = uv.new_udp(), inner = {} }, Gate)
  assert(self.outer:bind("127.0.0.1", 0))
  self.address = "127.0.0.1:" .. self.outer:getsockname().port
  self.outer:recv_start(function(_, data, from)
    if not data then
      return
    elseif not self.passing then
      self.swallowed = self.swallowed + 1
      return
    end
    local key = from.ip .. ":" .. from.port
    local inner = self.inner[key]
    if not inner then
      inner = uv.new_udp()
      self.inner[key] = inner
      assert(inner:bind("127.0.0.1", 0))
      inner:recv_start(function(_, back)
        if back and self.passing then
          self.outer:try_send(back, from.ip, from.port)
        end
      end)
    end
    inner:try_send(data, host, tonumber(port))
  end)
  return self
end

function Gate:open()
  self.passing = true
end

function Gate:shut()
  self.passing = false
end

function Gate:close()
  self.outer:close()
  for _, inner in pairs(self.inner) do
    inner:close()
  end
end

return M
