-- What the pages beside this file talk to: one server, its handlers in Lua, and the pages themselves for browsers on this machine.
--   lua5.4 examples/browser/serve.lua [ADDR] [PAGES]     default 127.0.0.1:5000, pages on 127.0.0.1:8080
-- Prints where the pages are. Native clients reach the same handlers:  echostream call ADDR math.add 10 20 --pin PIN
local echo = require "echostream"

io.stdout:setvbuf "line"

local here = arg[0]:match "^(.*)/[^/]*$" or "."
local server = echo.server { bind = arg[1] or "127.0.0.1:5000", quiet = true, webtransport = true }

-- Calls ---------------------------------------------------------------------------------------------------------

server:add_rpc("math.add", function(_, a, b) return a + b end, { idempotent = true, doc = "Adds two numbers." })

-- Chat: events both ways ----------------------------------------------------------------------------------------

local history = {}

local function people()
  local names = echo.array {}
  for _, session in ipairs(server:sessions()) do
    names[#names + 1] = session:get "name"
  end
  table.sort(names)
  return names
end

server:add_rpc("chat.join", function(session, name)
  if type(name) ~= "string" or not utf8.len(name) or #name == 0 or #name > 60 then
    return nil, echo.error("invalid_argument", "a name is text of 1 to 60 bytes")
  end
  session:set("name", name)
  echo.spawn(function() server:broadcast("chat.people", people()) end)
  return echo.array(table.move(history, 1, #history, 1, {}))
end, { doc = "Comes into the room; gives what was said before." })

server:add_event("chat.say", function(session, text)
  local who = session:get "name"
  if not who or type(text) ~= "string" or #text > 8000 then
    return
  end
  local said = { who = who, text = text, at = os.time() * 1000 }
  history[#history + 1] = said
  if #history > 50 then
    table.remove(history, 1)
  end
  server:broadcast("chat.said", said.who, said.text, said.at)
end)

server:on_disconnect(function(session)
  if session:get "name" then
    server:broadcast("chat.people", people())
  end
end)

-- A chart: a streaming method, which waits when the page does not keep up -------------------------------------------

server:add_rpc("chart.walk", function(_, stream, lines, every)
  local values = {}
  for i = 1, math.max(1, math.min(lines, 10)) do
    values[i] = 100 + 10 * i
  end
  local pause, seq = math.max(every, 1) / 1000, 0
  while true do
    for i, value in ipairs(values) do
      values[i] = value + (math.random() - 0.5) * 2 + (100 - value) * 0.003
    end
    seq = seq + 1
    if not stream:send_timestamped { data = values, seq = seq } then
      return
    end
    echo.sleep(pause)
  end
end, { stream = "out", doc = "Random walks: so many values, every so many milliseconds." })

-- Positions: events in datagrams ------------------------------------------------------------------------------------

local RATE <const> = 30 -- times a second
local players, bots = {}, {}
for i, name in ipairs { "swift", "lazy", "curly" } do
  bots[i] = { id = name, n = 0, phase = i * 2.1, a = i + 1, b = 2 * i + 1 }
end

server:add_rpc("clock", echo.now, { session = false, idempotent = true, doc = "Seconds of the server's clock, from any beginning." })

server:add_rpc("positions.join", function(session)
  players[session] = { id = "mover " .. session.id, total = 0, loss = 0, delay = 0 }
  return players[session].id
end)

server:add_rpc("positions.impair", function(session, loss, delay)
  local player = players[session]
  if player then
    player.loss, player.delay = math.max(0, math.min(loss, 1)), math.max(0, math.min(delay, 2))
  end
end, { doc = "Loses a share of what this page is sent, and holds the rest back for so many seconds." })

server:add_event("positions.move", function(session, x, y, n)
  local player = players[session]
  if player and n > (player.n or -1) then -- an old one that came late says nothing new
    player.x, player.y, player.n = x, y, n
  end
end)

server:on_disconnect(function(session) players[session] = nil end)

-- Tells one page where one mover is. Its own numbers go along, so that it knows what it did not get.
local function tell(session, player, id, x, y, n)
  local total = player.total
  player.total = total + 1
  if math.random() < player.loss then
    return
  end
  local to, at = session:with { unreliable = true }, echo.now()
  if player.delay == 0 then
    return to:emit("positions.moved", id, x, y, n, total, at)
  end
  echo.spawn(function()
    echo.sleep(player.delay * (0.8 + 0.4 * math.random())) -- so that they overtake each other
    to:emit("positions.moved", id, x, y, n, total, at)
  end)
end

local function move_all()
  local now = echo.now()
  for _, bot in ipairs(bots) do
    bot.n = bot.n + 1
    bot.x = 0.5 + 0.42 * math.sin(bot.a * now * 0.35 + bot.phase)
    bot.y = 0.5 + 0.4 * math.sin(bot.b * now * 0.25)
  end
  for session, player in pairs(players) do
    for _, bot in ipairs(bots) do
      tell(session, player, bot.id, bot.x, bot.y, bot.n)
    end
    for _, other in pairs(players) do
      if other.x then
        tell(session, player, other.id, other.x, other.y, other.n)
      end
    end
  end
end

-- The pages, and the dashboard among them -----------------------------------------------------------------------------

local pages = assert(server:dashboard { bind = arg[2] or "127.0.0.1:8080", files = here, others = true })
assert(server:start())
echo.spawn(function()
  while server.state == "running" do
    if next(players) then
      move_all()
    end
    echo.sleep(1 / RATE)
  end
end)
print("listening on " .. server.address)
print("pin " .. server.pin)
print("pages on " .. pages.url)
server:run()
