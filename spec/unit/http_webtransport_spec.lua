local echo = require "echostream"
local webtransport = require "echostream.http.webtransport"

describe("the options of WebTransport", function()
  it("say what is wrong with them", function()
    for _, wrong in ipairs { { { path = "x" }, "path" }, { { path = "/a b" }, "path" }, { { origins = { "example.org" } }, "origin" },
      { { origins = { "https://a/b" } }, "origin" }, { { max_sessions = 0 }, "max_sessions" }, { { pth = "/" }, "pth" } } do
      assert.error_matches(function()
        echo.server { webtransport = wrong[1], quiet = true }
      end, wrong[2])
    end
    assert.error_matches(function()
      echo.client { webtransport = { origin = "here" } }
    end, "origin")
    assert.error_matches(function()
      echo.client { webtransport = 1 }
    end, "webtransport")
  end)

  it("have defaults that let nobody in who was not meant", function()
    local checked = webtransport.check_server("x", true)
    assert.same({ path = "/echostream", origins = {}, max_sessions = 4 }, checked)
    assert.is_nil(webtransport.check_server("x", false))
    assert.same({ "https://example.org", "null" }, webtransport.check_server("x", { origins = { "https://Example.org", "null" } }).origins)
    assert.is_true(webtransport.check_server("x", { origins = { "*" } }).any_origin)
    assert.same({ path = "/echostream" }, webtransport.check_client("x", true))
  end)

  it("leave streams for every session of a connection", function()
    local checked = webtransport.check_server("x", { max_sessions = 10 })
    assert.is_true(webtransport.transport({}, checked).max_streams_uni >= 10 * 9 + 3)
    assert.equal(5, webtransport.transport({ max_streams_uni = 5 }, checked).max_streams_uni)
    assert.same({}, webtransport.transport({}, nil))
  end)

  it("name the server that is asked for", function()
    local checked = webtransport.check_client("x", { path = "/p?q", origin = "https://example.org" })
    assert.same({ path = "/p?q", origin = "https://example.org", authority = "[::1]:5000" }, webtransport.dial(checked, "::1", 5000))
    assert.is_nil(webtransport.dial(nil, "::1", 5000))
  end)
end)

