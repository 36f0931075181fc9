local core = require "echostream.core"
local identity = require "echostream.tls.identity"
local files = require "echostream.loop.files"
local log = require "echostream.log"
local scratch = require "spec.support.scratch"

local function temporary()
  return scratch.path ".d"
end

describe("a server's identity", function()
  it("has pins that can be read back", function()
    local raw = core.random(32)
    local text = identity.pin_text(raw)
    assert.matches("^sha256:%x+$", text)
    assert.equal(71, #text)
    assert.equal(raw, identity.pin_bytes(text))
    assert.equal(raw, identity.pin_bytes("SHA256:" .. text:sub(8):upper()))
  end)

  it("takes nothing else for a pin", function()
    for _, bad in ipairs { "", "sha256:", "sha256:abcd", "sha1:" .. ("a"):rep(64), ("a"):rep(64), "sha256:" .. ("g"):rep(64) } do
      assert.is_nil(identity.pin_bytes(bad))
    end
    assert.is_nil(identity.pin_bytes(nil))
  end)

  it("keeps its key in a file that only the owner reads", function()
    local dir = temporary()
    local key = assert(identity.key(nil, dir))
    assert.matches("BEGIN PRIVATE KEY", key)
    assert.equal(key, identity.key(nil, dir))
    local pipe = assert(io.popen("stat -c %a '" .. dir .. "/server.key' '" .. dir .. "'"))
    assert.equal("600\n700\n", pipe:read("a"))
    pipe:close()
    os.execute("rm -r '" .. dir .. "'")
  end)

  it("refuses a key that others may read", function()
    local dir = temporary()
    assert(files.make_directories(dir))
    local path = dir .. "/k"
    assert(identity.key(path))
    os.execute("chmod 644 '" .. path .. "'")
    local key, err = identity.key(path)
    assert.is_nil(key)
    assert.equal("io", err.code)
    assert.matches("chmod 600", err.message)
    os.execute("rm -r '" .. dir .. "'")
  end)

  it("says so when a told directory cannot be had", function()
    local key, err = identity.key(nil, "/proc/no/such")
    assert.is_nil(key)
    assert.matches("state_dir", err.message)
  end)

  it("makes certificates of one key that differ, with the same pin", function()
    local key = core.key_generate()
    local one = assert(core.cert_inspect(assert(identity.certificate(key, { "localhost" }))))
    local two = assert(core.cert_inspect(assert(identity.certificate(key, { "localhost" }))))
    assert.equal(one.spki, two.spki)
    assert.not_equal(one.der, two.der)
    local days = (one.not_after - os.time()) / 86400
    assert.is_true(days > 12 and days <= 13.1)
  end)

  it("lets nobody overwrite a key", function()
    local dir = temporary()
    assert(files.make_directories(dir))
    assert.is_true(files.write_secret(dir .. "/k", "one"))
    local ok, why = files.write_secret(dir .. "/k", "two")
    assert.is_nil(ok)
    assert.equal("exists", why)
    assert.equal("one", files.read_secret(dir .. "/k"))
    assert.is_nil(files.read_secret(dir .. "/none"))
    os.execute("rm -r '" .. dir .. "'")
  end)
end)

describe("the log", function()
  it("goes to a function, whose errors are swallowed", function()
    local got
    log.set(function(record) got = record end)
    log.write("warn", "hello", { method = "m" })
    assert.same({ level = "warn", message = "hello", method = "m" }, got)
    log.set(function() error("no") end)
    log.write("warn", "again")
    log.set(nil)
    assert.has_error(function() log.set(5) end)
  end)
end)
