local access_log = require "echostream.tunnel.access_log"
local core = require "echostream.core"
local echo = require "echostream"
local scratch = require "spec.support.scratch"

local head = { get = function(_, name) return ({ ["user-agent"] = "curl/8 \255", accept = "*/*" })[name] end }

local function record(more)
  local r = { id = "r1", trace_id = "t1", at = 1700000000.125, received = 5, kind = "http", protocol = "h2", listener = "web", port = 443,
    peer_ip = "10.0.0.1", client_ip = "10.0.0.1", host = "example.org", method = "GET", path = "/a", query = "b=1", rule = "app", group = "g",
    agent = "a1", status = 200, bytes_in = 0, bytes_out = 12, to_headers = 0.0012361, duration = 0.5, attempts = 1,
    backend = { backend = "web", connect_time = 0.002, reused = false, attempt = 1 }, request = head }
  for key, value in pairs(more or {}) do r[key] = value end
  return r
end

local function gather(opts)
  local lines = {}
  opts.write = function(line) lines[#lines + 1] = line end
  return assert(access_log.new(opts)), lines
end

local function lines_of(path)
  local list = {}
  for line in io.lines(path) do list[#list + 1] = line end
  return list
end

-- The file is written in the background.
local function wait_for(path, n)
  for _ = 1, 2000 do
    if #lines_of(path) >= n then return lines_of(path) end
    echo.sleep(0.005)
  end
  return lines_of(path)
end

describe("the tunnel's access log", function()
  it("has the ids, who, what, where to and how long, in one line of JSON", function()
    local access, lines = gather { headers = { "User-Agent", "x-none" } }
    access:record(record())
    local line = core.codec.json.unpack(lines[1])
    assert.is_nil(lines[1]:find "\n")
    for key, value in pairs { time = "2023-11-14T22:13:20.125Z", id = "r1", trace_id = "t1", host = "example.org", method = "GET", path = "/a",
      query = "b=1", rule = "app", group = "g", agent = "a1", status = 200, bytes_out = 12, ms = 500.0, headers_ms = 1.236, backend = "web",
      connect_ms = 2.0, reused = false, attempts = 1, peer_ip = "10.0.0.1", protocol = "h2", port = 443, listener = "web" } do
      assert.equal(value, line[key], key)
    end
    assert.same({ ["user-agent"] = "curl/8 \\xff" }, { ["user-agent"] = line.headers["user-agent"] })
    assert.equal(1, access.lines)
  end)

  it("says why what did not end well did not, and survives any text", function()
    local access, lines = gather {}
    access:record(record { status = false, cause = "limit", limit = "group g: requests", reason = "a\nb\0\255", path = ("x"):rep(9000),
      host = "\27[31m" })
    local line = core.codec.json.unpack(lines[1])
    assert.equal("limit", line.cause)
    assert.equal("group g: requests", line.limit)
    assert.equal("a\nb\0\\xff", line.reason)
    assert.is_true(#line.path < 1100)
    assert.is_nil(lines[1]:find "%c")
  end)

  it("may have fewer lines of what went well, never of what failed or was slow", function()
    local access, lines = gather { sample = 0, slow = 0.4 }
    access:record(record { duration = 0.1 })
    assert.equal(0, #lines)
    access:record(record { duration = 0.4 })
    access:record(record { duration = 0.1, status = 502 })
    access:record(record { duration = 0.1, cause = "visitor" })
    assert.equal(3, #lines)
    local some, few = gather { only = function(r) return r.host == "b" end }
    some:record(record())
    some:record(record { host = "b" })
    assert.equal(1, #few)
  end)

  it("logs an error of the user's function, and goes on", function()
    local said = {}
    echo.set_log(function(entry) said[#said + 1] = entry.message end)
    local access = assert(access_log.new { write = function() error "no" end })
    access:record(record())
    echo.set_log(nil)
    assert.matches("tunnel.access_log: .*no", said[1])
  end)

  it("adds to a file, and opens it again when it was moved away", function()
    local path = scratch.path ".log"
    local access = assert(access_log.new { path = path, max_queue = 1000 })
    access:record(record { id = "first" })
    assert.matches("first", wait_for(path, 1)[1])
    os.rename(path, path .. ".1")
    assert.is_true(access:reopen())
    access:record(record { id = "second" })
    assert.matches("second", wait_for(path, 1)[1])
    assert.equal(1, #lines_of(path .. ".1"))
    access:close()
    access:close()
    access:record(record())
    assert.equal(1, access.dropped)
    os.remove(path .. ".1")
  end)

  it("says when its file cannot be opened, and refuses options that exclude each other", function()
    local none, err = access_log.new { path = "/no/such/directory/log" }
    assert.is_nil(none)
    assert.equal("io", err.code)
    assert.error_matches(function() access_log.new { path = "x", write = print } end, "exclude each other")
  end)
end)
