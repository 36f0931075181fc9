-- As little of a proxy as there can be: a listener for visitors, a new connection to the backend for each request. For specs of the codecs
-- over real sockets, without sessions between.

local core = require "echostream.tunnel.core"
local echo = require "echostream"
local engines = require "echostream.tunnel.engine"
local exchanges = require "echostream.tunnel.exchange"
local task = require "echostream.task"

local M = {}

local T <const> = 60 -- seconds that nothing here needs

local function connect(engine, port, codec)
  return task.await(function(resume)
    local c, err = engine:dial { ip = "127.0.0.1", port = port, codec = codec,
      on_open = function(c) resume(c) end, on_closed = function(_, why) resume(nil, why) end }
    if not c then resume(nil, err) end
  end, T)
end

local function pass(from, to)
  while true do
    local message, over = from:take()
    if not message then return nil, over end
    local ok, err = to:put(message)
    if not ok then return nil, err end
    if over == true then return true end
  end
end

local function serve(engine, port, x, head, fin)
  local c, err = connect(engine, port, "http/1.1")
  local out
  if c then out, err = exchanges.request(c, head, fin) end
  if not out then
    x:send_head(assert(core.head("response", { status = 502, { "x-why", tostring(err) } })), true)
    return
  end
  x:on_abort(function() c:close() end)
  local up = not fin and echo.spawn(pass, x, out)
  while true do
    local answer, last = out:head(T)
    if not answer then
      x:send_head(assert(core.head("response", { status = 502, { "x-why", tostring(last) } })), true)
      break
    end
    if not x:send_head(answer, last) then break end
    if answer.status >= 200 then
      if not last and not pass(out, x) then x:reset "truncated" end
      break
    end
  end
  if up then up:wait(T) end
  c:close()
end

--- → { port, engine, refused = list of statuses, close }
---@param port integer      of the backend
---@param options? table    more of `engine:listen`
function M.start(port, options)
  local relay = { engine = engines.new(), refused = {} }
  local listen = { ip = "127.0.0.1", kind = "http", on_refused = function(_, status) table.insert(relay.refused, status) end,
    on_exchange = function(x, head, fin) echo.spawn(serve, relay.engine, port, exchanges.new(x, fin), head, fin) end }
  for name, value in pairs(options or {}) do listen[name] = value end
  relay.listener = assert(relay.engine:listen(listen))
  relay.port = tonumber(relay.listener:address():match ":(%d+)$")
  relay.close = function() relay.engine:close() end
  return relay
end

return M
