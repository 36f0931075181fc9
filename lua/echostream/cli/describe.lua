--- `echostream describe`: what a server offers, and what is known about one of its methods, events or streams.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"
local output = require "echostream.cli.output"

local M = {}

M.usage = "echostream describe ADDR [NAME] (--pin PIN | --ca FILE | --insecure) [options]"
M.summary = "list what a server offers, or describe one of it"
M.help = [[
Without NAME: a line for each method, event and stream. With NAME: its arguments, results, examples and what else the server
says. With --json: what rpc.list and rpc.describe answered. A server may have that turned off (introspection = false).

]] .. connection.help
M.options = connection.options()
M.examples = {
  { "echostream describe 127.0.0.1:5000 --pin sha256:…", "a line for everything that it offers" },
  { "echostream describe 127.0.0.1:5000 desk.add --insecure", "all about one method" },
  { "echostream describe 127.0.0.1:5000 --insecure --json", "the same for programs" },
}
M.min, M.max = 1, 2

local function first_line(text)
  return (output.plain(text or ""):match "^[^\n]*")
end

-- Short words about an entry of the list.
local function remarks(entry)
  local words = {}
  if entry.idempotent then
    words[#words + 1] = "idempotent"
  end
  if entry.version then
    words[#words + 1] = "v" .. output.line(entry.version)
  end
  if entry.deprecated then
    words[#words + 1] = "deprecated"
  end
  return #words > 0 and ("(%s) "):format(table.concat(words, ", ")) or ""
end

local function all_tables(list)
  for _, entry in ipairs(list) do
    if type(entry) ~= "table" then
      return false
    end
  end
  return true
end

local function print_list(entries)
  local rows = {}
  for i, entry in ipairs(entries) do
    rows[i] = { output.line(entry.name), output.line(entry.kind), remarks(entry) .. first_line(entry.doc) }
  end
  local paint = output.painter(1)
  for i, line in ipairs(output.columns(rows)) do
    local name = rows[i][1]
    print(paint("bold", name) .. line:sub(#name + 1))
  end
end

-- The fields of a description in the order people ask for them; others follow by name.
local order = { "arguments", "args", "results", "returns", "examples", "idempotent", "stream", "version", "versions", "deadline", "timeout",
  "max_calls", "priority", "deprecated" }
local titles = { args = "arguments", returns = "results" }

-- An argument or result as { name =, type =, doc =, optional = } in one line.
local function line_of(value)
  if type(value) == "string" then
    return output.line(value)
  elseif type(value) == "table" and type(value.name) == "string" then
    local kind = value.type ~= nil and (": " .. output.line(value.type)) or ""
    local doc = value.doc ~= nil and ("  " .. output.line(value.doc)) or ""
    return output.line(value.name) .. (value.optional and "?" or "") .. kind .. doc
  end
  return output.line(core.codec.json.pack(value) or value)
end

local function list_of(values)
  local words = {}
  for i, value in ipairs(type(values) == "table" and values or {}) do
    words[i] = core.codec.json.pack(value) or "?"
  end
  return output.line(table.concat(words, ", "))
end

-- An example as { arguments =, results =, doc = }, as it would be called.
local function example_line(name, example)
  if type(example) ~= "table" or type(example.arguments or example.results) ~= "table" then
    return line_of(example)
  end
  local results = example.results ~= nil and " -> " .. list_of(example.results) or ""
  local doc = example.doc ~= nil and "  " .. output.line(example.doc) or ""
  return ("%s(%s)%s%s"):format(output.line(name), list_of(example.arguments), results, doc)
end

local function print_field(paint, title, value, name)
  if title == "examples" and type(value) == "table" then
    print("  " .. paint("bold", title))
    for _, each in ipairs(value) do
      print("    " .. example_line(name, each))
    end
  elseif type(value) == "table" and rawlen(value) > 0 then
    print("  " .. paint("bold", title))
    for _, each in ipairs(value) do
      print("    " .. line_of(each))
    end
  elseif type(value) == "string" and value:find "\n" then
    print("  " .. paint("bold", title))
    for line in output.plain(value):gmatch "[^\n]+" do
      print("    " .. line)
    end
  else
    print(("  %s  %s"):format(paint("bold", title), line_of(value)))
  end
end

local function print_one(description)
  local paint = output.painter(1)
  print(("%s (%s)"):format(paint("bold", output.line(description.name)), output.line(description.kind)))
  for line in output.plain(description.doc or ""):gmatch "[^\n]+" do
    print("  " .. line)
  end
  local shown = { name = true, kind = true, doc = true }
  local function show(field)
    local value = description[field]
    if not shown[field] and value ~= nil and value ~= core.null and value ~= false then
      shown[field] = true
      print_field(paint, titles[field] or output.line(field), value, description.name)
    end
  end
  for _, field in ipairs(order) do
    show(field)
  end
  local others = {}
  for field in pairs(description) do
    others[#others + 1] = type(field) == "string" and field or nil
  end
  table.sort(others)
  for _, field in ipairs(others) do
    show(field)
  end
end

-- What was probably meant by a name that is not offered.
local function add_guess(calls, name, err)
  local names = {}
  local entries = calls:request("rpc.list")
  for _, entry in ipairs(type(entries) == "table" and all_tables(entries) and entries or {}) do
    names[tostring(entry.name)] = true
  end
  local guess = options.nearest(name, names)
  if guess then
    err.message = ("%s (did you mean %s?)"):format(err.message, guess)
  end
end

function M.run(given, words)
  local name = words[2]
  return connection.run(M, given, words[1], nil, function(_, calls)
    local answer, err
    if name then
      answer, err = calls:request("rpc.describe", name)
    else
      answer, err = calls:request("rpc.list")
    end
    if answer == nil and errors.is_error(err) then
      if err.code == "method_not_found" and not given.json then
        cli.complain("this server does not describe itself (introspection = false)")
      elseif name and err.code == "not_found" then
        add_guess(calls, name, err)
      end
      return connection.report(given, err)
    elseif given.json then
      return connection.print_json(answer) and cli.OK or cli.FAILED
    elseif type(answer) ~= "table" or not name and not all_tables(answer) then
      cli.complain("the server's description makes no sense: %s", line_of(answer))
      return cli.FAILED
    end
    if name then
      print_one(answer)
    else
      print_list(answer)
    end
    return cli.OK
  end)
end

return M
