--- Responses as a server's handlers make them. Either a handler sets `status`, `headers` and `body` and returns, or it sends by itself:
--- `write` piece by piece, then `finish`.

local codec = require "echostream.codec"
local coding = require "echostream.http.coding"
local cookies = require "echostream.http.cookies"
local date = require "echostream.http.date"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local message = require "echostream.http.message"
local options = require "echostream.options"
local requests = require "echostream.http.request"

local M = {}

local INTERNAL_ERROR <const> = 0x102 -- H3_INTERNAL_ERROR

--- The response to a request.
---@class echostream.http.response
---@field status integer    200 at first
---@field headers echostream.http.fields
---@field body? string|echostream.http.body  sent after the handler returned, or by `send`; not sent for HEAD, 204 and 304
---@field trailers? table<string, string|string[]>|echostream.http.fields  sent behind the body
---@field compress? boolean  false: it is not compressed, though `http.compress` says so: it has a secret beside what the client chose
---@field begun boolean     its head was sent: status and headers are past change
local Response = {}
Response.__name = "echostream.http.response"
M.methods = Response

function Response.__index(self, key)
  local method = Response[key]
  if method then
    return method
  elseif key == "headers" then
    local headers = fields.new()
    self.headers = headers
    return headers
  end
end

-- `Date` is the same for a second.
local date_second, date_text

local function date_now()
  local now = os.time()
  if now ~= date_second then
    date_second, date_text = now, date.format(now)
  end
  return date_text
end

-- Lengths as they are written; making a string of a number costs as much as finding the route.
local lengths, MOST_LENGTHS <const> = {}, 4096

local function length_of(body)
  local n = #body
  local text = lengths[n]
  if not text then
    text = ("%d"):format(n)
    if n < MOST_LENGTHS then
      lengths[n] = text
    end
  end
  return text
end

local function list_of(given)
  if given == nil then
    return nil
  end
  return fields.list_of(fields.is_fields(given) and given or fields.new(given))
end

-- `response.headers = { … }`: a handler may do that as well.
local function own_headers(self)
  local headers = rawget(self, "headers")
  if headers ~= nil and not fields.is_fields(headers) then
    self.headers = fields.new(headers)
  end
end

-- Sends the head.
local function begin(self, fin)
  own_headers(self)
  local headers, host = self.headers, self._request._host
  if not headers:has "date" then
    headers:set("date", date_now())
  end
  if host.alt_svc and not headers:has "alt-svc" then
    headers:set("alt-svc", host.alt_svc)
  end
  local ok, err = self._x:respond(self.status, fields.list_of(headers), fin)
  self.begun = ok or self.begun
  return ok, err
end

--- Sets a cookie: adds a field `Set-Cookie`.
---@param name string
---@param value string
---@param opts? echostream.options.cookie
---@return echostream.http.response self
function Response:set_cookie(name, value, opts)
  self.headers:add("set-cookie", cookies.build(name, value, opts))
  return self
end

--- Answers that it is to be found elsewhere.
---@param location string   a URL, or a path of this server
---@param status? integer   default 302; 301, 303, 307 and 308 are others
---@return echostream.http.response self
function Response:redirect(location, status)
  self.status = status or 302
  self.headers:set("location", location)
  self.body = nil
  return self
end

--- Says how urgent it is among the other answers on its connection (RFC 9218), whatever the client wished.
---@param urgency integer  0 is sent first, 7 last; clients that say nothing mean 3
---@return echostream.http.response self
function Response:priority(urgency)
  if math.type(urgency) ~= "integer" or urgency < 0 or urgency > 7 then
    error("response:priority: an urgency is an integer from 0 to 7, got " .. errors.show(urgency), 2)
  end
  self._x:priority(urgency)
  return self
end

--- 103: fields that the client may use before the response is there (RFC 8297).
---@param given table<string, string|string[]>
---@return true|nil ok, echostream.error? err
function Response:early_hints(given)
  return self._x:inform(103, list_of(given))
end

--- A piece of the body; the first one sends the head, and an empty one nothing else. Waits while more than 256 KiB wait to be sent.
---@param data string
---@param timeout? number seconds
---@return true|nil ok, echostream.error? err  `cancelled` when the client wants no more
function Response:write(data, timeout)
  options.argument("response:write", "data", data, "string")
  if not self.begun then
    local ok, err = begin(self, false)
    if not ok then
      return nil, err
    end
  end
  if data == "" then
    return true -- a frame without anything in it is of no use to anybody
  end
  local x = self._x
  local ok, err = x:write(data)
  if not ok and err == "again" then
    ok, err = requests.wait(self._request, "response:write", "writable", timeout, x.write, data)
  end
  if ok then
    self.bytes = self.bytes + #data
  end
  return ok, err
