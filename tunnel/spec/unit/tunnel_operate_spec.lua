-- What running from files has in common, and what is wrong with files before anything is started.

local agent = require "echostream.tunnel.operate.agent"
local parts = require "echostream.tunnel.operate.parts"
local scratch = require "spec.support.scratch"

describe("configurations that are compared", function()
  it("are the same when what is in them is", function()
    local fn = function() end
    assert.is_true(parts.same({ a = { 1, { b = fn } } }, { a = { 1, { b = fn } } }))
    assert.is_false(parts.same({ a = 1 }, { a = 1, b = 2 }))
    assert.is_false(parts.same({ a = 1, b = 2 }, { a = 1 }))
    assert.is_false(parts.same({ a = {} }, { a = 1 }))
    assert.is_false(parts.same({ function() return fn end }, { function() return agent end }))
  end)

  it("tell which options differ, sorted, without those that may", function()
    assert.same({ "a", "z" }, parts.changed({ z = 1, a = { 1 }, same = { 2 }, live = 1 }, { a = { 2 }, same = { 2 }, live = 2 }, { live = true }))
    assert.same({}, parts.changed({}, {}, {}))
    assert.same({ b = 2 }, parts.without({ a = 1, b = 2 }, { a = "x" }))
  end)
end)

describe("the file of an agent", function()
  local function check(text)
    local path = scratch.path ".lua"
    local file <close> = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    return agent.check(path)
  end

  it("wants servers", function()
    local none, err = check "return { backend = 'http://127.0.0.1:1' }"
    assert.is_nil(none)
    assert.equal("invalid_argument", err.code)
    assert.matches("servers is missing", err.message)
  end)

  it("is checked without a connection to anybody", function()
    local file = assert(check "return { servers = { '127.0.0.1:1' }, backend = 'http://127.0.0.1:1', client = { skip_verification = true } }")
    assert.equal("http://127.0.0.1:1", file.values.backend)
  end)
end)

describe("require \"echostream.tunnel\"", function()
  it("gives its parts when they are asked for", function()
    local tunnel = require "echostream.tunnel"
    for _, name in ipairs { "rules", "groups", "limits", "errors", "forwarded", "ids", "priority", "config", "access_log", "metrics", "inspector" } do
      assert.equal(require("echostream.tunnel." .. name), tunnel[name])
    end
    assert.is_nil(tunnel.nothing)
  end)
end)
