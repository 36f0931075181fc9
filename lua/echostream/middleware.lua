--- Middleware: functions that see every call of a server or client, in and out, and may change, answer or refuse it.
---
---     server:middleware(function(call, next)
---       if call.metadata.token ~= "secret" then return call:reject("unauthenticated", "say who you are") end
---       local response = next(call)
---       print(call.kind, call.name, response.ok)
---       return response
---     end)
---
--- The first that was registered is the outermost: it sees a call first and its response last. Nothing of this runs, and no
--- call table is made, while no middleware is registered.

local core = require "echostream.core"
local call_class = require "echostream.call"
local errors = require "echostream.errors"
local log = require "echostream.log"
local loop = require "echostream.loop"
local options = require "echostream.options"
local retry = require "echostream.retry"
local task = require "echostream.task"

local M = {}

local is_error, unpack, select, xpcall = errors.is_error, table.unpack, select, xpcall
local setmetatable, getmetatable, rawget, next = setmetatable, getmetatable, rawget, next

---@class echostream.middleware.response
---@field ok boolean
---@field n integer             how many results there are; the results themselves are [1] to [n]
---@field err echostream.error? why it failed
local Response = { __name = "echostream.response" }

-- A successful response is its results and nothing else until somebody changes it, because one is made for every call.
Response.__index = function(response, key)
  if key == "n" then
    return #response
  end
  return key == "ok" and true or nil
end

---@class echostream.middleware.call
---@field kind "rpc"|"event"|"stream"
---@field direction "in"|"out"
---@field name string                     of the method, event or stream; may be changed for outgoing ones
---@field session echostream.session?     nil for an outgoing call of a client that is not connected
---@field args table                      the arguments; may be changed. `n` is their number. A plain stream has none
---@field metadata table<string, string>  what travels beside the arguments; may be changed
---@field deadline number?                seconds left; nil: no deadline. May be set for outgoing calls
---@field trailers table<string, string>  what goes with the answer; may be changed. Outgoing, after `next`: what came with it
---@field id integer                      of an incoming request
---@field bytes_in integer?               incoming: of the arguments as they came, without their frame; of a stream's messages until now
---@field bytes_out integer?              incoming streams: of the messages that were sent until now
---@field attempt integer                 of a request: 1, 2 … for retries; of an incoming one 2 for every retry

local methods = {
  cancelled = call_class.methods.cancelled,
  on_cancel = call_class.methods.on_cancel,
}

-- A call is made for every call, so it is small: a userdata of the core (csrc/lua/middleware.c) whose values are these, in this
-- order, and then the arguments. STATE is nil, true once the innermost link has begun, then the last response; once something was
-- asked for or changed that needs more, or from the beginning when the call has options, it is a table: `response`, `args` (whose
-- `n` is their number), `metadata`, `options`, `touched` (somebody looked at what may be changed), `_began` (the innermost link: what
-- ends without it was certainly not processed) …
local FN <const>, OWNER <const>, NAME <const>, STATE <const> = 1, 2, 3, 4
local get, set = debug.getuservalue, debug.setuservalue
local lazy = {}

-- Whether a STATE is the table.
local function is_body(state)
  return state ~= nil and state ~= true and getmetatable(state) ~= Response
end

-- The table, if there is one.
local function opened(call)
  local state = get(call, STATE)
  if state == nil or state == true or getmetatable(state) == Response then -- is_body, which costs a call
    return nil
  end
  return state
end

-- The table. From now on the core leaves this call to the functions below.
local function whole(call)
  local state = get(call, STATE)
  if is_body(state) then
    return state
  end
  local n, args = 0, {}
  local value, there = get(call, STATE + 1)
  while there do
    n = n + 1
    args[n] = value
    value, there = get(call, STATE + 1 + n)
  end
  args.n = n
  local body = { args = args, response = state ~= true and state or nil, _began = state ~= nil or nil }
  set(call, body, STATE)
  return body
end

local function open_up(call)
  local body = whole(call)
  body.touched = true
  return body
end

local function last_response(call)
  local state = get(call, STATE)
  if is_body(state) then
    return state.response
  end
  return state ~= true and state or nil
