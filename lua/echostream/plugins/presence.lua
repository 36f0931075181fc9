--- A plugin for servers and clients: who is here. The server keeps, for each room, who has joined and what they say of themselves, and
--- tells those in the room of every change. Whose session ends has left.
---
---     server:plugin(echo.plugins.presence())
---     local who = echo.plugins.presence()     -- and client:plugin(who)
---     who:join("lobby", { name = "ann" })

local core = require "echostream.core"
local errors = require "echostream.errors"
local log = require "echostream.log"
local options = require "echostream.options"
local presence_server = require "echostream.plugins.presence_server"
local task = require "echostream.task"
local values = require "echostream.plugins.values"

local M = {}

---@class echostream.options.presence
---@field admit? fun(session: echostream.session, room: string, meta: any): any, any  servers: may it join, or list? Nothing, or nil and an error: no
---@field max_rooms? integer    servers: rooms that one session may be in (default: 100)
---@field max_members? integer  servers: members of one room (default: 10,000)
---@field max_meta? integer     servers: bytes that a member may say of itself (default: 4,096)

local schema = {
  admit = { type = "function" },
  max_rooms = { type = "integer", min = 1, default = 100 },
  max_members = { type = "integer", min = 1, default = 10000 },
  max_meta = { type = "integer", min = 1, max = 1 << 20, default = 4096 },
}

---@class echostream.presence.member
---@field id integer  of its session at the server: another one after every reconnection
---@field meta any    what it says of itself

---@class echostream.presence: echostream.plugin
local Presence = { __name = "echostream.presence" }
Presence.__index = Presence

local function tell(self, room, change, member)
  for _, fn in ipairs(self._listeners) do
    task.spawn(fn, room, change, member)
  end
end

-- Members as the server gave them, in the place of those that were known: what is different is told.
local function replace(self, name, seq, list)
  local room, members = self._rooms[name], {}
  local before = room.members
  for _, member in ipairs(list) do
    members[member.id] = { id = member.id, meta = member.meta }
  end
  room.seq, room.members = seq, members
  for id, member in pairs(before) do
    if not members[id] then
      tell(self, name, "leave", member)
    end
  end
  for id, member in pairs(members) do
    if not before[id] then
      tell(self, name, "join", member)
    elseif values.canonical(before[id].meta) ~= values.canonical(member.meta) then
      tell(self, name, "update", member)
    end
  end
end

-- Asks the server for a room, again when it changed meanwhile: events and answers overtake each other.
local function fetch(self, session, name, method, ...)
  local room = self._rooms[name]
  room.busy = true
  local seq, list = session:request(method, name, ...)
  for _ = 1, 3 do
    if not seq or self._rooms[name] ~= room then
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

local function changed(self, session, name, seq, change, id, meta)
  local room = self._rooms[name]
  if not room or session ~= self._session or math.type(seq) ~= "integer" then
    return
  end
  room.seen = math.max(room.seen, seq)
  if room.busy or seq <= room.seq then
    return
  elseif seq > room.seq + 1 then -- something was dropped on the way
    self._host:after(0, fetch, self, session, name, "presence.list")
    room.busy = true
    return
  end
  room.seq = seq
  local member = { id = id, meta = meta }
  room.members[id] = change ~= "leave" and member or nil
  tell(self, name, change, member)
end

-- A new session: joins again what was joined.
local function came(self, session)
  self._session = session
  for name, room in pairs(self._rooms) do
    room.seen, room.busy = 0, true
    self._host:after(0, function()
      local ok, err = fetch(self, session, name, "presence.join", room.meta)
      if not ok and not session.closed_by then
        log.write("warn", ("presence: could not join %s again: %s"):format(errors.show(name), tostring(err)))
      end
    end)
  end
end

--- On clients: joins a room, and does so again after every reconnection. Once more: says something else of itself. Waits for the server.
---@param room string
---@param meta? any  what the others see
---@return true|nil ok, echostream.error? err  `permission_denied`, `resource_exhausted`; without a session `unavailable`
function Presence:join(room, meta)
  options.argument("presence:join", "room", room, "string")
  local session = self._session
  if not session or session.closed_by then
    return nil, errors.new("unavailable", "not connected")
  end
  local mine = self._rooms[room] or { members = {}, seq = 0, seen = 0, busy = false }
  local before = mine.meta
  mine.meta = meta == nil and core.null or meta
  self._rooms[room] = mine
  local ok, err = fetch(self, session, room, "presence.join", mine.meta)
  if not ok and not session.closed_by and self._rooms[room] == mine then -- refused
    mine.meta, self._rooms[room] = before, before ~= nil and mine or nil
  end
  return ok, err
end

--- On clients: leaves a room.
---@param room string
---@return true|nil ok, echostream.error? err
function Presence:leave(room)
  options.argument("presence:leave", "room", room, "string")
  self._rooms[room] = nil
  if not self._session then
    return nil, errors.new("unavailable", "not connected")
  end
  return self._session:request("presence.leave", room)
end

--- Who is in a room, oldest sessions first. On clients: of a room that was joined, as far as is known here.
---@param room string
---@return echostream.presence.member[]
function Presence:list(room)
  options.argument("presence:list", "room", room, "string")
  local list = {}
  for _, member in pairs(self._rooms[room] and self._rooms[room].members or {}) do
    list[#list + 1] = member
  end
  table.sort(list, function(a, b)
    return a.id < b.id
  end)
  return list
end

--- `fn(room, change, member)` is called, in a task, when somebody (oneself too) joins, leaves or says something else of
--- itself; at clients in the rooms that were joined.
---@param fn fun(room: string, change: "join"|"leave"|"update", member: echostream.presence.member)
---@return self
function Presence:on_change(fn)
  options.argument("presence:on_change", "function", fn, "function")
  table.insert(self._listeners, fn)
  return self
end

function Presence:install(host)
  self._host, self._rooms, self._session = host, {}, nil
  if type(host.auth) == "function" then
    return presence_server.install(self, host, tell)
  end
  host:add_event("presence.change", function(session, ...)
    changed(self, session, ...)
  end)
  self._session = host.session
  host:on_connect(function(session)
    came(self, session)
  end)
end

--- Makes the plugin, for a server or for a client.
---@param opts? echostream.options.presence
---@return echostream.presence
function M.presence(opts)
  return setmetatable({ name = "presence", _options = options.check("plugins.presence", opts, schema), _listeners = {}, _rooms = {},
    adopt = presence_server.adopt }, Presence)
end

return M
