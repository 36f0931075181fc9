--- The server's part of the plugin presence: the rooms, who is in them, and who has to hear of what.

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

-- Room: { members = { [session id] = { id =, meta = } }, sessions = { [session] = bytes }, n =, bytes =, seq =, told = {}, waiting = {} }: what
-- each said, how many they are, what all said together, the number of the last change, when the others heard of a member last, and whose news
-- wait. A room that comes again after it was empty goes on counting above all numbers there were (`_high`).

local OVERHEAD <const> = 16 -- bytes that a member is on the wire beside what it says

local function refuse(code, message)
  return nil, errors.new(code, message)
end

-- How many values there are in one, up to `most`: in memory each is worth many bytes of the wire.
local function count(value, most)
  if type(value) ~= "table" then
    return 1
  end
  local n = 1
  for _, each in pairs(value) do
    n = n + 1 + count(each, most - n)
    if n > most then
      break
    end
  end
  return n
end

-- The bytes of what it says of itself, or nil and an error.
local function check(self, session, name, meta)
  if type(name) ~= "string" or name == "" or #name > 256 then
    return refuse("invalid_argument", "a room has a name of 1 to 256 bytes")
  end
  local bytes, most = core.codec.msgpack.pack(meta), self._options.max_meta
  if not bytes or #bytes > most or count(meta, most // 16 + 8) > most // 16 + 8 then
    return refuse("invalid_argument", ("too much is said of a member: %d bytes are the most"):format(most))
  elseif self._options.admit then
    local may, err = self._options.admit(session, name, meta)
    if not may then
      return nil, err or errors.new("permission_denied", "the room is not for you")
    end
  end
  return #bytes + OVERHEAD
end

local function members_of(room)
  local list = core.array {}
  for _, member in pairs(room and room.members or {}) do
    list[#list + 1] = member
  end
  return list
end

-- One change: everybody in the room hears of it but its author, who has an answer.
local function announce(self, tell, name, room, change, member, author)
  local others = {}
  for session in pairs(room.sessions) do
    if session ~= author then
      others[#others + 1] = session
    end
  end
  room.seq = room.seq + 1
  self._high = math.max(self._high, room.seq)
  self._host:broadcast({ to = others, policy = "drop_oldest" }, "presence.change", name, room.seq, change, member.id, member.meta)
  tell(self, name, change, member)
end

-- A member says something else of itself: the others hear of it at once, unless they just did. Then they hear the last of it a little later.
local function announce_update(self, tell, name, room, session)
  local id, interval = session.id, self._options.update_interval
  local function now()
    room.told[id] = loop.now()
    announce(self, tell, name, room, "update", room.members[id], session)
  end
  if room.waiting[id] then
    return
  end
  local rest = (room.told[id] or -math.huge) + interval - loop.now()
  if rest <= 0 then
    return now()
  end
  local mine = {}
  room.waiting[id] = mine
  task.spawn(function()
    task.sleep(rest)
    if room.waiting[id] == mine then -- it has not left meanwhile
      room.waiting[id] = nil
      now()
    end
  end)
end

local function leave(self, tell, session, name)
  local room = self._rooms[name]
  local member = room and room.members[session.id]
  if not member then
    return false
  end
  room.bytes = room.bytes - room.sessions[session]
  room.members[session.id], room.sessions[session], room.n = nil, nil, room.n - 1
  room.told[session.id], room.waiting[session.id] = nil, nil
  self._joined[session][name] = nil
  announce(self, tell, name, room, "leave", member)
  if room.n == 0 then
    self._rooms[name] = nil
  end
  return true
end

local function join(self, tell, session, name, meta)
  local bytes, err = check(self, session, name, meta)
  if not bytes then
    return nil, err
  elseif session.closed_by then -- while `admit` took its time
    return nil, session.closed_by
  end
  local room = self._rooms[name] or { members = {}, sessions = {}, n = 0, bytes = 0, seq = self._high, told = {}, waiting = {} }
  local more = bytes - (room.sessions[session] or 0)
  local known, joined = room.members[session.id], self._joined[session] or {}
  if not known then
    local rooms = 0
    for _ in pairs(joined) do
      rooms = rooms + 1
    end
    if rooms >= self._options.max_rooms then
      return refuse("resource_exhausted", ("a session may be in %d rooms"):format(self._options.max_rooms))
    elseif room.n >= self._options.max_members then
      return refuse("resource_exhausted", "the room is full")
    end
  end
  if room.bytes + more > self._options.max_bytes then
    return refuse("resource_exhausted", "the room is full: its members say too much")
  end
  room.n, room.bytes = room.n + (known and 0 or 1), room.bytes + more
  local member = { id = session.id, meta = meta }
  self._rooms[name], self._joined[session] = room, joined
  room.members[session.id], room.sessions[session], joined[name] = member, bytes, true
  if known then
    announce_update(self, tell, name, room, session)
  else
    announce(self, tell, name, room, "join", member, session)
  end
  return room.seq, members_of(room)
end

--- The file that installs the plugin was loaded again: who is in the rooms stays there.
---@param self echostream.presence
---@param old echostream.presence
function M.adopt(self, old)
  self._adopted = old
end

--- Installs it: `tell` calls the listeners here.
---@param self echostream.presence
---@param host echostream.plugin.host
---@param tell fun(self: echostream.presence, room: string, change: string, member: echostream.presence.member)
function M.install(self, host, tell)
  local old = self._adopted or { _rooms = {}, _high = 0, _joined = setmetatable({}, { __mode = "k" }) }
  self._rooms, self._high = old._rooms, old._high
  self._joined, self._adopted = old._joined, nil -- session -> set of rooms
  host:add_rpc("presence.join", function(session, name, meta)
    return join(self, tell, session, name, meta)
  end, { doc = "joins a room, or says something else of the member: room, meta -> number of the last change, members" })
  host:add_rpc("presence.leave", function(session, name)
    leave(self, tell, session, name)
    return true
  end, { doc = "leaves a room" })
  host:add_rpc("presence.list", function(session, name)
    local ok, err = check(self, session, name, nil)
    if not ok then
      return nil, err
    end
    local room = self._rooms[name]
    return room and room.seq or self._high, members_of(room)
  end, { doc = "who is in a room: number of the last change, members", idempotent = true })
  host:on_disconnect(function(session)
    for name in pairs(self._joined[session] or {}) do
      leave(self, tell, session, name)
    end
  end)
end

return M
