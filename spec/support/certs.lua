-- Certificates for specs: authorities, and what they issue.

local core = require "echostream.core"
local scratch = require "spec.support.scratch"

local M = {}

local DAY = 86400

-- Writes text into a file that lives as long as the process needs it.
function M.file(text)
  local path = scratch.path()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

---@param name string
function M.authority(name)
  local key = core.key_generate()
  local cert = assert(core.cert_issue {
    key = key, names = { name }, authority = true, not_before = os.time() - DAY, not_after = os.time() + 365 * DAY,
  })
  return { key = key, cert = cert, file = M.file(cert) }
end

-- What an authority issues; opts: names, from and to (days from now), servers, clients, key.
function M.issue(authority, opts)
  local key = opts.key or core.key_generate()
  local cert = assert(core.cert_issue {
    key = key,
    names = opts.names or { "localhost" },
    not_before = math.floor(os.time() + (opts.from or -1) * DAY),
    not_after = math.floor(os.time() + (opts.to or 30) * DAY),
    servers = opts.servers ~= false,
    clients = opts.clients ~= false,
    issuer_cert = authority and authority.cert,
    issuer_key = authority and authority.key,
  })
  return { key = key, cert = cert, pin = M.pin(cert) }
end

function M.pin(cert)
  return require("echostream.tls.identity").pin_text(core.cert_inspect(cert).spki)
end

return M
