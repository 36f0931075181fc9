--- The parts of a message (tunnel/DESIGN.md), as far as who passes them on looks at them: how much is in them, and how they end.

local codec = require "echostream.codec"

local M = {}

local byte = string.byte
local BODY <const>, RESET <const>, NOTE <const> = 3, 6, 7

--- The part END.
M.END = "\5\0"

-- The varint (RFC 9000 16) at a position: its value, and the position after it. Nothing where the message ends.
local function varint(message, at)
  local first = byte(message, at)
  if not first then
    return nil
  end
  local kind = first >> 6
  if kind == 0 then
    return first, at + 1
  elseif at + (1 << kind) - 1 > #message then
    return nil
  end
  local value = first & 63
  for i = 1, (1 << kind) - 1 do
    value = value << 8 | byte(message, at + i)
  end
  return value, at + (1 << kind)
end

M.varint = varint

--- Bytes of body in a message. A malformed one is somebody else's business: what can be read counts.
---@param message string
---@param at? integer  where to begin
---@return integer bytes
---@return string? reset  what a RESET says
function M.body_size(message, at)
  local total, n = 0, #message
  at = at or 1
  while at <= n do
    local kind = byte(message, at)
    local size, from = varint(message, at + 1)
    if not size or size > n - from + 1 then
      break
    elseif kind == BODY then
      total = total + size
    elseif kind == RESET then
      local _, text = varint(message, from)
      return total, text and message:sub(text, from + size - 1) or "it was reset"
    end
    at = from + size
  end
  return total
end

-- Neither NaN nor infinite, which no line of JSON can say.
local function is_time(value)
  return type(value) == "number" and value >= 0 and value < 1e9
end

--- What a NOTE says, cut down to what is known of it.
---@param payload string
---@return { backend: string?, connect_time: number?, reused: boolean?, attempt: integer? }?
function M.note(payload)
  local told = codec.msgpack.unpack(payload)
  if type(told) ~= "table" then
    return nil
  end
  local reused = told.reused
  if type(reused) ~= "boolean" then
    reused = nil
  end
  return {
    reused = reused,
    backend = type(told.backend) == "string" and told.backend:sub(1, 128) or nil,
    connect_time = is_time(told.connect_time) and told.connect_time or nil,
    attempt = math.type(told.attempt) == "integer" and told.attempt or nil,
  }
end

M.NOTE, M.RESET = NOTE, RESET

return M
