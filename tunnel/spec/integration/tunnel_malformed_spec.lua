-- The lists of malformed and of odd requests over real sockets, with a backend behind that writes down every byte that reaches it: through
-- a listener and a dialled connection alone, and the whole way through server, session and agent.

local engines = require "echostream.tunnel.engine"
local malformed = require "tunnel.spec.support.malformed"
local net = require "spec.support.net"
local relays = require "tunnel.spec.support.relay"
local sockets = require "echostream.tunnel.socket"
local world = require "tunnel.spec.support.world"

local T <const> = 100 -- seconds that nothing here needs

-- A backend that keeps what it gets and answers each connection once: options of a listener.
local function recorder()
  local r = { bytes = {}, connections = 0 }
  r.listen = { ip = "127.0.0.1", kind = "raw", on_socket = function(s)
    r.connections = r.connections + 1
    local answered
    s:notify(function(_, what)
      local bytes = what == "data" and s:read()
      while bytes do
        table.insert(r.bytes, bytes)
        if not answered then
          answered = true
          s:write "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        end
        bytes = s:read()
      end
      if what == "eof" then s:close(true) end
    end)
  end }
  return r
end

-- Sends bytes and gives all that comes back until the other side ends.
local function send(engine, port, bytes, piece)
  local s = assert(sockets.connect(engine, { ip = "127.0.0.1", port = port }))
  for at = 1, #bytes, piece or #bytes do
    if not s:write(bytes:sub(at, at + (piece or #bytes) - 1)) then break end -- it has heard enough
  end
  local got = {}
  while true do
    local more = s:read(nil, T)
    if not more then break end
    table.insert(got, more)
  end
  s:close()
  return table.concat(got)
end

-- Each of the malformed ones is answered as the list says and the connection ends. → how many
local function refuse_all(engine, port, piece)
  local n = 0
  for _, row in ipairs(malformed.requests()) do
    local is_http2 = row.bytes:find "^PRI " -- the listener speaks that too
    if not is_http2 and (not piece or #row.bytes < 2000 and row.class ~= "chunk") then
      n = n + 1
      local answer = send(engine, port, row.bytes, piece)
      assert.are.equal(row.status, tonumber(answer:match "^HTTP/1.1 (%d+) "), ("%q"):format(row.bytes:sub(1, 200)))
      assert.truthy(answer:find("\r\nconnection: close\r\n", 1, true))
    end
  end
  return n
end

-- Each of the odd ones is answered by the backend, which was asked what the list says. → how many
-- With `canonical`, without those whose path the rules see in another form.
local function pass_all(engine, port, backend, canonical)
  local n = 0
  for _, row in ipairs(malformed.fine()) do
    backend.bytes = {}
    local asked = row.bytes:gsub("HTTP/1%.%d\r\n", "%0Connection: close\r\n", 1)
    local other = canonical and (row.says:find "//" or row.says:find "%.%." or row.says:find "%%zz" or row.says:find '["\\{|]')
    if not other and not row.bytes:find "Upgrade" and not row.bytes:find "^CONNECT" and not row.bytes:find "Connection:" then
      n = n + 1
      local answer = send(engine, port, asked)
      assert.are.equal("200", answer:match "^HTTP/1.1 (%d+) ", ("%q: %q"):format(row.bytes:sub(1, 200), answer))
      assert.are.equal(1, (table.concat(backend.bytes) .. " "):find(row.says .. " HTTP/1.1\r\n", 1, true), row.says)
    end
  end
  return n
end

describe("malformed requests over sockets", function()
  local engine, backend, relay

  before_each(function()
    engine = engines.new()
    backend = recorder()
    relay = relays.start(tonumber(assert(engine:listen(backend.listen)):address():match ":(%d+)$"))
  end)
  after_each(function()
    relay.close()
    engine:close()
  end)

  it("are each refused, and not a byte reaches the backend", function()
    local n = refuse_all(engine, relay.port)
    assert.is_true(n >= 200)
    assert.are.equal(n, #relay.refused)
    assert.are.equal(0, backend.connections)
  end)

  it("in small pieces too", function()
    assert.is_true(refuse_all(engine, relay.port, 7) >= 150)
    assert.are.equal(0, backend.connections)
  end)

  it("odd ones that are well-formed reach it", function()
    assert.is_true(pass_all(engine, relay.port, backend) >= 40)
  end)
end)

net.only("quic", function(env)
  describe("the whole way through the tunnel", function()
    local function start()
      local backend = recorder()
      local w = world.new(env, { backend = function() end, backend_listen = backend.listen })
      return tonumber(w.address:match ":(%d+)$"), backend, w
    end

    env.it("malformed requests are refused, and not a byte reaches the backend", function()
      local port, backend, w = start()
      assert.is_true(refuse_all(engines.current(), port) >= 200)
      assert.are.equal("", table.concat(backend.bytes))
      for _, record in ipairs(w.records) do assert.is_nil(record.agent) end
      send(engines.current(), port, "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
      assert.truthy(table.concat(backend.bytes):find "^GET / HTTP/1.1\r\n") -- it would have written them down
    end)

    env.it("odd ones that are well-formed arrive", function()
      local port, backend = start()
      assert.is_true(pass_all(engines.current(), port, backend, true) >= 38)
    end)
  end)
end)
