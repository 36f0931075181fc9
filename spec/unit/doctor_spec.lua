-- The doctor on machines that do not exist: whatever a reader says is what there is.

local certificate = require "echostream.doctor.certificate"
local certs = require "spec.support.certs"
local doctor = require "echostream.doctor"
local machine = require "echostream.doctor.machine"

local GOOD_ENDPOINT = { rcvbuf = 8 << 20, sndbuf = 8 << 20, gso = 1, gro = 1 }

-- A machine where all is well, except for what `faults` says.
local function healthy(faults)
  local reader = {
    libraries = { ngtcp2 = "1.22.1", gnutls = "3.8.13", lua = "Lua 5.4" },
    installed = function() end,
    read = function(path)
      return ({
        ["/proc/sys/net/core/rmem_max"] = "8388608\n",
        ["/proc/sys/net/core/wmem_max"] = "8388608\n",
        ["/proc/self/limits"] = "Limit  Soft Limit  Hard Limit  Units\nMax open files            4096      524288     files\n",
      })[path]
    end,
    mode = function()
      return 384 -- 0600
    end,
    endpoint = function()
      return GOOD_ENDPOINT
    end,
    now = os.time,
    state_dir = "/var/lib/somebody",
    attach_dir = "/run/user/1/echostream",
    is_private = function()
      return true
    end,
  }
  for name, fault in pairs(faults or {}) do
    reader[name] = fault
  end
  return reader
end

-- What the doctor finds, by check: the worst of each.
local function examine(faults, opts)
  opts = opts or {}
  opts.machine = healthy(faults)
  local rank, worst = { skipped = 0, ok = 1, warn = 2, fail = 3 }, {}
  local findings = doctor.examine(opts)
  for _, finding in ipairs(findings) do
    local other = worst[finding.check]
    if not other or rank[finding.status] > rank[other.status] then
      worst[finding.check] = finding
    end
    -- What is wrong comes with what to do about it.
    assert.is_true(finding.status == "ok" or finding.status == "skipped" or finding.fix ~= nil, finding.detail)
  end
  return worst, findings
end

