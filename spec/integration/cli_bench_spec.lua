-- `echostream bench`: its load in the simulator, where times are exact, and the command in a process of its own.

local command = require "spec.support.command"
local core = require "echostream.core"
local echo = require "echostream"
local load = require "echostream.cli.load"
local process = require "spec.support.process"

describe("the load of echostream bench", function()
  -- Runs a load over a path of 10 ms each way; `slow` takes its argument in seconds.
  local function simulate(opts, meanwhile)
    local figures, run
    echo.sim.run({ seed = 1, delay = 0.01 }, function()
      local server = echo.server { bind = "10.0.0.1:5000", quiet = true }
      server:add_rpc("slow", function(_, seconds)
        if seconds > 0 then echo.sleep(seconds) end
        return true
      end)
      server:add_rpc("fail", function() return nil, echo.error("out_of_range", "too much") end)
      assert(server:start())
      local clients, calls = {}, {}
      for i = 1, opts.connections or 1 do
        clients[i] = assert(echo.connect("10.0.0.1:5000", { pin = server.pin }))
        calls[i] = clients[i]:with {}
        assert(calls[i]:request("slow", 0))
      end
      run = load.new {
        calls = calls, method = opts.method or "slow", arguments = { n = 1, opts.seconds or 0 }, concurrency = opts.concurrency,
        duration = opts.duration or 1, rate = opts.rate,
      }
      if meanwhile then
        echo.spawn(meanwhile, clients, server)
      end
      load.run(run)
      figures = load.figures(run)
      for _, client in ipairs(clients) do
        client:close()
      end
      server:stop()
    end)
    return figures, run
  end

  it("calls as fast as answers come, without a rate", function()
    -- 0.1 s and a round trip each: nine in a second, of four callers on two connections.
    local figures = simulate { seconds = 0.1, concurrency = 4, connections = 2, duration = 1 }
    assert.is_true(figures.requests >= 4 * 8 and figures.requests <= 4 * 9, figures.requests)
    assert.equal(4, figures.late + figures.requests - 4 * (figures.requests // 4))
    assert.equal(0, figures.failed)
    assert.equal(0, figures.unanswered)
    assert.is_true(figures.latency.p50 > 0.115 and figures.latency.p50 < 0.14, figures.latency.p50)
    assert.is_true(figures.latency.max >= figures.latency.p99 and figures.latency.p999 >= figures.latency.p90)
    assert.equal(1, figures.seconds)
    assert.equal(figures.requests, figures.rate)
  end)

  it("counts what is answered after the end as late, and not as failed as well", function()
    -- Ten callers and 20 ms a call: two rounds in time, the third after the end.
    local figures, run = simulate { method = "fail", concurrency = 10, duration = 0.05 }
    assert.equal(20, figures.requests)
    assert.equal(20, figures.failed)
    assert.same({ out_of_range = 20 }, figures.codes)
    assert.equal(10, figures.late)
    assert.equal(0, run.succeeded)
  end)

  it("calls at a rate whether answers keep up or not, and counts from when a call was due", function()
    local figures = simulate { rate = 100, concurrency = 1000, duration = 2 }
    assert.equal(200, figures.requests + figures.late)
    assert.equal(0, figures.skipped)
    assert.is_true(figures.latency.p50 > 0.018 and figures.latency.p50 < 0.03, figures.latency.p50)
    -- Half a second in which nothing passes: the calls that were due meanwhile waited, and that is seen.
    local hindered = simulate({ rate = 100, concurrency = 1000, duration = 2 }, function()
      echo.sleep(0.5)
      require "echostream.loop".current().core:blackout(0, 0.5)
    end)
    assert.equal(200, hindered.requests + hindered.late)
    assert.is_true(hindered.latency.p90 > 0.2, hindered.latency.p90)
    assert.is_true(hindered.latency.max > 0.5, hindered.latency.max)
  end)

  it("makes no more calls at once than it may, and says how many it left out", function()
    local figures = simulate { seconds = 0.5, rate = 100, concurrency = 10, duration = 1 }
    assert.is_true(figures.skipped >= 70, figures.skipped)
    assert.equal(100, figures.skipped + figures.requests + figures.late)
  end)

  it("counts what fails, by its code", function()
    local figures, run = simulate { method = "fail", concurrency = 2, duration = 0.5 }
    assert.equal(figures.requests + figures.late, figures.failed)
    assert.same({ out_of_range = figures.failed }, figures.codes)
    local rows, sum = load.spread(run.latency), 0
    for _, row in ipairs(rows) do
      sum = sum + row.count
    end
    assert.equal(figures.failed, sum)
    assert.is_true(rows[1].count > 0 and rows[#rows].count > 0)
  end)

  it("ends early when the connections are gone", function()
    local figures = simulate({ concurrency = 3, duration = 1000 }, function(clients)
      echo.sleep(0.5)
      clients[1]:close()
    end)
    assert.is_true(figures.seconds < 5, figures.seconds)
    assert.is_true(figures.failed >= 3)
  end)

  it("leaves out what does not answer in time", function()
    local figures = simulate { seconds = 10, concurrency = 3, duration = 0.1 }
    assert.equal(0, figures.requests)
    assert.equal(3, figures.unanswered)
  end)
end)

describe("echostream bench", function()
  local server

  setup(function()
    server = command.server [[
      local server = ...
      local echo = require "echostream"
      server:add_rpc("echo", function(_, ...) return ... end)
      server:add_rpc("fail", function() return nil, echo.error("not_found", "no such thing") end)
      local n = 0
      server:add_rpc("counted", function()
        n = n + 1
        if n == 200 then
          print "at work"
          io.stdout:flush()
        end
      end)
    ]]
  end)

  teardown(function()
    server:stop()
  end)

  it("says for people how many calls were answered, and how fast", function()
    local result = server:run("bench", "echo 1 --duration 0.2 --concurrency 4")
    assert.equal(0, result.code, result.err)
    assert.matches("^[%d,]+ calls in 0%.2 s: [%d,.]+ calls/s\n1 connection, 4 callers\nfailed: 0\n", result.out)
    assert.matches("\ntime: mean %S+ %S+, p50 .*, p90 .*, p99 .*, p99%.9 .*, max ", result.out)
    assert.matches("\n  up to .* #+\n", result.out)
    assert.not_matches("\27", result.out .. result.err)
  end)

  it("writes JSON", function()
    local result = server:run("bench", "echo 1 --duration 0.3 --rate 50 --connections 2 --json")
    assert.equal(0, result.code, result.err)
    local figures = assert(core.codec.json.unpack(result.out))
    assert.equal(15, figures.requests + figures.late + figures.unanswered)
    assert.equal(2, figures.connections)
    assert.equal(50, figures.wanted_rate)
    assert.is_boolean(figures.client_limited)
    assert.is_true(figures.latency.max > 0)
  end)

  it("fails with 1 when every call does", function()
    local result = server:run("bench", "fail --duration 0.1 --concurrency 1")
    assert.equal(1, result.code)
    assert.matches("failed: [%d,]+ %(not_found [%d,]+%)", result.out)
    result = server:run("bench", "nothing --duration 30")
    assert.equal(1, result.code)
    assert.equal("", result.out)
    assert.matches("^method_not_found: ", result.err)
  end)

  it("reports what it has when it is interrupted", function()
    local bench = process.start(("%s bench %s --pin %s counted --duration 50 --json"):format(process.echostream, server.address, server.pin))
    server.process:expect "^at work$"
    local code, rest = bench:stop "INT"
    assert.equal(130, code, rest)
    assert.is_true(assert(core.codec.json.unpack(rest:match "{.*}")).requests >= 1)
  end)

  it("fails with 2 for wrong arguments and with 3 when nobody listens", function()
    for _, arguments in ipairs { "echo --concurrency 0", "echo --concurrency 1.5", "echo --rate 0", "echo --duration 0",
      "echo --connections 0", "echo {", "" } do
      local result = server:run("bench", arguments)
      assert.equal(2, result.code, arguments)
      assert.matches("Usage: echostream bench", result.err, 1, true)
    end
    local result = command.run(("bench 127.0.0.1:%d echo --insecure --timeout 1 --json"):format(process.free_port()))
    assert.equal(3, result.code)
    assert.matches('^{"error":', result.out)
  end)
end)
