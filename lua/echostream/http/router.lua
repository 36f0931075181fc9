--- Routes: from a request's method and path to a handler.
---
---     local routes = router.new()
---     routes:add("GET", "/users/:id", function(request, response) response.body = request.params.id end)
---     routes:add("GET", "/files/*rest", static.new "/srv/files")
---     routes:handle(request, response)
---
--- A pattern is made of segments: a literal, `:name` for one segment that is not empty, and `*name` for all that is left, at the end
--- only. Literals are written as they are meant ("/a b"), not percent-encoded.
---
--- What counts as the path, without surprises:
--- * It begins with a slash, ends before the `?`, has only printable ASCII without `\` and `#`, and is percent-decoded once, segment by
---   segment, after it was cut at its slashes. Anything else is 400; over 16 KiB is 414.
--- * `.` and `..`, also percent-encoded, are 400: clients resolve them before they ask, and nobody here guesses.
--- * A NUL is 400. A slash that was percent-encoded is part of a `:name`, and 400 for a `*name`, where it could not be told from others.
--- * Slashes are not merged: `//` has an empty segment, which no `:name` and no `*name` takes. "/a" and "/a/" are two paths.
---   A `*name` may be empty ("/files/" for "/files/*rest") and may end with a slash.
--- * At each segment a literal goes before `:name`, and that before `*name`. A pattern without the method leaves the request to the
---   next one that has it. HEAD falls back to GET. OPTIONS is answered with `Allow` unless a route takes it. A path that only other
---   methods have is 405 with `Allow`, a path nobody has 404.

local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local percent = require "echostream.http.percent"

local M = {}

--- A body that is made while it is sent: called for the next piece whenever the transport can take one, so that a slow reader slows
--- it down. It gives nil at the end, and nil, err when it failed: then the response is reset. It may wait.
---@class echostream.http.body
---@field length? integer    bytes in all, when they are known
---@field close? fun(self)   called once if the body is given up before its end; harmless twice and after the end

---@alias echostream.http.handler fun(request: echostream.http.request, response: echostream.http.response)

--- Longest path, in bytes, and most segments.
M.max_path, M.max_segments = 16384, 256

---@class echostream.http.router
---@field private _root table
local Router = {}
Router.__index = Router
Router.__name = "echostream.http.router"

local function node()
  return { literals = {}, param = nil, routes = nil, rest = nil }
end

--- Makes a router without routes.
---@return echostream.http.router
function M.new()
  return setmetatable({ _root = node(), _exact = {} }, Router)
end

local function bad(status, message)
  return nil, status, errors.new("invalid_argument", message)
end

