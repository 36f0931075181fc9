-- The cases of `make interop`, after those of quic-interop-runner. A case is
--
--   name      what it is called
--   network   settings of the path, by the names that echo.sim and spec/support/impair.lua share; `up` (towards the server) and
--             `down` are tables for one direction
--   bulk      true: behind the runner's usual line (10 Mbit/s, 15 ms one way, 25 packets), with `network` on top
--   server    options of the server
--   env       of the server's process, or a function of a directory that gives them (only "real")
--   needs     a version of ngtcp2, "1.0", without which it is left out
--   direct    true: no proxy in between (it wipes ECN marks)
--   only      "real" or "sim" where the other makes no sense
--   limit     seconds (of virtual time in the simulator; default 60)
--   ipv6      true
--   run(t)    raises when something is wrong; may return a text for the report. `t` has
--               t.kind, t.address (to connect to), t.pin
--               t:connect(opts)   a connected client; nil, err where it fails
--               t:http(opts)      a client of HTTP/3
--               t:set(settings)   changes the network: what is not named stays
--               t:rebind()        the server sees every client at another port; t:rebind(true): at another address too
--               t:gone(seconds)   nothing passes
--               t:traffic()       bytes so far: { up_sent, up_arrived, down_sent, down_arrived }
--               t:lost()          datagrams that were lost so far

local echo = require "echostream"
local handlers = require "spec.interop.handlers"

local function check(ok, what, ...)
  if not ok then
    error(what:format(...), 2)
  end
end

local function download(client, name, size)
  local ok, err = handlers.download(client, name, size)
  check(ok, "download of %s: %s", name, err)
end

local function one_call(client)
  local bytes = ("x"):rep(1000)
  local got, err = client:request("echo", bytes)
  check(got == bytes, "the echo: %s", err)
end

-- Three files at once, as the runner does.
local function transfer(t, scale)
  local client = assert(t:connect { timeout = 120 })
  local began, tasks = echo.now(), {}
  for i, size in ipairs { 2, 3, 5 } do
    tasks[i] = echo.spawn(download, client, "file" .. i, size * scale)
  end
  for _, task in ipairs(tasks) do
    local ok, err = task:wait()
    check(err == nil, "%s %s", ok, err)
  end
  return ("%.2f Mbit/s"):format(10 * scale * 8 / (echo.now() - began) / 1e6)
end

