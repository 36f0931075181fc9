--- The host of HTTP/3 requests: runs a handler in a task for each, and sends what it made.
---
--- Nobody requires this module but `server.lua`, and that only when something is to be served.

local core = require "echostream.core"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local http_errors = require "echostream.http.errors"
local log = require "echostream.log"
local requests = require "echostream.http.request"
local responses = require "echostream.http.response"
local tallies = require "echostream.http.tally"
local task = require "echostream.task"

local M = {}

-- What was raised that is no error object: for the log, never for the client.
local raised_mt = {}

local function traced(raised)
  if errors.is_error(raised) then
    return raised
  end
  return setmetatable({ message = errors.from(raised).message, traceback = debug.traceback(nil, 2) }, raised_mt)
end

-- Fields that describe a body, which is another one when an error takes its place.
local of_body = { "content-length", "content-encoding", "content-range", "etag", "last-modified", "cache-control", "accept-ranges" }

local function refuse(response, err)
  if not fields.is_fields(response.headers) then -- a handler put something else there
    response.headers = nil
  end
  local headers = response.headers
  for _, name in ipairs(of_body) do
    headers:remove(name)
  end
  response.trailers = nil
  http_errors.respond(response, err)
end

local function note(request, message, traceback)
  log.write("error", message, { traceback = traceback, method = ("%s %s"):format(request.method, request.path or request.authority) })
end

local function expects_more(x)
  local expected = x:header "expect"
  return expected and expected:lower() ~= "100-continue"
end

-- What is wrong with what a handler returned, if it is no string. 204 would tell the client that all is well.
local function returned_by_mistake(response, result, err)
  if result == nil and err ~= nil and not response._finished then
    return ("it returned nil and %s, which is no error object (echo.error makes one)"):format(errors.show(err))
  elseif response.begun or response._finished or response.body ~= nil or response.status ~= 200 then
    return nil
  elseif type(result) == "number" or (type(result) == "table" and getmetatable(result) == nil) then
    return ("it returned %s, which is no body: return a string, or say response:json(value); a status is set as response.status")
      :format(errors.show(result))
  end
end

local function answer(self, request, response)
  if expects_more(request._x) then -- RFC 9110, section 10.1.1
    local err = errors.new("failed_precondition", "nobody here can do what is expected")
    err.http_status = 417
    error(err, 0)
  end
  local result, err = self.registry.chain(request, response)
  if type(result) ~= "string" then
    if result == nil and errors.is_error(err) then
      error(err, 0)
    end
    local mistake = returned_by_mistake(response, result, err)
    if mistake then
      note(request, "the handler made no response: " .. mistake)
      error(errors.new("internal", "the handler failed"), 0)
    end
  elseif response.body == nil and not response.begun then
    response.body = result
  end
  local ok, problem = responses.complete(response)
  if not ok and not response.begun then
    if problem.code == "internal" or problem.code == "invalid_argument" then
      note(request, "the handler's response cannot be sent: " .. problem.message)
      problem = errors.new("internal", "the response cannot be sent")
    end
    error(problem, 0)
  end
end

local function failed(request, response, problem)
  if getmetatable(problem) == raised_mt then
    note(request, problem.message, problem.traceback)
    problem = errors.new("internal", "the handler failed")
  end
  if response.begun then
    responses.abort(response)
  else
    refuse(response, problem)
    responses.complete(response)
  end
end

-- Counts it, and tells who wants to know.
local function ended(self, request, response, began)
  local seconds, outcome = self.now() - began, tallies.outcome(request, response)
  tallies.note(self.registry.tally, request, outcome, seconds, response.bytes)
  for _, fn in ipairs(self.registry.ends) do
    fn(request, response, outcome, seconds)
  end
end

local function serve(self, x)
  local request = requests.new(self, x)
  if request then
    local began = self.now()
    local response = responses.new(request)
    local ok, problem = xpcall(answer, traced, self, request, response)
    if not ok then
      ok, problem = xpcall(failed, traced, request, response, problem)
    end
    if ok then
      ok, problem = xpcall(ended, traced, self, request, response, began)
    end
    if not ok then -- what fails here is ours, an observer's, or has no memory
      note(request, problem.message, problem.traceback)
    end
  end
  x:release()
end

---@class echostream.http.host
---@field core userdata      what an endpoint's `apps` take
---@field now fun(): number
---@field max_body integer
---@field alt_svc string?
---@field compress false|{ threshold: integer, level: integer }
---@field limits echostream.options.http
---@field registry table
local Host = {}
Host.__index = Host

local QUIET <const>, TRIPS <const> = 0.01, 3

--- The first step of a drain: says that no new requests should come, and takes those that are on their way nevertheless.
---@package
function Host:warn()
  self.core:goaway(false)
  self._warned = self.now()
end

--- The second: takes no more requests and waits until those that are there were answered, and their answers acknowledged. Then closes.
---@param grace number seconds
---@package
function Host:drain(grace)
  local core_host, deadline = self.core, self.now() + grace
  local connections, _, rtt = core_host:in_flight()
  if connections > 0 and grace > 0 then
    -- What was sent before the warning arrived needs a round trip; a little more for a peer that is busy.
    local wait = (self._warned or self.now()) + math.max(QUIET, TRIPS * rtt) - self.now()
    if wait > 0 then
      task.sleep(math.min(wait, grace))
    end
  end
  core_host:goaway(true)
  local function idle()
    return select(2, core_host:in_flight()) == 0 and self.registry.tally.running == 0
  end
  local left = deadline - self.now()
  if left > 0 and not idle() then
    task.await(function(resume)
      self._look = function()
        if idle() then
          resume(true)
        end
      end
      core_host:on_idle(self._look)
    end, left)
    core_host:on_idle(nil)
    self._look = nil
  end
  core_host:close "the server stopped"
end

--- Makes a host.
---@param rec table       the loop's record
---@param registry table  of face.lua: what is served
---@param opts table      checked: `echostream.options.http`
---@param sessions? table  of WebTransport: what `echostream.http.webtransport` says
---@return echostream.http.host
---@package
function M.new(rec, registry, opts, sessions)
  local ud = rec.core
  local self = setmetatable({ now = function() return ud:now() end, max_body = opts.max_body, alt_svc = opts.alt_svc,
    compress = opts.compress, limits = opts, registry = registry,
    core = nil, _look = nil, _warned = nil }, Host)
  self.core = core.h3_host(rec.core, function(x)
    registry.tally.running = registry.tally.running + 1
    serve(self, x)
    registry.tally.running = registry.tally.running - 1
    if self._look then
      self._look()
    end
  end, {
    max_header_bytes = opts.max_header_bytes, max_header_fields = opts.max_header_fields, max_target_bytes = opts.max_target_bytes,
    head_timeout = opts.head_timeout, body_timeout = opts.body_timeout, timeout = opts.timeout, connect = opts.connect,
  }, sessions)
  return self
end

return M