end

--- The end of the response.
---@param trailers? table<string, string|string[]>|echostream.http.fields  default the field `trailers`
---@return true|nil ok, echostream.error? err
function Response:finish(trailers)
  trailers = list_of(trailers or self.trailers)
  if not self.begun then
    local ok, err = begin(self, not trailers)
    if not ok then
      return nil, err
    end
  end
  self._finished = true
  return self._x:finish(trailers)
end

-- Sends what `message.finish` made of it.
local function send_outgoing(self, outgoing)
  local x, body = self._x, outgoing.body
  self.status, self.headers = outgoing.status, outgoing.headers
  local ok, err = begin(self, body == nil and self.trailers == nil)
  if type(body) == "string" then
    if ok then
      ok, err = self:write(body)
    end
  elseif body then
    while ok do
      local piece, problem = body()
      if piece then
        ok, err = self:write(piece)
      elseif problem then
        ok, err = nil, problem
        x:reset(INTERNAL_ERROR)
      else
        break
      end
    end
  end
  outgoing.close()
  if ok then
    ok, err = self:finish()
  end
  return ok, err
end

-- The most frequent answer: a string, without a header that the handler set.
local function send_plain(self, body)
  local list, host = { "content-length", length_of(body), "content-type", "text/plain; charset=utf-8", "date", date_now() }, self._request._host
  if host.alt_svc then
    list[7], list[8] = "alt-svc", host.alt_svc
  end
  self._finished, self.begun = true, true
  self.bytes = #body
  return self._x:answer(self.status, list, body)
end

-- Statuses that go with a body. What is no status at all is told so by `message.finish`.
local function has_body(status)
  return status == 200 or (math.type(status) == "integer" and status > 200 and status ~= 204 and status ~= 205 and status ~= 304)
end

local function send(self)
  local body, status, request = self.body, self.status, self._request
  own_headers(self)
  local compress = request._host.compress
  if compress and self.compress ~= false then
    coding.apply(request, self, compress.threshold, compress.level)
    body = self.body
  end
  if type(body) == "string" and body ~= "" and not rawget(self, "headers") and not self.trailers and has_body(status)
    and request.method ~= "HEAD" then
    local ok, err = send_plain(self, body)
    if ok or err ~= "again" then
      return ok, err
    end
  elseif body == nil and status == 200 and not (rawget(self, "headers") and self.headers:has "content-length") then
    self.status = 204
  end
  local outgoing, err = message.finish(request, self)
  if not outgoing then
    return nil, err
  end
  return send_outgoing(self, outgoing)
end

--- Sends the whole response now. Without it this happens when the handler has returned.
---@param body? string|echostream.http.body  default the field `body`
---@param status? integer
---@param headers? table<string, string|string[]>|echostream.http.fields  are set beside those that are there
---@return true|nil ok, echostream.error? err
function Response:send(body, status, headers)
  if self.begun then
    return nil, errors.new("failed_precondition", "the request was answered before")
  end
  self.status = status or self.status
  if fields.is_fields(headers) then
    for name in headers:each() do
      self.headers:set(name, headers:all(name))
    end
  else
    for name, value in pairs(headers or {}) do
      self.headers:set(name, value)
    end
  end
  if body ~= nil then
    self.body = body
  end
  return send(self)
end

--- Makes the response JSON.
---@param value any         what `echo.codec.json` can pack
---@param status? integer
---@return echostream.http.response self
function Response:json(value, status)
  local text, err = codec.json.pack(value)
  if not text then
    error("response:json: " .. tostring(err), options.users_level(2))
  end
  self.status, self.body = status or self.status, text
  self.headers:set("content-type", "application/json")
  return self
end

--- For the host: the end of whatever a handler began, or all of what it only described.
---@param self echostream.http.response
---@return true|nil ok, echostream.error? err
---@package
function M.complete(self)
  if self._finished then
    return true
  elseif self.begun then
    return self:finish()
  end
  return send(self)
end

--- For the host: gives up what was begun, so that the client knows that it is not whole.
---@param self echostream.http.response
---@package
function M.abort(self)
  self._finished = true
  self._x:reset(INTERNAL_ERROR)
end

---@param request echostream.http.request
---@return echostream.http.response
---@package
function M.new(request)
  return setmetatable({ status = 200, begun = false, bytes = 0, _finished = false, _request = request, _x = request._x }, Response)
end

return M
