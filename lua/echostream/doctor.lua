--- What is wrong with this machine, or with the way to a server, and what to do about it.
---
---     for _, finding in ipairs(echo.doctor.examine { address = "example.org:5000" }) do
---       print(finding.status, finding.check, finding.detail, finding.fix)
---     end
---
--- A check is a function that looks at a case and returns what it found; the checks of a machine are in doctor/machine.lua, those of
--- a server in doctor/server.lua. Each sees in the case what those before it found out.

local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

---@class echostream.doctor.finding
---@field check string   what was looked at: "udp_buffers", "certificate", …
---@field status "ok"|"warn"|"fail"|"skipped"
---@field detail string  what was found, in a sentence
---@field fix? string    what to do about it

---@alias echostream.doctor.check fun(case: table): echostream.doctor.finding[]

---@class echostream.options.doctor
---@field address? string   a server to examine as well: "example.org:5000"
---@field pin? string|string[]  how that server is to be known, as of `echo.connect`
---@field ca? string        the same
---@field skip_verification? boolean  the same
---@field server_name? string  the same
---@field cert? string      a certificate file of ours: shown to the server, and examined
---@field key? string       its key file
---@field timeout? number   seconds for each step that waits for the server (default: 5)
---@field machine? table    reads what there is to read, instead of doctor/machine.lua's `reader()`
---@field on_finding? fun(finding: echostream.doctor.finding)  sees each finding as soon as it is there

local schema = {
  address = { type = "string" },
  pin = { type = { "string", "table" } },
  ca = { type = "string" },
  skip_verification = { type = "boolean" },
  server_name = { type = "string" },
  cert = { type = "string" },
  key = { type = "string" },
  timeout = { type = "seconds", default = 5 },
  machine = { type = "table" },
  on_finding = { type = "function" },
}
M.schema = schema

--- Runs checks on a case, one after another. One that raises is a finding too.
---@param checks table[]  `{ name, check }` each, in order
---@param case table
---@param on_finding? fun(finding: echostream.doctor.finding)
---@return echostream.doctor.finding[]
---@private
function M.run(checks, case, on_finding)
  local findings = {}
  for _, check in ipairs(checks) do
    local name, fn = check[1], check[2]
    local ok, found = pcall(fn, case)
    if not ok then
      found = { { status = "skipped", detail = "the check itself failed: " .. tostring(found) } }
    end
    for _, finding in ipairs(found) do
      finding.check = finding.check or name
      findings[#findings + 1] = finding
      if on_finding then
        on_finding(finding)
      end
    end
  end
  return findings
end

local function examine(case, on_finding)
  local checks = {}
  for _, part in ipairs { "machine", case.address and "server" or nil } do
    local more = require("echostream.doctor." .. part).checks
    table.move(more, 1, #more, #checks + 1, checks)
  end
  return M.run(checks, case, on_finding)
end

--- Examines this machine: libraries and their known holes, UDP buffers and offloads, limits, the clock, keys. With `address` also
--- the way to that server: its name, whether UDP gets there and where it stops when not, the path's MTU, the handshake, the
--- protocol, the certificate. Waits, some seconds where a server does not answer.
---@param opts? echostream.options.doctor
---@return echostream.doctor.finding[]
function M.examine(opts)
  local case = options.check("doctor.examine", opts, schema)
  case.machine = case.machine or require "echostream.doctor.machine".reader()
  if case.address then
    local address = require "echostream.address"
    local ok, name, port = pcall(address.parse, "doctor.examine", case.address, "127.0.0.1")
    if not ok then
      error(name, 2)
    end
    case.name, case.port = name, port
  end
  return task.block(examine, case, case.on_finding)
end

--- How many findings have which status.
---@param findings echostream.doctor.finding[]
---@return { ok: integer, warn: integer, fail: integer, skipped: integer }
function M.summary(findings)
  local summary = { ok = 0, warn = 0, fail = 0, skipped = 0 }
  for _, finding in ipairs(findings) do
    summary[finding.status] = summary[finding.status] + 1
  end
  return summary
end

return M
