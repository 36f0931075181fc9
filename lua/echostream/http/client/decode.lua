--- Content codings of answers (RFC 9110, section 8.4), undone while they are read.

local core = require "echostream.core"
local fields = require "echostream.http.fields"

local M = {}

--- What `accept-encoding` says when nothing else was said.
M.accepted = "zstd, gzip"

local names = { gzip = "gzip", ["x-gzip"] = "gzip", zstd = "zstd" }

-- Layers of codings that are undone: nobody means more, and each can stand for a thousand times its bytes.
local MOST <const> = 2

-- read(timeout) of what one decoder makes of what `read_coded` gives.
local function undo(read_coded, decoder)
  local more, over = false, false
  return function(timeout)
    while not over do
      local piece, err
      if not more then
        piece, err = read_coded(timeout)
        if err then
          return nil, err -- perhaps only the caller's own time-out
        elseif piece == nil then
          over = true
          local _, problem = decoder:finish()
          return nil, problem
        end
      end
      local plain, rest = decoder:decode(piece)
      if not plain then
        over = true
        return nil, rest
      end
      more = rest
      if plain ~= "" then
        return plain
      end
    end
  end
end

--- A reader of the plain bytes, when the answer is coded in ways that are known here; else nil, and everything stays as it is.
---@param headers echostream.http.fields  loses what is not true of the plain bytes
---@param read_coded fun(timeout?: number): string?, echostream.error?
---@return (fun(timeout?: number): string?, echostream.error?)|nil read, string? coding  what was undone
function M.reader(headers, read_coded)
  local coding = headers:get "content-encoding"
  local list = coding and fields.list(coding, MOST)
  if not list or #list == 0 then
    return nil
  end
  local decoders = {}
  for i, name in ipairs(list) do
    local known = names[name:lower()]
    decoders[i] = known and core.decoder(known)
    if not decoders[i] then
      return nil
    end
  end
  for i = #decoders, 1, -1 do -- the last that was applied is the first to be undone
    read_coded = undo(read_coded, decoders[i])
  end
  headers:remove("content-encoding"):remove("content-length")
  return read_coded, coding
end

return M
