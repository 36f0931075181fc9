-- Writes docs/FUNCTIONS.md from the annotations in lua/echostream/: every public function with its parameters and results.
--   lua5.4 .ci/docs.lua          writes it
--   lua5.4 .ci/docs.lua --check  says whether it is up to date, and whether every function is there
-- Public is what check-public.lua calls so: what stands under a doc comment and is reached by users.

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

-- What users call the object that has the methods of a local table.
local prefixes = {
  Server = "server", Client = "client", Session = "session", shared = "session", methods = "server", Host = "server", Stream = "stream",
  Context = "context", Call = "call", Net = "net", Listener = "listener", Connection = "connection", Calls = "calls", Timer = "timer",
  Timestamp = "timestamp", ["middleware.methods"] = "call",
}
local modules = { -- whose functions users call, and how
  quic = "echo.quic", sim = "echo.sim", codec = "echo.codec", frame = "echo.frame", init = "echo",
}
local sections = { -- in this order; the others by name
  { "init", "The module" }, { "task", "Tasks" }, { "server", "Servers" }, { "host", "Servers and clients" }, { "handlers", "Handlers" },
  { "services", "Services" }, { "hooks", "Hooks" }, { "middleware", "Middleware" }, { "plugin", "Plugins" },
  { "admission", "Who may connect" }, { "broadcast", "Broadcast" }, { "client", "Clients" },
  { "session", "Sessions, and clients alike" }, { "stream", "Streams" }, { "call", "The call a handler serves" }, { "context", "Contexts" },
  { "errors", "Errors" }, { "log", "The log" }, { "sim", "Simulation" }, { "codec", "Codecs" }, { "frame", "Frames" },
  { "quic", "Raw QUIC" }, { "quic_connection", "Raw QUIC: connections and streams" },
}

-- Functions of inner modules that `echo` gives under a name of its own: "task.spawn" -> "echo.spawn".
local given = {}
for name, module, fn in read "lua/echostream/init.lua":gmatch "\nM%.([%w_]+) = ([%w_]+)%.([%w_]+)" do
  given[module .. "." .. fn] = "echo." .. name
end

-- A doc comment: its text, parameters and results.
local function parse(doc)
  local text, params, returns = {}, {}, {}
  for _, line in ipairs(doc) do
    local tag, rest = line:match "^@(%a+)%s*(.*)$"
    if tag == "param" then
      local name, kind = rest:match "^(%S+)%s*(.*)$"
      params[#params + 1] = { name = name, kind = kind }
    elseif tag == "return" then
      returns[#returns + 1] = rest
    elseif not tag then
      text[#text + 1] = line
    end
  end
  return table.concat(text, "\n"), params, returns
end

-- Code in a cell of a table; what has backticks of its own needs more around it.
local function cell(text)
  local fence = text:find("`", 1, true) and "``" or "`"
  local space = #fence > 1 and " " or ""
  return fence .. space .. text:gsub("|", "\\|") .. space .. fence
end

local function entry(name, signature, doc, line)
  local text, params, returns = parse(doc)
  local out = { ("### `%s`\n"):format(signature) }
  if text ~= "" then out[#out + 1] = text:gsub("^%s+", "") .. "\n" end
  if #params + #returns > 0 then
    out[#out + 1] = "| | |\n|---|---|"
    for _, param in ipairs(params) do out[#out + 1] = ("| `%s` | %s |"):format(param.name, cell(param.kind)) end
    for _, kind in ipairs(returns) do out[#out + 1] = ("| returns | %s |"):format(cell(kind)) end
    out[#out + 1] = ""
  end
  return { name = name, line = line, text = table.concat(out, "\n") }
end

local function public_name(module, owner, separator, name)
  if name:find "^_" then return nil end
  if owner ~= "M" then
    local prefix = prefixes[module .. "." .. owner] or prefixes[owner]
    return prefix and prefix .. separator .. name, prefix == nil and owner or nil
  end
  return given[module .. "." .. name] or modules[module] and modules[module] .. "." .. name
end

local function inner(doc)
  local text = table.concat(doc, "\n")
  return text:find("@private", 1, true) or text:find("@package", 1, true)
end

local unknown = {}

local function functions_of(module)
  local found, doc, number = {}, {}, 0
  local file = io.open("lua/echostream/" .. module .. ".lua")
  if not file then return found end
  for line in file:lines() do
    number = number + 1
    local comment = line:match "^%-%-%- ?(.*)$"
    if comment then
      doc[#doc + 1] = comment
    else
      local owner, separator, name, args = line:match "^function%s+([%a_][%w_]*)([.:])([%a_][%w_]*)%s*(%b())"
      if not owner then
        owner, name = line:match "^(M)%.([%a_][%w_]*) = "
        separator = "."
      end
      if owner and #doc > 0 and not inner(doc) then
        local full, strange = public_name(module, owner, separator, name)
        if strange then unknown[#unknown + 1] = ("lua/echostream/%s.lua:%d: what do users call %s?"):format(module, number, strange) end
        if full then found[#found + 1] = entry(full, full .. (args or ""), doc, number) end
      end
      doc = {}
    end
  end
  file:close()
  return found
end

local out = {
  "# Every function\n",
  "Made by `make docs` from the annotations in `lua/echostream/`; [API.md](API.md) is the reference to read first. What is said of servers",
  "in \"Servers and clients\", \"Handlers\", \"Services\", \"Hooks\", \"Middleware\" and \"Plugins\" holds for clients too.\n",
}
local listed = {}
for _, section in ipairs(sections) do listed[section[1]] = true end
local pipe <close> = assert(io.popen "ls lua/echostream/*.lua | LC_ALL=C sort")
for path in pipe:lines() do
  local module = path:match "([%w_]+)%.lua$"
  if not listed[module] then sections[#sections + 1] = { module, module:sub(1, 1):upper() .. module:sub(2) } end
end

local entries, shown = {}, {}
for _, section in ipairs(sections) do
  entries[section[1]] = functions_of(section[1])
  for _, each in ipairs(entries[section[1]]) do
    if section[1] ~= "init" then shown[each.name] = true end
  end
end
for _, section in ipairs(sections) do
  local titled = false
  for _, each in ipairs(entries[section[1]]) do
    if section[1] ~= "init" or not shown[each.name] then -- a name that init.lua only passes on is shown where it is written
      out[#out + 1] = (titled and "" or "## " .. section[2] .. "\n\n") .. each.text
      titled = true
    end
  end
end
local text = table.concat(out, "\n"):gsub("[ \t]+\n", "\n"):gsub("\n\n\n+", "\n\n"):gsub("\n*$", "\n")

for _, complaint in ipairs(unknown) do print(complaint) end
local path = "docs/FUNCTIONS.md"
if arg[1] == "--check" then
  local ok, there = pcall(read, path)
  if not ok or there ~= text then
    print(path .. ": not up to date; run `make docs`")
    os.exit(false)
  end
  os.exit(#unknown == 0)
end
local file <close> = assert(io.open(path, "w"))
file:write(text)
