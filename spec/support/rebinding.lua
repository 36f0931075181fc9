-- RELIABILITY N5: a client whose NAT gives it another address every `every` seconds while calls, events, streams and large
-- answers are under way. Nothing may fail, and the server may believe only what it has validated.
--   rebinding.run{ server = …, client = …, rebind = fn(n), seconds = 60, every = 1 } -> figures
-- prepare(server) registers what the load calls. Runs in a task.

local echo = require "echostream"

local M = {}

function M.prepare(server)
  local moves = {}
  server:add_rpc("add", function(_, a, b)
    return a + b
  end)
  server:add_rpc("large", function(_, n)
    return ("x"):rep(n)
  end)
  server:add_rpc("upload", function(_, data)
    return #data
  end)
  server:add_stream("echo", function(_, stream)
    for frame in stream:frames() do
      stream:send(frame.data)
    end
  end)
  server:on_migrate(function(session, old, new)
    assert(session.peer_addr == new and old ~= new)
    moves[#moves + 1] = new
  end)
  return moves
end

local function checked(figures, ok, err)
  figures.calls = figures.calls + 1
  if not ok then
    figures.failed = figures.failed + 1
    figures.error = figures.error or tostring(err)
  end
end

function M.run(opts)
  local client, every = opts.client, opts.every or 1
  local figures = { calls = 0, failed = 0, rebinds = 0, slowest = 0 }
  local ends = echo.now() + opts.seconds
  local function timed(expected, name, ...)
    local began = echo.now()
    local value, err = client:request(name, ...)
    figures.slowest = math.max(figures.slowest, echo.now() - began)
    if name == "large" and value then
      value = #value
    end
    checked(figures, value == expected, err or "a wrong answer")
  end
  local tasks = {}
  for i = 1, 8 do
    tasks[#tasks + 1] = echo.spawn(function()
      local n = 0
      while echo.now() < ends do
        n = n + 1
        timed(n + i, "add", n, i)
        echo.sleep(0.003)
      end
    end)
  end
  tasks[#tasks + 1] = echo.spawn(function()
    while echo.now() < ends do
      timed(100000, "large", 100000)
      echo.sleep(0.02)
    end
  end)
  tasks[#tasks + 1] = echo.spawn(function()
    local data = ("y"):rep(100000)
    while echo.now() < ends do
      timed(#data, "upload", data)
      echo.sleep(0.02)
    end
  end)
  tasks[#tasks + 1] = echo.spawn(function()
    local stream <close> = assert(client:create_stream "echo")
    local n = 0
    while echo.now() < ends do
      n = n + 1
      local ok, err = stream:send(tostring(n))
      local frame
      if ok then
        frame, err = stream:recv()
      end
      checked(figures, frame and frame.data == tostring(n), err)
      echo.sleep(0.005)
    end
  end)
  tasks[#tasks + 1] = echo.spawn(function()
    while echo.now() + every < ends do
      echo.sleep(every)
      figures.rebinds = figures.rebinds + 1
      opts.rebind(figures.rebinds)
    end
  end)
  for _, task in ipairs(tasks) do
    local ok, err = task:wait(opts.seconds + 60)
    if ok == nil and err then
      figures.failed = figures.failed + 1
      figures.error = figures.error or "a task did not end: " .. tostring(err)
    end
  end
  return figures
end

return M
