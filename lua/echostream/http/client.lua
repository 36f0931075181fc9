--- HTTP/3 clients: requests to any server of HTTP/3, over connections that are kept and shared.
---
---     local response = assert(echo.http.request("https://127.0.0.1:5000/users?page=2", { pin = "sha256:…" }))
---     print(response.status, response.headers:get "content-type", response:body())

local connection = require "echostream.http.client.connection"
local errors = require "echostream.errors"
local exchange = require "echostream.http.client.exchange"
local fields = require "echostream.http.fields"
local loop = require "echostream.loop"
local options = require "echostream.options"
local prepare = require "echostream.http.client.prepare"
local redirect = require "echostream.http.client.redirect"
local responses = require "echostream.http.client.response"
local task = require "echostream.task"

local M = {}

-- How often a request is sent, at most, when servers say that they did nothing with it, or connections are found dead.
local MOST_SENT = 4

-- Sending -----------------------------------------------------------------------------------------------------

---@class echostream.http.client
local Client = {}
Client.__index = Client
Client.__name = "echostream.http.client"

local idempotent = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true, DELETE = true }

-- The connection for an origin: the one that is there, or a new one.
local function connection_to(self, url, settings)
  local key = url.origin .. " " .. settings.id
  local there = self._connections[key]
  if there and there:usable() then
    return there, false
  end
  local made
  made = connection.open(url, settings, function()
    if self._connections[key] == made then
      self._connections[key] = nil
    end
  end)
  self._connections[key] = made
  self._all[made] = true
  return made, true
end

-- Sends a request once. The exchange comes back when its head is there.
local function send_once(rec, shared, request, url, deadline, settled)
  local settings = request.settings
  local body = request.body
  local bare = (body == nil or body == "") and not request.trailers
  local under_way, err = shared:request({
    target = { method = request.method, scheme = "https", authority = request.authority or url.authority, path = url.target },
    fields = exchange.flatten(request.headers),
    fin = bare,
    settled = settled or not settings.early,
    wrap = function(x)
      return exchange.new(x, shared, rec, { idle_timeout = settings.idle_timeout, deadline = deadline, timeout = settings.timeout }, bare)
    end,
  }, deadline and math.max(deadline - rec.core:now(), 0))
  if not under_way then
    return nil, err
  end
  if request.priority then
    under_way:priority(request.priority)
  end
  if not bare then
    request.begun = type(body) ~= "string" and body ~= nil
    under_way:send(body or "", request.trailers, request.expect)
  end
  local status
  status, err = under_way:head(settings.head_timeout, request.on_informational and function(code, list)
    request.on_informational(code, responses.parse(list) or fields.new())
  end)
  if not status then
    under_way:close(err)
    return nil, err
  end
  return under_way, status
end

-- Whether a request that failed is sent again: nobody did anything with it, or a connection that was kept turned out to be dead and the
-- request may be repeated (RFC 9110, section 9.2.2).
local function may_go_again(err, request, fresh)
  if request.begun then
    return false -- its body has begun, and comes only once
  elseif err.processed == "no" then
    return err.unsent or err.details and err.details.unprocessed
  end
  return err.lost and not fresh and idempotent[request.method]
end

local function send(self, request, url, deadline)
  local rec, settled, sent, err = self._rec, false, 0, nil
  while sent < MOST_SENT do
    sent = sent + 1
    local shared, fresh = connection_to(self, url, request.settings)
    local under_way, status = send_once(rec, shared, request, url, deadline, settled)
    if under_way then
      if status == 425 and under_way:was_early() and not request.begun and sent < MOST_SENT then
        under_way:close() -- RFC 8470, section 5.2
        settled = true
      else
        return under_way, status
      end
    else
      err = status
      if not may_go_again(err, request, fresh) then
        return nil, err
      elseif shared:usable() then
        shared:drain()
      end
      if err.unsent and shared.requests > 0 then
        sent = sent - 1 -- it only stood in the queue of a connection that served others until the server had enough of it
      end
    end
  end
  return nil, err
end

local function too_late(err, deadline, rec, request)
  if err.code == "timeout" and deadline and rec.core:now() >= deadline then
    return errors.new("timeout", ("the request took longer than %g s"):format(request.settings.timeout))
  end
  return err
end

