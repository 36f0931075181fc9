--- The content of requests: read whole within a bound, and decoded as its type says.

local codec = require "echostream.codec"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local options = require "echostream.options"
local query = require "echostream.http.query"

local M = {}

--- Most bytes that are read, unless told otherwise: as much as a message of the native protocol has.
M.max_bytes = 4 << 20

local function fail(status, code, ...)
  local err = errors.new(code, (...):format(select(2, ...)))
  err.http_status = status
  return nil, err
end

--- Reads a body. May wait. A body that is said to be too long is not read at all, one that turns out so no further.
---@param request { headers: echostream.http.fields, body?: string|echostream.http.body }
---@param max? integer  bytes, default `content.max_bytes`
---@return string? bytes, echostream.error? err  `resource_exhausted` (413) when it is too long, `invalid_argument` when its
--- `Content-Length` is none; or what the body failed with
function M.read(request, max)
  max = max or M.max_bytes
  local said = request.headers:get "content-length"
  if said and not said:find "^%d+$" then
    return fail(400, "invalid_argument", "the Content-Length is no number")
  elseif said and (#said:gsub("^0+", "") > 18 or tonumber(said) > max) then
    return fail(413, "resource_exhausted", "more than %d bytes", max)
  end
  local body = request.body
  if body == nil or type(body) == "string" then
    if body and #body > max then
      return fail(413, "resource_exhausted", "more than %d bytes", max)
    end
    return body or ""
  end
  local pieces, size = {}, 0
  while true do
    local piece, err = body()
    if piece == nil then
      if err ~= nil then
        return nil, errors.from(err)
      end
      return table.concat(pieces)
    end
    size = size + #piece
    if size > max then
      if type(body) == "table" and body.close then
        body:close()
      end
      return fail(413, "resource_exhausted", "more than %d bytes", max)
    end
    pieces[#pieces + 1] = piece
  end
end

local kinds = {
  ["application/json"] = "json",
  ["application/msgpack"] = "msgpack",
  ["application/x-msgpack"] = "msgpack",
  ["application/vnd.msgpack"] = "msgpack",
  ["application/x-www-form-urlencoded"] = "form",
  ["text/plain"] = "text",
  ["application/octet-stream"] = "bytes",
}

--- What the type of a message's content is to us.
---@param headers echostream.http.fields
---@return "json"|"msgpack"|"form"|"text"|"bytes"|nil kind  nil: there is no type, or one that is unknown here
---@return string? type  in lower case, without parameters
function M.kind(headers)
  local said = headers:get "content-type"
  local name = said and fields.parameters(said)
  name = name and name:lower()
  return name and (kinds[name] or name:find "^application/[%w.+-]+%+json$" and "json"), name
end

---@class echostream.options.content
---@field max? integer        bytes (default: 4194304)
---@field guess_json? boolean  a body without a type, or said to be a form (which `curl -d` says of everything), is JSON (default: false)

local schema = {
  max = { type = "integer", min = 0 },
  guess_json = { type = "boolean", default = false },
}

--- Reads and decodes a body. May wait.
---@param request { headers: echostream.http.fields, body?: string|echostream.http.body }
---@param opts? echostream.options.content
---@return any value  of JSON and MessagePack what was packed (null: `echo.null`), of a form the first value of each name, of text and bytes a string
---@return "json"|"msgpack"|"form"|"text"|"bytes"|echostream.error kind  or, after nil: `serialization` for content that is broken (400) or
--- of a type or coding that nobody here knows (415); what `read` says
function M.decode(request, opts)
  local o = options.check("http.content", opts, schema)
  local kind, name = M.kind(request.headers)
  if o.guess_json and (kind == "form" or name == nil) then
    kind = "json"
  end
  local coding = request.headers:get "content-encoding"
  if coding and coding:lower() ~= "identity" then
    return fail(415, "serialization", "content coded as %s is not taken here", errors.show(coding))
  elseif not kind then
    return fail(415, "serialization", name and "content of the type %s is not taken here" or "the content has no type",
      errors.show(name))
  end
  local bytes, err = M.read(request, o.max)
  if not bytes then
    return nil, err --[[@as echostream.error]]
  elseif kind == "text" or kind == "bytes" then
    return bytes, kind
  end
  if kind == "form" then
    local values, problem = query.parse(bytes)
    if not values then
      return nil, problem
    end
    return values, kind
  end
  local value, behind = codec[kind].unpack(bytes)
  if math.type(behind) ~= "integer" then
    return nil, behind
  elseif bytes:find(kind == "json" and "[^ \t\r\n]" or ".", behind) then
    return fail(400, "serialization", "there is more behind the value")
  elseif value == nil then
    value = codec.null
  end
  return value, kind
end

return M
