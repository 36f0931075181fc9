require("tunnel.spec.support.fake_head").install()
local core = require "echostream.tunnel.core"
local rules = require "echostream.tunnel.rules"
local fake = require "tunnel.spec.support.fake_head"

local function regex(pattern, ignore_case) return core.regex(pattern, ignore_case) end

describe("a regular expression", function()
  if not core.regex then return pending "the C module is not built" end

  it("is POSIX extended", function()
    assert.is_true(regex "^/v[0-9]+/":test "/v12/x")
    assert.is_false(regex "^/v[0-9]+/":test "/vx/x")
    assert.is_true(regex "(jpe?g|png)$":test "/a.jpg")
    assert.is_true(regex("^/API", true):test "/api")
    assert.is_false(regex("^/API"):test "/api")
    assert.is_true(regex "^a\0*b$" == nil)
    assert.is_true(regex "^[[:alpha:]]+$":test "abc")
    assert.is_true(regex "c$":test "a\0c")
    assert.same({ 2, 5, "b", "d" }, { regex "(b)c(d)e?":exec "abcde" })
    assert.same({ 2, 4, "b", false }, { regex "(b)cd?(x)?":exec "abcd" })
    assert.is_nil(regex "x":exec "abc")
  end)

  it("that is none, or too much, is refused", function()
    for _, pattern in ipairs { "(", "[", "a{2,1}", "*a(", "(a)\\1", "a{1001}", "(a{100}){11}", ("a"):rep(1025), "a\0", ("(a)"):rep(10), "[z-a]" } do
      local made, why = regex(pattern)
      assert.is_nil(made, pattern)
      assert.is_string(why)
    end
    assert.truthy(regex "[\\1{9999}]") -- nothing of it is special in brackets
    assert.truthy(regex "[[:digit:]{9999}]")
    assert.truthy(regex "[]{9999}]")
    assert.truthy(regex "\\{9999\\}")
  end)

  it("takes hostile texts in its stride", function()
    local text = ("a"):rep(8000) .. "!"
    local from = os.clock()
    assert.is_false(regex "^(a+)+$":test(text))
    assert.is_false(regex "^(a|aa)+$":test(text))
    assert.is_false(regex "(x+x+)+y":test(("x"):rep(8000)))
    assert.is_true(os.clock() - from < 30) -- seconds, where a backtracking matcher takes longer than the universe is old
    assert.is_false(regex "a":test(("a"):rep(65537)))
  end)

  it("matches paths and fields in rules", function()
    local set = assert(rules.new { { path = { regex = "^/v[0-9]+/" }, group = "v" }, { path = { "/x", { regex = "\\.PNG$", ignore_case = true } },
      group = "img" },
      { header = { ["user-agent"] = { regex = "curl/[78]\\." } }, group = "curl" } })
    local function group(fields)
      local decision = set:match(assert(rules.request.new(fake.request(fields), { peer_ip = "::1" })))
      return decision and decision.group
    end
    assert.equal("v", group { path = "/v1/a" })
    assert.equal("img", group { path = "/a/b.png" })
    assert.equal("img", group { path = "/x" })
    assert.equal("curl", group { { "user-agent", "curl/8.1" } })
    assert.is_nil(group { { "user-agent", "curl/6.1" } })
    assert.is_nil(group {})
    local _, err = rules.new { { path = { regex = "(" }, group = "x" } }
    assert.truthy(err.message:find("rules[1].path.regex: \"(\" is no regular expression of ours", 1, true), err.message)
  end)

  it("does not leak, and outlives nothing", function()
    for _ = 1, 2000 do regex "^(a|b)+c$":test "ababc" end
    collectgarbage()
  end)
end)

describe("digests", function()
  if not core.sha256 then return pending "the C module is not built" end
  local function hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

  it("are those of the standards", function()
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", hex(core.sha256 "abc"))
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", hex(core.sha256 ""))
    assert.equal("c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a", hex(core.pbkdf2_sha256("password", "salt", 4096)))
    assert.has_error(function() core.pbkdf2_sha256("a", "b", 0) end)
  end)
end)