end

local function keep_response(call, response)
  local body = opened(call)
  if body then
    body.response = response
  else
    set(call, response, STATE)
  end
  return response
end

function lazy.args(call)
  return open_up(call).args
end

function lazy.metadata(call)
  local metadata = {}
  local body = open_up(call)
  for key, value in pairs(body.options and body.options.metadata or metadata) do
    metadata[key] = value
  end
  body.metadata = metadata
  return metadata
end

function lazy.deadline(call)
  if call.direction == "out" then
    local body = opened(call)
    local timeout = body and body.options and body.options.timeout
    if timeout == nil then
      timeout = get(call, OWNER)._timeout
    end
    return timeout or nil
  end
  local info = core.call_info()
  return info and info.deadline and math.max(info.deadline - loop.now(), 0) or nil
end

function lazy.trailers(call)
  local trailers
  if call.direction == "out" then
    local body = opened(call)
    trailers = body and body._came or {}
  else
    trailers = core.call_trailers()
    if not trailers then
      trailers = {}
      core.set_call_trailers(trailers)
    end
  end
  return trailers
end

function lazy.id(call)
  local info = call.direction == "in" and core.call_info()
  return info and info.id or 0
end

function lazy.bytes_in(call)
  return call.direction == "in" and core.call_bytes() or nil
end

function lazy.bytes_out(call)
  return call.direction == "in" and select(2, core.call_bytes()) or nil
end

function lazy.attempt(call)
  if call.direction == "out" then
    local body = opened(call)
    return body and body.options and body.options[2] or 1 -- where retry.lua says it
  end
  local info = core.call_info()
  return info and info.attempt or 1
end

local function call_tostring(call)
  return ("echostream.middleware.call %s %s %s"):format(call.direction, call.kind, call.name)
end

-- One metatable for each kind and direction, which need no fields then: is_call[metatable] is true.
local is_call, metatables = {}, { ["in"] = {}, out = {} }

local function make_class(direction, kind)
  local incoming = direction == "in"
  local class = setmetatable({ kind = kind, direction = direction }, { __index = methods })
  local mt = { __name = "echostream.middleware.call", __tostring = call_tostring }
  function mt.__index(call, key)
    local value = class[key]
    if value ~= nil then
      return value
    end
    if key == "name" then
      return (get(call, NAME))
    elseif key == "session" then
      local owner = get(call, OWNER)
      if incoming or owner.server_ctx then
        return owner
      end
      return owner.session -- a client's; nil while it is not connected
    end
    local body = opened(call)
    value = body and body[key]
    if value ~= nil then
      if lazy[key] then
        body.touched = true -- what it gets can be changed
      end
      return value
    end
    local make = lazy[key]
    return make and make(call)
  end
  function mt.__newindex(call, key, value)
    if key == "name" then
      set(call, value, NAME)
    elseif key == "session" and direction == "in" then
      set(call, value, OWNER)
    elseif key == "trailers" then
      core.set_call_trailers(value) -- and not kept here: the handler may replace them
    else
      open_up(call)[key] = value
    end
  end
  metatables[direction][kind], is_call[mt] = mt, true
end

for _, direction in ipairs { "in", "out" } do
  for _, kind in ipairs { "rpc", "event", "stream" } do
    make_class(direction, kind)
  end
end

local function responded(n, first, ...)
  if n == 1 and first ~= nil then
    return setmetatable({ first }, Response)
  end
  local response = setmetatable({ first, ... }, Response)
  if n ~= #response then
    response.n = n
  end
  return response
end

-- Whether the handler has begun, or what sends; when in doubt, yes.
local function has_begun(call)
  local state = get(call, STATE)
  if is_body(state) then
    return state._began
  end
  return state ~= nil
end

local function failed(call, err)
  local response = setmetatable({ ok = false, n = 0, err = err }, Response)
  if get(call, STATE) == nil then
    whole(call) -- which keeps that nothing has begun
  end
  return keep_response(call, response)
end

