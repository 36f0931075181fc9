-- A browser loads a page with 30 assets through the tunnel, over HTTP/2 and over HTTP/3.

local browser = require "tunnel.spec.support.browser"
local process = require "spec.support.process"

local quote = process.quote

-- A browser does not become another one by our sanitizers.
if os.getenv "ES_SANITIZED" then return end

describe("a page with many assets", function()
  it("comes through the tunnel to a browser, over HTTP/2 and HTTP/3", function()
    local problem = browser.missing()
    if problem then pending("skipped: " .. problem) end
    local server = process.start("lua5.4 tunnel/spec/browser/page_server.lua", { seconds = 160 })
    local tcp, udp, spki = server:expect "^ready (%d+) (%d+) (%S+)"
    local said = process.run(("node tunnel/spec/browser/page.mjs %s %s %s %s"):format(tcp, udp, quote(spki), quote(browser.modules)),
      { seconds = 130 })
    local _, rest = server:stop()
    assert.equal("ok h2\nok h3\n", said.out, said.err .. rest)
  end)
end)
