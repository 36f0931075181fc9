--- What a redirection asks for (RFC 9110, section 15.4), and what of a request may go with it.

local errors = require "echostream.errors"
local urls = require "echostream.http.client.url"

local M = {}

local followed = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

-- Fields that are for the server they were meant for and nobody else.
local private = { "authorization", "cookie", "proxy-authorization" }

-- What describes a body goes when the body goes.
local about_body = { "content-encoding", "content-language", "content-length", "content-location", "content-type", "digest", "expect",
  "last-modified" }

--- Where a response sends its request. nil: nowhere, it is the answer.
---@param url echostream.http.url  that was asked
---@param status integer
---@param headers echostream.http.fields
---@return echostream.http.url? target, echostream.error? err  `protocol`: nowhere that can be asked
function M.target(url, status, headers)
  local location = followed[status] and headers:get "location"
  if not location then
    return nil
  end
  local target, why = urls.resolve(url, location)
  if not target then
    return nil, errors.new("protocol", ("the server redirects to %s, which is not followed: %s"):format(errors.show(location), why),
      { status = status, location = location })
  end
  return target
end

-- So is the certificate that says who asks: connections that show none are others.
local function without_certificate(settings)
  if not (settings and settings.cert) then
    return settings
  end
  local bare = {}
  for key, value in pairs(settings) do
    bare[key] = value
  end
  bare.cert, bare.key, bare.id = nil, nil, settings.id .. " without a certificate"
  return bare
end

--- The request that follows.
---@param request table  has method, headers, body, trailers, settings
---@param status integer
---@param from echostream.http.url
---@param to echostream.http.url
---@return table? request, echostream.error? err  `failed_precondition`: the body cannot be sent again
function M.follow(request, status, from, to)
  local next_request = {}
  for key, value in pairs(request) do
    next_request[key] = value
  end
  next_request.headers = request.headers:copy()
  -- 301 and 302 change POST only, as everybody does; 303 everything but HEAD.
  if status == 303 and request.method ~= "HEAD" or (status == 301 or status == 302) and request.method == "POST" then
    next_request.method, next_request.body, next_request.trailers, next_request.expect = "GET", nil, nil, nil
    for _, name in ipairs(about_body) do
      next_request.headers:remove(name)
    end
  elseif request.body ~= nil and type(request.body) ~= "string" then
    return nil, errors.new("failed_precondition", "the server redirects a body that can be sent only once",
      { status = status, location = to.text })
  end
  if from.origin ~= to.origin then
    next_request.authority, next_request.settings = nil, without_certificate(request.settings)
    for _, name in ipairs(private) do
      next_request.headers:remove(name)
    end
  end
  return next_request
end

return M
