-- The doctor and networks with planted faults: a client, two routers and a server, each in a network namespace of its own. Needs
-- root, or at least the right to make namespaces.

local command = require "spec.support.command"
local core = require "echostream.core"
local process = require "spec.support.process"

describe("the doctor on a network", function()
  local prefix, reason, dir, server, pin
  local TARGET = "10.213.3.2"

  local function shell(text)
    return process.run("set -e\n" .. text:gsub("{(%w+)}", function(name)
      return prefix .. name
    end))
  end

  setup(function()
    if process.run("test $(id -u) = 0 && command -v ip").code ~= 0 then
      reason = "needs root and ip(8) for network namespaces"
      return
    end
    prefix = ("es%x"):format(("I4"):unpack(core.random(4)))
    local made = shell [[
      for n in {a} {b} {c} {d}; do ip netns add $n; ip -n $n link set lo up; done
      ip -n {a} link add eth0 mtu 1400 type veth peer name eth0 mtu 1400 netns {b}
      ip -n {b} link add eth1 mtu 1400 type veth peer name eth0 mtu 1400 netns {c}
      ip -n {c} link add eth1 mtu 1400 type veth peer name eth0 mtu 1400 netns {d}
      ip -n {a} addr add 10.213.1.1/24 dev eth0; ip -n {b} addr add 10.213.1.2/24 dev eth0
      ip -n {b} addr add 10.213.2.1/24 dev eth1; ip -n {c} addr add 10.213.2.2/24 dev eth0
      ip -n {c} addr add 10.213.3.1/24 dev eth1; ip -n {d} addr add 10.213.3.2/24 dev eth0
      for n in {a} {b} {c} {d}; do ip -n $n link set eth0 up; done
      for n in {b} {c}; do ip -n $n link set eth1 up; ip netns exec $n sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'; done
      ip -n {a} route add default via 10.213.1.2
      ip -n {b} route add 10.213.3.0/24 via 10.213.2.2
      ip -n {c} route add 10.213.1.0/24 via 10.213.2.1
      ip -n {d} route add default via 10.213.3.1
    ]]
    if made.code ~= 0 then
      reason = "network namespaces cannot be made here: " .. made.err
      return
    end
    dir = process.directory()
    process.write(dir .. "/server.lua", "")
    server = process.start(("ip netns exec %sd %s serve --bind %s:5000 %s/server.lua"):format(prefix, process.echostream, TARGET, dir),
      { env = { XDG_STATE_HOME = dir }, seconds = 120 })
    pin = server:expect "^pin (%S+)$"
  end)

  teardown(function()
    if server then
      server:stop()
      process.remove(dir)
    end
    if prefix then
      process.run(("for n in a b c d; do ip netns del %s$n; done 2>/dev/null"):format(prefix))
    end
  end)

  -- Findings about the server as the client sees it; of several of one check the worst. The fault is there meanwhile.
  local function examine(plant, remove, timeout)
    if plant then
      assert.equal(0, shell(plant).code)
    end
    local result = process.run(("ip netns exec %sa %s doctor %s:5000 --pin %s --timeout %g --json"):format(prefix, process.echostream,
      TARGET, pin, timeout or 20))
    if remove then
      assert.equal(0, shell(remove).code)
    end
    local report = assert(core.codec.json.unpack(result.out), result.err)
    local rank, worst = { skipped = 0, ok = 1, warn = 2, fail = 3 }, {}
    for _, finding in ipairs(report.findings) do
      local other = worst[finding.check]
      if not other or rank[finding.status] > rank[other.status] then
        worst[finding.check] = finding
      end
    end
    return worst, result.code
  end

  local function here()
    if reason then
      pending(reason)
    end
    return not reason
  end

  it("measures a path that works", function()
    if not here() then return end
    local found, code = examine()
    assert.equal("ok", found.udp.status, found.udp.detail)
    assert.equal("ok", found.handshake.status, found.handshake.detail)
    assert.equal("ok", found.trust.status)
    assert.is_nil(found.route)
    -- 1,350 and 28 bytes of headers pass through links of 1,400; 1,400 and 28 do not.
    assert.matches("packets with 1350 bytes of QUIC pass", found.path_mtu.detail)
    assert.not_equal(3, code)
  end)

  it("finds the router behind which packets vanish", function()
    if not here() then return end
    local found, code = examine("ip -n {c} route add blackhole " .. TARGET, "ip -n {c} route del blackhole " .. TARGET, 0.6)
    assert.equal(3, code)
    assert.equal("warn", found.udp.status)
    assert.equal("fail", found.route.status, found.route.detail)
    assert.matches("gets as far as 10.213.1.2, and nothing is heard from behind it", found.route.detail, 1, true)
    assert.equal("fail", found.handshake.status)
  end)

  it("finds the router that refuses packets", function()
    if not here() then return end
    local found, code = examine("ip -n {c} route add prohibit " .. TARGET, "ip -n {c} route del prohibit " .. TARGET)
    assert.equal(3, code)
    assert.equal("fail", found.udp.status, found.udp.detail)
    assert.matches("a packet filter refuses UDP to 10.213.3.2 port 5000 (says 10.213.2.2)", found.udp.detail, 1, true)
    assert.equal("skipped", found.handshake.status)
  end)

  it("finds a link that is too narrow for QUIC", function()
    if not here() then return end
    local found, code = examine("ip -n {b} link set eth1 mtu 1200", "ip -n {b} link set eth1 mtu 1400")
    assert.equal(3, code)
    assert.equal("fail", found.udp.status, found.udp.detail)
    assert.matches("do not fit through the way to 10.213.3.2, whose MTU is 1200 (says 10.213.1.2)", found.udp.detail, 1, true)
  end)

  it("finds that there is no route", function()
    if not here() then return end
    local found = examine("ip -n {a} route add unreachable " .. TARGET, "ip -n {a} route del unreachable " .. TARGET)
    assert.equal("fail", found.udp.status)
    assert.matches("this machine has no way to 10.213.3.2", found.udp.detail, 1, true)
    found = examine("ip -n {b} route add unreachable " .. TARGET, "ip -n {b} route del unreachable " .. TARGET)
    assert.equal("fail", found.udp.status)
    assert.matches("there is no way to 10.213.3.2", found.udp.detail, 1, true)
    assert.matches("(says 10.213.1.2)", found.udp.detail, 1, true)
  end)

  it("is told apart from a command that is used wrongly", function()
    assert.equal(2, command.run("doctor 127.0.0.1").code)
  end)
end)
