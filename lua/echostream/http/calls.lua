--- `server:rpc_over_http` and `server:dashboard`. What serves them is loaded when it is used.

local M = {}

---@class echostream.server
local methods = {}
M.methods = methods

--- Lets methods and events be called over HTTP/3 too, on the same port: `POST /rpc/<method>`, `POST /event/<name>`, `GET /rpc` for what there
--- is; see [calls over HTTP](#calls-over-http). The very same handlers run, behind the same middleware, and `auth` and `on_connect`
--- decide about each HTTP client as about any other. Nothing can be called so before this was said. Like a route, before `start`.
---@param opts? echostream.options.rpc_over_http
---@return echostream.server self
function methods:rpc_over_http(opts)
  local route = self.route
  require("echostream.http.rpc").install(self.context._host[1], opts, function(method, pattern, handler, limits)
    route(self, method, pattern, handler, limits)
  end)
  return self
end

--- Shows live what the server counts: rates, percentiles, sessions, streams, queues, breakers and alerts, on a page that browsers of this
--- machine open; see [the dashboard](#the-dashboard). Before `start`.
---@param opts? echostream.options.dashboard
---@return echostream.dashboard|nil dashboard  `url` is the page's address
---@return echostream.error? err  `io`: the address is taken, or the page's files are not here
function methods:dashboard(opts)
  return require("echostream.http.dashboard").install(self, opts)
end

return M
