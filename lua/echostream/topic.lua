--- Topics: one side publishes, whoever has subscribed gets it. A subscription is a named stream, `topic:NAME`, whose handler
--- sends numbered messages, each the list of what was published; so every subscriber has its own queue, and a slow one is its own
--- matter. session/subscription.lua is the other side.

local core = require "echostream.core"
local broadcast = require "echostream.broadcast"
local errors = require "echostream.errors"
local flow = require "echostream.session.flow"
local loop = require "echostream.loop"
local options = require "echostream.options"
local stream = require "echostream.stream"
local task = require "echostream.task"

local M = {}

--- What the names of their streams begin with.
M.PREFIX = "topic:"

--- The code that a subscription is reset with whose subscriber is too slow (gRPC's number of resource_exhausted).
M.TOO_SLOW = 8

--- Options of a topic.
---@type table<string, echostream.options.field>
M.schema = {
  policy = { type = "string", one_of = { "drop_oldest", "drop_newest", "wait", "close" }, default = "drop_oldest" },
  outbox = { type = "integer", min = 1, max = 1 << 20, default = broadcast.OUTBOX },
  timeout = { type = "seconds", default = broadcast.TIME },
  queue = flow.queue_option,
  replay = { type = "integer", min = 0, max = 1 << 20, default = 0 },
  admit = { type = "function" },
  secret = { type = "boolean" },
  doc = { type = "string" },
  priority = { type = "integer", min = 0, max = 7 },
}

---@class echostream.topic
---@field name string
---@field seq integer      number of the next message
---@field dropped integer  messages that some subscriber did not get
local Topic = {}
Topic.__index = Topic
Topic.__name = "echostream.topic"

Topic.__tostring = function(self)
  local n = self:subscribers()
  return ("echostream.topic %s (%d %s)"):format(self.name, n, n == 1 and "subscriber" or "subscribers")
end

-- What streams do by themselves when they are full.
local when_full = { drop_oldest = "drop_oldest", wait = "drop_oldest", drop_newest = "drop_newest", close = "error" }

-- Sends one message to one subscriber. Whether it will get it.
local function deliver(self, subscriber, bytes, seq)
  local before = subscriber._dropped
  local ok, err = stream.send_bytes(subscriber, bytes, seq)
  local dropped = subscriber._dropped - before + (ok and 0 or 1)
  self.dropped = self.dropped + dropped
  if not ok and err.code == "resource_exhausted" then
    subscriber:reset(M.TOO_SLOW)
  end
  return ok and (dropped == 0 or self._options.policy ~= "drop_newest")
end

local function serve(self, session, subscriber)
  if self._options.admit then
    local may, err = self._options.admit(session)
    if not may then
      return nil, err or errors.new("permission_denied", "not for everybody: " .. self.name)
    end
  end
  for seq = math.max(0, self.seq - self._options.replay), self.seq - 1 do
    deliver(self, subscriber, self._last[seq], seq)
  end
  self._subscribers[subscriber] = true
  local frame
  repeat
    frame = subscriber:recv() -- it has nothing to say: this is its end, or that of its session
  until not frame
  self._subscribers[subscriber] = nil
end

local function packed(...)
  local list = { ... }
  for i = 1, select("#", ...) do
    if list[i] == nil then
      list[i] = core.null
    end
  end
  local bytes, problem = core.codec.msgpack.pack(core.array(list))
  return bytes or error("topic:publish: " .. problem.message, 3)
end

-- Room for one more at everybody's, or the time is over.
local function wait_for_room(self)
  local deadline, waiting = loop.now() + self._options.timeout, {}
  for subscriber in pairs(self._subscribers) do
    waiting[#waiting + 1] = subscriber -- others come while we wait, which a loop over the table itself would not bear
  end
  for _, subscriber in ipairs(waiting) do
    local left = deadline - loop.now()
    if left > 0 then
      stream.wait_drained(subscriber, left)
    end
  end
end

--- Sends a message to every subscriber. Returns at once, unless the policy is "wait".
---@param ... any
---@return integer reached   subscribers that will get it
---@return integer left_out  subscribers that will not
function Topic:publish(...)
  local bytes = packed(...)
  if self._options.policy == "wait" then
    task.block(wait_for_room, self)
  end
  local seq, reached, left_out = self.seq, 0, 0
  self.seq = seq + 1
  if self._options.replay > 0 then
    self._last[seq], self._last[seq - self._options.replay] = bytes, nil
  end
  for subscriber in pairs(self._subscribers) do
    if deliver(self, subscriber, bytes, seq) then
      reached = reached + 1
    else
      left_out = left_out + 1
    end
  end
  return reached, left_out
end

--- How many there are.
---@return integer
function Topic:subscribers()
  local n = 0
  for _ in pairs(self._subscribers) do
    n = n + 1
  end
  return n
end

--- Ends every subscription, when what waits was sent, and takes the topic away. Harmless twice.
function Topic:close()
  if self._host[1] then
    self._host[1]:remove_stream(M.PREFIX .. self.name)
    if self._host[1]._topics[self.name] == self then
      self._host[1]._topics[self.name] = nil
    end
    self._host[1] = nil
  end
  for subscriber in pairs(self._subscribers) do
    subscriber:finish()
    if not subscriber._outbox then -- its handler need not wait until the other side has read all this
      subscriber:close()
    end
  end
end

--- Ends the topics of a server that stops: subscriptions do not end by themselves, so it would wait for them until its grace is over.
---@param host echostream.host
function M.close_all(host)
  local topics = {}
  for _, topic in pairs(host._topics) do
    topics[#topics + 1] = topic
  end
  for _, topic in ipairs(topics) do
    topic:close()
  end
end

---@class echostream.topics  of servers and clients
local methods = {}
M.methods = methods

--- Makes a topic, to which the other side's `subscribe` subscribes.
---
---     local ticks = server:topic("ticks", { replay = 1 })
---     ticks:publish("EURUSD", 1.0873)
---@param name string  1 to 250 characters of A-Z a-z 0-9 . _ / : -
---@param opts? echostream.options.topic
---@return echostream.topic
function methods:topic(name, opts)
  options.argument("topic", "name", name, "string")
  opts = options.check("topic", opts, M.schema)
  -- A file that is loaded again finds its topic as it was, subscribers and all, and gives it other options at most.
  local inherited = self._inherited and self._inherited.topics[name]
  local self_topic = inherited or setmetatable({ name = name, seq = 0, dropped = 0, _options = opts, _subscribers = {}, _last = {},
    _host = setmetatable({ self }, { __mode = "v" }) }, Topic)
  local ok, problem = pcall(self.add_stream, self, M.PREFIX .. name, function(session, subscriber)
    return serve(self_topic, session, subscriber)
  end, { codec = "msgpack", doc = opts.doc, priority = opts.priority, queue = opts.queue, secret = opts.secret, outbox = opts.outbox,
    when_full = when_full[opts.policy] })
  if not ok then -- in words of topics, and blamed on who calls this
    problem = tostring(problem):gsub("^.-add_stream: ", "topic: "):gsub('"' .. M.PREFIX, '"'):gsub("handler of that name", "topic of that name")
    error(problem, 2)
  end
  self._topics[name] = self_topic
  if inherited then
    self._inherited.topic_options[name] = opts
  end
  return self_topic
end

return M
