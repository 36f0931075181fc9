-- Very many calls through a bad network between two processes, each noted by the server: none lost, none run twice, no answer of
-- another call.
--   lua5.4 spec/interop/calls.lua [CALLS [name=value …]]      default: 100000 loss=0.05 delay=0.002; the names are impair.lua's

local echo = require "echostream"
local harness = require "spec.interop.harness"

local AT_ONCE = 100

local total = math.tointeger(tonumber(arg[1] or 100000))
local network = {}
for i = 2, #arg do
  local name, value = arg[i]:match "^([%l_]+)=(.+)$"
  network[assert(name, "not name=value: " .. arg[i])] = tonumber(value) or value
end
if #arg < 2 then
  network = { loss = 0.05, delay = 0.002 }
end

local began = os.time()
local ok, text = harness.run({ name = "calls", network = network, limit = 3600, server = { max_calls = 2 * AT_ONCE }, run = function(t)
  local client = assert(t:connect { timeout = 60 })
  local next_call, wrong, failed = 0, 0, 0
  local tasks = {}
  for i = 1, AT_ONCE do
    tasks[i] = echo.spawn(function()
      while next_call < total do
        next_call = next_call + 1
        local n = next_call
        local got, times = client:request("ledger", n)
        if got == nil then
          failed = failed + 1
        elseif got ~= n or times ~= 1 then
          wrong = wrong + 1
        end
      end
    end)
  end
  for _, task in ipairs(tasks) do
    task:wait()
  end
  local once, more = client:request "ledger_counts"
  local result = ("%d calls: %d ran once, %d more often, %d failed, %d wrong answers; %d datagrams lost"):format(
    total, once, more, failed, wrong, t.lost())
  if once ~= total or more ~= 0 or failed ~= 0 or wrong ~= 0 then
    error(result, 0)
  end
  return result
end }, "real", 1)
print(("%s; %d s"):format(text, os.time() - began))
os.exit(ok and 0 or 1)
