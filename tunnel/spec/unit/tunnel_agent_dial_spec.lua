-- Ways to a backend: sockets, names, several addresses. Simulated, as in tunnel_agent_pool_spec.lua.

local dial = require "echostream.tunnel.agent.dial"
local echo = require "echostream"
local fake_engine = require "tunnel.spec.support.fake_engine"

local function in_simulation(name, fn)
  it(name, function() echo.sim.run({ seed = 7 }, fn) end)
end

local function try(engine, place)
  local told = { closed = {} }
  dial.dial(engine, place, {
    timeout = 10,
    codec = "raw",
    on_open = function(c) told.c = c end,
    on_failed = function(err) told.err = err end,
    on_closed = function(c) table.insert(told.closed, c) end,
  })
  echo.sleep(0)
  return told
end

describe("dialling", function()
  in_simulation("goes to unix sockets", function()
    local engine = fake_engine.new()
    local told = try(engine, { path = "/run/app.sock" })
    assert.equal("/run/app.sock", engine.dials[1].options.path)
    engine.dials[1]:fail("unavailable", "no such file")
    assert.equal("unix:/run/app.sock: no such file", told.err.message)
    assert.same({}, told.closed)
  end)

  in_simulation("goes to addresses", function()
    local engine = fake_engine.new()
    local told = try(engine, { host = "::1", port = 80 })
    assert.equal("::1", engine.dials[1].options.ip)
    local c = engine.dials[1]:open "raw"
    assert.equal(c, told.c)
    c:gone()
    assert.same({ c }, told.closed)
    assert.equal("[::1]:80", dial.name { host = "::1", port = 80 })
  end)

  in_simulation("looks names up, tries the next address beside a silent one, and starts with the good one next time", function()
    local engine = fake_engine.new()
    local place = { host = "app.example", port = 80, addresses = { "10.0.0.1", "10.0.0.2" }, looked_up = echo.now() }
    local told = try(engine, place)
    assert.equal(1, #engine.dials)
    echo.sleep(0.3)
    assert.equal("10.0.0.2", engine.dials[2].options.ip)
    local c = engine.dials[2]:open "raw"
    assert.equal(c, told.c)
    assert.is_truthy(engine.dials[1].connection.closed)
    engine.dials[1].connection:gone()
    assert.same({}, told.closed)
    try(engine, place)
    assert.equal("10.0.0.2", engine.dials[3].options.ip)
  end)

  in_simulation("tries the next address at once when one failed, and says why the first did", function()
    local engine = fake_engine.new()
    local place = { host = "app.example", port = 80, addresses = { "10.0.0.1", "10.0.0.2" }, looked_up = echo.now() }
    local told = try(engine, place)
    engine.dials[1]:fail("unavailable", "connection refused")
    assert.equal(2, #engine.dials)
    engine.dials[2]:fail("timeout", "no answer")
    assert.equal("app.example:80 (10.0.0.1): connection refused", told.err.message)
  end)

  in_simulation("says that a name means nothing", function()
    local told = try(fake_engine.new(), { host = "app.example", port = 80 })
    assert.equal("not_found", told.err.code)
    assert.matches("app.example:80: ", told.err.message)
  end)

  in_simulation("uses what a name meant when nobody answers any more", function()
    local engine = fake_engine.new()
    try(engine, { host = "app.example", port = 80, addresses = { "10.0.0.9" }, looked_up = echo.now() - 60 })
    assert.equal("10.0.0.9", engine.dials[1].options.ip)
  end)
end)
