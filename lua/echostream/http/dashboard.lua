--- A dashboard: a page that shows live what a server counts, fed over WebTransport by the streaming method `dashboard.watch`.
---
---     print(server:dashboard().url)      -- http://127.0.0.1:9465/
---
--- Any browser of this machine can open that page, because it comes over HTTP/1.1; over HTTP/3 it is there too, below "/dashboard/". Who is not
--- on this machine sees nothing unless there is a `token`, and then who shows it.

local address = require "echostream.address"
local breaker = require "echostream.breaker"
local codec = require "echostream.codec"
local core = require "echostream.core"
local errors = require "echostream.errors"
local figures = require "echostream.introspect.figures"
local firing = require("echostream.metrics.alerts").firing
local http_errors = require "echostream.http.errors"
local loop = require "echostream.loop"
local mime = require "echostream.http.mime"
local options = require "echostream.options"
local plain = require "echostream.http.plain"
local task = require "echostream.task"
local webtransport = require "echostream.http.webtransport"

local M = {}

---@class echostream.options.dashboard
---@field bind? string|false  where the page is served over HTTP/1.1; false: nowhere. An address that others reach wants a `token`
--- (default: "127.0.0.1:9465")
---@field path? string  of the page over HTTP/3 (default: "/dashboard")
---@field token? string  lets in who is not on this machine, as the client's `token` or in the page's address: `#token=…` (default: nobody)
---@field interval? number  seconds between two looks (default: 1)
---@field addresses? boolean  whether sessions are shown with their peers' addresses (default: true)
---@field files? string  the directory of the page (default: the one that came along, examples/browser)
---@field others? boolean  whether other pages beside it are served too: "/" is index.html then, the dashboard dashboard.html (default: false)
---@field timeout? number  seconds for a request over HTTP/1.1 (default: 10)

local schema = {
  bind = { type = { "string", "boolean" } },
  path = { type = "string", default = "/dashboard" },
  token = { type = "string" },
  interval = { type = "seconds", min = 0.01, max = 3600, default = 1 },
  addresses = { type = "boolean", default = true },
  files = { type = "string" },
  others = { type = "boolean", default = false },
  timeout = plain.fields.timeout,
}

-- What the page is made of: nothing else of the directory is served, unless that is asked for.
local FILES <const> = { ["dashboard.html"] = true, ["dashboard.js"] = true, ["page.js"] = true, ["echostream.js"] = true, ["style.css"] = true }
local MAX_SESSIONS <const> = 50
local POLICY <const> = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self' https:"

---@class echostream.dashboard
---@field address string?  of the page over HTTP/1.1, with the real port; nil: it is not served so
---@field url string?      the same as browsers have it
---@field package _opts echostream.options.dashboard
local Dashboard = { __name = "echostream.dashboard" }
Dashboard.__index = Dashboard

-- Figures -----------------------------------------------------------------------------------------------------

local function queues_of(server, state, stats)
  local limit = server._options.total_queue
  local dropped = 0
  for _, session in ipairs(server:sessions()) do
    dropped = dropped + (session._dropped or 0)
  end
  local calls = server._options.max_total_calls
  return codec.array {
    { name = "bytes not sent yet", length = stats.queued, limit = type(limit) == "table" and limit.high or limit or 64 << 20 },
    { name = "calls waiting for a stream", length = state.pending },
    { name = "handlers running", length = state.running, limit = calls and calls > 0 and calls or nil },
    { name = "bytes not read yet", length = state.unread },
    { name = "events of slow sessions", length = 0, dropped = dropped },
  }
end

local function breakers_of()
  local list = codec.array {}
  for i, each in ipairs(breaker.living()) do
    list[i] = { name = each.name ~= "" and each.name or "a breaker", state = each.state,
      detail = each.refused > 0 and ("%d refused"):format(each.refused) or nil }
  end
  return list
end

local function alerts_of(server)
  local list = codec.array {}
  for i, each in ipairs(firing(server)) do
    local info = each.info
    list[i] = { name = #info.kinds <= 3 and table.concat(info.kinds, ", ") or "errors",
      message = ("%d of %d calls in %g s"):format(info.count, info.calls, info.window), since = loop.now() - each.since }
  end
  return list
end

local function sessions_of(server, with_addresses)
  local list, now = codec.array {}, server._rec.core:wall()
  for i, session in ipairs(server:sessions()) do
    if i > MAX_SESSIONS then
      break
    end
    local stats = session.door ~= "h3" and session:stats() or nil
    list[i] = { id = session.id, peer = with_addresses and session.peer_addr or "", door = session.door, rtt = stats and stats.rtt_smoothed,
      age = math.max(now - session.created_at, 0), calls = session._ud:in_flight() }
  end
  return list
