-- A browser loads a page with 30 assets through the tunnel, over HTTP/2 and over HTTP/3.

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

describe("a page with many assets", function()
  it("comes through the tunnel to a browser, over HTTP/2 and HTTP/3", function()
    local problem = missing()
    if problem then pending("skipped: " .. problem) end
    local server = process.start("lua5.4 tunnel/spec/browser/page_server.lua", { seconds = 160 })
    local tcp, udp, spki = server:expect "^ready (%d+) (%d+) (%S+)"
    local said = process.run(("node tunnel/spec/browser/page.mjs %s %s %s %s"):format(tcp, udp, quote(spki), quote(modules)), { seconds = 130 })
    local _, rest = server:stop()
    assert.equal("ok h2\nok h3\n", said.out, said.err .. rest)
  end)
end)
