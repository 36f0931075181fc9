--- A plugin for clients that reconnect: subscribes again. What it is told to do is done with the session that is there and
--- again with every new one.
---
---     local again = echo.resubscribe.new()
---     again:each(function(session) session:request("subscribe", "news") end)
---     again:stream("ticks", function(stream) for frame in stream:frames() do print(frame.data) end end)
---     client:plugin(again)

local log = require "echostream.log"
local backoff = require "echostream.backoff"
local errors = require "echostream.errors"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.resubscribe: echostream.plugin
local Again = {}
Again.__index = Again
Again.__name = "echostream.resubscribe"

-- Pauses before a stream that failed is opened again in the same session.
local PAUSES = { first = 0.1, factor = 2, cap = 5, jitter = 1 }

--- Makes the plugin; install it with `client:plugin`.
---@param name? string  of the plugin, when there are several in one client (default: "resubscribe")
---@return echostream.resubscribe
function M.new(name)
  if name ~= nil then
    options.argument("resubscribe.new", "name", name, "string")
  end
  return setmetatable({ name = name or "resubscribe", _subscriptions = {}, _host = nil, _sessions = nil }, Again)
end

local function traced(raised)
  return { err = errors.from(raised), traceback = debug.traceback(nil, 2) }
end

local function report(what, raised)
  local failure = type(raised) == "table" and raised or { err = errors.from(raised) }
  log.write("error", ("resubscribe: %s failed: %s"):format(what, failure.err.message), { traceback = failure.traceback })
end

local function begin(self, session, subscription)
  -- In a task that ends with the plugin.
  self._host:after(0, function()
    if not session.closed_by then
      subscription(session)
    end
  end)
end

local function add(self, subscription)
  table.insert(self._subscriptions, subscription)
  for session in pairs(self._sessions or {}) do
    begin(self, session, subscription)
  end
  return self
end

--- `fn(session)` runs with every session, in a task: to call a method that subscribes, to emit, whatever has to be said again. What
--- it raises is logged.
---@param fn fun(session: echostream.session)
---@return echostream.resubscribe self
function Again:each(fn)
  options.argument("resubscribe:each", "function", fn, "function")
  return add(self, function(session)
    local ok, raised = xpcall(fn, traced, session)
    if not ok then
      report("a function", raised)
    end
  end)
end

--- Opens a stream in every session and gives it to `fn(stream, session)`, in a task. When the stream fails while the session
--- lives, it is opened again after a pause; when `fn` returns and the stream did not fail, that was it for this session.
---@param name string
---@param fn fun(stream: echostream.stream, session: echostream.session)
---@param opts? echostream.options.call  as of `create_stream`
---@return echostream.resubscribe self
function Again:stream(name, fn, opts)
  options.argument("resubscribe:stream", "name", name, "string")
  options.argument("resubscribe:stream", "function", fn, "function")
  return add(self, function(session)
    local pauses = backoff.of(PAUSES)
    repeat
      local stream = session:create_stream(name, opts)
      local failed = stream == nil
      if stream then
        local ok, raised = xpcall(fn, traced, stream, session)
        if not ok then
          report("the function of stream " .. name, raised)
        end
        local _, err = stream:recv(0)
        failed = stream.error ~= nil or err ~= nil and err.code ~= "timeout"
        stream:close()
      end
    until not failed or session.closed_by or not task.sleep(pauses:next()) or session.closed_by
  end)
end

--- Called by `client:plugin`.
---@package
function Again:install(host)
  if type(host) ~= "table" or type(host.on_connect) ~= "function" then
    error("resubscribe:install wants to be called by client:plugin", 2)
  end
  self._host, self._sessions = host, setmetatable({}, { __mode = "k" })
  local function came(session)
    self._sessions[session] = true
    for _, subscription in ipairs(self._subscriptions) do
      begin(self, session, subscription)
    end
  end
  for _, session in ipairs(host:sessions()) do
    came(session)
  end
  host:on_connect(came)
  host:on_disconnect(function(session)
    self._sessions[session] = nil
  end)
end

--- Called by `client:remove_plugin`.
---@package
function Again:uninstall()
  self._host, self._sessions = nil, nil
end

return M
