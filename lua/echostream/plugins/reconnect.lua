--- A plugin for clients: comes back when the connection is lost, and does again what has to be done in every new session. The option
--- `reconnect` of `echo.client` and the plugin `echo.resubscribe` in one. Handlers stay registered by themselves.
---
---     client:plugin(echo.plugins.reconnect { subscribe = { prices = print }, register = { { "workers.join", "resize" } } })

local log = require "echostream.log"
local options = require "echostream.options"
local parts = require "echostream.plugins.parts"
local reconnect = require "echostream.reconnect"
local resubscribe = require "echostream.plugins.resubscribe"

local M = {}

---@class echostream.options.reconnect_plugin
---@field policy? echostream.options.reconnect  pauses and attempts (default: the defaults)
---@field subscribe? table<string, fun(...)>  topics, and who gets what is published
---@field streams? table<string, fun(stream: echostream.stream, session: echostream.session)>  streams that are opened in every session
---@field register? table[]  calls that are made in every session: lists of a method's name and its arguments. What they fail with is logged
---@field each? fun(session: echostream.session)  whatever else has to be done in every session

local schema = {
  policy = { type = "table", fields = reconnect.fields },
  subscribe = { type = "table", default = {} },
  streams = { type = "table", default = {} },
  register = { type = "table", default = {} },
  each = { type = "function" },
}

local function register(session, call)
  local ok, err = session:request(table.unpack(call, 1, call.n or #call))
  if ok == nil and err then
    log.write("warn", ("reconnect: %s failed: %s"):format(call[1], tostring(err)))
  end
end

local function install(self, host)
  if type(host.connect) ~= "function" then
    return nil, "it is for clients"
  end
  host:set_reconnect(self._opts.policy or true) -- undone with the plugin
  local again = resubscribe.new "reconnect.again"
  for _, call in ipairs(self._opts.register) do
    again:each(function(session)
      register(session, call)
    end)
  end
  for name, fn in pairs(self._opts.subscribe) do
    again:each(function(session)
      session:subscribe(name, fn)
    end)
  end
  for name, fn in pairs(self._opts.streams) do
    again:stream(name, fn)
  end
  if self._opts.each then
    again:each(self._opts.each)
  end
  host:plugin(again)
end

--- Makes the plugin, to be installed before `connect` or after it. Taken away, it leaves a client that does, when the connection is lost, what it
--- did before: a client without the option `reconnect` that is reconnecting just then gives up.
---@param opts? echostream.options.reconnect_plugin
---@return echostream.plugin
function M.reconnect(opts)
  local checked = options.check("plugins.reconnect", opts, schema)
  parts.check_values("plugins.reconnect", "subscribe", checked.subscribe, "function", 2)
  parts.check_values("plugins.reconnect", "streams", checked.streams, "function", 2)
  for _, call in ipairs(checked.register) do
    options.argument("plugins.reconnect", "option \"register\", a call", call, "table")
    options.argument("plugins.reconnect", "option \"register\", the method", call[1], "string")
  end
  return { name = "reconnect", install = install, _opts = checked }
end

return M
