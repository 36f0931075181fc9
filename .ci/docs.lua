-- Writes docs/API.md: the frame is docs/API.in.md, the functions and options come from the annotations in lua/echostream/.
--   lua5.4 .ci/docs.lua          writes it
--   lua5.4 .ci/docs.lua --check  says whether it is up to date, and whether every function and option is there
--   lua5.4 .ci/docs.lua tunnel [--check]   the same of tunnel/: tunnel/docs/API.md; what it is made of stands in .ci/docs-tunnel.lua
--
-- Lines of the frame that are replaced:
--   {{contents}}                the chapters, as links
--   {{functions server host}}   every public function of lua/echostream/server.lua and host.lua
--   {{options CLASS}}           a table of the fields of an annotated class, with their defaults
--   {{fields CLASS}}            the same without defaults and without functions
--   {{methods CLASS name}}      its functions, as `name:function(…)`
--   {{all options}}             such a table for every class of options that no line above shows
--   {{types}}                   the classes that the document mentions and does not show elsewhere
--   {{rest}}                    a chapter for each module with public functions that no line above names
--
-- Public is what check-public.lua calls so: what stands under a doc comment and is reached by users. Options are what the schemas
-- of the modules say (`schemas` below); each has a @field whose text may end with "(default: …)".

local book = { root = "lua/echostream", docs = "docs" }
for i = #arg, 1, -1 do
  if arg[i] == "tunnel" then
    book = dofile ".ci/docs-tunnel.lua"
    table.remove(arg, i)
  end
end

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

