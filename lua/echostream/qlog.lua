--- The option `qlog`: a directory where every connection writes what the QUIC library did, one file each. Only with a library
--- that has no known flaw there: while a qlog is written, older ones let a peer overflow a buffer (CVE-2026-40170).

local core = require "echostream.core"

local M = {}

-- The first versions with the correction: upstream's, and those of distributions that carried it back.
local UPSTREAM = { 1, 22, 1 }
local PACKAGES = { -- by the version they are based on
  ["0.12.1"] = { name = "libngtcp2-9", fixed = "0.12.1+dfsg-1+deb12u1" },
  ["1.11.0"] = { name = "libngtcp2-16", fixed = "1.11.0-1+deb13u1" },
}
M.UPSTREAM, M.PACKAGES = table.concat(UPSTREAM, "."), PACKAGES

-- One part of a Debian version, compared as dpkg does: runs of non-digits, where "~" is before everything and letters before
-- the rest, take turns with numbers.
local function order(c)
  if c == "~" then
    return -1
  elseif c == "" then
    return 0
  end
  return c:match "%a" and c:byte() or c:byte() + 256
end

local function compare(a, b)
  while a ~= "" or b ~= "" do
    local x, y = a:match "^%D*", b:match "^%D*"
    for i = 1, math.max(#x, #y) do
      local d = order(x:sub(i, i)) - order(y:sub(i, i))
      if d ~= 0 then
        return d
      end
    end
    a, b = a:sub(#x + 1), b:sub(#y + 1)
    x, y = a:match "^%d*", b:match "^%d*"
    local d = (math.tointeger(x) or 0) - (math.tointeger(y) or 0)
    if d ~= 0 then
      return d
    end
    a, b = a:sub(#x + 1), b:sub(#y + 1)
  end
  return 0
end

--- Compares two Debian versions without epoch: negative, 0 or positive.
---@param a string
---@param b string
---@return integer
function M.compare(a, b)
  local ua, ra = a:match "^(.*)%-([^-]*)$"
  local ub, rb = b:match "^(.*)%-([^-]*)$"
  local d = compare(ua or a, ub or b)
  return d ~= 0 and d or compare(ra or "", rb or "")
end

--- The installed version of a package, as dpkg's own file says.
---@param name string
---@return string?
function M.installed(name)
  local file = io.open "/var/lib/dpkg/status"
  if not file then
    return nil
  end
  local text = "\n\n" .. file:read "a"
  file:close()
  local from = text:find("\n\nPackage: " .. name .. "\n", 1, true)
  local stanza = from and text:sub(from + 2, (text:find("\n\n", from + 2, true) or 0) - 1)
  if stanza and stanza:find("\nStatus: install ok installed", 1, true) then
    return stanza:match "\nVersion: ([^\n]*)"
  end
end

-- true, or false and why; looked up once.
local function examine()
  local version = core.libraries.ngtcp2
  local parts = {}
  for part in version:gmatch "%d+" do
    parts[#parts + 1] = math.tointeger(part)
  end
  for i, wanted in ipairs(UPSTREAM) do
    local part = parts[i] or 0
    if part > wanted or part == wanted and i == #UPSTREAM then
      return true
    elseif part < wanted then
      break
    end
  end
  local known = PACKAGES[version]
  if not known then
    return false, ("ngtcp2 %s may overflow a buffer while it writes a qlog (CVE-2026-40170); 1.22.1 does not"):format(version)
  end
  local found = M.installed(known.name)
  if not found then
    return false, ("ngtcp2 %s overflows a buffer while it writes a qlog (CVE-2026-40170), unless it is Debian's package %s %s "
      .. "or later, which is not installed here"):format(version, known.name, known.fixed)
  elseif M.compare(found, known.fixed) < 0 then
    return false, ("%s %s overflows a buffer while it writes a qlog (CVE-2026-40170); %s does not"):format(known.name, found,
      known.fixed)
  end
  return true
end

local verdict

--- Whether the library at hand may write qlogs: true, or false and the reason.
---@return boolean ok, string? reason
function M.available()
  verdict = verdict or table.pack(examine())
  return table.unpack(verdict, 1, verdict.n)
end

--- Checks the option. Raises when the library may not, or the directory is not one where files can be made.
---@param where string
---@param dir string?
---@param level integer  as for error()
---@return string?
function M.check(where, dir, level)
  if dir == nil then
    return nil
  end
  local ok, reason = M.available()
  if not ok then
    error(('%s: option "qlog" cannot be given: %s'):format(where, reason), level)
  end
  local probe = ("%s/.%d-%d"):format(dir, os.time(), math.random(1 << 30))
  local file, err = io.open(probe, "w")
  if not file then
    error(('%s: option "qlog" wants a directory where files can be written: %s'):format(where, tostring(err)), level)
  end
  file:close()
  os.remove(probe)
  return dir
end

return M
