--- Cross-origin requests (the Fetch standard, section 3.3): which pages of other origins may ask, and read the answers.

local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local options = require "echostream.options"

local M = {}

---@class echostream.http.cors
---@field private _opts table
---@field private _origins table<string, boolean>
local Cors = {}
Cors.__index = Cors
Cors.__name = "echostream.http.cors"

---@class echostream.options.cors
---@field origins string[]|"*"|fun(origin: string): boolean  such as "https://example.org", compared as they are; "*" for all, never together
--- with `credentials`; "null", which sandboxed pages and files have, only when it is listed
---@field methods? string[]   of requests (default: { "GET", "HEAD", "POST" })
---@field headers? string[]   of requests (default: { "content-type", "timeout" })
---@field expose? string[]    fields of answers that scripts may read
---@field credentials? boolean  with cookies (default: false)
---@field max_age? number     seconds that a browser remembers the policy (default: 600)

local schema = {
  origins = { type = { "strings", "string", "function" }, required = true },
  methods = { type = "strings", default = { "GET", "HEAD", "POST" } },
  headers = { type = "strings", default = { "content-type", "timeout" } },
  expose = { type = "strings", default = {} },
  credentials = { type = "boolean", default = false },
  max_age = { type = "seconds", default = 600 },
}

local function check_tokens(name, list)
  for _, one in ipairs(list) do
    if not fields.is_token(one) then
      error(("http.cors: option \"%s\": %s is no token"):format(name, errors.show(one)), 3)
    end
  end
end

--- Makes a policy.
---@param opts echostream.options.cors
---@return echostream.http.cors
function M.new(opts)
  local o = options.check("http.cors", opts, schema)
  if type(o.origins) == "string" and o.origins ~= "*" then
    o.origins = { o.origins }
  end
  if o.origins == "*" and o.credentials then
    error("http.cors: every origin with credentials is no policy: list the origins", 2)
  end
  local origins = {}
  for _, origin in ipairs(type(o.origins) == "table" and o.origins or {}) do
    if origin ~= "null" and not origin:find "^[%l][%w+.-]*://[^/%s?#@]+$" then
      error(("http.cors: %s is no origin (write \"https://example.org\" or \"http://localhost:8080\")"):format(
        errors.show(origin)), 2)
    end
    origins[origin] = true
  end
  check_tokens("methods", o.methods)
  check_tokens("headers", o.headers)
  check_tokens("expose", o.expose)
  return setmetatable({ _opts = o, _origins = origins }, Cors)
end

local function check(where, request, response)
  if type(request) ~= "table" or type(response) ~= "table" or not fields.is_fields(request.headers)
    or not fields.is_fields(response.headers) then
    error(("cors:%s: wants a request and a response"):format(where), 3)
  end
end

--- Whether pages of an origin may ask.
---@param origin string?
---@return boolean
function Cors:allows(origin)
  local wanted = self._opts.origins
  if not origin then
    return false
  elseif wanted == "*" then
    return true
  elseif type(wanted) == "function" then
    return wanted(origin) == true
  end
  return self._origins[origin] == true
end

--- Adds what lets a page read this response. Without an origin, or with one that is not allowed, nothing but `Vary`: the browser
--- keeps the answer from the page.
---@param request echostream.http.request
---@param response echostream.http.response
---@return boolean allowed
function Cors:apply(request, response)
  check("apply", request, response)
  local o, headers = self._opts, response.headers
  local origin = request.headers:get "origin"
  if o.origins ~= "*" then
    headers:include("vary", "Origin")
  end
  if not self:allows(origin) then
    return false
  end
  headers:set("access-control-allow-origin", o.origins == "*" and "*" or origin)
  if o.credentials then
    headers:set("access-control-allow-credentials", "true")
  end
  if #o.expose > 0 then
    headers:set("access-control-expose-headers", table.concat(o.expose, ", "))
  end
  return true
end

--- Answers a preflight request. The browser judges: a method or a header that is not allowed is simply not in the answer.
---@param request echostream.http.request
---@param response echostream.http.response
---@return boolean answered  false: this is no preflight
function Cors:preflight(request, response)
  check("preflight", request, response)
  if request.method ~= "OPTIONS" or not request.headers:has "origin"
    or not request.headers:has "access-control-request-method" then
    return false
  end
  local o, headers = self._opts, response.headers
  response.status, response.body = 204, nil
  headers:include("vary", "Access-Control-Request-Method", "Access-Control-Request-Headers")
  if self:apply(request, response) then
    headers:remove "access-control-expose-headers"
    headers:set("access-control-allow-methods", table.concat(o.methods, ", "))
    if #o.headers > 0 then
      headers:set("access-control-allow-headers", table.concat(o.headers, ", "))
    end
    headers:set("access-control-max-age", math.tointeger(o.max_age // 1))
  end
  return true
end

--- A handler with the policy around it: preflights are answered, other requests handled. The fields are set before the handler
--- runs, so that they are there also when it fails.
---@param handler echostream.http.handler
---@return echostream.http.handler
function Cors:wrap(handler)
  options.argument("cors:wrap", "handler", handler, "function")
  return function(request, response)
    if not self:preflight(request, response) then
      self:apply(request, response)
      return handler(request, response)
    end
  end
end

return M
