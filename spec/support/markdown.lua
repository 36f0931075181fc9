-- The fenced code blocks of a document.

local M = {}

---@class markdown.block
---@field info string   what stands behind the fence: "lua", "lua file=x.lua", "sh", "repl", …
---@field kind string   its first word
---@field text string
---@field line integer  of the fence

--- All blocks of a file, in order.
---@param path string
---@return markdown.block[]
function M.blocks(path)
  local blocks, block, number = {}, nil, 0
  for line in io.lines(path) do
    number = number + 1
    local info = line:match "^```(.*)$"
    if not info then
      if block then block.text = block.text .. line .. "\n" end
    elseif block then
      blocks[#blocks + 1] = block
      block = nil
    else
      block = { info = info, kind = info:match "^%S*", text = "", line = number }
    end
  end
  assert(not block, path .. ": a code block has no end")
  return blocks
end

--- What the comments `marker value` in a block promise, in order of the lines.
---@param text string
---@param marker string  "-->" or "# prints"
---@return string[]
function M.promises(text, marker)
  local promised = {}
  for line in text:gmatch "[^\n]+" do
    local from, to = line:find(marker, 1, true)
    if from then promised[#promised + 1] = line:sub(to + 1):match "^%s*(.-)%s*$" end
  end
  return promised
end

return M
