--- What requests and answers of calls over HTTP mean: deadlines, metadata, arguments and results. See rpc.lua beside.

local accept = require "echostream.http.accept"
local codec = require "echostream.codec"
local content = require "echostream.http.content"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local http_errors = require "echostream.http.errors"

local M = {}

-- Of requests, what is metadata without the prefix.
local PASSED <const> = { "authorization", "traceparent", "tracestate", "baggage" }
local PREFIX <const> = "metadata-"

local types = { json = "application/json", msgpack = "application/msgpack" }

---@package
--- nil and an error that has a status of its own. No handler has run.
function M.fail(status, code, ...)
  local err = errors.new(code, (...):format(select(2, ...)))
  err.http_status = status
  err.processed = "no"
  return nil, err
end
local fail = M.fail

-- What a request says beside its body -------------------------------------------------------------------------

local units = { H = 3600, M = 60, S = 1, m = 1e-3, u = 1e-6, n = 1e-9 }

-- Seconds, nil when it says nothing; false and an error when nobody can read it.
local function timeout_of(headers)
  local said = headers:get "timeout"
  local seconds
  if said then
    local number, unit = said:sub(1, 20):match "^(%d+%.?%d*)(%a*)$" -- what is longer is none, and would take long to look at
    local factor = ({ [""] = 1, s = 1, ms = 1e-3 })[unit]
    seconds = number and #said <= 18 and #number <= 16 and factor and tonumber(number) * factor
  else
    said = headers:get "grpc-timeout"
    if not said then
      return nil
    end
    local number, unit = said:match "^(%d+)(%a)$"
    seconds = number and #number <= 8 and units[unit] and tonumber(number) * units[unit]
  end
  if not seconds or seconds > 1e9 then
    return false, select(2, fail(400, "invalid_argument", "%s is no timeout (write seconds, such as 2.5, or 500ms)", errors.show(said)))
  end
  return seconds
end

-- What the protocol's metadata can have: pairs, bytes of a key, bytes in all.
local MAX_PAIRS <const>, MAX_KEY <const>, MAX_BYTES <const> = 64, 64, 16384

