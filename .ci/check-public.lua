-- "Every public function has a spec, and every module too."
--
-- Public is a function that users reach: every method of a class in lua/echostream/ that stands under a doc comment (`---`), the
-- documented functions of the modules that `echo.<name>` gives (see init.lua), and every function that docs/API.md has a row for.
-- What is @private or @package, or begins with an underscore, is not.
-- A function has a spec when a *_spec.lua file uses its name as a member (`x.name`, `x:name`). Comments do not count. A spec that
-- runs the code of documents or examples counts as what it runs.
-- A module has a spec when a spec file is named after it (spec/*/<module>…_spec.lua) or requires it.

local function lines_of(command)
  local list = {}
  local pipe <close> = assert(io.popen(command))
  for line in pipe:lines() do list[#list + 1] = line end
  return list
end

local function read(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

-- What the specs use -----------------------------------------------------------------------------------------

local used = {}
local function note(text)
  for name in text:gmatch "[.:]%s*([%a_][%w_]*)" do used[name] = true end
end
local function without_comments(code) return (code:gsub("%-%-%[%[.-%]%]", ""):gsub("%-%-[^\n]*", "")) end

local covered = {} -- modules
local function cover(module) covered[module] = true end

for _, path in ipairs(lines_of "find spec tunnel/spec -name '*_spec.lua' 2>/dev/null") do
  local code = without_comments(read(path))
  cover(path:match "([^/]+)_spec%.lua$")
  for module in code:gmatch "require%s*%(?%s*[\"']echostream%.([%w_.]+)[\"']" do cover(module:gsub("%.", "_")) end
  note(code)
  -- A spec that runs documents or examples uses what stands in their code.
  for document in code:gmatch "[\"']([%w_/]+%.md)[\"']" do
    for block in (read(document) or ""):gmatch "```lua[^\n]*\n(.-)```" do note(without_comments(block)) end
  end
  if code:find "[\"']examples" then
    for _, example in ipairs(lines_of "find examples -name '*.lua'") do note(without_comments(read(example))) end
  end
end

-- What is public ---------------------------------------------------------------------------------------------

local complaints = {}
local function complain(...) complaints[#complaints + 1] = string.format(...) end

local given = { init = true } -- modules whose functions users call
for name in read("lua/echostream/init.lua"):gmatch "\n  [%w_]+ = [\"']echostream%.([%w_]+)[\"']" do given[name] = true end

given.tunnel = true -- the second rock's
given.loop = nil -- for hosts and the files here; what users need of it has a row in docs/API.md

local function has_spec(module)
  module = module:gsub("/", "_")
  for name in pairs(covered) do
    -- named after it, or after the module it is a part of ("cli" for "cli_call")
    if name == module or name:find("^" .. module .. "_") or module:find("^" .. name .. "_") then return true end
  end
  return module == "init"
end

for _, path in ipairs(lines_of "find lua/echostream tunnel/lua/echostream -name '*.lua' -not -path '*/_meta/*' | LC_ALL=C sort") do
  local module = path:gsub("^tunnel/", ""):gsub("^lua/echostream/", ""):gsub("%.lua$", ""):gsub("/init$", "")
  -- specs of the tunnel need not say its name: tunnel/spec/unit/rules_spec.lua
  if not has_spec(module) and not (module:find "^tunnel/" and has_spec(module:sub(#"tunnel/" + 1))) then
    complain("%s: no spec is named after it or requires it", path)
  end
  local doc, number = {}, 0
  for line in io.lines(path) do
    number = number + 1
    if line:find "^%s*%-%-%-" then
      doc[#doc + 1] = line
    else
      local owner, name = line:match "^function%s+([%a_][%w_.]*)[.:]([%a_][%w_]*)%s*%("
      local text = table.concat(doc, "\n")
      local public = owner and #doc > 0 and (owner ~= "M" or given[module])
        and not text:find "@private" and not text:find "@package" and not name:find "^_"
      if public and not used[name] then
        complain("%s:%d: no spec uses %s.%s", path, number, owner, name)
      end
      doc = {}
    end
  end
end

for _, document in ipairs { "docs/API.md", "tunnel/docs/API.md" } do
  for line in (read(document) or ""):gmatch "[^\n]+" do
    if line == "## Types" then break end -- what follows is called by us, or is no function
    local entry = line:match "^#+%s+`([^`]+)`" or line:match "^|%s*`([^`]+)`"
    local name = entry and entry:match "^[%a_][%w_]*[.:]([%a_][%w_]*)%s*[({]"
    if name and not used[name] then complain("%s: no spec uses %s", document, name) end
  end
end

for _, complaint in ipairs(complaints) do print(complaint) end
os.exit(#complaints == 0)
