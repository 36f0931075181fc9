--- Cookies (RFC 6265 and what browsers have added since: SameSite, Partitioned, the prefixes of names).

local date = require "echostream.http.date"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local options = require "echostream.options"

local M = {}

--- Most cookies that `parse` takes.
M.max_cookies = 200

--- Reads the field `Cookie`. Values are as they were set; of a name that is there twice the first counts, which belongs to the
--- longer path. What is no cookie is left out.
---@param value string?
---@return table<string, string>|nil cookies
---@return { [1]: string, [2]: string }[]|echostream.error list  all of them, in order; or nil, err `resource_exhausted`
function M.parse(value)
  local cookies, list = {}, {}
  for piece in (value or ""):gmatch "[^;]+" do
    local name, text = piece:match "^([^=]*)=(.*)$"
    name = name and fields.trim(name)
    if name and fields.is_token(name) then
      text = fields.trim(text)
      text = text:match '^"(.*)"$' or text
      if #list == M.max_cookies then
        return nil, errors.new("resource_exhausted", ("more than %d cookies"):format(M.max_cookies))
      end
      list[#list + 1] = { name, text }
      if cookies[name] == nil then
        cookies[name] = text
      end
    end
  end
  return cookies, list
end

---@class echostream.options.cookie
---@field path? string       the path it is sent below (default: "/")
---@field domain? string     a domain it is sent to with all its hosts (default: the host that sets it, only)
---@field max_age? integer   seconds that it is kept; 0 or less removes it (default: until the browser ends)
---@field expires? number    when it ends, in seconds since 1970, for browsers without `max_age`
---@field secure? boolean    sent over TLS only (default: true)
---@field http_only? boolean out of the reach of scripts (default: true)
---@field same_site? "strict"|"lax"|"none"  whether it is sent with what other sites ask for (default: "lax")
---@field partitioned? boolean  kept apart for each site that a page of ours is part of (default: false)

local schema = {
  path = { type = "string", default = "/" },
  domain = { type = "string" },
  max_age = { type = "integer" },
  expires = { type = "number" },
  secure = { type = "boolean", default = true },
  http_only = { type = "boolean", default = true },
  same_site = { type = "string", one_of = { "strict", "lax", "none" }, default = "lax" },
  partitioned = { type = "boolean", default = false },
}

local function fail(name, why)
  error(("http.cookies: the cookie %s %s"):format(errors.show(name), why), options.users_level(3))
end

local function check(name, value, opts)
  if not fields.is_token(name) then
    fail(name, "has a name that no cookie has")
  elseif type(value) ~= "string" or value:find "[^!-~]" or value:find '[",;\\]' then
    fail(name, "has a value with blanks, quotes, commas, semicolons, backslashes or bytes beyond ASCII: encode it")
  elseif #name + #value > 4096 then
    fail(name, "is longer than the 4096 bytes that browsers keep")
  elseif opts.path:find "[%c;\127]" or opts.path:sub(1, 1) ~= "/" then
    fail(name, "has a path that is none")
  elseif opts.domain and not opts.domain:find "^%.?[%w][%w.-]*$" then
    fail(name, "has a domain that is none")
  end
  local prefix = name:lower()
  if not opts.secure and (prefix:find "^__secure%-" or prefix:find "^__host%-") then
    fail(name, "has to be secure, as its name says")
  elseif prefix:find "^__host%-" and (opts.domain or opts.path ~= "/") then
    fail(name, "cannot have a domain, or a path but \"/\", as its name says")
  elseif not opts.secure and opts.same_site == "none" then
    fail(name, "has to be secure to be sent from other sites (same_site = \"none\")")
  elseif not opts.secure and opts.partitioned then
    fail(name, "has to be secure to be partitioned")
  end
end

local sites = { strict = "Strict", lax = "Lax", none = "None" }

--- Makes the value of a `Set-Cookie` field. What is not said is the careful choice: for this host only, over TLS only, out of the
--- reach of scripts, not sent with what other sites ask for. Raises on a cookie that browsers would drop.
---@param name string
---@param value string  printable ASCII without `" , ; \` and blanks
---@param opts? echostream.options.cookie
---@return string
function M.build(name, value, opts)
  local o = options.check("http.cookies", opts, schema)
  check(name, value, o)
  local parts = { name .. "=" .. value, "Path=" .. o.path }
  if o.domain then
    parts[#parts + 1] = "Domain=" .. o.domain
  end
  if o.max_age then
    parts[#parts + 1] = ("Max-Age=%d"):format(o.max_age)
  end
  if o.expires then
    parts[#parts + 1] = "Expires=" .. date.format(o.expires)
  end
  if o.secure then
    parts[#parts + 1] = "Secure"
  end
  if o.http_only then
    parts[#parts + 1] = "HttpOnly"
  end
  parts[#parts + 1] = "SameSite=" .. sites[o.same_site]
  if o.partitioned then
    parts[#parts + 1] = "Partitioned"
  end
  return table.concat(parts, "; ")
end

--- Makes a `Set-Cookie` field that removes a cookie. `path` and `domain` have to be those it was set with.
---@param name string
---@param opts? echostream.options.cookie  as of `build`
---@return string
function M.expire(name, opts)
  local o = {}
  for key, value in pairs(opts or {}) do
    o[key] = value
  end
  o.max_age, o.expires = 0, 0
  return M.build(name, "", o)
end

return M
