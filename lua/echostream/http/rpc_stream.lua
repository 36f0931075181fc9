--- Streaming methods over HTTP.
---
--- * What a method sends is `text/event-stream`: an event for each message, whose data is JSON, then one named "result" with the list of
---   the results, or one named "error". A comment every 15 s tells proxies that somebody is there. With `accept: application/x-ndjson`
---   each is a line instead: `{"message":…}`, and at the end `{"results":[…]}` or `{"error":{…}}`.
--- * What a method takes is a body of the type `application/x-ndjson`: the first line is the list of the arguments, each other line a
---   message. It is read as fast as the handler takes it.
--- * A client that goes away cancels the handler.

local accept = require "echostream.http.accept"
local codec = require "echostream.codec"
local errors = require "echostream.errors"
local http_errors = require "echostream.http.errors"
local message = require "echostream.http.rpc_message"
local sse = require "echostream.http.sse"
local task = require "echostream.task"

local M = {}

--- Seconds without a message after which a comment is sent, and how long the first message, or a refusal, is waited for before the answer
--- begins: what is refused at once has the status of its error.
M.keep_alive, M.first = 15, 1

local LINES <const> = "application/x-ndjson"
local MAX_LINE <const> = 4 << 20
local MANY <const> = 256 -- pieces of one line

local fail = message.fail

-- What is sent ------------------------------------------------------------------------------------------------

local function json(value)
  return codec.json.pack(value)
end

local function results_of(results)
  local text, err = codec.json.encode(table.unpack(results, 1, results.n))
  if not text then
    return nil, errors.new("serialization", "the results cannot be sent as JSON: " .. err.message)
  end
  return text
end

-- How each thing looks that can happen: a message, the end, an error, nothing for a while.
local forms = {
  events = {
    type = sse.content_type,
    message = function(text)
      return sse.encode { data = text }
    end,
    results = function(text)
      return sse.encode { event = "result", data = text }
    end,
    error = function(err)
      return sse.encode { event = "error", data = http_errors.body(err) }
    end,
    idle = function()
      return sse.comment()
    end,
  },
  lines = {
    type = LINES,
    message = function(text)
      return '{"message":' .. text .. "}\n"
    end,
    results = function(text)
      return '{"results":' .. text .. "}\n"
    end,
    error = function(err)
      return http_errors.body(err) .. "\n"
    end,
    idle = function()
      return "\n"
    end,
  },
}

local function is_timeout(err)
  return err ~= nil and err.code == "timeout" and err.processed == nil
end

-- The next piece of the answer, and whether it is the last.
local function next_piece(stream, form, patience, first)
  local frame, err
  if first then
    frame, err = first.frame, first.err
  else
    frame, err = stream:recv(patience)
  end
  if frame then
    local value = frame.data
    if value == nil then
      value = codec.null
    end
    local text, problem = json(value)
    if not text then
      return form.error(errors.new("serialization", "a message cannot be sent as JSON: " .. problem.message)), true
    end
    return form.message(text), false
  elseif is_timeout(err) and stream:state() ~= "failed" then
    return form.idle(), false
  elseif err then
    return form.error(err), true
  end
  local results = table.pack(stream:result())
  if results.n == 2 and results[1] == nil and errors.is_error(results[2]) then
    return form.error(results[2]), true
  end
  local text, problem = results_of(results)
  return text and form.results(text) or form.error(problem), true
end

-- The messages of a stream as a body.
local function body_of(stream, close, form, first)
  local over = false
  local function finish()
    over = true
    close()
  end
  return setmetatable({ close = finish }, {
    __name = "echostream.http.body",
    __call = function()
      if over then
        return nil
      end
      local piece, last = next_piece(stream, form, M.keep_alive, first)
      first = nil
      if last then
        finish()
      end
      return piece
    end,
  })
end

local function respond(request, response, stream, close)
  local best = accept.media_type(request.headers:get "accept", { sse.content_type, LINES })
  if not best then
    close()
    return fail(406, "invalid_argument", "the answer can be text/event-stream or application/x-ndjson")
  end
  local form = best == LINES and forms.lines or forms.events
  local frame, err = stream:recv(M.first)
  local first = { frame = frame, err = err }
  if is_timeout(err) and stream:state() ~= "failed" then
    first = nil
  elseif err then
    close()
    return nil, err
  end
  response.status = 200
  response.headers:set("content-type", form.type):set("cache-control", "no-store")
  response.body = body_of(stream, close, form, first)
