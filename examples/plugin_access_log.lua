-- A plugin that writes one line for every call a server answers, and counts them.
--
--   lua5.4 examples/plugin_access_log.lua     shows it at work
--
-- As a module: local access_log = require "plugin_access_log"; server:plugin(access_log { write = print })

local echo = require "echostream"

--- Makes the plugin. `write(line)`: where lines go, default standard error.
local function access_log(options)
  local write = options and options.write or function(line) io.stderr:write(line, "\n") end
  return {
    name = "access_log",

    install = function(_, host)
      local counts = { ok = 0, failed = 0 }
      host:middleware(function(call, next)
        local began = echo.now()
        local response = next(call)
        local outcome = response.ok and "ok" or response.err.code
        local word = response.ok and "ok" or "failed"
        counts[word] = counts[word] + 1
        write(("%s %s %s %s %.1f ms"):format(call.session.identity or "-", call.kind, call.name, outcome,
          (echo.now() - began) * 1000))
        return response
      end, { direction = "in" })
      host:add_rpc("access_log.counts", function() return counts end)
      host:on_connect(function(session) write(("connected from %s"):format(session.peer_addr)) end)
      host:on_disconnect(function(_, err) write(("gone: %s"):format(err.message)) end)
    end,
  }
end

if arg and arg[0] and arg[0]:find "plugin_access_log%.lua$" then
  local server = echo.server { bind = "127.0.0.1:0", quiet = true }
  server:plugin(access_log { write = print })
  server:auth(function(_, credentials) return credentials.user end)
  server:add_rpc("divide", function(_, a, b)
    if b == 0 then return nil, echo.error("invalid_argument", "by zero") end
    return a / b
  end)
  assert(server:start())

  local client = assert(echo.connect(server.address, { pin = server.pin, metadata = { user = "ann" } }))
  client:request("divide", 1, 2)
  client:request("divide", 1, 0)
  local counts = client:request "access_log.counts"
  print(("%d well, %d not"):format(counts.ok, counts.failed))
  server:remove_plugin "access_log"
  client:request("divide", 1, 2) -- of this one there is no line
  client:close()
  server:stop()
end

return access_log