describe("the doctor", function()
  it("finds nothing on a healthy machine", function()
    local _, findings = examine()
    local summary = doctor.summary(findings)
    assert.equal(0, summary.fail)
    assert.equal(0, summary.warn)
    assert.is_true(summary.ok >= 8)
  end)

  it("reads the machine that it runs on", function()
    local seen = 0
    local findings = doctor.examine {
      on_finding = function(finding)
        seen = seen + 1
        assert.is_string(finding.detail)
      end,
    }
    assert.equal(#findings, seen)
    local reader = machine.reader()
    assert.is_true(reader.endpoint("127.0.0.1:0").rcvbuf > 0)
    assert.is_nil((reader.endpoint "192.0.2.1:0"))
    assert.is_nil((reader.mode "/does/not/exist"))
  end)

  it("refuses options and addresses that make no sense", function()
    assert.has_error(function() doctor.examine { adress = "x" } end)
    assert.has_error(function() doctor.examine { address = "nowhere" } end)
  end)

  it("goes on when a check fails", function()
    local worst = examine { endpoint = function() error "no sockets today" end }
    assert.equal("skipped", worst.udp_buffers.status)
    assert.matches("no sockets today", worst.udp_buffers.detail)
    assert.equal("ok", worst.clock.status)
  end)

  describe("finds", function()
    it("small UDP buffers, and names the sysctl and its value", function()
      local worst, findings = examine {
        endpoint = function() return { rcvbuf = 425984, sndbuf = 425984, gso = 1, gro = 1 } end,
        read = function(path) return path:find "mem_max" and "212992\n" or nil end,
      }
      assert.equal("warn", worst.udp_buffers.status)
      assert.matches("208 KiB", worst.udp_buffers.detail)
      local fixes = {}
      for _, finding in ipairs(findings) do
        fixes[#fixes + 1] = finding.check == "udp_buffers" and finding.fix or nil
      end
      assert.matches("sysctl -w net.core.rmem_max=4194304", fixes[1], 1, true)
      assert.matches("sysctl -w net.core.wmem_max=4194304", fixes[2], 1, true)
    end)

    it("that only a privileged user passes the limit of buffers", function()
      local worst = examine { read = function(path) return path:find "mem_max" and "212992\n" or nil end }
      assert.equal("ok", worst.udp_buffers.status)
      assert.matches("others get that", worst.udp_buffers.detail)
    end)

    it("libraries with known holes: by their version, and by that of Debian's package", function()
      local function hole(libraries, package)
        return examine({ libraries = libraries, installed = function(name) return package[name] end }).known_holes
      end
      local old = hole({ ngtcp2 = "0.12.1", gnutls = "3.8.13" }, { ["libngtcp2-9"] = "0.12.1+dfsg-1" })
      assert.equal("fail", old.status)
      assert.matches("CVE-2026-40170", old.detail, 1, true)
      assert.matches("0.12.1+dfsg-1+deb12u1 or later", old.fix, 1, true)
      assert.equal("ok", hole({ ngtcp2 = "0.12.1", gnutls = "3.8.13" }, { ["libngtcp2-9"] = "0.12.1+dfsg-1+deb12u1" }).status)
      assert.equal("fail", hole({ ngtcp2 = "1.13.0", gnutls = "3.8.13" }, {}).status)
      old = hole({ ngtcp2 = "1.22.1", gnutls = "3.7.9" }, { libgnutls30 = "3.7.9-2+deb12u6" })
      assert.equal("fail", old.status)
      assert.matches("GnuTLS 3.7.9", old.detail, 1, true)
      assert.equal("ok", hole({ ngtcp2 = "1.22.1", gnutls = "3.7.9" }, { libgnutls30 = "3.7.9-2+deb12u7" }).status)
      assert.equal("ok", hole({ ngtcp2 = "1.23.0", gnutls = "3.9.0" }, {}).status)
    end)

    it("a key that others may read", function()
      local worst = examine { mode = function() return 420 end } -- 0644
      assert.equal("fail", worst.key_files.status)
      assert.matches("mode 644", worst.key_files.detail)
      assert.matches("chmod 600 /var/lib/somebody/server.key", worst.key_files.fix, 1, true)
      assert.equal("skipped", examine({ mode = function() end }).key_files.status)
      assert.equal("fail", examine({ mode = function() return nil, "EACCES" end }).key_files.status)
    end)

    it("a directory of sockets that others can get into", function()
      local worst = examine { is_private = function(path) return nil, "others can get into " .. path end }
      assert.equal("fail", worst.attach_sockets.status)
      assert.matches("others can get into /run/user/1/echostream", worst.attach_sockets.detail, 1, true)
      assert.matches("chmod 700", worst.attach_sockets.fix)
      assert.equal("skipped", examine({ is_private = function() end }).attach_sockets.status)
      assert.equal("skipped", examine({ attach_dir = false }).attach_sockets.status)
    end)

    it("offloads that are not there, no IPv6, no sockets at all", function()
      local function with(endpoint)
        return examine { endpoint = endpoint }
      end
      local worst = with(function() return { rcvbuf = 8 << 20, sndbuf = 8 << 20, gso = 0, gro = 1 } end)
      assert.equal("warn", worst.udp_offload.status)
      assert.matches("UDP GSO is not there", worst.udp_offload.detail)
      worst = with(function(bind)
        if bind:sub(1, 1) == "[" then
          return nil, "no such family"
        end
        return GOOD_ENDPOINT
      end)
      assert.equal("warn", worst.ipv6.status)
      worst = with(function() return nil, "too many open files" end)
      assert.equal("fail", worst.udp_buffers.status)
      assert.matches("too many open files", worst.udp_buffers.detail)
    end)

    it("few file descriptors", function()
      local worst = examine { read = function(path) return path:find "limits" and "Max open files   256   1024   files\n" or nil end }
      assert.equal("warn", worst.open_files.status)
      assert.equal("skipped", examine({ read = function() end }).open_files.status)
    end)

    it("a clock that cannot be right", function()
      assert.equal("fail", examine({ now = function() return 86400 end }).clock.status)
    end)

    it("certificate files that have expired, are none, or belong to another key", function()
      local authority = certs.authority "Doctor"
      local old, other = certs.issue(authority, { from = -20, to = -3 }), certs.issue(authority, {})
      local files = {}
      local function found(cert, key)
        files.cert, files.key = certs.file(cert), certs.file(key)
        return examine({ read = function(path) return path == files.cert and cert or nil end }, files).certificate_file
      end
      local finding = found(old.cert, old.key)
      assert.equal("fail", finding.status)
      assert.matches("expired on .*, 3 days ago", finding.detail)
      assert.equal("ok", found(other.cert, other.key).status)
      finding = found(other.cert, old.key)
      assert.equal("fail", finding.status)
      assert.matches("do not go together", finding.detail)
      assert.matches("no certificate", found("nonsense", old.key).detail)
    end)
  end)

  describe("of certificates", function()
    it("judges their dates", function()
      local function judge(now)
        return certificate.judge_dates(now, 1000000, 2000000, "it")[1].status
      end
      assert.equal("fail", judge(999999))
      assert.equal("ok", judge(1000001))
      assert.equal("warn", judge(1999999))
      assert.equal("fail", judge(2000001))
    end)

    it("knows whom they are for", function()
      assert.is_true(certificate.is_for("Example.org", { "other", "example.ORG" }))
      assert.is_true(certificate.is_for("a.example.org", { "*.example.org" }))
      assert.is_false(certificate.is_for("a.b.example.org", { "*.example.org" }))
      assert.is_false(certificate.is_for("example.org", { "*.example.org", "*.org" }) and true or false)
      assert.is_true(certificate.is_for("192.0.2.1", { "192.0.2.1" }))
      assert.is_false(certificate.is_for("192.0.2.1", { "*.0.2.1" }))
      assert.is_false(certificate.is_for("example.org", {}))
    end)
  end)
end)
