local errors = require "echostream.errors"
local hooks = require "echostream.hooks"
local log = require "echostream.log"

describe("hooks", function()
  local records

  before_each(function()
    records = {}
    log.set(function(record) records[#records + 1] = record end)
  end)

  after_each(function() log.set(nil) end)

  local function host()
    local self = { _hooks = { start = {}, stop = {}, connect = {}, disconnect = {} } }
    return setmetatable(self, { __index = hooks.methods })
  end

  it("give their value, or their refusal with a code", function()
    assert.equal(7, (hooks.call("x", "aborted", function(a) return a end, 7)))
    assert.same({}, { hooks.call("x", "aborted", function() end) })
    assert.equal("aborted: no", tostring(select(2, hooks.call("x", "aborted", function() return nil, "no" end))))
    assert.equal("not_found", select(2, hooks.call("x", "aborted", function()
      return false, errors.new("not_found")
    end)).code)
    assert.equal("not_found", select(2, hooks.call("x", "aborted", function() error(errors.new("not_found")) end)).code)
    assert.same({}, records)
  end)

  it("that raise are logged once and tell nobody what", function()
    for _, raise in ipairs { function() error "secret" end, function() error() end, function() error { "secret" } end } do
      records = {}
      local value, err = hooks.call("on_x", "aborted", raise)
      assert.is_nil(value)
      assert.equal("internal: a hook failed", tostring(err))
      assert.equal(1, #records)
      assert.equal("on_x", records[1].method)
      assert.matches("hooks_spec", records[1].traceback)
    end
  end)

  it("run in order until one refuses", function()
    local self, ran = host(), {}
    assert.equal(self, self:on_connect(function() ran[#ran + 1] = 1 end))
    self:on_connect(function() ran[#ran + 1] = 2 return nil, "full" end)
    self:on_connect(function() ran[#ran + 1] = 3 end)
    local ok, err = hooks.run(self, "connect")
    assert.is_nil(ok)
    assert.equal("permission_denied", err.code)
    assert.same({ 1, 2 }, ran)
    assert.is_true(hooks.run(self, "stop"))
    assert.has_error(function() self:on_stop(1) end)
  end)

  it("can be taken away, also by one of them while they run", function()
    local self, ran = host(), {}
    local function second() ran[#ran + 1] = 2 end
    self:on_start(function()
      ran[#ran + 1] = 1
      hooks.remove(self, "start", second)
    end)
    self:on_start(second)
    hooks.run(self, "start")
    assert.same({ 1, 2 }, ran) -- the run that had begun is the one of before
    hooks.run(self, "start")
    assert.same({ 1, 2, 1 }, ran)
    hooks.remove(self, "start", second) -- harmless
  end)
end)
