--- Sends a request that the inspector kept once more, the way a visitor's goes: through rules, limits, a group and an agent.

local core = require "echostream.tunnel.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

-- Bytes of an answer's body that are kept; what is more is counted only.
local MAX_BODY <const> = 64 * 1024

-- An exchange of which nobody but us is the visitor (tunnel/DESIGN.md).
---@class echostream.tunnel.inspector.exchange
local Exchange = {}
Exchange.__index = Exchange

function Exchange:take()
  local message = self._message
  self._message = nil
  if message then
    return message, true
  end
  return nil, errors.new("failed_precondition", "the request is over")
end

function Exchange:try_take()
  if self._message then
    return self:take()
  end
  return nil, true
end

local function over(self)
  self.over = true
end

function Exchange:send_head(head, fin)
  if head.status < 200 then
    return true
  end
  self.status = head.status
  for name, value in head:each() do
    self.headers[#self.headers + 1] = { name, value }
  end
  if fin then
    over(self)
  end
  return true
end

local function add(self, bytes)
  if self._kept < MAX_BODY then
    self.body[#self.body + 1] = bytes:sub(1, MAX_BODY - self._kept)
    self._kept = self._kept + #self.body[#self.body]
  end
end

function Exchange:put(message)
  local last = false
  for kind, value in core.parts(message) do
    if kind == "body" then
      add(self, value)
    elseif kind == "head" or kind == "informational" then
      self:send_head(value, false)
    elseif kind == "end" or kind == "trailers" or kind == "reset" then
      last = true
      self.failure = kind == "reset" and (value[2] ~= "" and value[2] or value[1]) or nil
    end
  end
  if last then
    over(self)
  end
  return true, last
end

function Exchange:write(bytes, fin)
  add(self, bytes)
  if fin then
    over(self)
  end
  return true
end

function Exchange:finish()
  over(self)
  return true
end

function Exchange:reset(why)
  if not self.over then
    self.failure = ("it was reset: %s"):format(why or "cancel")
    over(self)
  end
end

function Exchange:on_abort(fn)
  self._abort = fn
end

function Exchange:info()
  return self._info
end

--- A function for the inspector that sends kept requests through a server's plugin.
---@param plugin echostream.tunnel.server
---@return fun(entry: table, timeout: number): table?, echostream.error?
function M.for_plugin(plugin)
  return function(entry, timeout)
    local body = entry.bodies and entry.bodies.request or ""
    local head = entry.head:copy()
    for _, name in ipairs { "x-request-id", "traceparent" } do -- it is another one
      head:remove(name)
    end
    local exchange = setmetatable({ headers = {}, body = {}, over = false, status = nil, failure = nil, _kept = 0,
      _message = (body ~= "" and core.part("body", body) or "") .. core.part "end",
      _info = { peer = (entry.peer_ip and entry.peer_ip:find ":" and "[%s]:0" or "%s:0"):format(entry.peer_ip or "127.0.0.1"), local_address = "",
        protocol = entry.protocol or "http/1.1", tls = entry.sni ~= nil, sni = entry.sni or "", received = 0, sent = 0 } }, Exchange)
    local began = loop.now()
    local running = task.spawn(plugin.serve, plugin, { name = entry.listener or "inspector", port = entry.port or 0 }, exchange, head, body == "")
    local ok, err = running:wait(timeout)
    if not ok and err and not exchange.over then
      if exchange._abort then
        exchange._abort("cancel", "the page waits no longer")
      end
      return nil, errors.is_error(err) and err or errors.new("timeout", tostring(err))
    elseif not exchange.status or exchange.failure then
      return nil, errors.new("unavailable", exchange.failure or "there was no answer")
    end
    return { status = exchange.status, headers = exchange.headers, body = table.concat(exchange.body), seconds = loop.now() - began }
  end
end

return M
