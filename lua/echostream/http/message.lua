--- What a response has to be before it is sent, whoever made it (RFC 9110, sections 6.6.1, 8.6 and 15; RFC 9114, section 4).
---
--- A transport makes a response with `new`, lets a handler fill it, and sends what `finish` gives.

local date = require "echostream.http.date"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"

local M = {}

--- An empty response.
---@return echostream.http.response
function M.new()
  return { status = 200, headers = fields.new(), body = nil }
end

local function is_callable(value)
  local mt = type(value) == "table" and getmetatable(value)
  return type(value) == "function" or type(mt) == "table" and type(mt.__call) == "function"
end

--- Gives a body up: whatever made it need not go on. Harmless for every kind of body.
---@param body any
function M.abandon(body)
  if type(body) == "table" and type(body.close) == "function" then
    body:close()
  end
end

local function fail(...)
  return nil, errors.new("internal", (...):format(select(2, ...)))
end

-- Calls for the next piece until there is one with bytes in it, and sees to it that as many come as were promised.
local function checked(body, length)
  local sent, over = 0, false
  local function stop(message, ...)
    over = true
    M.abandon(body)
    return fail(message, ...)
  end
  return function()
    while not over do
      local piece, err = body()
      if piece == nil then
        over = true
        if err ~= nil then
          return nil, errors.from(err)
        elseif length and sent < length then
          return fail("a body of %d bytes ended after %d", length, sent)
        end
        return nil
      elseif type(piece) ~= "string" then
        return stop("a body is made of strings, it gave %s", errors.show(piece))
      end
      sent = sent + #piece
      if length and sent > length then
        return stop("a body of %d bytes has more", length)
      elseif piece ~= "" then
        return piece
      end
    end
  end
end

-- The length of the content as the headers and the body say it; false when they differ.
local function length_of(headers, body)
  local text = headers:get "content-length"
  local said = text and #text <= 18 and text:find "^%d+$" and math.tointeger(tonumber(text))
  local known
  if type(body) == "string" then
    known = #body
  elseif type(body) == "table" then
    known = body.length
  end
  if text and not said or said and known and said ~= known then
    return false
  end
  return said or known
end

---@class echostream.http.outgoing
---@field status integer
---@field headers echostream.http.fields
---@field body? string|fun(): string?, echostream.error?  nil: the message ends with its headers. A function is called whenever
--- another piece can be sent; nil ends the body, nil and an error mean that the stream has to be reset
---@field close fun()  gives the body up when it is not sent to its end; harmless twice

--- Makes a response ready: no content for HEAD, 204, 205 and 304, a `Content-Length` where the length is known, a `Date`. A body that is
--- not sent is closed. Of a string without a type the type is plain text.
---@param request { method: string }
---@param response echostream.http.response
---@param now? number  seconds since 1970, default the system's time
---@return echostream.http.outgoing? outgoing, echostream.error? err  `internal`: the handler made no response that HTTP has; its body
--- has been closed
function M.finish(request, response, now)
  local status, headers, body = response.status, response.headers, response.body
  local function refuse(...)
    M.abandon(body)
    return fail(...)
  end
  if math.type(status) ~= "integer" or status < 200 or status > 599 then
    return refuse("%s is no status of a response", errors.show(status))
  elseif body ~= nil and type(body) ~= "string" and not is_callable(body) then
    return refuse("a body is a string or a function, not %s", errors.show(body))
  end
  for name, value in headers:each() do
    if fields.connection_specific[name] or name == "te" then
      return refuse("the field \"%s\" belongs to a connection and has no place here", name)
    elseif name == "content-length" and value:find "%D" then
      return refuse("%s is no length", errors.show(value))
    end
  end
  local bare = status == 204 or status == 205 or status == 304
  local head_only = request.method == "HEAD"
  if bare or head_only then
    if status == 204 then
      headers:remove "content-length" -- RFC 9110, section 8.6
    elseif status == 205 then
      headers:set("content-length", 0)
    elseif status ~= 304 then
      local length = length_of(headers, body)
      if length == false then
        return refuse "the Content-Length is not that of the body"
      end
      headers:set("content-length", length)
    end
    M.abandon(body)
    body = nil
  else
    body = body or ""
    local length = length_of(headers, body)
    if length == false then
      return refuse "the Content-Length is not that of the body"
    end
    headers:set("content-length", length)
    if type(body) == "string" and body ~= "" and not headers:has "content-type" then
      headers:set("content-type", "text/plain; charset=utf-8")
    end
    if body == "" then
      body = nil
    elseif type(body) ~= "string" then
      body = checked(body, length)
    end
  end
  if not headers:has "date" then
    headers:set("date", date.format(now or os.time()))
  end
  local closed, whole = false, response.body
  return {
    status = status,
    headers = headers,
    body = body,
    close = function()
      if not closed then
        closed = true
        M.abandon(whole)
      end
    end,
  }
end

return M
