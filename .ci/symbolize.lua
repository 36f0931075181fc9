-- Names the functions of our module in a sanitizer's report. The module is unloaded when its Lua state closes, so at exit the
-- sanitizer no longer knows whose addresses these were; spec/support/report.lua saved the memory map before.
-- Usage: symbolize.lua REPORT MAPS
local report, maps = arg[1], arg[2]

local segments = {}
for line in io.lines(maps) do
  local from, to, offset, path = line:match "^(%x+)%-(%x+) r%-xp (%x+) %S+ %S+%s+(%S.*)$"
  if from then
    segments[#segments + 1] = { tonumber(from, 16), tonumber(to, 16), tonumber(offset, 16), path }
  end
end

local known = {}
local function name(address)
  for _, segment in ipairs(segments) do
    if address >= segment[1] and address < segment[2] then
      local offset = address - segment[1] + segment[3]
      if not segment[4]:find "echostream/core%.so$" then return ("%s+0x%x"):format(segment[4]:match "[^/]*$", offset) end
      if not known[offset] then
        local pipe <close> = assert(io.popen(("addr2line -fsie '%s' 0x%x"):format(segment[4], offset - 1)))
        known[offset] = pipe:read "a":gsub("\n(.)", " %1"):gsub("%s*$", "")
      end
      return known[offset]
    end
  end
end

for line in io.lines(report) do
  local head, address = line:match "^(%s+#%d+) (0x%x+)"
  local found = head and name(math.tointeger(tonumber(address)))
  print(found and head .. " " .. found or line)
end
