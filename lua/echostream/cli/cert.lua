--- `echostream cert`: a key and a self-signed certificate in files, and the two hashes people ask for.

local base64 = require "echostream.base64"
local cli = require "echostream.cli"
local core = require "echostream.core"
local identity = require "echostream.tls.identity"
local files = require "echostream.loop.files"

local M = {}

M.usage = "echostream cert [--out DIR] [--name NAME]… [--days DAYS] [--browser] [--force] [--json]"
M.summary = "make a key and a self-signed certificate, print both hashes"
M.help = [[
Writes DIR/key.pem (readable by you alone) and DIR/cert.pem. A key that is there already is used again, so that the
pin stays the same when a certificate is renewed; a certificate that somebody else issued is not written over. Prints

  pin        SHA-256 of the public key: what echostream clients are given as `pin`
  cert_hash  SHA-256 of the certificate: what browsers take as serverCertificateHashes

With --browser also what a page and a Chromium are given: JavaScript for WebTransport, which every browser takes without
any flag, and a command line with which Chromium fetches pages over HTTP/3 from this server. Browsers want a key of the
kind that is made here (ECDSA P-256) and at most 13 days.]]
M.options = {
  out = { value = "DIR", help = "where the files go (default: the current directory)" },
  name = { value = "NAME", help = "a host name or address it is for; several times for several (default: localhost)", many = true },
  days = { value = "DAYS", help = "how long it is valid (default 13; browsers refuse more than 14)", number = true },
  browser = { help = "print what browsers need, too" },
  force = { help = "write over a certificate that was not made by this command" },
  json = { help = "print one line of JSON; not_after is in seconds since 1970" },
}
M.examples = {
  { "echostream cert --out keys --name example.org --days 90", "makes keys/key.pem and keys/cert.pem" },
  { "echostream cert --out keys --json", "makes a new certificate for the key that is there, so that the pin stays" },
}
M.exits = "0 done, 1 it failed, 2 wrong usage"
M.min, M.max = 0, 0

local function make_key(path)
  local pem, err = files.read_secret(path)
  if pem or err then
    return pem, err
  end
  pem = core.key_generate()
  local ok, problem = files.write_secret(path, pem)
  if not ok then
    return nil, ("%s: %s"):format(path, problem)
  end
  return pem
end

-- Why a certificate that is there is not ours to replace, if so: ours are self-signed, by the key whose public part is `spki`.
local function in_the_way(path, spki)
  local file = io.open(path, "r")
  if not file then
    return nil
  end
  local text = file:read "a"
  file:close()
  local info = core.cert_inspect(text)
  if not info then
    return text ~= "" and "is there and is no certificate" or nil
  elseif info.issuer ~= info.subject then
    return "was issued by " .. require("echostream.pretty").safe(info.issuer)
  elseif info.spki ~= spki then
    return "is of another key"
  end
end

-- The curve P-256 in a public key (RFC 5480): the only one that browsers take for a certificate that they know by its hash.
local P256 <const> = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"

local function is_for_browsers(pem)
  local body = pem:match "%-%-%-%-%-BEGIN CERTIFICATE%-%-%-%-%-(.-)%-%-%-%-%-END"
  return (base64.decode(body or "") or ""):find(P256, 1, true) ~= nil
end

-- What --browser prints, in this order.
local function for_browsers(info)
  local der = base64.encode(info.der)
  return {
    { "cert_hash_base64", der },
    { "spki_base64", base64.encode(info.spki) },
    { "javascript", ('new WebTransport(url, { serverCertificateHashes: [{ algorithm: "sha-256", '
      .. 'value: Uint8Array.from(atob("%s"), c => c.charCodeAt(0)) }] })'):format(der) },
    { "chromium", ("chromium --origin-to-force-quic-on=localhost:5000 --ignore-certificate-errors-spki-list=%s https://localhost:5000/")
      :format(base64.encode(info.spki)) },
  }
end

local function write(path, text)
  local file, err = io.open(path, "w")
  if not file then
    return nil, err
  end
  local ok, problem = file:write(text)
  local closed, late = file:close()
  if not ok or not closed then
    return nil, problem or late
  end
  return true
end

function M.run(options)
  local days = math.tointeger(options.days or identity.DAYS)
  if not days or days < 1 then
    cli.complain("--days wants a whole number of days, 1 or more")
    return cli.USAGE
  elseif options.browser and days > identity.DAYS then
    cli.complain("browsers refuse certificates of more than 14 days: --browser wants at most --days %d", identity.DAYS)
    return cli.USAGE
  end
  local dir = options.out or "."
  local ok, err = files.make_directories(dir)
  if not ok then
    cli.complain("%s: %s", dir, err)
    return cli.FAILED
  end
  local key_path, cert_path = dir .. "/key.pem", dir .. "/cert.pem"
  local key, pem, problem
  key, problem = make_key(key_path)
  if not key then
    cli.complain("%s", problem)
    return cli.FAILED
  end
  pem, problem = core.cert_self_sign(key, options.name or { "localhost", "127.0.0.1", "::1" }, days)
  if not pem then
    cli.complain("%s", problem)
    return cli.FAILED
  end
  local info = assert(core.cert_inspect(pem))
  problem = not options.force and in_the_way(cert_path, info.spki)
  if problem then
    cli.complain("%s %s; --force writes over it, --out DIR writes elsewhere", cert_path, problem)
    return cli.FAILED
  end
  if options.browser and not is_for_browsers(pem) then
    cli.complain("%s is no ECDSA P-256 key, which browsers want; --out DIR makes another one elsewhere", key_path)
    return cli.FAILED
  end
  ok, problem = write(cert_path, pem)
  if not ok then
    cli.complain("%s", problem)
    return cli.FAILED
  end
  local further = options.browser and for_browsers(info) or {}
  if options.json then
    local out = { key = key_path, cert = cert_path, not_after = info.not_after, pin = identity.pin_text(info.spki),
      cert_hash = identity.pin_text(info.der) }
    for _, each in ipairs(further) do
      out[each[1]] = each[2]
    end
    print((assert(core.codec.json.pack(out))))
    return cli.OK
  end
  print("key        " .. key_path)
  print("cert       " .. cert_path)
  print("valid      until " .. os.date("!%Y-%m-%d %H:%M UTC", info.not_after))
  print("pin        " .. identity.pin_text(info.spki))
  print("cert_hash  " .. identity.pin_text(info.der))
  for _, each in ipairs(further) do
    print(("\n%s\n  %s"):format(each[1], each[2]))
  end
  return cli.OK
end

return M
