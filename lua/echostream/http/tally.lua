--- What an HTTP server counts: requests by route, how they ended and how long they took. Routes are few and known; whatever comes
--- without one is counted together, so that no client makes this grow.

local core = require "echostream.core"
local text = require "echostream.metrics.text"

local M = {}

local known = {}
for _, method in ipairs { "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE" } do
  known[method] = true
end

---@return table
---@package
function M.new()
  return { running = 0, routes = {} }
end

--- How a request ended, as it is counted and logged: its status; "cancelled" when the client gave it up.
---@param request echostream.http.request
---@param response echostream.http.response
---@return integer|string
---@package
function M.outcome(request, response)
  local x = request._x
  if x:late() then
    return 504
  end
  local err = x:error()
  return err and err.code or response.status
end

--- Counts one.
---@param tally table
---@param request echostream.http.request
---@param outcome integer|string
---@param seconds number
---@param bytes integer  of the body that was sent
---@package
function M.note(tally, request, outcome, seconds, bytes)
  local route, method = request.route or "(none)", known[request.method] and request.method or "(other)"
  local methods = tally.routes[route]
  if not methods then
    methods = {}
    tally.routes[route] = methods
  end
  local entry = methods[method]
  if not entry then
    entry = { codes = {}, bytes = 0, time = core.histogram() }
    methods[method] = entry
  end
  entry.codes[outcome] = (entry.codes[outcome] or 0) + 1
  entry.bytes = entry.bytes + bytes
  entry.time:add(math.max(seconds * 1e9 // 1 | 0, 0))
end

--- Calls fn(method, route, entry) for all.
---@param tally table
---@param fn fun(method: string, route: string, entry: table)
---@package
function M.each(tally, fn)
  for route, methods in pairs(tally.routes) do
    for method, entry in pairs(methods) do
      fn(method, route, entry)
    end
  end
end

--- The table in `server:metrics().http`.
---@param tally table?  nil: nothing is served over HTTP
---@return table?
---@package
function M.table(tally)
  if not tally then
    return nil
  end
  local requests = {}
  M.each(tally, function(method, route, entry)
    local summary, codes, errors = text.summary(entry.time, 1e9), {}, 0
    for code, n in pairs(entry.codes) do
      codes[code] = n
      errors = errors + (math.type(code) == "integer" and code < 400 and 0 or n)
    end
    requests[method .. " " .. route] = { count = summary.count, errors = errors, codes = codes, bytes = entry.bytes, time = summary }
  end)
  return { running = tally.running, requests = requests }
end

return M
