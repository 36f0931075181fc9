--- Who may connect: the function that looks at a peer's credentials.

local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

--- Seconds that looking at credentials may take unless `auth` says otherwise.
M.TIME = 10

---@class echostream.admission.methods  of servers
local Server = {}
M.methods = Server

local schema = { timeout = { type = "seconds", default = M.TIME } }

--- Sets the function that says who a peer is: `fn(session, credentials)`, where `credentials` is the `metadata` option of the
--- client. It runs before `on_connect` and before any call of the peer, and may wait. What it returns is kept in
--- `session.identity`. It refuses by `return nil, echo.error("unauthenticated", "…")` (or `permission_denied`), by
--- `return nil, "a sentence"`, or by returning nothing; the client's calls fail with that error. One per server: a second
--- replaces the first; nil takes it away.
---@param fn? fun(session: echostream.session, credentials: table<string, string>): any, any
---@param opts? { timeout?: number }  seconds it may take, default 10; then the session is refused
---@return self
function Server:auth(fn, opts)
  if fn ~= nil then
    options.argument("auth", "function", fn, "function")
  end
  local timeout = options.check("auth", opts, schema).timeout
  self._auth = fn and { fn = fn, timeout = timeout } or nil
  return self
end

--- Asks the server's `auth` function, then its `on_connect` hooks. In a task.
---@param self echostream.server
---@param peer echostream.session
---@return true|nil ok, echostream.error? err
function M.check(self, peer)
  local auth = self._auth
  if auth then
    local asked = task.spawn(hooks.call, "auth", "unauthenticated", auth.fn, peer, peer.metadata)
    local value, err = asked:wait(auth.timeout)
    if asked:result() == nil then
      asked:cancel()
      return nil, errors.new("unauthenticated", ("who you are could not be found out within %g s"):format(auth.timeout))
    elseif err ~= nil then
      return nil, err
    elseif not value then
      return nil, errors.new("unauthenticated", "your credentials were not accepted")
    end
    peer.identity = value
  end
  return hooks.run(self, "connect", peer)
end

return M
