--- Large data in parallel: it is split over several streams, of one connection or of several, and put together on the other side.
---
---     echo.split.receive(server, "upload", function(session, data) return #data end)
---     print(echo.split.send(client, "upload", data, { streams = 8 }))
---     print(echo.split.send({ client, another }, "upload", data))     -- over two connections
---
--- A part that waits for lost packets holds up no other, and several connections have more of a crowded path than one.

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"

local M = {}

-- Bytes of one message: small enough for every peer, large enough that it costs nothing.
local PIECE = 64 * 1024

local send_schema = {
  streams = { type = "integer", min = 1, max = 64, default = 4 },
  timeout = { type = "seconds", default = 60 },
  priority = { type = "integer", min = 0, max = 7 },
}

local receive_schema = {
  max = { type = "integer", min = 1, default = 64 << 20 },
  transfers = { type = "integer", min = 1, default = 16 },
  timeout = { type = "seconds", min = 0.001, default = 60 },
}

-- Receiving ---------------------------------------------------------------------------------------------------

local function check_part(opts, id, part, parts, size)
  if type(id) ~= "string" or #id ~= 16 or math.type(part) ~= "integer" or math.type(parts) ~= "integer" or math.type(size) ~= "integer"
    or parts < 1 or parts > 64 or part < 1 or part > parts or size < 0 then
    return nil, errors.new("invalid_argument", "that is no part of split data")
  elseif size > opts.max then
    return nil, errors.new("resource_exhausted", ("%d bytes are too many: the limit is %d"):format(size, opts.max))
  end
  return true
end

local function forget(state, id, transfer)
  if state.transfers[id] == transfer then
    transfer.timer:stop()
    state.transfers[id], state.count = nil, state.count - 1
  end
end

-- The transfer that a part belongs to. One whose other parts never come is forgotten.
local function transfer_of(state, id, parts, size)
  local transfer = state.transfers[id]
  if not transfer then
    if state.count >= state.opts.transfers then
      return nil, errors.new("resource_exhausted", ("%d transfers are under way already"):format(state.count))
    end
    transfer = { parts = parts, size = size, got = 0, done = 0, pieces = {}, timer = nil }
    state.transfers[id], state.count = transfer, state.count + 1
    transfer.timer = loop.current().core:timer(2 * state.opts.timeout, function()
      forget(state, id, transfer)
    end)
  elseif transfer.parts ~= parts or transfer.size ~= size then
    return nil, errors.new("invalid_argument", "the parts do not belong together")
  end
  return transfer
end

local function read_part(transfer, stream)
  local pieces = {}
  for piece in stream:values() do
    if type(piece) ~= "string" then
      return nil, errors.new("invalid_argument", "a piece of split data is a string of bytes")
    end
    transfer.got = transfer.got + #piece
    if transfer.got > transfer.size then
      return nil, errors.new("invalid_argument", "more came than was announced")
    end
    pieces[#pieces + 1] = piece
  end
  if stream.error then
    return nil, stream.error
  end
  return table.concat(pieces)
end

local function receive(state, peer, stream, id, part, parts, size)
  local ok, err = check_part(state.opts, id, part, parts, size)
  local transfer
  if ok then
    transfer, err = transfer_of(state, id, parts, size)
  end
  if not transfer then
    return nil, err
  elseif transfer.pieces[part] ~= nil then
    return nil, errors.new("already_exists", "that part came before")
  end
  transfer.pieces[part] = false
  local bytes
  bytes, err = read_part(transfer, stream)
  if not bytes then
    forget(state, id, transfer) -- nobody can finish it any more
    return nil, err
  end
  transfer.pieces[part], transfer.done = bytes, transfer.done + 1
  if transfer.done < parts then
    return false
  end
  forget(state, id, transfer)
  if transfer.got ~= size then
    return nil, errors.new("data_loss", ("%d of %d bytes came"):format(transfer.got, size))
  end
  return true, state.fn(peer, table.concat(transfer.pieces))
end

--- Takes data that `send` sends: `fn(session, data)` gets it whole, and what it returns is what `send` returns. A streaming method of
--- that name is registered.
---@param host echostream.server|echostream.client
---@param name string
---@param fn fun(session: echostream.session, data: string): any ...
---@param opts? { max?: integer, transfers?: integer, timeout?: number }  `max`: bytes of one (64 MiB); `transfers`: of them under way
--- at once (16); `timeout`: seconds for one part (60); all may take twice as long
function M.receive(host, name, fn, opts)
  if type(host) ~= "table" or type(host.add_rpc) ~= "function" then
    error("split.receive: wants a server or a client, got " .. errors.show(host), 2)
  end
  options.argument("split.receive", "name", name, "string")
  options.argument("split.receive", "function", fn, "function")
  local state = { opts = options.check("split.receive", opts, receive_schema), fn = fn, transfers = {}, count = 0 }
  host:on_stop(function() -- other parts come no more, and nothing of this may keep the loop alive
    for id, transfer in pairs(state.transfers) do
      forget(state, id, transfer)
    end
  end)
  host:add_rpc(name, function(peer, stream, ...)
    return receive(state, peer, stream, ...)
  end, { stream = "in", timeout = state.opts.timeout })
end

-- Sending -----------------------------------------------------------------------------------------------------

local function send_part(who, name, opts, data, from, to, ...)
  local stream, err = who:with({ timeout = opts.timeout, priority = opts.priority }):stream(name, ...)
  if not stream then
    return nil, err
  end
  for at = from, to, PIECE do
    local ok = stream:send(data:sub(at, math.min(at + PIECE - 1, to)))
    if not ok then
      break -- the result says why
    end
  end
  stream:finish()
  return stream:result()
end

local function send(whom, name, data, opts)
  local parts = math.max(math.min(opts.streams, math.ceil(#data / PIECE)), 1)
  local size, id = math.ceil(#data / parts), core.random(16)
  local tasks, results, left, err, raised = {}, nil, parts, nil, nil
  local ok, gave_up = task.await(function(resume)
    for part = 1, parts do
      local who = whom[(part - 1) % #whom + 1]
      tasks[part] = task.spawn(function()
        local from = (part - 1) * size + 1
        local fine, got = pcall(function()
          return table.pack(send_part(who, name, opts, data, from, math.min(from + size - 1, #data), id, part, parts, #data))
        end)
        left = left - 1
        if not fine then
          raised = raised or { got } -- misuse: the caller's
        elseif got[1] == nil then
          err = err or got[2] or errors.new("internal", "a part failed")
        elseif got[1] == true then
          results = got
        end
        if err or raised or left == 0 then
          resume(true)
        end
      end)
    end
  end)
  if err or raised or not ok then
    for _, one in ipairs(tasks) do
      one:cancel()
    end
    if raised then
      error(raised[1], 0)
    end
    return nil, err or gave_up
  elseif not results then
    return nil, errors.new("protocol", "the other side did not put the parts together")
  elseif results.n == 1 then
    return true
  end
  return table.unpack(results, 2, results.n)
end

--- Sends data over several streams at once to where `receive` waits for it.
---@param whom echostream.client|echostream.session|table[]  or a list of them, sessions of the same peer, which get the parts in turn
---@param name string
---@param data string
---@param opts? { streams?: integer, timeout?: number, priority?: integer }  `streams`: 4; fewer when the data is small. `timeout`: 60
---@param callback? function  instead of waiting
---@return any ...  what the receiver's function returned, or nil, err
function M.send(whom, name, data, opts, callback)
  if type(opts) == "function" then
    opts, callback = nil, opts
  end
  local list = type(whom) == "table" and type(whom.with) ~= "function" and whom or { whom }
  for i = 1, math.max(rawlen(list), 1) do
    if type(list[i]) ~= "table" or type(list[i].with) ~= "function" then
      error("split.send: wants a client, a session or a list of them, got " .. errors.show(list[i]), 2)
    end
  end
  options.argument("split.send", "name", name, "string")
  options.argument("split.send", "data", data, "string")
  opts = options.check("split.send", opts, send_schema)
  return task.wait_or_call_back("split.send", callback, send, list, name, data, opts)
end

return M
