-- A server whose code changes while a client talks to it, without a call being lost.
--
--   lua5.4 examples/reload.lua [RELOADS]
--
-- The code is a file of its own, as it would be for `echostream serve --watch FILE`.

local echo = require "echostream"

local reloads = tonumber(arg[1]) or 20
local path = os.tmpname()

local function write_version(n)
  local file <close> = assert(io.open(path, "w"))
  file:write(([[
    local server = ...
    local echo = require "echostream"
    server:add_rpc("work", function(_, n)
      echo.sleep(0.01)                     -- so that there are always calls of the version before
      return n * 2, %d
    end, { doc = "Doubles a number." })
  ]]):format(n))
end

local server = echo.server { quiet = true }
write_version(1)
assert(server:load(path))
assert(server:start())
local client = assert(echo.connect(server.address, { pin = server.pin }))

echo.set_log(function(record)
  if record.level ~= "info" then
    io.stderr:write(record.message, "\n")
  end
end)

local calls, failed, by_version, over = 0, 0, {}, false
local workers = {}
for i = 1, 20 do
  workers[i] = echo.spawn(function()
    while not over do
      calls = calls + 1
      local n = calls
      local answer, version = client:request("work", n)
      if answer == n * 2 then
        by_version[version] = (by_version[version] or 0) + 1
      else
        failed = failed + 1
      end
    end
  end)
end

for version = 2, reloads + 1 do
  echo.sleep(0.02)
  write_version(version)
  assert(server:reload())
  if version == 2 then
    print("while the first is replaced: " .. client:describe("work").versions)
  end
end
over = true
for _, worker in ipairs(workers) do
  worker:wait()
end
local versions = 0
for _ in pairs(by_version) do
  versions = versions + 1
end
print(("%d calls, answered by %d versions of the code; %d failed"):format(calls, versions, failed))
client:close()
server:stop()
os.remove(path)
