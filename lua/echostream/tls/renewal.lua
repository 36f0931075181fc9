--- Certificates that a server makes for itself end after 13 days; one that runs for longer makes the next in time. The key stays, and so
--- does the pin. The hash that pages give browsers does not: the next certificate is made a day before it is shown, and its hash told
--- from then on, so that a page that was loaded the day before still gets in.

local base64 = require "echostream.base64"
local identity = require "echostream.tls.identity"
local log = require "echostream.log"
local tls = require "echostream.tls"

local M = {}

---@class echostream.server
local methods = {}
M.methods = methods

-- The next certificate is known so long before it is shown; and the clock on the wall is looked at so often, because the other one
-- stands still while a machine sleeps. Seconds.
local LEAD <const>, TICK <const>, AGAIN <const> = 86400, 600, 600

local function at(self, when, fn)
  local rec = self._rec
  local left = when - rec.core:wall()
  self._renewal = rec.core:timer(math.max(math.min(left, TICK), 0), function()
    self._renewal = nil
    if self.state ~= "running" or self._options.cert then
      return
    elseif rec.core:wall() < when then
      return at(self, when, fn)
    end
    fn()
  end)
end

-- `since`: when the certificate that is shown was made.
local function wait_for_next(self, since, after, make)
  local lead = math.min(LEAD, after / 2)

  local function show()
    local ok, err = self._endpoint:set_tls(self._next_tls)
    if ok then
      tls.show(self, self._next_tls)
      log.write("info", ("the server's certificate was renewed: %s; the pin is the same"):format(self.cert_hash))
    else
      log.write("error", "the server's certificate could not be renewed: " .. tostring(err))
    end
    local made_at = self._next_made
    self._next_tls, self._next_made = nil, nil
    wait_for_next(self, made_at, after, make)
  end

  local function prepare()
    local now = self._rec.core:wall()
    local context, err = make(self, self._options)
    if not context then
      log.write("error", "the server's next certificate could not be made: " .. tostring(err))
      return at(self, now + math.min(AGAIN, after), prepare)
    end
    self._next_tls, self._next_made = context, now
    at(self, math.max(since + after, now + math.min(lead, 1)), show)
  end

  at(self, since + after - lead, prepare)
end

--- Renews from now on what a server made for itself; nothing for one that was given its certificate.
---@param self echostream.server
---@param make fun(self: echostream.server, opts: table): echostream.core.tls?, echostream.error?
---@package
function M.start(self, make)
  local after = self._options.renew_after or not self._rec.sim and (identity.DAYS - 1) * 86400
  if after and not self._options.cert then
    wait_for_next(self, self._rec.core:wall(), after, make)
  end
end

---@param self echostream.server
---@package
function M.stop(self)
  if self._renewal then
    self._renewal:stop()
    self._renewal = nil
  end
  self._next_tls = nil
end

--- What pages give browsers as `serverCertificateHashes`: the hash of the certificate that is shown now, and from a day before it is
--- replaced the hash of the next one. `value` is a SHA-256 in base64.
---@return { algorithm: string, value: string, hash: string }[] hashes  `hash`: the same as `server.cert_hash` has it
function methods:cert_hashes()
  local list = {}
  if self:_identify() then
    for _, context in ipairs { self._tls, self._next_tls } do
      local _, der = context:pin()
      list[#list + 1] = { algorithm = "sha-256", value = base64.encode(der), hash = identity.pin_text(der) }
    end
  end
  return list
end

return M
