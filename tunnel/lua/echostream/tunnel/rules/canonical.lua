--- One reading of a request's host and target (RFC 3986, section 6.2.2; RFC 9110, section 4.2), made once. Rules judge it, and the backend gets
--- what was judged: a path that a backend may read otherwise than we do is refused, never guessed at.

local M = {}

-- Bytes of a path that are no letters, digits or "-._~" and may stand there as they are: sub-delims, ":" and "@".
local PATH_BYTES <const> = "[^%w%-._~!$&'()*+,;=:@/%%]"
local QUERY_BYTES <const> = "[^\33\34\36-\126]" -- a query is the backend's: only what no request line can carry is encoded

local function encoded(c)
  return ("%%%02X"):format(c:byte())
end

-- %41 is "A", %2f stays %2F.
local function normal(hex)
  local c = string.char(tonumber(hex, 16))
  return c:find "[%w%-._~]" and c or "%" .. hex:upper()
end

-- Takes "." and ".." away, from a path without empty segments. Nil: it climbs above the root.
local function without_dots(path)
  local out, n = {}, 0
  local last
  for segment in path:gmatch "[^/]+" do
    last = segment
    if segment == ".." then
      if n == 0 then
        return nil
      end
      n = n - 1
    elseif segment ~= "." then
      n = n + 1
      out[n] = segment
    end
  end
  local ends = n > 0 and (path:byte(-1) == 47 or last == "." or last == "..")
  return "/" .. table.concat(out, "/", 1, n) .. (ends and "/" or "")
end

-- Whether a backend that decodes more than we do, or takes "\" for "/", or cuts parameters off (";x"), would see dot segments.
local function hides_dots(path)
  if not path:find("..", 1, true) and not path:find("/.", 1, true) and not path:find("%", 1, true) then
    return false
  end
  local plain = path:gsub("%%2[Ff]", "/"):gsub("%%5[Cc]", "/"):gsub("%%3[Bb]", ";")
  return (plain .. "/"):find "/%.%.?[;/]" ~= nil
end

--- The canonical form of a path.
---
--- Percent-encoded letters, digits and `-._~` are decoded, other escapes get upper-case digits and stay (`%2F` is no slash); `.` and `..`
--- are resolved; several slashes become one; bytes that no path has are encoded. Refused (400): an escape without two digits, `%00`, a
--- backslash, a `#`, a
--- path above the root, and dot segments that are visible only to who decodes `%2F`, `%5C` or cuts `;parameters` off.
---@param path string  without query
---@return string? path, string? why
function M.path(path)
  if path == "/" or path == "*" then
    return path
  elseif path:byte() ~= 47 then
    return nil, "a path begins with a slash"
  elseif not path:find "[^%w%-_/]" then -- most of them
    return path:find("//", 1, true) and (path:gsub("//+", "/")) or path
  elseif path:find "[\\#\0]" then
    return nil, "a path has no backslash, number sign or NUL"
  end
  if path:find("%", 1, true) then
    local decoded, n = path:gsub("%%(%x%x)", normal)
    local _, signs = path:gsub("%%", "")
    if n ~= signs then
      return nil, "a percent sign wants two hexadecimal digits after it"
    elseif path:find("%00", 1, true) then
      return nil, "a path has no NUL"
    end
    path = decoded
  end
  path = path:gsub(PATH_BYTES, encoded):gsub("//+", "/")
  if path:find("/.", 1, true) then
    local clean = without_dots(path)
    if not clean then
      return nil, "the path climbs above the root"
    end
    path = clean
  end
  if hides_dots(path) then
    return nil, "the path hides dot segments"
  end
  return path
end

--- Takes a target apart: the canonical path, and the query as it came (nil: no "?").
---@param target string  origin-form, or "*"
---@return string? path, string? query_or_why
function M.target(target)
  local mark = target:find("?", 1, true)
  local path, why = M.path(mark and target:sub(1, mark - 1) or target)
  if not path then
    return nil, why
  elseif not mark then
    return path, nil
  end
  local query = target:sub(mark + 1)
  if query:find("#", 1, true) then
    return nil, "a target has no fragment"
  end
  return path, (query:gsub(QUERY_BYTES, encoded))
end

local function is_ip6(text)
  return #text <= 45 and text:find "^[%x:.]+$" ~= nil and text:find ":.*:" ~= nil
end

--- The canonical form of an authority: the host in lower case without the dot at its end, and the port. Refused: user names, percent signs, bytes
--- that no host name has, ports beyond 65535, names over 253 bytes.
---@param authority string
---@return string? host, integer|string|nil port_or_why  port nil: none is said
function M.authority(authority)
  local host, port
  if authority:byte() == 91 then -- "["
    host, port = authority:match "^%[([^%]]*)%](.*)$"
    if not host or not is_ip6(host) then
      return nil, "the host is no IPv6 address"
    end
    host = "[" .. host:lower() .. "]"
  else
    host, port = authority:match "^([^:]*)(.*)$"
    if host:find "[^%w%-._]" or #host > 254 then
      return nil, "the host has characters that no host name has"
    end
    local empty = host:find("..", 1, true) or host:byte() == 46
    host = host:lower():gsub("%.$", "")
    if host == "" or empty or #host > 253 then
      return nil, "the host has an empty label, or none"
    end
  end
  if port == "" or port == ":" then
    return host
  end
  local digits = port:match "^:0*(%d+)$"
  local number = digits and #digits <= 5 and math.tointeger(tonumber(digits))
  if not number or number > 65535 then
    return nil, "the port is none"
  end
  return host, number
end

return M
