-- Misuse is blamed on the line of the user, however many functions of ours are between, tail calls included; and a closed client
-- says that it is closed.

local echo = require "echostream"
local net = require "spec.support.net"

-- What `fn` raises, and the line below the one where this is called: the first of its body.
local function raised(fn)
  local ok, problem = pcall(fn)
  assert.is_false(ok)
  local here = debug.getinfo(fn, "S")
  return tostring(problem), ("%s:%d: "):format(here.short_src, here.linedefined + 1)
end

local function blamed(what, fn)
  local problem, line = raised(fn)
  assert.equal(line, problem:sub(1, #line))
  assert.truthy(problem:find(what, #line, true), problem)
end

describe("misuse", function()
  net.each(function(env)
    env.it("is blamed on the user's line, in a task", function()
      local server, client = env.pair()
      for _, calls in ipairs { client, client:with { timeout = 5 }, client:with { retry = 2 } } do
        blamed("a method name is 1 to 256", function()
          calls:request "no name"
        end)
        blamed("name wants a string, got nil", function()
          calls:request(nil)
        end)
        blamed("a function cannot be sent", function()
          calls:request("x", print, 1)
        end)
        blamed("an event name is", function()
          calls:emit "no name"
        end)
        blamed("a stream name is", function()
          calls:create_stream "no name"
        end)
        blamed("a method name is", function()
          calls:stream "no name"
        end)
        blamed('unknown option "tiemout"', function()
          calls:with { tiemout = 1 }
        end)
        blamed("name wants a string, got 5", function()
          calls:create_stream(5)
        end)
      end
      blamed("name wants a string", function()
        server:add_rpc(5, print)
      end)
    end)

    env.it("of a queue's marks is seen before anything is opened", function()
      local server, client = env.pair()
      local marks = { high = 10, low = 20 }
      blamed('option "queue" wants a low mark up to the high one', function()
        client:create_stream("x", { queue = marks })
      end)
      blamed('option "queue" wants a low mark up to the high one', function()
        client:with { queue = marks }
      end)
      blamed('option "queue" wants a low mark up to the high one', function()
        server:add_stream("x", print, { queue = marks })
      end)
      assert.equal(0, client._ud:in_flight())
    end)
  end)

  it("is blamed on the user's line on the main thread", function()
    local server = assert(echo.server({ bind = "127.0.0.1:0", quiet = true, state_dir = net.state_dir() }):start())
    local client = assert(echo.connect(server.address, { pin = server.pin }))
    blamed("a method name is 1 to 256", function()
      client:request "no name"
    end)
    blamed("a method name is 1 to 256", function()
      client:with { idempotent = true }:request "no name"
    end)
    client:close()
    server:stop { grace = 0 }
  end)
end)

describe("a ping", function()
  net.each(function(env)
    env.it("of a client that was closed says so, as its calls do, and of one that never was connected that", function()
      local server, client = env.pair()
      local fresh = env.client(server)
      assert.equal("unavailable", select(2, fresh:ping()).code)
      client:close()
      assert.equal("connection_closed", select(2, client:ping()).code)
      assert.equal("connection_closed", select(2, client:request "x").code)
    end)
  end)
end)
