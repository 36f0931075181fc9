--- What the inspector wants to know of an exchange while it is under way: its head as it came, and the beginning of both bodies. An exchange
--- that is tapped passes everything on as it is.

local core = require "echostream.tunnel.core"

local M = {}

-- Adds what is in a message to a body that is kept, up to `most` bytes. Messages that bring nothing more are not looked at.
local function add(kept, name, message, most)
  local pieces = kept[name]
  if pieces.bytes > most then
    return
  end
  for kind, value in core.parts(message) do
    if kind == "body" then
      pieces[#pieces + 1] = value:sub(1, most + 1 - pieces.bytes)
      pieces.bytes = pieces.bytes + #pieces[#pieces]
      if pieces.bytes > most then
        return
      end
    elseif kind == "end" or kind == "trailers" then
      pieces.whole = true
    end
  end
end

--- An exchange that passes everything on to another one, and keeps the beginning of what goes by.
---@param inner table  an exchange as forward sees it (tunnel/DESIGN.md)
---@param most integer bytes of each body
---@param fin boolean  the request has no body
---@return table exchange
---@return fun(): { request: string, response: string, request_whole: boolean } bodies
function M.exchange(inner, most, fin)
  local kept = { request = { bytes = 0, whole = fin }, response = { bytes = 0, whole = false } }
  local self = setmetatable({}, { __index = function(t, name)
    local value = inner[name]
    if type(value) ~= "function" then
      return value
    end
    local function passed(_, ...)
      return value(inner, ...)
    end
    rawset(t, name, passed)
    return passed
  end })
  function self.take(_, max)
    local message, over = inner:take(max)
    if message then
      add(kept, "request", message, most)
    end
    return message, over
  end
  function self.try_take(_, max)
    local message, over = inner:try_take(max)
    if message then
      add(kept, "request", message, most)
    end
    return message, over
  end
  function self.put(_, message)
    add(kept, "response", message, most)
    return inner:put(message)
  end
  function self.write(_, bytes, last)
    local pieces = kept.response
    if pieces.bytes <= most then
      pieces[#pieces + 1] = bytes:sub(1, most + 1 - pieces.bytes)
      pieces.bytes = pieces.bytes + #pieces[#pieces]
    end
    return inner:write(bytes, last)
  end
  return self, function()
    return { request = table.concat(kept.request):sub(1, most), response = table.concat(kept.response):sub(1, most),
      request_whole = kept.request.whole == true and kept.request.bytes <= most }
  end
end

return M
