--- Where visitors come in: listeners, and the way of one exchange through rules, limits and groups to an agent.

local errors = require "echostream.tunnel.errors"
local exchanges = require "echostream.tunnel.exchange"
local forward = require "echostream.tunnel.server.forward"
local ids = require "echostream.tunnel.ids"
local listeners = require "echostream.tunnel.server.listeners"
local log = require "echostream.log"
local loop = require "echostream.loop"
local make_request = require("echostream.tunnel.rules.request").new
local priority = require "echostream.tunnel.priority"
local sockets = require "echostream.tunnel.socket"
local task = require "echostream.task"
local tcp = require "echostream.tunnel.server.tcp"
local watch = require "echostream.tunnel.watch"

local M = {}

---@class echostream.tunnel.ingress
local Ingress = { __name = "echostream.tunnel.ingress" }
Ingress.__index = Ingress

---@param opts table   of the plugin, checked
---@param with { rules: table, groups: table, limits: table, forwarded: table, done: fun(record: table) }
---@return echostream.tunnel.ingress
function M.new(opts, with)
  local self = setmetatable({
    rules = with.rules, groups = with.groups, limits = with.limits, draining = false, retries = opts.retries,
    _options = opts, _done = with.done, _listen = listeners.check("tunnel.server", opts.listen), _open = {},
    _forwarded = with.forwarded, _alt_svc = type(opts.http3) == "table" and opts.http3.alt_svc or nil,
    watch = watch.new(function(run, now)
      run.check(run, now)
    end),
    _timeouts = setmetatable({}, { __mode = "k" }),
    _active = {}, _n_active = 0, _idle_waiters = {}, _exchanges = 0, _malformed = 0,
  }, Ingress)
  return self
end

-- One exchange --------------------------------------------------------------------------------------------------

-- Addresses that were taken apart: a connection has many requests. There is a bound, and those above it begin anew.
local MAX_KNOWN <const> = 1024
local ips, ports, known = {}, {}, 0

-- What the module says of a connection, with the peer's address taken apart. Who comes over a unix socket is on this machine.
local function split_info(info)
  local peer = info.peer or ""
  local ip, port = ips[peer], ports[peer]
  if not ip then
    ip, port = peer:match "^%[?([%x:.]+)%]?:(%d+)$"
    ip, port = ip or "127.0.0.1", port and math.tointeger(port) or nil
    if known >= MAX_KNOWN then
      ips, ports, known = {}, {}, 0
    end
    ips[peer], ports[peer], known = ip, port, known + 1
  end
  info.peer_ip, info.peer_port = ip, port
  if info.sni == "" then
    info.sni = nil
  end
  return info
end
M.split_info = split_info

---@package
--- The record of an exchange or a connection that begins.
---@param listener { name: string, port: integer }
---@param info table  of split_info
---@return table
function M.record(listener, info)
  return {
    at = loop.current().core:wall(), received = loop.now(), listener = listener.name, port = listener.port, protocol = info.protocol, sni = info.sni,
    peer_ip = info.peer_ip, bytes_in = 0, bytes_out = 0, attempts = 0,
    -- What comes later, named so that the table has its size at once.
    id = nil, trace_id = nil, kind = nil, client_ip = nil, host = nil, method = nil, path = nil, query = nil, user = nil, rule = nil, group = nil,
    service = nil, agent = nil, status = nil, cause = nil, request = nil, response = nil, to_headers = nil, duration = nil, backend = nil,
  }
end

local function copy_request(record, request)
  record.id, record.trace_id, record.kind, record.client_ip = request.id, request.trace_id, request.kind, request.client_ip
  record.host, record.method, record.path, record.query, record.user = request.host, request.method, request.path, request.query, request.user
  record.request = request.head
end

local function fail(record, cause, err)
  if not record.cause then
    record.cause, record.reason = cause, err.message
  end
  record.limit = record.limit or err.limit
  return err
end

-- What limits say no with.
local function refusal_of(err)
  local status = errors.status(err)
  return (status == 403 or status == 401) and "refused" or "limit"
end

---@package
--- The time limits of a decision, what it leaves open from the options.
---@param decision table?
---@return { headers: number, idle: number, tunnel_idle: number }
function Ingress:timeouts(decision)
  local own = decision and decision.timeout
  if not own then
    return self._options.timeouts
  end
  local merged = self._timeouts[own]
  if not merged then
    local default = self._options.timeouts
    merged = { headers = own.headers or default.headers, idle = own.idle or default.idle, tunnel_idle = own.idle or default.tunnel_idle }
    self._timeouts[own] = merged
  end
  return merged
end

