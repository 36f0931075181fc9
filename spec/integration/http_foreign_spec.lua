-- HTTP/3 servers asked by the clients of other stacks: quic-go, aioquic, curl and gtlsclient. What the server answers stands at the
-- head of spec/foreign/http_server.lua. A client that this machine has not got is skipped, loudly.

local process = require "spec.support.process"

local quote, root = process.quote, process.root
local build = root .. "/build/foreign"
-- The sanitizers' preloaded libraries are for lua5.4 only; the clients stay without, and the server is several times slower.
local bare, sanitized = "env LD_PRELOAD= ", os.getenv "ASAN_OPTIONS" ~= nil
local MIB <const> = 1 << 20
local LARGE <const>, CALLS <const> = sanitized and 4 * MIB or 100 * MIB, sanitized and 200 or 1000

local dir, server, address

local function start()
  dir = process.directory()
  local made = process.run(process.echostream .. " cert --out " .. quote(dir))
  assert(made.code == 0, made.err)
  assert(process.run(("mkdir -p %s/files"):format(quote(dir))).code == 0)
  local period = {}
  for i = 0, 250 do period[i + 1] = string.char(i) end
  process.write(dir .. "/files/pattern", table.concat(period):rep(LARGE // 251 + 1):sub(1, LARGE))
  server = process.start(("lua5.4 spec/foreign/http_server.lua %s"):format(quote(dir)), { seconds = 280 })
  address = server:expect "^ready (%S+)$"
end

local function stop()
  server:stop()
  process.remove(dir)
end

local function run(command, seconds)
  return process.run(bare .. command, { seconds = seconds or 120 })
end

-- A client in a program of ours that prints a line for each check.
local function prints_what_it_checked(command, size, calls, names)
  local result

  setup(function()
    result = run(("%s %s %d %d"):format(command, address, size, calls), 250)
  end)

  for _, name in ipairs(names) do
    it(name, function()
      local line = ("\n" .. result.out):match("\n(%l+ " .. name .. "%f[\0:\n][^\n]*)")
      assert.truthy(line, "not reached: " .. result.out .. result.err)
      if line:find "^skipped" then return pending(line) end
      assert.equal("ok " .. name, line)
    end)
  end
end

local checks = { "get", "head", "post", "not found", "a large body down", "a large body up", "a large body there and back",
  "many in flight", "a range", "a call", "trailers" }

local function with(name, list)
  local all = table.move(list, 1, #list, 1, {})
  all[#all + 1] = name
  return all
end

-- Before the server is there: compiling may take minutes.
local go_client = build .. "/http_go"
local built = run("spec/support/build_quicgo.sh spec/foreign/http_go " .. quote(go_client), 300)

describe("an HTTP/3 server asked by", function()
  setup(start)
  teardown(stop)

  describe("quic-go:", function()
    if built.code == 3 then
      return pending(built.err)
    end
    assert(built.code == 0, ("the build ended with %d: %s%s"):format(built.code, built.out, built.err))
    prints_what_it_checked(quote(go_client), LARGE, CALLS, with("early hints", checks))
  end)

  describe("aioquic:", function()
    if run("python3 -c 'import aioquic'").code ~= 0 then
      return pending "no python3-aioquic (Debian 13 has it)"
    end
    prints_what_it_checked("python3 -W ignore spec/foreign/http_python.py", LARGE // 50, CALLS // 5,
      with("a WebTransport session", with("trailers of a request", checks)))
  end)

  describe("gtlsclient:", function()
    if run("sh -c 'command -v gtlsclient'").code ~= 0 then
      return pending "no gtlsclient (package ngtcp2-client)"
    end

    -- It exits with status 0 in any case: what it said, and what it saved, counts.
    local function ask(options, ...)
      local port, urls = address:match ":(%d+)$", {}
      for i, path in ipairs { ... } do urls[i] = quote("https://localhost:" .. port .. path) end
      return run(("gtlsclient --no-quic-dump --exit-on-all-streams-close %s 127.0.0.1 %s %s"):format(options, port,
        table.concat(urls, " ")))
    end

    it("get", function()
      local result = ask("", "/hello")
      assert.matches(":status: 200", result.out .. result.err)
      assert.matches("x%-from: echostream", result.out .. result.err)
    end)

    it("head", function()
      local result = ask("-m HEAD", "/hello")
      assert.matches(":status: 200", result.out .. result.err)
      assert.matches("content%-length: 6", result.out .. result.err)
    end)

    it("not found", function()
      local result = ask("", "/nowhere")
      assert.matches(":status: 404", result.out .. result.err)
    end)

    -- The client saves what it is answered under the last part of the path.
    local function saved(options, path, ...)
      local folder = process.directory()
      ask(("-q --download %s %s"):format(folder, options), path, ...)
      local name = folder .. "/" .. path:match "[^/]+$"
      local same = run(("cmp %s %s/files/pattern"):format(name, dir)).code == 0
      local text = not same and process.read(name)
      process.remove(folder)
      return same, text
    end

    it("a large body down, others beside it", function()
      assert.is_true(saved("", "/files/pattern", "/hello", "/status/404"))
    end)

    it("a large body up", function()
      local _, text = saved(("-m POST -d %s/files/pattern"):format(dir), "/bytes")
      assert.equal(LARGE .. "\n", text)
    end)

    it("many in flight", function()
      local result = ask(("-n %d"):format(CALLS), "/hello")
      local _, answered = (result.out .. result.err):gsub(":status: 200", "")
      assert.equal(CALLS, answered)
    end)
  end)

  describe("curl:", function()
    local version = run "curl --version"
    if not version.out:find "HTTP3" then
      return pending "no curl that speaks HTTP/3 (Debian 13 has one)"
    end

    local function curl(arguments, path)
      return run(("curl -sS --max-time 100 --http3-only -k %s https://%s%s"):format(arguments, address, path))
    end

    it("get", function()
      local result = curl("-i", "/hello")
      assert.matches("^HTTP/3 200", result.out)
      assert.matches("x%-from: echostream", result.out)
      assert.matches("\nhello\n$", result.out)
    end)

    it("head", function()
      local result = curl("-I", "/hello")
      assert.matches("^HTTP/3 200", result.out)
      assert.matches("content%-length: 6", result.out)
    end)

    it("post", function()
      assert.equal("there and back", curl("-d 'there and back'", "/echo").out)
    end)

    it("calls", function()
      assert.equal("30", curl("-d '[10,20]'", "/rpc/math.add").out)
      assert.equal("data: 2\n\ndata: 1\n\nevent: result\ndata: [\"done\"]\n\n", curl("-N -d '[2]'", "/rpc/countdown").out)
      assert.equal("202", curl("-w '%{http_code}' -d '[\"heard\"]'", "/event/note").out)
      for _ = 1, 100 do -- an event is not waited for
        if curl("-d ''", "/rpc/noted").out == '"heard"' then return end
      end
      error "the event did not arrive"
    end)

    it("not found", function()
      assert.equal("404", curl("-o /dev/null -w '%{http_code}'", "/nowhere").out)
    end)

    it("a large body down", function()
      local result = curl(("-o %s/got"):format(dir), ("/bytes/%d"):format(LARGE))
      assert.equal(0, result.code, result.err)
      assert.equal(0, run(("cmp %s/got %s/files/pattern"):format(dir, dir)).code)
    end)

    it("a large body up", function()
      local result = curl(("-H expect: --data-binary @%s/files/pattern"):format(dir), "/bytes")
      assert.equal(LARGE .. "\n", result.out, result.err)
    end)

    it("a body that is too long", function()
      process.write(dir .. "/long", ("x"):rep(10000000))
      local result = curl(("-o /dev/null -w '%%{http_code}' -H expect: --data-binary @%s/long"):format(dir), "/rpc/math.add")
      assert.same({ 0, "413" }, { result.code, result.out }, result.err)
    end)

    it("a large body there and back, with Expect: 100-continue", function()
      local result = curl(("-H 'expect: 100-continue' -o %s/got -T %s/files/pattern -X POST"):format(dir, dir), "/echo")
      assert.equal(0, result.code, result.err)
      assert.equal(0, run(("cmp %s/got %s/files/pattern"):format(dir, dir)).code)
    end)

    it("many in flight", function()
      local result = curl("-Z --parallel-max 128 -o /dev/null -w '%{http_code}\\n'", ("/hello?[1-%d]"):format(CALLS))
      local _, answered = result.out:gsub("200\n", "")
      assert.equal(CALLS, answered, result.err)
    end)

    it("a range", function()
      local result = curl("-i -r 250-252", "/files/pattern")
      assert.matches("^HTTP/3 206", result.out)
      assert.equal("\250\0\1", result.out:sub(-3))
    end)

    it("a call", function()
      assert.equal("30", curl("-d '[10,20]'", "/rpc/math.add").out)
    end)

    it("early hints", function()
      local result = curl("-i", "/hints")
      assert.matches("^HTTP/3 103.-link: </style%.css>; rel=preload.-HTTP/3 200.-hinted$", result.out)
    end)

    it("trailers", function()
      local result = curl("-i", "/trailers")
      assert.matches("body", result.out)
      assert.matches("x%-after: done", result.out)
    end)

    it("a field of 70 KB is refused", function()
      process.write(dir .. "/large", "header = \"x-large: " .. ("x"):rep(70000) .. "\"\n")
      assert.equal("431", curl(("-K %s/large -o /dev/null -w '%%{http_code}'"):format(dir), "/hello").out)
    end)
  end)
end)
