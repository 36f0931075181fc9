--- One exchange of a visitor over one stream to an agent: the head, two pumps with backpressure both ways, and every way in which it can
--- end. What an exchange is: tunnel/DESIGN.md.

local core = require "echostream.tunnel.core"
local errors = require "echostream.tunnel.errors"
local loop = require "echostream.loop"
local parts = require "echostream.tunnel.server.parts"
local task = require "echostream.task"

local M = {}

local MAX_MESSAGE <const> = 65536
local PIECE <const> = 0.25 -- seconds that a wait for bandwidth is looked after
local MAX_INFORMATIONAL <const> = 128 -- heads before the final one: they wait for no room
local CANCEL <const>, TIMEOUT <const>, INTERNAL <const> = 1, 5, 6 -- enum et_reset

-- RFC 9110 9.2.2.
local idempotent = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true, DELETE = true }

---@class echostream.tunnel.job  what is to be forwarded; it belongs to `run` from then on, which keeps its own in it: answered, aborted, timed_out,
--- refused, is_tunnel, more_sent, upload_over, down_over, last, check, member, begun, info, stream, first, note_bytes, informational
---@field exchange table                        see tunnel/DESIGN.md
---@field head echostream.tunnel.head           as it goes to the agent
---@field fin boolean                           there is no body
---@field request echostream.tunnel.request
---@field record table                          filled in as far as it gets; also see tunnel/DESIGN.md
---@field groups table                         echostream.tunnel.groups
---@field group string                         whose members are tried
---@field service? string                       that the member has to have
---@field timeouts { headers: number, idle: number, tunnel_idle: number }  seconds
---@field watch echostream.tunnel.watch
---@field urgency? integer                      RFC 9218: 0 to 7
---@field max_body? integer
---@field retries? integer                      members that are tried after the first; default 1
---@field on_response? fun(head: echostream.tunnel.head, info: table)  the final head, which it may change; `info` of groups:pick. Must not wait
---@field slot? table                           of limits: `pace` is asked for both directions

-- Ends ---------------------------------------------------------------------------------------------------------

local function note(run, cause, reason)
  local record = run.record
  if not record.cause then
    record.cause, record.reason = cause, reason
  end
end

local function abandon(run, code)
  if run.stream then
    run.stream:reset(code)
  end
end

-- A limit on time may be reached; of watch.lua.
local function check(run, now)
  local timeouts = run.timeouts
  local limit = run.is_tunnel and timeouts.tunnel_idle or run.answered and timeouts.idle or timeouts.headers
  if now - run.last < limit or run.timed_out then
    return
  end
  run.timed_out = true
  note(run, "timeout", run.answered and ("nothing came for %g s"):format(limit) or ("the backend did not answer within %g s"):format(limit))
  abandon(run, TIMEOUT)
  if run.answered then
    run.exchange:reset "timeout" -- the pump may wait for a visitor that reads no more, and the stream's end does not wake it
  end
end

-- Why a stream ended before there was an answer.
local function failure(run, err)
  if run.timed_out then
    return errors.new(504, run.record.reason)
  elseif err and err.details and err.details.reset then
    note(run, "backend", "the agent gave the exchange up")
    return errors.new(502, "the backend gave no answer")
  elseif err and err.code == "resource_exhausted" then
    note(run, "agent", err.message)
    return errors.new(503, "the agent is busy", { retry_after = 1 })
  end
  note(run, "agent", err and err.message or "the agent's stream ended before its answer")
  return errors.new(502, "the agent is gone")
end

-- Whether the same request may go to somebody else.
local function may_repeat(run, err)
  if run.timed_out or run.aborted or run.answered or run.more_sent then
    return false
  elseif not run.stream or err and err.processed == "no" then
    return true -- nobody has seen it
  end
  return run.fin and idempotent[run.request.method] and not (err and err.details and err.details.reset) or false
end

-- Bandwidth limits: waits until more of this direction may come. It is no idleness, and ends when the visitor has gone: what an exchange holds
-- is not held for a debt that nobody waits for.
local function pace(run, direction, n)
  local slot = run.slot
  local seconds = slot and slot:pace(direction, n) or 0
  while seconds > 0 and not run.aborted and not run.timed_out and task.sleep(math.min(seconds, PIECE)) do
    seconds, run.last = seconds - PIECE, run.watch.now
  end
end

-- From the visitor to the agent -----------------------------------------------------------------------------------

