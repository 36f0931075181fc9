-- As much of the C module in plain Lua as its users need that have no sockets: heads, parts, HMAC. It stands in for the module only where
-- that has not been built; the forms on the wire are its own.

local codec = require "echostream.codec"
local fake_head = require "tunnel.spec.support.fake_head"

local M = {}

local numbers = { head = 1, informational = 2, body = 3, trailers = 4, ["end"] = 5, reset = 6, note = 7 }
local names = {}
for name, number in pairs(numbers) do names[number] = name end

local function part(kind, value)
  return ("B s4"):pack(numbers[kind], value or "")
end

function M.part(kind, value)
  if kind == "reset" then value = codec.msgpack.pack(value) end
  return part(kind, value)
end

local function head_part(head, fin)
  local plain = { kind = head.kind, method = head.method, scheme = head.scheme, authority = head.authority, path = head.path,
    protocol = head.protocol, status = head.status, fields = rawget(head, "_fields") }
  local kind = head.kind == "trailers" and "trailers" or head.status and head.status < 200 and "informational" or "head"
  return part(kind, codec.msgpack.pack(plain)) .. (fin and part "end" or "")
end

local function head_of(bytes)
  local plain = codec.msgpack.unpack(bytes)
  local fields = plain.fields
  plain.fields = nil
  local kind = plain.kind
  plain.kind = nil
  for _, field in ipairs(fields) do table.insert(plain, field) end
  return M.head(kind, plain)
end

function M.head(kind, fields)
  local head = fake_head.head(kind, fields)
  rawset(head, "part", head_part)
  local copy = head.copy
  rawset(head, "copy", function(self)
    local other = copy(self)
    rawset(other, "part", head_part)
    return other
  end)
  return head
end

function M.parts(message)
  local list, at = {}, 1
  while at <= #message do
    local number, bytes
    number, bytes, at = ("B s4"):unpack(message, at)
    local kind = names[number]
    local value = bytes
    if kind == "head" or kind == "informational" or kind == "trailers" then
      value = head_of(bytes)
    elseif kind == "reset" then
      value = codec.msgpack.unpack(bytes)
    end
    table.insert(list, { kind, value })
  end
  local i = 0
  return function()
    i = i + 1
    if list[i] then return list[i][1], list[i][2] end
  end
end

function M.split(message)
  local at, note = 1, nil
  while at <= #message do
    local number, bytes
    number, bytes, at = ("B s4"):unpack(message, at)
    if number == numbers.note then
      note = bytes
    elseif number == numbers.head then
      return head_of(bytes), message:sub(at), note
    else
      break
    end
  end
  return nil, require("echostream.errors").new("protocol", "no head")
end

function M.hmac_sha256(key, text)
  local sum = 0
  for i, byte in ipairs { (key .. text):byte(1, -1) } do sum = (sum * 31 + byte * i) & 0x7fffffffffffffff end
  return ("j"):pack(sum):rep(4)
end

function M.tls_client(options) return { options = options } end

-- Lets modules find this in the C module's place, when there is none.
function M.install()
  if not pcall(require, "echostream.tunnel.core") then package.loaded["echostream.tunnel.core"] = M end
end

return M
