-- Issue 5's bar of backpressure: a stream into a reader that takes 1 MB/s keeps both processes within 8 MiB of their idle memory.
--
--   MIB=1024 RATE=1 lua5.4 spec/campaigns/slow.lua      (make campaign-slow)
--
-- The reader is a process of its own. Memory is what the kernel says is resident: at rest, connected and after an empty stream, and
-- at most during the long one (VmHWM, which is set back before it).

local child = require "spec.support.child"
local echo = require "echostream"

local M = {}

local MIB = 1 << 20

local function status(pid, field)
  local file <close> = assert(io.open(("/proc/%s/status"):format(pid)))
  return tonumber(file:read("a"):match(field .. ":%s*(%d+) kB")) * 1024
end

local function forget_peak(pid)
  local file <close> = assert(io.open(("/proc/%s/clear_refs"):format(pid), "w"))
  file:write("5")
end

-- The other process: takes `rate` bytes a second.
local function serve(rate)
  local server = echo.server { bind = "127.0.0.1:0", quiet = true }
  server:add_stream("slow", function(_, stream)
    local got, began = 0, echo.now()
    for frame in stream:frames() do
      got = got + #frame.data
      local left = began + got / rate - echo.now()
      if left > 0 then assert(echo.sleep(left)) end
    end
    stream:send(tostring(got))
  end)
  child.serve(server)
end

local function send(client, mib)
  local stream = assert(client:create_stream("slow"))
  local rest = ("x"):rep(65536 - 8)
  for i = 1, mib * MIB // 65536 do assert(stream:send(("%08d"):format(i) .. rest)) end -- each a string of its own
  assert(stream:finish())
  local frame = assert(stream:recv())
  assert(tonumber(frame.data) == mib * MIB, "bytes were lost")
  local stats = stream:stats()
  stream:close()
  return stats
end

--- Runs it.
---@param mib integer  to send
---@param rate number  bytes a second that the reader takes
---@return { sender: number, reader: number, seconds: number, waits: integer }  bytes above idle at most
function M.run(mib, rate)
  local reader = child.start("lua5.4", { "spec/campaigns/slow.lua", "serve", tostring(rate) })
  local address, pin = reader:expect "^ready (%S+) (%S+)"
  local client = assert(echo.connect(address, { pin = pin, timeout = 3600 }))
  send(client, 0)
  collectgarbage()
  local own = io.open("/proc/self/stat"):read "n"
  local idle = { sender = status(own, "VmRSS"), reader = status(reader.pid, "VmRSS") }
  forget_peak(own)
  forget_peak(reader.pid)
  local began = echo.now()
  local stats = send(client, mib)
  local result = { sender = status(own, "VmHWM") - idle.sender, reader = status(reader.pid, "VmHWM") - idle.reader,
    seconds = echo.now() - began, waits = stats.waits }
  client:close()
  reader:kill()
  return result
end

if arg and arg[0] and arg[0]:find "slow%.lua$" then
  if arg[1] == "serve" then
    serve(tonumber(arg[2]))
  else
    local mib, rate = tonumber(os.getenv "MIB") or 1024, (tonumber(os.getenv "RATE") or 1) * 1e6
    local failed = false
    echo.spawn(function()
      local r = M.run(mib, rate)
      print(("%d MiB at %.2f MB/s: sender %.1f MiB above idle, reader %.1f MiB; the sender waited %d times"):format(mib,
        mib * MIB / r.seconds / 1e6, r.sender / MIB, r.reader / MIB, r.waits))
      if math.max(r.sender, r.reader) > 8 * MIB then
        print "more than 8 MiB"
        failed = true
      end
    end):wait()
    if failed then os.exit(1) end
  end
end

return M
