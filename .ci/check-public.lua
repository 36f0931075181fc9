-- "Every public function has a spec, and every module too."
--
-- Public is: a function of lua/echostream/ that stands under a doc comment (`---`) and is neither local nor marked @private or
-- @package; and every function that docs/API.md gives an entry (a table row or a heading that starts with `name(` in backquotes).
-- A spec is: a *_spec.lua file that uses the name as a member (`x.name`, `x:name`). Comments and strings do not count, except in
-- specs that run the README's or the examples' code, which count as what they run.
-- A module has a spec when spec/unit/<module>_spec.lua is there, or spec/integration/<module>_spec.lua for what needs a network.

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

for _, path in ipairs(lines_of "find spec -name '*_spec.lua'") do
  local code = without_comments(read(path))
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

for _, path in ipairs(lines_of "find lua/echostream -name '*.lua' -not -path '*/_meta/*' | LC_ALL=C sort") do
  local module = path:gsub("^lua/echostream/", ""):gsub("%.lua$", ""):gsub("/init$", "")
  local spec = module:gsub("/", "_") .. "_spec.lua"
  if not read("spec/unit/" .. spec) and not read("spec/integration/" .. spec) then
    complain("%s: has no spec/unit/%s (nor in spec/integration)", path, spec)
  end
  local doc, number = {}, 0
  for line in io.lines(path) do
    number = number + 1
    if line:find "^%s*%-%-%-" then
      doc[#doc + 1] = line
    else
      local owner, name = line:match "^function%s+([%a_][%w_.]*)[.:]([%a_][%w_]*)%s*%("
      local text = table.concat(doc, "\n")
      if owner and #doc > 0 and not text:find "@private" and not text:find "@package" and not name:find "^_" and not used[name] then
        complain("%s:%d: no spec uses %s.%s", path, number, owner, name)
      end
      doc = {}
    end
  end
end

for line in (read "docs/API.md" or ""):gmatch "[^\n]+" do
  local entry = line:match "^#+%s+`([^`]+)`" or line:match "^|%s*`([^`]+)`"
  local name = entry and entry:match "([%a_][%w_]*)%s*[({]"
  if name and not used[name] then complain("docs/API.md: no spec uses %s", name) end
end

for _, complaint in ipairs(complaints) do print(complaint) end
os.exit(#complaints == 0)
