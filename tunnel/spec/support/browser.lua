-- Chromium for specs, driven by puppeteer-core.

local process = require "spec.support.process"

local root = process.root

local M = { modules = root .. "/build/browser" } -- where node_modules is

--- Why there is no browser to be had; nil: there is one, and what drives it is installed.
function M.missing()
  if process.run("env LD_PRELOAD= sh -c 'node --version && npm --version && test -x /usr/bin/chromium'").code ~= 0 then
    return "nodejs, npm and chromium are wanted"
  elseif process.run("test -e /proc/self/status").code ~= 0 or process.run([=[root=$(stat -Lc %d:%i /proc/1/root 2>/dev/null) || exit 1
    [ "$root" != "$(stat -Lc %d:%i /)" ]]=]).code == 0 then
    return "this is a system inside another (chroot)"
  end
  local installed = process.run(([[env LD_PRELOAD= sh -ec 'mkdir -p %s; cd %s; cp %s/spec/browser/package.json .
    [ -d node_modules/puppeteer-core ] || npm install --no-audit --no-fund --ignore-scripts --fetch-retries=1 --fetch-retry-mintimeout=1000 \
      --loglevel=error']]):format(M.modules, M.modules, root), { seconds = 180 })
  if installed.code ~= 0 then return "npm install failed: " .. installed.err:sub(1, 200) end
end

return M
