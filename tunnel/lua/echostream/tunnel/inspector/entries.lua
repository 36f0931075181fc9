--- What the inspector keeps of exchanges: a ring of the last ones, and what of each is shown.

local core = require "echostream.core"
local text_of = require "echostream.metrics.text"

local M = {}

-- Fields of a head that are kept, and bytes of each.
local MAX_FIELDS <const>, MAX_VALUE <const> = 100, 2048

local SECRET <const> = { authorization = true, cookie = true, ["set-cookie"] = true, ["proxy-authorization"] = true, ["x-api-key"] = true }

-- What of a record stands in the list, and the bytes of its texts.
local SUMMARY <const> = { id = 128, trace_id = 64, kind = 16, protocol = 16, listener = 64, peer_ip = 64, client_ip = 64, host = 256, method = 32,
  path = 1024, query = 1024, sni = 256, user = 128, rule = 128, group = 128, service = 128, agent = 128, cause = 32, reason = 512, limit = 64 }
local NUMBERS <const> = { "status", "bytes_in", "bytes_out", "to_headers", "duration", "attempts", "port", "at" }

local function fields_of(head, secrets)
  local out = core.array {}
  if not head then
    return out
  end
  for name, value in head:each() do
    if #out >= MAX_FIELDS then
      out[#out + 1] = core.array { "…", "more fields" }
      break
    end
    local hidden = not secrets and SECRET[name:lower()]
    out[#out + 1] = core.array { text_of.utf8(name, 256), hidden and ("(%d bytes, hidden)"):format(#value) or text_of.utf8(value, MAX_VALUE) }
  end
  return out
end

-- A body as the page shows it: text, or where it is none, its bytes.
local function shown(bytes)
  if not bytes or bytes == "" then
    return nil
  end
  local cut = bytes:gsub("[\192-\255]?[\128-\191]*$", "") -- a character that was cut in the middle
  if utf8.len(bytes) and not bytes:find "[\0-\8\14-\31]" then
    return { text = bytes }
  elseif #bytes - #cut < 4 and utf8.len(cut) and not cut:find "[\0-\8\14-\31]" then
    return { text = cut }
  end
  return { hex = (bytes:gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end)) }
end

---@class echostream.tunnel.inspector.ring
---@field secrets boolean
---@field package _keep integer
---@field package _by table<integer, table>
---@field package _last integer
local Ring = {}
Ring.__index = Ring
Ring.__name = "echostream.tunnel.inspector.ring"

--- Keeps a record; the oldest goes when there are too many. What the page shows of it is made when somebody looks.
---@param record table
---@param bodies? { request?: string, response?: string, request_whole?: boolean }
---@param head? echostream.tunnel.head  nobody else's
---@return table entry
---@package
function Ring:add(record, bodies, head)
  local entry = { number = self._last + 1, head = head or record.request and record.request:copy() or nil, _record = record }
  if bodies and self._bodies > 0 then
    entry.bodies = { request = bodies.request and bodies.request:sub(1, self._bodies), response = bodies.response
      and bodies.response:sub(1, self._bodies), request_whole = bodies.request_whole == true and #(bodies.request or "") <= self._bodies }
  end
  self._last = entry.number
  self._by[entry.number] = entry
  self._by[entry.number - self._keep] = nil
  return entry
end

-- Makes what is shown of an entry, once.
local function fill(self, entry)
  local record = entry._record
  if not record then
    return entry
  end
  entry._record = nil
  for name, most in pairs(SUMMARY) do
    local value = record[name]
    if value ~= nil then
      entry[name] = text_of.utf8(value, most)
    end
  end
  for _, name in ipairs(NUMBERS) do
    entry[name] = record[name] or nil
  end
  local note = type(record.backend) == "table" and record.backend
  if note then
    entry.backend = { backend = note.backend and text_of.utf8(note.backend, 256), connect_time = tonumber(note.connect_time),
      reused = note.reused == true, attempt = tonumber(note.attempt) }
  end
  entry.request_fields = fields_of(entry.head, self.secrets)
  entry.response_fields = fields_of(record.response, self.secrets)
  return entry
end

--- One that is still kept.
---@param number integer?
---@return table?
---@package
function Ring:get(number)
  local entry = number and self._by[number]
  return entry and fill(self, entry) or nil
end

--- All that are kept, the newest first.
---@return fun(): table?
---@package
function Ring:each()
  local number = self._last + 1
  return function()
    number = number - 1
    return self:get(number)
  end
end

--- An empty ring.
---@param keep integer
---@param secrets boolean
---@param bodies integer
---@return echostream.tunnel.inspector.ring
---@package
function M.ring(keep, secrets, bodies)
  return setmetatable({ secrets = secrets, _keep = keep, _bodies = bodies, _by = {}, _last = 0 }, Ring)
end

--- What the list shows of an entry.
---@param entry table
---@return table
---@package
function M.summary(entry)
  local out = core.map { number = entry.number }
  for name in pairs(SUMMARY) do
    out[name] = entry[name]
  end
  for _, name in ipairs(NUMBERS) do
    out[name] = entry[name]
  end
  return out
end

--- Everything about an entry.
---@param entry table
---@param _ boolean
---@param obstacle? string  why it cannot be sent again
---@return table
---@package
function M.detail(entry, _, obstacle)
  local out = M.summary(entry)
  out.request_fields, out.response_fields, out.backend, out.obstacle = entry.request_fields, entry.response_fields, entry.backend, obstacle
  if entry.bodies then
    out.request_body, out.response_body = shown(entry.bodies.request), shown(entry.bodies.response)
  end
  return out
end

--- What came of one that was sent again.
---@param answer table
---@param secrets boolean
---@return table
---@package
function M.answer(answer, secrets)
  local fields = core.array {}
  for i, field in ipairs(answer.headers or {}) do
    local hidden = not secrets and SECRET[field[1]:lower()]
    fields[i] = core.array { text_of.utf8(field[1], 256), hidden and ("(%d bytes, hidden)"):format(#field[2]) or text_of.utf8(field[2], MAX_VALUE) }
  end
  return { status = answer.status, seconds = answer.seconds, response_fields = fields, bytes_out = #(answer.body or ""),
    response_body = shown((answer.body or ""):sub(1, 65536)) }
end

return M
