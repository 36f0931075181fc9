--- Visitors that stay with a member, by a cookie of ours. Its value says nothing of the member: it is an HMAC of its name, which other servers
--- with the same secret understand, and nobody can make up.

local base64 = require "echostream.base64"
local check = require "echostream.tunnel.rules.check"
local cookies = require "echostream.http.cookies"
local core = require "echostream.tunnel.core"

local M = {}

---@class echostream.tunnel.options.sticky
---@field cookie? string      its name (default: "echostream_tunnel")
---@field max_age? integer    seconds that browsers keep it (default: until they end)
---@field path? string        below which browsers send it (default: "/")
---@field same_site? "strict"|"lax"|"none"  whether it is sent with what other sites ask for (default: "lax")
---@field secure? boolean     sent over TLS only (default: true where the visitor came by TLS)

local schema = {
  cookie = { type = "string", default = "echostream_tunnel" },
  max_age = { type = "integer", min = 1 },
  path = { type = "string", default = "/" },
  same_site = { type = "string", one_of = { "strict", "lax", "none" }, default = "lax" },
  secure = { type = "boolean" },
}

---@class echostream.tunnel.sticky
local Sticky = { __name = "echostream.tunnel.sticky" }
Sticky.__index = Sticky

--- What stands for a member in the cookie.
---@param group string
---@param id string
---@return string
function Sticky:token(group, id)
  local bytes = core.hmac_sha256(self._secret, group .. "\0" .. id)
  return (base64.encode(bytes:sub(1, 16)):gsub("[+/=]", { ["+"] = "-", ["/"] = "_", ["="] = "" }))
end

--- The value of a cookie that a request shows, nil when it shows none.
---@param request echostream.tunnel.request
---@param name string
---@return string?
function M.shown(request, name)
  local field = request.head and request.head:get "cookie"
  if not field or not field:find(name, 1, true) then
    return nil
  end
  local found = cookies.parse((field:gsub(", ", "; "))) -- HTTP/2 may cut it into several fields
  return found and found[name]
end

--- The value of the cookie that a request shows, nil when it shows none.
---@param request echostream.tunnel.request
---@return string?
function Sticky:shown(request)
  return M.shown(request, self._name)
end

--- The value of a Set-Cookie field that keeps a visitor with a member.
---@param request echostream.tunnel.request
---@param token string
---@return string
function Sticky:cookie(request, token)
  local o = self._options
  local secure = o.secure
  if secure == nil then
    secure = request.scheme == "https"
  end
  return cookies.build(self._name, token, { max_age = o.max_age, path = o.path, same_site = o.same_site, secure = secure })
end

--- Checks what a group says.
---@param field string
---@param given any
---@param secret string
---@return echostream.tunnel.sticky
function M.compile(field, given, secret)
  local checked = check.table(field, given == true and {} or given, schema)
  local self = setmetatable({ _name = checked.cookie, _options = checked, _secret = secret }, Sticky)
  local ok, why = pcall(self.cookie, self, { scheme = "https" }, "x")
  if not ok then
    check.fail(field, "%s", (tostring(why):gsub("^.-http%.cookies: ", "")))
  end
  return self
end

return M