-- The answer of a rule itself.
local function answer(exchange, request, decision, record)
  local head, body = decision.answer(request)
  record.status, record.response, record.to_headers = head.status, head, loop.now() - record.received
  if request.method == "HEAD" then
    body = ""
  end
  if exchange:send_head(head, body == "") and body ~= "" then
    exchange:write(body, true)
    record.bytes_out = #body
  end
end

local function pass_on(self, exchange, fin, request, decision, kept, record)
  local head = request.head
  local max_body = decision.max_body or self._options.max_body
  if max_body and (head.length or 0) > max_body and request.kind ~= "websocket" and request.kind ~= "connect" then
    record.limit = "body"
    return fail(record, "limit", errors.new(413, ("the body is larger than %d bytes"):format(max_body)))
  end
  if decision.rewrite then
    local ok, err = decision.rewrite(request)
    if not ok then
      return fail(record, "internal", err)
    end
  end
  self._forwarded:apply(request)
  if decision.service then
    head:set("x-echostream-service", decision.service)
  else
    head:remove "x-echostream-service"
  end
  local wanted = head:get "priority"
  local job = {
    exchange = exchange, head = head, fin = fin, request = request, record = record, groups = self.groups, group = decision.group,
    service = decision.service, timeouts = self:timeouts(decision), watch = self.watch, max_body = max_body, retries = self.retries,
    slot = kept.slot, urgency = wanted and priority.parse(wanted) or nil,
    -- Named so that the table has its size at once.
    answered = false, aborted = nil, timed_out = false, refused = nil, is_tunnel = false, more_sent = false, upload_over = fin, down_over = false,
    last = 0, check = nil, member = nil, begun = nil, info = nil, stream = nil, first = nil, note_bytes = nil,
    on_response = function(response, info)
      if decision.response then
        decision.response(request, response)
      end
      if self._alt_svc and record.protocol ~= "h3" then
        response:set("alt-svc", self._alt_svc)
      end
      if info.cookie then
        response:add("set-cookie", info.cookie)
      end
    end,
  }
  kept.job = job
  return forward.run(job)
end

-- Everything up to the answer. Returns an error when the visitor has been told nothing.
local function handle(self, exchange, head, fin, info, record, kept)
  local request, err = make_request(head, {
    peer_ip = info.peer_ip, peer_port = info.peer_port, port = record.port, listener = record.listener, protocol = info.protocol, sni = info.sni,
    tls = info.tls, received = record.received,
  })
  if not request then
    return fail(record, "malformed", err)
  end
  kept.request = request
  self._forwarded:judge(request)
  ids.apply(request, self._forwarded:is_trusted(request.peer_ip))
  copy_request(record, request)
  local decision
  decision, err = self.rules:match(request)
  if not decision then
    return fail(record, errors.status(err) == 404 and "no_rule" or "internal", err)
  end
  record.rule, record.group, record.service = decision.rule and decision.rule.name, decision.group, decision.service
  kept.slot, err = self.limits:admit(request, decision)
  record.user = request.user
  if not kept.slot then
    return fail(record, refusal_of(err), err)
  elseif decision.answer then
    return answer(exchange, request, decision, record)
  end
  return pass_on(self, exchange, fin, request, decision, kept, record)
end

---@package
--- A message handler for xpcall; `report` knows its results.
local function traced(raised)
  return { raised = raised, traceback = debug.traceback(nil, 2) }
end

M.traced = traced

---@package
--- Logs an error of ours.
---@param raised any  of `traced`, or what a handler raised
function M.report(raised)
  local is_traced = type(raised) == "table" and raised.traceback ~= nil
  log.write("error", "tunnel: an exchange failed: " .. tostring(is_traced and raised.raised or raised),
    { traceback = is_traced and raised.traceback or nil })
end

---@package
--- Something is under way: `thing` can be cut off by `stop` or `reset`.
---@param thing table
---@param record table
function Ingress:enter(thing, record)
  self._exchanges = self._exchanges + 1
  self._active[thing] = record
  self._n_active = self._n_active + 1
end

---@package
--- It is over, and its record is complete.
---@param thing table
---@param record table
function Ingress:leave(thing, record)
  record.duration = loop.now() - record.received
  self._active[thing] = nil
  self._n_active = self._n_active - 1
  self._done(record)
  if self._n_active == 0 then
    local waiting = self._idle_waiters
    self._idle_waiters = {}
    for _, resume in ipairs(waiting) do
      resume(true)
    end
  end
end

-- What looks at exchanges harms none.
local function tapped(self, exchange, head, record, fin)
  local ok, other = pcall(self.tap, exchange, head, record, fin)
  if not ok then
    M.report(other)
  end
  return ok and other or exchange
