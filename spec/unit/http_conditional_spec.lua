local conditional = require "echostream.http.conditional"
local date = require "echostream.http.date"
local fields = require "echostream.http.fields"

describe("conditional requests", function()
  local T = 1700000000
  local before, same, after = date.format(T - 1), date.format(T), date.format(T + 1)
  local function ask(method, headers, validators)
    return conditional.evaluate({ method = method, headers = fields.new(headers) },
      validators or { etag = '"a"', last_modified = T }, T + 100)
  end

  it("compare entity tags strongly or weakly", function() -- the table of RFC 9110, section 8.8.3.2
    assert.is_false(conditional.strong_equal('W/"1"', 'W/"1"'))
    assert.is_true(conditional.weak_equal('W/"1"', 'W/"1"'))
    assert.is_false(conditional.weak_equal('W/"1"', 'W/"2"'))
    assert.is_false(conditional.strong_equal('W/"1"', '"1"'))
    assert.is_true(conditional.weak_equal('W/"1"', '"1"'))
    assert.is_true(conditional.strong_equal('"1"', '"1"'))
    assert.is_false(conditional.strong_equal(nil, nil))
    assert.equal('W/"x"', conditional.etag("x", true))
    assert.has_error(function() conditional.etag 'a"b' end)
    assert.has_error(function() conditional.etag "a b" end)
  end)

  it("read lists of them", function()
    assert.same({ '"a"', 'W/"b,c"', '""' }, conditional.parse ' "a" ,, W/"b,c","",')
    assert.equal("*", conditional.parse " * ")
    for _, broken in ipairs { "", "a", '"a', '"a" "b"', 'w/"a"', '/"a"', 'W"a"', '"a"b', '*, "a"' } do
      assert.is_nil(conditional.parse(broken), broken)
    end
  end)

  it("If-None-Match: 304 for reading, 412 for writing", function()
    assert.equal(304, ask("GET", { ["if-none-match"] = '"x", W/"a"' }))
    assert.equal(304, ask("HEAD", { ["if-none-match"] = { '"x"', '"a"' } })) -- two lines
    assert.equal(412, ask("PUT", { ["if-none-match"] = "*" }))
    assert.is_nil(ask("PUT", { ["if-none-match"] = "*" }, { exists = false }))
    assert.is_nil(ask("GET", { ["if-none-match"] = '"b"' }))
    assert.is_nil(ask("GET", { ["if-none-match"] = "broken" }))
  end)

  it("If-Match: 412 unless a strong tag is the same", function()
    assert.is_nil(ask("PUT", { ["if-match"] = '"b", "a"' }))
    assert.equal(412, ask("PUT", { ["if-match"] = 'W/"a"' }))
    assert.equal(412, ask("GET", { ["if-match"] = '"b"' }))
    assert.is_nil(ask("PUT", { ["if-match"] = "*" }))
    assert.equal(412, ask("PUT", { ["if-match"] = "*" }, { exists = false }))
    assert.equal(412, ask("PUT", { ["if-match"] = '"a' }))
  end)

  it("dates count where no tag does", function()
    assert.equal(304, ask("GET", { ["if-modified-since"] = same }))
    assert.equal(304, ask("GET", { ["if-modified-since"] = after }))
    assert.is_nil(ask("GET", { ["if-modified-since"] = before }))
    assert.is_nil(ask("POST", { ["if-modified-since"] = after }))
    assert.is_nil(ask("GET", { ["if-modified-since"] = "soon" }))
    assert.is_nil(ask("GET", { ["if-modified-since"] = after }, { etag = '"a"' }))
    assert.is_nil(ask("PUT", { ["if-unmodified-since"] = same }))
    assert.equal(412, ask("PUT", { ["if-unmodified-since"] = before }))
    assert.is_nil(ask("PUT", { ["if-unmodified-since"] = before }, { etag = '"a"' }))
  end)

  it("go in the order of RFC 9110, section 13.2.2", function()
    -- If-Match silences If-Unmodified-Since, If-None-Match silences If-Modified-Since; the first pair goes first.
    assert.is_nil(ask("PUT", { ["if-match"] = '"a"', ["if-unmodified-since"] = before }))
    assert.is_nil(ask("GET", { ["if-none-match"] = '"b"', ["if-modified-since"] = after }))
    assert.equal(304, ask("GET", { ["if-none-match"] = '"a"', ["if-modified-since"] = before }))
    assert.equal(412, ask("GET", { ["if-match"] = '"b"', ["if-none-match"] = '"a"' }))
    assert.equal(304, ask("GET", { ["if-match"] = '"a"', ["if-none-match"] = '"a"' }))
    assert.equal(412, ask("GET", { ["if-unmodified-since"] = before, ["if-modified-since"] = after }))
  end)

  it("If-Range wants the very same bytes", function()
    local validators = { etag = '"a"', last_modified = T }
    assert.is_true(conditional.if_range(nil, validators))
    assert.is_true(conditional.if_range('"a"', validators))
    assert.is_false(conditional.if_range('"b"', validators))
    assert.is_false(conditional.if_range('W/"a"', { etag = 'W/"a"' }))
    assert.is_true(conditional.if_range(same, validators, T + 1))
    assert.is_false(conditional.if_range(same, validators, T)) -- it may change within this second
    assert.is_false(conditional.if_range(after, validators, T + 9)) -- not "since", but the same
    assert.is_false(conditional.if_range(same, { etag = '"a"' }, T + 9))
    assert.is_false(conditional.if_range("soon", validators, T + 9))
  end)
end)
