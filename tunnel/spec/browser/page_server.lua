-- A tunnel with a page of many assets behind it, for a browser: visitors by TLS on TCP (HTTP/2) and by HTTP/3, an agent, and a backend in Lua.
-- Prints "ready TCP_PORT UDP_PORT SPKI" and serves until it is ended.
local certs = require "spec.support.certs"
local core = require "echostream.tunnel.core"
local echo = require "echostream"
local engine = require "echostream.tunnel.engine"
local exchanges = require "echostream.tunnel.exchange"
local tunnel = require "echostream.tunnel"

local ASSETS <const> = 30
local kinds = { { "css", "text/css" }, { "js", "text/javascript" }, { "svg", "image/svg+xml" } }
local files = {}

-- Each asset tells the page that it is there, and is large enough to come in several pieces.
local function asset(i, kind)
  local padding = ("/* %d */\n"):format(i):rep(100 * i)
  if kind == "css" then return padding .. (".c%d { width: %dpx }\n"):format(i, 100 + i) end
  if kind == "js" then return padding .. ("window.scripts = (window.scripts || 0) + %d;\n"):format(i) end
  return ("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"5\"><desc>%s</desc></svg>"):format(10 + i, padding)
end

local head, body = {}, {}
for i = 1, ASSETS do
  local kind, type = table.unpack(kinds[i % 3 + 1])
  local path = ("/assets/%d.%s"):format(i, kind)
  files[path] = { type, asset(i, kind) }
  if kind == "css" then head[#head + 1] = ("<link rel=stylesheet href=%s>"):format(path)
  elseif kind == "js" then body[#body + 1] = ("<script src=%s></script>"):format(path)
  else body[#body + 1] = ("<img src=%s>"):format(path) end
  if kind == "css" then body[#body + 1] = ("<p class=c%d></p>"):format(i) end
end
files["/"] = { "text/html; charset=utf-8", ("<!doctype html><title>assets</title><link rel=icon href=data:,>%s<body>%s</body>")
  :format(table.concat(head), table.concat(body)) }

local function respond(x, status, fields, text)
  fields.status = status
  if x:send_head(assert(core.head("response", fields)), text == "") and text ~= "" then x:write(text, true) end
end

-- What was uploaded, as its length and how it ends.
local function uploaded(x, fin)
  local n, last = 0, ""
  while not fin do
    local bytes = x:read()
    if not bytes then break end
    n, last = n + #bytes, (last .. bytes):sub(-8)
  end
  respond(x, 200, { { "content-type", "text/plain" } }, ("%d %s"):format(n, last))
end

-- Events that come one by one; the next one after the page asked for it.
local next_event

local function events(x)
  assert(x:send_head(assert(core.head("response", { status = 200, { "content-type", "text/event-stream" } }))))
  x:write "data: 1\n\n"
  echo.await(function(resume) next_event = resume end, 60)
  x:write "data: 2\n\n"
  x:finish()
end

local listener = assert(engine.current():listen { ip = "127.0.0.1", port = 0, kind = "http", on_exchange = function(core_exchange, request, fin)
  echo.spawn(function()
    local x, path = exchanges.new(core_exchange, fin), request.path
    if path == "/upload" then return uploaded(x, fin) end
    if path == "/events" then return events(x) end
    if path == "/next" then next_event(true) end
    local file = files[path] or path == "/next" and { "text/plain", "" }
    if not file then return respond(x, 404, {}, "") end
    respond(x, 200, { { "content-type", file[1] }, { "cache-control", "no-store" } }, file[2])
  end)
end })

local made = certs.issue(certs.authority "spec", { names = { "localhost" } })
local plugin = tunnel.server {
  agents = { { anyone = true } }, http3 = true, rules = { { host = "localhost", group = "web" } },
  listen = { { bind = "127.0.0.1:0", name = "web", tls = { certs = { { cert = made.cert, key = made.key } } } } },
}
local server = echo.server { bind = "127.0.0.1:0", quiet = true, cert = made.cert, key = made.key }
server:plugin(plugin)
assert(server:start())
local client = echo.client { pin = server.pin }
client:plugin(tunnel.agent { client_id = "a1", group = "web", backend = "http://" .. listener:address() })
assert(client:connect(server.address))
while not plugin.registry:get "a1" do echo.sleep(0.01) end
local spki = server.pin:gsub("^sha256:", ""):gsub("%x%x", function(hex) return string.char(tonumber(hex, 16)) end)
print(("ready %s %s %s"):format(plugin:addresses().web:match ":(%d+)$", server.address:match ":(%d+)$", require("echostream.base64").encode(spki)))
io.stdout:flush()
echo.run(150)
