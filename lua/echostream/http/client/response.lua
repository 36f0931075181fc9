--- The answer to a request: its head is there, its body is read piece by piece or whole.

local codec = require "echostream.codec"
local connections = require "echostream.quic.connection"
local decode = require "echostream.http.client.decode"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

--- Bytes that `answer:body` takes, unless told otherwise.
M.LIMIT = 8 * 1024 * 1024

---@class echostream.http.answer
---@field status integer
---@field ok boolean                   the status is 200 to 299
---@field headers echostream.http.fields
---@field url string                   that was asked last, after redirections
---@field method string                that was used last
---@field redirects string[]           what was asked before, in order
---@field informational { status: integer, headers: echostream.http.fields }[]  1xx answers that came before
---@field early boolean                it was asked for with the first packet of the connection (0-RTT)
---@field coding? string              the content coding that was undone, see the option `decode`; `content-length` is left out then
---@field protocol string              "h3"
local Answer = {}
Answer.__index = Answer
Answer.__name = "echostream.http.answer"

Answer.__tostring = function(self)
  return ("echostream.http.answer %d %s"):format(self.status, self.url)
end

-- The core's list as fields; nil, err: malformed.
local function parse(list)
  local lines = {}
  for i = 1, #list, 2 do
    lines[#lines + 1] = { list[i], list[i + 1] }
  end
  return fields.parse(lines)
end
M.parse = parse

--- Makes one whose head is there.
---@param exchange echostream.http.exchange
---@param status integer
---@param about { url: string, method: string, limit: integer, decode: boolean }
---@return echostream.http.answer? response, echostream.error? err
function M.new(exchange, status, about)
  local headers, err = parse(exchange:fields())
  if not headers then
    exchange:close(err)
    return nil, err
  end
  local self = setmetatable({
    status = status, ok = status >= 200 and status <= 299, headers = headers, url = about.url, method = about.method, redirects = {},
    informational = {}, early = exchange:was_early(), protocol = "h3", _exchange = exchange, _limit = about.limit, _next = nil, _over = false,
  }, Answer)
  for i, inform in ipairs(exchange.informs) do
    self.informational[i] = { status = inform.status, headers = parse(inform.fields) or fields.new() }
  end
  self._next = function(timeout)
    return exchange:read(timeout)
  end
  if about.decode then
    local plain, coding = decode.reader(headers, self._next)
    self._next, self.coding = plain or self._next, coding
  end
  return self
end

local function read(timeout, self)
  if self._over then
    return nil, self._failed
  end
  local piece, err = self._next(timeout)
  if piece == nil and not (err and err.code == "timeout" and not self._exchange.error) then
    self._over, self._failed = true, err
    if err then
      self._exchange:close(err) -- what was compressed wrongly is not over for the server
    end
  end
  return piece, err
end

--- The next piece of the body, at most 64 KiB. Waits for it.
---@param timeout? number  seconds; after them nil, err `timeout`, and it can be read on
---@param callback? fun(piece: string?, err: echostream.error?)
---@return string|nil piece  nil: the end, or an error
---@return echostream.error? err  the request failed; the answer is not whole
function Answer:read(timeout, callback)
  return connections.either("answer:read", timeout, callback, read, self)
end

--- Iterates over the pieces of the body. Raises the error when it does not come to its end.
---@return fun(): string?
function Answer:chunks()
  return function()
    local piece, err = self:read()
    if err then
      error(err, 0)
    end
    return piece
  end
end

local function whole(self, limit)
  local pieces, size = {}, 0
  while true do
    local piece, err = read(nil, self)
    if err then
      return nil, err
    elseif not piece then
      return table.concat(pieces)
    end
    size = size + #piece
    if size > limit then
      err = errors.new("resource_exhausted", ("the body is longer than %d bytes"):format(limit))
      self._over, self._failed = true, err
      self._exchange:close(err)
      return nil, err
    end
    pieces[#pieces + 1] = piece
  end
end

local function limit_of(where, self, limit, callback)
  if type(limit) == "function" then
    limit, callback = nil, limit
  end
  if limit ~= nil then
    options.argument(where, "limit", limit, "integer", 3)
  end
  if callback ~= nil then
    options.argument(where, "callback", callback, "function", 3)
  end
  return limit or self._limit, callback
end

--- What is left of the body, whole.
---@param limit? integer  bytes; default the option `max_body` (8 MiB). What is longer is given up
---@param callback? fun(body: string?, err: echostream.error?)
---@return string|nil body
---@return echostream.error? err  `resource_exhausted`: it is longer
function Answer:body(limit, callback)
  limit, callback = limit_of("answer:body", self, limit, callback)
  if callback then
    return task.call_back(callback, whole, self, limit)
  end
  return task.block(whole, self, limit)
end

local function decoded(self, limit)
  local text, err = whole(self, limit)
  if not text then
    return nil, err
  end
  local value, behind = codec.json.unpack(text)
  if math.type(behind) ~= "integer" then
    return nil, errors.new("serialization", "the body is no JSON: " .. errors.from(behind).message)
  elseif text:find("%S", behind) then
    return nil, errors.new("serialization", ("the body is no JSON: there is more behind the value, at byte %d"):format(behind))
  elseif value == nil then
    value = codec.null
  end
  return value
end

--- The body, decoded as JSON; whatever `content-type` says.
---@param limit? integer  as of `answer:body`
---@param callback? fun(value: any, err: echostream.error?)
---@return any value  null: `echo.null`
---@return echostream.error? err  `serialization`: it is no JSON
function Answer:json(limit, callback)
  limit, callback = limit_of("answer:json", self, limit, callback)
  if callback then
    return task.call_back(callback, decoded, self, limit)
  end
  return task.block(decoded, self, limit)
end

--- What came behind the body; nil before its end was read, or when nothing did.
---@return echostream.http.fields? trailers
function Answer:trailers()
  local list = self._exchange.trailers
  return list and parse(list) or nil
end

--- Gives up what was not read: the server hears that nobody wants it. Harmless twice, and after the end.
---@return true
function Answer:close()
  if not self._over then
    self._over, self._failed = true, errors.new("cancelled", "the response was closed")
    self._exchange:close(self._failed)
  end
  return true
end

Answer.__close = Answer.close

return M
