--- Connections that are no HTTP: raw TCP ports, and TLS that is passed through by the name in its ClientHello. One stream of the name
--- `tunnel.tcp` each (tunnel/DESIGN.md); half-close goes one way, an abort goes both.

local codec = require "echostream.codec"
local errors = require "echostream.tunnel.errors"
local ids = require "echostream.tunnel.ids"
local loop = require "echostream.loop"
local parts = require "echostream.tunnel.server.parts"
local rules_request = require "echostream.tunnel.rules.request"
local sockets = require "echostream.tunnel.socket"
local task = require "echostream.task"

local M = {}

local msgpack = codec.msgpack
local MAX <const> = 65536
local CANCEL <const> = 1
local PIECE <const> = 0.25 -- seconds that a wait for bandwidth is looked after

-- One connection -------------------------------------------------------------------------------------------------

local Connection = {}
Connection.__index = Connection

local function note(record, cause, reason)
  if not record.cause then
    record.cause, record.reason = cause, reason
  end
end

-- Ingress cuts it off.
function Connection:stop()
  self.stopped = true
  self.socket:close(false)
  if self.stream then
    self.stream:reset(CANCEL)
  end
end

-- A limit on time may be reached; of watch.lua.
function Connection:check(now)
  local timeouts = self.timeouts
  if now - self.last >= (self.answered and timeouts.tunnel_idle or timeouts.headers) and not self.timed_out then
    self.timed_out = true
    note(self.record, "timeout", self.answered and "nothing came for too long" or "the agent did not answer in time")
    self:stop()
  end
end

-- As of forward.lua.
local function pace(self, direction, n)
  local slot = self.slot
  local seconds = slot and slot:pace(direction, n) or 0
  while seconds > 0 and not self.stopped and not self.gone and task.sleep(math.min(seconds, PIECE)) do
    seconds, self.last = seconds - PIECE, self.watch.now
  end
end

