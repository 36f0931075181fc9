--- The plugins that come along: `echo.plugins.NAME { options }` makes one for `server:plugin` or `client:plugin`. Each is a file of
--- its own in plugins/, loaded on first use, and an example of how to write one.

local options = require "echostream.options"
local errors = require "echostream.errors"

-- NAME: its file plugins/NAME.lua has one function of that name, which makes it.
local names = { auth = true, rate_limit = true, access_log = true, cache = true, presence = true, metrics_endpoint = true, tracing = true,
  reconnect = true, attach = true }

return setmetatable({}, {
  __name = "echostream.plugins",
  __methods = names, -- for the prompt's completion
  __index = function(self, name)
    if names[name] then
      local make = require("echostream.plugins." .. name)[name]
      rawset(self, name, make)
      return make
    end
    local guess = type(name) == "string" and options.nearest(name, names)
    error(("echo.plugins: there is no plugin %s%s"):format(errors.show(name),
      guess and (" (did you mean \"%s\"?)"):format(guess) or ""), 2)
  end,
})
