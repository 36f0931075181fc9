-- The heads of the C module in plain Lua, for specs that want no C module: `fake.head(kind, fields)` as core.head of _meta/core.lua.

local M = {}

local parts = { method = true, scheme = true, authority = true, path = true, protocol = true, status = true, kind = true, length = true }

local Head = {}

function Head:get(name)
  local values = Head.all(self, name)
  return values[1] and table.concat(values, ", ") or nil
end

function Head:all(name)
  local values = {}
  for _, field in ipairs(rawget(self, "_fields")) do
    if field[1] == name:lower() then values[#values + 1] = field[2] end
  end
  return values
end

function Head:add(name, value)
  if not name:find "^[%w!#$%%&'*+%-.^_`|~]+$" or value:find "[%c]" then
    return nil, require("echostream.errors").new("invalid_argument", "these are no name and value of a field")
  end
  table.insert(rawget(self, "_fields"), { name:lower(), (value:match "^[ \t]*(.-)[ \t]*$") })
  return true
end

function Head:remove(name)
  local fields, n = rawget(self, "_fields"), 0
  for i = #fields, 1, -1 do
    if fields[i][1] == name:lower() then
      table.remove(fields, i)
      n = n + 1
    end
  end
  return n
end

function Head:set(name, value)
  Head.remove(self, name)
  return Head.add(self, name, value)
end

function Head:each()
  local i = 0
  return function()
    i = i + 1
    local field = rawget(self, "_fields")[i]
    if field then return field[1], field[2] end
  end
end

function Head:copy()
  local fields = {}
  for i, field in ipairs(rawget(self, "_fields")) do fields[i] = { field[1], field[2] } end
  local copy = M.head(self.kind, fields)
  for name in pairs(parts) do rawset(copy, name, rawget(self, name)) end
  return copy
end

local mt = { __index = function(_, key) return Head[key] end, __newindex = function(self, key, value)
  assert(parts[key], "no part of a head: " .. tostring(key))
  rawset(self, key, value)
end, __name = "echostream.tunnel.head" }

-- fields: parts by name, and a list of { name, value }.
function M.head(kind, fields)
  local self = setmetatable({ _fields = {}, kind = kind }, mt)
  for name, value in pairs(fields or {}) do
    if type(name) == "string" then self[name] = value end
  end
  for _, field in ipairs(fields or {}) do assert(Head.add(self, field[1], field[2])) end
  return self
end

-- A GET, with what is given instead: a head of the C module where there is one.
function M.request(with)
  local fields = { method = "GET", scheme = "https", authority = "example.org", path = "/" }
  for name, value in pairs(with or {}) do fields[name] = value end
  return assert((package.loaded["echostream.tunnel.core"] or M).head("request", fields))
end

-- Lets modules find this in the C module's place, when there is none.
function M.install()
  local ok, core = pcall(require, "echostream.tunnel.core")
  core = ok and core or {}
  core.head = core.head or M.head
  package.loaded["echostream.tunnel.core"] = core
end

return M
