--- URLs of requests: taken apart, and references such as `Location` resolved against them (RFC 3986, section 5).

local address = require "echostream.address"

local M = {}

---@class echostream.http.url
---@field scheme string     "https"
---@field host string       in lower case; IPv6 without brackets
---@field port integer
---@field authority string  as `:authority` has it: without the port when that is 443
---@field origin string     "https://example.org:443": who answers
---@field target string     path and query: "/a?b=1"
---@field text string       the whole, without a fragment

-- Spaces and what is not ASCII are encoded; control bytes are nothing that a URL has, encoded or not.
local function clean(text)
  if text:find "[\0-\31\127]" then
    return nil, "it has control characters"
  end
  return (text:gsub("[ \128-\255]", function(c)
    return ("%%%02X"):format(c:byte())
  end))
end

local function make(host, port, target)
  local shown = host:find(":", 1, true) and "[" .. host .. "]" or host
  local authority = port == 443 and shown or ("%s:%d"):format(shown, port)
  return {
    scheme = "https", host = host, port = port, authority = authority, target = target,
    origin = ("https://%s:%d"):format(shown, port),
    text = "https://" .. authority .. target,
  }
end

local function split_host(text)
  local host, port = text:match "^%[([^%]]*)%](.*)$"
  if host then
    if address.literal(host) ~= "ip6" then
      return nil, "only IPv6 addresses stand in brackets"
    end
  else
    host, port = text:match "^([^:]*)(.*)$"
    if host == "" then
      return nil, "there is no host"
    elseif #host > 253 or host:find "[^%w%-._~]" then
      return nil, "the host has characters that no host has (names beyond ASCII are written as \"xn--…\")"
    end
  end
  if port == "" or port == ":" then
    return host:lower(), 443
  end
  local digits = port:match "^:(%d%d?%d?%d?%d?)$"
  local number = digits and math.tointeger(tonumber(digits))
  if not number or number == 0 or number > 65535 then
    return nil, "the port wants to be a number from 1 to 65535"
  end
  return host:lower(), number
end

--- Takes a URL apart.
---@param text string  "https://host:port/path?query"; a fragment is left out
---@return echostream.http.url? url, string? why
function M.parse(text)
  local cleaned, why = clean(text)
  if not cleaned then
    return nil, why
  end
  local scheme, rest = cleaned:match "^(%a[%w+.%-]*)://(.*)$"
  if not scheme then
    return nil, "it wants to look like \"https://host:port/path\""
  elseif scheme:lower() ~= "https" then
    return nil, ("HTTP/3 is for https, not for %s"):format(scheme)
  end
  local authority, target = rest:gsub("#.*$", ""):match "^([^/?]*)(.*)$"
  if authority:find("@", 1, true) then
    return nil, "names and passwords do not belong there: use the field \"authorization\""
  end
  local host, port = split_host(authority)
  if not host then
    return nil, port
  end
  if target:sub(1, 1) ~= "/" then
    target = "/" .. target
  end
  return make(host, port, target)
end

-- RFC 3986, section 5.2.4.
local function without_dots(path)
  local kept, trailing = {}, false
  for segment in path:gmatch "/([^/]*)" do
    trailing = false
    if segment == ".." then
      kept[#kept] = nil
      trailing = true
    elseif segment == "." then
      trailing = true
    else
      kept[#kept + 1] = segment
    end
  end
  return "/" .. table.concat(kept, "/") .. (trailing and #kept > 0 and "/" or "")
end

--- Resolves what a server named, such as `Location`.
---@param base echostream.http.url
---@param reference string
---@return echostream.http.url? url, string? why
function M.resolve(base, reference)
  local cleaned, why = clean(reference)
  if not cleaned then
    return nil, why
  end
  reference = cleaned:gsub("#.*$", "")
  if reference:find "^%a[%w+.%-]*:" then
    return M.parse(reference)
  elseif reference:sub(1, 2) == "//" then
    return M.parse("https:" .. reference)
  end
  local path, query = reference:match "^([^?]*)(.*)$"
  local own_path, own_query = base.target:match "^([^?]*)(.*)$"
  if path == "" then
    path = own_path
    query = query ~= "" and query or own_query
  elseif path:sub(1, 1) == "/" then
    path = without_dots(path)
  else
    path = without_dots(own_path:match "^(.*/)" .. path)
  end
  return make(base.host, base.port, path .. query)
end

--- A URL with more of a query.
---@param url echostream.http.url
---@param query string
---@return echostream.http.url
function M.with_query(url, query)
  if query == "" then
    return url
  end
  local joint = not url.target:find("?", 1, true) and "?" or url.target:find "[?&]$" and "" or "&"
  return make(url.host, url.port, url.target .. joint .. query)
end


return M
