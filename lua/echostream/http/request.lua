--- Requests as a server's handlers see them. Nothing is made before somebody asks for it: most handlers want the path and little else.

local connections = require "echostream.quic.connection"
local content = require "echostream.http.content"
local cookies = require "echostream.http.cookies"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local loop = require "echostream.loop"
local options = require "echostream.options"
local query = require "echostream.http.query"
local tls = require "echostream.tls"

local M = {}

--- A request of a client. What is marked as lazy is made when it is first asked for.
---@class echostream.http.request
---@field method string       "GET", as it was sent: methods have case
---@field scheme? string      "https"; nil for CONNECT
---@field authority string    "example.org:443"
---@field path? string        raw: with the query, percent-encoded; nil for CONNECT
---@field protocol? string    of an extended CONNECT (RFC 9220), such as "webtransport"
---@field headers echostream.http.fields   lazy
---@field params table<string, string>     what the names of the route's pattern stand for
---@field route? string       the pattern that took it
---@field query table<string, string>      the first value of each name; `echo.http.query.parse` gives all of them. Lazy
---@field cookies table<string, string>    lazy
---@field body echostream.http.body        called for the next piece; `text`, `json`, `form`, `decode` and `chunks` are more comfortable. Lazy
---@field peer_addr string    address and port of the client. Lazy
---@field connection integer of all requests that came over the same one the same number. Lazy
---@field peer_cert? echostream.certificate  what its certificate says, when the server asks for one. Lazy
---@field early boolean        it came in early data: whoever recorded it could have sent it again (RFC 8470). Lazy
---@field context table       for handlers and middleware: whatever they want to say to each other. Lazy
local Request = {}
Request.__name = "echostream.http.request"
M.methods = Request

local function bad(err)
  err.http_status = 400
  error(err, 0)
end

-- Waiting -----------------------------------------------------------------------------------------------------

-- Hears what the core says of the exchange.
local function listen(request)
  local waiters = connections.waiters()
  request._waiters = waiters
  request._x:notify(function(what)
    if what ~= "aborted" then
      waiters:wake(what)
      return
    end
    waiters:wake_all()
    local fns = rawget(request, "_on_cancel")
    request._on_cancel = nil
    for _, fn in ipairs(fns or {}) do
      loop.guard("request:on_cancel", fn)()
    end
  end)
  return waiters
end

--- Repeats `try(x, …)`, a call of the core's exchange, until it gives something else than nil, "again", and waits for `kind` between.
---@param request echostream.http.request
---@param where string
---@param kind "readable"|"writable"
---@param timeout number?
---@param try function
---@param ... any
---@package
function M.wait(request, where, kind, timeout, try, ...)
  local waiters = rawget(request, "_waiters")
  if not waiters then
    waiters = listen(request)
  end
  return connections.either(where, timeout, nil, function(seconds, ...)
    return connections.repeat_until(waiters, kind, seconds, request._host.now, try, ...)
  end, request._x, ...)
end

-- What is made when it is asked for -----------------------------------------------------------------------------

local lazy = {}

function lazy.headers(self)
  return fields.of_list(self._x:fields() or {})
end

function lazy.query(self)
  local values, err = query.parse(select(2, query.split(self.path or "")))
  return values or bad(err)
end

function lazy.cookies(self)
  local values, err = cookies.parse(self.headers:get "cookie")
  return values or bad(err)
end

function lazy.params()
  return {}
end

function lazy.context()
  return {}
end

function lazy.early(self)
  return self._x:early()
end

function lazy.peer_addr(self)
  return self._x:peer_addr() or ""
end

function lazy.connection(self)
  return (self._x:connection())
end

function lazy.peer_cert(self)
  return tls.describe((self._x:peer_cert()))
end

local body_mt = {
  __name = "echostream.http.body",
  __call = function(body)
    return body._request:read()
  end,
}

function lazy.body(self)
  return setmetatable({
    _request = self,
    close = function()
      self._failed = self._failed or errors.new("cancelled", "the body was given up here")
    end,
  }, body_mt)
end

function Request.__index(self, key)
  local method = Request[key]
  if method then
    return method
  end
  local make = lazy[key]
  if make then
    local value = make(self)
    self[key] = value
    return value
  end
end

-- Bodies ------------------------------------------------------------------------------------------------------

local function too_long(self)
  local err = errors.new("resource_exhausted", ("the body is longer than %d bytes"):format(self._max_body))
  err.http_status = 413
  self._failed = err
  return nil, err
end

