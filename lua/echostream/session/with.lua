--- What `with` returns: the same calls with other options.

local batch = require "echostream.session.batch"
local flow = require "echostream.session.flow"
local options = require "echostream.options"
local outgoing = require "echostream.session.out"
local retry = require "echostream.retry"
local services = require "echostream.handlers.services"

local M = {}

local request, send_request, emit = outgoing.request_now, outgoing.send_request, outgoing.emit
local create_stream, open_call = outgoing.create_stream, outgoing.open_call

---@class echostream.calls  what `with` returns: the same calls with other options
---@field request fun(self, name: string, ...): any ...
---@field emit fun(self, name: string, ...): true|nil, echostream.error?
---@field create_stream fun(self, name: string, opts?: table): echostream.stream?, echostream.error?
---@field stream fun(self, name: string, ...): echostream.stream?, echostream.error?
---@field batch fun(self, calls: table|function, callback?: function): echostream.batch.results?, echostream.error?
---@field service fun(self, name: string): table<string, function>
---@field with fun(self, opts: table): echostream.calls
local Calls = {}
Calls.__index = Calls
Calls.__name = "echostream.calls"

function Calls:request(name, ...)
  local out = self._owner._chains.rpc
  if out then
    return out(self._owner, "rpc", send_request, name, self._options, ...)
  end
  return request(self._owner._ud, name, self._options, ...)
end

function Calls:emit(name, ...)
  return emit(self._owner, self._options, name, ...)
end

function Calls:create_stream(name, opts)
  return create_stream(self._owner, "create_stream", name, opts, self._options)
end

function Calls:stream(name, ...)
  return open_call(self._owner, self._options, name, ...)
end

function Calls:batch(what, callback)
  return batch.run(self, self._owner, self._options.timeout, what, callback)
end

function Calls:service(name)
  return (services.proxy(self, name))
end

-- The same with an opinion of their own on retries, so that the others need no test for it. `_retry` nil: none.
local Retrying = setmetatable({}, { __index = Calls })
Retrying.__index = Retrying
Retrying.__name = "echostream.calls"

function Retrying:request(name, ...)
  local owner = self._owner
  local out = owner._chains.out
  if self._retry then
    return retry.request(self._retry, out, owner, send_request, name, self._options, ...)
  elseif out then
    return out(owner, "rpc", send_request, name, self._options, ...)
  end
  return request(owner._ud, name, self._options, ...)
end

---@package
--- The body of every `with`. `base`: the calls whose `with` it is.
---@param owner echostream.session|echostream.client
---@param opts table
---@param base? echostream.calls
---@return echostream.calls
function M.with(owner, opts, base)
  local merged = {}
  for key, value in pairs(base and base._options or owner._calls or {}) do
    merged[key] = value
  end
  opts = options.check("with", opts, outgoing.call_options, 3)
  flow.marks("with", "queue", opts.queue, 3)
  for key, value in pairs(opts) do
    merged[key] = value
  end
  if merged.timeout == true then
    merged.timeout = nil
  end
  local asked, policy = merged.retry, base and base._retry
  merged.retry = nil
  if asked == nil and getmetatable(base) ~= Retrying then
    return setmetatable({ _owner = owner, _options = merged }, Calls)
  elseif asked ~= nil then
    policy = retry.of("with", asked, policy or owner._chains.policy, 3)
  end
  return setmetatable({ _owner = owner, _options = merged, _retry = policy }, Retrying)
end

function Calls:with(opts)
  return M.with(self._owner, opts, self)
end

return M