---@package
--- What a request says beside its arguments.
---@param headers echostream.http.fields
---@return table<string, string>|nil metadata  nil: nothing
---@return echostream.error? err  400 or 431
function M.metadata(headers)
  local metadata, pairs_of, bytes = {}, 0, 0
  local function put(key, value)
    if metadata[key] then
      value, bytes = metadata[key] .. ", " .. value, bytes - #key - #metadata[key]
      pairs_of = pairs_of - 1
    end
    metadata[key] = value
    pairs_of, bytes = pairs_of + 1, bytes + #key + #value
  end
  for name, value in headers:each() do
    if name:sub(1, #PREFIX) == PREFIX then
      local key = name:sub(#PREFIX + 1)
      if #key > MAX_KEY or not key:find "^[%l%d._/:-]+$" then
        return fail(400, "invalid_argument", "metadata: %s is no key: 1 to 64 of a-z 0-9 . _ / : -", errors.show(key))
      end
      put(key, value)
    end
  end
  for _, name in ipairs(PASSED) do
    local value = headers:get(name)
    if value and not metadata[name] then
      put(name, value)
    end
  end
  if pairs_of > MAX_PAIRS or bytes > MAX_BYTES - 4 * pairs_of then
    return fail(431, "resource_exhausted", "metadata: at most %d pairs and %d bytes", MAX_PAIRS, MAX_BYTES)
  end
  return pairs_of > 0 and metadata or nil
end

-- An id for the requests of one key; of a range that the core's own ids never reach. FNV-1a: whoever finds another key with the same id
-- gains nothing, because the answer is only for the same arguments and credentials.
local function id_of(key)
  local hash = 0xcbf29ce484222325
  for i = 1, #key do
    hash = (hash ~ key:byte(i)) * 0x100000001b3
  end
  return hash & (1 << 61) - 1 | 1 << 61
end

---@package
--- The options of the call that a request asks for.
---@param entry? echostream.description
---@return table|nil opts, echostream.error? err
function M.call_options(request, entry)
  local timeout, err = timeout_of(request.headers)
  if timeout == false then
    return nil, err
  end
  local metadata
  metadata, err = M.metadata(request.headers)
  if err then
    return nil, err
  end
  local opts = { timeout = timeout, metadata = metadata }
  local key = request.headers:get "idempotency-key"
  if key and entry and entry.idempotent then
    -- Whether one came before nobody knows: each is a retry, of which the first finds nothing.
    opts.idempotent, opts[1], opts[3] = true, id_of(key), true
  end
  return opts
end

-- Arguments ---------------------------------------------------------------------------------------------------

-- By the names that the handler declared, if the object has no others.
local function by_name(entry, object)
  local declared = entry and entry.arguments
  if not declared or #declared == 0 then
    return nil
  end
  local args, places = { n = 0 }, {}
  for i, each in ipairs(declared) do
    if not each.name then
      return nil
    end
    places[each.name] = i
  end
  for name, value in pairs(object) do
    local i = places[name]
    if not i then
      return nil
    elseif value ~= codec.null then
      args[i] = value
    end
    args.n = math.max(args.n, i)
  end
  return args
end

local function is_list(kind, bytes)
  if kind == "json" then
    return bytes:find "^[ \t\r\n]*%[" ~= nil
  end
  local first = bytes:byte()
  return first >= 0x90 and first <= 0x9f or first == 0xdc or first == 0xdd
end

---@package
--- What a body, or the query of a GET, says.
function M.read(entry, kind, bytes)
  if is_list(kind, bytes) then
    local args = table.pack(codec[kind].decode(bytes))
    if args.n == 2 and args[1] == nil and errors.is_error(args[2]) then
      return nil, args[2]
    end
    return args
  end
  local value, problem = content.decode({ headers = fields.new { ["content-type"] = types[kind] }, body = bytes }, { max = #bytes })
  if value == nil then
    return nil, problem
  elseif value == codec.null then
    value = nil
  end
  return type(value) == "table" and by_name(entry, value) or { n = 1, value }
end

---@package
--- The kind of what a request carries: "json", "msgpack", or "lines" of JSON.
function M.kind(request)
  local kind, name = content.kind(request.headers)
  if name == "application/x-ndjson" or name == "application/ndjson" then
    return "lines"
  elseif kind == "form" or name == nil then -- what `curl -d` says of everything
    return "json"
  elseif kind == "json" or kind == "msgpack" then
    return kind
  end
  return fail(415, "serialization", "content of the type %s is not taken here: JSON or MessagePack are", errors.show(name))
end

---@package
--- Reads the arguments of a request.
---@param max integer  bytes
---@return table|nil args  with `n`
---@return "json"|"msgpack"|echostream.error kind
function M.arguments(request, entry, max)
  local kind, err = M.kind(request)
  if not kind then
    return nil, err
  elseif kind == "lines" then
    return fail(415, "serialization", "lines of JSON are for methods that take a stream of messages")
  elseif request.headers:has "content-encoding" then
    return fail(415, "serialization", "coded content is not taken here")
  end
  local bytes
  bytes, err = content.read(request, max)
  if not bytes then
    return nil, err
  elseif bytes == "" then
    return { n = 0 }, kind
  end
  local args
  args, err = M.read(entry, kind, bytes)
  if not args then
    return nil, err
  end
  return args, kind
end

-- Answers -----------------------------------------------------------------------------------------------------

---@package
--- What failed, as an answer. Nothing that is here is not found here; what else has no HTTP is left as it is.
function M.refuse(response, err)
  if err.code == "method_not_found" then
    err.http_status = 404
  end
  if http_errors.status(err) == 401 then
    response.headers:set("www-authenticate", "Bearer") -- RFC 9110, section 11.6.1
  end
  return http_errors.respond(response, err)
end

---@package
--- Metadata of the answer.
function M.put_trailers(response, trailers)
  for key, value in pairs(trailers or {}) do
    if fields.is_token(key) and fields.is_value(value) then
      response.headers:set(PREFIX .. key, value)
    end
  end
end

---@package
--- Results as the body of an answer.
---@param response echostream.http.response
---@param results table  with `n`
---@param kind "json"|"msgpack"
---@param trailers table<string, string>?
function M.answer(response, results, kind, trailers)
  M.put_trailers(response, trailers)
  local bytes, err
  if results.n == 1 then
    bytes, err = codec[kind].pack(results[1])
  else
    bytes, err = codec[kind].encode(table.unpack(results, 1, results.n))
    response.headers:set("results", results.n)
  end
  if not bytes then
    err = errors.new("serialization", ("the results cannot be sent as %s: %s"):format(types[kind], err.message))
    err.http_status = 500
    return M.refuse(response, err)
  end
  response.headers:set("content-type", types[kind])
  response.body = bytes
end

---@package
--- What the answer is to be, as the request is unless it accepts something else; nil, err: neither.
function M.kind_of_answer(request, kind)
  local mine = types[kind]
  local best = accept.media_type(request.headers:get "accept", { mine, mine == types.json and types.msgpack or types.json })
  if not best then
    return fail(406, "invalid_argument", "the answer can be %s or %s", types.json, types.msgpack)
  end
  return best == types.msgpack and "msgpack" or "json"
end

return M
