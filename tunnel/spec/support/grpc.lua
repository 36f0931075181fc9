-- Peers of gRPC for specs: @grpc/grpc-js (installed by npm into build/grpc) and python3-grpcio, both as client and as server
-- (tunnel/spec/interop/grpc).

local child = require "spec.support.child"
local process = require "spec.support.process"

local M = {}

local DIR <const> = process.root .. "/tunnel/spec/interop/grpc"
local MODULES <const> = process.root .. "/build/grpc"

--- The cases that each client runs.
M.cases = 16

local function succeeds(command)
  return os.execute(("(%s) >/dev/null 2>&1"):format(command)) == true
end

--- Whether python3-grpcio is there.
M.has_python = succeeds "LD_PRELOAD= /usr/bin/python3 -c 'import grpc'"

--- Why grpc-js cannot be had; nil when it is there. Installs it the first time.
---@return string?
function M.missing_js()
  if not succeeds "LD_PRELOAD= node --version && LD_PRELOAD= npm --version" then return "nodejs and npm are wanted" end
  local installed = process.run(([[env LD_PRELOAD= sh -ec 'mkdir -p %s; cd %s; cp %s/package.json .
    [ -d node_modules/@grpc/grpc-js ] || npm install --no-audit --no-fund --ignore-scripts --fetch-retries=1 --fetch-retry-mintimeout=1000 \
      --loglevel=error']]):format(MODULES, MODULES, DIR), { seconds = 180 })
  if installed.code ~= 0 then return "npm install failed: " .. installed.err:sub(1, 200) end
end

local function start(kind, role, seconds, ca, ...)
  local words = { "LD_PRELOAD=", "MODULES=" .. MODULES, "CA=" .. (ca or ""), "timeout", tostring(seconds) }
  for _, word in ipairs(kind == "js" and { "node", ("%s/%s.mjs"):format(DIR, role) } or { "/usr/bin/python3", DIR .. "/peer.py", role }) do
    table.insert(words, word)
  end
  for _, word in ipairs { ... } do table.insert(words, word) end
  return child.start("env", words)
end

--- A server: its port, and a function that ends it. In a task.
---@param kind "js"|"python"
---@param ... string  "gzip": its answers are compressed
---@return integer port, fun() stop
function M.server(kind, ...)
  local running = start(kind, "server", 3600, nil, ...)
  return tonumber(running:expect "^ready (%d+)$"), function() running:kill() end
end

--- Runs the cases (all, or those named) with a client: how many were well, and what the others said. In a task.
---@param kind "js"|"python"
---@param address string
---@param opts? { ca?: string, cases?: string[] }  ca: a file; TLS then
---@return integer ok, string[] problems
function M.client(kind, address, opts)
  opts = opts or {}
  local running = start(kind, "client", 120, opts.ca, address, table.unpack(opts.cases or {}))
  running:gone()
  local ok, problems = 0, {}
  for _, line in ipairs(running.lines) do
    if line:find "^ok " then
      ok = ok + 1
    else
      table.insert(problems, line)
    end
  end
  return ok, problems
end

return M