end

---@package
--- One look: `rpc.stats` and what the page shows beside it.
---@param server echostream.server
---@param with_addresses boolean
---@return table
function M.look(server, with_addresses)
  local state, stats = server._host:figures(), server._host:stats()
  local out = figures.snapshot(server)
  out.streams = state.channels_in + state.channels_out
  out.queues = queues_of(server, state, stats)
  out.breakers = breakers_of()
  out.alerts = alerts_of(server)
  out.session_list = sessions_of(server, with_addresses)
  return out
end

-- Who may see it ----------------------------------------------------------------------------------------------

local function is_loopback(addr)
  local ip = addr:match "^%[(.*)%]:%d+$" or addr:match "^([^:]*):%d+$" or addr
  ip = ip:gsub("^::ffff:", "")
  return ip == "::1" or ip == "localhost" or ip:find "^127%.%d+%.%d+%.%d+$" ~= nil
end

---@private
function Dashboard:_allows(session)
  local token = self._opts.token
  if is_loopback(session.peer_addr) then
    return true
  elseif not token then
    return nil, errors.new("permission_denied", "the dashboard is for this machine only: it has no token")
  end
  local given = session.metadata.token or (session.metadata.authorization or ""):match "^[Bb]earer +(.+)$"
  if given and core.same(given, token) then
    return true
  end
  return nil, errors.new("unauthenticated", "the dashboard wants its token")
end

-- All who watch see the same look.
---@private
function Dashboard:_now(server)
  local last = self._last
  if not last or loop.now() - last.time >= self._opts.interval * 0.9 then
    last = M.look(server, self._opts.addresses)
    self._last = last
  end
  return last
end

---@private
function Dashboard:_watch(server, session, stream)
  local ok, err = self:_allows(session)
  if not ok then
    return nil, err
  end
  while stream:send(self:_now(server)) and task.sleep(self._opts.interval) do
    if server.state ~= "running" then
      return
    end
  end
end

-- The page ----------------------------------------------------------------------------------------------------

local function exists(path)
  local file = io.open(path)
  if file then
    file:close()
  end
  return file ~= nil
end

-- Beside a checkout's lua/, or where LuaRocks puts the examples of a rock.
local function find_files()
  local base = debug.getinfo(1, "S").source:match "^@(.*)echostream/http/dashboard%.lua$"
  if not base then
    return nil
  end
  local prefix = base:match "^(.*/)share/lua/5%.4/$"
  for _, dir in ipairs { base .. "../examples/browser", prefix and prefix .. "lib/luarocks/rocks-5.4/echostream/scm-1/examples/browser" } do
    if exists(dir .. "/dashboard.html") then
      return dir
    end
  end
end

-- None of a certificate that was given: browsers have to trust it by themselves then.
local function hashes_of(server)
  local hashes = {}
  if not server._options.cert then
    for i, each in ipairs(server:cert_hashes()) do
      hashes[i] = each.value
    end
  end
  return hashes
end

-- Other pages: names without folders, and nothing hidden.
---@private
function Dashboard:_has(name)
  return FILES[name] or self._opts.others and name:find "^%w[%w_.-]*%.%l+$" ~= nil
end

---@private
function Dashboard:_first()
  return self._opts.others and "index.html" or "dashboard.html"
end

-- The body and type of a file, or of what pages ask for to begin with; nil: there is none.
---@private
function Dashboard:_content(server, name, authority)
  if name == "config.json" then
    return codec.json.pack { url = ("https://%s%s"):format(authority, server._options.webtransport.path),
      serverCertificateHashes = codec.array(hashes_of(server)) }, "application/json"
  elseif not self:_has(name) then
    return nil
  end
  local file = io.open(self._files .. "/" .. name, "rb")
  if not file then
    return nil
  end
  local text = file:read "a"
  file:close()
  return text, mime.by_name(name)
end

-- Where a page that came over HTTP/1.1 finds the server.
local function authority_of(server)
  local ip, port = address.parse("dashboard", server.address)
  if ip == "0.0.0.0" then
    ip = "127.0.0.1"
  elseif ip == "::" then
    ip = "::1"
  end
  return address.join(ip, port)
end

local HEADERS <const> = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: " .. POLICY .. "\r\n"

