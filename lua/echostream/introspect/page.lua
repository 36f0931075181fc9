--- A page of documentation, made of what a server says about itself: Markdown, or one HTML file that needs nothing else.
--- Everything in it came from somebody's descriptions, and is escaped.

local core = require "echostream.core"
local errors = require "echostream.errors"

local M = {}

local kinds = {
  { kind = "rpc", title = "Methods" },
  { kind = "event", title = "Events" },
  { kind = "stream", title = "Streams" },
}

local facts = { "idempotent", "stream", "codec", "concurrent", "deadline", "max_calls", "priority", "version", "versions",
  "deprecated" }

-- Descriptions of the other side may have anything in their fields.
local function text(value)
  if type(value) == "table" then
    return core.codec.json.pack(value) or "…"
  end
  return tostring(value)
end

-- A copy, because a table may have a metatable that has something under every key.
local function list_of(value)
  local list = {}
  for key, item in next, type(value) == "table" and value or list do
    list[key] = item
  end
  return list
end

-- "string that is one line": nothing may leave its line in Markdown.
local function line(value)
  return (text(value):gsub("%c+", " "))
end

local function signature(entry)
  local names = {}
  for i, value in ipairs(list_of(entry.arguments)) do
    value = list_of(value)
    names[i] = line(value.name or value.type or "…") .. (value.optional and "?" or "")
  end
  if entry.kind == "stream" then
    return line(entry.name)
  end
  return ("%s(%s)"):format(line(entry.name), table.concat(names, ", "))
end

local function json_values(values)
  local parts = {}
  for i, value in ipairs(list_of(values)) do
    parts[i] = core.codec.json.pack(value) or errors.show(value)
  end
  return table.concat(parts, ", ")
end

local function example_code(entry, example)
  local code = example.arguments and ("%s(%s)"):format(line(entry.name), json_values(example.arguments)) or ""
  if example.results then
    code = code .. (code ~= "" and " " or "") .. "→ " .. json_values(example.results)
  end
  return code
end

local function by_kind(description)
  local groups = {}
  for i, each in ipairs(kinds) do
    local entries = {}
    for _, entry in ipairs(list_of(description)) do
      if type(entry) == "table" and entry.kind == each.kind then
        entries[#entries + 1] = entry
      end
    end
    groups[i] = { title = each.title, entries = entries }
  end
  return groups
end

-- Both formats are the same page: a writer has `title`, `section`, `entry`, `paragraph`, `values`, `example`, `facts`.
local function write(description, out)
  out.title()
  for _, group in ipairs(by_kind(description)) do
    if #group.entries > 0 then
      out.section(group.title)
      for _, entry in ipairs(group.entries) do
        out.entry(signature(entry))
        if entry.doc then
          out.paragraph(text(entry.doc))
        end
        for _, what in ipairs { "arguments", "results" } do
          if #list_of(entry[what]) > 0 then
            out.values(what == "arguments" and "Arguments" or "Results", entry[what])
          end
        end
        for _, example in ipairs(list_of(entry.examples)) do
          example = type(example) == "table" and example or { doc = text(example) }
          out.example(example_code(entry, example), example.doc and text(example.doc))
        end
        out.facts(entry)
      end
    end
  end
  return out.done()
end

-- Markdown ----------------------------------------------------------------------------------------------------

local function md(value)
  return (line(value):gsub("[\\`*_{}%[%]<>()#+%-.!|~&]", "\\%0"))
end

-- Code that holds backticks wants more of them around it.
local function md_code(value)
  local ticks = "`"
  for run in value:gmatch "`+" do
    if #run >= #ticks then
      ticks = ("`"):rep(#run + 1)
    end
  end
  local space = (value:find "^`" or value:find "`$") and " " or ""
  return ticks .. space .. value .. space .. ticks
end

-- What is worth saying of an entry in one line; nil: nothing.
local function facts_of(entry, escape)
  local parts = {}
  for _, fact in ipairs(facts) do
    if entry[fact] ~= nil and entry[fact] ~= false then
      parts[#parts + 1] = fact .. (entry[fact] == true and "" or ": " .. escape(entry[fact]))
    end
  end
  return #parts > 0 and table.concat(parts, " · ") or nil
end

local function markdown(title)
  local lines = {}
  local function add(...)
    lines[#lines + 1] = table.concat({ ... })
  end
  local out = {}
  function out.title()
    add("# ", md(title))
  end
  function out.section(name)
    add("\n## ", name)
  end
  function out.entry(name)
    add("\n### ", md_code(name))
  end
  function out.paragraph(value)
    add("\n", md(value))
  end
  function out.values(name, values)
    add("\n| ", name, " | type | |\n|---|---|---|")
    for i, value in ipairs(list_of(values)) do
      value = list_of(value)
      add("| ", md(value.name or tostring(i)), value.optional and " (optional)" or "", " | ", md(value.type or ""), " | ",
        md(value.doc or ""), " |")
    end
  end
  function out.example(code, doc)
    add("\n- ", code ~= "" and md_code(code) or "", code ~= "" and doc and " – " or "", doc and md(doc) or "")
  end
  function out.facts(entry)
    local said = facts_of(entry, md)
    if said then
      add("\n", said)
    end
  end
  function out.done()
    return table.concat(lines, "\n") .. "\n"
  end
  return out
end

-- HTML --------------------------------------------------------------------------------------------------------

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

-- Bytes that are no UTF-8 would make the page invalid.
local function html(value)
  local shown = text(value)
  if not utf8.len(shown) then
    shown = shown:gsub("[\x80-\xff]", "?")
  end
  return (shown:gsub("[%z\1-\8\11\12\14-\31\127]", "?"):gsub("[&<>\"']", entities))
end

local style = [[
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h3{margin:2rem 0 .3rem}code{background:#8881;padding:.1em .3em;border-radius:3px}
table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884;vertical-align:top}
.facts{color:#777;font-size:.9em}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}]]

local function page(title)
  local lines = {}
  local function add(...)
    lines[#lines + 1] = table.concat({ ... })
  end
  local out = {}
  function out.title()
    add('<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n',
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>', html(title), "</title>\n<style>", style,
      "</style>\n<h1>", html(title), "</h1>")
  end
  function out.section(name)
    add("<h2>", name, "</h2>")
  end
  function out.entry(name)
    add("<h3><code>", html(name), "</code></h3>")
  end
  function out.paragraph(value)
    add("<p>", html(value), "</p>")
  end
  function out.values(name, values)
    add("<table>\n<tr><th>", name, "</th><th>type</th><th></th></tr>")
    for i, value in ipairs(list_of(values)) do
      value = list_of(value)
      add("<tr><td>", html(value.name or i), value.optional and " (optional)" or "", "</td><td>",
        value.type and "<code>" .. html(value.type) .. "</code>" or "", "</td><td>", html(value.doc or ""), "</td></tr>")
    end
    add("</table>")
  end
  function out.example(code, doc)
    add("<p>", code ~= "" and "<code>" .. html(code) .. "</code> " or "", doc and html(doc) or "", "</p>")
  end
  function out.facts(entry)
    local said = facts_of(entry, html)
    if said then
      add('<p class="facts">', said, "</p>")
    end
  end
  function out.done()
    return table.concat(lines, "\n") .. "\n</html>\n"
  end
  return out
end

--- Writes the page.
---@param description echostream.description[]
---@param format "markdown"|"html"
---@param title string
---@return string
function M.write(description, format, title)
  return write(description, (format == "html" and page or markdown)(title))
end

return M
