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
--- - MessagePack: strings are bytes, sent as str whatever they hold. Keys are strings, numbers or booleans. Refused: functions,
---   coroutines, userdata, extension types, integers above 2^63 - 1, keys that come twice.
--- - JSON: strings must be UTF-8, keys strings, numbers finite.
--- - raw: exactly one string, as it is.
---
--- Every function returns `nil, err` when something cannot be encoded or decoded: `err.code` is `serialization`, the message names
--- the place (`argument 2 .user.tags[3]: a function cannot be sent`; `byte 17: …`).

local core = require "echostream.core"

local M = {}

---@class echostream.codec
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

--- The codec of a name, for options such as `codec = "json"`.
---@param name string
---@return echostream.codec? codec nil: there is none of that name
function M.find(name)
  return core.codec[name]
end

return M
