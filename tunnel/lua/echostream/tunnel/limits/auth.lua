--- Who a visitor is: HTTP Basic (RFC 7617) and Bearer (RFC 6750), from lists or by a function of the user's. 401 with WWW-Authenticate.

local base64 = require "echostream.base64"
local buckets = require "echostream.tunnel.limits.buckets"
local check = require "echostream.tunnel.rules.check"
local core = require "echostream.core"
local echo_errors = require "echostream.errors"
local errors = require "echostream.tunnel.errors"
local keys = require "echostream.tunnel.limits.keys"
local log = require "echostream.log"
local loop = require "echostream.loop"
local lru = require "echostream.plugins.lru"
local passwords = require "echostream.tunnel.limits.passwords"

local M = {}

local fail = check.fail

---@class echostream.tunnel.options.auth
---@field basic? table<string, string>   users: name to "pbkdf2-sha256:ROUNDS:SALT:HEX", "sha256:HEX" or "plain:TEXT"
--- (`limits.passwords.hash` makes them)
---@field bearer? table<string, string>  tokens: "sha256:HEX" (`limits.passwords.digest`) or "plain:TEXT", to the user's name
---@field verify? fun(request: echostream.tunnel.request, credentials: echostream.tunnel.credentials): string|true|nil, any  asked when the lists do
--- not know; may wait; returns the user's name, true, or nothing
---@field realm? string  shown by browsers (default: "echostream")
---@field pass? boolean  the backend gets the field Authorization, too (default: false)

---@class echostream.tunnel.credentials
---@field scheme "basic"|"bearer"
---@field user string?      of basic
---@field password string?  of basic
---@field token string?     of bearer

-- Passwords that are not known to be right cost the time of their hash: of one visitor so many may be looked at a second, in the long run and
-- at once; and of all visitors together.
local ONE <const>, ONE_AT_ONCE <const>, ALL <const> = 1, 10, 20

local schema = {
  basic = { type = "table" },
  bearer = { type = "table" },
  verify = { type = "function" },
  realm = { type = "string", default = "echostream" },
  pass = { type = "boolean", default = false },
}

---@class echostream.tunnel.auth
local Auth = { __name = "echostream.tunnel.auth" }
Auth.__index = Auth

--- Reads the field Authorization.
---@param value string?
---@return echostream.tunnel.credentials?
function M.credentials(value)
  local scheme, rest = (value or ""):match "^(%a+) +(%S+)$"
  scheme = scheme and scheme:lower()
  if scheme == "bearer" then
    return { scheme = "bearer", token = rest }
  elseif scheme == "basic" then
    local text = base64.decode(rest)
    local user, password = (text or ""):match "^([^:%c]*):([^%c]*)$"
    return user and { scheme = "basic", user = user, password = password } or nil
  end
end

-- Whether a password may be looked at; else nil and the error.
local function may_guess(self, request)
  local now = loop.now()
  local ok, wait = self._guesses:take(keys.address(request.client_ip), ONE, ONE_AT_ONCE, now)
  if ok then
    ok, wait = self._guesses:take("", ALL, ALL, now)
  end
  if ok then
    return true
  end
  return nil, errors.new(429, "too many passwords were tried", { limit = "auth", retry_after = wait })
end