--- Refuses the call: whoever made it gets this error. Return what it returns. Before `next`, the error's `processed` is "no": the
--- handler certainly did not run, so the caller may try again. `retry_after` of the response's `err` says when, and goes with it.
---@param code string|echostream.error  as in echo.error; or an error object, and nothing else
---@param message? string
---@param details? any
---@return echostream.middleware.response
function methods:reject(code, message, details)
  if is_error(code) then
    return failed(self, code)
  end
  local err = errors.new(code, message, details)
  if not has_begun(self) then
    err.processed = "no"
  end
  return failed(self, err)
end

--- Answers the call without its handler. Return what it returns.
---@param ... any  the results
---@return echostream.middleware.response
function methods:reply(...)
  return keep_response(self, responded(select("#", ...), ...))
end

-- Errors ------------------------------------------------------------------------------------------------------

-- What was raised, with the traceback of the place; logged after the stack is unwound.
local Raised = { __name = "echostream.raised" }

local function traced(raised)
  if is_error(raised) then
    return raised
  end
  return setmetatable({ value = raised, traceback = debug.traceback(nil, 2) }, Raised)
end

-- Logs what is no error object. The peer is not told where in our files it happened.
local function explain(call, raised, code, message)
  if is_error(raised) then
    return raised
  end
  local traceback
  if getmetatable(raised) == Raised then
    raised, traceback = raised.value, raised.traceback
  end
  local text = errors.from(raised).message
  log.write("error", text, { traceback = traceback, method = call.name, session = call.session })
  return errors.new(code, message or text:gsub("\nstack traceback:.*", ""):gsub("^[^\n]-:%d+: ", "", 1))
end

-- Links -------------------------------------------------------------------------------------------------------

local function denied(call)
  log.write("warn", "a middleware ended a call that it neither passed on, answered nor refused", { method = call.name })
  return call:reject("permission_denied", "refused")
end

-- What a middleware returned. One that returns nothing lets the last response pass.
local function settle(call, ok, response, err)
  if not ok then
    return failed(call, explain(call, response, "unknown"))
  elseif getmetatable(response) == Response then
    return keep_response(call, response)
  elseif response == nil and is_error(err) then
    return failed(call, err)
  elseif response == nil or response == false then
    return last_response(call) or denied(call)
  end
  return failed(call, explain(call, ("a middleware returned %s instead of a response (what next, call:reply and "
    .. "call:reject return)"):format(errors.show(response)), "internal", "a middleware failed"))
end

-- A call, its middleware and what comes after it: all but the outermost, which the core runs.
local function link(fn, step)
  return function(call)
    return settle(call, xpcall(fn, traced, call, step))
  end
end

local function gather(call, ok, ...)
  if not ok then
    return failed(call, explain(call, (...), "unknown"))
  end
  local n = select("#", ...)
  if n > 1 then
    local first, second = ...
    if first == nil and second ~= nil and is_error(second) then
      return failed(call, second)
    end
  end
  return keep_response(call, responded(n, ...))
end

-- The arguments of a call that was opened up.
local function arguments(body)
  local args = body.args
  local n, length = args.n or 0, #args
  return args, 1, n < length and length or n
end

local function check_call(call)
  if not is_call[getmetatable(call)] then
    error("next: wants the call, got " .. errors.show(call), 3)
  end
end

-- The innermost link of incoming calls: the handler. The core has its own for calls that nobody touched.
local function handle(call)
  check_call(call)
  local body = whole(call)
  body._began = true
  if body.metadata then
    core.set_call_metadata(body.metadata) -- what echo.call() shows
  end
  if body._channel then
    return gather(call, xpcall(get(call, FN), traced, call.session, body._channel, unpack(arguments(body))))
  end
  return gather(call, xpcall(get(call, FN), traced, call.session, unpack(arguments(body))))
end

-- The innermost link of outgoing calls: what sends. What it raises is misuse by the caller and is raised there.
local function misused(call, raised)
  whole(call)._misuse = { raised }
  return failed(call, errors.new("invalid_argument", errors.from(raised).message))
end

local function sent(call, ok, ...)
  if not ok then
    return misused(call, (...))
  end
  return gather(call, true, ...)
