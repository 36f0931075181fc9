-- The conversation of spec/foreign/README.md on echo.quic.

local echo = require "echostream"

local ALPN = "foreign/1"
local PATIENCE = 10 -- seconds for any one step

local function say(...)
  io.stdout:write(string.format(...), "\n")
  io.stdout:flush()
end

-- The acceptor ------------------------------------------------------------------------------------------------

-- The command, and what of the stream came with it.
local function read_command(stream)
  local text = ""
  while not text:find "\n" do
    local data = assert(stream:read(4096, PATIENCE))
    text = text .. data
  end
  local line, rest = text:match "^([^\n]*)\n(.*)$"
  local word, argument = line:match "^(%S+) ?(.*)$"
  return word, argument, rest
end

local function answer(stream, text)
  assert(stream:write(text))
  assert(stream:finish())
end

local commands = {}

function commands.echo(_, stream, _, rest)
  local data = rest
  while data do
    assert(stream:write(data))
    data = stream:read(65536, PATIENCE)
  end
  stream:finish()
end

function commands.uni(connection, stream)
  answer(assert(connection:open_uni_stream(PATIENCE)), "from the acceptor")
  stream:finish()
end

function commands.open(connection, stream)
  local own = assert(connection:open_bi_stream(PATIENCE))
  answer(own, "question")
  answer(stream, assert(own:read_to_end(1000, PATIENCE)))
end

function commands.reset(_, stream, code)
  stream:reset(tonumber(code))
end

function commands.stop(_, stream, code)
  stream:stop(tonumber(code))
  answer(stream, "stopped")
end

function commands.hold(_, stream, _, _, seen)
  seen.hold = 1
  local data, err
  repeat
    data, err = stream:read(65536, PATIENCE)
  until not data
  seen.reset = err and err.details and err.details.reset or seen.reset
  stream:finish()
end

function commands.pour(_, stream, _, _, seen)
  local ok, err
  repeat
    ok, err = stream:write(("x"):rep(10000), PATIENCE)
  until not ok
  seen.stop = err.details and err.details.stop or seen.stop
end

function commands.seen(_, stream, what, _, seen)
  answer(stream, seen[what] and ("%d"):format(seen[what]) or "none")
end

function commands.resumed(connection, stream)
  answer(stream, connection:stats().resumed and "yes" or "no")
end

function commands.close(connection, _, argument)
  local code, why = argument:match "^(%d+) (.*)$"
  connection:close(tonumber(code), why)
end

local function accept(cert, key)
  local listener = assert(echo.quic.listen("127.0.0.1:0", { alpn = { ALPN }, cert = cert, key = key }))
  say("ready %s", listener.address)
  for connection in function() return listener:accept() end do
    local seen = {}
    echo.spawn(function()
      for stream in function() return connection:accept_bi_stream() end do
        echo.spawn(function()
          local word, argument, rest = read_command(stream)
          commands[word](connection, stream, argument, rest, seen)
        end)
      end
      local reason = connection:wait_closed(0)
      if reason and reason.details and reason.details.cause == "peer" then
        say("closed %d %s", reason.details.code, reason.details.reason or reason.message)
      end
    end)
    echo.spawn(function()
      for stream in function() return connection:accept_uni_stream() end do
        local text = assert(stream:read_to_end(1 << 20, PATIENCE))
        answer(assert(connection:open_uni_stream(PATIENCE)), text:upper())
      end
    end)
    echo.spawn(function()
      for data in function() return connection:recv_datagram() end do
        connection:send_datagram(data:upper())
      end
    end)
  end
end

-- The dialler -------------------------------------------------------------------------------------------------

local function command(connection, line)
  local stream = assert(connection:open_bi_stream(PATIENCE))
  assert(stream:write(line .. "\n"))
  return stream
end

local function ask(connection, line)
  local stream = command(connection, line)
  stream:finish()
  return assert(stream:read_to_end(1 << 21, PATIENCE))
end

local function expect(expected, got)
  if expected ~= got then
    error(("wanted %s, got %s"):format(expected, got), 2)
  end
end

local function dial(address)
  local connection = assert(echo.quic.connect(address, { alpn = { ALPN }, skip_verification = true, timeout = PATIENCE,
    session_cache = true }))
  -- js-quic resets the streams that come in one datagram with the end of the handshake: only what it answers counts.
  for _ = 1, 50 do
    if pcall(ask, connection, "seen stop") then
      return connection
    end
    echo.sleep(0.02)
  end
  error "no stream was ever served"
