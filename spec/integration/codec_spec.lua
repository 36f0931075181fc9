local echo = require "echostream"
local net = require "spec.support.net"

local codec = echo.codec

-- Values as "key=value" lines: enough to tell a codec of one's own from the built-in ones.
local function encode(...)
  local lines = {}
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "table" and value.forbidden then
      error("this cannot be written")
    end
    lines[i] = tostring(value)
  end
  return table.concat(lines, "\n")
end
local function decode(bytes)
  if bytes == "nonsense" then
    error(echo.error("whatever", "this cannot be read"))
  end
  local values = {}
  for line in bytes:gmatch "[^\n]+" do
    values[#values + 1] = line
  end
  return table.unpack(values)
end
codec.register("lines", { encode = encode, decode = decode }, { replace = true })

local text
do
  local lines = {}
  for i = 1, 2000 do
    lines[i] = ("%d: all work and no play makes jack a dull boy; "):format(i * i)
  end
  text = table.concat(lines)
end

-- Bytes that cannot be compressed.
local function noise(n)
  local state, bytes = 1, {}
  for i = 1, n do
    state = (state * 6364136223846793005 + 1442695040888963407)
    bytes[i] = string.char(state >> 56 & 255)
  end
  return table.concat(bytes)
end

local function host_stats(host)
  return host._host:stats()
end

local function echoing(server)
  server:add_rpc("echo", function(_, ...) return ... end)
  server:add_stream("echo", function(_, stream)
    for frame in stream:frames() do
      stream:send(frame.data)
    end
  end)
end

net.each_door(function(env)
  describe("codecs of users", function()
    env.it("carry calls both ways", function()
      local server, client = env.pair(echoing)
      client:add_rpc("echo", function(_, ...) return ... end)
      local lines = client:with { codec = "lines" }
      assert.same({ "1", "two", "3.5" }, { lines:request("echo", 1, "two", 3.5) })
      assert.same({ "x" }, { server:sessions()[1]:with({ codec = "lines" }):request("echo", "x") })
      assert.equal(1, client:request("echo", 1)) -- the others go on with MessagePack
    end)

    env.it("carry events", function()
      local got
      local _, client = env.pair(function(server)
        server:add_event("e", function(_, ...) got = { ... } end)
      end)
      assert(client:with({ codec = "lines" }):emit("e", 1, 2))
      env.eventually(function() return got end)
      assert.same({ "1", "2" }, got)
    end)

    env.it("carry the messages of streams", function()
      local _, client = env.pair(function(server)
        server:add_stream("s", function(_, stream)
          for frame in stream:frames() do
            stream:send("got " .. frame.data)
          end
        end, { codec = "lines" })
      end)
      local stream = assert(client:create_stream("s", { codec = "lines" }))
      assert(stream:send(42))
      assert.equal("got 42", assert(stream:recv()).data)
      stream:close()
    end)

    env.it("fail a call with serialization when they cannot write or read", function()
      local _, client = env.pair(function(server)
        echoing(server)
        server:add_rpc("bad", function() return { forbidden = true } end)
        server:add_rpc("nonsense", function() return "nonsense" end)
      end)
      local lines = client:with { codec = "lines" }
      assert.has_error(function() lines:request("echo", { forbidden = true }) end)
      local ok, err = lines:request("bad")
      assert.is_nil(ok)
      assert.equal("serialization", err.code)
      assert.matches("this cannot be written", err.message)
      assert.is_nil(err.message:find("codec_spec", 1, true)) -- no path of this machine
      ok, err = lines:request("nonsense")
      assert.is_nil(ok)
      assert.equal("serialization", err.code)
      assert.matches("codec lines: this cannot be read", err.message)
      ok, err = lines:request("echo", "nonsense")
      assert.is_nil(ok)
      assert.equal("serialization", err.code)
      assert.equal("fine", lines:request("echo", "fine"))
      assert.is_true(#env.logs > 0)
      env.logs = {}
    end)

    env.it("are unknown to a peer that did not announce them", function()
      local _, client = env.pair(echoing)
      assert.equal(1, client:request("echo", 1))
      local name = ("late.%s.%d"):format(env.kind, #codec.names)
      codec.register(name, { encode = encode, decode = decode })
      local late = client:with { codec = name }
      for _, try in ipairs {
        function() return late:request("echo", 1) end,
        function() return late:emit("e", 1) end,
        function() return late:create_stream("echo") end,
      } do
        local ok, err = try()
        assert.is_nil(ok)
        assert.equal("invalid_argument", err.code)
        assert.matches(name, err.message, 1, true)
      end
      assert.has_error(function() client:with { codec = "no such codec" } end)
    end)
  end)

  describe("what is secret", function()
    env.it("is never compressed, asked or answered, in calls, streams and events", function()
      local hidden = ("secret "):rep(1000)
      local server = env.server({ compress = true }, function(s)
        s:add_rpc("secret", function(_, t) return t end, { secret = true })
        s:add_rpc("plain", function(_, t) return t end)
        s:add_stream("secret.stream", function(_, stream)
          for frame in stream:frames() do stream:send(frame.data) end
        end, { secret = true })
        s:add_event("told", function() end)
      end)
      local client = env.connect(server, { compress = true })
      local calls = client:with { secret = true }
      assert.equal(hidden, calls:request("secret", hidden))
      assert.is_true(calls:emit("told", hidden))
      local stream = assert(calls:create_stream "secret.stream")
      stream:send(hidden)
      assert.equal(hidden, stream:recv().data)
      assert.equal(0, host_stats(client).compressed_out)
      assert.equal(0, host_stats(server).compressed_out)
      assert.equal(hidden, client:request("secret", hidden)) -- the answer to a compressed question neither
      assert.equal(1, host_stats(client).compressed_out)
      assert.equal(0, host_stats(server).compressed_out)
      assert.equal(hidden, calls:request("plain", hidden)) -- the handler did not say it
      assert.equal(1, host_stats(server).compressed_out)
      assert.is_true(client:describe("secret").secret)
    end)
  end)

  describe("compression", function()
    env.it("makes fewer bytes of what repeats itself, when asked to", function()
      local server, client = env.pair(echoing)
      local before = client:stats().bytes_sent
      assert.equal(text, client:request("echo", text))
      local plain = client:stats().bytes_sent - before
      assert.is_true(plain > #text)
      before = client:stats().bytes_sent
      assert.equal(text, client:with({ compress = true }):request("echo", text))
      local packed = client:stats().bytes_sent - before
      assert.is_true(packed < plain / 10, ("%d of %d bytes"):format(packed, plain))
      assert.equal(1, host_stats(client).compressed_out)
      assert.equal(1, host_stats(server).compressed_in)
      assert.equal(1, host_stats(server).compressed_out) -- the answer followed the question
      assert.is_true(host_stats(client).compression_saved > #text * 0.8)
    end)

    env.it("is an option of servers and clients, with a threshold", function()
      local server = env.server({ compress = { threshold = 500, level = 6 } }, echoing)
      local client = env.client(server, { compress = true })
      assert(client:connect(server.address))
      assert.equal(("x"):rep(600), client:request("echo", ("x"):rep(600)))
      assert.equal(0, host_stats(client).compressed_out) -- 1,024 by default
      assert.equal(1, host_stats(server).compressed_out)
      assert.equal(text, client:with({ compress = false }):request("echo", text))
      assert.equal(0, host_stats(client).compressed_out)
      local random = noise(20000)
      assert.equal(random, client:request("echo", random)) -- does not shrink: goes as it is
      assert.equal(0, host_stats(client).compressed_out)
      assert.has_error(function() client:with { compress = { level = 99 } } end)
      assert.has_error(function() echo.server { compress = "yes" } end)
    end)

    env.it("works for events, streams and errors", function()
      local got
      local server, client = env.pair(function(server)
        echoing(server)
        server:add_event("e", function(_, value) got = value end)
        server:add_rpc("fail", function() return nil, echo.error("odd", "no", { text = text }) end)
      end)
      local packed = client:with { compress = true, checksum = true }
      assert(packed:emit("e", text))
      env.eventually(function() return got end)
      assert.equal(text, got)
      local stream = assert(packed:create_stream("echo"))
      for i = 1, 5 do
        assert(stream:send(i .. text))
        assert.equal(i .. text, assert(stream:recv()).data)
      end
      stream:close()
      local _, err = packed:request("fail")
      assert.equal("odd", err.code)
      assert.equal(text, err.details.text)
      assert.is_true(host_stats(server).compressed_in >= 6)
      assert.equal(0, host_stats(server).checksum_errors + host_stats(client).checksum_errors)
    end)

    env.it("lets an event into a datagram that it would not fit", function()
      local got
      local _, client = env.pair(function(server)
        server:add_event("e", function(_, value) got = value end)
      end)
      client:request("sync")
      local long = ("x"):rep(4000)
      local ok, err = client:with({ unreliable = true }):emit("e", long)
      assert.is_nil(ok)
      assert.equal("resource_exhausted", err.code)
      assert(client:with({ unreliable = true, compress = true }):emit("e", long))
      env.eventually(function() return got end)
      assert.equal(long, got)
    end)
  end)

  describe("checksums", function()
    env.it("cost four bytes and change nothing else", function()
      local server = env.server({ checksum = true }, echoing)
      local client = env.client(server, { checksum = true })
      assert(client:connect(server.address))
      for _, value in ipairs { "", "x", text } do
        assert.equal(value, client:request("echo", value))
      end
      assert.equal(0, host_stats(server).checksum_errors)
    end)
  end)

  describe("extension types", function()
    env.it("arrive as what they are", function()
      local point = { __name = "point" }
      codec.extend(20, {
        name = "point",
        metatable = point,
        pack = function(p) return string.pack(">i4i4", p.x, p.y) end,
        unpack = function(bytes)
          local x, y = string.unpack(">i4i4", bytes)
          return setmetatable({ x = x, y = y }, point)
        end,
      })
      local _, client = env.pair(function(server)
        server:add_rpc("mirror", function(_, p)
          assert(getmetatable(p) == point)
          return setmetatable({ x = p.y, y = p.x }, point), { p }
        end)
      end)
      local p, list = client:request("mirror", setmetatable({ x = 3, y = -4 }, point))
      assert.equal(point, getmetatable(p))
      assert.same({ -4, 3, 3 }, { p.x, p.y, list[1].x })
    end)

    env.it("carry timestamps without being told", function()
      local _, client = env.pair(echoing)
      local now = codec.timestamp(1700000000, 123456789)
      local back = client:request("echo", now)
      assert.equal(now, back)
      assert.equal("1700000000.123456789", tostring(back))
    end)

    env.it("may use the codec themselves, and make calls fail cleanly", function()
      local nested, broken = {}, {}
      codec.extend(21, {
        metatable = nested,
        pack = function(v) return codec.msgpack.encode(v.value, ("y"):rep(9000)) end,
        unpack = function(bytes) return setmetatable({ value = codec.msgpack.decode(bytes) }, nested) end,
      })
      codec.extend(22, {
        metatable = broken,
        pack = function() return "x" end,
        unpack = function() error("never") end,
      })
      local _, client = env.pair(echoing)
      local list = {}
      for i = 1, 20 do list[i] = setmetatable({ value = { i } }, nested) end
      local back = client:with({ compress = true }):request("echo", list)
      assert.equal(20, #back)
      assert.same({ 20 }, back[20].value)
      local ok, err = client:request("echo", setmetatable({}, broken))
      assert.is_nil(ok)
      assert.equal("serialization", err.code)
      assert.matches("extension type 22: never", err.message)
    end)
  end)
end)
