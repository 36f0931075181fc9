--- A plugin for servers and clients: who is here. The server keeps, for each room, who has joined and what they say of themselves, and
--- tells those in the room of every change. Whose session ends has left.
---
---     server:plugin(echo.plugins.presence())
---     local who = echo.plugins.presence()     -- and client:plugin(who)
---     who:join("lobby", { name = "ann" })

local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"
local presence_client = require "echostream.plugins.presence_client"
local presence_server = require "echostream.plugins.presence_server"
local task = require "echostream.task"

local M = {}

---@class echostream.options.presence
---@field admit? fun(session: echostream.session, room: string, meta: any): any, any  servers: may it join, or list? Nothing, or nil and an error: no
---@field max_rooms? integer    servers: rooms that one session may be in (default: 100)
---@field max_members? integer  servers: members of one room (default: 10,000)
---@field max_meta? integer     servers: bytes that a member may say of itself, and a value for every 16 of them (default: 4,096)
---@field max_bytes? integer    servers: bytes that the members of one room may say together: who joins is told all of it (default: 1 MiB)
---@field update_interval? number  servers: seconds between two changes of what a member says that the others hear of; of more they hear the
--- last; 0: of each (default: 0.1)

local schema = {
  admit = { type = "function" },
  max_rooms = { type = "integer", min = 1, default = 100 },
  max_members = { type = "integer", min = 1, default = 10000 },
  max_meta = { type = "integer", min = 1, max = 1 << 20, default = 4096 },
  max_bytes = { type = "integer", min = 1, default = 1 << 20 },
  update_interval = { type = "seconds", max = 1e6, default = 0.1 },
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
  local ok, err = presence_client.fetch(self, session, room, "presence.join", mine.meta)
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
  self._host, self._rooms, self._session, self._tell = host, {}, nil, tell
  if type(host.auth) == "function" then
    return presence_server.install(self, host, tell)
  end
  host:add_event("presence.change", function(session, ...)
    presence_client.changed(self, session, ...)
  end)
  self._session = host.session
  host:on_connect(function(session)
    presence_client.came(self, session)
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
