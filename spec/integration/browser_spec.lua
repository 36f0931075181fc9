-- Real browsers, headless, against this server: fetch over HTTP/3, and over WebTransport everything that examples/browser/echostream.js
-- offers; then the example pages. Each runs in a network of its own. What this machine has not got, and cannot install, is skipped, loudly.

local process = require "spec.support.process"

local quote, root = process.quote, process.root
local modules = root .. "/build/browser"
local preload = os.getenv "LD_PRELOAD" or "" -- the sanitizers': for our server only

local function missing_tools()
  if process.run("env LD_PRELOAD= sh -c 'node --version && npm --version && unshare --version && ip -V'").code ~= 0 then
    return "nodejs, npm, util-linux and iproute2 are wanted"
  end
  local installed = process.run(([[env LD_PRELOAD= sh -ec 'mkdir -p %s; cd %s; cp %s/spec/browser/package.json .
    [ -d node_modules/puppeteer-core ] || npm install --no-audit --no-fund --ignore-scripts \
      --fetch-retries=1 --fetch-retry-mintimeout=1000 --loglevel=error']]):format(modules, modules, root),
    { seconds = 180 })
  if installed.code ~= 0 then return "npm install failed: " .. installed.err:sub(1, 200) end
end

-- A network namespace with nothing but a loopback interface; where that is not allowed, the machine's own.
local function alone(command)
  for _, unshare in ipairs { "unshare -n", "unshare -rn" } do
    if process.run(unshare .. " ip link set lo up").code == 0 then
      return ("%s sh -c %s"):format(unshare, quote("ip link set lo up && exec " .. command))
    end
  end
  return command
end

local browsers = {
  { name = "chromium", programs = { "/usr/bin/chromium", "/usr/bin/google-chrome" } },
  { name = "firefox", programs = { "/usr/bin/firefox-esr", "/usr/bin/firefox" }, package = "firefox-esr" },
}

local function exists(path)
  local file = io.open(path)
  return file and file:close()
end

-- A directory of another system that was made the root (make check-debian13): browsers do not come up there.
local function is_chroot()
  return not exists "/proc/self/status" or process.run([=[root=$(stat -Lc %d:%i /proc/1/root 2>/dev/null) || exit 1
    [ "$root" != "$(stat -Lc %d:%i /)" ]]=]).code == 0
end

local function missing_browser(browser)
  if is_chroot() then
    return "this is a system inside another (chroot)"
  end
  for _, program in ipairs(browser.programs) do
    if exists(program) then return nil end
  end
  return ("no %s (apt-get install %s)"):format(browser.name, browser.package or browser.name)
end

-- All of them at once: they wait more than they work.
local function run_all(list)
  local dir, commands = process.directory(), {}
  for _, browser in ipairs(list) do
    table.insert(commands, ("(%s >%s/%s.out 2>%s/%s.err; echo $? >%s/%s.code) &"):format(alone(("node spec/browser/run.mjs %s %s %s"):format(
      browser.name, quote(modules), quote(root .. "/build/screenshots"))), dir, browser.name, dir, browser.name, dir, browser.name))
  end
  process.run(("export LD_PRELOAD= ES_PRELOAD=%s; %s wait"):format(quote(preload), table.concat(commands, " ")), { seconds = 200 })
  for _, browser in ipairs(list) do
    local function read(what)
      local path = ("%s/%s.%s"):format(dir, browser.name, what)
      return exists(path) and process.read(path) or ""
    end
    browser.result = { out = read "out", err = read "err", code = tonumber(read "code") or "it did not end in time" }
  end
  process.remove(dir)
end

describe("in a browser:", function()
  local no_tools, there = missing_tools(), {}
  for _, browser in ipairs(browsers) do
    browser.missing = no_tools or missing_browser(browser)
    if preload ~= "" and browser.name ~= "chromium" then
      browser.missing = "under the sanitizers one browser is enough"
    end
    if not browser.missing then
      table.insert(there, browser)
    end
  end
  run_all(there)

  for _, browser in ipairs(browsers) do
    describe(browser.name, function()
      if browser.missing then
        pending(("skipped, %s: %s"):format(browser.name, browser.missing))
        return
      end
      local result = browser.result
      for word, name, why in result.out:gmatch "(%l+) ([^\n:]+):?([^\n]*)\n" do
        if word == "ok" or word == "failed" then
          it(name, function()
            assert.equal("ok", word, why)
          end)
        end
      end
      it("reaches its end", function()
        assert.equal(0, result.code, result.out .. result.err)
        assert.matches("^browser %S+", result.out)
      end)
    end)
  end
end)
