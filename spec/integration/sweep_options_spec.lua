-- The misuse sweep of options: every option that is annotated, of everything that takes options, with every kind of wrong value. What
-- is wrong is an argument error that names the option; what happens to be right works, or is nil and an error object.

local echo = require "echostream"
local net = require "spec.support.net"
local support = require "spec.support.sweep"

net.only("sim", function(env)
  -- fn(options): makes or calls what takes them; the options of a class without any are taken by its heirs.
  local function takers(server)
    local pin = server.pin
    local function dial(options)
      options.pin = options.pin == nil and pin or options.pin
      local client, err = echo.connect(server.address, options)
      if client then
        client:request "ping"
        client:close()
        return true
      end
      return client, err
    end
    local function listen(options)
      options.bind = options.bind == nil and "10.0.0.7:0" or options.bind
      options.quiet = true
      local other, err = echo.server(options):start()
      if other then other:stop { grace = 0 } end
      return other and true, err
    end
    local client = assert(echo.connect(server.address, { pin = pin }))
    table.insert(env.opened, client)
    local topics = 0
    local function raw_listen(options)
      options.alpn = options.alpn == nil and { "x" } or options.alpn
      local listener, err = echo.quic.listen("10.0.0.8:0", options)
      if listener then listener:close() end
      return listener and true, err
    end
    return {
      server = { listen }, client = { dial },
      transport = {
        function(options) return listen { transport = options } end,
        function(options) return dial { transport = options } end,
        function(options) return raw_listen { transport = options } end,
      },
      http = { function(options) return listen { http = options } end },
      webtransport_server = { function(options) return listen { webtransport = options } end },
      webtransport_client = { function(options) return dial { webtransport = options } end },
      http_client = { function(options)
        options.pin = options.pin == nil and pin or options.pin
        options.timeout = options.timeout == nil and 0.5 or options.timeout
        local asker <close> = echo.http.client(options)
        return asker:request("https://" .. server.address .. "/")
      end },
      http_request = { function(options)
        options.pin = options.pin == nil and pin or options.pin
        options.timeout = options.timeout == nil and 0.5 or options.timeout
        return echo.http.request("https://" .. server.address .. "/", options)
      end },
      call = {
        function(options) return client:with(options):request "ping" end,
        function(options) return client:with(options):emit "nothing" end,
        function(options) return client:create_stream("bytes", options) end,
        function(options) return client:with(options):stream "both" end,
      },
      topic = { function(options)
        topics = topics + 1
        local topic = server:topic("t" .. topics, options)
        topic:publish "x"
        topic:close()
        return true
      end },
      subscribe = { function(options) return client:subscribe("nobody", options) end },
      path = { function(options) return echo.sim.run(options, function() end) end },
      sim = { function(options) return echo.sim.run(options, function() end) end },
      listen = { raw_listen },
      dial = { function(options)
        options.alpn = options.alpn == nil and { "x" } or options.alpn
        options.pin = options.pin == nil and pin or options.pin
        options.timeout = options.timeout == nil and 0.1 or options.timeout
        return echo.quic.connect("10.0.0.9:9", options)
      end },
    }
  end

  local classes, heirs = support.options()
  for class, fields in pairs(classes) do
    env.it(("of %s: %d options"):format(class, #fields), function()
      local server = env.server(nil, function(server)
        server:add_rpc("ping", function() return "pong" end)
        server:http(function() return "hello" end)
        server:add_stream("bytes", function(_, stream) stream:recv() end)
        server:add_rpc("both", function(_, stream) stream:recv() end, { stream = "both" })
      end)
      local all = takers(server)
      local mine = all[class] or {}
      for _, heir in ipairs(not all[class] and heirs[class] or {}) do
        table.move(all[heir] or {}, 1, #(all[heir] or {}), #mine + 1, mine)
      end
      assert.is_true(#mine > 0, "nothing takes the options of this class here")
      local complaints, refused, worked = {}, 0, 0
      for _, field in ipairs(fields) do
        for _, value in ipairs(support.values) do
          for i, take in ipairs(mine) do
            local outcome
            local task = echo.spawn(function()
              outcome = table.pack(pcall(take, { [field] = value[2]() }))
            end)
            task:wait(40)
            if not outcome then
              task:cancel()
              task:wait(5)
            end
            local where = ("%s (%d) with %s = %s"):format(class, i, field, value[1])
            if not outcome then
              complaints[#complaints + 1] = where .. ": hangs"
            elseif not outcome[1] then
              refused = refused + 1
              if not support.is_argument_error(outcome[2]) then
                complaints[#complaints + 1] = where .. ": " .. tostring(outcome[2])
              end
            elseif outcome[2] == nil and outcome.n > 1 and not echo.is_error(outcome[3]) then
              complaints[#complaints + 1] = where .. ": nil and a " .. type(outcome[3])
            else
              worked = worked + 1
            end
          end
        end
      end
      assert.equal("", table.concat(complaints, "\n"))
      assert.is_true(refused > worked / 2 and worked > 0, refused .. " refused, " .. worked .. " worked")
    end, { seed = 1, limit = 1e7 })
  end
end)
