-- The misuse sweep: every public function and every method, found by looking at the modules and metatables, is called with
-- every kind of wrong value, on open and on closed objects and on what is no object at all. Each call ends, by an argument error
-- that names what is wrong or by nil and an error object; nothing crashes (that is for the sanitizers), hangs, or fails deep inside.

local echo = require "echostream"
local core = require "echostream.core"
local loop = require "echostream.loop"
local h3 = require "spec.support.http"
local net = require "spec.support.net"
local scratch = require "spec.support.scratch"
local support = require "spec.support.sweep"

local values, is_argument_error = support.values, support.is_argument_error

-- The functions that `thing:name()` finds.
local function methods_of(thing)
  local found = {}
  local function take(class)
    for name, fn in pairs(class) do
      if type(name) == "string" and type(fn) == "function" and name:sub(1, 1) ~= "_" then found[name] = fn end
    end
  end
  local mt = debug.getmetatable(thing)
  if type(thing) == "table" then take(thing) end
  if type(mt and mt.__index) == "table" then
    take(mt.__index)
  elseif type(mt and mt.__index) == "function" then -- the class is what it looks in
    for i = 1, 20 do
      local name, class = debug.getupvalue(mt.__index, i)
      if not name then break end
      if type(class) == "table" and class ~= _G then
        take(class)
        local parent = getmetatable(class)
        if type(parent and parent.__index) == "table" then take(parent.__index) end
      end
    end
  end
  local names = {}
  for name, fn in pairs(found) do
    if rawequal(thing[name], fn) then names[#names + 1] = name end
  end
  table.sort(names)
  return names, found
end

-- A directory with something like the dashboard's page.
local function page()
  local dir = scratch.path()
  os.execute(("mkdir '%s' && echo x > '%s/dashboard.html'"):format(dir, dir))
  return dir
end

-- Makes one of everything. What takes its time is only made for its own sweep.
local function world(env, class)
  local w = {}
  local server, client = env.pair(function(server)
    server:add_rpc("park", function() w.call = echo.call() echo.sleep(1000) end)
    server:add_rpc("rows", function(_, stream) stream:recv() end, { stream = "both" })
    w.dashboard = class == "dashboard" and assert(server:dashboard { bind = false, files = page() }) or nil
    server:http(function(request, response)
      if request.path ~= "/parked" then return "x" end
      w.request, w.response = request, response
      echo.sleep(1000)
    end)
    server:add_stream("hold", function(_, stream) w.served = stream stream:recv() end)
  end)
  w.server, w.client, w.session = server, client, client.session
  w.calls = client:with { timeout = 1 }
  w.context = server.context
  w.stream = assert(client:create_stream("hold"))
  w.streaming = assert(client:stream("rows"))
  w.task = echo.spawn(client.request, client, "park")
  env.eventually(function() return w.call and w.served and #server:sessions() == 1 end, "the world is there")
  w.incoming = server:sessions()[1]
  w.core_session, w.core_host, w.core_channel = client._ud, server._host, w.stream._channel
  w.service = echo.service.new(server)
  w.fleet = echo.fleet.new { targets = { a = server.address }, client = { pin = server.pin } }
  table.insert(env.opened, w.fleet)
  w.resubscribe = echo.resubscribe.new()
  w.alert = server:alert { fn = function() end }
  w.topic, w.subscription = server:topic "of.the.sweep", assert(client:subscribe "of.the.sweep")
  w.policy, w.breaker = echo.retry.new { adaptive = true }, echo.breaker.new()
  w.metric = echo.metrics.gauge("spec_sweep", "…", { "a" })
  w.backoff, w.buffer = echo.backoff.new(), echo.jitter.new()
  w.clock = class == "clock" and assert(client:clock()) or nil
  w.cache, w.presence = echo.plugins.cache {}, echo.plugins.presence {}
  w.tracing = echo.plugins.tracing { export = function() return true end }
  w.source = echo.discovery.static { "127.0.0.1:1" }
  w.browser = assert(w.source:browse())
  w.prompt = echo.repl.new { write = function() end, ready = function() end }
  w.timestamp = echo.codec.timestamp(1)
  w.fields, w.router, w.cors = echo.http.fields.new { a = "1" }, echo.http.router.new(), echo.http.cors.new { origins = "*" }
  w.http = echo.http.client { pin = server.pin, timeout = 1 }
  table.insert(env.opened, w.http)
  w.answer = class == "answer" and assert(w.http:request("https://" .. server.address .. "/")) or nil
  if class == "request" or class == "response" then
    local conn = h3.dial(server)
    table.insert(env.opened, conn)
    w.exchange = conn:begin("POST", "/parked", {}, true)
    env.eventually(function() return w.request end, "the request is there")
  end
  server:plugin { name = "of the sweep", install = function(_, host) w.host = host end }
  client:middleware(function(call, next)
    w.middleware_call = call
    return next(call)
  end)
  client:emit "nothing"
  return w
end

local function quic_world(env, net_)
  local w = {}
  w.listener = assert(echo.quic.listen(env.kind == "quic" and "127.0.0.1:0" or "10.0.0.9:9", { alpn = { "x" },
    state_dir = env.kind == "quic" and net.state_dir() or nil }))
  table.insert(env.opened, w.listener)
  w.connection = assert(echo.quic.connect(w.listener.address, { alpn = { "x" }, pin = w.listener.pin }))
  w.accepted = assert(w.listener:accept(2))
  w.quic_stream = assert(w.connection:open_bi_stream())
  w.net = net_
  return w
end

local function close_all(w)
  for _, thing in pairs { w.stream, w.streaming, w.served, w.quic_stream } do thing:close() end
  if w.task then w.task:cancel() end
  if w.exchange then w.exchange:reset() end
  if w.answer then w.answer:close() end
  if w.http then w.http:close() end
  for _, thing in pairs { w.topic, w.subscription, w.buffer, w.browser, w.prompt } do thing:close() end
  for _, thing in pairs { w.fleet, w.client, w.session, w.incoming, w.connection, w.accepted, w.listener } do thing:close() end
  if w.server then w.server:stop { grace = 0 } end
end

-- Calls that would take the ground from under the spec.
local apart = {
  ["net.blackout"] = "1e300 seconds without a network",
  ["echo.discovery.advertise"] = "multicast to the network of this machine; discovery_spec has its misuse",
  ["echo.discovery.browse"] = "the same", ["echo.discovery.discover"] = "the same", ["echo.discovery.feed"] = "the same",
  ["cache.install"] = "called by host:plugin, not by users", ["presence.install"] = "the same", ["tracing.install"] = "the same",
  ["echo.http.router.segments"] = "says a status after nil", ["router.match"] = "the same",
  ["echo.http.range.parse"] = "says after nil what is wrong with the ranges",
  ["echo.metrics.serve"] = "the port of scrapers on this machine; metrics_http_spec has its misuse",
}

net.each(function(env)
  local patience = env.kind == "sim" and 0.5 or 0.004
  local settings = { seed = 1, limit = 1e6 }
  local swept = {} -- class or module -> name -> true

  -- One call: in a task, because it may wait; it is given up then, which must end it too.
  local function try(where, fn, ...)
    local outcome
    local arguments = table.pack(...)
    local task = echo.spawn(function()
      outcome = table.pack(pcall(fn, table.unpack(arguments, 1, arguments.n)))
    end)
    task:wait(patience)
    if not outcome then
      task:cancel()
      task:wait(5)
    end
    if not outcome then error(where .. ": hangs, even when cancelled", 0) end
    return outcome
  end

  local function judge(where, outcome, complaints)
    local raised = not outcome[1] and outcome[2]
    if raised ~= false and raised ~= nil and not is_argument_error(raised) then
      complaints[#complaints + 1] = where .. ": " .. tostring(raised)
    elseif outcome[1] and outcome[2] == nil and outcome.n >= 3 and outcome[3] ~= nil and outcome[3] ~= "again"
      and not echo.is_error(outcome[3]) then
      complaints[#complaints + 1] = ("%s: nil and a %s"):format(where, type(outcome[3]))
    end
    local task = outcome[2]
    if outcome[1] and type(task) == "userdata" and (debug.getmetatable(task) or {}).__name == "echostream.task" then
      task:cancel() -- the callback form
    end
  end

  local function sweep(class, thing, complaints, state)
    local names, found = methods_of(thing)
    assert.is_true(#names > 0, class)
    swept[class] = swept[class] or {}
    for _, name in ipairs(names) do
      swept[class][name] = true
      local where = ("%s %s.%s"):format(state, class, name)
      if not apart[class .. "." .. name] then
        judge(where .. "()", try(where, found[name], thing), complaints)
        for _, value in ipairs(values) do
          judge(("%s(%s)"):format(where, value[1]), try(where, found[name], thing, value[2]()), complaints)
          judge(("%s(x, %s)"):format(where, value[1]), try(where, found[name], thing, "x", value[2]()), complaints)
          judge(("%s(%s, %s)"):format(where, value[1], value[1]), try(where, found[name], thing, value[2](), value[2]()),
            complaints)
          judge(("%s(x, print, %s)"):format(where, value[1]), try(where, found[name], thing, "x", function() end, value[2]()), complaints)
        end
        judge(where .. "(itself)", try(where, found[name], thing, thing), complaints)
        -- No object at all: anything but a crash will do.
        for _, self in ipairs { 5, "x", {}, io.stdout, print } do try(where, found[name], self) end
        try(where, found[name])
      end
    end
    -- What Lua itself calls.
    local mt = debug.getmetatable(thing)
    for _, event in ipairs { "__tostring", "__len", "__close" } do
      if mt and mt[event] then try(class .. event, mt[event], thing) end
    end
  end

  local function report(complaints)
    for _, record in ipairs(env.logs) do
      if record.level == "error" and record.message:find "lua/echostream/[%w_]+%.lua:%d+: attempt to" then
        complaints[#complaints + 1] = "the log: " .. record.message
      end
    end
    assert.equal("", table.concat(complaints, "\n", 1, math.min(#complaints, 20)))
  end

  local classes = { "server", "client", "session", "incoming", "calls", "context", "stream", "streaming", "served", "task", "call",
    "middleware_call", "timestamp", "resubscribe", "fleet", "service", "policy", "breaker", "alert", "metric", "topic",
    "subscription", "core_session", "core_host", "core_channel" }
  -- What has nothing to do with sockets is swept in the simulator only.
  local of_lua = { "fields", "router", "cors", "request", "response", "http", "answer", "dashboard",
    "backoff", "buffer", "clock", "cache", "presence", "tracing", "source", "browser", "prompt" }
  for _, class in ipairs(of_lua) do
    of_lua[class] = true
    if env.kind == "sim" then classes[#classes + 1] = class end
  end
  local quic_classes = { "listener", "connection", "accepted", "quic_stream" }

  describe("the methods of every object", function()
    for _, class in ipairs(classes) do
      env.it(class .. ": open", function()
        local complaints = {}
        local w = world(env, class)
        sweep(class, w[class], complaints, "open")
        report(complaints)
      end, settings)

      env.it(class .. ": closed", function()
        local complaints = {}
        local w = world(env, class)
        close_all(w)
        sweep(class, w[class], complaints, "closed")
        report(complaints)
      end, settings)
    end

    for _, class in ipairs(quic_classes) do
      env.it(class .. ": open, then closed", function(net_)
        local complaints = {}
        local w = quic_world(env, net_)
        sweep(class, w[class], complaints, "open")
        close_all(w)
        sweep(class, w[class], complaints, "closed")
        report(complaints)
      end, settings)
    end

    if env.kind == "sim" then
      env.it("net", function(net_)
        local complaints = {}
        sweep("net", net_, complaints, "open")
        report(complaints)
      end, settings)
    end
  end)

  describe("the functions of every module", function()
    local modules = { ["echo.codec.msgpack"] = echo.codec.msgpack, ["echo.codec.json"] = echo.codec.json,
      ["echo.codec.raw"] = echo.codec.raw }
    -- Parts of echo may have functions that are for the files beside them.
    for _, entry in ipairs(support.documented()) do
      local part, sub = entry[1]:match "^echo%.?([%w_]*)%.?([%w_]*)$"
      if part and (sub == "" or part == "http") then
        local module = part == "" and echo or sub == "" and echo[part] or echo[part][sub]
        modules[entry[1]] = modules[entry[1]] or {}
        modules[entry[1]][entry[3]] = module[entry[3]]
      end
    end

    for module, functions in pairs(modules) do
      env.it(module, function()
        local complaints, names = {}, {}
        for name, fn in pairs(functions) do
          if type(fn) == "function" then names[#names + 1] = name end
        end
        table.sort(names)
        swept[module] = {}
        for _, name in ipairs(names) do
          swept[module][name] = true
          local where = module .. "." .. name
          local fn = functions[name]
          if not apart[where] then judge(where .. "()", try(where, fn), complaints) end
          for _, a in ipairs(apart[where] and {} or values) do
            judge(("%s(%s)"):format(where, a[1]), try(where, fn, a[2]()), complaints)
            for _, b in ipairs(values) do
              judge(("%s(%s, %s)"):format(where, a[1], b[1]), try(where, fn, a[2](), b[2]()), complaints)
            end
          end
        end
        echo.set_log(function(record) table.insert(env.logs, record) end)
        report(complaints)
      end, settings)
    end

    env.it("the reader of frames", function()
      local complaints = {}
      sweep("reader", echo.frame.reader(), complaints, "new")
      report(complaints)
    end, settings)

    env.it("the core's own, which only crash or do not", function()
      for name, fn in pairs(core) do
        -- Those that are left out change this process, or make files of any name.
        if type(fn) == "function" and name ~= "set_log" and name ~= "set_idle_hook" and name ~= "set_elsewhere" and name ~= "lock_file" then
          try(name, fn)
          for _, a in ipairs(values) do
            try(name, fn, a[2]())
            try(name, fn, loop.current().core, a[2]())
            try(name, fn, loop.current().core, a[2](), a[2]())
          end
        end
      end
    end)
  end)

  describe("the sweep", function()
    -- Runs last. A class of objects that is new in the reference wants its place in `world`.
    it("has met every function of the reference", function()
      swept.host, swept.codec = swept.server, swept["echo.codec.msgpack"]
      local missed, n = {}, 0
      for _, entry in ipairs(support.documented()) do
        local owner, separator, name = table.unpack(entry)
        local here = env.kind == "sim" or owner ~= "net" and not of_lua[owner]
        n = n + 1
        if here and not (swept[owner] and swept[owner][name] or owner == "call" and swept.middleware_call[name]
          or owner == "host" and (name == "every" or name == "after" or name == "itself")
          or owner == "guard") then -- of what is advertised: that speaks to the network of this machine
          missed[#missed + 1] = owner .. separator .. name
        end
      end
      assert.is_true(n > 120)
      assert.equal("", table.concat(missed, ", "))
    end)
  end)
end)
