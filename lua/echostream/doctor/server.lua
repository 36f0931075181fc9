--- The doctor's checks of a server and of the way to it.

local address = require "echostream.address"
local certificate = require "echostream.doctor.certificate"
local loop = require "echostream.loop"
local reach = require "echostream.doctor.reach"
local task = require "echostream.task"

local M = {}

local MOST_ADDRESSES, MOST_HOPS = 4, 24
-- The number of a TLS alert as QUIC's error code (RFC 9001, section 4.8): no_application_protocol.
local NO_ALPN = 0x100 + 120
-- Protocols that other servers speak, to say which one it is.
local OTHERS = { "h3", "hq-interop", "doq" }

local function one(status, detail, fix)
  return { { status = status, detail = detail, fix = fix } }
end

-- Getting there -------------------------------------------------------------------------------------------------

local function name(case)
  if address.literal(case.name) then
    case.addresses = { case.name }
    return one("ok", case.name .. " is an address, no name to look up")
  end
  local addresses, err = task.await(function(resume)
    loop.resolve(case.name, resume)
  end, case.timeout)
  if not addresses then
    return one("fail", tostring(err), ("see how it is written, and what `getent hosts %s` says; without a name service give the address")
      :format(case.name))
  end
  case.addresses = addresses
  return one("ok", ("%s is %s"):format(case.name, table.concat(addresses, ", ")))
end

-- ICMP's destination unreachable, in words: what it is, and what helps.
local function unreachable(case, ip, err)
  local from = err.from and err.from ~= ip and (" (says %s)"):format(err.from) or ""
  if err.name == "ECONNREFUSED" then
    return ("nothing listens on UDP port %d of %s%s"):format(case.port, ip, from),
      "start the server there, or correct the port; a server on 127.0.0.1 hears its own machine only (bind it to 0.0.0.0)"
  elseif err.name == "EMSGSIZE" then
    return ("packets of %d bytes do not fit through the way to %s%s%s"):format(reach.SMALLEST, ip, err.mtu
      and (", whose MTU is %d"):format(err.mtu) or "", from), "QUIC needs an MTU of 1280: raise that of the link or tunnel"
  elseif err.icmp and (err.icmp == 4 and err.type == 11 or err.icmp == 6 and err.type == 3) then
    return ("packets to %s go in a circle%s"):format(ip, from), "correct the routes there"
  elseif err.icmp == 4 and (err.code == 9 or err.code == 10 or err.code == 13) or err.icmp == 6 and err.code == 1 then
    return ("a packet filter refuses UDP to %s port %d%s"):format(ip, case.port, from),
      ("allow UDP to port %d there"):format(case.port)
  elseif err.icmp then
    return ("there is no way to %s: %s%s"):format(ip, err.text, from), "correct the routes, or the address"
  elseif err.name == "EPERM" then
    return ("this machine may not send UDP to %s port %d: %s"):format(ip, case.port, err.text),
      ("its own packet filter says no; allow UDP out to port %d (nft list ruleset, iptables -L OUTPUT)"):format(case.port)
  end
  return ("this machine has no way to %s: %s"):format(ip, err.text), "see `ip route get " .. ip .. "`"
end

local function names_of(versions)
  local known, words = { [1] = "v1", [0x6b3343cf] = "v2" }, {}
  for i, version in ipairs(versions) do
    words[i] = known[version] or ("0x%08x"):format(version)
  end
  return #words > 0 and table.concat(words, ", ") or "versions that are not known here"
end

local function knows_one(versions)
  for _, version in ipairs(versions) do
    if version == 1 or version == 0x6b3343cf then
      return true
    end
  end
  return false
end

