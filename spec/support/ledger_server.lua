-- A server for campaigns that kill it: notes every run in a file before it answers, and ends when its standard input does.
--   lua5.4 spec/support/ledger_server.lua ADDRESS STATE_DIR LEDGER [NAME]
-- Says "listening ADDRESS PIN" when it is ready. Methods: `run(id)` notes "id NAME" and returns NAME; `once(id)` is the same, declared
-- idempotent.

local echo = require "echostream"
local uv = require "luv"

local address, state_dir, path, name = arg[1], arg[2], arg[3], arg[4] or "server"
local ledger = assert(io.open(path, "a"))
ledger:setvbuf "no" -- a line is one write: it is in the file before the answer is on its way
ledger:write "\n" -- whoever was killed before may have left a line without an end

local server = echo.server { bind = address, state_dir = state_dir, quiet = true, max_calls = 10000, dedupe = true }
local function note(id)
  ledger:write(id .. " " .. name .. "\n")
  return name
end
server:add_rpc("run", note, { session = false })
server:add_rpc("once", note, { session = false, idempotent = true })
assert(server:start())

local input = uv.new_pipe(false)
input:open(0)
input:read_start(function(err, data)
  if err or not data then
    os.exit(0, false)
  end
end)
io.stdout:write("listening ", server.address, " ", server.pin, "\n")
io.stdout:flush()
echo.run()
