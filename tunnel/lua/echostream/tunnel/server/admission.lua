--- Who may register, as what: the option `agents`. A certificate says who somebody is by its key (`pin`) or, where the server's `ca` issued
--- it, by a name; a token is proved by an HMAC over a nonce of ours and the exporter of the very TLS connection (tunnel/DESIGN.md), so that
--- what somebody in between records or passes on is of no use.

local core = require "echostream.core"
local errors = require "echostream.errors"
local options = require "echostream.options"
local sessions = require "echostream.tunnel.session"

local M = {}

---@class echostream.tunnel.options.agent_entry  an element of the option `agents`; one of pin, name, token and anyone
---@field pin? string        "sha256:<hex>": the key of the certificate that it shows
---@field name? string       a name of a certificate that the server's `ca` issued
---@field token? string      a secret of 16 bytes or more that both sides know
---@field anyone? boolean    whoever connects: for trials, and where the session's own admission is enough
---@field groups? string[]   that it may register for (default: any)
---@field client_id? string  the only one it may have (default: any)

local schema = {
  pin = { type = "string" },
  name = { type = "string" },
  token = { type = "string" },
  anyone = { type = "boolean" },
  groups = { type = "strings" },
  client_id = { type = "string" },
}

--- Checks the option. Raises.
---@param where string
---@param list any
---@return echostream.tunnel.options.agent_entry[]
function M.check(where, list)
  options.argument(where, "option \"agents\"", list, "table", 3)
  local out = {}
  for i, given in ipairs(list) do
    local name = ("%s: agents[%d]"):format(where, i)
    local entry = options.check(name, given, schema, 3)
    local n = (entry.pin and 1 or 0) + (entry.name and 1 or 0) + (entry.token and 1 or 0) + (entry.anyone and 1 or 0)
    if n ~= 1 then
      error(name .. ": wants one of pin, name, token and anyone", 3)
    elseif entry.pin and not entry.pin:find("^sha256:" .. ("%x"):rep(64) .. "$") then
      error(name .. ": pin wants \"sha256:\" and 64 hexadecimal digits", 3)
    elseif entry.token and #entry.token < 16 then
      error(name .. ": token wants 16 bytes or more", 3)
    end
    entry.pin = entry.pin and entry.pin:lower()
    if entry.groups then
      local set = {}
      for _, group in ipairs(entry.groups) do
        set[group] = true
      end
      entry.groups = set
    end
    out[i] = entry
  end
  if #out == 0 then
    error(where .. ": option \"agents\" is an empty list: nobody could register", 3)
  end
  return out
end

local function has_name(certificate, name)
  if certificate.subject == "CN=" .. name then
    return true
  end
  for _, other in ipairs(certificate.names or {}) do
    if other == name then
      return true
    end
  end
  return false
end

local function fits(entry, asked)
  return (not entry.groups or entry.groups[asked.group]) and (not entry.client_id or entry.client_id == asked.client_id)
end

-- Which of the entries the peer is. All tokens are tried, however early one fits.
local function identify(entries, session, asked, nonce)
  local certificate = session.peer_cert
  local by_names = certificate and certificate.checked == "ca"
  local exporter = asked.proof and nonce and session:export_key(sessions.EXPORTER, 32)
  local found, refused
  for _, entry in ipairs(entries) do
    local is_it = entry.anyone or entry.pin and certificate and certificate.pin == entry.pin
      or entry.name and by_names and has_name(certificate, entry.name)
    if entry.token and exporter then
      is_it = core.same(asked.proof, sessions.proof(entry.token, asked.client_id, asked.group, nonce, exporter))
    end
    if is_it and fits(entry, asked) then
      found = found or entry
    elseif is_it then
      refused = entry
    end
  end
  return found, refused
end

--- Finds the entry that lets a peer register as what it asks for.
---@param entries echostream.tunnel.options.agent_entry[]
---@param session echostream.session
---@param asked { client_id: string, group: string, proof: string? }
---@param nonce string?  the one that it was given
---@return table? entry, echostream.error? err  `unauthenticated`: it is nobody we know; `permission_denied`: not that group or client id
function M.find(entries, session, asked, nonce)
  local found, refused = identify(entries, session, asked, nonce)
  if found then
    return found
  elseif refused then
    return nil, errors.new("permission_denied", ("these credentials are not for client %s of group %s"):format(asked.client_id, asked.group))
  elseif asked.proof and not nonce then
    return nil, errors.new("unauthenticated", "the proof has no challenge: ask for tunnel.challenge first, and register within 30 s")
  end
  return nil, errors.new("unauthenticated", asked.proof and "the proof of the token is wrong"
    or "nobody here knows these credentials: show a certificate that is listed, or prove a token")
end

return M
