--- The client's part of the plugin presence: what is known of the rooms that were joined, and how it stays true.

local errors = require "echostream.errors"
local log = require "echostream.log"
local values = require "echostream.plugins.values"

local M = {}

-- Room: { meta =, members = { [id] = { id =, meta = } }, seq =, seen =, busy = }: what we say, who is there as of change `seq`, the last
-- change that we heard of, and whether somebody is asking.

-- Members as the server gave them, in the place of those that were known: what is different is told.
local function replace(self, name, seq, list)
  local room, members = self._rooms[name], {}
  local before = room.members
  for _, member in ipairs(list) do
    if type(member) == "table" and math.type(member.id) == "integer" then
      members[member.id] = { id = member.id, meta = member.meta }
    end
  end
  room.seq, room.members = seq, members
  for id, member in pairs(before) do
    if not members[id] then
      self:_tell(name, "leave", member)
    end
  end
  for id, member in pairs(members) do
    if not before[id] then
      self:_tell(name, "join", member)
    elseif values.canonical(before[id].meta) ~= values.canonical(member.meta) then
      self:_tell(name, "update", member)
    end
  end
end

--- Asks the server for a room, again when it changed meanwhile: events and answers overtake each other.
---@param self echostream.presence
---@param session echostream.session
---@param name string
---@param method string
---@return true|nil ok, echostream.error? err
function M.fetch(self, session, name, method, ...)
  local room = self._rooms[name]
  if not room then
    return nil, errors.new("cancelled", "the room was left")
  end
  room.busy = true
  local seq, list = session:request(method, name, ...)
  for _ = 1, 3 do
    if not seq or self._rooms[name] ~= room then
      break
    elseif math.type(seq) ~= "integer" or type(list) ~= "table" then
      seq, list = nil, errors.new("protocol", method .. " answered something else than a room")
      break
    end
    replace(self, name, seq, list)
    if room.seen <= seq then
      break
    end
    seq, list = session:request("presence.list", name)
  end
  room.busy = false
  return seq and true, not seq and list or nil
end

local changes = { join = true, update = true, leave = true }

--- An event: somebody came, went or says something else.
---@param self echostream.presence
---@param session echostream.session
function M.changed(self, session, name, seq, change, id, meta)
  local room = self._rooms[name]
  if not room or session ~= self._session or math.type(seq) ~= "integer" or math.type(id) ~= "integer" or not changes[change] then
    return
  end
  room.seen = math.max(room.seen, seq)
  if room.busy or seq <= room.seq then
    return
  elseif seq > room.seq + 1 then -- something was dropped on the way
    self._host:after(0, M.fetch, self, session, name, "presence.list")
    room.busy = true
    return
  end
  room.seq = seq
  local member = { id = id, meta = meta }
  room.members[id] = change ~= "leave" and member or nil
  self:_tell(name, change, member)
end

--- A new session: joins again what was joined.
---@param self echostream.presence
---@param session echostream.session
function M.came(self, session)
  self._session = session
  for name, room in pairs(self._rooms) do
    room.seen, room.busy = 0, true
    self._host:after(0, function()
      local ok, err = M.fetch(self, session, name, "presence.join", room.meta)
      if not ok and not session.closed_by then
        log.write("warn", ("presence: could not join %s again: %s"):format(errors.show(name), tostring(err)))
      end
    end)
  end
end

return M
