--- HTTP/3 servers: what `server:http` gives its function.
---
--- A handler runs in a task for each request: `fn(request, response)`. What it returns does not count; when it ends without having
--- answered, the answer is 204, or 500 when it raised, and the log has the traceback. The request's body is read piece by piece
--- and the answer's body written piece by piece, and both wait for the other side when it is slower.

local core = require "echostream.core"
local errors = require "echostream.errors"
local connections = require "echostream.quic.connection"
local log = require "echostream.log"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

local MAX_BODY = 8 * 1024 * 1024

-- Fields ------------------------------------------------------------------------------------------------------

-- The core's list { name, value, … } as a table: values of one name are joined, cookies in their own way (RFC 9114 4.2.1).
local function table_of(list)
  local fields = {}
  for i = 1, #(list or {}), 2 do
    local name, value = list[i], list[i + 1]
    local before = fields[name]
    if before then
      value = before .. (name == "cookie" and "; " or ", ") .. value
    end
    fields[name] = value
  end
  return fields
end

local function list_of(where, fields)
  local list = {}
  for name, value in pairs(fields or {}) do
    if type(name) ~= "string" then
      error(("%s: names of fields are strings, got %s"):format(where, errors.show(name)), 3)
    end
    for _, each in ipairs(type(value) == "table" and value or { value }) do
      list[#list + 1] = name:lower()
      list[#list + 1] = tostring(each)
    end
  end
  return list
end

-- Requests ----------------------------------------------------------------------------------------------------

--- A request of a peer.
---@class echostream.http.request
---@field method string     "GET"
---@field scheme? string    "https"; nil for CONNECT
---@field authority string  "example.org:443"
---@field path? string      as it came, with its query; nil for CONNECT
---@field headers table<string, string>  by lower-case name; several of one name are joined with ", "
---@field peer_addr string
local Request = {}
Request.__index = Request
Request.__name = "echostream.http.request"

local function read(timeout, self)
  return connections.repeat_until(self._waiters, "readable", timeout, self._now, self._x.read, self._x)
end

--- The next piece of the body, at most 64 KiB. Waits for it.
---@param timeout? number seconds
---@return string|nil piece  nil: the end, or an error
---@return echostream.error? err  `cancelled` when the peer gave up
function Request:read(timeout)
  return connections.either("request:read", timeout, nil, read, self)
end

--- Iterates over the pieces of the body. Raises when it does not come to its end.
function Request:chunks()
  return function()
    local piece, err = self:read()
    if err then
      error(err, 0)
    end
    return piece
  end
end

--- The whole body.
---@param limit? integer bytes; default 8 MiB
---@return string|nil body
---@return echostream.error? err  `resource_exhausted`: it is longer
function Request:body(limit)
  limit = limit or MAX_BODY
  local pieces, size = {}, 0
  while true do
    local piece, err = self:read()
    if err then
      return nil, err
    elseif not piece then
      return table.concat(pieces)
    end
    size = size + #piece
    if size > limit then
      return nil, errors.new("resource_exhausted", ("the body is longer than %d bytes"):format(limit))
    end
    pieces[#pieces + 1] = piece
  end
end

--- What came behind the body; nil before its end was read, or when nothing did.
---@return table<string, string>|nil trailers
function Request:trailers()
  local list = self._x:fields(true)
  return list and table_of(list)
end

-- Answers -----------------------------------------------------------------------------------------------------

--- The answer to a request.
---@class echostream.http.response
---@field status integer  200 unless it is set before the first write
---@field headers table<string, string|string[]>  to be set before the first write
local Response = {}
Response.__index = Response
Response.__name = "echostream.http.response"

local function respond(self, fin)
  local ok, err = self._x:respond(self.status, list_of("response", self.headers), fin)
  self._begun = ok or self._begun
  return ok, err
end

--- 103: fields that the peer may use before the answer is there.
---@param fields table<string, string|string[]>
---@return true|nil ok, echostream.error? err
function Response:early_hints(fields)
  return self._x:inform(103, list_of("response:early_hints", fields))
end

local function write(timeout, self, data)
  return connections.repeat_until(self._waiters, "writable", timeout, self._now, self._x.write, self._x, data)
end

--- A piece of the body; the first one sends the head. Waits while more than 256 KiB wait to be sent.
---@param data string
---@param timeout? number seconds
---@return true|nil ok, echostream.error? err  `cancelled` when the peer wants no more
function Response:write(data, timeout)
  options.argument("response:write", "data", data, "string")
  if not self._begun then
    local ok, err = respond(self, false)
    if not ok then
      return nil, err
    end
  end
  return connections.either("response:write", timeout, nil, write, self, data)
end

--- The end of the answer.
---@param trailers? table<string, string|string[]>
---@return true|nil ok, echostream.error? err
function Response:finish(trailers)
  if not self._begun then
    if not trailers then
      self._finished = true
      return respond(self, true)
    end
    local ok, err = respond(self, false)
    if not ok then
      return nil, err
    end
  end
  self._finished = true
  return self._x:finish(list_of("response:finish", trailers))
end

--- The whole answer at once.
---@param body? string
---@param status? integer
---@param headers? table<string, string|string[]>
---@return true|nil ok, echostream.error? err
function Response:send(body, status, headers)
  self.status = status or self.status
  for name, value in pairs(headers or {}) do
    self.headers[name] = value
  end
  if not body or body == "" then
    return self:finish()
  end
  if self.status ~= 204 and self.status ~= 304 then
    self.headers["content-length"] = self.headers["content-length"] or tostring(#body)
  end
  local ok, err = self:write(body)
  if ok then
    ok, err = self:finish()
  end
  return ok, err
end

-- Serving -----------------------------------------------------------------------------------------------------

local function serve(fn, now, x)
  local waiters = connections.waiters()
  x:notify(function(what)
    if what == "aborted" then
      waiters:wake_all()
    else
      waiters:wake(what)
    end
  end)
  local target <const> = x:target()
  if not target then
    return x:release() -- given up while it waited for its turn
  end
  local request = setmetatable({
    method = target.method,
    scheme = target.scheme,
    authority = target.authority,
    path = target.path,
    headers = table_of(x:fields()),
    peer_addr = x:peer_addr(),
    _x = x, _waiters = waiters, _now = now,
  }, Request)
  local response = setmetatable({
    status = 200, headers = {}, _begun = false, _finished = false, _x = x, _waiters = waiters, _now = now,
  }, Response)
  local ok, problem = xpcall(fn, function(raised)
    return debug.traceback(tostring(raised), 2)
  end, request, response)
  if not ok then
    log.write("error", ("%s %s: %s"):format(request.method, request.path or request.authority, tostring(problem)))
    if not response._begun then
      response.status, response.headers = 500, {}
      response:finish()
    end
  elseif not response._begun then
    if response.status == 200 then
      response.status = 204
    end
    response:finish()
  elseif not response._finished then
    response:finish()
  end
  x:release()
end

local Host = {}
Host.__index = Host

--- Takes no more requests and waits until those that are there were answered.
---@param grace number seconds
---@package
function Host:drain(grace)
  self.core:goaway(true)
  if grace > 0 and self._running > 0 then
    task.await(function(resume)
      self._idle = resume
    end, grace)
    self._idle = nil
  end
end

--- What serves requests with `fn`; its field `core` is what an endpoint's `apps` take.
---@param rec table  the loop's record
---@param fn fun(request: echostream.http.request, response: echostream.http.response)
---@param limits? table
---@package
function M.host(rec, fn, limits)
  local self = setmetatable({ _running = 0, _idle = nil, core = nil }, Host)
  self.core = core.h3_host(rec.core, function(x)
    self._running = self._running + 1
    serve(fn, loop.now, x)
    self._running = self._running - 1
    if self._running == 0 and self._idle then
      self._idle(true)
    end
  end, limits)
  return self
end

return M
