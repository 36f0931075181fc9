--- Passwords and tokens as configuration keeps them, compared in constant time.

local core = require "echostream.core"
local tunnel_core = require "echostream.tunnel.core"

local M = {}

local MAX_ROUNDS <const> = 1000000

local function from_hex(text)
  return (text:gsub("%x%x", function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

local function to_hex(bytes)
  return (bytes:gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end))
end

--- Reads a stored secret: "sha256:" and 64 hexadecimal digits (for tokens, which nobody can guess), "pbkdf2-sha256:ROUNDS:SALT:HEX" (for
--- passwords; see `hash`),
--- or "plain:" and the text itself.
---@param text any
---@return { kind: string, hash: string?, salt: string?, rounds: integer?, text: string? }? secret, string? why
function M.read(text)
  if type(text) ~= "string" then
    return nil, "wants a text such as pbkdf2-sha256:…, sha256:… or plain:…"
  end
  local plain = text:match "^plain:(.+)$"
  if plain then
    return { kind = "plain", text = plain }
  end
  local digits = text:match "^sha256:(%x+)$"
  if digits and #digits == 64 then
    return { kind = "sha256", hash = from_hex(digits) }
  end
  local rounds, salt, hex = text:match "^pbkdf2%-sha256:(%d%d?%d?%d?%d?%d?%d?):([^:]+):(%x+)$"
  if rounds and #hex == 64 and tonumber(rounds) >= 1 and tonumber(rounds) <= MAX_ROUNDS then
    return { kind = "pbkdf2", rounds = math.tointeger(tonumber(rounds)), salt = salt, hash = from_hex(hex) }
  end
  return nil, "is no pbkdf2-sha256:ROUNDS:SALT:64 digits, sha256:64 digits, or plain:text" -- and is not shown: it may be a secret
end

--- Whether what somebody gave is the secret. A PBKDF2 of 100,000 rounds takes about 40 ms.
---@param secret table  of `read`
---@param given string
---@return boolean
function M.same(secret, given)
  if secret.kind == "plain" then
    return core.same(given, secret.text)
  elseif secret.kind == "sha256" then
    return core.same(tunnel_core.sha256(given), secret.hash)
  end
  return core.same(tunnel_core.pbkdf2_sha256(given, secret.salt, secret.rounds), secret.hash)
end

--- What to write into the configuration for a password.
---@param password string
---@param rounds? integer  default 100,000
---@return string
function M.hash(password, rounds)
  local salt = to_hex(core.random(16))
  rounds = rounds or 100000
  return ("pbkdf2-sha256:%d:%s:%s"):format(rounds, salt, to_hex(tunnel_core.pbkdf2_sha256(password, salt, rounds)))
end

--- What to write into the configuration for a token, or the key under which one is found.
---@param token string
---@return string
function M.digest(token)
  return "sha256:" .. to_hex(tunnel_core.sha256(token))
end

return M
