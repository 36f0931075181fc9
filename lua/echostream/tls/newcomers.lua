--- What servers do about those who are not connected yet: the options, as servers and raw QUIC listeners share them.

local address = require "echostream.address"
local identity = require "echostream.tls.identity"

local M = {}

---@type table<string, echostream.options.field>
M.schema = {
  retry = { type = "string", one_of = { "auto", "always", "never" } },
  retry_above = { type = "integer", min = 1, max = 0x7fffffff },
  max_half_open = { type = "integer", min = 1, max = 0x7fffffff },
  max_half_open_per_address = { type = "integer", min = 1, max = 0x7fffffff },
  secret = { type = "string" },
}

--- Raises when the options make no sense; for `where` as in options.check.
---@param where string
---@param opts table  checked against the schema
function M.check(where, opts)
  if opts.secret and #opts.secret < 32 then
    error(('%s: option "secret" wants at least 32 bytes, got %d'):format(where, #opts.secret), 3)
  end
end

-- A secret kept beside the made key. Two servers must never share one: each could be made to say what resets the other's
-- connections (RFC 9000, 21.11). So the address is part of it, and a server on a port of chance has none.
local function kept_secret(opts, host, port, sim)
  if opts.cert or port == 0 or sim then
    return nil
  end
  local kept = identity.secret(opts.key, opts.state_dir)
  return kept and kept .. " " .. address.join(host, port)
end

--- Puts the options where loop.endpoint wants them.
---@param config table   for loop.endpoint
---@param opts table     of the server
---@param host string    numeric
---@param port integer   as it was asked for
---@param sim any        true in a simulation
---@return table config
function M.configure(config, opts, host, port, sim)
  for name in pairs(M.schema) do
    config[name] = opts[name]
  end
  config.secret = opts.secret or kept_secret(opts, host, port, sim)
  return config
end

return M
