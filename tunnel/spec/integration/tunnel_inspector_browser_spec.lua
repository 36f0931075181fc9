-- The inspector's page in a real browser: live rows, the filter, details, sending again, and texts that were made to break it.

local process = require "spec.support.process"

local quote, root = process.quote, process.root
local modules = root .. "/build/browser"

local function missing()
  if process.run("env LD_PRELOAD= sh -c 'node --version && npm --version && test -x /usr/bin/chromium'").code ~= 0 then
    return "nodejs, npm and chromium are wanted"
  elseif process.run("test -e /proc/self/status").code ~= 0 or process.run([=[root=$(stat -Lc %d:%i /proc/1/root 2>/dev/null) || exit 1
    [ "$root" != "$(stat -Lc %d:%i /)" ]]=]).code == 0 then
    return "this is a system inside another (chroot)"
  end
  local installed = process.run(([[env LD_PRELOAD= sh -ec 'mkdir -p %s; cd %s; cp %s/spec/browser/package.json .
    [ -d node_modules/puppeteer-core ] || npm install --no-audit --no-fund --ignore-scripts --fetch-retries=1 --fetch-retry-mintimeout=1000 \
      --loglevel=error']]):format(modules, modules, root), { seconds = 180 })
  if installed.code ~= 0 then return "npm install failed: " .. installed.err:sub(1, 200) end
end

-- A browser does not become another one by our sanitizers.
if os.getenv "ES_SANITIZED" then return end

describe("the inspector in a browser", function()
  it("shows what comes, filters, sends again, and takes texts as texts", function()
    local problem = missing()
    if problem then pending("skipped: " .. problem) end
    local server = process.start("lua5.4 tunnel/spec/browser/inspector_server.lua", { seconds = 90 })
    local url = server:expect "^at (%S+)"
    process.run("mkdir -p build/screenshots")
    local said = process.run(("node tunnel/spec/browser/inspector.mjs %s %s %s"):format(url, quote(modules), quote(root
      .. "/build/screenshots/inspector.png")), { seconds = 80 })
    server:stop()
    assert.equal("ok\n", said.out, said.err)
  end)
end)
