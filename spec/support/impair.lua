-- A bad network between real processes: a UDP proxy that loses, delays, repeats, reorders and damages datagrams, limits the
-- rate, goes away, and changes the address that the server sees, as a NAT does. The options are those of echo.sim but for ECN marks (seconds,
-- bits per second, probabilities); the seed fixes the fate of the nth datagram in each direction, but not when it comes.
--
--   lua5.4 spec/support/impair.lua --help
--
-- In a spec, on the loop that runs anyway:
--   local bad = impair.new { to = server.address, loss = 0.05, down = { delay = 0.02 } }
--   echo.connect(bad.address, …)   bad:set { loss = 0 }   bad:rebind()   bad:stats()   bad:close()

local uv = require "luv"
local paths = require "spec.support.impair_path"

local M = {}

local help = [[
usage: lua5.4 spec/support/impair.lua TO [LISTEN] [name=value …]

Takes UDP datagrams at LISTEN (127.0.0.1:0), passes them on to TO and back, and says "listening on ADDRESS". A name may be
given for one direction: up.loss=0.1 (towards TO), down.delay=0.02 (back).

  loss=P burst=N            a datagram is lost, with up to N-1 that follow it
  burst_enter=P burst_leave=P burst_loss=P   bad times (Gilbert and Elliott)
  duplicate=P reorder=P     a second copy; held back by 1 to 4 further delays
  corrupt=P corrupt_span=N  a byte is changed, one of the first N (50; 0: any)
  delay=S jitter=S          seconds one way; and at random on top
  rate=BITS queue=N queue_bytes=N   bits per second; what may wait for it (25 packets)
  mtu=N                     longer datagrams vanish
  on=S off=S                works for so long, then is gone for so long, and so on
  drops=2,3,4               these datagrams of that direction are lost, counted from 1
For both directions together:
  seed=N                    fixes every fate (1)
  gone_at=S gone_for=S      after so many seconds, gone for so many
  rebind=S rebind_first=S   the server sees another port each S seconds
  rebind_address=1          … and another IP address (127.0.0.2 to .254)
  trace=FILE                a line for every datagram: time, direction, number, size, fate

On standard input, when it is a pipe: the same names change it while it runs; "rebind", "gone SECONDS", "stats", "quit".
SIGTERM prints the counters and ends it.
]]

local both = { seed = 1, gone_at = 0, gone_for = 0, rebind = 0, rebind_first = 0, rebind_address = 0, trace = "" }

-- The proxy ---------------------------------------------------------------------------------------------------

local Proxy = {}
Proxy.__index = Proxy

local function split(address)
  local ip, port = address:match "^%[?([%x:.]-)%]?:(%d+)$"
  assert(ip and ip ~= "", "not a numeric address with a port: " .. tostring(address))
  return ip, tonumber(port)
end

function Proxy:now()
  return (uv.hrtime() - self.began) / 1e9
end

-- The heap of what is under way: { at, order, data, send }.
local function before(a, b)
  return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
end

