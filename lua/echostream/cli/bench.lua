--- `echostream bench`: how many calls of a method a server answers, and how fast.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local errors = require "echostream.errors"
local load = require "echostream.cli.load"
local output = require "echostream.cli.output"
local stdio = require "echostream.loop.stdio"
local task = require "echostream.task"

local M = {}

M.usage = "echostream bench ADDR METHOD [JSON]… (--pin PIN | --ca FILE | --insecure) [options]"
M.summary = "measure how many calls a server answers, and how fast"
M.help = [[
Calls METHOD again and again and prints how many calls a second were answered, what failed, and how long answers took.

Without --rate, --concurrency callers call as soon as they have their answer (closed loop). With --rate, calls are made at that
rate whether answers keep up or not (open loop), and their times count from when they were due, so that waiting because of a
slow server is seen; no more than --concurrency are under way.

]] .. connection.help
M.options = connection.options {
  concurrency = { value = "N", help = "callers; with --rate: calls under way at most (default 64; with --rate 10000)", number = true },
  duration = { value = "SECONDS", help = "how long (default 10)", number = true },
  rate = { value = "N", help = "calls a second, instead of as many as possible", number = true },
  connections = { value = "N", help = "connections that share the calls (default 1)", number = true },
  idempotent = { help = "say that running a call twice does no harm" },
}
M.examples = {
  { "echostream bench 127.0.0.1:5000 desk.add 1 2 --duration 0.5 --pin sha256:…", "as many calls as 64 callers get answered" },
  { "echostream bench 127.0.0.1:5000 desk.add 1 2 --rate 1000 --duration 0.5 --connections 2 --insecure",
    "1,000 calls a second, whether answers keep up or not" },
  { "echostream bench 127.0.0.1:5000 desk.add 1 2 --duration 0.5 --insecure --json", "the same figures for programs" },
}
M.min, M.max = 2, 2 + 250

-- From this share of one processor on it is this client that is measured.
local BUSY = 0.9

local function whole(given, name, default, most)
  local number = given[name] or default
  local integer = math.tointeger(number)
  if not integer or integer < 1 or integer > most then
    return nil, ("--%s wants a whole number from 1 to %d"):format(name, most)
  end
  return integer
end

local function plan_of(given)
  local concurrency, problem = whole(given, "concurrency", given.rate and 10000 or 64, 100000)
  local connections
  if concurrency then
    connections, problem = whole(given, "connections", 1, 1000)
  end
  if problem then
    return nil, problem
  elseif given.duration and (given.duration <= 0 or given.duration > 1e6) then
    return nil, "--duration wants some seconds"
  elseif given.rate and (given.rate <= 0 or given.rate > 1e7) then
    return nil, "--rate wants calls a second, 10000000 at most"
  end
  return { concurrency = concurrency, connections = connections, duration = given.duration or 10, rate = given.rate }
end

-- Progress ------------------------------------------------------------------------------------------------------

local function watch(run)
  local before = 0
  return task.spawn(function()
    while task.sleep(1) do
      local figures = load.figures(run)
      local answered = figures.requests
      io.stderr:write(("\r\27[K%3.0f s  %s calls/s  p99 %s  %s failed"):format(figures.seconds, output.number(answered - before),
        output.duration(figures.latency.p99), output.number(figures.failed)))
      before = answered
    end
  end)
end

-- The report ----------------------------------------------------------------------------------------------------

local function print_spread(run)
  local rows = load.spread(run.latency)
  local most = 1
  for _, row in ipairs(rows) do
    most = math.max(most, row.count)
  end
  local cells = {}
  for i, row in ipairs(rows) do
    cells[i] = { "up to", output.duration(row.upto), output.number(row.count), ("#"):rep(math.ceil(row.count / most * 40)) }
  end
  for _, line in ipairs(output.columns(cells, { [2] = true, [3] = true })) do
    print("  " .. line)
  end
end

local function print_report(figures, run, plan)
  local paint = output.painter(1)
  print(("%s calls in %.4g s: %s calls/s"):format(output.number(figures.requests), figures.seconds,
    paint("bold", output.number(figures.rate))))
  print(("%d %s, %s"):format(plan.connections, plan.connections == 1 and "connection" or "connections", plan.rate
    and ("%s calls/s wanted"):format(output.number(plan.rate)) or ("%d callers"):format(plan.concurrency)))
  local codes = {}
  for code, n in pairs(figures.codes) do
    codes[#codes + 1] = ("%s %s"):format(output.line(code), output.number(n))
  end
  table.sort(codes)
  print(("failed: %s%s"):format(output.number(figures.failed), #codes > 0 and " (" .. table.concat(codes, ", ") .. ")" or ""))
  if figures.unanswered + figures.late + figures.skipped > 0 then
    print(("answered after the end: %s, not at all: %s, not sent because too many were under way: %s"):format(
      output.number(figures.late), output.number(figures.unanswered), output.number(figures.skipped)))
  end
  local latency = figures.latency
  print(("time: mean %s, p50 %s, p90 %s, p99 %s, p99.9 %s, max %s"):format(output.duration(latency.mean), output.duration(latency.p50),
    output.duration(latency.p90), output.duration(latency.p99), output.duration(latency.p999), output.duration(latency.max)))
  print_spread(run)
end

local function json_of(figures, plan)
  figures.connections, figures.concurrency, figures.wanted_rate = plan.connections, plan.concurrency, plan.rate
  figures.client_limited = figures.cpu > BUSY
  return figures
end

local function finish(given, run, plan)
  local figures = load.figures(run)
  if given.json then
    if not connection.print_json(json_of(figures, plan)) then
      return cli.FAILED
    end
  else
    print_report(figures, run, plan)
    if figures.cpu > BUSY then
      cli.complain("this client used %.0f %% of a processor: it is the limit, and the server may do more; run several at once",
        figures.cpu * 100)
    end
  end
  return run.succeeded > 0 and cli.OK or cli.FAILED
end

local function measure(given, run, plan)
  local watching = not given.json and stdio.is_terminal(2) and watch(run) or nil
  local ok, problem = pcall(task.block, load.run, run)
  if watching then
    watching:cancel()
    io.stderr:write("\r\27[K")
  end
  if not ok then
    load.stop(run)
    if not cli.is_interrupt(problem) then
      error(problem, 0)
    end
  end
  local code = finish(given, run, plan)
  return ok and code or cli.INTERRUPTED
end

function M.run(given, words)
  local plan, problem = plan_of(given)
  local arguments
  if plan then
    arguments, problem = connection.decode(words, 3)
  end
  if problem then
    return cli.misused(M, problem)
  end
  return connection.run(M, given, words[1], { idempotent = given.idempotent }, function(_, calls, call_options)
    -- One call first: what is wrong with the method or its name is said at once, and as by `call`.
    local made, first, err = connection.try(M, calls.request, calls, words[2], table.unpack(arguments, 1, arguments.n))
    if not made then
      return first
    elseif first == nil and errors.is_error(err) and err.code == "method_not_found" then
      return connection.no_method(given, calls, words[2], err)
    end
    local all, clients = { calls }, {}
    for i = 2, plan.connections do
      local client, code = connection.another(given, words[1])
      if not client then
        return code
      end
      clients[#clients + 1] = client
      all[i] = client:with(call_options)
    end
    local code = measure(given, load.new {
      calls = all, method = words[2], arguments = arguments, concurrency = plan.concurrency, duration = plan.duration, rate = plan.rate,
    }, plan)
    for _, client in ipairs(clients) do
      client:close()
    end
    return code
  end)
end

return M
