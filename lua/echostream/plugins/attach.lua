--- A plugin for servers: the prompt of `echostream attach` over the network, for those whose certificates are named here.
---
---     local server = echo.server { bind = ":5000", client_pins = { admin }, … }
---     server:plugin(echo.plugins.attach { allow = { admin } })
---
--- Whoever attaches can run any Lua in this process. So it is never on by itself, it wants mutual TLS, and a list of public keys.

local errors = require "echostream.errors"
local identity = require "echostream.tls.identity"
local log = require "echostream.log"
local options = require "echostream.options"
local serve = require "echostream.attach.serve"
local task = require "echostream.task"

local M = {}

--- The stream that carries it.
M.STREAM = "echostream.attach"

-- Bytes of one message.
local PIECE = 32768

---@class echostream.options.attach_plugin
---@field allow string[]  the pins ("sha256:…") of the client certificates that may attach
---@field name? string    what the prompt says that it is (default: "server")
local schema = {
  allow = { type = "strings", required = true },
  name = { type = "string", default = "server" },
}

---@package
--- A stream as the connection that attach/serve.lua wants: everything by callback.
---@param stream echostream.stream
---@return table connection
function M.connection(stream)
  local link = { _queue = {}, _bytes = 0, _closed = false }

  local function write()
    while link._queue[1] do
      local data = table.concat(link._queue)
      link._queue = {}
      for from = 1, #data, PIECE do
        local piece = data:sub(from, from + PIECE - 1)
        if not stream:send(piece) then
          return link:close()
        end
        link._bytes = link._bytes - #piece
      end
    end
    link._writer = nil
    if link._closed then
      stream:close()
    end
  end

  function link:send(data)
    if not self._closed then
      self._queue[#self._queue + 1] = data
      self._bytes = self._bytes + #data
      self._writer = self._writer or task.spawn(write)
    end
  end

  function link:queued()
    return self._bytes
  end

  function link:close()
    if not self._closed then
      self._closed = true
      if not self._writer then
        stream:close()
      end
    end
  end

  return link
end

local function asks_for_certificates(server)
  local given = rawget(server, "_options") or {}
  return (given.ca or given.client_pins) and given.require_client_cert ~= false
end

-- Pins in one spelling.
local function pins_of(list)
  local pins = {}
  for _, text in ipairs(list) do
    local bytes = identity.pin_bytes(text)
    if not bytes then
      error(("plugins.attach: option \"allow\" wants pins such as \"sha256:…\", got %s"):format(errors.show(text)), 3)
    end
    pins[bytes] = true
  end
  if next(pins) == nil then
    error("plugins.attach: option \"allow\" names nobody: who may attach?", 3)
  end
  return pins
end

--- Makes the plugin. It refuses to be installed on a server that does not ask its clients for certificates.
---@param opts echostream.options.attach_plugin
---@return echostream.plugin
function M.attach(opts)
  local checked = options.check("plugins.attach", opts, schema)
  local allowed = pins_of(checked.allow)
  return {
    name = "attach",
    install = function(_, host)
      local server = host.context._host[1]
      if server.connect then
        error("plugins.attach: is for servers", 0)
      elseif not asks_for_certificates(server) then
        error("plugins.attach: the server must ask its clients for certificates: give it \"client_pins\" or \"ca\"", 0)
      end
      host:add_stream(M.STREAM, function(session, stream)
        local pin = session:peer_pin()
        if not pin or not allowed[identity.pin_bytes(pin)] then
          log.write("warn", ("somebody at %s may not attach and tried"):format(session.peer_addr), { session = session })
          error(errors.new("permission_denied", "this certificate may not attach"), 0)
        end
        log.write("info", ("%s attached from %s"):format(pin, session.peer_addr), { session = session })
        local connection = M.connection(stream)
        local take = serve.serve(connection, { server = server, name = checked.name })
        for frame in stream:frames() do
          take(frame.data)
        end
        take(nil)
      end)
    end,
  }
end

return M
