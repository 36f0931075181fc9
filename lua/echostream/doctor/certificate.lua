--- What the doctor thinks of certificates: their dates, and whom they are for.

local address = require "echostream.address"

local M = {}

local DAY = 86400
-- Made certificates live 13 days and are renewed a day before; others should be renewed earlier than this.
local SOON = 12 * 3600

local function day_of(time)
  return os.date("!%Y-%m-%d %H:%M UTC", time)
end

--- What there is to say about the dates of a certificate.
---@param now number
---@param not_before integer  seconds since 1970
---@param not_after integer
---@param what string         "the server's certificate"
---@return echostream.doctor.finding[]
function M.judge_dates(now, not_before, not_after, what)
  if now < not_before then
    return { {
      status = "fail",
      detail = ("%s is valid from %s on, and the clock here says %s"):format(what, day_of(not_before), day_of(math.floor(now))),
      fix = "set the clocks of both machines right (timedatectl set-ntp true)",
    } }
  elseif now > not_after then
    return { {
      status = "fail",
      detail = ("%s has expired on %s, %d days ago"):format(what, day_of(not_after), (now - not_after) // DAY),
      fix = "renew it there (echostream cert keeps the key, and so the pin); clients that are given the pin do not mind the date",
    } }
  elseif not_after - now < SOON then
    return { {
      status = "warn",
      detail = ("%s expires on %s"):format(what, day_of(not_after)),
      fix = "renew it; a running server takes the new one with server:set_certificate()",
    } }
  end
  return { { status = "ok", detail = ("%s is valid until %s"):format(what, day_of(not_after)) } }
end

local function matches(name, pattern)
  name, pattern = name:lower(), pattern:lower()
  if pattern:sub(1, 2) == "*." then -- stands for one label (RFC 6125, section 6.4.3)
    local rest = name:match "^[^.]+(%..+)$"
    return rest == pattern:sub(2) and pattern:find(".", 3, true) ~= nil
  end
  return name == pattern
end

-- One text for each IPv6 address is enough here: the certificate's comes from the same place.
local function same_address(a, b)
  return a:lower() == b:lower()
end

--- Whether a certificate is for a host name or an address.
---@param host string
---@param names string[]  of the certificate
---@return boolean
function M.is_for(host, names)
  local literal = address.literal(host)
  for _, name in ipairs(names) do
    if literal and same_address(host, name) or not literal and matches(host, name) then
      return true
    end
  end
  return false
end

return M