-- In a task: a request with its redirections.
local function run(self, request, url)
  local rec, settings = self._rec, request.settings
  local deadline = settings.timeout and rec.core:now() + settings.timeout
  local asked = {}
  while true do
    local under_way, status = send(self, request, url, deadline)
    if not under_way then
      return nil, too_late(status, deadline, rec, request)
    end
    local response, err = responses.new(under_way, status, {
      url = url.text, method = request.method, limit = settings.max_body, decode = settings.decode,
    })
    if not response then
      return nil, err
    end
    response.redirects = asked
    local target
    if settings.redirects > 0 then
      target, err = redirect.target(url, status, response.headers)
    end
    if target and #asked >= settings.redirects then
      err = errors.new("failed_precondition", ("more than %d redirections, the last to %s"):format(settings.redirects, target.text))
    elseif target then
      request, err = redirect.follow(request, status, url, target)
    end
    if err then
      response:close()
      return nil, err
    elseif not target then
      return response
    end
    response:close()
    asked[#asked + 1] = url.text
    url = target
  end
end

-- Public ------------------------------------------------------------------------------------------------------

--- Sends a request and waits for the head of its answer. Connections are kept and shared: requests to one origin travel together on one
--- connection, each on a stream of its own. Redirections are followed. What a server did nothing with is sent again, and so are methods that
--- may be repeated when a kept connection turns out to be dead. Who is cancelled, or drops the answer, cancels the request.
---@param url string  "https://host:port/path?query"
---@param opts? echostream.options.http_request
---@param callback? fun(response: echostream.http.answer?, err: echostream.error?)
---@return echostream.http.answer|nil response  whatever its status
---@return echostream.error? err  `timeout`, `unauthenticated` (not the server that it should be), `unavailable`, `connection_closed`,
--- `cancelled`, `resource_exhausted` (a head over the limits), `failed_precondition` (redirections) …; `err.processed` as everywhere
function Client:request(url, opts, callback)
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  local request, where_to = prepare.request(self, "http:request", url, opts, 2)
  if callback ~= nil then
    options.argument("http:request", "callback", callback, "function")
    return task.call_back(callback, run, self, request, where_to)
  end
  return task.block(run, self, request, where_to)
end

--- The connections that are there now: `origin state requests in_flight waiting peer_addr resumed early_data rtt`.
---@return table[]
function Client:connections()
  local list = {}
  for each in pairs(self._all) do
    if each.state ~= "closed" then
      list[#list + 1] = each:figures()
    end
  end
  table.sort(list, function(a, b)
    return a.origin < b.origin
  end)
  return list
end

--- Closes its connections; requests under way fail. It can be used again. Harmless twice.
---@return true
function Client:close()
  for each in pairs(self._all) do
    each:close()
  end
  return true
end

Client.__close = Client.close

--- Makes a client: options for all its requests, and connections of its own.
---@param opts? echostream.options.http_client
---@return echostream.http.client
function M.client(opts)
  local checked = options.check("echo.http.client", opts, prepare.schema)
  local headers = prepare.headers("echo.http.client", nil, checked.headers, 2)
  for name, value in pairs(prepare.defaults) do
    if checked[name] == nil then
      checked[name] = value
    end
  end
  return setmetatable({
    _options = checked, _settings = prepare.settings("echo.http.client", checked, 2), _headers = headers, _url_text = nil, _url = nil,
    _connections = {}, _all = setmetatable({}, { __mode = "k" }), _rec = loop.current(),
  }, Client)
end

-- One for each loop: a simulation has its own.
local shared_clients = setmetatable({}, { __mode = "k" })

local function shared_client()
  local rec = loop.current()
  local client = shared_clients[rec]
  if not client then
    client = M.client()
    shared_clients[rec] = client
  end
  return client
end

--- `request` of a client that everybody shares.
---@param url string  "https://host:port/path?query"
---@param opts? echostream.options.http_request
---@param callback? fun(response: echostream.http.answer?, err: echostream.error?)
---@return echostream.http.answer|nil response, echostream.error? err  as of `http:request`
function M.request(url, opts, callback)
  return shared_client():request(url, opts, callback)
end

--- Closes the connections that `echo.http.request` keeps. Harmless twice.
---@return true
function M.close()
  return shared_client():close()
end

return M
