-- The plugin access_log, and the files that it writes.

local echo = require "echostream"
local appender = require "echostream.loop.appender"
local loop = require "echostream.loop"
local net = require "spec.support.net"
local process = require "spec.support.process"
local scratch = require "spec.support.scratch"

local access_log = echo.plugins.access_log

local function till(fn)
  while not fn() do echo.sleep(0.005) end
end

describe("plugins.access_log", function()
  it("says what it wants", function()
    assert.has_error(function() access_log { format = "xml" } end)
    assert.has_error(function() access_log { path = "x", write = print } end,
      'plugins.access_log: options "path" and "write" exclude each other')
    assert.has_error(function() echo.client { skip_verification = true }:plugin(access_log { path = "/nowhere/x" }) end)
  end)
end)

net.each(function(env)
  describe("the plugin access_log", function()
    local function up(opts)
      local lines, entries = {}, {}
      if not opts.path then
        opts.write = function(line, entry) lines[#lines + 1], entries[#entries + 1] = line, entry end
      end
      local plugin = access_log(opts)
      local server = env.server({}, function(server)
        server:plugin(plugin)
        server:auth(function(_, credentials) return credentials.user or "?" end)
        server:add_rpc("add", function(_, a, b) return a + b end)
        server:add_rpc("fail", function() return nil, echo.error("not_found", "no") end)
        server:add_rpc("slow", function() echo.sleep(0.05) return true end)
        server:add_event("note", function() end)
        server:add_stream("feed", function(_, stream) stream:send "x" end)
      end)
      return server, lines, entries, plugin
    end

    env.it("writes a line for every call, event, stream and session", function()
      local server, lines, entries, plugin = up {}
      local client = env.connect(server, { metadata = { user = "ann lee\n" } })
      client:request("add", 1, 2)
      client:request "fail"
      client:emit("note", 1)
      client:create_stream("feed"):recv()
      till(function() return #lines == 4 end)
      client:close()
      till(function() return #lines == 5 end)
      local kinds = {}
      for _, entry in ipairs(entries) do kinds[entry.kind .. " " .. entry.name] = entry end
      assert.truthy(lines[1]:find "^%d+%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ %S+:%d+ ann\\x20lee\\x0a rpc add ok %d+%.%d%d%dms id=%d+$",
        lines[1])
      assert.equal("not_found", kinds["rpc fail"].code)
      assert.equal("ok", kinds["event note"].code)
      assert.equal("ok", kinds["stream feed"].code)
      assert.equal("session", entries[5].kind)
      assert.equal("connection_closed", entries[5].code)
      assert.equal(5, plugin.lines)
      assert.is_true(server:remove_plugin "access_log")
      assert.equal(3, (env.connect(server):request("add", 1, 2)))
      assert.equal(5, #lines)
    end)

    env.it("writes JSON, with lengths and the trace", function()
      local server, lines = up { format = "json", bytes = true, sessions = false, only = { "add" } }
      local client = env.connect(server, { metadata = { user = "\xff" } })
      client:middleware(echo.trace.middleware())
      client:request("add", 1, 2)
      client:request "fail"
      assert.equal(1, #lines)
      local entry = assert(echo.codec.json.unpack(lines[1]))
      assert.same({ "rpc", "add", "ok", "\\xff", 3, 2 }, { entry.kind, entry.name, entry.code, entry.who, entry.bytes_in, entry.bytes_out })
      assert.truthy(entry.trace_id:find "^%x+$")
      local other, _, entries = up { bytes = true, sessions = false, only = { "feed", "note", "fail" } }
      client = env.connect(other)
      client:create_stream("feed"):recv()
      client:emit("note", "12345")
      client:request("fail", ("x"):rep(1000))
      till(function() return #entries == 3 end)
      local bytes = {}
      for _, each in ipairs(entries) do bytes[each.name] = { each.bytes_in, each.bytes_out } end
      assert.same({ feed = { 0, 1 }, note = { 7 }, fail = { 1004 } }, bytes)
    end)

    env.it("says nothing that begins a line or talks to a terminal, and keeps it short", function()
      local server, lines = up { sessions = false }
      local user = "eve\r\n2026 forged\27[2J\194\155m \"x\" \\x0a \255" .. ("y"):rep(5000)
      env.connect(server, { metadata = { user = user } }):request("add", 1, 2)
      assert.equal("eve\\x0d\\x0a2026\\x20forged\\x1b[2J\\xc2\\x9bm\\x20\\x22x\\x22\\x20\\x5cx0a\\x20",
        lines[1]:match "^%S+ %S+ (.-)\\xff", lines[1])
      assert.is_true(#lines[1] < 600)
      assert.is_nil(lines[1]:find "[%c\127-\255]")
    end)

    env.it("lets no call fail because its line does", function()
      local server = up { format = function() error "cannot write this" end }
      local client = env.connect(server)
      assert.equal(3, (client:request("add", 1, 2)))
      client:close()
      till(function() return env.logged "access_log: " end)
    end)

    env.it("takes samples of what went well and was fast", function()
      local server, _, entries = up { sample = 0, slow = 0.04, sessions = false }
      local client = env.connect(server)
      client:request("slow")
      client:request "fail"
      local codes = {}
      for _, entry in ipairs(entries) do codes[entry.name] = entry.code end
      assert.same({ "ok", "not_found" }, { codes.slow, codes.fail })
      local all, _, seen = up { format = function(entry) return entry.name ~= "add" and entry.name or nil end }
      client = env.connect(all)
      client:request("add", 1, 2)
      client:request "fail"
      assert.same({ "fail" }, { seen[1].name, seen[2] and seen[2].name })
    end)

    env.it("adds to a file", function()
      local path = scratch.path ".log"
      local server, _, _, plugin = up { path = path, sessions = false, max_queue = 65536 }
      local client = env.connect(server)
      for i = 1, 20 do client:request("add", i, i) end
      server:remove_plugin "access_log"
      local function written() return select(2, (process.read(path) or ""):gsub("\n", "")) end
      till(function() return written() == 20 end)
      assert.equal(0, plugin.dropped)
    end)

    env.it("adds what was under way when it was taken away", function()
      local path = scratch.path ".log"
      local server, _, _, plugin = up { path = path, sessions = false }
      local began, go
      server:add_rpc("long", function() began = true return echo.await(function(resume) go = resume end) end)
      local client = env.connect(server)
      local call = echo.spawn(function() return client:request "long" end)
      till(function() return began end)
      server:remove_plugin "access_log"
      go(true)
      assert.is_true(call:wait(10))
      till(function() return (process.read(path) or ""):find " rpc long ok .*\n" end)
      assert.same({ 1, 0 }, { plugin.lines, plugin.dropped })
    end)
  end)
end)

net.only("quic", function(env)
  describe("an appender", function()
    env.it("keeps the order, drops what there is no room for, and writes what is queued when it is closed", function()
      local path = scratch.path()
      local file = assert(appender.open(path, 100))
      assert.is_true(file:add(("a"):rep(60))) -- goes to the disk at once
      assert.is_true(file:add(("b"):rep(60)))
      assert.is_false(file:add(("c"):rep(60)))
      file:close()
      file:close()
      assert.is_false(file:add "d")
      till(function() return file.written == 120 end)
      assert.equal(("a"):rep(60) .. ("b"):rep(60), process.read(path))
      assert.equal(2, file.dropped)
      assert.is_nil((appender.open("/nowhere/at/all", 1)))
    end)

    env.it("says once that the disk is full", function()
      if not loop.luv().fs_stat "/dev/full" then return end
      local file = assert(appender.open("/dev/full", 100))
      file:add "a"
      file:add "b"
      till(function() return file.dropped == 2 end)
      assert.truthy(env.logged "cannot write to /dev/full")
      assert.equal(1, #env.logs)
      file:close()
    end)
  end)
end)
