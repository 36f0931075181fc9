--- Entity tags and conditional requests (RFC 9110, sections 8.8 and 13).

local date = require "echostream.http.date"

local M = {}

---@class echostream.http.validators
---@field etag? string          as it is sent: `"abc"` or `W/"abc"`
---@field last_modified? integer  seconds since 1970
---@field exists? boolean       false: there is no representation now (a PUT may make one); default true

--- Makes an entity tag.
---@param text string   anything but control bytes, blanks and quotes
---@param weak? boolean
---@return string
function M.etag(text, weak)
  if type(text) ~= "string" or text:find "[\0-\32\"\127]" then
    error("http.conditional: an entity tag has no blanks, quotes and control bytes", 2)
  end
  return (weak and 'W/"' or '"') .. text .. '"'
end

--- The entity tags of `If-Match` or `If-None-Match`.
---@param value string
---@return string[]|"*"|nil tags  nil: it is broken
function M.parse(value)
  if value:find "^[ \t]*%*[ \t]*$" then
    return "*"
  end
  local tags, at = {}, 1
  while true do
    at = value:match("^[ \t,]*()", at)
    if at > #value then
      return tags[1] and tags
    end
    local tag, after = value:match('^(W?/?"[^\0-\32"\127]*")[ \t]*()', at)
    if not tag or not (tag:find '^"' or tag:find '^W/"') or not (after > #value or value:byte(after) == 44) then
      return nil
    end
    tags[#tags + 1], at = tag, after
  end
end

--- Whether two tags name the very same bytes: weak ones never do.
---@param a string?
---@param b string?
---@return boolean
function M.strong_equal(a, b)
  return a ~= nil and a == b and a:sub(1, 1) == '"'
end

--- Whether two tags name what means the same.
---@param a string?
---@param b string?
---@return boolean
function M.weak_equal(a, b)
  return a ~= nil and b ~= nil and a:gsub("^W/", "") == b:gsub("^W/", "")
end

local function matches(value, validators, equal)
  local tags = M.parse(value)
  if tags == "*" then
    return validators.exists ~= false
  end
  for _, tag in ipairs(tags or {}) do
    if validators.exists ~= false and equal(tag, validators.etag) then
      return true
    end
  end
  return false
end

--- What the preconditions of a request say, in the order of section 13.2.2. Ask only when the answer without them would be 2xx.
--- Dates and tags that are broken: a broken date is no condition, a broken list of tags matches nothing.
---@param request { method: string, headers: echostream.http.fields }
---@param validators echostream.http.validators
---@param now? number  seconds since 1970, for dates with two digits of a year
---@return 304|412|nil status  nil: go on
function M.evaluate(request, validators, now)
  local headers = request.headers
  local reads = request.method == "GET" or request.method == "HEAD"
  local modified = validators.last_modified
  local if_match, if_none_match = headers:get "if-match", headers:get "if-none-match"
  if if_match then
    if not matches(if_match, validators, M.strong_equal) then
      return 412
    end
  elseif modified then
    local since = date.parse(headers:get "if-unmodified-since", now)
    if since and modified > since then
      return 412
    end
  end
  if if_none_match then
    if matches(if_none_match, validators, M.weak_equal) then
      return reads and 304 or 412
    end
  elseif reads and modified then
    local since = date.parse(headers:get "if-modified-since", now)
    if since and modified <= since then
      return 304
    end
  end
end

--- Whether `If-Range` (section 13.1.5) lets a range be sent: its tag is the very same, or its date is and the date is strong, which
--- takes a representation that has not changed in the last second.
---@param value string?  the field; nil: there is no condition
---@param validators echostream.http.validators
---@param now? number  seconds since 1970; default the system's time
---@return boolean
function M.if_range(value, validators, now)
  if not value then
    return true
  elseif value:find('"', 1, true) then
    return M.strong_equal(value, validators.etag)
  end
  now = now or os.time()
  local modified = validators.last_modified
  return modified ~= nil and date.parse(value, now) == modified and modified < now
end

return M