end

-- What is taken -----------------------------------------------------------------------------------------------

-- The lines of a body, as it comes.
local function lines_of(body)
  local text, at = "", 1 -- what came last, and where it goes on
  local begun, size = {}, 0 -- of a line whose end has not come
  local over = type(body) == "string" or body == nil
  if over then
    text = body or ""
  end
  return function()
    while true do
      local stop = text:find("\n", at, true)
      if stop or over then
        begun[#begun + 1] = text:sub(at, (stop or 0) - 1)
        local line = table.concat(begun)
        begun, size, at = {}, 0, stop and stop + 1 or #text + 1
        if line:find "%S" then
          return line
        elseif not stop then
          return nil
        end
      elseif size + #text - at >= MAX_LINE then
        return fail(413, "resource_exhausted", "a line is too long")
      else
        begun[#begun + 1] = text:sub(at)
        size, text, at = size + #text - at + 1, "", 1
        if #begun == MANY then
          begun = { table.concat(begun) }
        end
        local piece, err = body()
        if piece then
          text = piece
        elseif err then
          return nil, errors.from(err)
        else
          over = true
        end
      end
    end
  end
end

local function unpacked(line)
  local value, behind = codec.json.unpack(line)
  if math.type(behind) ~= "integer" then
    return nil, behind
  elseif line:find("%S", behind) then
    return fail(400, "serialization", "there is more behind the value of a line")
  elseif value == nil then
    value = codec.null
  end
  return value
end

-- Sends what the body has until its end; then the other side knows that no more comes. nil, err: the body is of no use; false: the other
-- side takes no more, and its answer says why.
local function feed(stream, next_line)
  while true do
    local line, err = next_line()
    if not line then
      if err then
        stream:reset()
        return nil, err
      end
      return stream:finish()
    end
    local value
    value, err = unpacked(line)
    if value == nil then
      stream:reset()
      return nil, err
    end
    if not stream:send(value) then
      return false
    end
  end
end

local function opened(rpc, request, entry, opts, args)
  return rpc._door:stream(rpc:_who(request), entry.name, opts, args)
end

local function arguments_of(next_line)
  local line, err = next_line()
  if not line then
    if err then
      return nil, err
    end
    return { n = 0 }
  end
  local args = table.pack(codec.json.decode(line))
  if args.n == 2 and args[1] == nil and errors.is_error(args[2]) then
    return fail(400, "serialization", "the first line is the list of the arguments, in JSON: %s", args[2].message)
  end
  return args
end

---@package
--- A streaming method that sends only.
function M.out(rpc, request, response, entry, opts, args)
  local stream, close = opened(rpc, request, entry, opts, args)
  if not stream then
    return nil, close
  end
  return respond(request, response, stream, close)
end

---@package
--- Serves a streaming method; `nil, err` when it is refused.
---@param rpc echostream.http.rpc
---@param request echostream.http.request
---@param response echostream.http.response
---@param entry echostream.description
---@param opts table  of the call
function M.serve(rpc, request, response, entry, opts)
  if entry.stream == "out" then
    local args, err = message.arguments(request, entry, rpc._max_body)
    if not args then
      return nil, err
    end
    return M.out(rpc, request, response, entry, opts, args)
  end
  local kind, problem = message.kind(request)
  if not kind then
    return nil, problem
  elseif kind ~= "lines" then
    return fail(415, "serialization", "%s takes a stream of messages: send lines of JSON, as application/x-ndjson, of which the first "
      .. "is the list of the arguments", entry.name)
  end
  request:take_any_body()
  local next_line = lines_of(request.body)
  local args, err = arguments_of(next_line) -- in time, for nobody has asked who they are before
  if not args then
    return nil, err
  end
  request:take_its_time()
  local stream, close = opened(rpc, request, entry, opts, args)
  if not stream then
    return nil, close
  end
  if entry.stream == "both" then
    local feeding = task.spawn(feed, stream, next_line)
    return respond(request, response, stream, function()
      feeding:cancel()
      close()
    end)
  end
  local fed, why = feed(stream, next_line)
  if fed == nil then
    close()
    return nil, why
  end
  local results = table.pack(stream:result())
  close()
  if results.n == 2 and results[1] == nil and errors.is_error(results[2]) then
    return nil, results[2]
  end
  message.answer(response, results, "json")
end

return M
