--- Paths: the local address that a connection uses, and moving to another one.

local address = require "echostream.address"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.path.migrate_options
---@field bind? string     local address to move to, such as "192.0.2.7:0"; default: any address, another port
---@field timeout? number  seconds, 10

local schema = {
  bind = { type = "string" },
  timeout = { type = "seconds", default = 10 },
}

--- Checks the options of a `migrate` and says where to, and how long that may take.
---@param where string
---@param opts table?
---@param rec echostream.loop
---@param peer string  the peer's address
---@param level integer  as for error(): who is to blame
---@return string bind, number timeout
function M.check(where, opts, rec, peer, level)
  local checked = options.check(where, opts, schema, level)
  local six = peer:sub(1, 1) == "["
  if not checked.bind then
    return rec.sim and loop.simulated_address(rec) or six and "[::]:0" or "0.0.0.0:0", checked.timeout
  end
  local ok, name, port = pcall(address.parse, where, checked.bind, six and "::" or "0.0.0.0")
  if not ok then
    error(name, level)
  elseif not address.literal(name) then
    error(('%s: option "bind" wants an IP address and a port, got %q'):format(where, checked.bind), level)
  end
  return address.join(name, port), checked.timeout
end

local function move_session(timeout, ud, bind)
  return task.await(function(resume)
    local ok, err = ud:migrate(bind, resume)
    if not ok then
      resume(nil, err)
    end
  end, timeout)
end

--- The body of `session:migrate` and `client:migrate`: two calls below the user's.
---@param where string
---@param self table  with `_ud` and `_rec`
---@param peer string
---@param opts table?
---@param callback function?
---@return true|nil ok, echostream.error? err
function M.migrate(where, self, peer, opts, callback)
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  local bind, timeout = M.check(where, opts, self._rec, peer, 4)
  return task.wait_or_call_back(where, callback, move_session, timeout, self._ud, bind)
end

--- Checks the option `preferred_address`: one address or a list of them, each a literal with a port.
---@param where string
---@param value string|string[]|nil
---@param level integer
---@return string[]?
function M.preferred(where, value, level)
  if value == nil then
    return nil
  end
  local list = {}
  for i, text in ipairs(type(value) == "table" and value or { value }) do
    local ok, name, port = pcall(address.parse, where, text, "")
    if not ok or not address.literal(name) then
      error(('%s: option "preferred_address" wants an IP address with a port, got %s'):format(where, errors.show(text)), level)
    end
    list[i] = address.join(name, port)
  end
  return list
end

return M