-- Before the handler waits for a body: its length may say too much, and a client may wait for leave to send it (RFC 9110, 10.1.1).
local function before_body(self)
  self._asked = true
  local x = self._x
  local said = x:header "content-length"
  if said and (#said > 18 or tonumber(said) > self._max_body) then
    return too_long(self)
  end
  local expected = x:header "expect"
  if expected and expected:lower() == "100-continue" then
    x:inform(100)
  end
  return true
end

--- The next piece of the body, at most 64 KiB. Waits for it.
---@param timeout? number seconds
---@return string|nil piece  nil: the end, or an error
---@return echostream.error? err  `cancelled`: the client gave up; `timeout` (408 when it is the client's, see `body_timeout`);
--- `resource_exhausted`: the body is longer than `max_body`
function Request:read(timeout)
  if self._failed then
    return nil, self._failed
  end
  local x = self._x
  local piece, err = x:read()
  if not piece and err == "again" then
    if not self._asked then
      local ok, problem = before_body(self)
      if not ok then
        return nil, problem
      end
    end
    piece, err = M.wait(self, "request:read", "readable", timeout, x.read)
  end
  if piece then
    local size = self._size + #piece
    self._size = size
    if size > self._max_body then
      return too_long(self)
    end
  elseif err and (err.code ~= "timeout" or err.http_status) then -- not only this wait
    self._failed = err
  end
  return piece, err
end

--- Iterates over the pieces of the body. Raises when it does not come to its end.
---@return fun(): string?
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
---@param max? integer  bytes, default the server's `max_body`
---@return string|nil body, echostream.error? err  `resource_exhausted` (413): it is longer; or what `read` says
function Request:text(max)
  return content.read(self, max or self._max_body)
end

local function decoded(self, kind, max)
  local value, said = content.decode(self, { max = max or self._max_body, guess_json = kind == "json" })
  if value == nil then
    return nil, said
  elseif said ~= kind then
    local err = errors.new("serialization", ("the content is to be of the kind %s, not %s"):format(kind, tostring(said)))
    err.http_status = 415
    return nil, err
  end
  return value
end

--- What a body of the type JSON says; one without a type, or of the type that `curl -d` gives everything, is taken for it too.
---@param max? integer  bytes, default the server's `max_body`
---@return any value, echostream.error? err  `serialization` (400, or 415 for another type); null is `echo.null`
function Request:json(max)
  return decoded(self, "json", max)
end

--- The values of a form: application/x-www-form-urlencoded.
---@param max? integer  bytes, default the server's `max_body`
---@return table<string, string>|nil values  the first of each name
---@return echostream.error? err  as of `json`
function Request:form(max)
  return decoded(self, "form", max)
end

--- The body, decoded as its type says: see `echo.http.content.decode`.
---@param opts? echostream.options.content
---@return any value, string|echostream.error kind
function Request:decode(opts)
  return content.decode(self, opts)
end

--- What came behind the body; nil before its end was read, or when nothing did.
---@return echostream.http.fields|nil trailers
function Request:trailers()
  local list = self._x:fields(true)
  return list and fields.of_list(list)
end

--- Whether the client has given up: its answer will be thrown away.
---@return boolean
function Request:cancelled()
  return self._x:error() ~= nil
end

--- `fn()` is called once, as soon as the client has given up or is gone, until the handler has returned; at once when that is so already. Not in
--- a task: it must not wait.
---@param fn fun()
function Request:on_cancel(fn)
  options.argument("request:on_cancel", "fn", fn, "function")
  if self._x:error() ~= nil then
    fn()
    return
  elseif not rawget(self, "_waiters") then
    listen(self)
  end
  local fns = rawget(self, "_on_cancel") or {}
  self._on_cancel = fns
  fns[#fns + 1] = fn
end

---@package
--- A body that is a stream of messages may be as long as it likes.
function Request:take_any_body()
  self._max_body = math.maxinteger
end

---@package
--- And stand still for as long.
function Request:take_its_time()
  self._x:timeouts(0, 0)
end

---@package
--- A function that says whether the connection lives, also when the request is over.
---@return fun(): boolean
function Request:watch_connection()
  local x = self._x
  return function()
    return select(2, x:connection()) == true
  end
end

--- What the host makes of an exchange. nil: it was given up while it waited for its turn.
---@param host table
---@param x userdata
---@return echostream.http.request?
---@package
function M.new(host, x)
  local method, path, authority, scheme, protocol = x:target()
  if not method then
    return nil
  end
  return setmetatable({
    method = method, path = path, authority = authority, scheme = scheme, protocol = protocol,
    _x = x, _host = host, _max_body = host.max_body, _size = 0, _failed = false, _asked = false,
  }, Request)
end

return M
