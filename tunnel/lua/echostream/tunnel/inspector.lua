--- The inspector: a page for this machine only that shows the last requests of a tunnel's server as they come, with their heads, times and
--- sizes, can look for some of them, and sends one again. Nothing of it comes from elsewhere, and nothing that visitors send is markup there.

local address = require "echostream.address"
local core = require "echostream.core"
local errors = require "echostream.errors"
local entries = require "echostream.tunnel.inspector.entries"
local log = require "echostream.log"
local options = require "echostream.options"
local page = require "echostream.tunnel.inspector.page"
local plain = require "echostream.http.plain"
local task = require "echostream.task"

local M = {}

---@class echostream.tunnel.options.inspector
---@field bind? string   where the page is, on the loopback interface (default: "127.0.0.1:9466")
---@field keep? integer  exchanges that are kept (default: 200)
---@field bodies? integer  bytes of each body that are kept, up to 64 KiB; a request can be sent again only when its whole body was (default: 0)
---@field secrets? boolean  shows fields such as cookies and authorization as they are, not as their lengths (default: false)
---@field timeout? number  seconds for a request of the page, and for one that is sent again (default: 30)

M.schema = {
  bind = { type = "string", default = "127.0.0.1:9466" },
  keep = { type = "integer", min = 1, max = 10000, default = 200 },
  bodies = { type = "integer", min = 0, max = 65536, default = 0 },
  secrets = { type = "boolean", default = false },
  timeout = { type = "seconds", min = 0.001, max = 3600, default = 30 },
}

local POLICY <const> = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
  .. "frame-ancestors 'none'"
local HEADERS <const> = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
  .. "Content-Security-Policy: " .. POLICY .. "\r\n"
local JSON <const> = "application/json"
local IDEMPOTENT <const> = { GET = true, HEAD = true, OPTIONS = true, PUT = true, DELETE = true, TRACE = true }
-- A POST of the page: what it says fits easily.
local MAX_POST <const> = 4096

---@class echostream.tunnel.inspector
---@field address string   with the real port
---@field url string
---@field bodies integer   bytes of each body that are wanted
---@field package _ring echostream.tunnel.inspector.ring
---@field package _watchers table<table, true>
---@field package _replay? fun(entry: table, timeout: number): table?, echostream.error?
local Inspector = {}
Inspector.__index = Inspector
Inspector.__name = "echostream.tunnel.inspector"

local function is_loopback(host)
  local ip = host:match "^%[(.*)%]:%d+$" or host:match "^%[(.*)%]$" or host:match "^([^:]*):%d+$" or host
  return ip == "::1" or ip == "localhost" or ip:find "^127%.%d+%.%d+%.%d+$" ~= nil
end

local function json(value)
  return core.codec.json.pack(value)
end

local function says(status, text)
  return status, json { error = text }, JSON, HEADERS
end

