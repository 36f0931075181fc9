--- A stub resolver: one question to the name servers of the system, by UDP, and by TCP when the answer does not fit (RFC 1035, 7766).
--- For record types that the system's own functions do not look up.

local address = require "echostream.address"
local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local message = require "echostream.discovery.message"
local socket = require "echostream.loop.socket"
local task = require "echostream.task"
local udp = require "echostream.loop.udp"

local M = {}

-- Seconds for each attempt, and rounds over all servers, as resolv.conf(5) has them by default (there 5).
local ATTEMPT, ROUNDS, MAX_SERVERS = 3, 2, 3

--- The name servers of resolv.conf(5), as { ip, port }.
---@param text string
---@return { [1]: string, [2]: integer }[]
function M.servers_of(text)
  local list = {}
  for line in text:gmatch "[^\n]+" do
    local ip = line:match "^%s*nameserver%s+([%x:.%%%w]+)"
    if ip and address.literal(ip) and #list < MAX_SERVERS then
      list[#list + 1] = { ip, 53 }
    end
  end
  return #list > 0 and list or { { "127.0.0.1", 53 } }
end

local function system_servers()
  local file <close> = io.open "/etc/resolv.conf"
  return M.servers_of(file and file:read "a" or "")
end

local function answers(packet, id, name, type)
  local question = packet and packet.questions[1]
  return packet and packet.response and packet.id == id and question and question.type == type
    and message.key(question.name) == message.key(name)
end

local function by_udp(server, query, check)
  return task.await(function(resume)
    local open
    local any = server[1]:find ":" and "::" or "0.0.0.0"
    local err
    open, err = udp.open({ ip = any, port = 0 }, function(bytes, ip, port)
      local packet = ip == server[1]:gsub("%%.*$", "") and port == server[2] and message.decode(bytes)
      if packet and check(packet) then -- anything else was not meant for us, or is somebody's guess
        open:close()
        resume(packet)
      end
    end)
    if open then
      local ok
      ok, err = open:send(query, server[1], server[2])
      if not ok then
        open:close()
        open = nil
      end
    end
    if not open then
      resume(nil, errors.new("io", ("no question to the name server %s: %s"):format(server[1], tostring(err))))
      return
    end
    return function()
      open:close()
    end
  end, ATTEMPT)
end

local function by_tcp(server, query, check)
  return task.await(function(resume)
    local open, buffer = nil, ""
    local function finish(...)
      if open then
        open:close()
      end
      resume(...)
    end
    return socket.connect({ ip = server[1], port = server[2] }, function(connection, err)
      if not connection then
        return finish(nil, errors.new("io", ("no connection to the name server %s: %s"):format(server[1], tostring(err))))
      end
      open = connection
      connection:send((">s2"):pack(query))
      return function(data)
        buffer = buffer .. (data or "")
        local length = #buffer >= 2 and (">I2"):unpack(buffer)
        if length and #buffer >= length + 2 then
          local packet = message.decode(buffer:sub(3, length + 2))
          finish(packet and check(packet) and packet or nil,
            errors.new("protocol", ("the name server %s answered something else"):format(server[1])))
        elseif not data then
          finish(nil, errors.new("io", ("the name server %s closed the connection"):format(server[1])))
        end
      end
    end)
  end, ATTEMPT)
end

local function ask(server, name, type)
  local id = (">I2"):unpack(core.random(2))
  local query = message.encode { id = id, recursion = true, questions = { { name = name, type = type } } }
  local function check(packet)
    return answers(packet, id, name, type)
  end
  local packet, err = by_udp(server, query, check)
  if packet and packet.truncated then
    packet, err = by_tcp(server, query, check)
  end
  return packet, err
end

--- Asks the name servers. In a task.
---@param name string
---@param type integer
---@param servers? { [1]: string, [2]: integer }[]  default: the system's
---@return echostream.dns.message? answer, echostream.error? err  `not_found`: there is no such name
function M.query(name, type, servers)
  if loop.current().sim then
    return nil, errors.new("unavailable", "the simulation has no name service")
  end
  local ok, reason = message.pack_name(name)
  if not ok then
    return nil, errors.new("invalid_argument", reason)
  end
  servers = servers or system_servers()
  local err
  for _ = 1, ROUNDS do
    for _, server in ipairs(servers) do
      local packet, problem = ask(server, name, type)
      if packet and packet.rcode == 0 then
        return packet
      elseif packet and packet.rcode == 3 then
        return nil, errors.new("not_found", "there is no name " .. name)
      elseif not packet and problem.code == "cancelled" then
        return nil, problem
      end
      err = packet and errors.new("unavailable", ("the name server %s answered with code %d"):format(server[1], packet.rcode)) or problem
    end
  end
  return nil, errors.new("unavailable", ("the name servers do not say what %s is: %s"):format(name, err.message))
end

return M