-- What users call the object that has the methods of a local table.
local prefixes = book.prefixes or {
  Repl = "prompt", Request = "request", ["http/response.Response"] = "response", ["http/face.methods"] = "server",
  Server = "server", Client = "client", Session = "session", shared = "session", methods = "server", Host = "server", Stream = "stream",
  Context = "context", Call = "call", Net = "net", Listener = "listener", Connection = "connection", Calls = "calls", Timer = "timer",
  Timestamp = "timestamp", ["middleware.methods"] = "call", ["quic/connection.Stream"] = "quic_stream", Response = "response", Metric = "metric",
  Policy = "policy", Breaker = "breaker", Batch = "batch", Alert = "alert",
  Again = "resubscribe", Fleet = "fleet", Service = "service",
  Clock = "clock", JitterBuffer = "buffer", Diagnosis = "diagnosis",
  Backoff = "backoff", Topic = "topic", Subscription = "subscription",
  Tracing = "tracing", Cache = "cache", Presence = "presence",
  Guard = "guard", Source = "source", Browser = "browser",
  ["http/client.Client"] = "http", Answer = "answer",
  Dashboard = "dashboard", Fields = "fields", Router = "router", Cors = "cors",
}
local modules = book.modules or { -- whose functions users call, and how
  introspect = "echo.introspect", schema = "echo.schema",
  jitter = "echo.jitter",
  backoff = "echo.backoff", retry = "echo.retry", breaker = "echo.breaker",
  quic = "echo.quic", session_cache = "echo.session_cache", sim = "echo.sim", codec = "echo.codec", frame = "echo.frame", init = "echo",
  metrics = "echo.metrics", pretty = "echo.pretty", repl = "echo.repl", attach = "echo.attach",
  doctor = "echo.doctor", trace = "echo.trace", log = "echo.log",
  ["plugins/auth"] = "echo.plugins", ["plugins/attach"] = "echo.plugins",
  ["plugins/rate_limit"] = "echo.plugins", ["plugins/access_log"] = "echo.plugins",
  ["plugins/metrics_endpoint"] = "echo.plugins", ["plugins/tracing"] = "echo.plugins", ["plugins/reconnect"] = "echo.plugins",
  ["plugins/cache"] = "echo.plugins", ["plugins/presence"] = "echo.plugins",
  ["plugins/resubscribe"] = "echo.resubscribe", fleet = "echo.fleet", service = "echo.service", split = "echo.split",
  discovery = "echo.discovery",
  ["http/router"] = "echo.http.router", ["http/fields"] = "echo.http.fields", ["http/accept"] = "echo.http.accept",
  ["http/query"] = "echo.http.query", ["http/percent"] = "echo.http.percent", ["http/cookies"] = "echo.http.cookies",
  ["http/content"] = "echo.http.content", ["http/static"] = "echo.http.static", ["http/mime"] = "echo.http.mime",
  ["http/cors"] = "echo.http.cors", ["http/sse"] = "echo.http.sse", ["http/errors"] = "echo.http.errors",
  ["http/conditional"] = "echo.http.conditional", ["http/range"] = "echo.http.range", ["http/date"] = "echo.http.date",
  ["http/message"] = "echo.http.message", ["http/client"] = "echo.http",
}
-- The class that documents the options of a schema: { module, name of the table }.
local schemas = book.schemas or {
  ["echostream.options.shared"] = { "host", "M.schema" },
  ["echostream.options.transport"] = { "host", "M.transport_schema" },
  ["echostream.options.server"] = { "server", "schema" },
  ["echostream.options.heartbeat"] = { "heartbeat", "M.fields" },
  ["echostream.options.newcomers"] = { "tls/newcomers", "M.schema" },
  ["echostream.options.tls"] = { "tls", "M.shared_schema" },
  ["echostream.options.tls_server"] = { "tls", "M.server_schema" },
  ["echostream.options.tls_client"] = { "tls", "M.client_schema" },
  ["echostream.options.client"] = { "client", "schema" },
  ["echostream.options.webtransport_server"] = { "http/webtransport", "M.server_fields" },
  ["echostream.options.webtransport_client"] = { "http/webtransport", "M.client_fields" },
  ["echostream.options.reconnect"] = { "reconnect", "M.fields" },
  ["echostream.options.advertise"] = { "discovery", "advertise_schema" },
  ["echostream.options.browse"] = { "discovery", "browse_schema" },
  ["echostream.options.srv"] = { "discovery", "srv_schema" },
  ["echostream.options.watch"] = { "discovery/browser", "M.schema" },
  ["echostream.options.fleet"] = { "fleet", "schema" },
  ["echostream.options.fleet_call"] = { "fleet/calls", "M.own_options" },
  ["echostream.options.pool"] = { "fleet/pool", "M.fields" },
  ["echostream.options.outlier"] = { "fleet/outlier", "M.fields" },
  ["echostream.options.call"] = { "session/out", "M.call_options" },
  ["echostream.options.topic"] = { "topic", "M.schema" },
  ["echostream.options.subscribe"] = { "session/subscription", "M.schema" },
  ["echostream.options.retry"] = { "retry", "M.schema" },
  ["echostream.options.adaptive"] = { "retry", "M.adaptive_schema" },
  ["echostream.options.jitter"] = { "jitter", "M.schema" },
  ["echostream.options.clock"] = { "clock", "M.schema" },
  ["echostream.options.backoff"] = { "backoff", "M.schema" },
  ["echostream.options.alert"] = { "metrics/alerts", "M.schema" },
  ["echostream.options.repl"] = { "repl", "schema" },
  ["echostream.options.doctor"] = { "doctor", "schema" },
  ["echostream.options.attach"] = { "attach", "schema" },
  ["echostream.options.attach_plugin"] = { "plugins/attach", "schema" },
  ["echostream.options.pretty"] = { "pretty", "schema" },
  ["echostream.options.breaker"] = { "breaker", "M.schema" },
  ["echostream.options.auth"] = { "plugins/auth", "schema" },
  ["echostream.options.rate_limit"] = { "plugins/rate_limit", "schema" },
  ["echostream.options.access_log"] = { "plugins/access_log", "schema" },
  ["echostream.options.cache"] = { "plugins/cache", "schema" },
  ["echostream.options.metrics_endpoint"] = { "plugins/metrics_endpoint", "schema" },
  ["echostream.options.tracing"] = { "plugins/tracing", "schema" },
  ["echostream.options.reconnect_plugin"] = { "plugins/reconnect", "schema" },
  ["echostream.options.presence"] = { "plugins/presence", "schema" },
  ["echostream.options.dedupe"] = { "retry/dedupe", "M.schema" },
  ["echostream.options.budget"] = { "retry/budget", "M.schema" },
  ["echostream.options.cookie"] = { "http/cookies", "schema" },
  ["echostream.options.cors"] = { "http/cors", "schema" },
  ["echostream.options.rpc_over_http"] = { "http/rpc", "schema" },
  ["echostream.options.dashboard"] = { "http/dashboard", "schema" },
  ["echostream.options.static"] = { "http/static", "schema" },
  ["echostream.options.content"] = { "http/content", "schema" },
  ["echostream.options.http"] = { "http/face", "M.fields" },
  ["echostream.options.route"] = { "http/face", "M.route_fields" },
  ["echostream.options.http_client"] = { "http/client/prepare", "M.schema" },
  ["echostream.options.http_request"] = { "http/client/prepare", "own_schema" },
  ["echostream.options.path"] = { "sim", "path_schema" },
  ["echostream.options.listen"] = { "quic", "listen_schema" },
  ["echostream.options.dial"] = { "quic", "connect_schema" },
  ["echostream.broadcast.options"] = { "broadcast", "M.schema" },
}