--- Cuts a path into its decoded segments: "/a/b%20c" -> { "a", "b c" }, "/" -> { "" }.
---@param path string  raw; a query after it is left out
---@return string[]? segments, 400|414|nil status, echostream.error? err
function M.segments(path)
  path = path:match "^[^?]*"
  if #path > M.max_path then
    return bad(414, "the path is too long")
  elseif path:byte() ~= 47 or path:find "[^!-~]" or path:find "[\\#]" then
    return bad(400, "this is no path")
  end
  local list = {}
  for raw in path:gmatch "/([^/]*)" do
    local segment = percent.decode(raw)
    if not segment then
      return bad(400, "the path is not percent-encoded as it should be")
    elseif segment:find("\0", 1, true) then
      return bad(400, "the path has a NUL")
    elseif segment == "." or segment == ".." then
      return bad(400, "the path has dot segments")
    elseif #list == M.max_segments then
      return bad(414, "the path has too many segments")
    end
    list[#list + 1] = segment
  end
  return list
end

-- "/users/:id" -> { { "literal", "users" }, { "param", "id" } }
local function parse_pattern(pattern)
  local function fail(why)
    error(("http.router: the pattern %s %s"):format(errors.show(pattern), why), 4)
  end
  if type(pattern) ~= "string" or pattern:sub(1, 1) ~= "/" then
    fail "has to begin with a slash"
  end
  local parts, seen = {}, {}
  for segment in pattern:gmatch "/([^/]*)" do
    local sign, name = segment:match "^([:*])(.*)$"
    if parts[#parts] and parts[#parts].kind == "rest" then
      fail "goes on after a *name"
    elseif sign then
      if not name:find "^[%a_][%w_]*$" then
        fail("wants a name after " .. sign)
      elseif seen[name] then
        fail(("has the name \"%s\" twice"):format(name))
      end
      seen[name] = true
    elseif segment == "." or segment == ".." or segment:find("\0", 1, true) then
      fail "has segments that no request has"
    end
    parts[#parts + 1] = { kind = sign == ":" and "param" or sign and "rest" or "literal", text = name or segment }
  end
  return parts
end

-- The tables of routes at a pattern's end: method -> route. Made when `make` is true.
local function place_of(self, parts, make)
  local at = self._root
  for _, part in ipairs(parts) do
    if part.kind == "rest" then
      at.rest = at.rest or make and {} or nil
      return at.rest
    end
    local next_node
    if part.kind == "param" then
      at.param = at.param or make and node() or nil
      next_node = at.param
    else
      at.literals[part.text] = at.literals[part.text] or make and node() or nil
      next_node = at.literals[part.text]
    end
    if not next_node then
      return nil
    end
    at = next_node
  end
  at.routes = at.routes or make and {} or nil
  return at.routes
end

local function methods_of(where, method)
  local list = type(method) == "table" and method or { method }
  for _, one in ipairs(list) do
    if not fields.is_token(one) then
      error(("%s: %s is no method"):format(where, errors.show(one)), 3)
    end
  end
  return list
end

--- Adds a route. Raises when the pattern makes no sense, or there is a route of this method that takes the very same paths.
---@param method string|string[]  such as "GET"; "*" is every method that has no route of its own there
---@param pattern string
---@param handler echostream.http.handler
---@return echostream.http.router self
function Router:add(method, pattern, handler)
  local methods = methods_of("router:add", method)
  if handler == nil then
    error("router:add: a handler is missing", 2)
  end
  local parts = parse_pattern(pattern)
  local names = {}
  for _, part in ipairs(parts) do
    if part.kind ~= "literal" then
      names[#names + 1] = part.text
    end
  end
  local routes = place_of(self, parts, true)
  -- What most requests ask for is found without cutting the path: in a tree, too, the way of literals alone is the first to be tried.
  if #names == 0 and not pattern:find "[^!-~]" and not pattern:find "[%%?#\\]" and #parts <= M.max_segments and #pattern <= M.max_path then
    self._exact[pattern] = routes
  end
  for _, one in ipairs(methods) do
    if routes[one] then
      error(("router:add: %s %s is there already, as %s"):format(one, pattern, routes[one].pattern), 2)
    end
  end
  for _, one in ipairs(methods) do
    routes[one] = { pattern = pattern, handler = handler, names = names }
  end
  return self
end

--- Removes a route; whether there was one. Requests that it took go on.
---@param method string|string[]
---@param pattern string
---@return boolean
function Router:remove(method, pattern)
  local methods = methods_of("router:remove", method)
  local routes = place_of(self, parse_pattern(pattern), false)
  local found = false
  for _, one in ipairs(methods) do
    if routes and routes[one] and routes[one].pattern == pattern then
      routes[one], found = nil, true
    end
  end
  return found
end

--- The route whose pattern is this very path, without names, or nil: then `match` knows more.
---@param method string
---@param path string  raw
---@return table? route  `handler` and `pattern`
---@package
function Router:exact(method, path)
  local routes = self._exact[path]
  return routes and (routes[method] or method == "HEAD" and routes.GET or routes["*"])
end

-- What is left from segment `i` on, as a `*name` takes it: nil when there is an empty segment inside, false for a slash within one.
local function rest_of(segments, i)
  for k = i, #segments do
    if segments[k] == "" and k < #segments then
      return nil
    elseif segments[k]:find("/", 1, true) then
      return false
    end
  end
  return table.concat(segments, "/", i)
end

-- Looks for a route of `method`; notes in `seen` what methods other routes of the path have. Every node has one way to it, so each is
-- looked at once at most: the time is bounded by the number of routes, however a path is made.
local function find(at, segments, i, method, values, seen)
  if i > #segments then
    for name in pairs(at.routes or {}) do
      seen[name] = true
    end
    return at.routes and (at.routes[method] or method == "HEAD" and at.routes.GET or at.routes["*"])
  end
  local segment = segments[i]
  local literal = at.literals[segment]
  local route = literal and find(literal, segments, i + 1, method, values, seen)
  if not route and at.param and segment ~= "" then
    values[#values + 1] = segment
    route = find(at.param, segments, i + 1, method, values, seen)
    if not route then
      values[#values] = nil
    end
  end
  if not route and at.rest and next(at.rest) then
    local rest = rest_of(segments, i)
    if rest then
      for name in pairs(at.rest) do
        seen[name] = true
      end
      route = at.rest[method] or method == "HEAD" and at.rest.GET or at.rest["*"]
      if route then
        values[#values + 1] = rest
      end
    elseif rest == false then
      seen.encoded_slash = true
    end
  end
  return route or nil
end

local function allowed(seen)
  local list = {}
  seen.HEAD = seen.HEAD or seen.GET
  seen.OPTIONS = true
  for name in pairs(seen) do
    if name ~= "*" then
      list[#list + 1] = name
    end
  end
  table.sort(list)
  return table.concat(list, ", ")
end

-- The methods of every route, for `OPTIONS *`.
local function gather(at, seen)
  for _, routes in ipairs { at.routes or {}, at.rest or {} } do
    for name in pairs(routes) do
      seen[name] = true
    end
  end
  for _, literal in pairs(at.literals) do
    gather(literal, seen)
  end
  if at.param then
    gather(at.param, seen)
  end
  return seen
end

---@class echostream.http.match
---@field handler echostream.http.handler
---@field pattern string
---@field params table<string, string>

--- Finds the route of a request.
---@param method string
---@param path string  raw
---@return echostream.http.match? match
---@return integer? status  without a match: 400, 404, 405 or 414; 204 for an OPTIONS that no route takes
---@return string? allow    with 405 and 204: the field `Allow`
function Router:match(method, path)
  if type(method) ~= "string" or type(path) ~= "string" then
    error("router:match: method and path are strings", 2)
  end
  if path == "*" and method == "OPTIONS" then
    return nil, 204, allowed(gather(self._root, {}))
  end
  local exact = self:exact(method, path)
  if exact then
    return { handler = exact.handler, pattern = exact.pattern, params = {} }
  end
  local segments, status = M.segments(path)
  if not segments then
    return nil, status
  end
  local values, seen = {}, {}
  local route = find(self._root, segments, 1, method, values, seen)
  if route then
    local params = {}
    for i, name in ipairs(route.names) do
      params[name] = values[i]
    end
    return { handler = route.handler, pattern = route.pattern, params = params }
  end
  local slash = seen.encoded_slash
  seen.encoded_slash = nil
  if not next(seen) then
    return nil, slash and 400 or 404
  end
  return nil, method == "OPTIONS" and 204 or 405, allowed(seen)
end

--- Lets the right handler answer, with `request.params` and `request.route` set; or answers as the rules above say. What the handler
--- raises is raised.
---@param request echostream.http.request
---@param response echostream.http.response
---@return any ... what the handler returned
function Router:handle(request, response)
  if type(request) ~= "table" or type(response) ~= "table" or not fields.is_fields(response.headers) then
    error("router:handle: wants a request and a response", 2)
  end
  local match, status, allow = self:match(request.method, request.path)
  if match then
    request.params, request.route = match.params, match.pattern
    return match.handler(request, response)
  end
  response.status = status --[[@as integer]]
  if allow then
    response.headers:set("allow", allow)
  end
end

return M
