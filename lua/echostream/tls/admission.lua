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

local schema = { timeout = { type = "seconds", default = M.TIME }, early = { type = "boolean" } }

--- Says to the core whether sessions may open on early data (0-RTT), which somebody may play to us again: only when nothing
--- is asked that minds being asked twice.
---@param self echostream.server
function M.open_early(self)
  self._host:early_open((not self._auth or self._auth.early == true) and #self._hooks.connect == 0)
end

--- Sets the function that says who a peer is: `fn(session, credentials)`, where `credentials` is the `metadata` option of the
--- client. It runs before `on_connect` and before any call of the peer, and may wait. What it returns is kept in
--- `session.identity`. It refuses by `return nil, echo.error("unauthenticated", "…")` (or `permission_denied`), by
--- `return nil, "a sentence"`, or by returning nothing; the client's calls fail with that error. One per server: a second
--- replaces the first; nil takes it away.
---@param fn? fun(session: echostream.session, credentials: table<string, string>): any, any
---@param opts? { timeout?: number, early?: boolean }  `timeout`: seconds it may take, default 10; then the session is refused.
--- `early`: true when asking it twice does no harm, so that it may be asked about credentials that came as early data
---@return self
function Server:auth(fn, opts)
  if fn ~= nil then
    options.argument("auth", "function", fn, "function")
  end
  local checked = options.check("auth", opts, schema)
  self._auth = fn and { fn = fn, timeout = checked.timeout, early = checked.early } or nil
  M.open_early(self)
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
