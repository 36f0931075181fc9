--- The key and certificate of a server: given, or made. A made key is kept, so that its pin survives restarts; a certificate
--- for it is made anew at every start and lives 13 days (browsers refuse more than 14 for one known by its hash).

local core = require "echostream.core"
local errors = require "echostream.errors"
local log = require "echostream.log"
local files = require "echostream.loop.files"

local M = {}

--- Days a made certificate is valid.
M.DAYS = 13

local function hex(bytes)
  return (bytes:gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end))
end

--- A raw SHA-256 as the text users see.
---@param raw string
---@return string
function M.pin_text(raw)
  return "sha256:" .. hex(raw)
end

--- The raw bytes of "sha256:<64 hex digits>"; nil when it is none.
---@param text any
---@return string?
function M.pin_bytes(text)
  local digits = type(text) == "string" and text:match("^%s*[sS][hH][aA]256:([%x:]+)%s*$")
  digits = digits and digits:gsub(":", "")
  if digits and #digits == 64 then
    return (digits:gsub("%x%x", function(pair)
      return string.char(tonumber(pair, 16))
    end))
  end
end

--- Where keys are kept: $XDG_STATE_HOME/echostream, or ~/.local/state/echostream. nil when there is no home.
---@return string?
function M.state_dir()
  local state = os.getenv("XDG_STATE_HOME")
  if state and state:sub(1, 1) == "/" then
    return state .. "/echostream"
  end
  local home = os.getenv("HOME")
  return home and home:sub(1, 1) == "/" and home .. "/.local/state/echostream" or nil
end

-- What is in a file, made there when there is none.
local function kept(path, make, what)
  for _ = 1, 2 do
    local pem, err = files.read_secret(path)
    if pem then
      return pem
    elseif err then
      return nil, errors.new("io", ("the server's %s: %s"):format(what, err))
    end
    pem = make()
    local ok, problem = files.write_secret(path, pem)
    if ok then
      return pem
    elseif problem ~= "exists" then -- else another process was faster: read what it wrote
      return nil, errors.new("io", ("cannot keep the server's %s: %s"):format(what, tostring(problem)))
    end
  end
  return nil, errors.new("io", ("cannot keep the server's %s in %s"):format(what, path))
end

local function kept_key(path)
  return kept(path, core.key_generate, "key")
end

--- The secret that is kept beside a made key (`path`.secret, or server.secret in `state_dir`): 64 hex digits.
---@param path? string
---@param state_dir? string
---@return string? secret, echostream.error? err
function M.secret(path, state_dir)
  state_dir = state_dir or M.state_dir()
  if not path and not state_dir then
    return nil, errors.new("io", "there is no home directory")
  end
  return kept(path and path .. ".secret" or state_dir .. "/server.secret", function()
    return hex(core.random(32))
  end, "secret")
end

--- The private key of a server without a certificate: from `path`, else from `state_dir`/server.key. Where nothing can be
--- kept (no home, a read-only disk) it lives in memory, and a warning says that the pin will change.
---@param path? string
---@param state_dir? string
---@return string? pem, echostream.error? err
function M.key(path, state_dir)
  if path then
    return kept_key(path)
  end
  local told = state_dir ~= nil
  state_dir = state_dir or M.state_dir()
  local err = "there is no home directory"
  if state_dir then
    local ok, problem = files.make_directories(state_dir)
    err = problem
    if ok then
      local pem, failure = kept_key(state_dir .. "/server.key")
      if pem or told or failure.message:find("chmod", 1, true) then
        return pem, failure
      end
      err = failure.message
    elseif told then
      return nil, errors.new("io", ("state_dir %s: %s"):format(state_dir, tostring(err)))
    end
  end
  log.write("warn", ("the server's key cannot be kept (%s): its pin changes at the next start"):format(tostring(err)))
  return core.key_generate()
end

--- A certificate for a key.
---@param key_pem string
---@param names string[]  host names and addresses
---@return string? pem, echostream.error? err
function M.certificate(key_pem, names)
  return core.cert_self_sign(key_pem, names, M.DAYS)
end

return M
