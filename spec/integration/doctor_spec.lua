-- The doctor and servers with planted faults, over sockets of this process.

local certs = require "spec.support.certs"
local core = require "echostream.core"
local doctor = require "echostream.doctor"
local echo = require "echostream"
local loop = require "echostream.loop"
local process = require "spec.support.process"

describe("the doctor at a server", function()
  local authority, started
  local pin_of_nobody = "sha256:" .. ("0"):rep(64)

  setup(function()
    authority = certs.authority "Doctors"
  end)

  before_each(function()
    started = {}
    echo.set_log(function() end)
  end)

  after_each(function()
    for _, each in ipairs(started) do
      if each.stop then
        each:stop { grace = 0 }
      else
        each:close()
      end
    end
    echo.set_log(nil)
  end)

  -- A server that shows a certificate; its address and pin.
  local function serve(issued)
    local server = assert(echo.server {
      bind = "127.0.0.1:0", quiet = true, cert = issued.cert, key = issued.key,
    }:start())
    started[#started + 1] = server
    return server.address, server.pin
  end

  -- Findings by check; of several of one check the worst.
  local function examine(address, opts)
    opts = opts or {}
    opts.address = address
    opts.timeout = opts.timeout or 10
    local rank, worst = { skipped = 0, ok = 1, warn = 2, fail = 3 }, {}
    for _, finding in ipairs(doctor.examine(opts)) do
      local other = worst[finding.check]
      if not other or rank[finding.status] > rank[other.status] then
        worst[finding.check] = finding
      end
      assert.is_true(finding.status == "ok" or finding.status == "skipped" or finding.fix ~= nil, finding.detail)
    end
    return worst
  end

  it("finds nothing where all is well", function()
    local address, pin = serve(certs.issue(authority, { names = { "127.0.0.1" } }))
    local found = examine(address, { pin = pin })
    for _, check in ipairs { "name", "udp", "path_mtu", "handshake", "certificate", "trust", "session" } do
      assert.equal("ok", found[check].status, found[check].detail)
    end
    assert.is_nil(found.route)
    assert.matches("speaks v1", found.udp.detail)
    assert.equal("ok", examine(address, { ca = authority.file }).trust.status)
    assert.equal("skipped", examine(address).trust.status)
    assert.equal("warn", examine(address, { skip_verification = true }).trust.status)
  end)

  it("finds an expired certificate", function()
    local issued = certs.issue(authority, { names = { "127.0.0.1" }, from = -10, to = -2 })
    local address, pin = serve(issued)
    local found = examine(address, { ca = authority.file })
    assert.equal("fail", found.certificate.status)
    assert.matches("expired on .*, 2 days ago", found.certificate.detail)
    assert.equal("fail", found.trust.status)
    assert.equal("ok", found.handshake.status)
    found = examine(address, { pin = pin })
    assert.equal("warn", found.certificate.status)
    assert.equal("ok", found.trust.status)
  end)

  it("finds a clock that does not fit the certificate", function()
    local found = examine((serve(certs.issue(authority, { names = { "127.0.0.1" }, from = 3, to = 20 }))))
    assert.equal("fail", found.certificate.status)
    assert.matches("clocks", found.certificate.fix)
  end)

  it("finds a wrong pin, and says which one the server has", function()
    local address, pin = serve(certs.issue(authority, { names = { "127.0.0.1" } }))
    local found = examine(address, { pin = pin_of_nobody })
    assert.equal("fail", found.trust.status)
    assert.matches(pin, found.trust.detail, 1, true)
    assert.matches(pin, found.trust.fix, 1, true)
    assert.equal("ok", examine(address, { pin = { pin_of_nobody, pin } }).trust.status)
  end)

  it("finds an issuer that is not trusted, and names it", function()
    local address = serve(certs.issue(authority, { names = { "127.0.0.1" } }))
    local found = examine(address, { ca = certs.authority("Others").file })
    assert.equal("fail", found.trust.status)
    assert.matches("unknown issuer", found.trust.detail)
    assert.matches("Doctors", found.trust.fix)
  end)

  it("finds a certificate for another name", function()
    local address = serve(certs.issue(authority, { names = { "example.org", "*.example.net" } }))
    local found = examine("localhost:" .. address:match "%d+$", { ca = authority.file })
    assert.equal("fail", found.certificate.status)
    assert.matches("it is for example.org, *.example.net, not for localhost", found.certificate.detail, 1, true)
    assert.equal("fail", found.trust.status)
    found = examine(address, { ca = authority.file })
    assert.equal("fail", found.certificate.status)
    assert.equal("fail", found.trust.status)
    found = examine(address, { ca = authority.file, server_name = "a.example.net" })
    assert.equal("ok", found.certificate.status)
    assert.equal("ok", found.trust.status)
  end)

  it("finds a server of another protocol, and says which", function()
    local issued = certs.issue(authority, { names = { "127.0.0.1" } })
    local listener = assert(echo.quic.listen("127.0.0.1:0", { alpn = { "h3" }, cert = issued.cert, key = issued.key }))
    started[1] = listener
    local found = examine(listener.address)
    assert.equal("ok", found.udp.status)
    assert.equal("fail", found.handshake.status)
    assert.matches("does not speak echostream/1; it speaks h3", found.handshake.detail, 1, true)
    assert.equal("skipped", found.certificate.status)
  end)

  it("finds a server that wants to know who comes", function()
    local issued = certs.issue(authority, { names = { "127.0.0.1" } })
    local server = echo.server { bind = "127.0.0.1:0", quiet = true, cert = issued.cert, key = issued.key }
    server:on_connect(function() return nil, echo.error("unauthenticated", "who are you?") end)
    started[1] = assert(server:start())
    local found = examine(server.address, { pin = server.pin })
    assert.equal("ok", found.handshake.status)
    assert.equal("warn", found.session.status)
    assert.matches("who are you?", found.session.detail, 1, true)
  end)

  it("finds clocks that are far apart", function()
    local judge = require "echostream.doctor.server".judge_clock
    assert.equal("ok", judge({ offset = 0.2, error = 0.1 }).status)
    assert.equal("ok", judge({ offset = -20, error = 19 }).status) -- which may be the way's fault
    local finding = judge { offset = 90, error = 0.1 }
    assert.equal("warn", finding.status)
    assert.matches("90.0 s ahead of ours", finding.detail, 1, true)
    assert.matches("behind ours", judge({ offset = -90, error = 0.1 }).detail, 1, true)
  end)

  it("finds a port where nobody listens, by ICMP, at once", function()
    local found = examine("127.0.0.1:" .. process.free_port(), { timeout = 30 })
    assert.equal("fail", found.udp.status)
    assert.matches("nothing listens on UDP port", found.udp.detail)
    assert.equal("skipped", found.handshake.status)
    assert.equal("skipped", found.path_mtu.status)
  end)

  it("finds a machine that takes packets and says nothing", function()
    local port = process.free_port()
    local uv = require "luv"
    local socket = uv.new_udp()
    assert(socket:bind("127.0.0.1", port))
    local found = examine("127.0.0.1:" .. port, { timeout = 0.2 })
    socket:close()
    assert.equal("warn", found.udp.status)
    assert.matches("no answer from", found.udp.detail)
    assert.equal("skipped", found.route.status) -- no router is on the way to ourselves
    assert.equal("fail", found.handshake.status)
  end)

  it("finds a name that nobody has", function()
    local resolve = loop.resolve
    loop.resolve = function(host, done)
      done(nil, echo.error("not_found", "no address of " .. host))
    end
    local ok, found = pcall(examine, "no-such-host.invalid:5000")
    loop.resolve = resolve
    assert.is_true(ok, found)
    assert.equal("fail", found.name.status)
    assert.matches("getent hosts no-such-host.invalid", found.name.fix, 1, true)
    assert.equal("skipped", found.udp.status)
    assert.equal("skipped", found.handshake.status)
  end)
end)

describe("a probe", function()
  it("has a numeric address and a packet to send", function()
    assert.has_error(function() core.probe "localhost:5000" end)
    assert.has_error(function() core.probe() end)
    local probe = assert(core.probe "127.0.0.1:9")
    assert.has_error(function() probe:send() end)
    assert.has_error(function() probe:send("x", 256) end)
    assert.is_nil((probe:recv()))
    probe:close()
    probe:close()
    assert.has_error(function() probe:recv() end)
  end)

  it("says what is too large for the first link", function()
    local probe <close> = assert(core.probe "127.0.0.1:9")
    local ok, err = probe:send(("x"):rep(65600))
    assert.is_nil(ok)
    assert.equal("EMSGSIZE", err.name)
    assert.is_string(err.text)
  end)
end)
