-- The log: levels, bounded repeats, lines of JSON. lua/echostream/log.lua.

local busted = require "busted"
local echo = require "echostream"
local log = require "echostream.log"
local describe, it, after_each = busted.describe, busted.it, busted.after_each

describe("the log", function()
  local records

  local function keep(record)
    records[#records + 1] = record
  end

  busted.before_each(function()
    records = {}
  end)

  after_each(function()
    log.set()
  end)

  it("leaves out what is below its level", function()
    echo.set_log(keep, { level = "warn" })
    for _, level in ipairs { "debug", "info", "warn", "error" } do
      log.write(level, "something")
    end
    assert.equal(2, #records)
    assert.equal("warn", records[1].level)
    assert.error_matches(function() echo.set_log(keep, { level = "loud" }) end, "one of")
    assert.error_matches(function() echo.set_log(keep, { repeats = 0 }) end, "at least 1")
  end)

  it("says the same thing so often and no more, and later how often it did not", function()
    local time = os.time
    local now = time()
    os.time = function() return now end -- luacheck: ignore 122
    local ok, err = pcall(function()
      echo.set_log(keep, { repeats = 3 })
      for i = 1, 100 do
        log.write("error", "again", { method = "a" })
        if i % 50 == 0 then
          log.write("error", "again", { method = "b" })
        end
      end
      assert.equal(5, #records)
      now = now + 10
      log.write("error", "again", { method = "a" })
      assert.equal(6, #records)
      assert.equal(97, records[6].repeated)
      log.write("error", "again", { method = "b" })
      assert.is_nil(records[7].repeated)
      for i = 1, 1000 do
        log.write("error", "other " .. i)
      end
      assert.equal(1007, #records)
    end)
    os.time = time -- luacheck: ignore 122
    assert(ok, err)
  end)

  it("gives a function of the user's everything unless asked", function()
    echo.set_log(keep)
    for _ = 1, 100 do
      log.write("info", "again")
    end
    assert.equal(100, #records)
  end)

  it("writes lines of JSON that any reader takes", function()
    local lines = {}
    echo.set_log(echo.log.json(function(line) lines[#lines + 1] = line end))
    local session = { id = 7, peer_addr = "192.0.2.1:5" }
    log.write("error", "bad\n\"bytes\" \xff\0\27[1m", { method = "m\n", session = session, traceback = "at\n\tx" })
    log.write("warn", ("é"):rep(10000))
    assert.equal(2, #lines)
    for _, line in ipairs(lines) do
      assert.is_nil(line:sub(1, -2):find "%c")
      assert.equal("\n", line:sub(-1))
    end
    local first = echo.codec.json.decode("[" .. lines[1] .. "]")
    assert.equal("error", first.level)
    assert.equal("bad\n\"bytes\" \\xff\0\27[1m", first.message)
    assert.equal("m\n", first.method)
    assert.equal(7, first.session)
    assert.equal("192.0.2.1:5", first.peer)
    assert.equal("at\n\tx", first.traceback)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", first.time)
    local second = echo.codec.json.decode("[" .. lines[2] .. "]")
    assert.is_true(#second.message <= 4099)
    assert.equal("é...", second.message:sub(-5))
    for _ = 1, 50 do
      log.write("error", "flood")
    end
    assert.equal(12, #lines)
    assert.error_matches(function() echo.log.json(5) end, "wants a function") ---@diagnostic disable-line
  end)
end)
