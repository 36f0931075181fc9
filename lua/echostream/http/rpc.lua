--- Calls over HTTP: `POST /rpc/<method>` and `POST /event/<name>` reach the very handlers that the native protocol reaches.
---
---     server:rpc_over_http()
---
---     curl --http3-only -k -d '[10,20]' https://127.0.0.1:5000/rpc/math.add        prints 30
---
--- * The body is JSON or MessagePack, as its type says: an array is the list of the arguments, an object with nothing but names that the
---   handler declared (`arguments`) the arguments by name, any other value the only argument, no body none.
--- * One result is the answer's body as it is (`true` where the handler returned none); several are an array, with the field `results: n`.
--- * `timeout: 2.5` (seconds; also `500ms`, or `grpc-timeout`) is the deadline, `metadata-<key>` the metadata both ways, `authorization`
---   a credential of the session as well, `idempotency-key` makes retries of idempotent methods known to `dedupe`.
--- * Errors are JSON, with the status of their code; a method that is not there is 404.
--- * What a streaming method sends comes as server-sent events, or with `accept: application/x-ndjson` as lines; see stream.lua beside.

local codec = require "echostream.codec"
local cors = require "echostream.http.cors"
local door = require "echostream.http.door"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local message = require "echostream.http.rpc_message"
local options = require "echostream.options"
local parts = require "echostream.plugins.parts"
local query = require "echostream.http.query"
local streaming = require "echostream.http.rpc_stream"

local M = {}

