--- The parts of HTTP, each loaded on first use: `echo.http.router` is `require "echostream.http.router"`, whose arguments are looked at.

local parts = {}
for _, name in ipairs { "accept", "conditional", "content", "cookies", "cors", "date", "errors", "fields", "message", "mime", "percent", "query",
  "range", "router", "sse", "static" } do
  parts[name] = "echostream.http." .. name
end

-- Functions that are used often enough to be here themselves.
local functions = { request = "client", client = "client", close = "client" }
for name in pairs(functions) do
  parts[name] = "echostream.http." .. functions[name]
end

return setmetatable({}, {
  __name = "echostream.http",
  __methods = parts, -- for the prompt's completion
  __lookup = function(self, key)
    return self[key]
  end,
  __index = function(self, key)
    if parts[key] then
      local part = require(parts[key])
      if functions[key] then
        part = part[key]
      else
        part = require("echostream.http.checked").face(key, part)
      end
      rawset(self, key, part)
      return part
    end
  end,
})
