-- WebTransport asked by aioquic's client, which speaks the bytes of docs/PROTOCOL.md (spec/foreign/webtransport_python.py).

local process = require "spec.support.process"

local quote = process.quote

local checks = { "a session is taken", "a call", "an event on a lane", "an event in a datagram", "a named stream", "a reset is answered",
  "a stream of no session is refused", "other paths and origins are refused", "the servers close arrives", "our close arrives" }

describe("WebTransport asked by aioquic:", function()
  -- The sanitizers' preloaded libraries are for lua5.4 only.
  if process.run("env LD_PRELOAD= python3 -c 'import aioquic'").code ~= 0 then
    return pending "no python3-aioquic (Debian 13 has it)"
  end
  local dir, server, result

  setup(function()
    dir = process.directory()
    local made = process.run(process.echostream .. " cert --out " .. quote(dir))
    assert(made.code == 0, made.err)
    server = process.start(("lua5.4 spec/foreign/webtransport_server.lua %s"):format(quote(dir)), { seconds = 200 })
    result = process.run(("env LD_PRELOAD= python3 -W ignore spec/foreign/webtransport_python.py %s"):format(
      server:expect "^ready (%S+)$"), { seconds = 150 })
  end)

  teardown(function()
    server:stop()
    process.remove(dir)
  end)

  for _, name in ipairs(checks) do
    it(name, function()
      local line = ("\n" .. result.out):match("\n(%l+ " .. name .. "%f[\0:\n][^\n]*)")
      assert.truthy(line, "not reached: " .. result.out .. result.err)
      assert.equal("ok " .. name, line)
    end)
  end
end)
