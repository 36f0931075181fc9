--- What servers have to do with HTTP: `server:http`, `server:route` and so on. What serves them is loaded when the first is used.

local errors = require "echostream.errors"
local options = require "echostream.options"
local webtransport = require "echostream.http.webtransport"

local M = {}

---@class echostream.server
local methods = {}
M.methods = methods

--- The server's option `http`.
---@type table<string, echostream.options.field>
M.fields = {
  max_body = { type = "integer", min = 0, default = 8 << 20 },
  max_header_bytes = { type = "integer", min = 256, max = 1 << 24, default = 64 << 10 },
  max_header_fields = { type = "integer", min = 8, max = 1 << 16, default = 100 },
  max_target_bytes = { type = "integer", min = 16, max = 1 << 24, default = 16 << 10 },
  head_timeout = { type = "seconds", default = 10 },
  body_timeout = { type = "seconds", default = 30 },
  timeout = { type = "seconds", default = 30 },
  alt_svc = { type = "string" },
  connect = { type = "boolean", default = false },
  compress = { type = { "boolean", "table" }, default = false, fields = {
    threshold = { type = "integer", min = 0, default = 1024 },
    level = { type = "integer", min = 1, max = 9, default = 3 },
  } },
}

---@package
--- What a handler may say of its requests.
---@type table<string, echostream.options.field>
M.route_fields = {
  max_body = { type = "integer", min = 0 },
  timeout = { type = "seconds" },
  body_timeout = { type = "seconds" },
}

--- Checks the option.
---@param where string
---@param opts table?
---@return table
---@package
function M.check(where, opts)
  local checked = options.check(where .. ".http", opts or {}, M.fields)
  if checked.alt_svc and not require("echostream.http.fields").is_value(checked.alt_svc) then
    error(('%s.http: option "alt_svc" wants the value of a header field'):format(where), options.users_level(2))
  end
  if checked.compress == true then
    checked.compress = { threshold = 1024, level = 3 }
  end
  return checked
end

-- What is registered ------------------------------------------------------------------------------------------

local function registry()
  return { fn = nil, fn_limits = nil, routes = {}, middleware = {}, ends = {}, router = nil, chain = nil,
    tally = require("echostream.http.tally").new() }
end

local function registry_of(self)
  local reg = rawget(self, "_http")
  if not reg then
    reg = registry()
    rawset(self, "_http", reg)
  end
  return reg
end

-- A stand-in that gathers what a file registers has its own (see reload/stage.lua), so it must not be looked for behind it.
local function mine(where, self)
  if self.state ~= "new" and not self._http_host then
    error(("%s: this server is %s already, without HTTP"):format(where, self.state), options.users_level(3))
  end
  return registry_of(self)
end

-- All routes in a router of their own, which takes the place of the last: requests see all of a change or nothing.
local function rebuild(reg)
  local router = require("echostream.http.router").new()
  for _, route in ipairs(reg.routes) do
    router:add(route.method, route.pattern, route.handler)
  end
  reg.router = #reg.routes > 0 and router or nil
end

local function refuse(response, status, allow)
  local code = status == 404 and "not_found" or status == 405 and "method_not_found" or "invalid_argument"
  local err = errors.new(code, status == 404 and "nothing is here" or status == 405 and "not with this method" or "this is no path")
  err.http_status = status
  if allow then
    response.headers:set("allow", allow)
  end
  return nil, err
end

-- What `server:http` or a route says of its requests.
local function limit(request, o)
  request._max_body = o.max_body or request._max_body
  if o.timeout or o.body_timeout then
    local limits = request._host.limits
    request._x:timeouts(o.timeout or limits.timeout, o.body_timeout or limits.body_timeout)
  end
end

-- What no route takes.
local function fall_back(reg, request, response)
  if reg.fn_limits then
    limit(request, reg.fn_limits)
  end
  return reg.fn(request, response)
end

local function dispatch(reg, request, response)
  local router, fn = reg.router, reg.fn
  if not router or not request.path then
    if fn then
      return fall_back(reg, request, response)
    end
    return refuse(response, request.path and 404 or 405)
  end
  local route = router:exact(request.method, request.path)
  if route then
    request.route = route.pattern -- `params` is made when somebody looks for one
    return route.handler(request, response)
  end
  local match, status, allow = router:match(request.method, request.path)
  if match then
    request.params, request.route = match.params, match.pattern
    return match.handler(request, response)
  elseif status == 204 then
    response.status = 204
    response.headers:set("allow", allow)
    return
  elseif status == 404 and fn then
    return fall_back(reg, request, response)
  end
  return refuse(response, status, allow)
