-- W3C Trace Context through calls, handlers, tasks, events, streams and the log: lua/echostream/trace.lua.

local busted = require "busted"
local echo = require "echostream"
local net = require "spec.support.net"
local trace = require "echostream.trace"
local describe, it = busted.describe, busted.it

local TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

describe("a traceparent", function()
  it("is read as the W3C says", function()
    local context = assert(trace.parse(("00-%s-%s-01"):format(TRACE, SPAN), "a=1,b=2"))
    assert.same({ trace_id = TRACE, span_id = SPAN, sampled = true, state = "a=1,b=2" }, context)
    assert.equal(("00-%s-%s-01"):format(TRACE, SPAN), trace.format(context))
    assert.is_false(trace.parse(("00-%s-%s-00"):format(TRACE, SPAN)).sampled)
    assert.is_true(trace.parse(("00-%s-%s-ff"):format(TRACE, SPAN)).sampled)
    assert.is_table(trace.parse(("cc-%s-%s-01"):format(TRACE, SPAN)))
    assert.is_table(trace.parse(("cc-%s-%s-01-what-comes-later"):format(TRACE, SPAN)))
  end)

  it("is refused where it is none", function()
    for _, text in ipairs {
      "", "x", ("00-%s-%s"):format(TRACE, SPAN), ("ff-%s-%s-01"):format(TRACE, SPAN), ("00-%s-%s-01-more"):format(TRACE, SPAN),
      ("00-%s-%s-01"):format(TRACE:upper(), SPAN), ("00-%s-%s-01"):format(("0"):rep(32), SPAN),
      ("00-%s-%s-01"):format(TRACE, ("0"):rep(16)), ("00-%s-%s-1"):format(TRACE, SPAN), ("00-%s0-%s-01"):format(TRACE, SPAN),
      ("cc-%s-%s-01x"):format(TRACE, SPAN), ("00_%s_%s_01"):format(TRACE, SPAN), ("cc-%s-%s-01-"):format(TRACE, SPAN) .. ("x"):rep(1000),
    } do
      assert.is_nil(trace.parse(text), text)
    end
    assert.is_nil(trace.parse(nil))
    assert.is_nil(trace.parse(5))
    assert.is_nil(trace.parse(("00-%s-%s-01"):format(TRACE, SPAN), ("x"):rep(600)).state)
  end)

  it("is made anew, never alike and never zero", function()
    local first, second = trace.new(), trace.new()
    assert.not_equal(first.trace_id, second.trace_id)
    assert.is_table(trace.parse(trace.format(first)))
    local child = trace.new(first)
    assert.equal(first.trace_id, child.trace_id)
    assert.equal(first.span_id, child.parent_id)
    assert.not_equal(first.span_id, child.span_id)
    assert.is_false(trace.new(nil, false).sampled)
  end)
end)

net.each(function(env)
  -- A client that calls a front, whose handler calls a back.
  local function chain(spans)
    local back = env.server(nil, function(server)
      server:middleware(trace.middleware { on_span = function(span) spans.back = span end })
      server:add_rpc("where", function() return trace.current(), echo.call().metadata.traceparent end)
      server:add_rpc("fail", function() error "broken" end)
    end)
    local link = env.client(back)
    link:middleware(trace.middleware { on_span = function(span) spans.link = span end })
    assert(link:connect(back.address))
    local front = env.server(nil, function(server)
      server:middleware(trace.middleware { on_span = function(span) spans.front = span end })
      server:add_rpc("where", function() return trace.current(), link:request "where" end)
      server:add_rpc("spawned", function()
        return echo.spawn(function() return link:request "where" end):wait()
      end)
      server:add_rpc("fail", function() return link:request "fail" end)
    end)
    local client = env.client(front)
    client:middleware(trace.middleware { on_span = function(span) spans.client = span end })
    return assert(client:connect(front.address)), front, back
  end

  env.it("goes from a client through a handler to the call it makes", function()
    local spans = {}
    local client = chain(spans)
    local front, back, carried = client:request "where"
    assert.equal(front.trace_id, back.trace_id)
    assert.not_equal(front.span_id, back.span_id)
    assert.equal(front.span_id, spans.front.span_id)
    assert.equal(spans.client.span_id, spans.front.parent_id)
    assert.equal(spans.front.span_id, spans.link.parent_id)
    assert.equal(spans.link.span_id, spans.back.parent_id)
    assert.equal(("00-%s-%s-01"):format(front.trace_id, spans.link.span_id), carried)
    assert.is_nil(spans.client.parent_id)
    assert.equal("where", spans.front.name)
    assert.equal("ok", spans.client.code)
    assert.is_true(spans.client.duration >= 0)
    assert.is_nil(trace.current())
    local second = client:request "where"
    assert.not_equal(front.trace_id, second.trace_id)
  end)

  env.it("is inherited by tasks, and by a job that says its own", function()
    local spans = {}
    local client = chain(spans)
    local back = client:request "spawned"
    assert.equal(spans.client.trace_id, back.trace_id)
    local mine = trace.new()
    local front = trace.with(mine, client.request, client, "where")
    assert.equal(mine.trace_id, front.trace_id)
    assert.equal(mine.span_id, spans.client.parent_id)
    assert.has_error(function() trace.with(mine, error, "x") end)
    assert.is_nil(trace.current())
  end)

  env.it("is the caller's where the caller says so", function()
    local spans = {}
    local client = chain(spans)
    local front = client:with({ metadata = { traceparent = ("00-%s-%s-00"):format(TRACE, SPAN) } }):request "where"
    assert.equal(TRACE, front.trace_id)
    assert.equal(SPAN, front.parent_id)
    assert.is_false(front.sampled)
    front = client:with({ metadata = { traceparent = "nonsense" } }):request "where"
    assert.not_equal(TRACE, front.trace_id)
  end)

  env.it("is in the log of a handler that fails", function()
    local spans = {}
    local client = chain(spans)
    local _, err = client:request "fail"
    assert.equal("unknown", err.code)
    local record = assert(env.logged "broken")
    assert.equal(spans.client.trace_id, record.trace_id)
    assert.equal(spans.back.span_id, record.span_id)
    assert.equal("unknown", spans.back.code)
  end)

  env.it("goes along with events and streams", function()
    local seen = {}
    local _, client = env.pair(function(server)
      server:middleware(trace.middleware())
      server:add_event("tick", function() seen.event = trace.current() end)
      server:add_stream("hold", function(_, stream)
        seen.stream = trace.current()
        stream:recv()
      end)
    end)
    client:middleware(trace.middleware { sample = 0 })
    local mine = trace.new(nil, true)
    trace.with(mine, function()
      client:emit "tick"
      client:create_stream("hold"):finish()
    end)
    env.eventually(function() return seen.event and seen.stream end, "both came")
    assert.equal(mine.trace_id, seen.event.trace_id)
    assert.equal(mine.trace_id, seen.stream.trace_id)
    assert.is_true(seen.event.sampled)
    seen.event = nil
    client:emit "tick"
    env.eventually(function() return seen.event end, "it came")
    assert.is_false(seen.event.sampled)
  end)

  env.it("survives an on_span that raises", function()
    local _, client = env.pair(function(server) server:add_rpc("x", function() return 1 end) end)
    client:middleware(trace.middleware { on_span = function() error "oops" end })
    assert.equal(1, client:request "x")
    assert.is_table(env.logged "oops")
  end)
end)
