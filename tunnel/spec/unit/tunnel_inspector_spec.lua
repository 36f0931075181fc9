local echo = require "echostream"
local fake = require "tunnel.spec.support.fake_head"
local inspector = require "echostream.tunnel.inspector"
local page = require "tunnel.spec.support.page_client"

local function head(kind, fields) return assert(fake.head(kind, fields)) end

local function record(more)
  local r = { id = "r1", trace_id = "t1", at = 1700000000.125, kind = "http", protocol = "h2", listener = "web", port = 443, peer_ip = "10.0.0.1",
    host = "example.org", method = "GET", path = "/a", query = "b=1", rule = "app", group = "g", agent = "a1", status = 200, bytes_in = 0,
    bytes_out = 12, to_headers = 0.001, duration = 0.5, attempts = 1, backend = { backend = "web", reused = true },
    request = head("request", { method = "GET", scheme = "https", authority = "example.org", path = "/a?b=1", { "accept", "*/*" },
      { "authorization", "Bearer secret" } }),
    response = head("response", { status = 200, { "content-type", "text/html" }, { "set-cookie", "a=1" } }) }
  for key, value in pairs(more or {}) do r[key] = value end
  return r
end

local ASK <const> = { ["X-Echostream-Inspector"] = "1", ["Content-Type"] = "application/json" }

