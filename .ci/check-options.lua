-- "Every option has a documented default and a spec." An option is a field of a schema in lua/echostream/ (a line
-- `name = { type = …` or `one_of = …`); it must be named in docs/API.md, and a spec, or a document whose code a spec runs, must
-- give it (`name = …`).
-- Those of the tunnel are named in tunnel/docs/API.md.
-- That every wrong value is an error that names the option is seen to by sweep_options_spec.lua.

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

local function all(command)
  local texts, paths = {}, {}
  local pipe <close> = assert(io.popen(command))
  for path in pipe:lines() do
    paths[#paths + 1] = path
    texts[#texts + 1] = read(path)
  end
  return table.concat(texts, "\n"), paths
end

local used = {}
local function words_of(path)
  local words = {}
  for name in read(path):gmatch "[%a_][%w_]*" do words[name] = true end
  return words
end
local documents = { core = "docs/API.md", tunnel = "tunnel/docs/API.md" }
local documented = { core = words_of(documents.core), tunnel = words_of(documents.tunnel) }
local places = "spec tunnel/spec tunnel/README.md examples README.md docs/TUNNEL.md docs/GUIDE.md docs/QUALITY.md"
local where = ("find %s -name '*.lua' -o -name '*.md' 2>/dev/null"):format(places)
for name in all(where):gmatch "([%a_][%w_]*) = " do
  used[name] = true
end

local options, wrong = 0, 0
local _, sources = all "find lua tunnel/lua -name '*.lua' -not -path '*/_meta/*' | LC_ALL=C sort"
for _, path in ipairs(sources) do
  local number, rock = 0, path:find "^tunnel/" and "tunnel" or "core"
  for line in io.lines(path) do
    number = number + 1
    local name, body = line:match "^%s*([%a_][%w_]*) = {(.*)$"
    if name and (body:find "%f[%w_]type = [\"{]" or body:find "one_of = {") then
      options = options + 1
      for what, known in pairs { [documents[rock] .. " does not name it"] = documented[rock], ["no spec gives it"] = used } do
        if not known[name] then
          wrong = wrong + 1
          print(("%s:%d: option %s: %s"):format(path, number, name, what))
        end
      end
    end
  end
end
if options < 100 then
  print(("only %d options were found: is the way they are written another now?"):format(options))
  wrong = wrong + 1
end
os.exit(wrong == 0)
