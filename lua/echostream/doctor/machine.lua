--- The doctor's checks of this machine. What they read comes from `case.machine`, so that specs can show them any machine.

local core = require "echostream.core"
local certificate = require "echostream.doctor.certificate"
local identity = require "echostream.tls.identity"
local files = require "echostream.loop.files"
local directory = require "echostream.loop.directory"
local loop = require "echostream.loop"
local qlog = require "echostream.qlog"

local M = {}

-- What an endpoint asks the kernel for, in bytes (csrc/transport/udp.c).
local BUFFER = 4 << 20
-- No clock of a machine that runs this is right before it (2025-01-01).
local EARLIEST = 1735689600

---@class echostream.doctor.reader
---@field libraries table<string, string>
---@field installed fun(package: string): string?   the version of a Debian package
---@field read fun(path: string): string?           the text of a file
---@field mode fun(path: string): integer?, string? the permissions of a file
---@field endpoint fun(bind: string): table?, any   figures of a UDP endpoint that was opened there
---@field now fun(): number                         seconds since 1970
---@field state_dir string?                         where the server's key is kept
---@field attach_dir string?                        where the sockets of `echostream attach` are
---@field is_private fun(path: string): true?, string?  whether a directory is this user's alone

--- Reads the machine that this runs on.
---@return echostream.doctor.reader
function M.reader()
  return {
    libraries = core.libraries,
    installed = qlog.installed,
    read = function(path)
      local file <close> = io.open(path)
      return file and file:read "a"
    end,
    mode = files.mode,
    endpoint = function(bind)
      local endpoint, err = loop.endpoint { bind = bind }
      if not endpoint then
        return nil, err
      end
      local stats = endpoint:stats()
      loop.close_endpoint(loop.current(), endpoint)
      return stats
    end,
    now = os.time,
    state_dir = identity.state_dir(),
    attach_dir = require("echostream.attach").directory(),
    is_private = directory.is_private,
  }
end

local function one(status, detail, fix)
  return { { status = status, detail = detail, fix = fix } }
end

-- Libraries -----------------------------------------------------------------------------------------------------

-- The first versions without the holes that are known of a library: upstream's, and of distributions' packages, by the version that
-- they are based on.
local holes = {
  {
    library = "ngtcp2",
    upstream = qlog.UPSTREAM,
    packages = qlog.PACKAGES,
    what = "a peer overflows a buffer while a qlog is written (CVE-2026-40170); echostream refuses the option qlog until then",
  },
  {
    library = "gnutls",
    upstream = "3.8.13",
    packages = {
      ["3.7.9"] = { name = "libgnutls30", fixed = "3.7.9-2+deb12u7" },
      ["3.8.9"] = { name = "libgnutls30t64", fixed = "3.8.9-3+deb13u4" },
    },
    what = "twelve holes that were closed in May 2026 (CVE-2026-33845, CVE-2026-42009 and others)",
  },
}

local titles = { ngtcp2 = "ngtcp2", gnutls = "GnuTLS" }

local function check_hole(machine, hole)
  local version = machine.libraries[hole.library]
  local title = titles[hole.library]
  if qlog.compare(version, hole.upstream) >= 0 then
    return { status = "ok", detail = ("%s %s has no hole that this version of echostream knows of"):format(title, version) }
  end
  local package = hole.packages[version]
  local found = package and machine.installed(package.name)
  if found and qlog.compare(found, package.fixed) >= 0 then
    return { status = "ok", detail = ("%s %s (%s %s) has no hole that this version of echostream knows of"):format(title, version,
      package.name, found) }
  end
  local fix = package and ("apt-get install --only-upgrade %s (to %s or later), or %s %s or later"):format(package.name,
    package.fixed, title, hole.upstream) or ("%s %s or later, or your distribution's package that has these corrections")
    :format(title, hole.upstream)
  return {
    status = "fail",
    detail = ("%s %s%s: %s"):format(title, version, found and (" (%s %s)"):format(package.name, found) or "", hole.what),
    fix = fix,
  }
end

local function libraries(case)
  local of = case.machine.libraries
  return one("ok", ("echostream %s with ngtcp2 %s, GnuTLS %s, %s"):format(core.version, of.ngtcp2, of.gnutls, of.lua or _VERSION))
end

local function known_holes(case)
  local found = {}
  for i, hole in ipairs(holes) do
    found[i] = check_hole(case.machine, hole)
  end
  return found
end

-- Sockets -------------------------------------------------------------------------------------------------------