end

local function send(call)
  check_call(call)
  local body = whole(call)
  body._began = true
  return sent(call, pcall(get(call, FN), call, unpack(arguments(body))))
end

local function results(response)
  local first = response[1]
  if first ~= nil and next(response, 1) == nil then
    return first -- one result, and nobody changed anything
  end
  local err = rawget(response, "err")
  if err ~= nil or not response.ok then
    return nil, is_error(err) and err or errors.new("unknown", err and tostring(err))
  end
  local n, length = rawget(response, "n") or 0, #response
  return unpack(response, 1, n < length and length or n)
end

-- Runs ---------------------------------------------------------------------------------------------------------

local ends

-- An incoming call that is a stream, has metadata or many arguments.
local function open(kind, session, name, metadata, handler, ...)
  local body = { metadata = metadata }
  if kind == "stream" then
    body._channel, body.args = (...), { n = select("#", ...) - 1, select(2, ...) }
  else
    body.args = { n = select("#", ...), ... }
  end
  return ends.new(metatables["in"][kind], handler, session, name, body)
end

-- An outgoing one with options or many arguments.
local function open_out(owner, kind, final, name, opts, ...)
  return ends.new(metatables.out[kind], final, owner, name, { options = opts, args = { n = select("#", ...), ... } })
end

-- The same error, which says that nothing was sent. A copy: a middleware may have only one object for all that it refuses.
local function unsent(err)
  local copy = setmetatable({}, getmetatable(err))
  for key, value in next, err do
    copy[key] = value
  end
  copy.processed = "no"
  return copy
end

local function finish_out(call, response)
  local body = opened(call)
  if body and body._misuse then
    error(body._misuse[1], 0)
  elseif not response.ok and is_error(response.err) and response.err.processed == nil and not has_begun(call) then
    return nil, unsent(response.err)
  end
  return results(response)
end

-- The outermost and the innermost link of every chain.
ends = core.middleware {
  response = Response,
  rpc_in = metatables["in"].rpc,
  event_in = metatables["in"].event,
  rpc_out = metatables.out.rpc,
  event_out = metatables.out.event,
  stream_out = metatables.out.stream,
  open = open,
  open_out = open_out,
  handle = handle,
  send = send,
  traced = traced,
  raised = function(call, raised)
    return failed(call, explain(call, raised, "unknown"))
  end,
  misused = misused,
  came = function(call, came)
    M.keep_trailers(call, came)
  end,
  keep_response = keep_response,
  failed = failed,
  settle = settle,
  results = results,
  finish_out = finish_out,
  either = task.either,
  ud = "_ud",
}

--- What an outgoing call is sent by, for the functions that do it.
---@param call echostream.middleware.call
---@return echostream.session|echostream.client
function M.owner_of(call)
  return (get(call, OWNER))
end

--- Says that the handler may have run for a call, though not by `next` here: its answer comes from an earlier attempt.
---@param call echostream.middleware.call
function M.mark_begun(call)
  whole(call)._began = true
end

--- Keeps what came with the answer of an outgoing call; nil: nothing. `next` may run twice.
---@param call echostream.middleware.call
---@param came table<string, string>?
function M.keep_trailers(call, came)
  if came or opened(call) then
    whole(call)._came = came
  end
end

--- The per-call options it was made with, and whether nobody can have changed anything since.
---@param call echostream.middleware.call
---@return table? options, boolean untouched
function M.made_with(call)
  local body = opened(call)
  return body and body.options, not (body and body.touched)
end

--- The per-call options of an outgoing call, with what middleware changed.
---@param call echostream.middleware.call
---@return table?
function M.options_of(call)
  local body = opened(call)
  local opts = body and body.options
  if not body or not body.touched then
    return opts -- nobody changed anything
  end
  local metadata, deadline = body.metadata, body.deadline
  if metadata == nil and deadline == nil then
    return opts
  end
  local merged = {}
  for key, value in pairs(opts or merged) do
    merged[key] = value
  end
  merged.metadata = metadata or merged.metadata
  if deadline ~= nil then
    merged.timeout = deadline
  end
  return merged
