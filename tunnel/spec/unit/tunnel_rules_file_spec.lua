local fake = require "tunnel.spec.support.fake_head"
fake.install()
local echo = require "echostream"
local files = require "echostream.loop.files"
local log = require "echostream.log"
local rules = require "echostream.tunnel.rules"
local scratch = require "spec.support.scratch"

local function write(path, text)
  local file = assert(io.open(path, "w"))
  assert(file:write(text))
  file:close()
end

local function group(set, path)
  local decision = set:match(assert(rules.request.new(fake.request { path = path }, { peer_ip = "::1" })))
  return decision and decision.group
end

describe("rules in a file", function()
  local dir

  before_each(function()
    dir = scratch.path()
    assert(files.make_directories(dir))
  end)

  local function load(text, name)
    local path = dir .. "/" .. (name or "rules.lua")
    write(path, text)
    local set = assert(rules.new {})
    local ok, err = set:load(path)
    return ok and set, err and err.message:gsub(dir .. "/", "")
  end

  it("are a list, or a table with a second list, in Lua or JSON", function()
    local set = assert(load 'return { { path = "/a", group = "a" }, function(r) return "f" .. #r.path end }')
    assert.same({ "a", "f2" }, { group(set, "/a"), group(set, "/b") })
    assert.truthy(set.path:find "rules.lua$")
    set = assert(load 'return { rules = { { group = "a" } }, shadow = { { group = "a" } } }')
    assert.equal("a", group(set, "/"))
    assert.equal(1, set.shadows["shadow[1]"].matched)
    set = assert(load('[{"path": ["/x/*"], "group": "j", "header": {"x-no": false}}]', "rules.json"))
    assert.equal("j", group(set, "/x"))
    set = assert(load('{"rules": [{"group": "k"}]}', "rules.json"))
    assert.equal("k", group(set, "/x"))
    assert.truthy(load "return {}")
  end)

  it("name the line of what is wrong", function()
    for text, message in pairs {
      ['return {\n  { group = "a" },\n  { group = "b",\n    path = 5 },\n}'] = "rules.lua:4: rules[2].path: wants a string or a table, got 5",
      ['return { rules = {\n  { group = "a" },\n  { grup = "b" } } }'] =
        'rules.lua:3: rules[2].grup: there is no such field (did you mean "group"?)',
      ['return { rules = {}, shadw = {} }'] = 'rules.lua:1: shadw: there is no such field (did you mean "shadow"?)',
      ['return { rules = {}, shadow = {\n { path = "/a" } } }'] = "rules.lua:2: shadow[1]: wants group, redirect, respond or decide",
    } do
      local set, why = load(text)
      assert.is_nil(set or nil)
      assert.equal(message, why)
    end
    local _, why = load('[\n {"group": "a"},\n {"group": "a", "timeout":\n   {"idle": "x"}}]', "r.json")
    assert.equal('r.json:4: rules[2].timeout.idle: wants a number of seconds, got "x"', why)
    _, why = load "return {\n x x }"
    assert.truthy(why:find("rules.lua:2:", 1, true), why)
    _, why = load "local t = nil\nreturn { t.x }"
    assert.truthy(why:find("rules.lua:2:", 1, true), why)
    _, why = load "return os.execute"
    assert.truthy(why:find("wants to return a table", 1, true), why)
  end)

  it("keep the old ones when the new ones are bad", function()
    local path = dir .. "/rules.lua"
    write(path, 'return { { group = "old" } }')
    local set = assert(rules.new {})
    assert(set:load(path))
    write(path, "return { { group = 5 } }")
    local ok, err = set:load(path)
    assert.is_nil(ok)
    assert.equal(err, set.last_error)
    assert.equal("old", group(set, "/"))
    assert.is_nil((set:load(dir .. "/none.lua")))
    assert.equal("old", group(set, "/"))
  end)

  it("are loaded again when the file changes", function()
    local path, told = dir .. "/rules.lua", {}
    write(path, 'return { { group = "one" } }')
    local set = assert(rules.new {})
    log.set(function() end)
    local changed = echo.spawn(function()
      assert(set:watch(path, function(ok, err) told[#told + 1] = ok and group(set, "/") or err.message:match ":%d+:.*$" end))
      local function wait(n)
        for _ = 1, 3000 do
          if #told >= n then return end
          echo.sleep(0.01)
        end
        error "nobody was told"
      end
      write(path, 'return { { group = "two" } }')
      wait(1)
      write(path, 'return { { groop = "three" } }')
      wait(2)
      write(path, 'return {  { group = "four" } }')
      wait(3)
    end)
    local ok, err = changed:wait(100)
    set:stop_watching()
    set:stop_watching() -- harmless
    log.set(nil)
    assert(ok ~= nil or err == nil, tostring(err))
    assert.same({ "two", ':1: rules[1].groop: there is no such field (did you mean "group"?)', "four" }, told)
  end)
end)
