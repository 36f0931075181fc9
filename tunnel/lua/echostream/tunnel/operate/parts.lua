--- What running a server and running an agent from a configuration file have in common.

local M = {}

--- Whether two values of configurations are the same, tables by what is in them. Functions are the same when they are one.
---@param a any
---@param b any
---@return boolean
function M.same(a, b)
  if a == b then
    return true
  elseif type(a) ~= "table" or type(b) ~= "table" then
    return false
  end
  for key, value in pairs(a) do
    if not M.same(value, b[key]) then
      return false
    end
  end
  for key in pairs(b) do
    if a[key] == nil then
      return false
    end
  end
  return true
end

--- Names of the options that differ between two configurations and are not among `live`, sorted.
---@param old table<string, any>
---@param new table<string, any>
---@param live table<string, boolean>
---@return string[]
function M.changed(old, new, live)
  local names, seen = {}, {}
  for _, values in ipairs { old, new } do
    for name in pairs(values) do
      if not live[name] and not seen[name] and not M.same(old[name], new[name]) then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return names
end

--- A copy without some keys.
---@param values table<string, any>
---@param without table<string, any>
---@return table<string, any>
function M.without(values, without)
  local out = {}
  for name, value in pairs(values) do
    if without[name] == nil then
      out[name] = value
    end
  end
  return out
end

return M
