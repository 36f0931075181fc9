-- Raw QUIC with other stacks, in both roles: quic-go, aioquic and quiche. What they say to each other stands in
-- spec/foreign/README.md. A stack that this machine has not got, and cannot install, is skipped, loudly.

local process = require "spec.support.process"

local quote, root = process.quote, process.root
local dir = root .. "/build/foreign"
-- The sanitizers' preloaded libraries are for lua5.4 only; the peers stay without.
local bare = "env LD_PRELOAD= "
local ours = "lua5.4 spec/foreign/ours.lua"

-- What starts a peer, or nil and why there is none.
local peers = {
  { name = "quic-go", prepare = function()
    local program = dir .. "/peer_go"
    local built = process.run(bare .. "spec/support/build_quicgo.sh spec/foreign/peer_go " .. quote(program), { seconds = 300 })
    if built.code == 3 then return nil, built.err end
    assert(built.code == 0, built.out .. built.err)
    return bare .. quote(program)
  end },
  { name = "aioquic", prepare = function()
    if process.run(bare .. "python3 -c 'import aioquic'").code ~= 0 then return nil, "no python3-aioquic (Debian 13 has it)" end
    return bare .. "python3 -W ignore " .. quote(root .. "/spec/foreign/peer_python.py")
  end },
  { name = "quiche", prepare = function()
    if process.run(bare .. "sh -c 'node --version && npm --version'").code ~= 0 then return nil, "no nodejs and npm" end
    local modules = dir .. "/node"
    local installed = process.run(([[%s sh -ec 'mkdir -p %s; cd %s; cp %s/package.json %s/peer_node.mjs .
      [ -d node_modules/@matrixai/quic ] || npm install --no-audit --no-fund --loglevel=error']]):format(bare, modules, modules,
      root .. "/spec/foreign", root .. "/spec/foreign"), { seconds = 180 })
    if installed.code ~= 0 then return nil, "npm install failed: " .. installed.err:sub(1, 200) end
    return bare .. "node " .. quote(modules .. "/peer_node.mjs")
  end },
}

local checks = {
  "echo", "ten streams at once", "one-way streams", "a stream of the acceptor", "a reset is told", "a stop is told",
  "a reset arrives", "a stop arrives", "datagram", "close is told", "resumption",
}

local function conversation(dialler, acceptor)
  local certs = process.directory()
  local made = process.run(process.echostream .. " cert --out " .. quote(certs))
  assert(made.code == 0, made.err)
  local server = process.start(("%s accept %s/cert.pem %s/key.pem"):format(acceptor, certs, certs), { seconds = 90 })
  local address = server:expect "^ready (%S+)$"
  local result = process.run(("%s dial %s"):format(dialler, address), { seconds = 80 })
  local closed = result.out:find "ok close arrives" and server:expect "^closed 43 (.*)$"
  server:stop()
  process.remove(certs)
  return result, closed
end

local function tells_of_each_check(dialler, acceptor)
  local result, closed

  setup(function()
    result, closed = conversation(dialler, acceptor)
  end)

  for _, name in ipairs(checks) do
    it(name, function()
      local line = ("\n" .. result.out):match("\n(%l+ " .. name:gsub("%p", "%%%0") .. "[^\n]*)")
      assert.truthy(line, "not reached: " .. result.out .. result.err)
      if line:find "^skipped" then return pending(line) end
      assert.equal("ok " .. name, line)
    end)
  end

  it("close arrives", function()
    assert.matches("done", closed or result.out)
  end)
end

describe("echo.quic", function()
  describe("with itself", function()
    tells_of_each_check(ours, ours)
  end)

  for _, peer in ipairs(peers) do
    local command, missing = peer.prepare()
    describe("with " .. peer.name, function()
      if not command then
        pending(("skipped, %s: %s"):format(peer.name, missing))
        return
      end
      describe("as the dialler", function()
        tells_of_each_check(command, ours)
      end)
      describe("as the acceptor", function()
        tells_of_each_check(ours, command)
      end)
    end)
  end
end)
