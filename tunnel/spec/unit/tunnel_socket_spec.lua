local certs = require "spec.support.certs"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local engines = require "echostream.tunnel.engine"
local scratch = require "spec.support.scratch"
local sockets = require "echostream.tunnel.socket"
local task = require "echostream.task"

local T <const> = 60

describe("a raw socket", function()
  local engine
  before_each(function() engine = engines.new() end)
  after_each(function() engine:close() end)

  -- A listener whose sockets are served by tasks; what they raise or return goes to `ended`.
  local function listen(options, serve)
    options.kind, options.ip = options.kind or "raw", not options.path and "127.0.0.1" or nil
    options.on_socket = function(raw)
      local s = sockets.new(raw)
      echo.spawn(function() serve(s) end)
    end
    return assert(engine:listen(options))
  end

  local function place(l, more)
    more = more or {}
    more.ip, more.port = "127.0.0.1", tonumber(l:address():match ":(%d+)$")
    return more
  end

  local function mirror(s)
    while true do
      local bytes = s:read(nil, T)
      if not bytes then break end
      assert(s:write(bytes))
    end
    s:finish()
  end

  local function read_all(s)
    local parts = {}
    while true do
      local bytes, err = s:read(nil, T)
      if not bytes then return table.concat(parts), err end
      parts[#parts + 1] = bytes
    end
  end

  it("carries bytes both ways, each direction until its end", function()
    local l = listen({}, mirror)
    local s = assert(sockets.connect(engine, place(l)))
    local sent = ("0123456789"):rep(300000)
    local sender = echo.spawn(function()
      for at = 1, #sent, 100000 do assert(s:write(sent:sub(at, at + 99999))) end
      s:finish()
    end)
    assert.is_true(sent == read_all(s))
    assert.is_true(sender:wait(T))
    local info = s:info()
    assert.equal(l:address(), info.peer)
    assert.equal(#sent, info.sent)
    assert.equal(#sent, info.received)
    local ok, err = s:write "more"
    assert.is_nil(ok)
    assert.equal("connection_closed", err.code)
  end)

  it("does so on unix sockets, which are removed afterwards", function()
    local path = scratch.path()
    os.remove(path)
    local l = listen({ path = path }, mirror)
    assert.equal(path, l:address())
    local s = assert(sockets.connect(engine, { path = path }))
    assert(s:write "hello")
    s:finish()
    assert.equal("hello", (read_all(s)))
    assert.equal("unix", s:info().peer)
    l:close()
    assert.is_nil(io.open(path))
    assert.is_nil((sockets.connect(engine, { path = path })))
  end)

  it("says so when the other side is gone at once", function()
    local l = listen({}, function(s)
      s:read(nil, T)
      s:close(false)
    end)
    local s = assert(sockets.connect(engine, place(l)))
    assert(s:write "x")
    local _, err = read_all(s)
    assert.equal("connection_closed", err.code)
  end)

  it("gives its last bytes to the other side when it is closed with grace, though more came", function()
    local l = listen({}, function(s)
      s:read(nil, T)
      s:write(("z"):rep(1000000))
      s:close(true)
    end)
    local s = assert(sockets.connect(engine, place(l)))
    assert(s:write(("q"):rep(200000)))
    local got, err = read_all(s)
    assert.equal(1000000, #got)
    assert.is_nil(err)
  end)

  it("may be closed inside of its own callback, and ends when reading takes too long", function()
    local closed
    local l = assert(engine:listen { kind = "raw", ip = "127.0.0.1", on_socket = function(raw)
      raw:notify(function(s, what)
        if what == "data" then s:close(false) end
        if what == "closed" then closed(true) end
      end)
    end })
    local s = assert(sockets.connect(engine, place(l)))
    local bytes, err = s:read(nil, 0.01)
    assert.is_nil(bytes)
    assert.equal("timeout", err.code)
    assert.is_true(task.await(function(resume)
      closed = resume
      s:write "x"
    end, T))
  end)

  describe("with TLS", function()
    local one, other
    setup(function()
      one = certs.issue(nil, { names = { "one.example", "*.wild.example" } })
      other = certs.issue(nil, { names = { "other.example" } })
    end)

    local function pinned(cert)
      return assert(core.tls_client { pin = cert.pin })
    end

    it("shows the certificate of the name that was asked for", function()
      local tls = assert(core.tls_server { certs = { one, other } })
      local l = listen({ tls = tls }, mirror)
      for name, cert in pairs { ["one.example"] = one, ["other.example"] = other, ["a.wild.example"] = one, ["unknown.example"] = one } do
        local s = assert(sockets.connect(engine, place(l, { tls = pinned(cert), name = name })))
        assert(s:write(name))
        assert.equal(name, s:read(nil, T))
        s:close(true)
      end
      local s, err = sockets.connect(engine, place(l, { tls = pinned(one), name = "other.example" }))
      assert.is_nil(s)
      assert.matches("the server's key is not the one of the pin", err.message)
    end)

    it("shows new ones after a swap, while what is open goes on, and keeps the old ones when the new ones are bad", function()
      local tls = assert(core.tls_server { certs = { one } })
      local l = listen({ tls = tls }, mirror)
      local before = assert(sockets.connect(engine, place(l, { tls = pinned(one) })))
      local ok, err = tls:swap { { cert = "nonsense", key = one.key } }
      assert.is_nil(ok)
      assert.matches("cannot use the certificate and key number 1", err.message)
      assert(sockets.connect(engine, place(l, { tls = pinned(one) }))):close()
      assert.is_true(tls:swap { other })
      assert.is_nil((sockets.connect(engine, place(l, { tls = pinned(one) }))))
      assert(sockets.connect(engine, place(l, { tls = pinned(other) }))):close()
      assert(before:write "still there")
      assert.equal("still there", before:read(nil, T))
    end)

    it("checks the chain and the name, and says what is wrong", function()
      local authority = certs.authority "an authority"
      local good = certs.issue(authority, { names = { "good.example" } })
      local tls = assert(core.tls_server { certs = { good } })
      local l = listen({ tls = tls }, mirror)
      local client = assert(core.tls_client { ca = authority.cert })
      assert(sockets.connect(engine, place(l, { tls = client, name = "good.example" }))):close()
      local s, err = sockets.connect(engine, place(l, { tls = client, name = "bad.example" }))
      assert.is_nil(s)
      assert.matches("is for another name than bad.example", err.message)
      s, err = sockets.connect(engine, place(l, { tls = assert(core.tls_client { ca = one.cert }), name = "good.example" }))
      assert.is_nil(s)
      assert.matches("unknown issuer", err.message)
      local bad
      bad, err = core.tls_client { pin = "sha256:12" }
      assert.is_nil(bad)
      assert.matches("a pin is", err.message)
    end)

    it("refuses names that it has no certificate for when it is strict", function()
      local tls = assert(core.tls_server { certs = { one }, strict = true })
      local l = listen({ tls = tls }, mirror)
      assert(sockets.connect(engine, place(l, { tls = pinned(one), name = "one.example" }))):close()
      assert.is_nil((sockets.connect(engine, place(l, { tls = pinned(one), name = "unknown.example" }))))
      assert.equal(1, engine:stats().handshakes_failed // 2) -- of either side
    end)

    it("is told apart by name: TLS ends here, or its bytes go on as they are", function()
      local behind_tls = assert(core.tls_server { certs = { other } })
      local behind = listen({ tls = behind_tls }, mirror)
      local front_tls = assert(core.tls_server { certs = { one }, alpn = { "http/1.1" } })
      local names = {}
      local front = assert(engine:listen {
        kind = "tls_name", ip = "127.0.0.1",
        on_name = function(raw, name)
          names[#names + 1] = name
          if name == "one.example" then
            return raw:start_tls(front_tls)
          elseif name ~= "other.example" then
            return raw:close(false)
          end
          local s = sockets.new(raw)
          raw:take_raw()
          echo.spawn(function()
            local t = assert(sockets.connect(engine, place(behind)))
            echo.spawn(function()
              while true do
                local bytes = t:read(nil, T)
                if not bytes then break end
                s:write(bytes)
              end
              s:finish()
            end)
            while true do
              local bytes = s:read(nil, T)
              if not bytes then break end
              t:write(bytes)
            end
            t:finish()
          end)
        end,
        on_exchange = function(x) x:send_head(core.head("response", { status = 204 }), true) end,
      })
      local s = assert(sockets.connect(engine, place(front, { tls = pinned(other), name = "other.example" })))
      assert(s:write "through")
      assert.equal("through", s:read(nil, T))
      s:finish()
      assert.equal("", (read_all(s)))
      s = assert(sockets.connect(engine, place(front, { tls = pinned(one), name = "one.example" })))
      assert(s:write "GET / HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n\r\n")
      assert.matches("^HTTP/1.1 204 ", (read_all(s)))
      assert.is_nil((sockets.connect(engine, place(front, { tls = pinned(one), name = "third.example" }))))
      assert.same({ "other.example", "one.example", "third.example" }, names)
      s = assert(sockets.connect(engine, place(front)))
      assert(s:write "this is no ClientHello")
      local _, err = read_all(s)
      assert.is_true(err == nil or err.code == "connection_closed")
    end)
  end)
end)
