--- How many instructions one call costs each side, by library and function: callgrind counts them, so the figures repeat
--- to a percent where the clock's are 10 % apart. The encryption is dearer here than on the CPU (valgrind has no VAES).
--- usage: LUA_PATH="bench/?.lua;lua/?.lua;lua/?/init.lua;;" LUA_CPATH="lua/?.so;;" lua5.4 \
---   bench/instructions.lua [IN_FLIGHT] [LINES] [middleware] [SIDE]
--- Two runs of different length are subtracted, so start and handshake are not in it.
local proc = require "proc"

local in_flight = tonumber(arg[1]) or 128
local lines = tonumber(arg[2]) or 40
local extra = arg[3] ~= "" and arg[3] or nil -- of bench/extras.lua, on the side that is counted
local only = arg[4]
local lua = os.getenv("LUA") or "lua5.4"
-- Long enough that the collector has run some times: what it costs is part of a call.
local short, long = 3000, tonumber(os.getenv("BENCH_CALLS")) or 15000

--- Instructions by "library function", themselves only, from a callgrind file.
---@param path string
---@return table<string, integer>
local function read_costs(path)
  local costs, names, objects = {}, {}, {}
  local object, key, after_call
  local function named(map, id, name)
    if name ~= "" then map[id] = name end
    return map[id]
  end
  for line in io.lines(path) do
    local kind, id, name = line:match("^(%a+)=%((%d+)%)%s?(.*)")
    if kind == "ob" then
      object = named(objects, id, name):match("[^/]+$")
    elseif kind == "cob" then
      named(objects, id, name)
    elseif kind == "fn" then
      key = object .. " " .. named(names, id, name)
    elseif kind == "cfn" then
      named(names, id, name)
    elseif line:find("^calls=") then
      after_call = true
    elseif line:find("^[%d+*-]") then
      local cost = line:match("^%S+ (%d+)")
      if after_call then
        after_call = false -- what the callee cost is counted there
      elseif cost and key then
        costs[key] = (costs[key] or 0) + math.tointeger(tonumber(cost))
      end
    end
  end
  return costs
end

--- One run with one side under callgrind.
local function run(side, calls)
  local out = ("%s/callgrind.%s.%d"):format(proc.dir, side, calls)
  local valgrind = { "valgrind", "-q", "--tool=callgrind", "--callgrind-out-file=" .. out }
  local counted = table.move(valgrind, 1, #valgrind, extra and 3 or 1, extra and { "env", "BENCH_EXTRA=" .. extra } or {})
  local function with(list, ...)
    local argv = table.move(list or {}, 1, #(list or {}), 1, {})
    for _, word in ipairs { ... } do argv[#argv + 1] = tostring(word) end
    return argv
  end
  local server = proc.start("instructions", with(side == "server" and valgrind or nil, lua, "bench/server.lua", "127.0.0.1:0",
    side == "server" and extra or nil))
  local ready, address, pin = pcall(proc.wait_log, server, "ready (%S+) (%S+)")
  if not ready then
    proc.stop(server)
    error(address, 0)
  end
  local _, ok = proc.run(with(side == "client" and counted or nil, lua, "bench/client.lua", "small", address, pin, server.pid,
    calls, in_flight))
  proc.stop(server)
  assert(ok, "the client failed")
  return read_costs(out)
end

local function show(side)
  local few, many = run(side, short), run(side, long)
  local calls = 2 * (long - short) -- the client warms up with as many
  local by_library, total, list = {}, 0, {}
  for key, cost in pairs(many) do
    local each = (cost - (few[key] or 0)) / calls
    local library = key:match("^%S+")
    by_library[library] = (by_library[library] or 0) + each
    total = total + each
    list[#list + 1] = { key, each }
  end
  print(("\n== %s: %.0f instructions per call, %d in flight%s"):format(side, total, in_flight,
    extra and ", " .. extra or ""))
  local libraries = {}
  for library, cost in pairs(by_library) do libraries[#libraries + 1] = { library, cost } end
  for _, ranking in ipairs { libraries, list } do
    table.sort(ranking, function(a, b) return a[2] > b[2] end)
    for i = 1, math.min(#ranking, ranking == list and lines or 8) do
      print(("%8.0f  %s"):format(ranking[i][2], ranking[i][1]))
    end
    print()
  end
end

os.execute("mkdir -p " .. proc.quote(proc.dir))
for _, side in ipairs { "server", "client" } do
  if not only or only == side then show(side) end
end
