--- The frames of echostream/1 (docs/PROTOCOL.md) as Lua tables: for tools, tests, and reading what is on the wire. Calls do not
--- pass here.
---
--- ```lua
--- local frame = require "echostream.frame"
--- local bytes = frame.encode { type = "cancel", request_id = 1, code = 0x10 }
--- local reader = frame.reader()
--- for f, err in reader:feed(bytes) do print(f and f.type or err) end
--- ```
---
--- | type | fields (default) |
--- |---|---|
--- | hello | min_minor max_minor caps (0), instance (16 bytes) |
--- | | and if known: max_message max_metadata max_calls max_named_streams agent credentials |
--- | request | request_id (0), method, deadline_ms (0: none), priority (3), metadata ({}), codec ("msgpack"), payload ("") |
--- | | and the flags more stream idempotent retry |
--- | response | codec ("msgpack"), status (0), trailers ({}), idempotent (false), payload ("") |
--- | | a failure: status, code, message, processed ("no"), retry_after_ms (0), details ("") |
--- | head | metadata ({}) |
--- | data | codec ("raw"), seq, wall_time_us, payload ("") |
--- | cancel | request_id (0), code (0x10) |
--- | event | name, seq (0), wall_time_us, metadata ({}), codec ("msgpack"), payload ("") |
--- | | datagram = true: the form without a length that a datagram carries |
--- | goaway | grace_ms (0), retry_after_ms (0), reason ("") |
--- | ping, pong | t1 (0); pong: t2 (0), t3 (0) |
---
--- `payload` and `details` are encoded bytes: see echostream.codec. A codec is "raw", "msgpack", "json" or its number. Numbers are
--- integers from 0 to 2^62 - 1. A response may be given its `code` alone, or its `status` alone. Compression and checksums belong to
--- a connection that agreed on them: frames that use them are refused here.

local core = require "echostream.core"

local M = {}

---@class echostream.frame: table
---@field type "hello"|"request"|"response"|"head"|"data"|"cancel"|"event"|"goaway"|"ping"|"pong"

---@class echostream.frame_reader: userdata
---@field feed fun(self: echostream.frame_reader, bytes: string): fun(): echostream.frame|false|nil, echostream.error?
--- Takes bytes cut anywhere and iterates over the frames that are whole now. A failure comes last, as `false, err`, and again from
--- every later feed: such a stream cannot be read on. Unknown frame types are skipped when odd, a failure when even.
---@field missing fun(self: echostream.frame_reader): integer, integer  bytes that the frame under way still lacks, and those held

local frame = core.frame

--- A whole frame. Raises for a field of a wrong type or a name that the type does not have; `nil, err` (`invalid_argument`) for
--- what is not allowed on the wire.
---@type fun(frame: echostream.frame): string?, echostream.error?
M.encode = frame.encode

--- The frame at position `from` (default 1) and the position behind it. `nil, "again"` when it is not all there; `nil, err` (code
--- `protocol`, `resource_exhausted`) when it is malformed.
---@type fun(bytes: string, from?: integer): echostream.frame?, integer|"again"|echostream.error
M.decode = frame.decode

--- The event that a datagram carries.
---@type fun(bytes: string): echostream.frame?, echostream.error?
M.decode_datagram = frame.decode_datagram

--- Reads a stream of frames piece by piece. Frames longer than `max` bytes (default 4 MiB) are refused.
---@type fun(max?: integer): echostream.frame_reader
M.reader = frame.reader

--- A QUIC variable-length integer (RFC 9000 section 16), 0 to 2^62 - 1.
---@type fun(n: integer): string
M.varint = frame.varint

--- The variable-length integer at `from` (default 1) and the position behind it; `nil, "again"`.
---@type fun(bytes: string, from?: integer): integer?, integer|"again"
M.read_varint = frame.read_varint

return M
