--- `echostream tunnel explain`: which rule takes a request, and why the others do not.

local cli = require "echostream.cli"

local M = {}

M.usage = "echostream tunnel explain URL --config FILE [options]"
M.summary = "which rule takes a request, and why the others do not"
M.help = [[
Matches a request that nobody sends against the rules of FILE, the configuration of a server, or a file that has only rules. URL is such
as https://app.example.org/path?a=1; ws:// and wss:// mean a WebSocket, grpc:// and grpcs:// a gRPC call, tls://NAME a connection with
that name in its ClientHello, tcp://HOST:PORT one to a raw port. With --running the server that runs here is asked, which also says
which agent would be picked.]]
M.options = {
  config = { value = "FILE", help = "the server's configuration, or a file of rules" },
  method = { value = "NAME", help = "of the request (default GET; POST for gRPC)" },
  header = { value = "NAME:VALUE", many = true, help = "a field of the request; may be given several times" },
  from = { value = "IP", help = "the visitor's address (default 127.0.0.1)" },
  port = { value = "PORT", number = true, help = "of the listener (default: the URL's)" },
  listener = { value = "NAME", help = "of the listener (default: none)" },
  protocol = { value = "NAME", help = "http/1.1, h2, h3 or raw (default http/1.1; h2 for gRPC, raw for tcp:// and tls://)" },
  json = { help = "as JSON" },
  running = { value = "NAME", help = "asks the server of that name, process id or socket instead of a FILE" },
}
M.examples = {
  { "echostream tunnel explain https://app.example.org/api --config server.lua", "rule by rule, to the one that matches" },
  { "echostream tunnel explain grpcs://api.example.org/shop.Cart/Add --config server.lua --header 'x-canary: yes'", "a gRPC call with a field" },
  { "echostream tunnel explain https://app.example.org/ --running tunnel-server", "in the server that runs, with its agents" },
}
M.exits = "0 a rule decides, 1 none does or the request is refused, 2 wrong usage, or FILE is wrong, 3 nobody answers"
M.min, M.max = 1, 1

local schemes = {
  http = { scheme = "http", port = 80 }, https = { scheme = "https", port = 443 },
  ws = { scheme = "http", port = 80, websocket = true }, wss = { scheme = "https", port = 443, websocket = true },
  grpc = { scheme = "http", port = 80, grpc = true }, grpcs = { scheme = "https", port = 443, grpc = true },
  tcp = { kind = "tcp", port = 0 }, tls = { kind = "tls", port = 443 },
}

--- What is asked for, as plain values; or nil and what is wrong with the words.
---@param url string
---@param given table  the command's options
---@return table? asked, string? problem
---@private
function M.parse(url, given)
  local name, authority, target = url:match "^(%a[%w+.-]*)://([^/?#]*)([^#]*)"
  local known = name and schemes[name:lower()]
  if not known then
    return nil, ("%s is no URL such as https://app.example.org/path"):format(url)
  elseif authority == "" or authority:find "@" then
    return nil, ("%s has no host, or a user"):format(url)
  end
  if target:sub(1, 1) ~= "/" then
    target = "/" .. target
  end
  local fields = {}
  for i, text in ipairs(given.header or {}) do
    local field, value = text:match "^%s*([^:%s]+)%s*:%s*(.-)%s*$"
    if not field then
      return nil, ("--header wants NAME:VALUE, got %s"):format(text)
    end
    fields[i] = { field, value }
  end
  local asked = { kind = known.kind, scheme = known.scheme, authority = authority, path = target, method = given.method or "GET", fields = fields,
    peer_ip = given.from or "127.0.0.1", port = given.port and math.tointeger(given.port) or tonumber(authority:match ":(%d+)$") or known.port,
    listener = given.listener, protocol = given.protocol or known.kind and "raw" or known.grpc and "h2" or "http/1.1" }
  if known.grpc then
    asked.method = given.method or "POST"
    table.insert(fields, 1, { "content-type", "application/grpc" })
  elseif known.websocket then -- as codecs show an upgrade
    asked.method, asked.websocket = "CONNECT", "websocket"
  elseif known.kind == "tls" then
    asked.sni = authority:gsub(":%d+$", "")
  end
  return asked
end

--- The request of plain values, as rules see it.
---@param asked table
---@return table|nil request, echostream.error? err
---@package
function M.request(asked)
  local request = require "echostream.tunnel.rules.request"
  local info = { peer_ip = asked.peer_ip, peer_port = 0, port = asked.port, listener = asked.listener, protocol = asked.protocol, sni = asked.sni,
    received = 0, kind = asked.kind }
  if asked.kind then
    return request.new(nil, info)
  end
  local fields = { method = asked.method, scheme = asked.scheme, authority = asked.authority, path = asked.path, protocol = asked.websocket }
  for i, field in ipairs(asked.fields or {}) do
    fields[i] = { field[1], field[2] }
  end
  local head, err = require("echostream.tunnel.core").head("request", fields)
  if not head then
    return nil, err
  end
  return request.new(head, info)
end

-- The rules of a configuration, or of a file of rules; nil and an error; and the listeners.
local function rules_of(path)
  local rules = require "echostream.tunnel.rules"
  local file, err = require("echostream.tunnel.config").read(path)
  if not file then
    return nil, err
  end
  local values = file.values
  local listen = type(values.listen) == "table" and values.listen or nil
  if type(values.rules) == "string" then
    path = values.rules
  elseif values[1] == nil and (values.listen or values.agents or values.server) then
    local set
    set, err = rules.new(values.rules or {}, values.shadow)
    if not set and err and err.field then
      err = require("echostream.errors").new(err.code, file:place(err.field) .. err.message)
    end
    return set, err, listen
  end
  local set = rules.new {}
  local ok
  ok, err = set:load(path)
  return ok and set or nil, err, listen
end

local function print_report(given, report)
  if given.json then
    require("echostream.cli.connection").print_json(report)
  else
    io.stdout:write((require("echostream.pretty").safe(report.text, true)))
  end
  return report.rule and not report.refused and cli.OK or cli.FAILED
end

--- The report as plain values, with its text.
---@param set table
---@param request table
---@param state? table
---@return table
---@package
function M.report(set, request, state)
  local report = require("echostream.tunnel.rules.explain").explain(set, request, state)
  local out = {}
  for name, value in pairs(report) do
    out[name] = value
  end
  out.text = report:text()
  return out
end

function M.run(given, words)
  if (given.config == nil) == (given.running == nil) then
    return cli.misused(M, "--config FILE is missing, or give --running NAME")
  end
  local asked, problem = M.parse(words[1], given)
  if not asked then
    return cli.misused(M, problem)
  end
  if given.running then
    local report, code = require("echostream.tunnel.cli.point").command(given, given.running ~= "" and given.running or nil, "explain", asked)
    return report and print_report(given, report) or code
  end
  local set, err, listen = rules_of(given.config)
  if not set then
    cli.complain("%s", err.message)
    return cli.USAGE
  end
  local request
  request, err = M.request(asked)
  if not request then
    cli.complain("the request is refused before any rule: %s", err.message)
    return cli.FAILED
  end
  return print_report(given, M.report(set, request, { listen = listen }))
end

return M