-- A page elsewhere whose name was made to mean this machine shall not read this one (DNS rebinding).
---@private
function Dashboard:_plain(server, path, host)
  if self._local_only and not is_loopback(host) then
    return 403, "this page is for localhost\n"
  elseif server.state ~= "running" and server.state ~= "starting" then
    return 404, "the server is not running\n"
  end
  local body, kind = self:_content(server, path == "/" and self:_first() or path:sub(2), authority_of(server))
  if not body then
    return 404, "there is only /\n"
  end
  return 200, body, kind, HEADERS
end

---@private
function Dashboard:_serve(server, request, response)
  if not self._opts.token and not is_loopback(request.peer_addr) then
    return http_errors.respond(response, errors.new("permission_denied", "the dashboard is for this machine only: it has no token"))
  end
  local name = request.params.file
  local body, kind = self:_content(server, name == "" and self:_first() or name, request.authority)
  if not body then
    return http_errors.respond(response, errors.new("not_found", "there is only " .. self._opts.path .. "/"))
  end
  response.headers:set("cache-control", "no-store"):set("x-content-type-options", "nosniff")
  response.headers:set("content-security-policy", POLICY):set("content-type", kind)
  response.body = body
end

-- Installing --------------------------------------------------------------------------------------------------

--- Serves the page no longer over HTTP/1.1. Harmless twice; a server that stops does it by itself.
function Dashboard:close()
  local endpoint = self._endpoint
  if endpoint then
    self._endpoint = nil
    endpoint:close()
  end
end

local function add_origins(server, endpoint)
  local origins = server._options.webtransport.origins
  local _, port = address.parse("dashboard", endpoint.address)
  for _, host in ipairs { "127.0.0.1", "localhost", "[::1]" } do
    origins[#origins + 1] = ("http://%s:%d"):format(host, port)
  end
  if not is_loopback(endpoint.address) then
    origins[#origins + 1] = "http://" .. endpoint.address
  end
end

local function listen(self, server)
  local bind = self._opts.bind
  if bind == false or server._rec.sim then
    return true
  end
  local ip, port = plain.place("server:dashboard", bind or "127.0.0.1:9465", 4)
  self._local_only = is_loopback(ip)
  if not self._local_only and not self._opts.token then
    error('server:dashboard: option "bind": an address that others reach wants a "token"', options.users_level(2))
  end
  local endpoint, err = plain.listen(ip, port, self._opts.timeout, function(path, host)
    return self:_plain(server, path, host)
  end)
  if not endpoint then
    return nil, err
  end
  self._endpoint, self.address, self.url = endpoint, endpoint.address, ("http://%s/"):format(endpoint.address)
  add_origins(server, endpoint)
  return true
end

local function made(server, opts)
  local self = setmetatable({ address = nil, url = nil, _opts = opts, _files = opts.files or find_files(), _endpoint = nil, _last = nil,
    _local_only = true }, Dashboard)
  if not self._files or not exists(self._files .. "/dashboard.html") then
    return nil, errors.new("io", "the dashboard's page is not here: the option files says where (examples/browser of the sources)")
  end
  server._options.webtransport = server._options.webtransport or webtransport.check_server("server:dashboard", true)
  local ok, err = listen(self, server)
  if not ok then
    return nil, err
  end
  server._dashboard = self
  return self
end

--- The body of `server:dashboard`. `host` may be a stand-in that gathers what a file registers.
---@param host echostream.server
---@param given? echostream.options.dashboard
---@return echostream.dashboard|nil dashboard, echostream.error? err
---@package
function M.install(host, given)
  local opts = options.check("server:dashboard", given, schema)
  if opts.path:sub(1, 1) ~= "/" or opts.path:sub(-1) == "/" then
    error(('server:dashboard: option "path" wants a path such as "/dashboard", got %s'):format(errors.show(opts.path)), options.users_level(2))
  elseif opts.bind == true then
    error('server:dashboard: option "bind" wants an address, or false', options.users_level(2))
  end
  local server = host.context._host[1]
  local self = server._dashboard
  if not self then
    local err
    if server.state ~= "new" then
      error(("server:dashboard: this server is %s already"):format(server.state), options.users_level(2))
    end
    self, err = made(server, opts)
    if not self then
      return nil, err
    end
  end
  host:add_rpc("dashboard.watch", function(session, stream)
    return self:_watch(server, session, stream)
  end, { stream = "out", doc = "What the server counts, again and again: what the dashboard shows." })
  host:route("GET", opts.path, function(_, response)
    response:redirect(opts.path .. "/", 308)
  end)
  host:route("GET", opts.path .. "/*file", function(request, response)
    self:_serve(server, request, response)
  end)
  host:on_stop(function()
    self:close()
  end)
  return self
end

return M
