--- Server-sent events (text/event-stream; the HTML standard, section 9.2).

local codec = require "echostream.codec"
local errors = require "echostream.errors"

local M = {}

M.content_type = "text/event-stream"

local function fail(what, value)
  error(("http.sse: %s cannot be the %s of an event"):format(errors.show(value), what), 3)
end

-- One field line per line of text: a line break inside would end the field, or forge another.
local function lines(name, text)
  local out = {}
  for line in (text:gsub("\r\n?", "\n") .. "\n"):gmatch "([^\n]*)\n" do
    out[#out + 1] = name .. ": " .. line .. "\n"
  end
  return table.concat(out)
end

---@class echostream.http.sse.event
---@field data? any     a string as it is, line by line; anything else as JSON. Without data browsers drop the event, but keep `id`
---@field event? string its name; default "message"
---@field id? string    what the browser gives back as `Last-Event-ID` when it connects again
---@field retry? number seconds that the browser waits before that
---@field comment? string  seen by nobody

--- Writes an event. Raises when a name or id has line breaks, when text is not UTF-8, and when data cannot be written as JSON.
---@param event echostream.http.sse.event|string  a string is the data
---@return string
function M.encode(event)
  if type(event) == "string" then
    event = { data = event }
  end
  local out = {}
  if event.comment then
    out[#out + 1] = M.comment(event.comment):sub(1, -2)
  end
  if event.event ~= nil then
    if type(event.event) ~= "string" or event.event:find "[\r\n]" or not utf8.len(event.event) then
      fail("name", event.event)
    end
    out[#out + 1] = "event: " .. event.event .. "\n"
  end
  if event.id ~= nil then
    local id = tostring(event.id)
    if id:find "[\0\r\n]" or not utf8.len(id) then
      fail("id", event.id)
    end
    out[#out + 1] = "id: " .. id .. "\n"
  end
  if event.retry ~= nil then
    if type(event.retry) ~= "number" or not (event.retry >= 0 and event.retry < 1e9) then
      fail("retry", event.retry)
    end
    out[#out + 1] = ("retry: %d\n"):format(math.tointeger(event.retry * 1000 // 1))
  end
  if event.data ~= nil then
    local data = event.data
    if type(data) ~= "string" then
      local text, err = codec.json.pack(data)
      if not text then
        error("http.sse: " .. tostring(err), 2)
      end
      data = text
    elseif not utf8.len(data) then
      error("http.sse: data that is not UTF-8 cannot be sent as an event", 2)
    end
    out[#out + 1] = lines("data", data)
  end
  out[#out + 1] = "\n"
  return table.concat(out)
end

--- Writes a comment: keeps a connection alive that proxies would close.
---@param text? string
---@return string
function M.comment(text)
  return lines("", text or "") .. "\n"
end

--- Makes a response a stream of events.
---@param response echostream.http.response
---@param next_event fun(): (echostream.http.sse.event|string|nil, any)  called when the reader can take more; may wait. nil ends the
--- stream; nil, err sends an event named "error" with {"error":{…}} first
---@param close? fun()  called once when the stream is over or given up
---@return echostream.http.response
function M.respond(response, next_event, close)
  response.status = 200
  response.headers:set("content-type", M.content_type):set("cache-control", "no-store")
  local over = false
  local function finish()
    if not over then
      over = true
      if close then
        close()
      end
    end
  end
  response.body = setmetatable({ close = finish }, {
    __name = "echostream.http.body",
    __call = function()
      if over then
        return nil
      end
      local event, err = next_event()
      if event ~= nil then
        return M.encode(event)
      end
      finish()
      if err ~= nil then
        return M.encode { event = "error", data = require("echostream.http.errors").body(errors.from(err)) }
      end
    end,
  })
  return response
end

--- The id of the last event that a browser has seen before it connected again.
---@param request echostream.http.request
---@return string?
function M.last_event_id(request)
  local id = request.headers:get "last-event-id"
  return id ~= "" and id or nil
end

return M
