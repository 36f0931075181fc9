-- What encoding and decoding a small call costs, in ns of CPU time, each with a new payload string per round so that the
-- collector has its usual work. Usage: .ci/env lua5.4 bench/codec.lua [rounds]
-- The goal is under 300 ns for encode and decode together (docs say why); lua-mpack, where it is installed, is the peer.
local codec = require "echostream.codec"

local rounds = tonumber(arg and arg[1]) or 1000000

local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end

-- ns per call of fn(i), the median of 5 runs, less the loop itself
local function cost(n, fn)
  local runs = {}
  for run = 1, 5 do
    collectgarbage()
    local began = os.clock()
    for i = 1, n do fn(i) end
    runs[run] = (os.clock() - began) / n * 1e9
  end
  return median(runs)
end

local fill = ("x"):rep(24)
local cases = {
  { "32 bytes", function(i) return ("%08d"):format(i) .. fill end },
  { "10, 20", function(i) return i & 63, 20 end },
  { "{ id, name, tags = 3 }", function(i) return { id = i, name = "somebody", tags = { "a", "b", "c" } } end },
}

local codecs = { { "msgpack", codec.msgpack }, { "json", codec.json } }
local ok, mpack = pcall(require, "mpack")
if ok and mpack.pack then
  codecs[#codecs + 1] = {
    "lua-mpack",
    { encode = function(...) return mpack.pack { ... } end, decode = function(s) return table.unpack(mpack.unpack(s)) end },
  }
end

print(("%-10s %-24s %9s %9s %9s"):format("codec", "arguments", "encode", "decode", "ns both"))
for _, entry in ipairs(codecs) do
  local name, c = entry[1], entry[2]
  for _, case in ipairs(cases) do
    local make = case[2]
    local n = name == "msgpack" and rounds or rounds // 4
    local base = cost(n, make)
    local encode = cost(n, function(i) return c.encode(make(i)) end) - base
    local both = cost(n, function(i) return c.decode(c.encode(make(i))) end) - base
    print(("%-10s %-24s %9.0f %9.0f %9.0f"):format(name, case[1], encode, both - encode, both))
  end
end