local complaints = {}
local function complain(...) complaints[#complaints + 1] = string.format(...) end

local sources = {} -- module -> text
do
  local folders = { "." }
  for folder in (book.folders or "plugins _meta reload introspect diagnose metrics fleet session retry handlers tls quic discovery"
    .. " http http/client"):gmatch "%S+" do
    folders[#folders + 1] = folder
  end
  local command = ("cd %s && find %s %s -name '*.lua' | sed 's|^\\./||' | LC_ALL=C sort")
    :format(book.root, book.folders == "*" and "." or table.concat(folders, " "), book.folders == "*" and "" or "-maxdepth 1")
  local pipe <close> = assert(io.popen(command))
  for path in pipe:lines() do
    local name = path:match "^(.+)%.lua$"
    sources[#sources + 1] = name
    sources[name] = read(book.root .. "/" .. path)
  end
end

-- Markdown -----------------------------------------------------------------------------------------------------

-- Code in a cell of a table; what has backticks of its own needs more around it.
local function code(text)
  local fence = text:find("`", 1, true) and "``" or "`"
  local space = #fence > 1 and " " or ""
  return fence .. space .. text:gsub("|", "\\|") .. space .. fence
end

local function cell(text) return (text:gsub("|", "\\|")) end

-- The anchor that a heading gets; the second of the same text has "-1" at its end.
local taken = {}
local function anchor(heading)
  local name = heading:lower():gsub("[^%w%- _]", ""):gsub(" ", "-")
  local n = taken[name]
  taken[name] = (n or 0) + 1
  return n and name .. "-" .. n or name
end

-- A type and the words after it: "string|nil result, err  when …" is cut where the type ends.
local function split_type(text)
  local at = 1
  while at <= #text do
    local c = text:sub(at, at)
    if c:find "[%({<%[]" then
      local _, to = text:find(c == "(" and "^%b()" or c == "{" and "^%b{}" or c == "<" and "^%b<>" or "^%b[]", at)
      at = (to or at) + 1
    elseif c:find "%s" then
      -- a type goes on after ":" (results of a function) and around "|"
      if not (text:sub(1, at - 1):find "[:|,]$" or text:find("^%s*|", at)) then break end
      at = at + 1
    else
      at = at + 1
    end
  end
  return text:sub(1, at - 1), text:sub(at):match "^%s*(.*)$"
end

-- Functions ----------------------------------------------------------------------------------------------------

-- Functions of inner modules that `echo` gives under a name of its own: "task.spawn" -> "echo.spawn".
local given = {}
for name, module, fn in (sources.init or ""):gmatch "\nM%.([%w_]+) = ([%w_]+)%.([%w_]+)" do given[module .. "." .. fn] = "echo." .. name end

-- A doc comment: its text, parameters and results.
local function parse(doc)
  local text, params, returns = {}, {}, {}
  local goes_on -- what a line without a tag belongs to, once there was one
  for _, line in ipairs(doc) do
    local tag, rest = line:match "^@(%a+)%s*(.*)$"
    if tag then goes_on = tag end
    if tag == "param" then
      local name, kind = rest:match "^(%S+)%s*(.*)$"
      params[#params + 1] = { name = name, kind = kind }
    elseif tag == "return" then
      returns[#returns + 1] = rest
    elseif tag == "type" and rest:find "^fun%(" then
      local args, results = rest:match "^fun(%b()):?%s*(.*)$"
      for name, kind in (args:sub(2, -2) .. ", "):gmatch "([%w_.?]+):?%s*(.-), " do
        params[#params + 1] = { name = name, kind = kind }
      end
      if results ~= "" then returns[1] = results end
    elseif not tag and goes_on == "param" then
      params[#params].kind = params[#params].kind .. " " .. line
    elseif not tag and goes_on == "return" then
      returns[#returns] = returns[#returns] .. " " .. line
    elseif not tag then
      text[#text + 1] = line
    end
  end
  return table.concat(text, "\n"), params, returns
end

local function entry(name, signature, doc)
  local text, params, returns = parse(doc)
  local out = {}
  if text ~= "" then out[#out + 1] = text:gsub("^%s+", "") .. "\n" end
  if #params + #returns > 0 then
    out[#out + 1] = "| | | |\n|---|---|---|"
    local function row(label, kind)
      local type_, words = split_type(kind)
      if label == "returns" or kind:find "^fun%(" then -- "T1 name, T2 name  words": two spaces before the words
        type_, words = (kind .. "  "):match "^(.-)%s%s+(.-)%s*$"
      end
      out[#out + 1] = ("| %s | %s | %s |"):format(label, code(type_), cell(words))
    end
    for _, param in ipairs(params) do row("`" .. param.name .. "`", param.kind) end
    for _, kind in ipairs(returns) do row("returns", kind) end
    out[#out + 1] = ""
  end
  return { name = name, signature = signature, text = table.concat(out, "\n") }
end

local function public_name(module, owner, separator, name)
  if name:find "^_" then return nil end
  if owner ~= "M" then
    if book.only and not book.only[module] then return nil end
    local prefix = prefixes[module .. "." .. owner] or prefixes[owner]
    return prefix and prefix .. separator .. name, prefix == nil and owner or nil
  end
  return given[module .. "." .. name] or modules[module] and modules[module] .. "." .. name
end

local function is_inner(doc)
  local text = table.concat(doc, "\n")
  return text:find("@private", 1, true) or text:find("@package", 1, true)
end

-- Of a function that is only assigned, by its @type.
local function arguments(doc)
  local args = table.concat(doc, "\n"):match "@type fun(%b())"
  return args and args:gsub("%??:%s*[^,%)]+", ""):gsub("%?", "") or ""
end

local function functions_of(module)
  local found, doc, number = {}, {}, 0
  if module:find "^_meta/" then return found end
  for line in ((sources[module] or "") .. "\n"):gmatch "([^\n]*)\n" do
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
      if owner and #doc > 0 and not is_inner(doc) then
        local full, strange = public_name(module, owner, separator, name)
        if strange then complain(book.root .. "/%s.lua:%d: what do users call %s? (.ci/docs.lua, prefixes)", module, number, strange) end
        if full then found[#found + 1] = entry(full, full .. (args or arguments(doc)), doc) end
      end
      doc = {}
    end
  end
  return found
end

-- Options ------------------------------------------------------------------------------------------------------

local displayed = {} -- classes

-- The fields of an annotated class, in order; nil when there is none of that name.
local function class_of(name)
  for _, module in ipairs(sources) do
    local text = "\n" .. sources[module]
    local from, to, rest = text:find("\n%-%-%-@class " .. name:gsub("%p", "%%%0") .. "%f[^%w_.](:?[^\n]*)")
    local after = from and rest:sub(1, 1)
    if from and (after == "" or after == ":" or after == " ") then
      local fields = {}
      for line in text:sub(to + 1):gmatch "\n([^\n]*)" do
        local field, kind = line:match "^%-%-%-@field ([%w_]+)%??%s+(.*)$"
        if not field and not line:find "^%-%-%-" then break end
        local more = not field and line:match "^%-%-%-%s*([^@%s].*)$"
        if more and #fields > 0 then fields[#fields].text = (fields[#fields].text .. " " .. more):match "^%s*(.*)$" end
        if field then
          local type_, words = split_type(kind)
          if kind:find "^fun%(" then type_, words = (kind .. "  "):match "^(.-)%s%s+(.-)%s*$" end
          local said, default = words:match "^(.-)%s*%(default: (.*)%)$"
          fields[#fields + 1] = { name = field, type = type_, text = said or words, default = default }
          fields[field] = fields[#fields]
        end
      end
      return fields
    end
  end
end

local function class(name)
  displayed[name] = true
  local fields = class_of(name)
  if not fields then complain("no class %s is annotated in %s/", name, book.root) end
  return fields or {}
end

local function fields_of(name)
  local out = { "| field | type | |", "|---|---|---|" }
  for _, field in ipairs(class(name)) do
    if not field.type:find "^fun%(" then
      out[#out + 1] = ("| `%s` | %s | %s |"):format(field.name, code(field.type), cell(field.text))
    end
  end
  return table.concat(out, "\n")
end

local function methods(name, prefix)
  local out = { "| | returns | |", "|---|---|---|" }
  for _, field in ipairs(class(name)) do
    local args, results = field.type:match "^fun(%b()):?%s*(.*)$"
    if args then
      local method = args:find "^%(self"
      local names = args:gsub("^%(self[^,%)]*,?%s*", "("):gsub("%??:%s*[^,%)]+", ""):gsub("%?", "")
      out[#out + 1] = ("| `%s%s%s%s` | %s | %s |"):format(prefix, method and ":" or ".", field.name, names,
        results == "" and "" or code(results), cell(field.text))
    end
  end
  return table.concat(out, "\n")
end

local function options(name)
  local out = { "| option | type | default | |", "|---|---|---|---|" }
  for _, field in ipairs(class(name)) do
    out[#out + 1] = ("| `%s` | %s | %s | %s |"):format(field.name, code(field.type), cell(field.default or ""), cell(field.text))
  end
  return table.concat(out, "\n")
end

-- Types that have a chapter, or nothing in them that is for users.
local chapters_of = book.chapters or {
  ["echostream.server"] = "Servers", ["echostream.client"] = "Clients", ["echostream.stream"] = "Streams",
  ["echostream.context"] = "Contexts", ["echostream.calls"] = "Sessions", ["echostream.host"] = "What servers and clients share",
  ["echostream.quic.listener"] = "Raw QUIC", ["echostream.quic.connection"] = "Raw QUIC", ["echostream.quic.stream"] = "Raw QUIC",
  ["echostream.sim.net"] = "Simulation", ["echostream.frame"] = "Codecs and frames",
  ["echostream.loop"] = "Who may wait where",
  ["echostream.fleet"] = "Fleets", ["echostream.fleet_calls"] = "Fleets", ["echostream.service"] = "The service face",
  ["echostream.resubscribe"] = "Clients", ["echostream.retry"] = "Retries",
}

local function types(text)
  local out, found, again = {}, {}, true
  while again do
    again = false
    for name in text:gmatch "echostream%.[%l_.]*[%l_]" do
      local fields = not displayed[name] and not found[name] and not name:find "^echostream%.core" and not chapters_of[name] and class_of(name)
      if fields then
        displayed[name], found[name], again = true, true, true
        out[#out + 1] = name
        for _, field in ipairs(fields) do text = text .. " " .. field.type end
      end
    end
  end
  table.sort(out)
  for i, name in ipairs(out) do
    local fields, methods_there, fields_there = class(name), false, false
    for _, field in ipairs(fields) do
      local fn = field.type:find "^fun%("
      methods_there, fields_there = methods_there or fn, fields_there or not fn
    end
    out[i] = ("### `%s`\n\n{{fields %s}}\n\n{{methods %s %s}}\n"):format(name, name, name, name:match "[^.]+$")
    if not fields_there then out[i] = out[i]:gsub("{{fields [^}]*}}", "") end
    if not methods_there then out[i] = out[i]:gsub("{{methods [^}]*}}", "") end
  end
  local known = {}
  for name, chapter in pairs(chapters_of) do
    known[#known + 1] = ("| `%s` | [%s](#%s) |"):format(name, chapter, chapter:lower():gsub(" ", "-"))
  end
  table.sort(known)
  return "| | |\n|---|---|\n" .. table.concat(known, "\n") .. "\n\n" .. table.concat(out, "\n")
end

-- Every option that a schema takes is documented, and nothing else is.
for name, where in pairs(schemas) do
  local fields, seen = class(name), {}
  local block = ("\n" .. sources[where[1]]):match("\n[local ]*" .. where[2]:gsub("%p", "%%%0") .. " = (%b{})")
  if not block then complain(book.root .. "/%s.lua: no table %s, which .ci/docs.lua looks for", where[1], where[2]) end
  for option, rest in (block or ""):gmatch "\n  ([%w_]+) = ([^\n]*)" do
    seen[option] = true
    if not fields[option] and not rest:find "refuse =" then
      complain(book.root .. "/%s.lua: the option %s has no ---@field in the class %s", where[1], option, name)
    end
  end
  for _, field in ipairs(fields) do
    if not seen[field.name] then complain("%s: the field %s is no option of %s/%s.lua", name, field.name, book.root, where[1]) end
  end
end

-- The document -------------------------------------------------------------------------------------------------

local frame = read(book.docs .. "/API.in.md")
local entries, placed, shown = {}, {}, {}
for _, module in ipairs(sources) do
  entries[module] = functions_of(module)
  for _, each in ipairs(entries[module]) do
    if module ~= "init" then shown[each.name] = true end
  end
end
for line in frame:gmatch "{{functions ([^}]*)}}" do
  for module in line:gmatch "%S+" do
    placed[module] = true
    if not entries[module] then complain(book.docs .. "/API.in.md: there is no module %s", module) end
  end
end

local function functions(list)
  local index, out = {}, {}
  for module in list:gmatch "%S+" do
    for _, each in ipairs(entries[module] or {}) do
      if module ~= "init" or not shown[each.name] then -- a name that init.lua only passes on is shown where it is written
        index[#index + 1] = ("[`%s`](#%s)"):format(each.name, anchor(each.signature))
        out[#out + 1] = ("### `%s`\n\n%s"):format(each.signature, each.text)
      end
    end
  end
  return table.concat(index, " ·\n") .. "\n\n" .. table.concat(out, "\n")
end

local function rest()
  local out = {}
  for _, module in ipairs(sources) do
    if not placed[module] and #entries[module] > 0 then
      local title = module:sub(1, 1):upper() .. module:sub(2):gsub("_", " ")
      out[#out + 1] = "## " .. title .. "\n\n{{functions " .. module .. "}}"
    end
  end
  return table.concat(out, "\n\n")
end

local text = frame:gsub("{{rest}}", rest)
local chapters = {}
for title in text:gmatch "\n## ([^\n]+)" do
  if title ~= "Contents" then chapters[#chapters + 1] = ("[%s](#%s)"):format(title, anchor(title)) end
end
text = text:gsub("{{contents}}", function() return table.concat(chapters, " ·\n") end)
local function all_options()
  local out = {}
  for _, module in ipairs(sources) do
    for name in ("\n" .. sources[module]):gmatch "\n%-%-%-@class (echostream[%w_.]*%.options[%w_.]*)" do
      if not frame:find("{{options " .. name .. "}}", 1, true) and not displayed[name] then
        out[#out + 1] = ("### `%s`\n\n{{options %s}}\n"):format(name, name)
      end
    end
  end
  table.sort(out)
  return table.concat(out, "\n")
end

local function expand(frame_text)
  return (frame_text:gsub("{{functions ([^}]*)}}", functions):gsub("{{options (%S+)}}", options):gsub("{{fields (%S+)}}", fields_of)
    :gsub("{{methods (%S+) (%S+)}}", methods))
end
text = text:gsub("{{all options}}", all_options)
text = expand(text)
text = text:gsub("{{types}}", function() return expand(types(text)) end)
for strange in text:gmatch "{{[^}]*}}" do complain(book.docs .. "/API.in.md: what is %s?", strange) end
text = text:gsub("[ \t]+\n", "\n"):gsub("\n\n\n+", "\n\n"):gsub("\n*$", "\n")

for _, complaint in ipairs(complaints) do print(complaint) end
local path = book.docs .. "/API.md"
if arg[1] == "--check" then
  local ok, there = pcall(read, path)
  if not ok or there ~= text then
    print(path .. " is not up to date; change " .. book.docs .. "/API.in.md or the annotations, and run `make docs`")
    os.exit(false)
  end
  os.exit(#complaints == 0)
end
local file <close> = assert(io.open(path, "w"))
file:write(text)
os.exit(#complaints == 0)