end

-- Registration ------------------------------------------------------------------------------------------------

-- { process_request = function(self, call) … end, process_response = function(self, call, response) … end }
local function from_table(given)
  return function(call, proceed)
    if given.process_request then
      local go, err = given:process_request(call)
      if getmetatable(go) == Response then
        return go
      elseif go == nil or go == false then
        if is_error(err) then
          return failed(call, err)
        end
        return last_response(call) or call:reject("permission_denied", "refused")
      elseif is_call[getmetatable(go)] then
        call = go
      end
    end
    local response = proceed(call)
    if given.process_response then
      local changed = given:process_response(call, response)
      if changed ~= nil then
        return changed
      end
    end
    return response
  end
end

-- nil without any middleware.
local function chain_of(list, direction, make, innermost)
  local step, outermost = innermost, nil
  for i = #list, 1, -1 do
    local entry = list[i]
    if not entry.direction or entry.direction == direction then
      step, outermost = outermost and link(outermost, step) or step, entry.fn
    end
  end
  return outermost and make(outermost, step)
end

--- Makes the chains of a host of the list of its middleware.
---@param self echostream.host
---@package
function M.rebuild(self)
  local list = self._middleware
  if self._innermost then
    list = { unpack(list) }
    list[#list + 1] = { fn = self._innermost, direction = "in" }
  end
  -- Sends an outgoing call: out(owner, kind, final, name, options, ...). `final(call, ...)` does the sending of all but requests;
  -- with a function as last argument (the callback) everything runs in a task.
  -- Requests have one of their own, because a retry policy sends them through all the others again and again.
  local chains = self._chains
  chains.out = chain_of(list, "out", ends.outgoing, ends.send)
  chains.rpc = chains.policy and retry.chain(chains.policy, chains.out) or chains.out
  self._host:set_wrapper(chain_of(list, "in", ends.incoming, ends.handle))
end

--- Gives a host a middleware of incoming calls that stays the innermost.
---@param self echostream.host
---@param fn function
function M.set_innermost(self, fn)
  self._innermost = fn
  M.rebuild(self)
end

--- Sends every request of a host by a policy (nil: none).
---@param self echostream.host
---@param policy echostream.retry?
function M.set_retry(self, policy)
  self._chains.policy = policy
  M.rebuild(self)
end

local schema = { direction = { type = "string", one_of = { "in", "out" } } }

---@class echostream.middleware.methods  of servers and clients
local Host = {}
M.methods = Host

--- Adds a middleware: `fn(call, next)`, or a table with `process_request(self, call)` and `process_response(self, call,
--- response)`. `next(call)` runs the rest and returns the response; return that, or what `call:reject(code, message)` or
--- `call:reply(…)` return. The first added is the outermost. Calls under way go on as they began.
---@param given (fun(call: echostream.middleware.call, next: fun(call): echostream.middleware.response): any)|table
---@param opts? { direction?: "in"|"out" }  only calls that come in, or only those that go out; default both
---@return self
function Host:middleware(given, opts)
  local fn = given
  if type(given) == "table" then
    for _, name in ipairs { "process_request", "process_response" } do
      if given[name] ~= nil then
        options.argument("middleware", name, given[name], "function")
      end
    end
    if not given.process_request and not given.process_response then
      error("middleware: a table wants process_request, process_response or both", 2)
    end
    fn = from_table(given)
  else
    options.argument("middleware", "middleware", given, { "function", "table" })
  end
  local direction = options.check("middleware", opts, schema).direction
  local list = { unpack(self._middleware) }
  list[#list + 1] = { given = given, fn = fn, direction = direction }
  self._middleware = list
  M.rebuild(self)
  return self
end

--- Takes the last registration of a middleware away; calls under way go on through it.
---@param given function|table
---@return boolean  false when it was not there
function Host:remove_middleware(given)
  local list = { unpack(self._middleware) }
  for i = #list, 1, -1 do
    if list[i].given == given then
      table.remove(list, i)
      self._middleware = list
      M.rebuild(self)
      return true
    end
  end
  return false
end

return M