-- From the visitor to the agent.
local function upload(self, stream)
  local socket, record = self.socket, self.record
  while true do
    local bytes, err = socket:read(MAX)
    if not bytes then
      self.up_over = true
      if err then
        self.gone = true
        note(record, "visitor", err.message)
        stream:reset(CANCEL)
      else
        stream:finish()
      end
      return
    end
    record.bytes_in = record.bytes_in + #bytes
    self.last = self.watch.now
    pace(self, "in", #bytes)
    if not stream:send(bytes) then
      return -- the other pump learns why
    end
  end
end

local function download(self, stream)
  local socket, record = self.socket, self.record
  while true do
    local frame, err = stream:recv()
    if not frame then
      return err
    end
    record.bytes_out = record.bytes_out + #frame.data
    self.last = self.watch.now
    pace(self, "out", #frame.data)
    if not socket:write(frame.data) then
      note(record, "visitor", "the visitor went")
      return errors.new(499, "the visitor went")
    end
  end
end

-- Waits for the agent's word that it is connected.
local function greet(stream, hello)
  local ok, err = stream:send(hello)
  if not ok then
    return nil, err
  end
  local frame
  frame, err = stream:recv()
  if not frame then
    return nil, err or errors.new(502, "the agent ended the stream")
  end
  local told = msgpack.unpack(frame.data)
  if type(told) == "table" and told.ok == true then
    return true
  end
  local _, why = parts.body_size(frame.data)
  return nil, errors.new(502, why or "the agent's answer was none")
end

local function attempt(self, member, request)
  local stream, err = member.session:with { secret = true }:create_stream "tunnel.tcp"
  if not stream then
    return nil, err, true
  end
  self.stream = stream
  local ok
  ok, err = greet(stream, msgpack.pack {
    service = self.service, peer = self.record.peer_ip, local_port = self.record.port, sni = request.sni, id = request.id,
  })
  if not ok then
    stream:reset(CANCEL)
    return nil, err, not self.stopped and err.http_status == nil and (err.processed == "no" or err.code == "connection_closed")
  end
  self.record.to_headers = loop.now() - self.record.received
  self.answered = true
  local pump = task.spawn(upload, self, stream)
  err = download(self, stream)
  if err then
    note(self.record, self.timed_out and "timeout" or err.code == "connection_closed" and "agent" or "backend", err.message)
    self.socket:close(false)
    stream:reset(CANCEL)
    pump:cancel()
  else
    self.socket:finish()
    pump:wait()
    if not self.up_over then
      self.socket:close(false)
    end
  end
  return true
end

local function forward(self, ingress, request, group)
  local groups, tried, left = ingress.groups, nil, ingress.retries
  while true do
    local member, info = groups:pick(group, request, tried, self.service)
    local record = self.record
    if not member then
      note(record, "no_agent", info.message)
      return
    end
    record.agent, record.attempts = member.id, record.attempts + 1
    member.streams = member.streams + 1
    groups:begin(member)
    local ok, err, again = attempt(self, member, request)
    local well = ok and (record.cause == nil or record.cause == "visitor" or record.cause == "stopped")
    groups:finish(member, well)
    member.streams = member.streams - 1
    member.bytes_in, member.bytes_out = member.bytes_in + record.bytes_in, member.bytes_out + record.bytes_out
    member[well and "served" or "errors"] = member[well and "served" or "errors"] + 1
    if ok or left <= 0 or not again then
      if not ok then
        note(record, err.code == "connection_closed" and "agent" or "backend", err.message)
      end
      return
    end
    left, tried = left - 1, tried or {}
    tried[member] = true
  end
end

-- Connections by rule --------------------------------------------------------------------------------------------

-- What rules see of it; nil when no rule could say anything of it.
local function request_of(listener, info, kind)
  local request = rules_request.new(nil, {
    kind = kind, peer_ip = info.peer_ip, peer_port = info.peer_port, port = listener.port, listener = listener.name, protocol = "raw",
    sni = info.sni, received = loop.now(),
  })
  if request then
    ids.apply(request)
  end
  return request
end

local function record_of(face, listener, info, request, decision)
  local record = face.record(listener, info)
  record.protocol, record.kind, record.id, record.trace_id, record.client_ip = "raw", request.kind, request.id, request.trace_id, request.client_ip
  record.host, record.rule, record.group, record.service = request.host, decision.rule.name, decision.group, decision.service
  return record
end

local function admit_and_forward(self, ingress, request, decision)
  local slot, err = ingress.limits:admit(request, decision)
  if not slot then
    note(self.record, errors.status(err) == 403 and "refused" or "limit", err.message)
    self.record.limit = err.limit
    return
  end
  self.slot = slot
  self.watch:add(self)
  forward(self, ingress, request, self.record.group)
end

-- In a task.
local function serve(ingress, face, listener, socket, info, request, decision)
  local record = record_of(face, listener, info, request, decision)
  local self = setmetatable({
    socket = socket, record = record, slot = nil, service = record.service, watch = ingress.watch, last = loop.now(),
    timeouts = ingress:timeouts(decision), stream = nil, answered = false, up_over = false, timed_out = false, stopped = false, gone = false,
  }, Connection)
  ingress:enter(self, record)
  local ok, raised = xpcall(admit_and_forward, face.traced, self, ingress, request, decision)
  self.watch:remove(self)
  if self.slot then
    self.slot:release()
  end
  if not ok then
    note(record, "internal", "an error here")
    face.report(raised)
  end
  if not ok or not self.answered then
    self:stop()
  end
  ingress:leave(self, record)
end

-- The decision of a rule that passes it on; or nil, and whether some rule matched all the same (and answers, or its function failed).
local function decide(ingress, request)
  local decision, err = ingress.rules:match(request)
  if decision and decision.group then
    return decision
  end
  return nil, decision ~= nil or errors.status(err) ~= 404
end

-- What a port of kind "tcp" does where no rule says otherwise: the same table each time, which limits remember.
local function own_decision(listener)
  local entry = listener.entry
  if entry.group and not listener.decision then
    listener.decision = { rule = { name = "listener " .. listener.name }, group = entry.group, service = entry.service }
  end
  return listener.decision
end

---@package
--- A connection on a port of kind "tcp".
---@param ingress echostream.tunnel.ingress
---@param face table     the module ingress.lua
---@param listener table
---@param socket table   the blocking face of a socket
function M.accept(ingress, face, listener, socket)
  local info = face.split_info(socket:info())
  local request = request_of(listener, info, "tcp")
  local decision, is_ruled = decide(ingress, request)
  if not decision and not is_ruled then
    decision = own_decision(listener)
  end
  if not decision then -- what no rule passes on, and what one does not want passed on
    socket:close(false)
    return
  end
  task.spawn(serve, ingress, face, listener, socket, info, request, decision)
end

---@package
--- A ClientHello on a port of kind "tls": passed through when a rule of kind "tls" fits its name, else TLS ends here.
---@param ingress echostream.tunnel.ingress
---@param face table     the module ingress.lua
---@param listener table
---@param raw echostream.tunnel.core_socket
---@param name string
function M.named(ingress, face, listener, raw, name)
  local info = face.split_info(raw:info())
  info.sni = name ~= "" and name or nil
  local request = request_of(listener, info, "tls")
  local decision = decide(ingress, request)
  if decision then
    raw:take_raw()
    task.spawn(serve, ingress, face, listener, sockets.new(raw), info, request, decision)
  elseif listener.context then
    raw:start_tls(listener.context)
  else
    raw:close(false)
  end
end

return M
