--- Rules from a file: Lua (in a restricted environment; functions are welcome) or JSON, as configuration files are. The file gives a list
--- of rules, or
--- a table `{ rules = {…}, shadow = {…} }`.

local check = require "echostream.tunnel.rules.check"
local config = require "echostream.tunnel.config"
local echo_errors = require "echostream.errors"

local M = {}

local schema = { rules = { type = "table", required = true }, shadow = { type = "table" } }

-- The name of a field as the file has it: in a file that is a list, "rules[3].path" is "[3].path".
local function in_file(field, is_list)
  return is_list and field:gsub("^rules", "") or field
end

--- Reads a file, and hands its rules on.
---@param path string
---@param use fun(list: table, shadow: table?): any, echostream.error?  compiles them; an error's `field` is found in the file
---@return any result  what `use` returned
---@return echostream.error? err  "file.lua:12: rules[3].path: …"
---@return string[]? used  the files that were read
function M.load(path, use)
  local file, err = config.read(path)
  if not file then
    return nil, err
  end
  local values = file.values
  local is_list = values.rules == nil and (values[1] ~= nil or next(values) == nil)
  local result
  if is_list then
    result, err = use(values)
  else
    result, err = check.try(function()
      return check.table("file", values, schema)
    end)
    if result then
      result, err = use(values.rules, values.shadow)
    else
      err.field, err.message = err.field:gsub("^file%.?", ""), err.message:gsub("^file[:.] ?", "")
    end
  end
  if not result then
    local placed = echo_errors.new(err.code, file:place(err.field and in_file(err.field, is_list)) .. err.message)
    placed.field = err.field
    return nil, placed
  end
  local used = { path }
  table.move(file.used, 1, #file.used, 2, used)
  return result, nil, used
end

return M
