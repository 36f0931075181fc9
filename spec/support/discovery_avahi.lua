-- Inside avahi_namespace.sh: avahi finds us, we find avahi, and names are given once. Prints a line for each thing that was seen; a
-- failure is an error.

local echo = require "echostream"
local process = require "echostream.loop.process"
local discovery = echo.discovery

local LIMIT = 60

-- A program whose lines are waited for.
local function start(name, arguments)
  local self = { lines = {}, resumes = {} }
  local function wake()
    local resumes = self.resumes
    self.resumes = {}
    for _, resume in ipairs(resumes) do resume(true) end
  end
  self.child = assert(process.start(name, arguments, function(line)
    table.insert(self.lines, line)
    wake()
  end, function()
    self.ended = true
    wake()
  end))
  function self.expect(_, pattern)
    local deadline, at = echo.now() + LIMIT, 1
    while true do
      while self.lines[at] do
        if self.lines[at]:find(pattern) then
          return self.lines[at]:match(pattern)
        end
        at = at + 1
      end
      assert(not self.ended and echo.now() < deadline, name .. " did not say " .. pattern .. ", but:\n" .. table.concat(self.lines, "\n"))
      echo.await(function(resume) table.insert(self.resumes, resume) end, deadline - echo.now())
    end
  end
  function self.stop()
    self.child:stop()
    while not self.ended do
      assert(echo.await(function(resume) table.insert(self.resumes, resume) end, LIMIT))
    end
  end
  return self
end

local function wait_for(browser, wanted, name)
  while true do
    local what, found = browser:next(LIMIT)
    assert(what, tostring(found))
    if what == wanted and found.name == name then return found end
  end
end

local server <close> = assert(echo.server { bind = "0.0.0.0:0", quiet = true }:start())
server:add_rpc("hello", function() return "hello from here" end)

-- avahi finds us
local avahi = start("avahi-browse", { "--resolve", "--parsable", "_echostream._udp" })
local guard = assert(discovery.advertise { name = "v1.ours", server = server, via = "mdns", properties = { room = "kitchen" } })
local port, txt = avahi:expect "^=;v%d;IPv4;v1\\%.ours;_echostream%._udp;local;[^;]*;10%.77%.0%.2;(%d+);(.*)$"
assert(server.address:match ":(%d+)$" == port)
assert(txt:find('"room=kitchen"', 1, true) and txt:find('"pin=' .. server.pin .. '"', 1, true), txt)
avahi:expect "^=;v%d;IPv6;v1\\%.ours;"
print "avahi finds us"

-- what avahi's user would do with it
local client = assert(echo.connect { address = "10.77.0.2:" .. port, properties = { pin = txt:match "pin=(sha256:%x+)" } })
assert(client:request "hello" == "hello from here")
client:close()

-- avahi asks for a name that is ours
local rival = start("avahi-publish-service", { "--", "v1.ours", "_echostream._udp", "4000" })
rival:expect "^Established under name 'v1%.ours #2'"
rival:stop()
print "avahi takes another name than ours"

-- another network is joined while the service is up
assert(os.execute "ip addr add 10.78.0.2/24 dev v3 && ip link set v3 up")
assert(avahi:expect "^=;v%d;IPv4;v1\\%.ours;.*;10%.78%.0%.2;(%d+);" == port)
print "avahi finds us in a second network"

guard:close()
avahi:expect "^%-;v%d;IPv4;v1\\%.ours;"
print "avahi sees us go"

-- we find avahi
local browser = assert(discovery.browse())
local publisher = start("avahi-publish-service", { "--subtype=_light._sub._echostream._udp", "--", "über dort", "_echostream._udp", "4321",
  "path=/x", "flag", "a.b=c=d" })
publisher:expect "^Established"
local found = assert(discovery.discover("über dort", LIMIT))
assert(found.address:find "^10%.7[78]%.0%.1:4321$", found.address)
assert(found.properties.path == "/x" and found.properties.flag == true and found.properties["a.b"] == "c=d")
assert(discovery.discover({ subtype = "_light" }, LIMIT).name == "über dort")
wait_for(browser, "add", "über dort")
print "we find avahi"

-- its names are its own
local other = assert(discovery.advertise { name = "über dort", port = 4000, via = "mdns" })
assert(other.name == "über dort (2)", other.name)
other:close()
print "we take another name than avahi's"

publisher:stop()
wait_for(browser, "remove", "über dort")
print "we see avahi go"

-- avahi speaks for us
local through = assert(discovery.advertise { name = "through avahi", port = 4322, properties = { x = 1 } })
assert(through.via == "avahi")
found = wait_for(browser, "add", "through avahi")
assert(found.address:find "^10%.7[78]%.0%.1:4322$" and found.properties.x == "1")
through:close()
wait_for(browser, "remove", "through avahi")
print "avahi speaks for us"

avahi:stop()
browser:close()
