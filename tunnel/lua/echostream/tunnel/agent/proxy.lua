--- The handler of the stream "tunnel.http": one exchange, from the server's stream to a backend and back.

local codec = require "echostream.codec"
local core = require "echostream.tunnel.core"
local errors = require "echostream.tunnel.errors"
local local_rules = require "echostream.tunnel.agent.local_rules"
local log = require "echostream.log"
local loop = require "echostream.loop"
local relay = require "echostream.tunnel.agent.relay"

local M = {}

-- Numbers of `enum et_reset`, the codes of streams that are given up.
M.resets = { cancel = 1, refused = 2, protocol = 3, truncated = 4, timeout = 5, internal = 6, enhance_calm = 7, no_error = 8 }

-- Methods that may be sent twice (RFC 9110, section 9.2.2).
local idempotent = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true, DELETE = true }

-- How often a request is begun, on all connections and backends together; seconds for a stream's first message.
local ATTEMPTS, FIRST = 4, 30

-- Answers made here ---------------------------------------------------------------------------------------------

local END <const> = core.part "end"

-- The message of a response that no backend made.
local function answer(status, reason, head_only, retry_after)
  local fields = {
    status = status,
    { "content-type", "text/plain; charset=utf-8" },
    { "content-length", tostring(#reason + 1) },
    { "cache-control", "no-store" },
    { "x-echostream-tunnel", "agent" },
  }
  if retry_after then
    fields[#fields + 1] = { "retry-after", tostring(retry_after) }
  end
  local head = assert(core.head("response", fields))
  if head_only then
    return head:part(true)
  end
  return head:part(false) .. core.part("body", reason .. "\n") .. END
end

-- The note of how a request got to its backend; for the usual one its connection keeps it.
local function note_of(moving, attempt)
  local record, name = moving.record, moving.backend.name
  local usual = attempt == 1 and moving.reused
  if usual and record.note then
    return record.note
  end
  local note = core.part("note", codec.msgpack.pack {
    backend = name, connect_time = record.connect_time, reused = moving.reused, attempt = attempt,
  })
  if usual then
    record.note = note
  end
  return note
end

-- One exchange --------------------------------------------------------------------------------------------------

-- What a failure before the response's head is to the visitor.
local function status_of(err, what)
  if what == "timeout" or err.code == "timeout" or err.details and err.details.reset == "timeout" then
    return 504
  elseif err.code == "resource_exhausted" then
    return 503
  end
  return 502
end

-- Whether the request, which failed so, may be begun once more.
local function may_retry(method, moving, reason, attempt)
  if attempt >= ATTEMPTS or not moving:replayable() then
    return false
  elseif reason == "refused" then
    -- HTTP/2 says so of what was not looked at. HTTP/1.1 knows that nothing came back on a kept connection.
    return moving.record.protocol == "h2" or idempotent[method]
  end
  return reason == "truncated" and moving.reused and idempotent[method]
end

local function kind_of(head)
  if head.method == "CONNECT" then
    return "tunnel"
  end
  local content = head:get "content-type"
  return content and content:find("^application/grpc") and "grpc" or "http"
end

-- Finds a backend that takes the request, and waits for the head of its response.
-- → head, fin, number of the attempt; or nil and what to answer: status, reason; or nil, nil, why: the server is gone
local function begin(self, moving, service, head, kind, timeout)
  local options = service.options
  -- Where both sides stream, a response may begin long after its request.
  local patience = timeout and timeout.headers or kind == "grpc" and options.websocket_timeout or options.headers_timeout
  local method = head.method
  moving.head, moving.careful = head, not idempotent[method]
  local tried, problem
  for attempt = 1, ATTEMPTS + #service.backends do
    local backend, why = service:pick(tried)
    if not backend then
      if problem then
        return nil, problem.status, problem.reason
      end
      return nil, 503, "no backend can be asked: " .. why
    end
    local began = loop.now()
    if head.scheme ~= backend.options.scheme then -- x-forwarded-proto has the visitor's
      head.scheme = backend.options.scheme
    end
    local x, about = backend:pool(kind):request(moving, timeout and timeout.connect or options.connect_timeout)
    if not x then
      if about.code == "cancelled" then
        return nil, nil, about
      end
      if about.code ~= "resource_exhausted" then
        backend:connect_failed(about)
      end
      tried = tried or {}
      tried[backend] = true
      problem = { status = status_of(about), reason = about.message }
    else
      backend:connected()
      backend.in_flight = backend.in_flight + 1
      moving.backend = backend
      moving:attach(x)
      local response, fin, what = moving:wait_for_head(patience)
      if response then
        backend:responded(loop.now() - began)
        return response, fin, attempt
      elseif what == "abort" then
        return nil, nil, fin
      end
      moving:detach(what == "timeout" and "timeout" or "cancel")
      backend.in_flight = backend.in_flight - 1
      moving.backend = nil
      local reason = fin.details and fin.details.reset
      problem = { status = status_of(fin, what),
        reason = ("%s: %s"):format(backend.name, what == "timeout" and "no response: " .. fin.message or fin.message) }
      if not may_retry(method, moving, reason, attempt) then
        return nil, problem.status, problem.reason
      end
    end
    self.stats.retries = self.stats.retries + 1
  end
  return nil, problem.status, problem.reason
end

local function is_events(head)
  local content = head:get "content-type"
  return content and content:find "^text/event%-stream"
end

-- The response was begun: the rest of it.
local function finish(self, moving, head, fin, attempt, kind, idle)
  local options = moving.backend.service.options
  local accepted = kind == "tunnel" and (head.status == 101 or head.status >= 200 and head.status < 300)
  if head.status == 101 then
    head.status = 200
  end
  local quiet = accepted or kind == "grpc" or is_events(head)
  local timeout = quiet and options.websocket_timeout or idle or options.idle_timeout
  local first = note_of(moving, attempt) .. head:part(fin)
  local ok, err, what
  if fin then
    ok, err = moving.stream:send(first)
    what = not ok and "abort" or nil
    moving.bytes_out = moving.bytes_out + #first
  else
    if accepted then
      self.stats.tunnels = self.stats.tunnels + 1
    end
    ok, err, what = moving:respond(first, timeout)
    if accepted then
      self.stats.tunnels = self.stats.tunnels - 1
    end
  end
  if ok and accepted and not moving.request_over then
    moving.stream:finish() -- the backend's half-close; the visitor's side may go on
    ok, err = moving:finish_request(timeout)
    what = "abort"
  end
  if ok then
    moving:close(not moving.request_over and "no_error" or nil)
  elseif what == "abort" then
    moving:close "cancel"
    moving.stream:reset(M.resets.cancel)
  else
    local why = what == "timeout" and "timeout" or err.details and err.details.reset or "truncated"
    moving:close(what == "timeout" and "timeout" or "cancel")
    self.stats.errors = self.stats.errors + 1
    moving.stream:send(core.part("reset", { why, err.message }))
  end
end

-- Gives back what an exchange holds, however it ends.
relay.on_close(function(moving)
  local self, backend = moving.owner, moving.backend
  moving:close "cancel"
  if backend then
    backend.in_flight = backend.in_flight - 1
    backend.served = backend.served + 1
  end
  local stats = self.stats
  stats.in_flight = stats.in_flight - 1
  stats.served = stats.served + 1
  stats.bytes_in = stats.bytes_in + moving.bytes_in
  stats.bytes_out = stats.bytes_out + moving.bytes_out
  moving:release()
  if stats.in_flight == 0 and self.on_idle then
    self.on_idle()
  end
end)

-- Which service a request is for, as the server says, or the rules here. → service, decision, request; or nil, status, reason
local function route(self, moving, head, session)
  local name, decision, request = head:get "x-echostream-service", nil, nil
  if name then
    head:remove "x-echostream-service"
  end
  if self.rules then
    decision, request = local_rules.judge(self.rules, head, session)
    if decision and decision.answer then
      local answered, body = decision.answer(request)
      moving.own = answered:part(body == "") .. (body ~= "" and core.part("body", body) .. END or "")
      return nil
    elseif decision then
      name = decision.service or decision.group or name
    elseif request then
      return nil, errors.status(request), request.message
    end
  end
  local service, why = self.backends:find(name, "http")
  if not service then
    return nil, 503, why
  end
  return service, decision, request
end

local function serve(self, moving, head, session)
  local service, decision, request = route(self, moving, head, session)
  local kind = kind_of(head)
  local response, fin, facts
  if service then
    local timeout = decision and decision.timeout
    if service.options.host then
      head.authority = service.options.host
    end
    response, fin, facts = begin(self, moving, service, head, kind, timeout)
    if response then
      if decision and decision.response then
        decision.response(request, response)
      end
      return finish(self, moving, response, fin, facts, kind, timeout and timeout.idle)
    end
  elseif moving.own then
    moving:close "cancel"
    moving.stream:send(moving.own)
    return
  else
    fin, facts = decision, request
  end
  self.stats.errors = self.stats.errors + 1
  moving:close "cancel"
  if not fin then -- nobody is there any more
    moving.stream:reset(M.resets.cancel)
    return
  end
  moving.stream:send(answer(fin, facts, head.method == "HEAD", fin == 503 and 1 or nil))
end

--- Makes the handler of "tunnel.http".
---@param self { backends: echostream.tunnel.agent.backends, stats: table, watch: echostream.tunnel.watch,
---  rules: echostream.tunnel.rules?, on_idle: function? }
---@return fun(session: echostream.session, stream: echostream.stream)
function M.handler(self)
  return function(session, stream)
    local frame, err = stream:recv(FIRST)
    if not frame then
      if err then
        stream:reset(M.resets.cancel)
      end
      return
    end
    local head, rest = core.split(frame.data)
    if not head or head.kind ~= "request" then
      log.write("warn", "a stream of the tunnel did not begin with a request: " .. (head and head.kind or tostring(rest)))
      return stream:reset(M.resets.protocol)
    end
    local stats = self.stats
    stats.in_flight = stats.in_flight + 1
    local moving <close> = relay.new(stream, rest, self.watch)
    moving.owner = self
    serve(self, moving, head, session)
  end
end

return M