describe("the inspector", function()
  local opened = {}

  local function open(opts, again)
    opts.bind = "127.0.0.1:0"
    local it = assert(inspector.new(opts, again))
    opened[#opened + 1] = it
    return it
  end

  after_each(function()
    for _, each in ipairs(opened) do each:close() end
    opened = {}
  end)

  local function again(it, number, body, more)
    local headers = {}
    for name, value in pairs(ASK) do headers[name] = value end
    for name, value in pairs(more or {}) do headers[name] = value or nil end
    return page.ask(it.address, ("/api/exchanges/%d/replay"):format(number), { method = "POST", headers = headers, body = body or "{}" })
  end

  it("lists the last exchanges, the newest first, and forgets older ones", function()
    local it = open { keep = 3 }
    for i = 1, 5 do it:record(record { id = "r" .. i }) end
    local list = page.ask(it.address, "/api/exchanges").json.exchanges
    assert.equal(3, #list)
    assert.same({ "r5", "r4", "r3" }, { list[1].id, list[2].id, list[3].id })
    assert.equal("/a", list[1].path)
    assert.equal(404, page.ask(it.address, "/api/exchanges/1").status)
    assert.equal(200, page.ask(it.address, "/api/exchanges/5").status)
  end)

  it("shows heads and where it went, with secrets hidden unless they are wanted", function()
    local it = open { bodies = 10 }
    it:record(record(), { request = "", response = "h\195\164llo and more", request_whole = true })
    local x = page.ask(it.address, "/api/exchanges/1").json
    assert.same({ "accept", "*/*" }, { x.request_fields[1][1], x.request_fields[1][2] })
    assert.equal("(13 bytes, hidden)", x.request_fields[2][2])
    assert.equal("(3 bytes, hidden)", x.response_fields[2][2])
    assert.equal("web", x.backend.backend)
    assert.equal("h\195\164llo and", x.response_body.text)
    local open_one = open { secrets = true, bodies = 4 }
    open_one:record(record(), { response = "ab\195\164\195\164", request = "\0\1" })
    x = page.ask(open_one.address, "/api/exchanges/1").json
    assert.equal("Bearer secret", x.request_fields[2][2])
    assert.equal("ab\195\164", x.response_body.text)
    assert.equal("0001", x.request_body.hex)
  end)

  it("tells pages at once of what comes", function()
    local it = open {}
    local got = page.open(it.address, ("GET /api/events HTTP/1.1\r\nHost: %s\r\n\r\n"):format(it.address))
    assert.truthy(page.wait(function() return got.text:find(": here", 1, true) end))
    it:record(record { id = "first" })
    it:record(record { id = "second", path = "/\n\ndata: x" })
    assert.truthy(page.wait(function() return got.text:find "second" end))
    assert.matches("text/event%-stream", got.text)
    assert.equal(2, select(2, got.text:gsub("\ndata: ", "")))
    got.close()
    echo.sleep(0.02)
    it:record(record())
    assert.equal(3, #page.ask(it.address, "/api/exchanges").json.exchanges)
  end)

  it("sends a request again: what is idempotent at once, the rest when asked twice", function()
    local sent = {}
    local it = open({ bodies = 5 }, function(entry, timeout)
      sent[#sent + 1] = { entry.head.method, entry.bodies and entry.bodies.request, timeout }
      return { status = 201, headers = { { "x-a", "b" }, { "set-cookie", "secret" } }, body = "done", seconds = 0.25 }
    end)
    it:record(record())
    local said = again(it, 1)
    assert.equal(200, said.status)
    assert.equal(201, said.json.status)
    assert.equal("done", said.json.response_body.text)
    assert.equal("(6 bytes, hidden)", said.json.response_fields[2][2])
    it:record(record { method = "POST", bytes_in = 5, request = head("request", { method = "POST", scheme = "https", authority = "e", path = "/" }) },
      { request = "12345", request_whole = true })
    said = again(it, 2)
    assert.equal(409, said.status)
    assert.is_true(said.json.confirm)
    assert.equal(1, #sent)
    assert.equal(200, again(it, 2, '{"confirm":true}').status)
    assert.same({ "POST", "12345", 30 }, sent[2])
  end)

  it("says why a request cannot be sent again", function()
    local it = open({ bodies = 3 }, function() return nil, echo.error("unavailable", "no agent of group g") end)
    it:record(record { bytes_in = 5 }, { request = "123", request_whole = false })
    it:record(record { kind = "websocket" })
    it:record { cause = "malformed", status = 400, id = "x", kind = "http" }
    it:record(record())
    assert.matches("body was not kept", again(it, 1).json.error)
    assert.matches("conversation", again(it, 2).json.error)
    assert.matches("head was not kept", again(it, 3).json.error)
    local said = again(it, 4)
    assert.equal(502, said.status)
    assert.equal("no agent of group g", said.json.error)
    assert.equal(404, again(it, 99).status)
    assert.matches("body was not kept", page.ask(it.address, "/api/exchanges/1").json.obstacle)
    local nobody = open {}
    nobody:record(record())
    assert.matches("nothing here", again(nobody, 1).json.error)
  end)

  it("answers nobody but a page of its own on this machine", function()
    local calls = 0
    local it = open({}, function() calls = calls + 1 return { status = 200 } end)
    it:record(record())
    for _, host in ipairs { "evil.example", "127.0.0.1.evil.example", "evil.example:80", "localhost.evil" } do
      assert.equal(403, page.ask(it.address, "/", { host = host }).status, host)
    end
    for _, host in ipairs { "localhost", "127.0.0.1:1", "[::1]:9466" } do
      assert.equal(200, page.ask(it.address, "/", { host = host }).status, host)
    end
    assert.equal(403, again(it, 1, "{}", { Origin = "http://evil.example" }).status)
    assert.equal(403, again(it, 1, "{}", { ["Content-Type"] = "text/plain" }).status)
    assert.equal(403, again(it, 1, "{}", { ["X-Echostream-Inspector"] = "2" }).status)
    assert.equal(405, page.ask(it.address, "/api/exchanges", { method = "POST", body = "" }).status)
    assert.equal(0, calls)
    assert.equal(200, again(it, 1, "{}", { Origin = "http://" .. it.address }).status)
  end)

  it("is one page with its script and style, that allows nothing else", function()
    local it = open {}
    assert.equal(("http://%s/"):format(it.address), it.url)
    local html = page.ask(it.address, "/")
    assert.matches("Content%-Security%-Policy: default%-src 'none'; script%-src 'self'", html.head)
    assert.is_nil(html.body:find "https?://")
    local js = page.ask(it.address, "/inspector.js")
    assert.matches("text/javascript", js.head)
    for _, word in ipairs { "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(" } do
      assert.is_nil(js.body:find(word, 1, true), word)
    end
    assert.matches("text/css", page.ask(it.address, "/inspector.css").head)
    assert.equal(404, page.ask(it.address, "/etc/passwd").status)
  end)

  it("listens on the loopback interface only", function()
    assert.error_matches(function() inspector.new { bind = "0.0.0.0:0" } end, "loopback")
    assert.error_matches(function() inspector.new { keep = 0 } end, "keep")
    local it = open {}
    local none, err = inspector.new { bind = it.address }
    assert.is_nil(none)
    assert.equal("io", err.code)
  end)
end)
