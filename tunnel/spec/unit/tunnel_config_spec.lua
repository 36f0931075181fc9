local config = require "echostream.tunnel.config"
local lines = require "echostream.tunnel.config.lines"
local options = require "echostream.options"
local scratch = require "spec.support.scratch"

local function file(text, name)
  local path = scratch.path() .. (name or ".lua")
  local out <close> = assert(io.open(path, "w"))
  out:write(text)
  return path
end

describe("the lines of a configuration", function()
  it("are found in Lua, through comments, strings, calls and functions", function()
    local found = lines.of [==[
local x = { bind = 1 } -- not this one
--[[ return {
  token = 1 } ]]
return {
  token = file "a.token",
  listen = {
    { bind = "0.0.0.0:80" },
    { bind = "[::]:443",
      tls = { certs = { { cert = "}", key = 'it\'s {' } } } },
  },
  rules = {
    function(request)
      if request.host == "a" then return { group = "b" } end
    end,
    { host = "x",
      ["path"] = [[/a{]], [7] = 8 },
  },
  last = here("x") .. "y", more =
    3,
}
]==]
    for path, line in pairs { token = 5, listen = 6, ["listen[1]"] = 7, ["listen[1].bind"] = 7, ["listen[2].bind"] = 8, ["listen[2].tls"] = 9,
      ["listen[2].tls.certs[1].key"] = 9, ["rules[1]"] = 12, ["rules[2].host"] = 15, ["rules[2].path"] = 16, ["rules[2][7]"] = 16, last = 18,
      more = 18 } do
      assert.equal(line, found[path], path)
    end
    assert.is_nil(found.bind)
    assert.equal(8, lines.find(found, "listen[2].bind.nothing"))
    assert.is_nil(lines.find(found, "nowhere"))
  end)

  it("are found in JSON", function()
    local found = lines.of '{\n "listen": [\n  {"bind": "a:1"},\n  {"bind": "b{:2",\n   "tls": {"certs": [1, 2]}}\n ],\n "x": null\n}'
    for path, line in pairs { listen = 2, ["listen[1].bind"] = 3, ["listen[2].bind"] = 4, ["listen[2].tls.certs[2]"] = 5, x = 7 } do
      assert.equal(line, found[path], path)
    end
  end)

  it("end for every text that is cut off somewhere", function()
    local text = 'return { a = function() if x then end end, b = { [1] = "x\\"", [[y]], c = f { 1 } }, --[[ x ]] d = 1 }'
    for i = 0, #text do
      lines.of(text:sub(1, i))
      lines.of(text:sub(i + 1))
    end
  end)
end)

describe("a configuration file", function()
  it("is Lua with its own functions for files, variables and paths", function()
    local path = file 'return { token = file "SECRET", home = env "HOME", none = env("NO_SUCH_VARIABLE", "x"), cert = here "a.pem" }'
    local secret = file("hush\n", ".token")
    local base, name = path:match "^(.*/)", secret:match "[^/]*$"
    local out <close> = assert(io.open(path, "w"))
    out:write((('return { token = file "SECRET", home = env "HOME", none = env("NO_SUCH_VARIABLE", "x"), cert = here "a.pem" }')
      :gsub("SECRET", name)))
    out:close()
    local read = assert(config.read(path))
    assert.same({ token = "hush", home = os.getenv "HOME", none = "x", cert = base .. "a.pem" }, read.values)
    assert.same({ secret }, read.used)
  end)

  it("is JSON with the same", function()
    local secret = file("hush\n", ".token")
    local read = assert(config.read(file(('{"token": {"file": "%s"}, "home": {"env": "HOME"}, "list": [{"here": "/x"}], "n": 3}'):format(secret),
      ".json")))
    assert.same({ token = "hush", home = os.getenv "HOME", list = { "/x" }, n = 3 },
      { token = read.values.token, home = read.values.home, list = { read.values.list[1] }, n = read.values.n })
  end)

  it("that is wrong is refused with the place", function()
    for text, said in pairs {
      ["return { a = }"] = ":1: unexpected symbol",
      ["\n\nreturn { a = env 'NO_SUCH_VARIABLE' }"] = ":3: the environment has no variable NO_SUCH_VARIABLE",
      ["return { a = file 'no/such/file' }"] = "no/such/file",
      ["return { a = file() }"] = "file wants a name",
      ["return 7"] = "wants to return a table, got 7",
      ["local x = 1"] = "wants to return a table, got nil",
      ["return { a = io.open('/etc/passwd') }"] = "attempt to index a nil value",
      ['{"a": }'] = "is no JSON",
      ['{"a": {"env": "NO_SUCH_VARIABLE"}}'] = "no variable NO_SUCH_VARIABLE",
    } do
      local path = file(text)
      local read, err = config.read(path)
      assert.is_nil(read, text)
      assert.equal("invalid_argument", err.code)
      assert.truthy(err.message:find(said, 1, true), text .. " said " .. err.message)
      assert.truthy(err.message:find(path, 1, true), err.message)
    end
    assert.equal("io", select(2, config.read "/no/such/file").code)
  end)

  it("says the line of an option that a check refused", function()
    local path = file 'return {\n  listen = {\n    { bind = 7 },\n  },\n  tokn = "x",\n  tls = {\n    cert = 1 },\n}'
    local read = assert(config.read(path))
    local function said(schema, value, where, base, at)
      local ok, raised = pcall(options.check, where, value, schema)
      assert.is_false(ok)
      return read:explain(raised, base, at)
    end
    local text = { type = "string" }
    assert.equal(path .. ":3: listen[1]: bind wants a string, got 7",
      said({ bind = text }, { bind = 7 }, "tunnel.server.listen[1]", "tunnel.server"))
    assert.truthy(said({ token = text }, { tokn = "x" }, "tunnel.server", "tunnel.server"):find(path .. ":5: unknown option", 1, true))
    assert.truthy(said({ tls = { type = "table", fields = { cert = text } } }, { tls = { cert = 1 } }, "tunnel.server", "tunnel.server")
      :find(path .. ":7: tls: cert wants a string", 1, true))
    assert.equal(path .. ":3: listen[1].bind: bad", read:explain "listen[1].bind: bad")
    assert.equal(path .. ": something else", read:explain "something else")
    assert.equal(path .. ":2: ", read:place "listen")
  end)
end)