local function size_of(bytes)
  return bytes >= 1 << 20 and ("%.3g MiB"):format(bytes / (1 << 20)) or ("%d KiB"):format(bytes // 1024)
end

local function sysctl(machine, name)
  local text = machine.read("/proc/sys/" .. name:gsub("%.", "/"))
  return text and math.tointeger(tonumber(text:match "%d+"))
end

-- The figures of an endpoint; opened once for all checks that want them.
local function endpoint_of(case)
  if case.endpoint == nil then
    local stats, err = case.machine.endpoint "0.0.0.0:0"
    case.endpoint, case.endpoint_error = stats or false, err
  end
  return case.endpoint
end

local function check_buffer(machine, direction, bytes, name)
  local limit = sysctl(machine, name)
  -- The kernel shows twice of what it gives, the half for its own bookkeeping.
  local usable = bytes // 2
  if usable < BUFFER then
    return {
      status = "warn",
      detail = ("the UDP %s buffer is %s, QUIC at speed wants %s: packets are dropped in bursts (%s = %s)"):format(direction,
        size_of(usable), size_of(BUFFER), name, limit or "?"),
      fix = ("sysctl -w %s=%d, and for good: echo '%s = %d' >>/etc/sysctl.d/60-echostream.conf"):format(name, BUFFER, name, BUFFER),
    }
  end
  local more = limit and limit < BUFFER and (", because this user may pass %s = %d; others get that"):format(name, limit) or ""
  return { status = "ok", detail = ("the UDP %s buffer is %s%s"):format(direction, size_of(usable), more) }
end

local function udp_buffers(case)
  local stats = endpoint_of(case)
  if not stats then
    return one("fail", "no UDP socket can be opened: " .. tostring(case.endpoint_error),
      "see that this user may open sockets, and has file descriptors left (ulimit -n)")
  end
  return {
    check_buffer(case.machine, "receive", stats.rcvbuf, "net.core.rmem_max"),
    check_buffer(case.machine, "send", stats.sndbuf, "net.core.wmem_max"),
  }
end

local function is_on(value)
  return value ~= nil and value ~= 0 and value ~= false
end

local function udp_offload(case)
  local stats = endpoint_of(case)
  if not stats then
    return one("skipped", "no UDP socket can be opened")
  end
  local gso, gro = is_on(stats.gso), is_on(stats.gro)
  if gso and gro then
    return one("ok", "many packets go in one system call (UDP GSO and GRO)")
  end
  return one("warn", ("UDP %s is not there: each packet costs a system call"):format(not gso and not gro and "GSO and GRO"
    or gso and "GRO" or "GSO"), "a Linux kernel of 5.0 or later, and a sandbox that lets setsockopt(SOL_UDP) through")
end

local function ipv6(case)
  local stats, err = case.machine.endpoint "[::1]:0"
  if stats then
    return one("ok", "IPv6 sockets can be opened")
  end
  return one("warn", "no IPv6: " .. tostring(err), "sysctl net.ipv6.conf.all.disable_ipv6=0, or do without: IPv4 works")
end

local function open_files(case)
  local text = case.machine.read "/proc/self/limits" or ""
  local limit = text:match "Max open files%s+(%w+)"
  local number = tonumber(limit)
  if not limit then
    return one("skipped", "this system does not say how many files may be open")
  elseif number and number < 1024 then
    return one("warn", ("only %d files may be open: every client takes a few (a server needs few for any number)"):format(number),
      "ulimit -n 65536, or LimitNOFILE=65536 in the unit of systemd")
  end
  return one("ok", ("%s files may be open"):format(limit))
end

-- Time and keys ---------------------------------------------------------------------------------------------------

local function clock(case)
  local now = case.machine.now()
  local text = os.date("!%Y-%m-%d %H:%M:%S UTC", math.floor(now))
  if now < EARLIEST then
    return one("fail", ("the clock says %s, which cannot be: certificates look as if they were not valid yet"):format(text),
      "timedatectl set-ntp true, or set the clock by hand: date -s …")
  end
  return one("ok", "the clock says " .. text)
end

local function check_key(machine, path, what)
  local mode, err = machine.mode(path)
  if not mode then
    return { status = err and "fail" or "skipped", detail = err and ("%s: %s"):format(path, err) or ("%s %s is not there"):format(what, path),
      fix = err and "see that this user may read it" or nil }
  elseif mode & 63 ~= 0 then -- 077
    return {
      status = "fail",
      detail = ("%s %s may be read by others (mode %03o): whoever has it can stand in for the server"):format(what, path, mode),
      fix = ("chmod 600 %s; where others may have read it, make a new one (and a new pin)"):format(path),
    }
  end
  return { status = "ok", detail = ("%s %s is for its owner alone"):format(what, path) }
end

local function key_files(case)
  local found = {}
  if case.machine.state_dir then
    found[1] = check_key(case.machine, case.machine.state_dir .. "/server.key", "the kept server key")
  end
  if case.key then
    found[#found + 1] = check_key(case.machine, case.key, "the key")
  end
  if #found == 0 then
    return one("skipped", "there is no home directory, so no key is kept")
  end
  return found
end

local function attach_sockets(case)
  local path = case.machine.attach_dir
  if not path then
    return one("skipped", "there is neither a runtime nor a home directory, so no server can be attached to")
  end
  local ok, problem = case.machine.is_private(path)
  if ok then
    return one("ok", ("the sockets of echostream attach are for their owner alone (%s)"):format(path))
  elseif not problem then
    return one("skipped", "no server of this user lets anybody attach")
  end
  return one("fail", ("nobody can attach to servers: %s"):format(problem),
    ("chown %s and chmod 700 it, or remove it: it is made again"):format(path))
end

local function certificate_file(case)
  if not case.cert then
    return {}
  end
  local text = case.machine.read(case.cert)
  local info, err
  if text then
    info, err = core.cert_inspect(text)
  end
  if not info then
    return one("fail", ("%s is no certificate that can be read%s"):format(case.cert, err and ": " .. tostring(err) or ""),
      "give a PEM file; echostream cert makes one")
  elseif case.key then
    local ok, problem = core.tls { server = true, cert_file = case.cert, key_file = case.key }
    if not ok then
      return one("fail", ("%s and %s do not go together: %s"):format(case.cert, case.key, tostring(problem)),
        "give the key that the certificate was made for")
    end
  end
  return certificate.judge_dates(case.machine.now(), info.not_before, info.not_after, case.cert)
end

---@type table[]
M.checks = {
  { "libraries", libraries },
  { "known_holes", known_holes },
  { "udp_buffers", udp_buffers },
  { "udp_offload", udp_offload },
  { "ipv6", ipv6 },
  { "open_files", open_files },
  { "clock", clock },
  { "key_files", key_files },
  { "attach_sockets", attach_sockets },
  { "certificate_file", certificate_file },
}

return M