end

-- What a handler or middleware returned, kept for middleware around it that calls `next` and returns nothing: without it the answer would
-- be 204, also where a handler refused. Who said something else in the response meant that.
local function returned(response, ...)
  if select("#", ...) > 0 then
    response._returned, response._refused = ...
    return ...
  elseif response.body == nil and not response.begun and response.status == 200 then
    return response._returned, response._refused
  end
end

-- The middleware around `dispatch`, the first that was added outermost.
local function chain(reg)
  local inner = function(request, response)
    return dispatch(reg, request, response)
  end
  if #reg.middleware > 0 then
    inner = function(request, response)
      return returned(response, dispatch(reg, request, response))
    end
  end
  for i = #reg.middleware, 1, -1 do
    local fn, next = reg.middleware[i], inner
    inner = function(request, response)
      return returned(response, fn(request, response, next))
    end
  end
  return inner
end

--- The host for what a server has registered; nil: nothing.
---@param server echostream.server
---@return echostream.http.host?
---@package
function M.host(server)
  local reg = server._http
  local sessions = webtransport.accept(server)
  if not sessions and not (reg and (reg.fn or #reg.routes > 0 or #reg.middleware > 0)) then
    return nil
  end
  reg = registry_of(server)
  reg.chain = chain(reg)
  return require("echostream.http.server").new(server._rec, reg, server._options.http, sessions)
end

-- Registering ---------------------------------------------------------------------------------------------------

--- Serves HTTP/3 on the same port: `fn` runs in a task for each request that no route takes. What it returns as a string is the body;
--- `nil, err` and what it raises is answered as `echo.http.errors` says. Before `start`.
---@param fn echostream.http.handler
---@param opts? echostream.options.route
---@return echostream.server self
function methods:http(fn, opts)
  options.argument("server:http", "fn", fn, "function")
  local o = options.check("server:http", opts, M.route_fields)
  local reg = mine("server:http", self)
  reg.fn, reg.fn_limits = fn, next(o) ~= nil and o or nil
  return self
end

---@class echostream.options.route
---@field max_body? integer  bytes; the longest body that is read (default: the server's)
---@field timeout? number  seconds in which it has to begin its answer, once it was called; 0: as long as it likes (default: the server's)
---@field body_timeout? number  seconds that bodies may stand still; 0: as long as they like, for what is quiet at times (default: the server's)

local function limited(fn, o)
  if next(o) == nil then
    return fn
  end
  return function(request, response)
    limit(request, o)
    return fn(request, response)
  end
end

--- Serves what matches a pattern, such as "/users/:id": see [routing](#routing). The first route must be there before `start`, others
--- may come and go while the server runs.
---@param method string|string[]  such as "GET", which answers HEAD too; "*" is every method without a route of its own
---@param pattern string
---@param fn echostream.http.handler  finds what the pattern's names stand for in `request.params`
---@param opts? echostream.options.route
---@return echostream.server self
function methods:route(method, pattern, fn, opts)
  options.argument("server:route", "fn", fn, "function")
  local o = options.check("server:route", opts, M.route_fields)
  local reg = mine("server:route", self)
  local route = { method = method, pattern = pattern, handler = limited(fn, o), fn = fn }
  local router = reg.router or require("echostream.http.router").new()
  local ok, err = pcall(router.add, router, method, pattern, route.handler)
  if not ok then
    error("server:route: " .. tostring(err):gsub("^.-: ", ""), options.users_level(2))
  end
  reg.router = router
  table.insert(reg.routes, route)
  return self
end

--- Removes a route. Requests that it took go on.
---@param method string|string[]  as it was given to `route`
---@param pattern string
---@return boolean removed
function methods:remove_route(method, pattern)
  local reg = rawget(self, "_http")
  local wanted = type(method) == "table" and table.concat(method, ",") or method
  for i, route in ipairs(reg and reg.routes or {}) do
    if route.pattern == pattern and (type(route.method) == "table" and table.concat(route.method, ",") or route.method) == wanted then
      table.remove(reg.routes, i)
      rebuild(reg)
      return true
    end
  end
  return false
end

--- Serves the files below a directory: see [files](#files).
---@param prefix string  such as "/files"; "/" for all paths that no other route takes
---@param directory string
---@param opts? echostream.options.static
---@return echostream.server self
function methods:static(prefix, directory, opts)
  options.argument("server:static", "prefix", prefix, "string")
  local handler = require("echostream.http.static").new(directory, opts)
  local base = prefix:gsub("/+$", "")
  if base ~= "" then
    methods.route(self, "GET", base, function(request, response)
      local path, asked = require("echostream.http.query").split(request.path)
      response:redirect(path .. "/" .. (asked and "?" .. asked or ""), 308)
    end)
  end
  return methods.route(self, "GET", base .. "/*rest", handler)
end

--- Adds a middleware around every HTTP handler: `fn(request, response, next)` runs for each request and calls `next(request, response)`
--- to go on, whose results it returns, or nothing: then they pass. The first that was added is the outermost.
---@param fn fun(request: echostream.http.request, response: echostream.http.response, next: echostream.http.handler): any, any
---@return echostream.server self
function methods:http_middleware(fn)
  options.argument("server:http_middleware", "fn", fn, "function")
  local reg = mine("server:http_middleware", self)
  table.insert(reg.middleware, fn)
  reg.chain = chain(reg)
  return self
end

--- Removes a middleware; whether it was there.
---@param fn function
---@return boolean removed
function methods:remove_http_middleware(fn)
  local reg = rawget(self, "_http")
  for i, each in ipairs(reg and reg.middleware or {}) do
    if each == fn then
      table.remove(reg.middleware, i)
      reg.chain = chain(reg)
      return true
    end
  end
  return false
end

--- `fn(request, response, outcome, seconds)` hears of each request once its answer was handed over, or failed: `outcome` is its status,
--- or "cancelled" when the client gave it up, or another error's code. It runs in the request's task, after everything, and must not wait.
---@param fn fun(request: echostream.http.request, response: echostream.http.response, outcome: integer|string, seconds: number)
---@return echostream.server self
function methods:on_http(fn)
  options.argument("server:on_http", "fn", fn, "function")
  local reg = registry_of(self) -- alone it makes no server of HTTP
  reg.ends = table.move(reg.ends, 1, #reg.ends, 1, {})
  table.insert(reg.ends, fn)
  return self
end

-- For plugins and files that are loaded again -------------------------------------------------------------------

--- Undoes `server:on_http`.
---@package
function M.remove_end(server, fn)
  local reg = rawget(server, "_http")
  local left = {}
  for _, each in ipairs(reg and reg.ends or {}) do
    if each ~= fn then
      left[#left + 1] = each
    end
  end
  if reg then
    reg.ends = left
  end
end

--- Undoes `server:static`.
---@package
function M.remove_static(server, prefix)
  local base = prefix:gsub("/+$", "")
  if base ~= "" then
    server:remove_route("GET", base)
  end
  server:remove_route("GET", base .. "/*rest")
end

--- Undoes `server:http`.
---@package
function M.remove_fallback(server, fn)
  local reg = rawget(server, "_http")
  if reg and reg.fn == fn then
    reg.fn, reg.fn_limits = nil, nil
  end
end

-- A list without some of its members, and with others behind.
local function replaced(list, without, with)
  local gone, out = {}, {}
  for _, each in ipairs(without) do
    gone[each] = true
  end
  for _, each in ipairs(list) do
    if not gone[each] then
      out[#out + 1] = each
    end
  end
  return table.move(with, 1, #with, #out + 1, out)
end

-- What a server will have once what a file registered has been exchanged.
local function exchanged(server, before, after)
  local now = rawget(server, "_http") or registry()
  local none = registry()
  before, after = before or none, after or none
  local reg = registry()
  reg.routes = replaced(now.routes, before.routes, after.routes)
  reg.middleware = replaced(now.middleware, before.middleware, after.middleware)
  reg.ends = replaced(now.ends, before.ends, after.ends)
  reg.fn, reg.fn_limits = now.fn, now.fn_limits
  if after.fn or now.fn == before.fn then
    reg.fn, reg.fn_limits = after.fn, after.fn_limits
  end
  rebuild(reg)
  return reg
end

--- Why what a file registers cannot take the place of what it registered before; nil: it can.
---@param server echostream.server
---@param before table|false
---@param after table|false
---@return string?
---@package
function M.conflict(server, before, after)
  local ok, err = pcall(exchanged, server, before, after)
  return not ok and ("route: " .. tostring(err)) or nil
end

--- Makes it so.
---@param server echostream.server
---@param before table|false
---@param after table|false
---@package
function M.exchange(server, before, after)
  if not before and not after then
    return
  end
  local reg = exchanged(server, before, after)
  local now = rawget(server, "_http")
  if now then
    now.fn_limits = reg.fn_limits
    now.fn, now.routes, now.middleware, now.router, now.ends = reg.fn, reg.routes, reg.middleware, reg.router, reg.ends
  else
    now = reg
    rawset(server, "_http", reg)
  end
  now.chain = chain(now)
end

return M
