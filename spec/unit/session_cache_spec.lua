local echo = require "echostream"
local log = require "echostream.log"
local session_cache = require "echostream.session_cache"

describe("a store of session tickets", function()
  it("in memory gives back what was put last, and forgets", function()
    local store = echo.session_cache.memory()
    assert.is_nil(store:get "a")
    store:put("a", "1")
    store:put("a", "2")
    assert.equal("2", store:get "a")
    store:put("a", nil)
    store:put("never there", nil)
    assert.is_nil(store:get "a")
  end)

  it("in memory is bounded: what was put first goes", function()
    local store = session_cache.memory(3)
    for i = 1, 4 do
      store:put("k" .. i, "v" .. i)
    end
    store:put("k2", "again")
    store:put("k5", "v5")
    assert.same({ nil, "again", nil, "v4", "v5" }, { store:get "k1", store:get "k2", store:get "k3", store:get "k4", store:get "k5" })
  end)

  it("is one for the process when the option is true, and the user's own when it is a table", function()
    local own = session_cache.memory()
    assert.equal(session_cache.of(true), session_cache.of(true))
    assert.equal(own, session_cache.of(own))
    assert.is_nil(session_cache.of(false))
    assert.is_nil(session_cache.of(nil))
    assert.has_error(function() session_cache.check("here", { get = print }) end)
    session_cache.check("here", own)
    session_cache.check("here", true)
  end)

  it("gives a ticket out once", function()
    local store = session_cache.memory()
    session_cache.keeper(store, "k")("ticket")
    assert.equal("ticket", session_cache.take(store, "k"))
    assert.is_nil(session_cache.take(store, "k"))
  end)

  it("that fails is named in the log, and nothing else fails", function()
    local records = {}
    log.set(function(record) records[#records + 1] = record.message end)
    local raising = { get = function() error "no disk" end, put = function() error "no disk" end }
    assert.is_nil(session_cache.take(raising, "k"))
    session_cache.keeper(raising, "k")("ticket")
    assert.is_nil(session_cache.take({ get = function() return 5 end }, "k"))
    log.set(nil)
    assert.equal(3, #records)
    assert.matches("no disk", records[1])
    assert.matches("gave a number", records[3])
  end)
end)
