--- A plugin for servers: who a peer is (by a token or its certificate), and what it may call.
---
---     server:plugin(echo.plugins.auth {
---       tokens = { ["s3cret"] = { name = "ann", roles = { "admin" } }, ["0ther"] = "bob" },
---       allow = { ["admin.*"] = { "admin" } },
---     })
---     echo.connect(address, { pin = pin, metadata = { authorization = "Bearer s3cret" } })

local errors = require "echostream.errors"
local options = require "echostream.options"
local parts = require "echostream.plugins.parts"

local M = {}

---@class echostream.options.auth
---@field tokens? table<string, string|echostream.auth.who>|fun(token: string, session: echostream.session): any, any  who has which token; or
--- a function that says so, which may wait, and returns nothing (or nil and an error) for a wrong one
---@field certificates? table<string, string|echostream.auth.who>|fun(certificate: echostream.certificate, session: echostream.session): any, any
--- who has which client certificate, by its pin ("sha256:…") or by a name in it. Names count only on a server whose `ca` checked them
---@field allow? table<string, string[]|boolean>  roles that may use a method, event or stream, by its name or by a beginning and "*": the whole
--- name goes first, then the longest beginning. true: everybody; false or {}: nobody. What no pattern fits is for everybody who was let in
---@field anonymous? boolean  true: peers that show neither token nor certificate are let in, as "anonymous" without roles, and with
--- `session:get "auth.anonymous"` (default: false)
---@field timeout? number  seconds that the functions may take (default: 10)

---@class echostream.auth.who
---@field name string      becomes `session.identity`
---@field roles? string[]  becomes `session:get "auth.roles"`

local schema = {
  tokens = { type = { "table", "function" } },
  certificates = { type = { "table", "function" } },
  allow = { type = "table" },
  anonymous = { type = "boolean", default = false },
  timeout = { type = "seconds" },
}

-- "ann" or { name =, roles = } -> the table; nil: it is neither.
local function person(value)
  if type(value) == "string" then
    return { name = value, roles = {} }
  elseif type(value) ~= "table" or type(value.name) ~= "string" then
    return nil
  end
  local roles = {}
  for i, role in ipairs(value.roles or {}) do
    if type(role) ~= "string" then
      return nil
    end
    roles[i] = role
  end
  return { name = value.name, roles = roles }
end

local function people(option, given)
  if type(given) ~= "table" then
    return given
  end
  local all = {}
  for key, value in pairs(given) do
    if type(key) ~= "string" or key == "" or not person(value) then
      -- Without showing the key, which may be a secret.
      error(("plugins.auth: option \"%s\" wants names, or { name =, roles = }, by text; one is %s"):format(option,
        errors.show(value)), 4)
    end
    all[key] = person(value)
  end
  return all
end

local function rules(allow)
  local all = {}
  parts.check_patterns("plugins.auth", "allow", allow, 4)
  for pattern, roles in pairs(allow) do
    local set = roles
    if type(roles) == "table" then
      set = parts.set(roles)
    elseif type(roles) ~= "boolean" then
      error(("plugins.auth: option \"allow\" wants lists of roles, or a boolean, got %s for %s"):format(errors.show(roles),
        errors.show(pattern)), 4)
    end
    all[pattern] = set
  end
  return parts.matcher(all)
end

-- What a function of the user's said, or nil and why not.
local function asked(option, value, err)
  if not value then
    return nil, err or errors.new("unauthenticated", "your credentials were not accepted")
  end
  return person(value) or error(("plugins.auth: function \"%s\" returned neither a name nor { name =, roles = }"):format(option), 0)
end

local function by_token(tokens, token, session)
  if type(tokens) == "function" then
    return asked("tokens", tokens(token, session))
  end
  local found
  for secret, who in pairs(tokens) do -- all of them, so that the time does not say which
    if parts.same(token, secret) then
      found = who
    end
  end
  if not found then
    return nil, errors.new("unauthenticated", "the token is not known")
  end
  return found
end

local function by_certificate(self, session)
  local known, certificate = self._certificates, session.peer_cert
  if type(known) == "function" then
    return asked("certificates", known(certificate, session))
  elseif known[certificate.pin] then
    return known[certificate.pin]
  end
  if certificate.checked == "ca" then -- else anybody can write any name into a certificate
    for _, name in ipairs(certificate.names or {}) do
      if known[name] then
        return known[name]
      end
    end
  end
  return nil, errors.new("unauthenticated", "the certificate is not known")
end

-- Who it is, or nil and an error. A token goes before a certificate, which may be a machine's.
local function identify(self, session, credentials)
  local header = credentials.authorization
  if header and self._tokens then
    local token = header:match "^[Bb]earer +(%S+) *$"
    if not token then
      return nil, errors.new("unauthenticated", "authorization wants: Bearer and a token")
    end
    return by_token(self._tokens, token, session)
  elseif session.peer_cert and self._certificates then
    return by_certificate(self, session)
  elseif self._anonymous then
    return { name = "anonymous", roles = {}, anonymous = true }
  end
  return nil, errors.new("unauthenticated", self._tokens and "no token was shown: metadata = { authorization = \"Bearer ...\" }"
    or "no certificate was shown")
end

local function install(self, host)
  if type(host.auth) ~= "function" then
    return nil, "it is for servers; a client says who it is by its option metadata"
  end
  local roles_of = setmetatable({}, { __mode = "k" })
  host:auth(function(session, credentials)
    local who, err = identify(self, session, credentials)
    if not who then
      return nil, err
    end
    roles_of[session] = who.roles
    session:set("auth.roles", who.roles)
    session:set("auth.anonymous", who.anonymous)
    return who.name
  end, { timeout = self._timeout })
  if not self._rule then
    return
  end
  host:middleware(function(call, next)
    local allowed = self._rule(call.name)
    if allowed == nil or allowed == true then
      return next(call)
    end
    for _, role in ipairs(allowed and roles_of[call.session] or {}) do
      if allowed[role] then
        return next(call)
      end
    end
    return call:reject("permission_denied", ("%s is not for you"):format(call.name))
  end, { direction = "in" })
end

--- Makes the plugin. A peer is asked once, before `on_connect` and its first call; one that is not known is refused, `unauthenticated`.
--- A call or stream that it may not use is answered `permission_denied`, an event is dropped. Tokens are compared in constant time.
---@param opts echostream.options.auth
---@return echostream.plugin
function M.auth(opts)
  local checked = options.check("plugins.auth", opts, schema)
  if not checked.tokens and not checked.certificates then
    error('plugins.auth: wants "tokens", "certificates" or both', 2)
  end
  return {
    name = "auth",
    install = install,
    _tokens = people("tokens", checked.tokens),
    _certificates = people("certificates", checked.certificates),
    _anonymous = checked.anonymous,
    _timeout = checked.timeout,
    _rule = checked.allow and rules(checked.allow),
  }
end

return M
