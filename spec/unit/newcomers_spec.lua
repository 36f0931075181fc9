local echo = require "echostream"
local newcomers = require "echostream.tls.newcomers"
local process = require "spec.support.process"

describe("the options about newcomers", function()
  it("are checked, and the message says what is wanted", function()
    local wrong = {
      { { retry = "sometimes" }, 'option "retry" wants one of "auto", "always", "never"' },
      { { retry_above = 0 }, 'option "retry_above" wants at least 1' },
      { { max_half_open = 1.5 }, 'option "max_half_open" wants an integer' },
      { { max_half_open_per_address = -1 }, 'option "max_half_open_per_address" wants at least 1' },
      { { secret = ("x"):rep(31) }, 'option "secret" wants at least 32 bytes, got 31' },
      { { transport = { version = 3 } }, 'option "version" wants one of 1, 2' },
    }
    for _, case in ipairs(wrong) do
      local ok, err = pcall(function() local _ = echo.server(case[1]) end)
      assert.is_false(ok)
      assert.truthy(err:find(case[2], 1, true), err)
      assert.matches("newcomers_spec", err) -- the place of the mistake
    end
    local ok, err = pcall(function()
      local _ = echo.quic.listen("127.0.0.1:0", { alpn = { "x" }, secret = "short" })
    end)
    assert.is_false(ok)
    assert.matches("newcomers_spec.-at least 32 bytes", err)
  end)

  it("go to the endpoint as they are", function()
    local config = newcomers.configure({ bind = "x" }, { retry = "always", max_half_open = 7, secret = ("s"):rep(40) }, "::1", 0)
    assert.same({ bind = "x", retry = "always", max_half_open = 7, secret = ("s"):rep(40) }, config)
  end)
end)

describe("a server's secret", function()
  local dir

  before_each(function() dir = process.directory() end)
  after_each(function() process.remove(dir) end)

  local function secret(opts, host, port, sim)
    opts.state_dir = dir
    return newcomers.configure({}, opts, host or "127.0.0.1", port or 5000, sim).secret
  end

  it("is kept beside a made key, for its owner only", function()
    local first = secret {}
    assert.equal(first, secret {})
    assert.is_true(#first > 64)
    assert.equal("600\n", process.run("stat -c %a " .. dir .. "/server.secret").out)
  end)

  it("is another one for each address, lest one server can be made to reset another's connections", function()
    local seen = {}
    for _, where in ipairs { { "127.0.0.1", 5000 }, { "127.0.0.1", 5001 }, { "127.0.0.2", 5000 }, { "::1", 5000 } } do
      local s = secret({}, where[1], where[2])
      assert.is_nil(seen[s])
      seen[s] = true
    end
  end)

  it("is kept beside a key that has a place of its own", function()
    local first = newcomers.configure({}, { key = dir .. "/my.key" }, "127.0.0.1", 5000).secret
    assert.equal(64, #process.read(dir .. "/my.key.secret"))
    assert.truthy(first:find(process.read(dir .. "/my.key.secret"), 1, true))
  end)

  it("is made anew where nothing is kept", function()
    assert.is_nil(secret({}, "127.0.0.1", 0))
    assert.is_nil(secret({}, "127.0.0.1", 5000, true))
    assert.is_nil(secret { cert = "cert.pem", key = "key.pem" })
    process.write(dir .. "/server.secret", "open to all")
    os.execute("chmod 644 " .. dir .. "/server.secret")
    assert.is_nil(secret {})
  end)
end)
