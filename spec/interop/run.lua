-- Runs the interop cases and prints a table.
--   lua5.4 spec/interop/run.lua [sim | real] [SEED] [words of names …]      default: both, seed 1, every case

local uv = require "luv"
local cases = require "spec.interop.cases"
local harness = require "spec.interop.harness"

local kinds, seed, words = { "sim", "real" }, 1, {}
for _, word in ipairs(arg) do
  if word == "sim" or word == "real" then
    kinds = { word }
  elseif math.tointeger(tonumber(word)) then
    seed = math.tointeger(tonumber(word))
  else
    words[#words + 1] = word
  end
end

local function wanted(case)
  for _, word in ipairs(words) do
    if case.name:find(word, 1, true) then
      return true
    end
  end
  return #words == 0
end

io.stdout:setvbuf "line"
local passed, failed = 0, 0
for _, kind in ipairs(kinds) do
  print(kind == "sim" and "simulated" or "two processes and a proxy")
  for _, case in ipairs(cases) do
    if wanted(case) and harness.has(case, kind) then
      local began = uv.hrtime()
      local ok, text = harness.run(case, kind, seed)
      passed, failed = passed + (ok and 1 or 0), failed + (ok and 0 or 1)
      print(("  %-4s %-22s %6.2f s  %s"):format(ok and "ok" or "FAIL", case.name, (uv.hrtime() - began) / 1e9, text))
    end
  end
end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and 0 or 1)
