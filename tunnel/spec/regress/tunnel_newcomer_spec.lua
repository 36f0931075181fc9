-- What somebody met who had only the documents: answers that were wrong, or that named our own files.

local agent = require "echostream.tunnel.operate.agent"
local certs = require "spec.support.certs"
local explain = require "echostream.tunnel.cli.explain"
local markdown = require "spec.support.markdown"
local rules = require "echostream.tunnel.rules"
local scratch = require "spec.support.scratch"
local server = require "echostream.tunnel.operate.server"
local tunnel = require "echostream.tunnel"

local function file(text, path)
  path = path or scratch.path ".lua"
  local out <close> = assert(io.open(path, "w"))
  out:write(text)
  return path
end

describe("a tunnel's configuration", function()
  it("names the option and its line, and never the command's own file", function()
    local path = file 'return {\n  rules = {},\n  servces = {},\n}'
    local read = assert(tunnel.config.read(path))
    for _, position in ipairs { "/usr/lib/luarocks/rocks-5.4/echostream/scm-1/bin/echostream:11: ", "...rocks/bin/echostream:11: ", "input:1: ",
      '[string "x"]:1: ', "a/b.lua:7: ", "" } do
      assert.equal(path .. ':3: unknown option "servces"',
        read:explain(position .. 'tunnel.server: unknown option "servces"', "tunnel.server"))
    end
    assert.equal(path .. ": rls.lua: No such file or directory", read:explain("tunnel.server: rls.lua: No such file or directory", "tunnel.server"))
  end)

  it("is wrong when a certificate is not there, before anything is started", function()
    local path = file [[
return { agents = { { anyone = true } },
  listen = {
    { bind = "127.0.0.1:0",
      tls = { certs = { { cert = "/no/such/cert.pem", key = "k" } } } } },
}]]
    local none, err = server.check(path)
    assert.is_nil(none)
    assert.equal("invalid_argument", err.code)
    assert.truthy(err.message:find(path .. ":4: listen[1].tls: certificate 1 cannot be read: /no/such/cert.pem", 1, true), err.message)
    local empty = file "no PEM"
    none, err = server.check(file(([[return { agents = { { anyone = true } }, listen = {
      { bind = "127.0.0.1:0", tls = { certs = { { cert = "%s", key = "%s" } } } } } }]]):format(empty, empty)))
    assert.is_nil(none)
    assert.matches(":2: listen%[1%]%.tls: ", err.message)
  end)

  it("has its inspector on the loopback interface, and says so without a stack trace", function()
    local path = file 'return {\n  inspector = { bind = "0.0.0.0:0" },\n}'
    for _, read in ipairs { server.check, server.start } do
      local none, err = read(path)
      assert.is_nil(none)
      assert.truthy(err.message:find(path .. ":2: ", 1, true), err.message)
      assert.matches("wants an address of the loopback interface", err.message)
    end
  end)

  it("is as docs/TUNNEL.md shows it", function()
    local dir = scratch.path()
    assert(os.execute("mkdir -p " .. dir))
    local pair = certs.issue(certs.authority "CA", { names = { "*.example.org" } })
    file("a secret of 16 bytes or more\n", dir .. "/token")
    file(pair.cert, dir .. "/cert.pem")
    file(pair.key, dir .. "/key.pem")
    local seen = {}
    for _, block in ipairs(markdown.blocks "docs/TUNNEL.md") do
      local name = block.info:match "^lua file=(%S+)$"
      if name then
        seen[name] = file(block.text, dir .. "/" .. name)
      end
    end
    assert(rules.new({}):load(seen["rules.lua"]))
    assert(server.check(seen["server.lua"]))
    assert(agent.check(seen["agent.lua"]))
  end)
end)

describe("explain", function()
  local function report(url, listen)
    local asked = assert(explain.parse(url, {}))
    local set = assert(rules.new { { name = "vault", kind = "tls", sni = "vault.example.org", group = "web" } })
    return explain.report(set, assert(explain.request(asked)), { listen = listen })
  end

  it("knows that a TCP port goes to its listener's group", function()
    local listen = { { bind = "127.0.0.1:80" }, { bind = "0.0.0.0:5432", name = "sql", kind = "tcp", group = "db", service = "pg" } }
    local found = report("tcp://127.0.0.1:5432", listen)
    assert.equal("listener sql", found.rule)
    assert.is_nil(found.status)
    assert.matches("^a connection to port 5432 %(tcp, raw%) from", found.text)
    assert.matches("decision: group db service pg, by listener sql\n", found.text)
    assert.equal(404, report("tcp://127.0.0.1:5433", listen).status)
    assert.equal(404, report("tcp://127.0.0.1:80", listen).status)
    assert.equal(404, report("tcp://127.0.0.1:5432").status)
  end)

  it("shows what is passed through by name as what it is", function()
    local found = report "tls://vault.example.org:443"
    assert.matches("^a connection to port 443 for vault.example.org %(tls, raw%)", found.text)
    assert.equal("vault", found.rule)
  end)
end)

describe("a prompt", function()
  it("shows plugins without their secrets", function()
    local shown = tostring(tunnel.agent { token = "a secret of 16 bytes or more", client_id = "me", group = "web", backend = "http://127.0.0.1:9" })
    assert.equal("echostream.tunnel.agent me of group web (0 servers)", shown)
    assert.equal("echostream.tunnel.server (0 agents)",
      tostring(tunnel.server { agents = { { token = "a secret of 16 bytes or more" } }, listen = {}, rules = {} }))
  end)
end)
