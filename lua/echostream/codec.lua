--- Codecs: Lua values to bytes and back, whole values at a time.
---
--- ```lua
--- local codec = require "echostream.codec"
--- local bytes = codec.msgpack.encode("user", { id = 7 })  -- an array of exactly these two values
--- local name, user = codec.msgpack.decode(bytes)
--- ```
---
--- What the codecs with structure (MessagePack, JSON) have in common:
--- - Tables are read raw: no metamethod runs. Keys exactly 1..n make an array, everything else is a map, an empty table too.
---   `codec.array{}` makes an empty table an array and fills holes with null, `codec.map{…}` makes a sequence a map. A mark decides
---   only where Lua is ambiguous. It is a metatable, so a table that has another one cannot be marked.
--- - `nil` and `codec.null` are the codec's null. Decoded, null is `nil` as an argument or result and `codec.null` inside tables.
--- - Integers stay integers and floats floats. At most 250 values at once, tables nested at most 64 deep.
--- - MessagePack: strings are bytes, sent as str whatever they hold. Keys are strings, numbers or booleans. Extension types are
---   those of `codec.extend`, and timestamps. Refused: functions, coroutines, other userdata and extension types, integers above
---   2^63 - 1, keys that come twice.
--- - JSON: strings must be UTF-8, keys strings, numbers finite.
--- - raw: exactly one string, as it is.
---
--- Every function returns `nil, err` when something cannot be encoded or decoded: `err.code` is `serialization`, the message names
--- the place (`argument 2 .user.tags[3]: a function cannot be sent`; `byte 17: …`).

local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"

local M = {}

--- The names that a `codec` option takes.
---@type string[]
M.names = { "msgpack", "json", "raw" }

--- The codecs with structure by the number that they have here (16 and up: those of `register`).
---@private
---@type table<integer, echostream.codec>
M.numbers = { [1] = core.codec.msgpack, [2] = core.codec.json }

---@class echostream.codec
---@field name string
---@field id integer  its number here
---@field encode fun(...): string?, echostream.error?  an array of exactly its arguments
---@field decode fun(data: string, from?: integer): ...  gives them back; nothing may follow. `from`: first byte, default 1
---@field pack fun(value: any): string?, echostream.error?  one value
---@field unpack fun(data: string, from?: integer): any, integer|echostream.error  one value and the position behind it

--- MessagePack, what calls carry unless told otherwise.
---@type echostream.codec
M.msgpack = core.codec.msgpack

--- JSON, 64-bit integers exact.
---@type echostream.codec
M.json = core.codec.json

--- One string, untouched.
---@type echostream.codec
M.raw = core.codec.raw

--- The null of MessagePack and JSON inside tables, where Lua's `nil` would be no entry at all.
---@type userdata
M.null = core.null

--- Marks a table (a new one when none is given) as an array and returns it. Raises when it has a metatable of its own.
---@type fun(t?: table): table
M.array = core.array

--- Marks a table (a new one when none is given) as a map and returns it. Raises when it has a metatable of its own.
---@type fun(t?: table): table
M.map = core.map

--- Fields of the option `compress = { … }`.
---@private
---@type table<string, echostream.options.field>
M.compress_fields = {
  threshold = { type = "integer", min = 0, max = 0x7fffffff },
  level = { type = "integer", min = 1, max = 19 },
}

--- The codec of a name, for options such as `codec = "json"`.
---@param name string
---@return echostream.codec? codec nil: there is none of that name
function M.find(name)
  return core.codec[name]
end

-- Codecs of users ----------------------------------------------------------------------------------------------

local functions = { encode = { type = "function", required = true }, decode = { type = "function", required = true } }
local register_options = { replace = { type = "boolean" } }