function Proxy:push(item)
  local heap = self.heap
  local i = #heap + 1
  while i > 1 and before(item, heap[i // 2]) do
    heap[i] = heap[i // 2]
    i = i // 2
  end
  heap[i] = item
  if i == 1 then
    self:arm()
  end
end

function Proxy:pop()
  local heap = self.heap
  local top, last, n = heap[1], heap[#heap], #heap - 1
  heap[#heap] = nil
  local i = 1
  while n > 0 do
    local child = 2 * i
    if child < n and before(heap[child + 1], heap[child]) then
      child = child + 1
    end
    if child > n or not before(heap[child], last) then
      heap[i] = last
      break
    end
    heap[i] = heap[child]
    i = child
  end
  return top
end

function Proxy:arm()
  if self.heap[1] then
    local left = self.heap[1][1] - self:now()
    self.timer:start(left <= 0 and 0 or math.max(1, math.ceil(left * 1000 - 0.5)), 0, function()
      self:deliver()
    end)
  end
end

function Proxy:deliver()
  local now = self:now() + 0.0005
  while self.heap[1] and self.heap[1][1] <= now do
    local item = self:pop()
    item[4](item[3])
  end
  self:arm()
end

function Proxy:log(path, fate, size)
  if self.file then
    self.file:write(("%.6f\t%s\t%d\t%d\t%s\n"):format(self:now(), path.name, path.n, size, fate))
  end
end

function Proxy:take(path, data, send)
  local now = self:now()
  local gone = now >= self.gone_from and now < self.gone_until
  local fate, bytes, at, copy, original = path:fate(data, now, gone)
  local stats = path.stats
  self:log(path, fate, #data)
  if fate == "queue_dropped" then
    stats.queue_dropped = stats.queue_dropped + 1
  elseif fate ~= "sent" then
    stats.lost = stats.lost + 1
  end
  for i = 1, 2 do
    local due = i == 1 and at or i == 2 and copy
    if due then
      stats.duplicated = stats.duplicated + i - 1
      if due <= now then
        send(i == 1 and bytes or original)
      else
        self.order = self.order + 1
        self:push { due, self.order, i == 1 and bytes or original, send }
      end
    end
  end
end

-- Gives a flow a socket of its own towards the server; another one replaces it, and the server sees another address.
function Proxy:back(flow)
  local socket = assert(uv.new_udp())
  local ip = self.to_ip:find ":" and "::1" or "127.0.0.1"
  if self.rebind_address ~= 0 and ip == "127.0.0.1" then
    self.hosts = self.hosts % 253 + 1
    ip = "127.0.0." .. self.hosts + 1
  end
  assert(socket:bind(ip, 0))
  pcall(uv.recv_buffer_size, socket, 4 << 20)
  socket:recv_start(function(_, data)
    if data and flow.socket == socket then
      self:take(self.down, data, flow.to_client)
    end
  end)
  local old = flow.socket
  flow.socket = socket
  if old then
    self.rebinds = self.rebinds + 1
    old:recv_stop()
    old:close()
  end
end

function Proxy:flow(ip, port)
  local key = ip .. " " .. port
  local flow = self.flows[key]
  if not flow then
    flow = {}
    function flow.to_client(data)
      if not self.closed and self.front:try_send(data, ip, port) then
        self.down:delivered(#data)
      end
    end
    function flow.to_server(data)
      if not self.closed and flow.socket:try_send(data, self.to_ip, self.to_port) then
        self.up:delivered(#data)
      end
    end
    self.flows[key] = flow
    self:back(flow)
  end
  return flow
end

--- Changes it while it runs: the names of `impair.new`, and tables `up` and `down`.
function Proxy:set(opts)
  for name, value in pairs(opts) do
    if name == "up" or name == "down" then
      for key, v in pairs(value) do
        self[name]:set(key, v, self:now())
      end
    elseif both[name] == nil then
      self.up:set(name, value, self:now())
      self.down:set(name, value, self:now())
    elseif name == "rebind_address" then
      self.rebind_address = assert(tonumber(value))
    else
      error(name .. " cannot be changed while it runs")
    end
  end
end

--- The server sees every client at another address from now on.
function Proxy:rebind()
  for _, flow in pairs(self.flows) do
    self:back(flow)
  end
end

--- Nothing passes for so many seconds.
function Proxy:gone(seconds)
  self.gone_from, self.gone_until = self:now(), self:now() + seconds
end

--- { up = { sent, delivered, lost, duplicated, reordered, corrupted, queue_dropped, bytes, delivered_bytes }, down = …, rebinds }
function Proxy:stats()
  return { up = self.up.stats, down = self.down.stats, rebinds = self.rebinds }
end

--- Ends it. The loop has to come round once more before the process ends: luv 1.44 does not bear handles that still close.
function Proxy:close()
  if self.closed then
    return
  end
  self.closed = true
  self.front:close()
  self.timer:close()
  if self.rebind_timer then
    self.rebind_timer:close()
  end
  for _, flow in pairs(self.flows) do
    flow.socket:close()
  end
  if self.file then
    self.file:close()
  end
end

Proxy.__close = Proxy.close

local function rebind_each(self, seconds, first)
  self.rebind_timer = assert(uv.new_timer())
  self.rebind_timer:start(math.ceil((first > 0 and first or seconds) * 1000), math.ceil(seconds * 1000), function()
    self:rebind()
  end)
end

--- Starts a proxy on the loop of this process. `to`, `listen`: addresses; the other names as `--help` has them; `up` and `down`:
--- tables for one direction.
function M.new(opts)
  local self = setmetatable({ heap = {}, order = 0, flows = {}, rebinds = 0, hosts = 0, closed = false, began = uv.hrtime() }, Proxy)
  local settings = {}
  for name, value in pairs(opts) do
    settings[name] = value
  end
  local function take(name)
    local value = settings[name]
    settings[name] = nil
    return type(both[name]) == "number" and assert(tonumber(value or both[name]), name .. " wants a number") or value
  end
  self.to_ip, self.to_port = split(take "to")
  local seed = math.floor(take "seed")
  self.up, self.down = paths.new("up", seed), paths.new("down", seed)
  self.gone_from = take "gone_at"
  self.gone_until = self.gone_from + take "gone_for"
  self.rebind_address = take "rebind_address"
  local each, first, trace = take "rebind", take "rebind_first", take "trace"
  local ip, port = split(take "listen" or (self.to_ip:find ":" and "[::1]:0" or "127.0.0.1:0"))
  self:set(settings)
  if trace and trace ~= "" then
    self.file = assert(io.open(trace, "w"))
  end
  self.front = assert(uv.new_udp())
  assert(self.front:bind(ip, port))
  pcall(uv.recv_buffer_size, self.front, 4 << 20)
  local name = self.front:getsockname()
  self.address = (name.ip:find ":" and "[%s]:%d" or "%s:%d"):format(name.ip, name.port)
  self.timer = assert(uv.new_timer())
  self.front:recv_start(function(_, data, from)
    if data and from then
      self:take(self.up, data, self:flow(from.ip, from.port).to_server)
    end
  end)
  if each > 0 then
    rebind_each(self, each, first)
  end
  return self
end

-- The command -------------------------------------------------------------------------------------------------

local function words_of(list, opts)
  for _, word in ipairs(list) do
    local name, value = word:match "^([%a_.]+)=(.*)$"
    if not name then
      error("not name=value: " .. word, 0)
    end
    local direction, key = name:match "^(%l+)%.(.+)$"
    if direction then
      if direction ~= "up" and direction ~= "down" then
        error("up or down, not " .. direction, 0)
      end
      opts[direction] = opts[direction] or {}
      opts[direction][key] = value
    else
      opts[name] = value
    end
  end
  return opts
end

local function print_stats(proxy)
  local stats, words = proxy:stats(), {}
  for _, direction in ipairs { "up", "down" } do
    local names = {}
    for name in pairs(stats[direction]) do
      names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
      words[#words + 1] = ("%s.%s=%d"):format(direction, name, stats[direction][name])
    end
  end
  print(table.concat(words, " ") .. " rebinds=" .. stats.rebinds)
end

local function obey(proxy, line)
  local words = {}
  for word in line:gmatch "%S+" do
    words[#words + 1] = word
  end
  if words[1] == "rebind" then
    proxy:rebind()
  elseif words[1] == "gone" then
    proxy:gone(assert(tonumber(words[2]), "gone wants seconds"))
  elseif words[1] == "stats" then
    print_stats(proxy)
  elseif words[1] == "quit" then
    proxy:close()
    os.exit(0)
  else
    proxy:set(words_of(words, {}))
  end
end

local function main(arguments)
  if #arguments == 0 or arguments[1] == "--help" then
    io.write(help)
    os.exit(#arguments == 0 and 2 or 0)
  end
  local opts = { to = table.remove(arguments, 1) }
  if arguments[1] and not arguments[1]:find "=" then
    opts.listen = table.remove(arguments, 1)
  end
  local ok, proxy = pcall(function()
    return M.new(words_of(arguments, opts))
  end)
  if not ok then
    io.stderr:write("impair: ", tostring(proxy):gsub("^%S+:%d+: ", ""), "\n")
    os.exit(2)
  end
  io.stdout:setvbuf "line"
  uv.new_signal():start("sigterm", function()
    print_stats(proxy)
    proxy:close()
    os.exit(0)
  end)
  print("listening on " .. proxy.address) -- whoever reads it may send the signal at once
  local input, rest = uv.new_pipe(false), ""
  if uv.guess_handle(0) == "pipe" and input:open(0) then -- anything else cannot be waited for everywhere
    input:read_start(function(_, data)
      rest = rest .. (data or "")
      rest = rest:gsub("([^\n]*)\n", function(line)
        local done, err = pcall(obey, proxy, line)
        if not done then
          io.stderr:write("impair: ", tostring(err), "\n")
        end
        return ""
      end)
    end)
  end
  uv.run()
end

if arg and arg[0] and arg[0]:find "impair%.lua$" then
  main { table.unpack(arg) }
end

return M
