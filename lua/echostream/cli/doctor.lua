--- `echostream doctor`: what is wrong with this machine, or with the way to a server, and what to do about it.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local core = require "echostream.core"
local output = require "echostream.cli.output"

local M = {}

M.usage = "echostream doctor [ADDR] [--pin PIN | --ca FILE] [options]"
M.summary = "find out what is wrong here, or on the way to a server"
M.help = [[
Looks at this machine: the libraries and their known holes, UDP buffers and offloads, limits, the clock, the permissions of keys.
With ADDR also at the way there: the name, whether UDP arrives and where it stops when not, the path's MTU, the handshake, the
protocol, the certificate and whether it is the right one. Everything that is not as it should be comes with what to do about it.]]
M.exits = "0 nothing is broken (there may be warnings), 1 something is, 2 wrong usage, 3 the server cannot be reached, 130 interrupted"
M.examples = {
  { "echostream doctor", "what is wrong with this machine" },
  { "echostream doctor 127.0.0.1:5000 --pin sha256:…", "and with the way to a server, and whether it is the right one" },
  { "echostream doctor 127.0.0.1:5000 --insecure --json", "the same for programs" },
}
M.options = {
  pin = connection.fields.pin,
  ca = connection.fields.ca,
  cert = { value = "FILE", help = "PEM certificate of our own: examined, and shown to the server" },
  key = { value = "FILE", help = "PEM private key of --cert" },
  ["server-name"] = connection.fields["server-name"],
  insecure = { help = "say that clients verify nothing" },
  timeout = { value = "SECONDS", help = "for each step that waits for the server (default 5)", number = true },
  json = { help = 'write {"findings":[{"check","status","detail","fix"}],"summary":{…}}' },
}
M.min, M.max = 0, 1

local colours = { ok = "green", warn = "yellow", fail = "red", skipped = "dim" }

local function printer()
  local paint = output.painter(1)
  return function(finding)
    io.stdout:write(("%s %s  %s\n"):format(paint(colours[finding.status], ("%-7s"):format(finding.status)),
      ("%-16s"):format(finding.check), output.plain(finding.detail)))
    if finding.fix then
      io.stdout:write(("%s fix: %s\n"):format((" "):rep(25), output.plain(finding.fix)))
    end
    io.stdout:flush()
  end
end

local ways = { name = true, udp = true, handshake = true }

local function exit_code(findings, summary)
  for _, finding in ipairs(findings) do
    if finding.status == "fail" and ways[finding.check] then
      return cli.NO_CONNECTION
    end
  end
  return summary.fail > 0 and cli.FAILED or cli.OK
end

function M.run(given, words)
  local n = (given.pin and 1 or 0) + (given.ca and 1 or 0) + (given.insecure and 1 or 0)
  if n > 1 then
    return cli.misused(M, "--pin, --ca and --insecure exclude each other")
  elseif n > 0 and not words[1] then
    return cli.misused(M, "--pin, --ca and --insecure say something about ADDR, which is not given")
  elseif given.key and not given.cert then
    return cli.misused(M, "--key needs --cert")
  end
  for _, pin in ipairs(given.pin or {}) do
    if not require "echostream.tls.identity".pin_bytes(pin) then
      return cli.misused(M, ('--pin wants "sha256:" and 64 hex digits, got %s'):format(pin))
    end
  end
  require "echostream".set_log(function() end) -- what is worth knowing is a finding
  local doctor = require "echostream.doctor"
  local ok, findings = connection.try(M, doctor.examine, {
    address = words[1],
    pin = given.pin,
    ca = given.ca,
    skip_verification = given.insecure,
    server_name = given["server-name"],
    cert = given.cert,
    key = given.key,
    timeout = given.timeout,
    on_finding = not given.json and printer() or nil,
  })
  if not ok then
    return findings
  end
  local summary = doctor.summary(findings)
  if given.json then
    connection.print_json { findings = core.array(findings), summary = summary }
  else
    print(("%d fine, %d worth a look, %d broken, %d not looked at"):format(summary.ok, summary.warn, summary.fail, summary.skipped))
  end
  return exit_code(findings, summary)
end

return M
