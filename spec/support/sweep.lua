-- What the sweeps of misuse share: wrong values, and what may come of them.

local echo = require "echostream"

local M = {}

-- Values are made anew for each call, because calls mark, keep and change them.
M.values = {
  { "nil", function() return nil end },
  { "true", function() return true end },
  { "0", function() return 0 end },
  { "-1", function() return -1 end },
  { "1.5", function() return 1.5 end },
  { "NaN", function() return 0 / 0 end },
  { "huge", function() return math.huge end },
  { "-huge", function() return -math.huge end },
  { "maxinteger", function() return math.maxinteger end },
  { "mininteger", function() return math.mininteger end },
  { '""', function() return "" end },
  { '"/dev/null/:::"', function() return "/dev/null/:::" end }, -- no address, and no path where anything could be left behind
  { "a long string", function() return ("x"):rep(70000) end },
  { "zeros", function() return ("\0"):rep(300) end },
  { "{}", function() return {} end },
  { "a list", function() return { 1, 2, 3 } end },
  { "a table of nonsense", function() return { [1.5] = print, nonsense = {}, [true] = 0 } end },
  { "a table that contains itself", function()
    local t = {}
    t.t, t[1] = t, t
    return t
  end },
  { "a table that answers anything", function()
    return setmetatable({}, { __index = function() return 0 / 0 end, __tostring = function() error "no" end })
  end },
  { "a function", function() return function() end end },
  { "a coroutine", function() return coroutine.create(print) end },
  { "userdata", function() return io.stdout end },
}

-- What is wrong in these places is our code, not its arguments.
local internal = { "attempt to ", "stack overflow", "C stack", "assertion", "invalid order", "bad 'for'" }

--- Whether what was raised blames the arguments and not our code.
---@param raised any
---@return boolean
function M.is_argument_error(raised)
  if echo.is_error(raised) then
    return true
  elseif type(raised) ~= "string" then
    return false
  end
  for _, pattern in ipairs(internal) do
    if raised:find(pattern) then return false end
  end
  return true
end


--- Every function in the reference, docs/API.md, which is made from the annotations: { owner, separator, name }, such as
--- { "server", ":", "start" } or { "echo.codec", ".", "find" }.
---@return { [1]: string, [2]: string, [3]: string }[]
function M.documented()
  local list = {}
  for line in io.lines "docs/API.md" do
    if line == "## Types" then break end
    local entry = line:match "^### `([%w_.:]+)%(" or line:match "^| `([%w_.:]+)%("
    local owner, separator, name = (entry or ""):match "^(.+)([.:])([%w_]+)$"
    if owner then
      list[#list + 1] = { owner, separator, name }
    end
  end
  return list
end

--- The options of every annotated class of lua/echostream/_meta/options.lua, by class, and the classes that have its options too.
---@return table<string, string[]> options, table<string, string[]> heirs
function M.options()
  local classes, heirs, class = {}, {}, nil
  for line in io.lines "lua/echostream/_meta/options.lua" do
    local new, rest = line:match "^%-%-%-@class echostream%.options%.([%w_]+)(.*)$"
    if line:find "^%-%-%-@class" then
      class = new -- nil: of something else
    end
    for parent in (rest or ""):gmatch "echostream%.options%.([%w_]+)" do
      heirs[parent] = heirs[parent] or {}
      table.insert(heirs[parent], class)
    end
    local field = line:match "^%-%-%-@field ([%w_]+)"
    if field and class then
      classes[class] = classes[class] or {}
      table.insert(classes[class], field)
    end
  end
  return classes, heirs
end

return M
