-- The command `echostream`, as a user starts it: in processes of its own.

local certs = require "spec.support.certs"
local base64 = require "echostream.base64"
local core = require "echostream.core"
local echo = require "echostream"
local identity = require "echostream.tls.identity"
local process = require "spec.support.process"

local echostream, run, start = process.echostream, process.run, process.start

describe("echostream", function()
  local dir

  setup(function()
    dir = process.directory()
  end)

  teardown(function()
    process.remove(dir)
  end)

  local function cli(arguments, opts)
    return run(echostream .. " " .. arguments, opts)
  end

  it("opens the door of HTTP and puts up a dashboard when serve is told to", function()
    local file = dir .. "/doors.lua"
    process.write(file, 'local server = ...\nserver:add_rpc("math.add", function(_, a, b) return a + b end)\n')
    local server = start(("%s serve --no-attach --bind 127.0.0.1:0 --http --dashboard 127.0.0.1:0 %s"):format(echostream, file), { seconds = 60 })
    local address, pin = server:expect "^listening on (%S+)", server:expect "^pin (%S+)"
    server:expect "^dashboard http://127.0.0.1:%d+/"
    local response = assert(echo.http.request("https://" .. address .. "/rpc/math.add", { method = "POST", body = "[10,20]", pin = pin,
      headers = { ["content-type"] = "application/json" } }))
    assert.equal("30", response:body())
    assert.equal(0, (server:stop()))
    assert.equal(1, cli("serve --bind 127.0.0.1:0 --dashboard 0.0.0.0:0 " .. file).code)
  end)

  it("lets pages in when serve is told whose", function()
    local file = dir .. "/pages.lua"
    process.write(file, 'local server = ...\nserver:add_rpc("door", function(session) return session.door, session.origin end)\n')
    local server = start(("%s serve --no-attach --bind 127.0.0.1:0 --webtransport http://localhost:8080,https://app.example %s"):format(
      echostream, file), { seconds = 60 })
    local address, pin = server:expect "^listening on (%S+)", server:expect "^pin (%S+)"
    local client <close> = assert(echo.connect(address, { pin = pin, webtransport = { origin = "https://app.example" } }))
    assert.same({ "webtransport", "https://app.example" }, { client:request "door" })
    local refused, err = echo.connect(address, { pin = pin, webtransport = { origin = "https://other.example" } })
    assert.is_nil(refused)
    assert.equal("permission_denied", err.code)
    client:close()
    assert.equal(0, (server:stop()))
    local wrong = cli("serve --bind 127.0.0.1:0 --webtransport app.example " .. file)
    assert.equal(2, wrong.code)
    assert.matches("an origin is like", wrong.err)
  end)

  describe("without a command", function()
    it("says which version it is, and of what", function()
      local result = cli "--version"
      assert.equal(0, result.code, result.err)
      assert.matches("^echostream %S+ %(ngtcp2 [%d.]+, GnuTLS [%d.]+, Lua 5%.4%)\n$", result.out)
    end)

    it("lists the commands when asked, and as an error when not", function()
      local result = cli "--help"
      assert.equal(0, result.code)
      assert.matches("Exit status: 0 it worked, 1 it failed, 2 wrong usage, 3 no connection", result.out, 1, true)
      local n = 0
      for name in result.out:match("Commands:\n(.-)\n\n"):gmatch "\n?  (%S+)[^\n]*" do
        n = n + 1
        local help = cli("help " .. name)
        assert.equal(0, help.code, help.err)
        assert.matches("^Usage: echostream " .. name, help.out)
      end
      assert.is_true(n >= 4)
      assert.equal(cli("call --help").out, cli("help call").out)
      result = cli ""
      assert.equal(2, result.code)
      assert.equal("", result.out)
      assert.matches("Usage", result.err)
    end)

    it("refuses what it does not know", function()
      local result = cli "dance"
      assert.equal(2, result.code)
      assert.matches("no command dance", result.err)
      assert.matches("did you mean emit?", cli("emt").err, 1, true)
      assert.equal(2, cli("help dance").code)
      result = cli "cert --colour red"
      assert.equal(2, result.code)
      assert.matches("no option %-%-colour", result.err)
      assert.matches("cert --help says more", result.err, 1, true)
      assert.matches("no option --insecur (did you mean --insecure?)", cli("call a b --insecur").err, 1, true)
      assert.matches("no option --dayz=3 (did you mean --days?)", cli("cert --dayz=3").err, 1, true)
      result = cli "call 127.0.0.1:1"
      assert.equal(2, result.code)
      assert.matches("^echostream: METHOD is missing\n", result.err)
      assert.matches("^echostream: ADDR and NAME are missing\n", cli("stream").err)
      assert.matches("^echostream: FILE is missing\n", cli("serve").err)
      assert.matches("FILE is missing (app.lua was taken as the ADDR of --dashboard)", cli("serve --http --dashboard app.lua").err, 1, true)
      assert.equal(2, cli("cert surplus").code)
      assert.equal(2, cli("cert --days").code)
      assert.equal(2, cli("cert --days many").code)
    end)
  end)

  describe("cert", function()
    it("makes a key that only its owner reads, a certificate, and prints both hashes", function()
      local out = dir .. "/new/place"
      local result = cli(("cert --out %s --name example.org --name 192.0.2.1"):format(out))
      assert.equal(0, result.code, result.err)
      assert.matches("\npin        sha256:%x+\n", result.out)
      assert.matches("\ncert_hash  sha256:%x+\n", result.out)
      assert.matches("BEGIN CERTIFICATE", process.read(out .. "/cert.pem"))
      assert.equal("600\n", run("stat -c %a " .. out .. "/key.pem").out)
    end)

    it("prints JSON when asked to", function()
      local result = cli(("cert --out %s --days 3 --json"):format(dir .. "/json"))
      assert.equal(0, result.code, result.err)
      local made = assert(core.codec.json.unpack(result.out))
      assert.equal(dir .. "/json/key.pem", made.key)
      assert.equal(dir .. "/json/cert.pem", made.cert)
      local info = assert(core.cert_inspect(process.read(made.cert)))
      assert.equal(info.not_after, made.not_after)
      assert.equal(identity.pin_text(info.spki), made.pin)
      assert.equal(identity.pin_text(info.der), made.cert_hash)
    end)

    it("prints what browsers need", function()
      local result = cli(("cert --browser --out %s --json"):format(dir .. "/browser"))
      assert.equal(0, result.code, result.err)
      local made = assert(core.codec.json.unpack(result.out))
      local info = assert(core.cert_inspect(process.read(made.cert)))
      assert.equal(info.der, base64.decode(made.cert_hash_base64))
      assert.equal(info.spki, base64.decode(made.spki_base64))
      assert.matches('serverCertificateHashes: [{ algorithm: "sha-256", value: Uint8Array.from(atob("' .. made.cert_hash_base64, made.javascript,
        1, true)
      assert.matches("--ignore-certificate-errors-spki-list=" .. made.spki_base64, made.chromium, 1, true)
      assert.is_true(info.not_after - info.not_before <= 14 * 86400)
      local text = cli(("cert --browser --out %s"):format(dir .. "/browser"))
      assert.matches(made.spki_base64, text.out, 1, true) -- the key is the same
      assert.equal(2, cli("cert --browser --days 14 --out " .. dir .. "/browser").code)
    end)

    it("refuses a key that browsers would not take", function()
      if run("command -v openssl").code ~= 0 then pending "openssl is not installed" end
      local out = dir .. "/rsa"
      assert.equal(0, run(("mkdir -p %s && openssl ecparam -name secp384r1 -genkey -noout -out %s/key.pem && chmod 600 %s/key.pem")
        :format(out, out, out)).code)
      local refused = cli("cert --browser --out " .. out)
      assert.equal(1, refused.code)
      assert.matches("P-256", refused.err, 1, true)
      assert.equal(0, cli("cert --out " .. out).code)
    end)

    it("keeps the key, and so the pin, when the certificate is renewed", function()
      local out = dir .. "/renewed"
      local first = cli("cert --out " .. out)
      local second = cli("cert --days 5 --out " .. out)
      assert.equal(0, second.code, second.err)
      assert.equal(first.out:match "pin +(%S+)", second.out:match "pin +(%S+)")
      assert.not_equal(first.out:match "cert_hash +(%S+)", second.out:match "cert_hash +(%S+)")
    end)

    it("writes over no certificate that it did not make, unless told to", function()
      local out = dir .. "/issued"
      local ours = cli("cert --out " .. out)
      local authority = certs.authority "Issuers"
      local issued = certs.issue(authority, { key = process.read(out .. "/key.pem") }).cert
      local others = certs.issue(nil, {}).cert
      for text, why in pairs { [issued] = "was issued by CN=Issuers", [others] = "is of another key", ["notes\n"] = "no certificate" } do
        process.write(out .. "/cert.pem", text)
        local refused = cli("cert --out " .. out)
        assert.equal(1, refused.code)
        assert.matches(why, refused.err, 1, true)
        assert.matches("--force", refused.err, 1, true)
        assert.equal(text, process.read(out .. "/cert.pem"))
      end
      local forced = cli("cert --force --out " .. out)
      assert.equal(0, forced.code, forced.err)
      assert.equal(ours.out:match "pin +(%S+)", forced.out:match "pin +(%S+)")
    end)

    it("agrees with GnuTLS or OpenSSL about the hashes", function()
      if run("command -v openssl").code ~= 0 then pending "openssl is not installed" end
      local out = dir .. "/checked"
      local result = cli("cert --out " .. out)
      local spki = run(("openssl x509 -in %s/cert.pem -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum"):format(out))
      assert.equal(spki.out:match "^%x+", result.out:match "pin +sha256:(%x+)")
      local der = run(("openssl x509 -in %s/cert.pem -outform DER | sha256sum"):format(out))
      assert.equal(der.out:match "^%x+", result.out:match "cert_hash +sha256:(%x+)")
    end)

    it("says what it cannot do", function()
      local result = cli "cert --out /proc/nowhere"
      assert.equal(1, result.code)
      assert.matches("/proc/nowhere", result.err, 1, true)
      assert.equal(2, cli("cert --days 0.5").code)
    end)
  end)

  describe("serve and call", function()
    local server, address, pin

    setup(function()
      process.write(dir .. "/server.lua", [[
        local server, greeting = ...
        server:add_rpc("greet", function(_, name) return greeting .. " " .. name end)
        server:add_rpc("echo", function(_, ...) return ... end)
        server:add_rpc("nothing", function() end)
        server:add_rpc("fail", function() return nil, require "echostream".error("not_found", "no such thing", { id = 7 }) end)
        server:add_rpc("evil", function() return nil, require "echostream".error("internal", "a\27[31mb") end)
        server:add_event("noted", function() end)
        server:add_rpc("slow", function() require "echostream".sleep(20) end)
        server:add_rpc("asked_with", function(session)
          return require "echostream".call().metadata.colour, session.metadata.user
        end)
      ]])
      server = start(("%s serve --bind 127.0.0.1:0 %s/server.lua hello"):format(echostream, dir),
        { env = { XDG_STATE_HOME = dir .. "/state" } })
      address = server:expect "^listening on (%S+)$"
      pin = server:expect "^pin (sha256:%x+)$"
    end)

    teardown(function()
      server:stop()
    end)

    local function call(arguments)
      return cli(("call %s --pin %s %s"):format(address, pin, arguments))
    end

    it("prints each result as a line of JSON", function()
      local result = call [[greet '"Ada"']]
      assert.equal(0, result.code, result.err)
      assert.equal('"hello Ada"\n', result.out)
      result = call [[echo 1 2.0 -3 null '{"a":[1,null,{}]}' true]]
      assert.equal(0, result.code, result.err)
      assert.equal('1\n2.0\n-3\nnull\n{"a":[1,null,{}]}\ntrue\n', result.out)
      assert.equal("true\n", call("nothing").out)
    end)

    it("fails with 1, the error and its details on standard error, when the call fails", function()
      local result = call "fail"
      assert.equal(1, result.code)
      assert.equal("", result.out)
      assert.equal('not_found: no such thing\ndetails: {"id":7}\n', result.err)
      result = call "no.such.method"
      assert.equal(1, result.code)
      assert.matches("^method_not_found: ", result.err)
      assert.equal("method_not_found: no method gret (did you mean greet?)\n", call("gret").err)
      assert.matches('"message":"no method gret %(did you mean greet%?%)"', call("--json gret").out)
      assert.equal("method_not_found: no method noted (it is an event)\n", call("noted").err)
    end)

    it("lets no server play with the terminal", function()
      assert.equal("internal: a\\x1b[31mb\n", call("evil").err)
    end)

    it("prints JSON of it all when asked to", function()
      local result = call "--json echo 1 null '{}'"
      assert.equal(0, result.code, result.err)
      assert.equal('{"results":[1,null,{}]}\n', result.out)
      result = call "--json fail"
      assert.equal(1, result.code)
      assert.equal("", result.err)
      assert.matches('"code":"not_found"', result.out)
      assert.matches('"details":{"id":7}', result.out)
      result = cli(("call 127.0.0.1:%d --json --insecure --timeout 1 echo"):format(process.free_port()))
      assert.equal(3, result.code)
      assert.matches('^{"error":{.*"code":', result.out)
    end)

    it("sends to the doctor who hears nothing", function()
      local silent = require("luv").new_udp()
      assert(silent:bind("127.0.0.1", 0))
      local port = silent:getsockname().port
      local result = cli(("call 127.0.0.1:%d --insecure --timeout 1 echo"):format(port))
      silent:close()
      assert.equal(3, result.code)
      assert.matches(("`echostream doctor 127.0.0.1:%d` finds out why\n$"):format(port), result.err)
      result = cli(("call 127.0.0.1:%d --insecure echo"):format(process.free_port()))
      assert.equal(3, result.code)
      assert.matches("unavailable: .*connection refused by 127.0.0.1:%d+: nobody listens there\n$", result.err)
    end)

    it("reads arguments from standard input", function()
      local result = cli(("call %s --pin %s echo 1 - 4"):format(address, pin), { input = "2\n[3]" })
      assert.equal("1\n2\n[3]\n4\n", result.out, result.err)
      result = cli(("call %s --pin %s echo -"):format(address, pin), { input = "{" })
      assert.equal(2, result.code)
      assert.matches("standard input is not JSON", result.err)
      assert.equal(2, call("echo - -").code)
    end)

    it("keeps to a time limit", function()
      local began = os.time()
      local result = call "--timeout 0.3 slow"
      assert.equal(1, result.code)
      assert.matches("^timeout: ", result.err)
      assert.is_true(os.time() - began < 10)
    end)

    it("sends metadata and credentials along", function()
      local result = call "--metadata colour=blue --credential user=ada asked_with"
      assert.equal('"blue"\n"ada"\n', result.out, result.err)
      assert.equal(2, call("--metadata colour asked_with").code)
    end)

    it("wants to know how the server is trusted", function()
      local result = cli(("call %s echo 1"):format(address))
      assert.equal(2, result.code)
      assert.matches("--pin, --ca or --insecure", result.err, 1, true)
      assert.equal(2, call("--insecure echo").code)
      assert.equal("1\n", cli(("call --insecure %s echo 1"):format(address)).out)
    end)

    it("fails with 3 when the pin is another one, or nobody listens", function()
      local wrong = "sha256:" .. ("0"):rep(64)
      local result = cli(("call %s --pin %s echo 1"):format(address, wrong))
      assert.equal(3, result.code)
      assert.matches("unauthenticated", result.err)
      result = cli(("call 127.0.0.1:%d --insecure --timeout 1 echo"):format(process.free_port()))
      assert.equal(3, result.code)
      assert.equal(2, cli("call 127.0.0.1:1 --pin sha1:00 echo").code)
      assert.equal(2, cli("call nowhere --insecure echo").code)
      local unread = cli("call 127.0.0.1:1 --ca /nonexistent/ca.pem echo")
      assert.equal(2, unread.code)
      assert.matches("--ca: /nonexistent/ca.pem", unread.err, 1, true)
      assert.equal(2, cli("call 127.0.0.1:1 --insecure --cert /nonexistent/c --key /nonexistent/k echo").code)
    end)

    it("refuses arguments that are not JSON, and says how a string is written", function()
      local result = call "echo hello"
      assert.equal(2, result.code)
      assert.matches([['"hello"']], result.err, 1, true)
      assert.equal(2, call([[echo '1 2']]).code)
      assert.equal(2, call([[echo '{']]).code)
    end)

    it("keeps the pin when it is started again", function()
      local again = start(("%s serve --bind 127.0.0.1:0 %s/server.lua again"):format(echostream, dir),
        { env = { XDG_STATE_HOME = dir .. "/state" } })
      assert.equal(pin, (again:expect "^pin (sha256:%x+)$"))
      assert.equal(0, (again:stop()))
    end)
  end)

  describe("serve", function()
    local function serve(text, arguments, opts)
      process.write(dir .. "/file.lua", text)
      return run(("%s serve %s %s/file.lua"):format(echostream, arguments or "--bind 127.0.0.1:0", dir), opts)
    end

    it("ends with status 0 on SIGTERM and on SIGINT, after the calls under way", function()
      for _, signal in ipairs { "TERM", "INT" } do
        process.write(dir .. "/file.lua", [[
          local server = ...
          server:add_rpc("slow", function() print "running"; io.stdout:flush(); require "echostream".sleep(0.5); return "done" end)
        ]])
        local server = start(("%s serve --bind 127.0.0.1:0 %s/file.lua"):format(echostream, dir))
        local address = server:expect "^listening on (%S+)$"
        local client = start(("%s call %s --insecure slow"):format(echostream, address))
        server:expect "^running$"
        local code, rest = server:stop(signal)
        assert.equal(0, code, rest)
        client:expect '^"done"$'
        assert.equal(0, (client:wait()))
      end
    end)

    it("takes a server that the file makes itself", function()
      process.write(dir .. "/own.lua", [[return require "echostream".server { bind = "127.0.0.1:0", quiet = true }]])
      local server = start(("%s serve %s/own.lua"):format(echostream, dir))
      server:expect "^listening on 127%.0%.0%.1:%d+$"
      assert.equal(0, (server:stop()))
      local result = run(("%s serve --bind 127.0.0.1:0 %s/own.lua"):format(echostream, dir))
      assert.equal(2, result.code)
      assert.matches("makes its own server", result.err)
    end)

    it("says so when options come after the file, where they are the file's", function()
      process.write(dir .. "/args.lua", [[
        local server, first = ...
        server:add_rpc("first", function() return first end)
      ]])
      local server = start(("%s serve --bind 127.0.0.1:0 %s/args.lua --watch 2>&1"):format(echostream, dir))
      server:expect "note: %-%-watch stands after the file.* options of serve go before it"
      local address = server:expect "^listening on (%S+)$"
      assert.equal('"--watch"\n', cli(("call %s first --insecure"):format(address)).out)
      server:stop()
    end)

    it("uses the certificate it is given", function()
      local made = cli("cert --out " .. dir .. "/own")
      process.write(dir .. "/file.lua", "")
      local server = start(("%s serve --bind 127.0.0.1:0 --cert %s/own/cert.pem --key %s/own/key.pem %s/file.lua"):format(echostream,
        dir, dir, dir))
      assert.equal(made.out:match "pin +(%S+)", (server:expect "^pin (%S+)$"))
      server:stop()
      assert.equal(2, serve("", "--cert x").code)
    end)

    it("says what is wrong with a file or an address", function()
      assert.equal(2, run(echostream .. " serve /does/not/exist.lua").code)
      local result = serve "this is not Lua"
      assert.equal(2, result.code)
      assert.matches("file.lua:1", result.err)
      result = serve "error 'broken'"
      assert.equal(1, result.code)
      assert.matches("file.lua:1: broken", result.err)
      assert.equal(1, serve("return 5").code)
      assert.equal(2, serve("", "--bind nowhere").code)
      result = serve("", "--bind 192.0.2.1:5000") -- an address that no machine has
      assert.equal(1, result.code)
      assert.matches("io: ", result.err)
    end)
  end)
end)