-- Over HTTP/3: three files at once to here, and one more from here, all on one connection.
local function http3(scale)
  return function(t)
    local http = t:http()
    local began, tasks = echo.now(), {}
    for i, size in ipairs { 2, 3, 5 } do
      tasks[i] = echo.spawn(function()
        local ok, err = handlers.file(http, t.address, "GET", "file" .. i, size * scale)
        check(ok, "%s", err)
      end)
    end
    for _, task in ipairs(tasks) do
      local ok, err = task:wait()
      check(err == nil, "%s %s", ok, err)
    end
    local down = 10 * scale * 8 / (echo.now() - began) / 1e6
    began = echo.now()
    local ok, err = handlers.file(http, t.address, "PUT", "mine", 5 * scale)
    check(ok, "%s", err)
    check(#http:connections() == 1, "%d connections", #http:connections())
    return ("%.2f Mbit/s down, %.2f up"):format(down, 5 * scale * 8 / (echo.now() - began) / 1e6)
  end
end

-- At 30 % loss a handshake may need repetitions that back off to 16 s, more than the default time-outs allow; and one in a few
-- hundred needs more than anybody waits for: then a client dials again, as users do.
local PATIENT = { connect_timeout = 60, timeout = 60, transport = { idle_timeout = 90 } }
local PATIENT_SERVER = { transport = { idle_timeout = 90, handshake_timeout = 60 } }

local function handshakes(n)
  return function(t)
    local times, again = {}, 0
    for i = 1, n do
      local began, done = echo.now(), false
      repeat
        local client, err = t:connect(PATIENT)
        if client then
          done, err = client:request("echo", "hello")
          check(not done or done == "hello", "the echo is %s", done)
          client:close()
        end
        again = again + (done and 0 or 1)
        check(again <= math.max(1, n // 10), "%d connections failed, the last with: %s", again, err)
      until done
      times[i] = echo.now() - began
    end
    table.sort(times)
    return ("%d connections, median %.0f ms, slowest %.0f ms%s"):format(n, 1e3 * times[(n + 1) // 2], 1e3 * times[n],
      again > 0 and (", %d dialled again"):format(again) or "")
  end
end

-- The network is gone for a while, under calls of every deadline: each ends at its own, and the session goes on as soon as it
-- can; or it is over, and says so at once.
local function gone(seconds)
  return function(t)
    local client = assert(t:connect())
    local latest, calls, tasks, codes = 0, 0, {}, {}
    local stalled = 0 -- the longest time that this process did not get a processor; it is not the calls' fault
    local function call(timeout)
      local began = echo.now()
      local got, err = client:with { timeout = timeout }:request("echo", calls)
      latest = math.max(latest, echo.now() - began - timeout)
      local code = got and "ok" or err.code
      codes[code] = (codes[code] or 0) + 1
    end
    local function calls_for(duration)
      local ends = echo.now() + duration
      while echo.now() < ends do
        for _, timeout in ipairs { 0.1, 0.5, 2, 5 } do
          calls = calls + 1
          tasks[calls] = echo.spawn(call, timeout)
        end
        local woken = echo.now() + 0.1
        echo.sleep(0.1)
        stalled = math.max(stalled, echo.now() - woken)
      end
    end
    calls_for(0.5)
    t:gone(seconds)
    calls_for(seconds)
    local began = echo.now()
    if seconds < 30 then -- the idle time-out
      local back = client:with { timeout = 30 }:request("echo", "back")
      check(back == "back", "the session did not come back")
    else
      check(client.state == "closed", "the session is %s after %d s of silence", client.state, seconds)
      one_call(assert(t:connect()))
    end
    local returned = echo.now() - began
    for _, task in ipairs(tasks) do task:wait() end
    check(latest - stalled <= 0.05, "a call ended %.0f ms after its deadline, the machine stood still for %.0f ms", latest * 1e3,
      stalled * 1e3)
    check((codes.ok or 0) > 0 and (codes.timeout or 0) > 0, "no call ended well, or none by its deadline")
    local words = {}
    for code, n in pairs(codes) do words[#words + 1] = ("%d %s"):format(n, code) end
    table.sort(words)
    return ("%s; the latest %.1f ms late, a timer beside it %.1f ms; went on after %.2f s"):format(table.concat(words, ", "),
      math.max(latest, 0) * 1e3, stalled * 1e3, returned)
  end
end

-- While a download of some seconds is under way, `act` is done again and again.
local function during_download(t, size, each, act)
  local client = assert(t:connect { timeout = 60 })
  local over, times, failed = false, 0, nil
  local task = echo.spawn(function()
    download(client, "file", size)
    over = true
  end)
  while true do
    local ended, err = task:wait(each)
    if over then break end
    check(err and err.code == "timeout", "%s %s", ended, err)
    times = times + 1
    failed = failed or act(client)
    check(not failed, "%s", failed)
    one_call(client)
  end
  check(times > 0, "the download was over at once")
  return client, times
end

local function rebinding(with_address)
  return function(t)
    local first
    local client, times = during_download(t, 3000000, 1, function(client)
      first = first or client:request "where"
      t:rebind(with_address)
    end)
    local last = client:request "where"
    check(first and last ~= first, "the server still sees %s", last)
    if with_address then
      check(last:match "^(.*):" ~= first:match "^(.*):", "the server still sees %s", last)
    end
    return ("%d times, from %s to %s"):format(times, first, last)
  end
end

-- One client for the ticket, another one that uses it.
local function resumed(t, opts)
  local first = assert(t:connect(opts))
  one_call(first)
  check(not first:stats().resumed, "the first handshake was no whole one")
  echo.sleep(0.2) -- the ticket comes after the handshake
  first:close()
  return assert(t:connect(opts))
end

return {
  { name = "handshake", network = { delay = 0.015 }, run = handshakes(5) },
  { name = "transfer", bulk = true, run = function(t) return transfer(t, 1000000) end },
  { name = "ipv6", ipv6 = true, network = { delay = 0.015 }, run = function(t)
    check(t.address:find "^%[", "%s is no IPv6 address", t.address)
    return transfer(t, 300000)
  end },
  { name = "http3", bulk = true, run = http3(300000) },
  { name = "http3 loss", bulk = true, network = { loss = 0.02 }, limit = 120, run = http3(100000) },
  { name = "http3 corruption", bulk = true, network = { corrupt = 0.02 }, limit = 120, run = http3(100000) },
  { name = "http3 blackhole", bulk = true, network = { on = 5, off = 2 }, limit = 120, run = http3(600000) },
  { name = "http3 multiplexing", network = { delay = 0.015 }, server = { transport = { max_concurrent_streams = 100 } },
    run = function(t)
      local http, tasks = t:http(), {}
      for i = 1, 1000 do
        tasks[i] = echo.spawn(function()
          local ok, err = handlers.file(http, t.address, "GET", ("file%d"):format(i % 7), 32)
          check(ok, "%s", err)
        end)
      end
      check(echo.all(tasks), "not all tasks ended well")
      check(#http:connections() == 1, "%d connections", #http:connections())
      return "1,000 files of 32 bytes on one connection"
    end },
  { name = "longrtt", network = { delay = 0.75 }, limit = 120, run = function(t)
    local began = echo.now()
    local client = assert(t:connect())
    local connected = echo.now() - began
    check(connected >= 1.5 and connected < 3.2, "connecting took %.2f s", connected)
    download(client, "file", 100000)
    return ("connected after %.2f s"):format(connected)
  end },
  { name = "multiplexing", network = { delay = 0.015 }, server = { transport = { max_concurrent_streams = 100 }, max_calls = 1000 },
    run = function(t)
      local client = assert(t:connect())
      local tasks, wrong = {}, 0
      for i = 1, 1999 do
        tasks[i] = echo.spawn(function()
          local bytes = ("%032d"):format(i)
          if client:request("echo", bytes) ~= bytes then wrong = wrong + 1 end
        end)
      end
      check(echo.all(tasks), "not all tasks ended well")
      check(wrong == 0, "%d of 1,999 answers are wrong", wrong)
      return "1,999 calls of 32 bytes"
    end },
  { name = "amplification limit", network = { delay = 0.015 }, only = "sim",
    server = { names = (function()
      local names, label = { "10.0.0.1" }, ("x"):rep(50)
      for i = 1, 63 do names[i + 1] = ("%s.%s.%s%02d"):format(label, label, label, i) end -- about 10 kB, as nine certificates have
      return names
    end)() },
    run = function(t)
      -- Of the client nothing arrives after its first datagrams: the server may send three times as much (RFC 9000, section 8.1).
      local dialling = echo.spawn(function() return t:connect { connect_timeout = 8 } end)
      echo.sleep(0.005)
      t:set { up = { loss = 1 } }
      local client = dialling:wait()
      check(not client, "connected, although nothing arrived")
      local bytes = t:traffic()
      check(bytes.up_arrived >= 1200, "only %d bytes arrived", bytes.up_arrived)
      check(bytes.down_sent <= 3 * bytes.up_arrived, "%d bytes sent for %d", bytes.down_sent, bytes.up_arrived)
      t:set { up = { loss = 0 } }
      one_call(assert(t:connect()))
      return ("%d bytes for %d: %.2f times as much"):format(bytes.down_sent, bytes.up_arrived, bytes.down_sent / bytes.up_arrived)
    end },
  { name = "handshake loss", network = { delay = 0.015, loss = 0.3 }, server = PATIENT_SERVER, limit = 600, run = handshakes(20) },
  { name = "transfer loss", bulk = true, network = { loss = 0.02 }, limit = 120, run = function(t) return transfer(t, 300000) end },
  { name = "handshake corruption", network = { delay = 0.015, corrupt = 0.3 }, server = PATIENT_SERVER, limit = 600, run = handshakes(20) },
  { name = "transfer corruption", bulk = true, network = { corrupt = 0.02 }, limit = 120,
    run = function(t) return transfer(t, 300000) end },
  { name = "blackhole", bulk = true, network = { on = 5, off = 2 }, limit = 120, run = function(t)
    return transfer(t, 1000000)
  end },
  { name = "goodput", bulk = true, run = function(t)
    local client = assert(t:connect { timeout = 60 })
    local began = echo.now()
    download(client, "file", 10000000)
    local rate = 10000000 * 8 / (echo.now() - began) / 1e6
    check(rate >= 9.0, "%.2f of 10 Mbit/s", rate)
    return ("%.2f of 10 Mbit/s"):format(rate)
  end },
  { name = "connectionmigration", bulk = true, limit = 120, run = function(t)
    local client = assert(t:connect { timeout = 60 })
    local files = echo.spawn(download, client, "file", 3000000)
    for i = 1, 5 do
      echo.sleep(0.3)
      local ok, err = client:migrate(t.kind == "real" and { bind = ("127.0.0.%d:0"):format(i + 1) } or nil)
      check(ok, "the %dth migration: %s", i, err)
      one_call(client)
    end
    local ok, err = files:wait()
    check(err == nil, "%s %s", ok, err)
    check(client:stats().migrations == 5, "%d migrations", client:stats().migrations)
    return "5 migrations during 3 MB"
  end },
  { name = "gone for 2 s", network = { delay = 0.015 }, limit = 30, run = gone(2) },
  { name = "gone for 10 s", network = { delay = 0.015 }, limit = 60, run = gone(10) },
  { name = "gone for 40 s", network = { delay = 0.015 }, limit = 120, run = gone(40) },
  { name = "retry", network = { delay = 0.015 }, server = { retry = "always" }, run = function(t)
    local client = assert(t:connect())
    one_call(client)
    local stats = client:request "endpoint_stats"
    check(stats.retries >= 1 and stats.tokens_accepted >= 1, "%d retries, %d tokens", stats.retries, stats.tokens_accepted)
    check(client:stats().handshake_time >= 0.06, "the handshake took %.3f s", client:stats().handshake_time)
    return ("%d sent, %d tokens accepted"):format(stats.retries, stats.tokens_accepted)
  end },
  { name = "resumption", network = { delay = 0.015 }, run = function(t)
    local client = resumed(t, { session_cache = true })
    one_call(client)
    check(client:stats().resumed, "the second handshake was a whole one")
    download(client, "file", 100000)
  end },
  { name = "0-RTT", network = { delay = 0.1 }, server = { transport = { enable_0rtt = true } }, run = function(t)
    local began
    local client = resumed(t, { session_cache = true, transport = { enable_0rtt = true } })
    began = echo.now()
    local got, err = client:with { idempotent = true }:request("early", "x")
    local took = echo.now() - began
    check(got == "x", "%s", err)
    check(client:stats().early_data == "accepted", "early data: %s", client:stats().early_data)
    check(took < 0.3, "the first answer took %.3f s", took) -- one round trip is 0.2 s, two are 0.4
    one_call(client)
    return ("connected and answered within %.0f ms, the round trip is 200 ms"):format(took * 1e3)
  end },
  { name = "key update", bulk = true, run = function(t)
    local client, times = during_download(t, 3000000, 0.5, function(client)
      local ok, err = client.session:update_key()
      return not ok and err.code ~= "failed_precondition" and tostring(err) or nil
    end)
    check(client:stats().key_updates >= 1, "no key was changed")
    return ("%d asked for, %d done"):format(times, client:stats().key_updates)
  end },
  { name = "v2", needs = "1.0", network = { delay = 0.015 }, run = function(t)
    local client = assert(t:connect { transport = { version = 2 } })
    one_call(client)
    check(client:stats().quic_version == 2, "version %d", client:stats().quic_version)
  end },
  { name = "ecn", direct = true, run = function(t)
    local client = assert(t:connect())
    download(client, "file", 500000)
    local mine, theirs = client:stats(), client:request "session_stats"
    check(mine.ecn == "capable" and theirs.ecn == "capable", "ECN is %s here, %s there", mine.ecn, theirs.ecn)
    check(theirs.ecn_acked > 0 and mine.ecn_received > 0, "nothing was marked")
    return ("%d of %d marked packets arrived so"):format(theirs.ecn_acked, theirs.ecn_sent)
  end },
  { name = "ecn congestion", only = "sim", network = { rate = 1e7, delay = 0.015, queue_bytes = 100000, mark = 30000 }, run = function(t)
    local client = assert(t:connect { timeout = 60 })
    local began = echo.now()
    download(client, "file", 5000000)
    local rate = 40 / (echo.now() - began)
    local theirs = client:request "session_stats"
    check(theirs.ecn_ce_acked > 0, "no mark came")
    check(t:lost() == 0, "%d datagrams were lost", t:lost())
    check(rate >= 8.5, "%.2f Mbit/s", rate)
    return ("%d marks, nothing lost, %.2f Mbit/s"):format(theirs.ecn_ce_acked, rate)
  end },
  -- The NAT gives the client another port or address each second, under a download; small calls beside it: none may fail.
  { name = "rebind-port", bulk = true, run = rebinding(false) },
  { name = "rebind-addr", bulk = true, run = rebinding(true) },
  { name = "chacha20", only = "real", network = { delay = 0.015 },
    -- The server's TLS library is told to offer no AES.
    env = function(dir)
      local file <close> = assert(io.open(dir .. "/tls", "w"))
      file:write "[overrides]\ntls-disabled-cipher = AES-128-GCM\ntls-disabled-cipher = AES-256-GCM\ntls-disabled-cipher = AES-128-CCM\n"
      return { GNUTLS_SYSTEM_PRIORITY_FILE = dir .. "/tls" }
    end,
    run = function(t) return transfer(t, 300000) end },
}
