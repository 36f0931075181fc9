-- Layer rules among the Lua files: no cycle of requires that run when a file is loaded (a require inside a function may point
-- anywhere), and nothing required that is not there. Usage: check-lua.lua FILE...
local requires, path_of = {}, {}

local function module_of(path)
  return (path:gsub("^tunnel/", ""):gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", "."))
end

for _, path in ipairs(arg) do
  local module = module_of(path)
  path_of[module] = path
  requires[module] = {}
end

local bad = false
local function complain(...)
  bad = true
  print(string.format(...))
end

for module, path in pairs(path_of) do
  local number = 0
  for line in io.lines(path) do
    number = number + 1
    local code = line:gsub("%-%-.*", "")
    for name in code:gmatch "require%s*%(?%s*[\"'](echostream[%w_.]*)[\"']" do
      if name:find "%.$" then goto continue end -- put together at run time
      if not name:find "%.core$" and not path_of[name] then complain("%s:%d: requires %s, which is not there", path, number, name) end
      if path:find "^lua/" and name:find "^echostream%.tunnel" and code:match "^local%s" then
        complain("%s:%d: the core requires %s, which belongs to another rock", path, number, name)
      end
      if code:match "^local%s" or code:match "^require" then table.insert(requires[module], name) end
      ::continue::
    end
  end
end

local state = {} -- 1: being visited, 2: done
local function visit(module, trail)
  if state[module] == 2 or not requires[module] then return end
  trail[#trail + 1] = module
  if state[module] == 1 then
    complain("cycle of requires: %s", table.concat(trail, " -> "))
  else
    state[module] = 1
    for _, name in ipairs(requires[module]) do visit(name, trail) end
    state[module] = 2
  end
  trail[#trail] = nil
end
local modules = {}
for module in pairs(path_of) do modules[#modules + 1] = module end
table.sort(modules)
for _, module in ipairs(modules) do visit(module, {}) end
os.exit(not bad)
