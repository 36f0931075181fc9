--- What the benches can install on the side that is measured, by name.
local echo = require "echostream"

local M = {}

function M.middleware(host)
  host:middleware(function(call, next) return next(call) end)
end

--- What gtlsclient asks for: a small answer of a handler, and the peer's folder as static files. The peer is told to let no more
--- requests be in flight than these (rows.sizes.in_flight).
M.http_options = { transport = { max_concurrent_streams = 128 } }
function M.http(host)
  host:route("GET", "/small", function(_, response) response.body = "01234567890123456789012345678901" end)
  host:static("/files", os.getenv "BENCH_DOCS" or ".")
end

local function nothing() end

local plugins = {
  auth = function() return echo.plugins.auth { tokens = { secret = "ann" }, anonymous = true, allow = { ["admin.*"] = { "admin" } } } end,
  rate_limit = function() return echo.plugins.rate_limit { rate = 1e9 } end,
  access_log = function() return echo.plugins.access_log { write = nothing } end,
  tracing = function() return echo.plugins.tracing { export = nothing } end,
  presence = function() return echo.plugins.presence() end,
  metrics_endpoint = function() return echo.plugins.metrics_endpoint { bind = "127.0.0.1:0" } end,
  cache = function() return echo.plugins.cache { methods = { "bench.echo" } } end,
  reconnect = function() return echo.plugins.reconnect() end,
}
for name, make in pairs(plugins) do
  M[name] = function(host) host:plugin(make()) end
end

-- As much as possible left out: what the plugin costs calls that are none of its business.
M["access_log, other names"] = function(host) host:plugin(echo.plugins.access_log { write = nothing, only = { "other.*" } }) end
M["tracing, not sampled"] = function(host) host:plugin(echo.plugins.tracing { export = nothing, sample = 0 }) end
M["rate_limit of our own calls"] = function(host) host:plugin(echo.plugins.rate_limit { rate = 1e9, direction = "out", per = "all" }) end

return M