-- A password that was right is remembered for a while, by a key that says nothing: hashes are made to be slow.
local function known(self, request, user, password, secret)
  if secret.kind ~= "pbkdf2" then
    return passwords.same(secret, password)
  end
  local key = passwords.digest(self._pepper .. secret.hash .. #user .. ":" .. user .. password)
  if self._right:get(key) then
    return true
  end
  local ok, err = may_guess(self, request)
  if not ok then
    return nil, err
  elseif passwords.same(secret, password) then
    self._right:put(key, true, #key)
    return true
  end
  return false
end

local function by_lists(self, request, given)
  if given.scheme == "basic" and self._users then
    local secret = self._users[given.user]
    -- A user that there is not takes as long as one with a wrong password.
    local right, err = known(self, request, given.user, given.password, secret or self._nobody)
    return secret and right and given.user or nil, err
  elseif given.scheme == "bearer" and self._tokens then
    local found
    for _, one in ipairs(self._plain) do -- all of them, so that the time does not say which
      if core.same(given.token, one.text) then
        found = one.name
      end
    end
    return self._tokens[passwords.digest(given.token)] or found
  end
end

local function by_function(self, request, given)
  local ok, name, err = xpcall(self._verify, debug.traceback, request, given)
  if not ok then
    log.write("error", "auth: the function verify failed", { traceback = tostring(name) })
    return nil, errors.new(500, "who you are cannot be found out now")
  elseif name then
    return name == true and (given.user or "") or tostring(name)
  elseif echo_errors.is_error(err) and err.http_status then
    return nil, err
  end
end

--- Who asks. Sets `request.user`, and takes the field Authorization away unless it is to be passed.
---@param request echostream.tunnel.request
---@return true? ok, echostream.error? err  401; 429 after too many passwords that were wrong; 500 when `verify` failed, or what it said
function Auth:check(request)
  local head = request.head
  local value = head and head:get "authorization"
  local given = M.credentials(value)
  local name, err
  if given then
    name, err = by_lists(self, request, given)
    if not name and not err and self._verify then
      name, err = by_function(self, request, given)
    end
  end
  if name then
    request.user = name ~= "" and name or nil
    if not self._pass then
      head:remove "authorization"
    end
    return true
  end
  return nil, err or errors.new(401, value and "your credentials were not accepted" or "this wants credentials", { headers = self._challenges,
    limit = "auth" })
end

local function read_users(field, users)
  local all = {}
  for name, text in pairs(users) do
    if type(name) ~= "string" or name == "" or name:find "[:%c]" then
      fail(field, "wants users by name, without colons and control bytes")
    end
    all[name] = check.made(field .. "." .. name, passwords.read, text)
  end
  return all
end

local function read_tokens(field, tokens)
  local hashed, plain = {}, {}
  for text, name in pairs(tokens) do
    local secret = passwords.read(text)
    if type(name) ~= "string" or name == "" then
      fail(field, "wants names of users by their tokens")
    elseif not secret or secret.kind == "pbkdf2" then
      fail(field, "wants tokens such as sha256:64 digits or plain:text; one is neither")
    elseif secret.kind == "plain" then
      plain[#plain + 1] = { text = secret.text, name = name }
    else
      hashed[text:lower()] = name
    end
  end
  return hashed, plain
end

--- Checks what a rule says.
---@param field string
---@param given any
---@param rule? table  what was tried and what was right is remembered with it: a rule's function gives the same lists with each request
---@return echostream.tunnel.auth
function M.compile(field, given, rule)
  local checked = check.table(field, given, schema)
  if not checked.basic and not checked.bearer and not checked.verify then
    fail(field, "wants basic, bearer or verify")
  elseif checked.realm:find '[%c"\\\128-\255]' then
    fail(field .. ".realm", "wants plain text without quotes and backslashes")
  end
  local memory = rule and rule.tried or { right = lru.new(10000, 4 << 20), pepper = core.random(16), guesses = buckets.new(10000) }
  if rule then
    rule.tried = memory
  end
  local self = { _verify = checked.verify, _pass = checked.pass, _challenges = {}, _right = memory.right, _pepper = memory.pepper,
    _guesses = memory.guesses, _plain = {} }
  local function challenge(scheme, more)
    table.insert(self._challenges, { "www-authenticate", ('%s realm="%s"%s'):format(scheme, checked.realm, more) })
  end
  if checked.basic or checked.verify then
    challenge("Basic", ', charset="UTF-8"')
  end
  if checked.bearer or checked.verify then
    challenge("Bearer", "")
  end
  if checked.basic then
    self._users = read_users(field .. ".basic", checked.basic)
    local rounds = 1
    for _, secret in pairs(self._users) do
      rounds = math.max(rounds, secret.rounds or 1)
    end
    self._nobody = { kind = "pbkdf2", rounds = rounds, salt = "nobody", hash = core.random(32) }
  end
  if checked.bearer then
    self._tokens, self._plain = read_tokens(field .. ".bearer", checked.bearer)
  end
  return setmetatable(self, Auth)
end

return M