local function udp(case)
  case.reached = {}
  if not case.addresses then
    return one("skipped", "there is no address to send to")
  end
  local found = {}
  for i = 1, math.min(#case.addresses, MOST_ADDRESSES) do
    local ip = case.addresses[i]
    local reached = reach.ask(ip, case.port, case.timeout)
    case.reached[ip] = reached
    if reached.answered and not knows_one(reached.versions) then
      found[i] = { status = "fail", detail = ("the QUIC server at %s speaks %s, none of which we do"):format(
        address.join(ip, case.port), names_of(reached.versions)), fix = "a server that speaks QUIC v1 (RFC 9000)" }
    elseif reached.answered then
      case.answered = case.answered or ip
      found[i] = { status = "ok", detail = ("a QUIC server answers at %s after %.1f ms; it speaks %s"):format(
        address.join(ip, case.port), reached.rtt * 1e3, names_of(reached.versions)) }
    elseif reached.error then
      local detail, fix = unreachable(case, ip, reached.error)
      found[i] = { status = "fail", detail = detail, fix = fix }
    else
      case.silent = case.silent or ip
      found[i] = { status = "warn", detail = ("no answer from %s within %g s: the server is not there, does not answer such questions, "
        .. "or UDP is blocked on the way"):format(address.join(ip, case.port), case.timeout),
        fix = "see that the server runs; what follows says where packets stop, if that can be known" }
    end
  end
  for _, finding in ipairs(found) do
    if case.answered and finding.status == "fail" then -- one address that works is enough
      finding.status, finding.detail = "warn", finding.detail .. "; another address of the name answers"
    end
  end
  return found
end

local function describe_hops(hops)
  local words = {}
  for i, hop in ipairs(hops) do
    words[i] = ("%d %s"):format(hop.ttl, hop.from)
  end
  return table.concat(words, ", ")
end

-- Where packets stop; only worth its time when they do.
local function route(case)
  local ip = case.silent
  if case.answered or not ip then
    return {}
  end
  local hops, err = reach.trace(ip, case.port, MOST_HOPS, math.min(case.timeout, 3))
  if err and #hops == 0 then
    return one("skipped", ("it cannot be found out where packets to %s stop: %s"):format(ip, err.text))
  elseif #hops == 0 then
    return one("skipped", ("it cannot be found out where packets to %s stop: no router on the way says anything"):format(ip),
      "look at the packet filters of this machine, of the next router and of the server, in this order")
  end
  local last = hops[#hops]
  if last.reason == "unreachable" then
    return one("fail", ("UDP to %s stops at %s, which refuses it (hops that answered: %s)"):format(ip, last.from, describe_hops(hops)),
      ("allow UDP to port %d there"):format(case.port))
  elseif last.from == ip then
    return one("fail", ("packets get to %s, and no QUIC server answers there (hops that answered: %s)"):format(ip, describe_hops(hops)),
      ("see that the server runs, and that the packet filter of its machine lets UDP port %d in"):format(case.port))
  end
  return one("fail", ("UDP to %s gets as far as %s, and nothing is heard from behind it (hops that answered: %s)"):format(ip, last.from,
    describe_hops(hops)), ("see whether what stands behind %s, or the server's machine, drops UDP to port %d"):format(last.from, case.port))
end

local function path_mtu(case)
  local ip = case.answered
  if not ip then
    return one("skipped", "no server answers")
  end
  local largest, mtu, refused = reach.largest(ip, case.port, math.min(case.timeout, 3))
  if not largest then
    return one("skipped", "the server does not answer that many questions")
  end
  local told = mtu and (" (the path's MTU is %d)"):format(mtu) or ""
  local detail = ("packets with %d bytes of QUIC pass%s"):format(largest, told)
  if refused and largest < refused and largest < 1280 then
    return one("warn", detail .. ("; those with %d do not"):format(refused),
      "it works, and large data is a little slower; a tunnel or a VPN with a larger MTU would help")
  end
  return one("ok", detail)
end

-- The handshake ---------------------------------------------------------------------------------------------------

-- Connects to the address that answered: with others of the name, one that does not would cost time and hide the reason.
local function dial(case, alpn, ca)
  local quic = require "echostream.quic"
  local ip = case.answered or case.addresses[1]
  return quic.connect(address.join(ip, case.port), {
    alpn = { alpn },
    ca = ca,
    skip_verification = ca == nil or nil,
    timeout = case.timeout,
    cert = case.cert,
    key = case.key,
    server_name = case.server_name or case.name,
  })
end

local function other_protocol(case)
  for _, alpn in ipairs(OTHERS) do
    local conn = dial(case, alpn)
    if conn then
      conn:close()
      return ("; it speaks %s"):format(alpn)
    end
  end
  return ""
end

local function is_hopeless(case)
  if not case.addresses then
    return "there is no address to connect to"
  end
  for i = 1, math.min(#case.addresses, MOST_ADDRESSES) do
    local reached = case.reached[case.addresses[i]]
    if not (reached and reached.error) then
      return nil
    end
  end
  return #case.addresses <= MOST_ADDRESSES and "no packet gets there" or nil
end

local function handshake(case)
  local why = is_hopeless(case)
  if why then
    case.unreachable = true
    return one("skipped", why)
  end
  local conn, err = dial(case, "echostream/1")
  if conn then
    case.answered = case.answered or case.addresses[1]
    case.peer_cert = conn:peer_cert()
    local took = conn:stats().handshake_time
    conn:close()
    return one("ok", ("the server speaks echostream/1%s"):format(took and took > 0 and (", the handshake took %.1f ms"):format(took * 1e3)
      or ""))
  end
  case.unreachable = true
  local code = err.details and err.details.cause == "handshake" and err.details.code
  if code == NO_ALPN then
    return one("fail", ("the server at %s does not speak echostream/1%s"):format(case.address, other_protocol(case)),
      "correct the port, or put an echostream server there")
  elseif err.code == "timeout" and case.answered then
    return one("fail", "UDP gets there and back, and the handshake does not end: " .. tostring(err),
      "the server may be overloaded, or refuse newcomers; try again, with a longer --timeout")
  elseif err.code == "timeout" then
    return one("fail", tostring(err), "see what was found above about the way there; some networks let no UDP through")
  end
  return one("fail", tostring(err), "the message says what the server minds")
end

-- Whom it is --------------------------------------------------------------------------------------------------------

local function check_certificate(case)
  local cert = case.peer_cert
  if not cert then
    return one("skipped", "no certificate was seen")
  end
  local found = certificate.judge_dates(case.machine.now(), cert.not_before, cert.not_after, "the server's certificate")
  if case.pin and found[1].status == "fail" then
    found[1].status = "warn"
    found[1].detail = found[1].detail .. "; clients that are given the pin do not mind"
  end
  local host = case.server_name or case.name
  if certificate.is_for(host, cert.names) then
    found[2] = { status = "ok", detail = ("it is for %s"):format(host) }
  else
    local severe = not case.pin and not case.skip_verification
    found[2] = {
      status = severe and "fail" or "warn",
      detail = ("it is for %s, not for %s%s"):format(#cert.names > 0 and table.concat(cert.names, ", ") or "no name at all", host,
        case.pin and "; clients that are given the pin do not mind" or ""),
      fix = ("connect to one of its names, give the right --server-name, use the pin, or make one for this name: echostream cert --name %s")
        :format(host),
    }
  end
  found[3] = { status = "ok", detail = "its pin is " .. cert.pin }
  return found
end

local function wrong_pin(case)
  local pins = type(case.pin) == "table" and case.pin or { case.pin }
  local identity = require "echostream.tls.identity"
  for _, pin in ipairs(pins) do
    if identity.pin_text(identity.pin_bytes(pin) or "") == case.peer_cert.pin then
      return nil
    end
  end
  return ("the server's key is %s, and the pin given is %s"):format(case.peer_cert.pin, table.concat(pins, ", "))
end

local function issuer_fix(case, message)
  if message:find("unknown issuer", 1, true) then
    return ("give --ca the certificate of who issued it: %s; or the pin: --pin %s"):format(case.peer_cert.issuer, case.peer_cert.pin)
  end
  return "see the findings about the certificate"
end

local function trust(case)
  if not case.peer_cert then
    return one("skipped", "no certificate was seen")
  elseif case.pin then
    local problem = wrong_pin(case)
    if problem then
      return one("fail", problem, ("see on the server's own machine which pin it prints. Is it %s, its key was replaced: use that pin. "
        .. "Is it another one, somebody stands in between"):format(case.peer_cert.pin))
    end
    return one("ok", "the server has the key of the pin")
  elseif case.skip_verification then
    return one("warn", "nothing was verified: anybody may be the server", "say --pin " .. case.peer_cert.pin
      .. ", if that is what the server prints")
  elseif not case.ca then
    return one("skipped", "not said how the server is to be known (--pin or --ca)")
  end
  local made, conn, err = pcall(dial, case, "echostream/1", case.ca)
  if made and conn then
    conn:close()
    return one("ok", ("%s vouches for the server"):format(case.ca == "system" and "an authority of this system" or case.ca))
  end
  local message = tostring(err or conn)
  return one("fail", message, issuer_fix(case, message))
end

-- Clocks further apart than this (seconds) make dates of certificates, tokens and logs disagree.
local APART = 5

--- What there is to say about the clocks of both sides.
---@param clock { offset: number, error: number }  as of session:clock
---@return echostream.doctor.finding
function M.judge_clock(clock)
  local offset = clock.offset
  if math.abs(offset) - clock.error > APART then
    return {
      status = "warn",
      detail = ("the server's clock is %.1f s %s ours"):format(math.abs(offset), offset > 0 and "ahead of" or "behind"),
      fix = "set the clock right of the machine where it is wrong (timedatectl set-ntp true)",
    }
  end
  return { status = "ok", detail = ("the server's clock and ours agree to %.3g s"):format(math.abs(offset) + clock.error) }
end

-- A whole session, without credentials: whether the server lets us in, and what its clock says.
local function session(case)
  if not case.peer_cert then
    return one("skipped", "no certificate was seen")
  end
  local client, err = require("echostream.client").new({
    skip_verification = true, timeout = case.timeout, cert = case.cert, key = case.key,
    server_name = case.server_name or case.name,
  }):connect(address.join(case.answered, case.port))
  -- A client is connected before the server has looked at it: a refusal comes a little later, at the latest instead of the answers.
  local peer, clock = client and client.session, nil
  if peer then
    clock, err = peer:clock { timeout = case.timeout }
    err = peer.closed_by or err
  end
  local is_in = peer and not peer.closed_by
  if client then
    client:close()
  end
  if not is_in then
    return one("warn", "the server lets nobody in who says no more than that: " .. tostring(err or "it closed the connection"),
      "if it wants credentials (--credential of `echostream call`) or a certificate (--cert, --key), that is as it should be")
  end
  local found = one("ok", "the server lets us in")
  found[2] = clock and M.judge_clock(clock) or nil
  return found
end

-- Whether sessions are accepted over TCP, at the same port number: where UDP is blocked, that is the way.
local function tcp(case)
  if not case.addresses then
    return one("skipped", "there is no address to connect to")
  end
  local place = address.join(case.answered or case.addresses[1], case.port)
  local client, err = require("echostream.client").new({
    skip_verification = true, timeout = case.timeout, cert = case.cert, key = case.key,
    server_name = case.server_name or case.name, transport = "tcp",
  }):connect(place)
  if client then
    client:close()
  end
  -- A server that wants to know who comes answers, too.
  local there = client or err.code == "unauthenticated" or err.code == "permission_denied"
  local blocked = not case.answered and case.unreachable
  if there and blocked then
    return one("warn", ("QUIC does not get to %s, and TCP does: the server takes sessions over TCP"):format(place),
      'have UDP let through; until then clients with transport = "auto" go over TCP by themselves')
  elseif there then
    return one("ok", "the server takes sessions over TCP too, for clients whose network blocks UDP")
  elseif blocked then
    return one("skipped", ("nor are sessions accepted over TCP: %s"):format(err.message))
  end
  return one("skipped", ("no sessions over TCP (%s): clients whose network blocks UDP cannot come"):format(err.message))
end

---@type table[]
M.checks = {
  { "name", name },
  { "udp", udp },
  { "route", route },
  { "path_mtu", path_mtu },
  { "handshake", handshake },
  { "certificate", check_certificate },
  { "trust", trust },
  { "session", session },
  { "tcp", tcp },
}

return M