local function count_in(run, message)
  local record = run.record
  record.bytes_in = record.bytes_in + parts.body_size(message)
  run.last = run.watch.now
  if run.max_body and record.bytes_in > run.max_body and not run.is_tunnel then
    run.refused = errors.new(413, ("the body is larger than %d bytes"):format(run.max_body), { limit = "body" })
  elseif run.slot then
    local ok, err = run.slot:bytes(#message)
    if not ok then
      run.refused = err
    end
  end
  if run.refused then
    note(run, "limit", run.refused.message)
    record.limit = run.refused.limit
    return false
  end
  return true
end

-- What count_in counted is with the session now.
local function count_sent(run, message)
  if run.slot then
    run.slot:bytes(-#message)
  end
end

local function upload(run, stream)
  local exchange = run.exchange
  while true do
    local message, over = exchange:take(MAX_MESSAGE)
    if not message then
      return -- the visitor went; on_abort knows
    end
    run.more_sent, run.first = true, nil
    if not count_in(run, message) then
      abandon(run, CANCEL)
      return
    end
    pace(run, "in", #message)
    local sent = stream:send(message)
    count_sent(run, message)
    if not sent then
      return -- the stream has failed, which the other pump learns too; or the agent wants no more, and its answer is whole
    end
    if over then
      run.upload_over = true
      stream:finish()
      return
    end
  end
end

-- From the agent to the visitor -----------------------------------------------------------------------------------

local function count_out(run, message, at)
  local size, reset = parts.body_size(message, at)
  run.record.bytes_out = run.record.bytes_out + size
  run.last = run.watch.now
  if reset then
    note(run, "backend", reset)
  end
end

-- Something could not be sent to the visitor: it has gone, which on_abort may be about to say. Or the agent's message makes no sense.
local function is_gone(run, err)
  if err and (err.code == "protocol" or err.code == "invalid_argument") and not (err.details and err.details.reset) then
    note(run, "agent", err.message)
  elseif not run.timed_out and not run.aborted then
    run.aborted = "cancel"
    note(run, "visitor", err and err.message or "the visitor went")
  end
  return false
end

-- The final head. False: the visitor went.
local function answer(run, head, rest)
  local record = run.record
  run.answered = true
  local is_tunnel = run.head.method == "CONNECT" and head.status >= 200 and head.status < 300
  run.is_tunnel = is_tunnel
  if run.on_response then
    run.on_response(head, run.info)
  end
  record.status, record.response, record.to_headers = head.status, head, loop.now() - record.received
  if head.status >= 502 and head.status <= 504 and head:get "x-echostream-tunnel" == "agent" then
    note(run, "backend", ("the agent answered %d"):format(head.status))
  end
  local fin = rest == parts.END
  local ok, err = run.exchange:send_head(head, fin)
  if not ok then
    return is_gone(run, err)
  end
  run.down_over = fin
  return true
end

-- Messages before the final head.
local function before_head(run, message)
  while true do
    local head, rest, told = core.split(message)
    if told then
      run.note_bytes = told
    end
    if not head then
      return rest == "" -- a NOTE alone
    end
    run.last = run.watch.now
    if head.status and head.status >= 200 then
      return answer(run, head, rest), rest
    elseif not head.status then
      return false
    end
    run.informational = (run.informational or 0) + 1
    if run.informational > MAX_INFORMATIONAL then
      note(run, "agent", "too many informational heads")
      return false
    end
    local ok, err = run.exchange:send_head(head, false)
    if not ok then
      return is_gone(run, err)
    end
    if rest == "" then
      return true
    end
    message = rest
  end
end

local function deliver(run, message)
  count_out(run, message)
  pace(run, "out", #message)
  local room, over = run.exchange:put(message)
  if room == nil then
    return is_gone(run, over)
  elseif over == true then
    run.down_over = true
  end
  return true
end

-- Takes messages until the answer is whole. nil, err: there is none, or no more of it.
local function download(run, stream)
  while not run.down_over do
    local frame, err = stream:recv()
    if not frame then
      return nil, err
    end
    local message = frame.data
    if not run.answered then
      local ok, rest = before_head(run, message)
      if not ok then
        return nil, nil
      elseif rest and rest ~= "" and not run.down_over and not deliver(run, rest) then
        return nil, nil
      end
    elseif not deliver(run, message) then
      return nil, nil
    end
  end
  return true
end

-- A stream --------------------------------------------------------------------------------------------------------

local function open(run, member)
  local calls = member._calls
  if not calls then
    calls = {}
    member._calls = calls
  end
  local urgency = run.urgency or 3
  local with = calls[urgency]
  if not with then
    with = member.session:with { priority = urgency, secret = true } -- secret: bodies are not compressed on the way
    calls[urgency] = with
  end
  return with:create_stream "tunnel.http"
end

-- What goes first: the head and what is there of the body.
local function first_message(run)
  if run.fin then
    return run.head:part(true)
  end
  local begun, over = run.exchange:try_take(MAX_MESSAGE)
  run.upload_over = over == true
  if not begun then
    return run.head:part(false)
  end
  if not count_in(run, begun) then
    return nil
  end
  count_sent(run, begun)
  return run.head:part(false) .. begun
end

-- After the whole answer.
local function wind_up(run, stream, pump)
  if run.is_tunnel and not run.upload_over and pump then
    pump:wait() -- half-close goes one way
    if not run.upload_over then
      stream:reset(CANCEL)
    end
  elseif not run.upload_over then
    run.exchange:reset "no_error"
    if pump then
      pump:cancel()
    end
  end
  stream:close() -- its end behind the last message is not read, and it would count as open until then
end

-- The answer could not be brought to its end.
local function break_off(run, stream, err)
  if run.aborted then
    stream:reset(CANCEL)
  elseif run.refused then
    stream:reset(CANCEL)
    if not run.answered then
      return run.refused
    end
    run.exchange:reset "internal"
  elseif not run.answered then
    stream:reset(INTERNAL)
    return failure(run, err)
  else
    if run.timed_out then
      run.exchange:reset "timeout"
    elseif run.record.cause ~= "backend" then
      note(run, err and err.code == "connection_closed" and "agent" or "backend", err and err.message or "the answer was cut")
    end
    run.exchange:reset "internal"
    stream:reset(CANCEL)
  end
end

-- One member is tried. Returns what the visitor has to be told, if anything, and whether another may be tried instead.
local function attempt(run, member)
  local record = run.record
  run.member, run.stream = member, nil
  record.agent, record.attempts = member.id, record.attempts + 1
  local stream, err = open(run, member)
  if not stream then
    return failure(run, err), may_repeat(run, err)
  end
  run.stream = stream
  local sent
  sent, err = stream:send(run.first)
  local pump
  if sent and run.upload_over then
    stream:finish()
  elseif sent then
    pump = task.spawn(upload, run, stream)
  end
  local ok
  if sent or not (err and err.code == "connection_closed") then -- the agent may have answered before it took everything
    ok, err = download(run, stream)
  end
  if ok then
    wind_up(run, stream, pump)
    return nil
  end
  local repeatable = may_repeat(run, err)
  if pump then
    pump:cancel()
    pump:wait()
  end
  repeatable = repeatable and not run.more_sent
  return break_off(run, stream, err), repeatable
end

-- Whose doing it is not that it ended badly.
local innocent = { visitor = true, limit = true, stopped = true, internal = true }

local function settle(run, groups, member)
  local record = run.record
  local ok = record.cause == nil or innocent[record.cause] == true
  run.begun = nil
  groups:finish(member, ok)
  member.streams = member.streams - 1
  member.bytes_in, member.bytes_out = member.bytes_in + record.bytes_in, member.bytes_out + record.bytes_out
  if ok then
    member.served = member.served + 1
  else
    member.errors = member.errors + 1
  end
end

local function try_members(run, job)
  local groups, record, tried, left = job.groups, run.record, nil, job.retries or 1
  local last, cause, reason -- what the member before failed with
  while true do
    local member, info = groups:pick(job.group, run.request, tried, job.service)
    if not member then
      if last then -- says more than that nobody else is there
        record.cause, record.reason = cause, reason
        return last
      end
      note(run, "no_agent", info.message)
      return info
    end
    run.info = info
    member.streams = member.streams + 1
    groups:begin(member)
    run.begun = member
    local told, again = attempt(run, member)
    settle(run, groups, member)
    if not told or not again or left <= 0 or run.aborted then
      return told
    end
    left, tried = left - 1, tried or {}
    tried[member] = true
    last, cause, reason = told, record.cause, record.reason
    record.cause, record.reason = nil, nil
  end
end

--- Gives back what a `run` that was left by an error holds: a function that groups are balanced by may fail.
---@param job echostream.tunnel.job
function M.give_up(job)
  job.watch:remove(job)
  abandon(job, INTERNAL)
  if job.begun then
    settle(job, job.groups, job.begun)
  end
end

--- Forwards an exchange and waits until it is over. In a task of its own.
---@param job echostream.tunnel.job
---@return echostream.error? err  the visitor has been told nothing yet: answer with this
function M.run(job)
  local run, record = job, job.record -- one table for each exchange is enough
  run.check, run.upload_over, run.last = check, job.fin, job.watch.now
  run.exchange:on_abort(function(why, text)
    run.aborted = why or "cancel"
    note(run, "visitor", text or why)
    abandon(run, CANCEL)
  end)
  if run.aborted then
    return nil
  end
  run.first = first_message(run)
  if not run.first then
    return run.refused
  end
  job.watch:add(run)
  local told = try_members(run, job)
  job.watch:remove(run)
  if run.note_bytes then
    record.backend = parts.note(run.note_bytes)
  end
  if run.aborted then
    return nil
  end
  return told
end

return M
