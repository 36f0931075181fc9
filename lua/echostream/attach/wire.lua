--- What is said between a prompt and the server that it is attached to (attach.lua, plugins/attach.lua): the same over a socket and over a
--- stream.
---
--- Messages in both directions are a head line
--- `KIND LENGTH\n` and LENGTH bytes of body (at most 1 MiB; KIND is lower-case letters). Whoever breaks that is cut off.
---
--- | from whom attaches | body |
--- |---|---|
--- | `hello` | `COLUMNS COLOUR`, COLOUR being 0 or 1; the first message, and again when the window changes |
--- | `line` | a line of input; only after `ready` |
--- | `interrupt` | empty: Ctrl-C |
--- | `complete` | `NUMBER` and a line end, then the input up to the cursor |
---
--- | from the server | body |
--- |---|---|
--- | `hello` | what it is, for people |
--- | `ready` | how many inputs failed so far, a space, the prompt to show |
--- | `out` | output |
--- | `words` | `NUMBER FROM` and then words, each behind a line end: FROM is the byte at which they may stand |
--- | `leave` | empty: `.exit` was typed |
---
--- Either side ends it by closing. What then still runs is cancelled. Output that whoever attached does not read is left out once
--- 1 MiB of it waits, and that is said.

local M = {}

--- Bytes of a body at most.
M.BODY = 1 << 20

local HEAD = 64

--- One message.
---@param kind string
---@param body? string
---@return string bytes
function M.encode(kind, body)
  return ("%s %d\n%s"):format(kind, #(body or ""), body or "")
end

--- Takes messages out of bytes as they come.
---@param take fun(kind: string, body: string)
---@return fun(bytes: string): boolean feed  false: that is not the protocol
function M.decoder(take)
  local buffer, broken = "", false
  return function(bytes)
    buffer = buffer .. bytes
    while not broken do
      local kind, length, start = buffer:match("^(%l+) (%d+)\n()")
      if not kind then
        local head = buffer:find("\n", 1, true)
        broken = head ~= nil or #buffer > HEAD
        break
      end
      length = #length <= 7 and math.tointeger(length) or M.BODY + 1
      if length > M.BODY then
        broken = true
      elseif #buffer < start + length - 1 then
        break
      else
        local body = buffer:sub(start, start + length - 1)
        buffer = buffer:sub(start + length)
        take(kind, body)
      end
    end
    return not broken
  end
end

return M
