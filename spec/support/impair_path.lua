-- One direction of the impairment proxy (impair.lua): what happens to each datagram, by options and by seed.

local M = {}

local defaults = { -- every option of a direction
  loss = 0, burst = 1, burst_enter = 0, burst_leave = 0, burst_loss = 1, duplicate = 0, reorder = 0, corrupt = 0, corrupt_span = 50,
  delay = 0, jitter = 0, rate = 0, queue = 25, queue_bytes = 0, mtu = 0, on = 0, off = 0, drops = "",
}

M.defaults = defaults

-- Random numbers by seed: xorshift64* (Vigna), so that nobody else's use of math.random changes a fate.
local function generator(seed)
  local x = seed * 0x9e3779b97f4a7c15 ~ 0x2545f4914f6cdd1d
  x = x == 0 and 1 or x
  return function()
    x = x ~ x >> 12
    x = x ~ x << 25
    x = x ~ x >> 27
    return (x * 0x2545f4914f6cdd1d >> 11) * 2 ^ -53
  end
end

local Path = {}
Path.__index = Path

--- A direction that is called `name`, "up" or "down".
function M.new(name, seed)
  local path = setmetatable({ name = name, n = 0, bad = false, in_a_row = 0, busy_until = 0, departs = {}, first = 1, since = 0,
    stats = { sent = 0, delivered = 0, lost = 0, duplicated = 0, reordered = 0, corrupted = 0, queue_dropped = 0, bytes = 0,
      delivered_bytes = 0 } }, Path)
  path.random = generator(seed * 2 + (name == "up" and 0 or 1))
  for key, value in pairs(defaults) do
    path[key] = value
  end
  path.dropped = {}
  return path
end

function Path:set(key, value, now)
  assert(defaults[key] ~= nil, "no such option: " .. tostring(key))
  if key == "drops" then
    self.dropped = {}
    for n in tostring(value):gmatch "%d+" do
      self.dropped[tonumber(n)] = true
    end
    return
  end
  self[key] = assert(tonumber(value), key .. " wants a number")
  if key == "on" or key == "off" then
    self.since = now
  end
end

function Path:delivered(size)
  self.stats.delivered, self.stats.delivered_bytes = self.stats.delivered + 1, self.stats.delivered_bytes + size
end

-- Is this one lost by chance? The same random numbers are drawn whatever the settings are.
function Path:draw_loss()
  local change, bad, loss, row = self.random(), self.random(), self.random(), self.random()
  if change < (self.bad and self.burst_leave or self.burst_enter) then
    self.bad = not self.bad
  end
  local lost = self.bad and bad < self.burst_loss
  if self.in_a_row > 0 then
    self.in_a_row = self.in_a_row - 1
    return true
  elseif loss < self.loss then
    self.in_a_row = math.floor(row * self.burst)
    return true
  end
  return lost
end

-- When the rate lets it go; nil: the queue is full.
function Path:depart(size, now)
  if self.rate == 0 then
    return now
  end
  while self.departs[self.first] and self.departs[self.first] <= now do
    self.departs[self.first] = nil
    self.first = self.first + 1
  end
  local start = math.max(now, self.busy_until)
  local last = self.first
  if self.queue_bytes > 0 then
    if start > now and (start - now) * self.rate / 8 + size + 28 > self.queue_bytes then
      return nil
    end
  else
    last = self.last and math.max(self.last + 1, self.first) or self.first
    if start > now and last - self.first >= self.queue then
      return nil
    end
    self.last = last
  end
  self.busy_until = start + (size + 28) * 8 / self.rate -- 28: IP and UDP headers
  if self.queue_bytes == 0 then
    self.departs[last] = self.busy_until
  end
  return self.busy_until
end

-- What happens to a datagram that comes now: its fate, its bytes, when it goes on, and when its second copy does.
function Path:fate(data, now, gone)
  local stats = self.stats
  self.n = self.n + 1
  stats.sent, stats.bytes = stats.sent + 1, stats.bytes + #data
  local lost = self:draw_loss()
  local duplicate, reorder, corrupt, held, where = self.random(), self.random(), self.random(), self.random(), self.random()
  local jitter, second, how = self.random() * self.jitter, self.random() * self.jitter, self.random()
  if self.mtu > 0 and #data > self.mtu then
    return "too_large"
  elseif gone or self.off > 0 and (now - self.since) % (self.on + self.off) >= self.on then
    return "dark"
  elseif self.dropped[self.n] then
    return "lost"
  end
  local at = self:depart(#data, now)
  if not at then
    return "queue_dropped"
  end
  at = at + self.delay
  local copy = duplicate < self.duplicate and at + second or nil
  local original = data
  if lost then
    return "lost", nil, nil, copy, original
  end
  if corrupt < self.corrupt and #data > 0 then
    stats.corrupted = stats.corrupted + 1
    local span = self.corrupt_span > 0 and math.min(self.corrupt_span, #data) or #data
    local i = math.floor(where * span) + 1
    data = data:sub(1, i - 1) .. string.char((data:byte(i) + 1 + math.floor(how * 255)) % 256) .. data:sub(i + 1)
  end
  if reorder < self.reorder then
    stats.reordered = stats.reordered + 1
    jitter = jitter + (1 + math.floor(held * 4)) * (self.delay > 0 and self.delay or 0.001)
  end
  return "sent", data, at + jitter, copy, original
end

return M