--- Takes the record of an exchange. What goes wrong with it is logged and harms nobody.
---@param record table
---@param bodies? { request?: string, response?: string, request_whole?: boolean }  what was kept of them
---@param head? echostream.tunnel.head  of the request as it came (default: the record's, which may have been rewritten)
function Inspector:record(record, bodies, head)
  local ok, entry = pcall(self._ring.add, self._ring, record, bodies, head)
  if not ok then
    return log.write("error", "tunnel.inspector: " .. tostring(entry))
  elseif next(self._watchers) then
    local line = "data: " .. json(entries.summary(self._ring:get(entry.number))) .. "\n\n"
    for writer in pairs(self._watchers) do
      if not writer.send(line) then
        self._watchers[writer] = nil
      end
    end
  end
end

-- Events: what comes from now on. A comment now and then shows the page that we are there.
local function events(self)
  return 200, function(writer)
    self._watchers[writer] = true
    writer.send "retry: 1000\n: here\n\n"
    return function()
      self._watchers[writer] = nil
    end
  end, "text/event-stream", HEADERS
end

local function list(self)
  local out = core.array {}
  for entry in self._ring:each() do
    out[#out + 1] = entries.summary(entry)
  end
  return 200, json { exchanges = out, instance = self._instance, bodies = self.bodies, replay = self._replay ~= nil }, JSON, HEADERS
end

-- Why an exchange cannot be sent again, if it cannot.
local function obstacle(self, entry, confirmed)
  if not self._replay then
    return "nothing here can send it again"
  elseif not entry.head then
    return "its head was not kept: it never came whole"
  elseif entry.kind ~= "http" and entry.kind ~= "grpc" then
    return ("a %s is a conversation, and cannot be sent again"):format(tostring(entry.kind))
  elseif (entry.bytes_in or 0) > 0 and not (entry.bodies and entry.bodies.request_whole) then
    return "its body was not kept whole: the option bodies says how much of bodies is kept"
  elseif not IDEMPOTENT[entry.method] and not confirmed then
    return ("%s is not idempotent: confirm that it shall be done again"):format(tostring(entry.method)), true
  end
end

local function replay(self, number, request, reply)
  local entry = self._ring:get(number)
  local said = core.codec.json.unpack(request.body ~= "" and request.body or "{}")
  if not entry then
    return says(404, "it is not kept any more")
  elseif request.headers["x-echostream-inspector"] ~= "1" or request.headers["content-type"] ~= JSON then
    return says(403, "only the page itself may ask for that")
  end
  local problem, confirm = obstacle(self, entry, type(said) == "table" and said.confirm == true)
  if problem then
    return 409, json { error = problem, confirm = confirm or nil }, JSON, HEADERS
  end
  task.spawn(function()
    local ok, answer, err = pcall(self._replay, entry, self._timeout)
    if not ok or not answer then
      local why = ok and (errors.is_error(err) and err.message or tostring(err)) or tostring(answer)
      return reply(says(502, why))
    end
    reply(200, json(entries.answer(answer, self._ring.secrets)), JSON, HEADERS)
  end)
end

local files = {
  ["/"] = { "html", "text/html; charset=utf-8" },
  ["/inspector.js"] = { "js", "text/javascript; charset=utf-8" },
  ["/inspector.css"] = { "css", "text/css; charset=utf-8" },
}

-- A page elsewhere whose name was made to mean this machine shall not read this one (DNS rebinding), and none may ask from there.
local function handle(self, path, host, request, reply)
  local origin = request.headers.origin
  if not is_loopback(host) or origin and origin ~= "http://" .. host then
    return says(403, "this page is for localhost")
  elseif request.method == "POST" then
    local number = path:match "^/api/exchanges/(%d+)/replay$"
    if not number then
      return says(405, "GET")
    end
    return replay(self, math.tointeger(tonumber(number)), request, reply)
  elseif files[path] then
    return 200, page[files[path][1]], files[path][2], HEADERS
  elseif path == "/api/exchanges" then
    return list(self)
  elseif path == "/api/events" then
    return events(self)
  end
  local number = path:match "^/api/exchanges/(%d+)$"
  local entry = number and self._ring:get(math.tointeger(tonumber(number)))
  if not entry then
    return says(404, "there is no such thing")
  end
  local problem, confirm = obstacle(self, entry, false)
  return 200, json(entries.detail(entry, self._ring.secrets, problem and not confirm and problem or nil)), JSON, HEADERS
end

--- Takes what passes through the plugin of a server: heads as they come, bodies as far as they are wanted, and what came of it.
---@param plugin echostream.tunnel.server
function Inspector:watch(plugin)
  local tap = require "echostream.tunnel.inspector.tap"
  local under_way = setmetatable({}, { __mode = "k" }) -- by record
  plugin:tap(function(exchange, head, record, fin)
    if not self._endpoint then
      return nil
    end
    local kept, tapped = { head = head:copy() }, nil
    if self.bodies > 0 then
      tapped, kept.bodies = tap.exchange(exchange, self.bodies, fin)
    end
    under_way[record] = kept
    return tapped
  end)
  plugin:on("exchange", function(record)
    if self._endpoint then
      local kept = under_way[record]
      under_way[record] = nil
      self:record(record, kept and kept.bodies and kept.bodies(), kept and kept.head)
    end
  end)
end

--- Serves the page no longer. Harmless twice.
function Inspector:close()
  if self._endpoint then
    self._endpoint.close()
    self._endpoint, self._watchers = nil, {}
  end
end

---@package
-- Its options and where it is to listen. Raises what is wrong with them.
function M.judge(opts)
  local checked = options.check("tunnel.inspector", opts, M.schema)
  local ip, port = plain.place("tunnel.inspector", checked.bind, 2)
  if not is_loopback(ip) then
    error(('tunnel.inspector: option "bind" wants an address of the loopback interface, got %s'):format(errors.show(checked.bind)), 2)
  end
  return checked, ip, port
end

--- Opens the page. Give its `record` what the plugin of a server tells. `again(entry, timeout)` sends a kept request again, in a task:
--- `entry.head` is a copy of its head, `entry.bodies.request` its body; it gives `{ status, headers = { { name, value }, … }, body, seconds }`,
--- or nil and an error.
---@param opts? echostream.tunnel.options.inspector
---@param again? fun(entry: table, timeout: number): table?, echostream.error?
---@return echostream.tunnel.inspector|nil inspector, echostream.error? err  `io`: the address is in use
function M.new(opts, again)
  local checked, ip, port = M.judge(opts)
  local self = setmetatable({ address = "", url = "", bodies = checked.bodies, _ring = entries.ring(checked.keep, checked.secrets, checked.bodies),
    _watchers = {}, _replay = again, _instance = core.random(8):gsub(".", function(c)
      return ("%02x"):format(c:byte())
    end), _endpoint = nil, _timeout = checked.timeout }, Inspector)
  local endpoint, err = plain.listen(ip, port, checked.timeout, function(...)
    return handle(self, ...)
  end, MAX_POST)
  if not endpoint then
    return nil, err
  end
  self._endpoint, self.address = endpoint, endpoint.address
  local _, real = address.parse("tunnel.inspector", endpoint.address)
  self.url = ("http://%s/"):format(address.join(ip, real))
  return self
end

return M