---@class echostream.options.rpc_over_http
---@field prefix? string  before the paths, such as "/api" (default: "")
---@field only? string[]  names, or beginnings and "*": nothing else can be reached over HTTP (default: everything)
---@field credentials? string[]  fields of requests that are credentials of the session, as `metadata` is of a client's: `auth` gets them
--- (default: { "authorization" })
---@field cors? echostream.options.cors  which pages of other origins may call (default: none)
---@field max_body? integer  bytes of a request (default: the server's `max_message`, 4194304)

local schema = {
  prefix = { type = "string", default = "" },
  only = { type = "strings" },
  credentials = { type = "strings", default = { "authorization" } },
  cors = { type = "table" },
  max_body = { type = "integer", min = 0 },
}

local fail = message.fail

---@class echostream.http.rpc
---@field _server echostream.server
---@field _door echostream.http.door
---@field _opts echostream.options.rpc_over_http
local Rpc = { __name = "echostream.http.rpc" }
Rpc.__index = Rpc

function Rpc:_who(request)
  local credentials = {}
  for _, name in ipairs(self._opts.credentials) do
    credentials[name] = request.headers:get(name)
  end
  return { request = request, credentials = credentials }
end

-- Handlers ----------------------------------------------------------------------------------------------------

local function same_origin(request, origin)
  return origin:lower() == ((request.scheme or "https") .. "://" .. (request.authority or "")):lower()
end

-- A page of another origin may call only when the policy says so: else any page that somebody opens could reach a server on their
-- machine, for a form needs no permission to be sent.
function Rpc:_check_origin(request)
  local origin = request.headers:get "origin"
  local site = request.headers:get "sec-fetch-site"
  if origin and not same_origin(request, origin) and not (self._cors and self._cors:allows(origin)) then
    return fail(403, "permission_denied", "pages of %s may not call", errors.show(origin))
  elseif not origin and (site == "cross-site" or site == "same-site") then
    return fail(403, "permission_denied", "pages of other origins may not call")
  end
  return true
end

function Rpc:_find(kind, name)
  if not self._only(name) then
    return nil
  end
  return self._server._catalog[kind][name], #self._server._host:versions(kind, name) > 0
end

local function is_name(name)
  return #name <= 256 and name:find "^[%w._/:-]+$" ~= nil
end

local function no_method(name)
  return fail(404, "method_not_found", "no method %s", errors.show(name))
end

function Rpc:_unary(request, response, name, opts, args, kind)
  local results, trailers = self._door:request(self:_who(request), name, opts, args)
  if results.n == 2 and results[1] == nil and errors.is_error(results[2]) then
    message.put_trailers(response, trailers)
    return message.refuse(response, results[2])
  end
  return message.answer(response, results, kind, trailers)
end

function Rpc:_call(request, response)
  local name = request.params.method
  local ok, err = self:_check_origin(request)
  if not ok then
    return nil, err
  end
  local entry, there = self:_find("rpc", name)
  if not there or not is_name(name) then
    return no_method(name)
  end
  local opts
  opts, err = message.call_options(request, entry)
  if not opts then
    return nil, err
  elseif entry and entry.stream then
    return streaming.serve(self, request, response, entry, opts)
  end
  local args, kind = message.arguments(request, entry, self._max_body)
  if not args then
    return nil, kind
  end
  local wanted
  wanted, err = message.kind_of_answer(request, kind)
  if not wanted then
    return nil, err
  end
  return self:_unary(request, response, name, opts, args, wanted)
end

-- Only what is idempotent can be had by GET: `?args=` is the JSON that a body would be.
function Rpc:_get(request, response)
  local name = request.params.method
  local ok, err = self:_check_origin(request)
  if not ok then
    return nil, err
  end
  local entry, there = self:_find("rpc", name)
  if not there then
    return no_method(name)
  elseif not entry or not entry.idempotent then
    response.headers:set("allow", "POST, OPTIONS")
    return fail(405, "failed_precondition", "%s is not idempotent: it can be called by POST only", name)
  end
  local opts
  opts, err = message.call_options(request, entry)
  if not opts then
    return nil, err
  end
  local _, text = query.split(request.path)
  local values
  values, err = query.parse(text or "")
  if not values then
    return nil, err
  end
  local args = { n = 0 }
  if values.args and values.args ~= "" then
    args, err = message.read(entry, "json", values.args)
    if not args then
      return nil, err
    end
  end
  response.headers:set("cache-control", "no-store")
  if entry.stream then
    return streaming.out(self, request, response, entry, opts, args)
  end
  return self:_unary(request, response, name, opts, args, message.kind_of_answer(request, "json") or "json")
end

function Rpc:_event(request, response)
  local name = request.params.name
  local ok, err = self:_check_origin(request)
  if not ok then
    return nil, err
  end
  local entry, there = self:_find("event", name)
  if not there then
    return fail(404, "not_found", "nobody handles the event %s", errors.show(name))
  end
  local args, kind = message.arguments(request, entry, self._max_body)
  if not args then
    return nil, kind
  end
  local opts
  opts, err = message.call_options(request)
  if not opts then
    return nil, err
  end
  ok, err = self._door:emit(self:_who(request), name, opts, args)
  if not ok then
    return nil, err
  end
  response.status = 202
end

-- What can be called, as `rpc.describe` says it, with the path and the method of HTTP for each.
function Rpc:_describe(request, response)
  local ok, err = self:_check_origin(request)
  if not ok then
    return nil, err
  end
  local opts
  opts, err = message.call_options(request)
  if not opts then
    return nil, err
  end
  local results = self._door:request(self:_who(request), "rpc.describe", opts, { n = 0 })
  if type(results[1]) ~= "table" then
    return nil, results[2]
  end
  local list = {}
  for _, entry in ipairs(results[1]) do
    if entry.kind ~= "stream" and self._only(entry.name) then
      entry.path = self._opts.prefix .. (entry.kind == "rpc" and "/rpc/" or "/event/") .. entry.name
      list[#list + 1] = entry
    end
  end
  message.answer(response, { n = 1, codec.array(list) }, message.kind_of_answer(request, "json") or "json")
end

-- Installing --------------------------------------------------------------------------------------------------

local CORS_HEADERS <const> = { "content-type", "accept", "authorization", "timeout", "idempotency-key", "traceparent", "tracestate" }

local function policy_of(given)
  if not given then
    return nil
  end
  local opts = {}
  for key, value in pairs(given) do
    opts[key] = value
  end
  opts.headers = opts.headers or CORS_HEADERS
  opts.expose = opts.expose or { "results", "retry-after" }
  return cors.new(opts)
end

local function bound(self, method)
  return function(request, response)
    local _, err = self[method](self, request, response)
    if err then
      message.refuse(response, err)
    end
  end
end

local function preflight(request, response)
  response.status = 204
  response.headers:set("allow", request.route:find "/event/" and "POST, OPTIONS" or "GET, POST, OPTIONS")
end

--- Makes calls over HTTP possible. `add(method, pattern, handler)` adds a route.
---@param server echostream.server
---@param given? echostream.options.rpc_over_http
---@param add fun(method: string, pattern: string, handler: echostream.http.handler, opts: echostream.options.route)
---@return echostream.http.rpc
---@package
function M.install(server, given, add)
  local opts = options.check("server:rpc_over_http", given, schema)
  if opts.prefix ~= "" and (opts.prefix:sub(1, 1) ~= "/" or opts.prefix:sub(-1) == "/") then
    error(('server:rpc_over_http: option "prefix" wants a path such as "/api", got %s'):format(errors.show(opts.prefix)), 2)
  end
  for i, name in ipairs(opts.credentials) do
    if not fields.is_token(name) then
      error(('server:rpc_over_http: option "credentials": %s is no name of a field'):format(errors.show(name)), 2)
    end
    opts.credentials[i] = name:lower()
  end
  local self = setmetatable({
    _server = server,
    _opts = opts,
    _cors = policy_of(opts.cors),
    _only = parts.one_of(opts.only),
    _max_body = opts.max_body or server._options.max_message or 4 << 20,
    _door = server._door or door.new(server),
  }, Rpc)
  server._door = self._door
  local limits = { timeout = 0, max_body = self._max_body } -- calls have deadlines of their own
  local function route(method, path, handler)
    add(method, opts.prefix .. path, self._cors and self._cors:wrap(handler) or handler, limits)
  end
  route("GET", "/rpc", bound(self, "_describe"))
  route("POST", "/rpc/*method", bound(self, "_call"))
  route("GET", "/rpc/*method", bound(self, "_get"))
  route("POST", "/event/*name", bound(self, "_event"))
  if self._cors then
    for _, path in ipairs { "/rpc", "/rpc/*method", "/event/*name" } do
      route("OPTIONS", path, preflight)
    end
  end
  return self
end

return M
