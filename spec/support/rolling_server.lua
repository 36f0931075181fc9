-- A server for campaigns that restart it as one does: SIGTERM, it drains and ends.
--   lua5.4 spec/support/rolling_server.lua ADDRESS STATE_DIR GRACE
-- Says "listening ADDRESS PIN" when it is ready. Methods: `now(n)` answers n + 1 at once, `soon(n, seconds)` after a while. Neither is
-- idempotent. Ends when its standard input does.

local echo = require "echostream"
local uv = require "luv"

local server = echo.server { bind = arg[1], state_dir = arg[2], quiet = true, max_calls = 10000, grace = tonumber(arg[3]) }
server:add_rpc("now", function(n) return n + 1 end, { session = false })
server:add_rpc("soon", function(n, seconds)
  echo.sleep(seconds)
  return n + 1
end, { session = false })
assert(server:start())

local input = uv.new_pipe(false)
input:open(0)
input:read_start(function(err, data)
  if err or not data then os.exit(0, false) end
end)
input:unref()
io.stdout:write("listening ", server.address, " ", server.pin, "\n")
io.stdout:flush()
assert(server:run())
os.exit(0, false)
