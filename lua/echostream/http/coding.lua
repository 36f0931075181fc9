--- Content codings of responses that are made while they are asked for (RFC 9110, section 8.4). Files have theirs beside them: see static.

local accept = require "echostream.http.accept"
local core = require "echostream.core"
local message = require "echostream.http.message"
local mime = require "echostream.http.mime"

local M = {}

local codings = { "zstd", "gzip" }

-- A body of pieces, each coded so that the client can read it at once.
local function coded(body, coder)
  local over = false
  return setmetatable({
    close = function()
      over = true
      message.abandon(body)
    end,
  }, {
    __name = "echostream.http.body",
    __call = function()
      if over then
        return nil
      end
      local piece, err = body()
      if piece ~= nil then
        if type(piece) ~= "string" then
          return piece -- message.finish says what is wrong with it
        end
        return coder:push(piece)
      end
      over = true
      if err ~= nil then
        return nil, err
      end
      return coder:finish()
    end,
  })
end

local function may(request, response)
  local status, headers = response.status, response.headers
  if math.type(status) ~= "integer" or status < 200 or status == 204 or status == 205 or status == 206 or status == 304
    or request.method == "CONNECT" or headers:has "content-encoding" or headers:has "content-range"
    or (headers:get "cache-control" or ""):lower():find("no-transform", 1, true) then
    return false
  end
  local kind = headers:get "content-type"
  return kind == nil and type(response.body) == "string" or kind ~= nil and mime.compressible(kind)
end

--- Codes the body of a response as its client likes best, when that may help.
---@param request echostream.http.request
---@param response echostream.http.response
---@param threshold integer  bytes; shorter strings stay as they are
---@param level integer
---@package
function M.apply(request, response, threshold, level)
  local body = response.body
  if body == nil or type(body) == "string" and #body < threshold or not may(request, response) then
    return
  end
  local headers = response.headers
  headers:include("vary", "Accept-Encoding")
  local coding = accept.encodings(request.headers:get "accept-encoding", codings)[1]
  if coding == nil or coding == "identity" then
    return
  end
  local coder = core.coder(coding, level)
  if not coder then
    return -- no memory: it goes as it is
  end
  if type(body) == "string" then
    if not headers:has "content-type" then
      headers:set("content-type", "text/plain; charset=utf-8")
    end
    body = coder:finish(body)
    if not body or #body >= #response.body then
      return
    end
    response.body = body
  else
    response.body = coded(body, coder)
  end
  headers:set("content-encoding", coding):remove "content-length"
  local tag = headers:get "etag"
  if tag and tag:sub(1, 2) ~= "W/" then
    headers:set("etag", "W/" .. tag) -- other bytes, the same meaning
  end
end

return M