end

--- Serves one exchange, until it is over. In a task of its own.
---@param listener { name: string, port: integer }
---@param exchange table   tunnel/DESIGN.md
---@param head echostream.tunnel.head
---@param fin boolean
function Ingress:serve(listener, exchange, head, fin)
  local info = split_info(exchange:info())
  local record, kept = M.record(listener, info), { request = nil, slot = nil }
  if self.tap then
    exchange = tapped(self, exchange, head, record, fin)
  end
  self:enter(exchange, record)
  local ok, err = xpcall(handle, traced, self, exchange, head, fin, info, record, kept)
  if not ok then
    M.report(err)
    record.cause, record.reason = "internal", "an error here"
    err = errors.new(500, "an error here")
    if kept.job then
      forward.give_up(kept.job)
    end
  end
  if err and not record.response then
    local sent, status = xpcall(errors.send, traced, exchange, kept.request, err)
    if sent then
      record.status = status
      record.to_headers = record.to_headers or loop.now() - record.received
    else -- what a user's function said cannot be put into an answer
      M.report(status)
      exchange:reset "internal"
    end
  elseif err then
    exchange:reset "internal"
  end
  if kept.slot then
    kept.slot:release()
  end
  self:leave(exchange, record)
end

-- Listeners ----------------------------------------------------------------------------------------------------

local function on_exchange(self, listener, x, head, fin)
  task.spawn(self.serve, self, listener, exchanges.new(x, fin), head, fin)
end

local function on_refused(self, listener, peer, status, why)
  self._malformed = self._malformed + 1
  local ip = peer and (peer:match "^%[(.*)%]:%d+$" or peer:match "^(.*):%d+$") or peer
  self._done {
    at = loop.current().core:wall(), received = loop.now(), listener = listener.name, port = listener.port, peer_ip = ip,
    status = status, cause = "malformed",
    reason = why, bytes_in = 0, bytes_out = 0, attempts = 0, duration = 0, to_headers = 0,
  }
end

--- Opens all listeners, or none.
---@return true|nil ok, echostream.error? err
function Ingress:open()
  if #self._open > 0 then
    return true
  end
  local on = {
    exchange = function(listener, x, head, fin) on_exchange(self, listener, x, head, fin) end,
    socket = function(listener, socket) tcp.accept(self, M, listener, sockets.new(socket)) end,
    name = function(listener, socket, name) tcp.named(self, M, listener, socket, name) end,
    refused = function(listener, peer, status, why) on_refused(self, listener, peer, status, why) end,
  }
  for _, entry in ipairs(self._listen) do
    local listener, err = listeners.open(entry, on)
    if not listener then
      self:close()
      return nil, err
    end
    self._open[#self._open + 1] = listener
  end
  self.draining = false
  return true
end

---@return table<string, string>
function Ingress:addresses()
  local out = {}
  for _, listener in ipairs(self._open) do
    out[listener.name] = listener.address
  end
  return out
end

--- Reads the certificates again. Returns the first error; the others are renewed all the same.
---@return true|nil ok, echostream.error? err
function Ingress:renew()
  local first
  for _, listener in ipairs(self._open) do
    if listener.tls then
      local ok, err = listeners.renew(listener)
      first = first or not ok and err or nil
    end
  end
  if first then
    return nil, first
  end
  return true
end

---@return { in_flight: integer, exchanges: integer, malformed: integer }
function Ingress:stats()
  return { in_flight = self._n_active, exchanges = self._exchanges, malformed = self._malformed }
end

-- Whoever is still there is cut off.
local function cut(self, why)
  for exchange, record in pairs(self._active) do
    if not record.cause then
      record.cause, record.reason = "stopped", why
    end
    if exchange.stop then
      exchange:stop() -- a connection: tcp.lua
    else
      exchange:reset "cancel"
    end
  end
end

--- No new connections; waits until what is under way has ended, and cuts off what has not after `grace` seconds.
---@param grace number
---@return boolean all  ended by itself
function Ingress:drain(grace)
  self.draining = true
  for _, listener in ipairs(self._open) do
    listeners.drain(listener)
  end
  if self._n_active > 0 and grace > 0 then
    task.await(function(resume)
      table.insert(self._idle_waiters, resume)
    end, grace)
  end
  local all = self._n_active == 0
  cut(self, "the server stops")
  return all
end

--- Closes everything at once.
function Ingress:close()
  for _, listener in ipairs(self._open) do
    listeners.close(listener)
  end
  self._open = {}
  cut(self, "the tunnel was closed")
  self.watch:stop()
end

return M
