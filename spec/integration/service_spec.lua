-- The service face: protocols with versions over the sessions that are there.

local echo = require "echostream"
local net = require "spec.support.net"

-- Waits until it is so; the time limit of the spec is the only one, because a busy machine may stand still for seconds.
local function till(fn)
  while not fn() do echo.sleep(0.005) end
end
local versions = require "echostream.versions"

describe("versions", function()
  it("are read as ranges, and the best common one is the highest in both", function()
    local function best(a, b) return versions.best(versions.parse(a), versions.parse(b)) end
    assert.equal("1.2", best("1.0-1.2", "1.1-1.9"))
    assert.equal("1.10", best("1.2-1.10", "1.0-1.20"))
    assert.equal("2.1", best("1.0-1.4,2.0-2.1", "1.3-3.0"))
    assert.equal("1.4", best("1.0-1.4,2.0-2.1", "1.0-1.9"))
    assert.equal("3.0", best("3", "1-5"))
    assert.is_nil(best("1.0-1.2", "1.3"))
    assert.equal("1.0-1.4,2.0", versions.text(versions.parse "1.0-1.4, 2.0-2.0"))
    for _, text in ipairs { "", "x", "1.2.3", "2.0-1.0", "1.0,", "1.0-", ("1.0,"):rep(40) .. "1.0", "9999999999.0" } do
      assert.is_nil(versions.parse(text), text)
    end
  end)
end)

net.each(function(env)
  describe("a service", function()
    local function chat(host, range, seen)
      local service = echo.service.new(host)
      service:offer("chat", range, function(stream, peer)
        seen[#seen + 1] = { stream.version, stream.peer_id, peer }
        for frame in stream:frames() do
          if frame.data == "fail" then error(echo.error("aborted", "as asked")) end
          stream:send(stream.version .. " " .. frame.data)
        end
      end)
      return service
    end

    env.it("opens streams in the best version that both sides speak, from either side", function()
      local seen, back = {}, {}
      local server, client = env.pair()
      local there, here = chat(server, "1.0-1.4,2.0", seen), chat(client, "0.1-0.3", back)
      local stream = assert(here:open_stream(nil, "chat/1.2-1.9"))
      assert.equal("1.4", stream.version)
      assert.equal("chat", stream.protocol)
      assert.equal(server.pin, stream.peer_id)
      assert.equal(server.pin, there:peer_id())
      stream:send "hello"
      assert.equal("1.4 hello", stream:recv().data)
      local any = assert(here:open_stream(client, "chat"))
      assert.equal("2.0", any.version)
      local by_id = assert(here:open_stream(server.pin, "chat/1.0"))
      assert.equal("1.0", by_id.version)
      assert.equal(client.session, here:peers()[server.pin])
      -- the server opens one to the client, which showed no certificate: by its session
      local reverse = assert(there:open_stream(server:sessions()[1], "chat/0.2-7.0"))
      assert.equal("0.3", reverse.version)
      assert.is_nil(reverse.peer_id)
      assert.is_nil(here:peer_id())
      assert.equal(1, #back)
      assert.equal(3, #here:streams() - 1)
      local stats = here:stats().chat
      assert.same({ 3, 1, 4, 0 }, { stats.opened, stats.accepted, stats.open, stats.refused })
      assert.is_true(stats.messages_out >= 1 and stats.messages_in >= 4 and stats.bytes_in > 0)
      assert.is_true(here:close_stream(stream))
      here:close_stream(any)
      here:close_stream(by_id)
      till(function() return there:stats().chat.open == 1 end)
      assert.equal(1, here:stats().chat.open)
      assert.equal(3, there:stats().chat.accepted)
      assert.is_true(here:stats().chat.messages_out >= 1)
      local called
      here:open_stream(nil, "chat/2.0", function(other) called = other.version end):wait()
      assert.equal("2.0", called)
      reverse:close()
    end)

    env.it("says what is offered when there is no version in common, and what is not there", function()
      local server, client = env.pair()
      local there, here = chat(server, "1.0-1.4,2.0", {}), echo.service.new(client)
      local none, err = here:open_stream(nil, "chat/3.0-4.0")
      assert.is_nil(none)
      assert.equal("failed_precondition", err.code)
      assert.matches("chat/1%.0%-1%.4,2%.0 is offered", err.message)
      assert.equal("1.0-1.4,2.0", err.details.offers)
      assert.equal(1, there:stats().chat.refused)
      assert.equal(1, here:stats().chat.refused)
      assert.equal("method_not_found", select(2, here:open_stream(nil, "talk/1.0")).code)
      assert.equal("not_found", select(2, here:open_stream("sha256:" .. ("0"):rep(64), "chat/1.0")).code)
      assert.is_true(there:withdraw "chat")
      assert.is_false(there:withdraw "chat")
      assert.equal("method_not_found", select(2, here:open_stream(nil, "chat/1.0")).code)
      for _, wrong in ipairs { "chat/x", "a b/1.0", "/1.0", "chat/1.0/2" } do
        assert.has_error(function() here:open_stream(nil, wrong) end)
      end
      assert.has_error(function() echo.service.new {} end)
      assert.has_error(function() here:offer("chat", "2-1", print) end)
      assert.has_error(function() here:close_stream(5) end)
    end)

    env.it("knows how streams ended", function()
      local server, client = env.pair()
      local there, here = chat(server, "1.0", {}), echo.service.new(client)
      local stream = assert(here:open_stream(nil, "chat/1.0"))
      stream:send "fail"
      local frame, err = stream:recv()
      assert.is_nil(frame)
      assert.equal("aborted", err.code)
      here:close_stream(stream)
      assert.equal(1, there:stats().chat.failed)
      assert.equal(0, there:stats().chat.open)
      assert.same({}, here:streams())
    end)
  end)
end)
