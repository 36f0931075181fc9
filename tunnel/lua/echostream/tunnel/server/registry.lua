--- The agents that are registered at this moment, by client id. What they said of themselves and what was seen of them; no decisions.

local view = require "echostream.view"

local M = {}

---@class echostream.tunnel.member  an agent that is registered, or was
---@field id string                 its client id
---@field group string
---@field session echostream.session
---@field state "up"|"draining"|"replaced"|"gone"
---@field version string
---@field labels table<string, string>
---@field weight number             above 0
---@field services { name: string, kind: "http"|"tcp" }[]
---@field boot_id string
---@field entry table               what let it in: an element of the option `agents`
---@field config_version string?    what it said it has
---@field config_error string?      why it refused the last one
---@field registered_at number      seconds, as of loop.now()
---@field last_seen number          likewise: its registration, heartbeat or the end of an exchange
---@field streams integer           exchanges and connections at this moment
---@field served integer            that ended well
---@field errors integer            that did not, by its own doing
---@field bytes_in integer          of bodies, towards it
---@field bytes_out integer
---@field backends table<string, { healthy: boolean, in_flight: number?, latency: number? }>  of its last heartbeat
---@field reported table            the other figures of its last heartbeat

---@class echostream.tunnel.registry
local Registry = { __name = "echostream.tunnel.registry" }
Registry.__index = Registry

---@param max integer  members at most
---@return echostream.tunnel.registry
function M.new(max)
  return setmetatable({ _max = max, _by_id = {}, _leaving = {}, _n = 0, registered = 0, replaced = 0, lost = 0, refused = 0 }, Registry)
end

--- Whether one more fits in, where `id` may be there already.
---@param id string
---@return boolean
function Registry:has_room(id)
  return self._by_id[id] ~= nil or self._n < self._max
end

--- Puts a member in. Returns the one of the same id that it replaces, which stays in the list of those who leave.
---@param member echostream.tunnel.member
---@return echostream.tunnel.member?
function Registry:add(member)
  local old = self._by_id[member.id]
  self._by_id[member.id] = member
  self.registered = self.registered + 1
  if old then
    self.replaced = self.replaced + 1
    self._leaving[old] = true
  else
    self._n = self._n + 1
  end
  return old
end

--- Takes a member out, wherever it is. False when it was not there.
---@param member echostream.tunnel.member
---@return boolean
function Registry:remove(member)
  if self._by_id[member.id] == member then
    self._by_id[member.id] = nil
    self._n = self._n - 1
  elseif self._leaving[member] then
    self._leaving[member] = nil
  else
    return false
  end
  return true
end

---@param id string
---@return echostream.tunnel.member?
function Registry:get(id)
  return self._by_id[id]
end

---@return integer
function Registry:count()
  return self._n
end

--- All of them, sorted by id; replaced ones that still finish something are among them.
---@return echostream.tunnel.member[]
function Registry:members()
  local list = {}
  for _, member in pairs(self._by_id) do
    list[#list + 1] = member
  end
  for member in pairs(self._leaving) do
    list[#list + 1] = member
  end
  table.sort(list, function(a, b)
    if a.id ~= b.id then
      return a.id < b.id
    end
    return a.registered_at < b.registered_at
  end)
  return list
end

--- What can be shown and sent: a table of plain values for each member.
---@param now number  as of loop.now()
---@return table[]
function Registry:list(now)
  local list = {}
  for i, member in ipairs(self:members()) do
    list[i] = view.of {
      id = member.id, group = member.group, state = member.state, version = member.version, labels = member.labels, weight = member.weight,
      services = member.services, peer = member.session.peer_addr, door = member.session.door, config_version = member.config_version,
      config_error = member.config_error, registered = now - member.registered_at, last_seen = now - member.last_seen,
      in_flight = member.streams, served = member.served, errors = member.errors, bytes_in = member.bytes_in, bytes_out = member.bytes_out,
      backends = member.backends, reported = member.reported,
    }
  end
  return list
end

return M
