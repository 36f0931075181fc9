-- The reason of a close lost every character that is not ASCII.

local net = require "spec.support.net"

net.each(function(env)
  describe("the reason of a close", function()
    env.it("keeps its characters, whatever the language, and nothing that a terminal obeys", function()
      local server, client = env.pair()
      env.eventually(function() return #server:sessions() == 1 end)
      local why
      client:on_disconnect(function(_, err) why = err end)
      server:sessions()[1]:close("Müde für heute – 再见 🙂 \27[31m\u{9b}x\u{202e}")
      env.eventually(function() return why end)
      assert.matches("Müde für heute – 再见 🙂 ?[31m??x???", why.message, 1, true)
    end)

    env.it("is cut between characters", function()
      local server, client = env.pair()
      env.eventually(function() return #server:sessions() == 1 end)
      local why
      client:on_disconnect(function(_, err) why = err end)
      server:sessions()[1]:close(("ä"):rep(200))
      env.eventually(function() return why end)
      assert.truthy(utf8.len(why.message))
      assert.matches(("ä"):rep(120), why.message, 1, true)
    end)
  end)
end)