end

-- Asks until the acceptor has seen it.
local function expect_seen(connection, what, code)
  local got
  for _ = 1, 100 do
    got = ask(connection, "seen " .. what)
    if got ~= "none" then
      break
    end
    echo.sleep(0.02)
  end
  expect(tostring(code), got)
end

local checks = {
  { "echo", function(c)
    local text = ("0123456789abcdef"):rep(65536)
    local stream = command(c, "echo")
    echo.spawn(function()
      stream:write(text)
      stream:finish()
    end)
    expect(true, text == stream:read_to_end(1 << 21, PATIENCE))
  end },
  { "ten streams at once", function(c)
    local streams = {}
    for i = 1, 10 do
      streams[i] = command(c, "echo")
      assert(streams[i]:write(("stream %d"):format(i)))
    end
    for i = 10, 1, -1 do
      streams[i]:finish()
      expect(("stream %d"):format(i), streams[i]:read_to_end(100, PATIENCE))
    end
  end },
  { "one-way streams", function(c)
    expect("", ask(c, "uni"))
    expect("from the acceptor", assert(c:accept_uni_stream(PATIENCE)):read_to_end(100, PATIENCE))
    answer(assert(c:open_uni_stream(PATIENCE)), "one way")
    expect("ONE WAY", assert(c:accept_uni_stream(PATIENCE)):read_to_end(100, PATIENCE))
  end },
  { "a stream of the acceptor", function(c)
    local stream = command(c, "open")
    stream:finish()
    local theirs = assert(c:accept_bi_stream(PATIENCE))
    expect("question", theirs:read_to_end(100, PATIENCE))
    answer(theirs, "answer")
    expect("answer", stream:read_to_end(100, PATIENCE))
  end },
  { "a reset is told", function(c)
    local stream = command(c, "reset 7")
    local data, err = stream:read_to_end(100, PATIENCE)
    expect(nil, data)
    expect(7, err.details.reset)
  end },
  { "a stop is told", function(c)
    local stream = command(c, "stop 9")
    local ok, err
    repeat
      ok, err = stream:write(("x"):rep(10000), PATIENCE)
    until not ok
    expect(9, err.details.stop)
    expect("stopped", stream:read_to_end(100, PATIENCE))
  end },
  { "a reset arrives", function(c)
    -- A reset may overtake the command, which is then never read: it must be known to have come.
    local stream = command(c, "hold")
    stream:write "some"
    expect_seen(c, "hold", 1)
    stream:reset(5)
    expect_seen(c, "reset", 5)
  end },
  { "a stop arrives", function(c)
    local stream = command(c, "pour")
    assert(stream:read(100, PATIENCE))
    stream:stop(6)
    expect_seen(c, "stop", 6)
  end },
  { "datagram", function(c)
    for _ = 1, 20 do -- unreliable by nature
      assert(c:send_datagram "ping")
      local data = c:recv_datagram(0.5)
      if data then
        return expect("PING", data)
      end
    end
    error "no answer"
  end },
  { "close is told", function(c)
    command(c, "close 42 enough")
    local reason = assert(c:wait_closed(PATIENCE))
    expect("peer", reason.details.cause)
    expect(42, reason.details.code)
    expect(true, tostring(reason):find("enough", 1, true) ~= nil)
  end },
}

local function run_checks(address)
  local failed = 0
  local function check(name, fn, ...)
    local ok, err = pcall(fn, ...)
    failed = failed + (ok and 0 or 1)
    say(ok and "ok %s" or "failed %s: %s", name, tostring(err))
  end
  local connection = dial(address)
  for _, c in ipairs(checks) do
    check(c[1], c[2], connection)
  end
  local resumed = ask(dial(address), "resumed")
  if resumed == "never" then
    say "skipped resumption: the acceptor resumes nothing"
  else
    check("resumption", expect, "yes", resumed)
  end
  dial(address):close(43, "done")
  say "ok close arrives" -- the acceptor says whether it did
  return failed
end

local role, first, second = ...
local failed = 0
local main = echo.spawn(function()
  if role == "accept" then
    accept(first, second)
  else
    failed = run_checks(first)
  end
end)
main:wait(role == "accept" and 120 or 60)
os.exit(failed == 0 and main:status() ~= "failed", true)
