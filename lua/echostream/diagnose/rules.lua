--- The rules of `session:diagnose()`, as data: each looks at the figures of a session and says what it sees, what that means and what helps.
---
--- A rule has `name`, `level` (or what `look` gives as a fourth value), `limit` with where its figures come from (`source`), and
--- `look(facts, limit)`, which returns what, why and fix, or nothing. Of `facts`: `now` and `since` (the figures, and how much more they are
--- than at the last look), `streams` (a list of name and figures, the fullest first), `beat` (what heartbeats found), `socket` (the
--- endpoint's, as `since`), `in_flight`, `peer` (the session, or a client without one), `closed_by`.

local M = {}

-- Shares of packets need so many of them.
M.ENOUGH = 20

local MORE <const> = '; for every packet the transport options `qlog = "DIR"` and `keylog = "FILE"` (for Wireshark)'
local BEYOND <const> = "RFC 9000, section 4.1: nothing is sent beyond the other side's limit; 1,200 bytes are one packet"

local function bytes(n)
  if n >= 1 << 20 then
    return ("%.1f MiB"):format(n / (1 << 20))
  elseif n >= 1024 then
    return ("%.0f KiB"):format(n / 1024)
  end
  return ("%d bytes"):format(n)
end
M.bytes = bytes

local function time(seconds)
  return seconds < 1 and ("%.1f ms"):format(seconds * 1e3) or ("%.1f s"):format(seconds)
end
M.time = time

local function times(n)
  return n == 1 and "once" or ("%d times"):format(n)
end

local function rule(fields)
  M[#M + 1] = fields
end

-- Whether there is anybody -------------------------------------------------------------------------------------

rule { name = "closed", level = "problem", source = "session.closed_by", look = function(facts)
  if facts.closed_by then
    return "the session is over: " .. tostring(facts.closed_by),
      "nothing can be sent on it any more",
      "connect again, or have the client do so by itself (`reconnect = true`)"
  elseif facts.now then
    return nil
  elseif facts.peer.state == "reconnecting" then
    return "there is no connection",
      "it was lost, and the client dials again",
      "`client:ready()` waits for it; `reconnect = { on_change = fn }` is told why it fails"
  end
  return "there is no connection", "the client is not connected", "`client:connect(address)`"
end }

rule { name = "draining", level = "note", source = "GOAWAY, docs/PROTOCOL.md section 9", look = function(facts)
  if facts.peer.draining then
    return "the other side is about to stop",
      "it refuses new calls, and ends those that are under way",
      "connect to another server; clients with `reconnect` do so by themselves"
  end
end }

rule {
  name = "silent", level = "problem", limit = { misses = 1 }, source = "`heartbeat`: each answer is due within its `timeout`",
  look = function(facts, limit)
    local beat = facts.beat
    if beat and beat.silent >= limit.misses then
      return beat.silent == 1 and "the last heartbeat was not answered" or ("the last %d heartbeats were not answered"):format(beat.silent),
        "the path is gone, or the other side's program stands still",
        "look at that process (its `watchdog` names handlers that hold it up) and at the path" .. MORE
    end
  end,
}

rule {
  name = "busy_peer", level = "warning", limit = { seconds = 0.1 }, source = "`watchdog`: a handler that holds the loop for 100 ms does so too long",
  look = function(facts, limit)
    local beat = facts.beat
    if beat and beat.rtt and beat.silent == 0 and beat.rtt > facts.now.rtt_smoothed + limit.seconds then
      return ("a heartbeat took %s, though the path takes %s"):format(time(beat.rtt), time(facts.now.rtt_smoothed)),
        "the other side's program is slow to look at what came: something holds up its loop",
        "find that handler, which its `watchdog` logs; long work belongs in another process"
    end
  end,
}

-- The path -----------------------------------------------------------------------------------------------------

rule {
  name = "loss", limit = { warning = 0.02, problem = 0.1 },
  source = "Mathis and others, 1997: a TCP-like sender gets 1.22 packets through in a round trip, divided by the root of the loss",
  look = function(facts, limit)
    local sent, lost = facts.since.packets_sent, facts.since.packets_lost
    if sent < M.ENOUGH or lost / sent < limit.warning then
      return nil
    end
    local share, rtt = lost / sent, math.max(facts.now.rtt_smoothed, 1e-4)
    local rate = 1.22 * facts.now.path_mtu * 8 / (rtt * math.sqrt(share))
    return ("%.1f %% of our packets are lost (%d of %d)"):format(100 * share, lost, sent),
      ("the path drops them, a radio link or a queue that overflows; with a round trip of %s that leaves about %.1f Mbit/s"):format(
        time(rtt), rate / 1e6),
      "another path (`client:migrate`, `pool.paths` of fleets) or network; if a slow line overflows, send less at once" .. MORE,
      share >= limit.problem and "problem" or "warning"
  end,
}

rule {
  name = "queueing", level = "warning", limit = { seconds = 0.1 }, source = "RFC 8289: a queue that stands for longer than 100 ms is a bad one",
  look = function(facts, limit)
    local least, smoothed = facts.now.rtt_min, facts.now.rtt_smoothed
    if least > 0 and smoothed - least > limit.seconds then
      return ("a round trip takes %s, %s more than it has to"):format(time(smoothed), time(smoothed - least)),
        "packets wait in a queue somewhere on the path, ours or those of others",
        "send less at once, or let the router manage its queue (fq_codel); calls with a `priority` below 3 go first here"
    end
  end,
}

rule {
  name = "far", level = "note", limit = { seconds = 0.3 }, source = "ITU-T G.114: people notice from 150 ms one way on",
  look = function(facts, limit)
    if facts.now.rtt_min > limit.seconds then
      return ("the shortest round trip was %s"):format(time(facts.now.rtt_min)),
        "the other side is far away, whatever is sent",
        "save round trips: batches, streams instead of calls one after the other, 0-RTT"
    end
  end,
}

rule {
  name = "congestion", level = "note", limit = { share = 0.9 }, source = "RFC 9002, section 7: no more is under way than the congestion window",
  look = function(facts, limit)
    local now = facts.now
    if now.queued > 0 and now.bytes_in_flight >= limit.share * now.cwnd then
      return ("%s wait, and as much as may be is under way (%s)"):format(bytes(now.queued), bytes(now.cwnd)),
        ("the path is full: it takes about %.1f Mbit/s now"):format(now.cwnd * 8 / math.max(now.rtt_smoothed, 1e-4) / 1e6),
        "this is as fast as the path goes: send less, compress (`compress = true`), or let what is urgent go first (`priority`)"
    end
  end,
}

rule {
  name = "small_packets", level = "note", limit = { bytes = 1200 }, source = "RFC 9000, section 14: every path has to carry 1,200 bytes",
  look = function(facts, limit)
    local now = facts.now
    if now.mtu_reductions > 0 and now.path_mtu <= limit.bytes then
      return ("packets are no larger than %d bytes"):format(now.path_mtu),
        ("full ones vanished (%s): a tunnel on the path, or a very lossy one"):format(times(now.mtu_reductions)),
        "nothing; large data cost some more packets"
    end
  end,
}

rule {
  name = "kernel_drops", level = "problem", limit = { datagrams = 1 }, source = "socket(7), SO_RXQ_OVFL: the kernel counts what it had no room for",
  look = function(facts, limit)
    local socket = facts.socket
    if socket and socket.dropped_datagrams >= limit.datagrams then
      return ("the kernel threw away %d datagrams that came for us"):format(socket.dropped_datagrams),
        ("its receive buffer (%s) was full: we did not look for too long, or it is small"):format(bytes(socket.rcvbuf)),
        "`sysctl -w net.core.rmem_max=8388608` and start again; and look for handlers that hold up the loop (`watchdog`)"
    end
  end,
}

-- Credit and queues --------------------------------------------------------------------------------------------

rule {
  name = "credit", level = "warning", limit = { bytes = 1200 }, source = BEYOND,
  look = function(facts, limit)
    local now = facts.now
    if now.queued > 0 and now.credit < limit.bytes then
      return ("%s wait, and the other side lets us send %s more, on all streams together"):format(bytes(now.queued), bytes(now.credit)),
        "it holds as much of ours as it is willing to: its programs read too slowly, or messages are larger than its window",
        "have it read its streams, or give it a larger `transport.connection_window`"
    end
  end,
}

rule {
  name = "stream_credit", level = "warning", limit = { bytes = 1200 }, source = BEYOND,
  look = function(facts, limit)
    for _, stream in ipairs(facts.streams) do
      local figures = stream.figures
      if figures.queued > 0 and figures.credit and figures.credit < limit.bytes then
        return ("stream %s: %s wait, and the other side lets us send %s more"):format(stream.name, bytes(figures.queued), bytes(figures.credit)),
          "its reader is slower than we are; the other streams are not held up by that",
          "a faster reader; or have `when_full` drop what is old; or a larger `transport.stream_window` there, if it only stops now and then"
      end
    end
  end,
}

local QUEUE <const> = "the marks of the queues: `stream_queue`, `event_queue`, `session_queue`, `total_queue`"

local function is_full(figures)
  return figures.full or figures.queued > figures.high or figures.waiting > 0
end

rule { name = "full_queue", level = "warning", source = QUEUE, look = function(facts)
  for _, stream in ipairs(facts.streams) do
    local figures = stream.figures
    if is_full(figures) then
      local behind = figures.waiting > 0 and (", %d messages behind it"):format(figures.waiting) or ""
      return ("stream %s: its send queue is full (%s of %s%s)"):format(stream.name, bytes(figures.queued), bytes(figures.high), behind),
        ("more is sent than goes out; it was full %s, for %s"):format(times(figures.waits), time(figures.waited)),
        "nothing, if the reader or the path is to set the pace; else look at what is said of them here, or choose what to drop by `when_full`"
    end
  end
end }

rule { name = "waits", level = "note", source = QUEUE, look = function(facts)
  for _, stream in ipairs(facts.streams) do
    if is_full(stream.figures) then
      return nil -- that is said already
    end
  end
  if facts.since.send_waits > 0 then
    return ("the queue was full for senders of streams or events %s, for %s"):format(times(facts.since.send_waits), time(facts.since.send_waited)),
      "more is sent than goes out, now and then",
      "nothing, if waiting is fine; `when_full` says what else to do; larger marks only help against bursts"
  end
end }

rule {
  name = "slow_reader", level = "warning", limit = { bytes = 64 * 1024 }, source = "a quarter of the window of a stream (`transport.stream_window`)",
  look = function(facts, limit)
    for _, stream in ipairs(facts.streams) do
      local figures = stream.figures
      local what = ("stream %s: %s came that we have not read"):format(stream.name, bytes(figures.unread))
      if figures.unread >= limit.bytes and figures.paused then
        return what, "it is paused, and the other side has to stop soon, or has already", "`stream:resume()`"
      elseif figures.unread >= limit.bytes then
        return what, "we read more slowly than the other side sends, so it has to wait",
          "read it in a task of its own, and let nothing long stand between two `recv`"
      end
    end
  end,
}

rule {
  name = "no_streams", level = "problem", limit = { left = 0 }, source = "RFC 9000, section 4.6: the other side says how many streams may be open",
  look = function(facts, limit)
    if facts.now.streams_bidi_left <= limit.left then
      return ("no further call or stream can be opened: %d are under way"):format(facts.in_flight),
        "the other side lets no more be open at a time",
        "wait for some to end, close streams that are not needed, or raise `transport.max_concurrent_streams` there"
    end
  end,
}

rule {
  name = "memory", level = "warning", limit = { bytes = 6 << 20 }, source = "three quarters of the 8 MiB that a connection may hold",
  look = function(facts, limit)
    if facts.now.held >= limit.bytes then
      return ("%s are held for this connection"):format(bytes(facts.now.held)),
        "messages that were not read, in assembly, or not acknowledged; near 8 MiB the other side gets no credit any more",
        "read what came, or send large things in pieces (`echo.split`)"
    end
  end,
}

-- What did not come --------------------------------------------------------------------------------------------

rule { name = "dropped", level = "warning", source = "`when_full` of streams and events, `policy` of broadcasts", look = function(facts)
  local dropped = facts.since.dropped
  for _, stream in ipairs(facts.streams) do
    dropped = dropped + stream.figures.dropped
  end
  if dropped > 0 then
    return ("%d of our messages were dropped before they were sent"):format(dropped),
      "their queue was full, and that is what their policy says then",
      "send less often, or only what changed; or another policy"
  end
end }

rule {
  name = "missing_events", level = "note", limit = { events = 1 }, source = "the numbers that events carry",
  look = function(facts, limit)
    if facts.since.events_missing >= limit.events then
      return ("%d events of the other side did not come"):format(facts.since.events_missing),
        "datagrams were lost on the way, or the other side dropped events that it could not send in time",
        "reliable events (without `unreliable`) where each one matters; and a look at what is dropped there"
    end
  end,
}

return M
