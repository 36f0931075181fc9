--- The HTTP endpoint of metrics, for scrapers.

local options = require "echostream.options"
local plain = require "echostream.http.plain"

local M = {}

local schema = {
  bind = { type = "string", default = "127.0.0.1:9464" },
  hosts = { type = "table" },
  timeout = plain.fields.timeout,
}
M.schema = schema

local function answer(path, hosts)
  if path == "/metrics" then
    return 200, require("echostream.metrics").prometheus(table.unpack(hosts)), "text/plain; version=0.0.4; charset=utf-8"
  elseif path == "/" then
    return 200, "<a href=\"/metrics\">metrics</a>\n", "text/html; charset=utf-8"
  end
  return 404, "there is only /metrics\n"
end

---@class echostream.metrics.endpoint
---@field address string  with the real port
---@field close fun(self)  harmless twice

--- See `metrics.serve`.
---@param opts? { bind?: string, hosts?: echostream.host[], timeout?: number }
---@param level integer  of the caller, for errors
---@return echostream.metrics.endpoint?, echostream.error?
function M.serve(opts, level)
  local checked = options.check("metrics.serve", opts, schema, level + 1)
  local ip, port = plain.place("metrics.serve", checked.bind, level + 1)
  local endpoint, err = plain.listen(ip, port, checked.timeout, function(path)
    return answer(path, checked.hosts or {})
  end)
  return endpoint, err
end

return M