--- Adds a codec, which is then used as `codec = "name"`: in `with{}`, `add_stream` and `create_stream`. Both sides register it
--- under the same name before they connect (their HELLOs say which codecs they have); towards a peer that does not know it,
--- calls fail with `invalid_argument`.
---
--- `encode(...)` gives the bytes of all its arguments (the arguments or results of a call; one value for a message of a
--- stream), `decode(bytes)` the values. They must not wait. What they raise, or return after nil, becomes an error with the
--- code `serialization`.
---@param name string  1 to 63 characters of A-Z a-z 0-9 . _ / : -
---@param codec { encode: fun(...): string, decode: fun(bytes: string): ... }
---@param opts? { replace?: boolean }  replace: a codec of that name may be there and gets these functions, as when a file is loaded again
---@return echostream.codec
function M.register(name, codec, opts)
  options.argument("codec.register", "name", name, "string")
  codec = options.check("codec.register", codec, functions)
  local known = core.codec[name]
  if known and (known.id < 16 or not options.check("codec.register", opts, register_options).replace) then
    error(("codec.register: there is a codec of the name %s already"):format(errors.show(name)), 2)
  end
  local ok, made = pcall(core.codec_register, name, codec.encode, codec.decode)
  if not ok then
    error(("codec.register: %s: a name is 1 to 63 characters of A-Z a-z 0-9 . _ / : - and at most 48 codecs can be registered")
      :format(errors.show(name)), 2)
  end
  if not known then
    M.names[#M.names + 1] = name
    M.numbers[made.id] = made
  end
  return made
end

-- Extension types of MessagePack -------------------------------------------------------------------------------

local extension = {
  name = { type = "string" },
  metatable = { type = "table", required = true },
  pack = { type = "function", required = true },
  unpack = { type = "function", required = true },
}

--- Gives values with a metatable of their own a MessagePack extension type, so that they arrive as what they are. Both sides
--- agree on the number. Tables and userdata are recognised by `metatable`; `pack(value)` gives the bytes, `unpack(bytes)` the
--- value. They must not wait; what they raise becomes an error with the code `serialization`. A number that is extended again
--- gets the new functions.
---@param number integer  0 to 127
---@param type { name?: string, metatable: table, pack: fun(value: any): string, unpack: fun(bytes: string): any }  name: for messages
function M.extend(number, type)
  options.argument("codec.extend", "number", number, "integer")
  if number < 0 or number > 127 then
    error(("codec.extend: number wants 0 to 127, got %d"):format(number), 2)
  end
  type = options.check("codec.extend", type, extension)
  local name, pack, unpack = type.name, type.pack, type.unpack
  if name then
    local function named(fn)
      return function(value)
        local ok, result = pcall(fn, value)
        if ok then
          return result
        end
        error(name .. ": " .. errors.from(result).message:gsub("^[^:\n]*:%d+: ", ""), 0)
      end
    end
    pack, unpack = named(pack), named(unpack)
  end
  local ok, other = core.codec_extend(number, type.metatable, pack, unpack)
  if not ok then
    error(("codec.extend: the metatable belongs to extension type %d already"):format(other), 2)
  end
end

---@class echostream.timestamp  MessagePack's timestamp (extension type -1)
---@field seconds integer      since 1970, may be negative
---@field nanoseconds integer  0 to 999999999
local timestamp_mt = core.timestamp_mt
local Timestamp = {}
timestamp_mt.__index = Timestamp

--- Makes a timestamp, the value that MessagePack's own timestamps are decoded to and that arrives as one. Timestamps can be
--- compared with each other. JSON carries them as plain tables.
---@param seconds number  since 1970; a fraction becomes nanoseconds
---@param nanoseconds? integer  0 to 999999999, added to whole seconds
---@return echostream.timestamp
function M.timestamp(seconds, nanoseconds)
  options.argument("codec.timestamp", "seconds", seconds, "number")
  local whole = math.floor(seconds)
  if math.type(whole) ~= "integer" then
    error(("codec.timestamp: seconds out of range: %s"):format(seconds), 2)
  end
  if nanoseconds == nil then
    nanoseconds = math.floor((seconds - whole) * 1e9 + 0.5)
    if nanoseconds > 999999999 then
      whole, nanoseconds = whole + 1, 0
    end
  else
    options.argument("codec.timestamp", "nanoseconds", nanoseconds, "integer")
    if whole ~= seconds or nanoseconds < 0 or nanoseconds > 999999999 then
      error("codec.timestamp: nanoseconds are 0 to 999999999 and belong to whole seconds", 2)
    end
  end
  return setmetatable({ seconds = whole, nanoseconds = nanoseconds }, timestamp_mt)
end

--- The time as one number of seconds, which is exact to a fraction of a microsecond only.
---@return number
function Timestamp:number()
  return self.seconds + self.nanoseconds / 1e9
end

timestamp_mt.__eq = function(a, b)
  return getmetatable(a) == getmetatable(b) and a.seconds == b.seconds and a.nanoseconds == b.nanoseconds
end

timestamp_mt.__lt = function(a, b)
  return a.seconds < b.seconds or (a.seconds == b.seconds and a.nanoseconds < b.nanoseconds)
end

timestamp_mt.__le = function(a, b)
  return not timestamp_mt.__lt(b, a)
end

timestamp_mt.__tostring = function(self)
  local seconds, nanoseconds = self.seconds, self.nanoseconds
  if seconds >= 0 or nanoseconds == 0 then
    return ("%d.%09d"):format(seconds, nanoseconds)
  end
  return ("-%d.%09d"):format(-(seconds + 1), 1000000000 - nanoseconds)
end

return M
