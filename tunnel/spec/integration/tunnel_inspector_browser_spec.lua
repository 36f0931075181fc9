-- The inspector's page in a real browser: live rows, the filter, details, sending again, and texts that were made to break it.

local browser = require "tunnel.spec.support.browser"
local process = require "spec.support.process"

local quote, root = process.quote, process.root

-- A browser does not become another one by our sanitizers.
if os.getenv "ES_SANITIZED" then return end

describe("the inspector in a browser", function()
  it("shows what comes, filters, sends again, and takes texts as texts", function()
    local problem = browser.missing()
    if problem then pending("skipped: " .. problem) end
    local server = process.start("lua5.4 tunnel/spec/browser/inspector_server.lua", { seconds = 90 })
    local url = server:expect "^at (%S+)"
    process.run("mkdir -p build/screenshots")
    local said = process.run(("node tunnel/spec/browser/inspector.mjs %s %s %s"):format(url, quote(browser.modules), quote(root
      .. "/build/screenshots/inspector.png")), { seconds = 80 })
    server:stop()
    assert.equal("ok\n", said.out, said.err)
  end)
end)
