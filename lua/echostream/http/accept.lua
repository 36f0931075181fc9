--- Which representation a client wants (RFC 9110, section 12.5).

local fields = require "echostream.http.fields"

local M = {}

-- How exactly a range names a type: 0 not at all, then */*, type/*, type/subtype, and one more for each parameter.
local function exactness(choice, kind, parameters)
  if choice.value == "*/*" then
    return 1
  elseif choice.value:find("/*", 1, true) then
    return choice.value:sub(1, -2) == kind:match "^[^/]*/" and 2 or 0
  elseif choice.value ~= kind then
    return 0
  end
  local n = 3
  for name, value in pairs(choice.parameters) do
    if parameters[name] == nil or parameters[name]:lower() ~= value:lower() then
      return 0
    end
    n = n + 1
  end
  return n
end

--- The best of the media types that can be had. The most exact range says what a type is worth; of equal ones the first offered.
---@param accept string?    the field `Accept`; nil: everything is welcome
---@param offered string[]  such as { "application/json", "text/html" }
---@return string? type  nil: none is acceptable (406)
function M.media_type(accept, offered)
  local choices = accept and fields.qualities(accept)
  if not choices or #choices == 0 then
    return offered[1]
  end
  local best, best_q
  for _, offer in ipairs(offered) do
    local kind, parameters = fields.parameters(offer:lower())
    local q, exact = 0, 0
    for _, choice in ipairs(choices) do
      local e = kind and exactness(choice, kind, parameters) or 0
      if e > exact then
        q, exact = choice.q, e
      end
    end
    if q > 0 and (not best or q > best_q) then
      best, best_q = offer, q
    end
  end
  return best
end

--- The content codings that a client takes, of those that can be had, best first; of equal ones the first offered. `identity` is
--- among them unless it is refused (RFC 9110, section 12.5.3).
---@param accept_encoding string?  the field; nil: `identity` only, for a client that says nothing may understand nothing else
---@param offered string[]  such as { "zstd", "gzip" }
---@return string[]
function M.encodings(accept_encoding, offered)
  local weights, any = {}, nil
  for _, choice in ipairs(fields.qualities(accept_encoding or "")) do
    local name = choice.value == "x-gzip" and "gzip" or choice.value
    if name == "*" then
      any = any or choice.q
    else
      weights[name] = weights[name] or choice.q
    end
  end
  local list = {}
  for i, name in ipairs(offered) do
    local q = weights[name] or any or 0
    if name ~= "identity" and q > 0 then
      list[#list + 1] = { name = name, q = q, at = i }
    end
  end
  if (weights.identity or any) ~= 0 then -- unless a weight is given it comes last
    list[#list + 1] = { name = "identity", q = weights.identity or 0, at = #offered + 1 }
  end
  table.sort(list, fields.is_better)
  for i, entry in ipairs(list) do
    list[i] = entry.name
  end
  return list
end

return M
