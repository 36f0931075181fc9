-- Real visitors of HTTP/2 before a listener that answers in Lua: curl, nghttp, h2load, and python3-h2 for what no honest one does.

local certs = require "spec.support.certs"
local child = require "spec.support.child"
local core = require "echostream.tunnel.core"
local net = require "spec.support.net"
local process = require "spec.support.process"
local relay = require "tunnel.spec.support.h2_relay"

local function there(command)
  return os.execute("(" .. command .. ") >/dev/null 2>&1") == true
end

-- Runs a program to its end: its output. In a task.
local function run(program, ...)
  local running = child.start("env", { "LD_PRELOAD=", "timeout", "60", program, ... })
  running:gone()
  table.insert(running.lines, running.text)
  return table.concat(running.lines, "\n")
end

net.only("quic", function(env)
  if not (there "command -v nghttp && command -v h2load && command -v curl" and there "/usr/bin/python3 -c 'import h2'") then
    pending "curl, nghttp2-client and python3-h2 are wanted"
    return
  end

  local server
  local function with(opts, fn)
    return function()
      server = relay.answers(type(opts) == "function" and opts() or opts)
      local ok, err = pcall(fn)
      server.stop()
      if not ok then error(err, 0) end
    end
  end

  local function tls()
    local cert = certs.issue(nil, { names = { "localhost" } })
    return { tls = assert(core.tls_server { certs = { { cert = cert.cert, key = cert.key } }, alpn = { "h2", "http/1.1" } }) }
  end

  describe("visitors of HTTP/2", function()
    env.it("are known by ALPN", with(tls, function()
      local url = "https://" .. server.address
      assert.equal("2 200 300000", run("curl", "-sk", "--http2", url .. "/bytes/300000", "-o", "/dev/null", "-w",
        "%{http_version} %{http_code} %{size_download}"))
      assert.equal("1.1 200 3000", run("curl", "-sk", "--http1.1", url .. "/bytes/3000", "-o", "/dev/null", "-w",
        "%{http_version} %{http_code} %{size_download}"))
      assert.equal(1, server.protocols.h2)
    end))

    env.it("are known by their preface without TLS", with(nil, function()
      local url = "http://" .. server.address
      assert.equal("2 200 300000", run("curl", "-s", "--http2-prior-knowledge", url .. "/bytes/300000", "-o", "/dev/null", "-w",
        "%{http_version} %{http_code} %{size_download}"))
      local file = certs.file(("u"):rep(1000000))
      assert.equal("1000000", run("curl", "-s", "--http2-prior-knowledge", "-T", file, url .. "/count"):match "%d+")
      assert.equal("404", run("curl", "-s", "--http2-prior-knowledge", url .. "/none", "-o", "/dev/null", "-w", "%{http_code}"))
    end))

    env.it("get informational heads and trailers", with(nil, function()
      local said = run("nghttp", "-v", "http://" .. server.address .. "/trailers")
      assert.matches(":status: 103", said)
      assert.matches("link: </a>; rel=preload", said, 1, true)
      assert.matches(":status: 200", said)
      assert.matches("x%-sum: 1", said)
    end))

    env.it("may be many at once", with(tls, function()
      local n = os.getenv "ES_SANITIZED" and 3000 or 20000
      local said = run("h2load", "-n", tostring(n), "-c", "10", "-m", "32", "https://" .. server.address .. "/bytes/1024")
      assert.matches((" %d succeeded, 0 failed, 0 errored, 0 timeout"):format(n), said, 1, true)
      assert.equal(n, server.protocols.h2)
    end), { limit = 100 })

    env.it("that break the rules are answered as the rules say", with({ limits = { max_streams = 10 } }, function()
      local said = run("/usr/bin/python3", process.root .. "/tunnel/spec/support/h2_misbehaves.py", server.address)
      assert.equal("", (said:gsub("ok [^\n]*\n", ""):gsub("%s", "")), said)
      local _, n = said:gsub("ok ", "")
      assert.equal(12, n, said)
      assert.is_true(#server.refused >= 5)
    end), { limit = 100 })
  end)
end)
