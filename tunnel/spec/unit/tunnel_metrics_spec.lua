local echo = require "echostream"
local tunnel_metrics = require "echostream.tunnel.metrics"

local function record(more)
  local r = { kind = "http", protocol = "h2", rule = "spec-app", group = "spec-g", status = 200, bytes_in = 5, bytes_out = 12, to_headers = 0.001,
    duration = 0.5, attempts = 1 }
  for key, value in pairs(more or {}) do r[key] = value end
  return r
end

local function samples(name)
  local found = {}
  for line in echo.metrics.prometheus():gmatch "[^\n]+" do
    local series, value = line:match("^" .. name .. "(%b{}) (%S+)$")
    if not series then series, value = "", line:match("^" .. name .. " (%S+)$") end
    if value then found[series] = tonumber(value) end
  end
  return found
end

describe("the tunnel's metrics", function()
  it("count exchanges by rule, group and class of status, with times, bytes and causes", function()
    local m = tunnel_metrics.new()
    for _ = 1, 98 do m:record(record()) end
    m:record(record { status = 502, cause = "backend", to_headers = 2, attempts = 3 })
    m:record({ cause = "limit", limit = "global: requests", status = 503, duration = 0.001, kind = "grpc", protocol = "h2" })
    m:record(record { status = false, to_headers = false, cause = "visitor" })
    local requests = samples "echostream_tunnel_requests_total"
    assert.equal(98, requests['{rule="spec-app",group="spec-g",status="2xx"}'])
    assert.equal(1, requests['{rule="spec-app",group="spec-g",status="5xx"}'])
    assert.equal(1, requests['{rule="spec-app",group="spec-g",status="none"}'])
    assert.equal(1, requests['{rule="",group="",status="5xx"}'])
    assert.equal(500, samples "echostream_tunnel_received_bytes_total" ['{rule="spec-app",group="spec-g"}'])
    assert.equal(1200, samples "echostream_tunnel_sent_bytes_total" ['{rule="spec-app",group="spec-g"}'])
    assert.equal(1, samples "echostream_tunnel_failures_total" ['{rule="spec-app",group="spec-g",cause="backend"}'])
    assert.equal(1, samples "echostream_tunnel_refusals_total" ['{limit="global: requests"}'])
    assert.equal(2, samples "echostream_tunnel_retries_total" ['{rule="spec-app",group="spec-g"}'])
    assert.equal(99, samples "echostream_tunnel_headers_seconds_count" ['{rule="spec-app",group="spec-g"}'])
    local quantiles = samples "echostream_tunnel_quantile_seconds"
    local p50 = quantiles['{rule="spec-app",group="spec-g",of="headers",quantile="0.5"}']
    local p99 = quantiles['{rule="spec-app",group="spec-g",of="headers",quantile="0.99"}']
    assert.is_true(p50 > 0.0008 and p50 < 0.0013, p50)
    assert.is_true(p99 >= p50 and p99 < 2.5, p99)
    assert.is_true(math.abs(quantiles['{rule="spec-app",group="spec-g",of="end",quantile="0.95"}'] - 0.5) < 0.1)
    assert.is_true(samples "echostream_tunnel_peak_memory_bytes" [""] > 1e6)
    assert.is_true(samples "echostream_tunnel_memory_bytes" [""] > 1e6)
    m:close()
  end)

  it("show what is under way, and forget what is gone", function()
    local now = { in_flight = { ["spec-g"] = 3 }, agents = { ["spec-g"] = { ready = 2, draining = 1 } }, backends = { ["spec-g"] = { healthy = 4 } },
      queued = 77, buffered = 88, resets = 9, connections = 5 }
    local m = tunnel_metrics.new(function() return now end)
    assert.equal(3, samples "echostream_tunnel_in_flight" ['{group="spec-g"}'])
    assert.equal(1, samples "echostream_tunnel_agents" ['{group="spec-g",state="draining"}'])
    assert.equal(4, samples "echostream_tunnel_backends" ['{group="spec-g",state="healthy"}'])
    assert.equal(77, samples "echostream_tunnel_queued_bytes" [""])
    assert.equal(88, samples "echostream_tunnel_buffered_bytes" [""])
    assert.equal(9, samples "echostream_tunnel_resets" [""])
    assert.equal(5, samples "echostream_tunnel_connections" [""])
    now = { agents = { ["spec-g"] = { ready = 1 } } }
    assert.is_nil(samples "echostream_tunnel_in_flight" ['{group="spec-g"}'])
    local agents = samples "echostream_tunnel_agents"
    assert.equal(1, agents['{group="spec-g",state="ready"}'])
    assert.is_nil(agents['{group="spec-g",state="draining"}'])
    m:close()
  end)

  it("have few series whatever visitors ask for", function()
    local m = tunnel_metrics.new()
    local before = select(2, echo.metrics.prometheus():gsub("\n", ""))
    for i = 1, 5000 do m:record(record { host = "h" .. i, path = "/" .. i, agent = "a" .. i, peer_ip = "10.0.0." .. i }) end
    local after = select(2, echo.metrics.prometheus():gsub("\n", ""))
    assert.is_true(after - before < 200, after - before)
    m:close()
  end)
end)
