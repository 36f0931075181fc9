--- Broadcasts: one event to many sessions, encoded once, and what happens to those who are too slow.

local core = require "echostream.core"
local loop = require "echostream.loop"
local middleware = require "echostream.middleware"
local options = require "echostream.options"
local outbox = require "echostream.session.outbox"
local task = require "echostream.task"

local M = {}

--- How long `policy = "wait"` waits, and how many events `"drop_oldest"` keeps for one session, unless they are told.
M.TIME, M.OUTBOX = 10, 64

---@class echostream.broadcast.options
---@field to? (fun(session: echostream.session): any)|echostream.session[]  who gets it (default: every open session)
---@field policy? "skip"|"wait"|"drop_oldest"|"disconnect"  for a session whose send queue (1 MiB) is full (default: "skip")
---@field timeout? number      "wait": seconds (default: 10)
---@field outbox? integer      "drop_oldest": how many events wait for one session (default: 64)
---@field lane? integer        0 to 7 (default: 0)
---@field unreliable? boolean  as a datagram (default: false)
---@field metadata? table<string, string>  what travels beside the arguments
---@field codec? string  as of calls (default: "msgpack")
M.schema = {
  to = { type = { "function", "table" } },
  policy = { type = "string", one_of = { "skip", "wait", "drop_oldest", "disconnect" }, default = "skip" },
  timeout = { type = "seconds", default = M.TIME },
  outbox = { type = "integer", min = 1, max = 1 << 20, default = M.OUTBOX },
  lane = { type = "integer", min = 0, max = 7 },
  unreliable = { type = "boolean" },
  metadata = { type = "table" },
  codec = { type = "string" },
}

-- What goes to one session: { peer, name, opts, encoded }.

local function attempt(item)
  return item.peer._ud:emit_encoded(item.name, item.opts, item.encoded)
end

local function collect(call, ...)
  local made_with, untouched = middleware.made_with(call)
  local item = made_with._item
  item.name = call.name
  if not untouched then -- a middleware looked at it, and may have changed it
    local opts = middleware.options_of(call)
    opts._item = nil
    item.opts, item.encoded = opts, core.encode(opts, ...)
  end
  return true
end

-- With middleware every receiver's event passes through it; the encoding is shared as long as nobody touches it.
local function through(chain, item, ...)
  local opts = { _item = item }
  for key, value in pairs(item.opts) do
    opts[key] = value
  end
  return chain(item.peer, "event", collect, item.name, opts, ...)
end

-- Policies: each returns whether the session will get it, and how many other events were dropped for it.
local policies = {}

function policies.skip()
  return false
end

function policies.disconnect(item)
  item.peer._ud:close(nil, "too slow: its send queue is full")
  return false
end

--- Leaves numbers out for events that were dropped, so that the other side can tell.
---@param peer echostream.session
---@param opts table  of the event
---@param n integer
function M.skip(peer, opts, n)
  if n > 0 then
    peer._ud:skip_events(not opts.unreliable and (opts.lane or 0) or nil, n)
  end
end

-- The events that wait for a session whose queue is full.
local function outbox_of(peer)
  if not peer._outbox then
    peer._outbox = outbox.new(attempt, function(fn)
      peer._ud:on_writable(fn)
    end, function()
      peer._outbox = nil
      if not peer._rec.stepping then
        loop.touch(peer._rec)
      end
    end)
  end
  return peer._outbox
end

function policies.drop_oldest(item, settings)
  return true, outbox.push(outbox_of(item.peer), item, #item.encoded, settings.outbox)
end

--- One event to one session that is too slow for it: it waits, and the oldest that wait are dropped when there are too many.
---@param peer echostream.session
---@param name string
---@param opts table    of the event; `outbox`: how many may wait
---@param ... any
---@return true|nil ok, echostream.error? err
function M.drop_oldest(peer, name, opts, ...)
  local item = { peer = peer, name = name, opts = opts, encoded = core.encode(opts, ...) }
  local err = "again"
  if not peer._outbox then -- else behind those that wait
    local ok
    ok, err = attempt(item)
    if not peer._rec.stepping then
      loop.touch(peer._rec)
    end
    if ok then
      return true
    end
  end
  if err ~= "again" then
    return nil, err
  end
  local dropped = outbox.push(outbox_of(peer), item, #item.encoded, opts.outbox or M.OUTBOX)
  peer._dropped = (peer._dropped or 0) + dropped
  M.skip(peer, opts, dropped)
  return true
end

local function deliver(item, deadline)
  while true do
    local left = deadline - loop.now()
    if left <= 0 then
      return false
    end
    local ok = task.await(function(resume)
      item.peer._ud:on_writable(function()
        resume(true)
      end)
    end, left)
    if not ok then
      return false
    end
    local sent, err = attempt(item)
    if err ~= "again" then
      return sent == true
    end
  end
end

-- Waits for all of them side by side. Returns how many took it.
local function wait_for_slow(slow, timeout)
  local deadline, reached, tasks = loop.now() + timeout, 0, {}
  for i, item in ipairs(slow) do
    tasks[i] = task.spawn(deliver, item, deadline)
  end
  for _, running in ipairs(tasks) do
    if running:wait() then
      reached = reached + 1
    end
  end
  return reached
end

-- Sending ------------------------------------------------------------------------------------------------------

local function receivers(context, to)
  if type(to) == "table" then
    return to
  end
  local chosen = {}
  for _, peer in ipairs(context:sessions()) do
    if peer.door ~= "h3" and (not to or to(peer)) then -- over HTTP nobody can be told anything
      chosen[#chosen + 1] = peer
    end
  end
  return chosen
end

local function send(context, settings, name, ...)
  local policy, waits = policies[settings.policy], settings.policy == "wait"
  local opts = { lane = settings.lane, unreliable = settings.unreliable, metadata = settings.metadata,
    codec = settings.codec }
  local encoded = core.encode(opts, ...)
  local reached, left_out, dropped, slow = 0, 0, 0, {}
  for _, peer in ipairs(receivers(context, settings.to)) do
    local item = { peer = peer, name = name, opts = opts, encoded = encoded }
    local ok, err = true, nil
    local chain = peer._chains.out
    if chain then
      ok, err = through(chain, item, ...)
    end
    if ok then
      if peer._outbox and settings.policy == "drop_oldest" then
        err = "again" -- behind those that wait
      else
        ok, err = attempt(item)
      end
    end
    if err == "again" and waits then
      slow[#slow + 1] = item
    else
      local more
      if err == "again" then
        ok, more = policy(item, settings)
        M.skip(peer, settings, (ok and 0 or 1) + (more or 0))
      end
      reached, left_out = reached + (ok and 1 or 0), left_out + (ok and 0 or 1)
      dropped = dropped + (more or 0)
    end
  end
  loop.touch(loop.current())
  if #slow > 0 then
    local took = task.block(wait_for_slow, slow, settings.timeout)
    reached, left_out = reached + took, left_out + #slow - took
  end
  return reached, left_out + dropped
end

--- The body of `context:broadcast`.
---@param context echostream.context
---@param first string|echostream.broadcast.options
---@param ... any
---@return integer reached, integer left_out
function M.send(context, first, ...)
  if type(first) ~= "table" then
    options.argument("broadcast", "name", first, "string", 3)
    return send(context, { policy = "skip" }, first, ...)
  end
  local settings = options.check("broadcast", first, M.schema, 3)
  options.argument("broadcast", "name", (...), "string", 3)
  return send(context, settings, ...)
end

return M
