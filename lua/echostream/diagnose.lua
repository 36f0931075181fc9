--- What is wrong with a session, in plain words: rules look at its figures, and each says what it sees, why that is so and what helps.
---
---     print(client:diagnose())

local errors = require "echostream.errors"
local loop = require "echostream.loop"
local rules = require "echostream.diagnose.rules"

local M = {}

local bytes, time = rules.bytes, rules.time

---@class echostream.diagnosis  a list of findings, the gravest first; `tostring` makes sentences of it
---@field healthy boolean  nothing is wrong: there are notes at most
---@field summary string   the figures that always say something, in one line
---@field [integer] echostream.diagnosis.finding

---@class echostream.diagnosis.finding
---@field name string   of the rule
---@field level "problem"|"warning"|"note"  something fails or stands still; something is slower than it could be; something to know
---@field what string   what is seen, with its figures
---@field why string    what that means
---@field fix string    what helps
---@field source string where the figures come from that the rule compares with

local Diagnosis = { __name = "echostream.diagnosis" }
Diagnosis.__index = Diagnosis

-- Seconds from one look to the next that is counted from.
local SPAN <const> = 1

-- Facts -------------------------------------------------------------------------------------------------------

local growing = { "packets_sent", "packets_lost", "send_waits", "send_waited", "dropped", "events_missing" }

-- How much more the figures are than at the last look, if that was long enough ago to say something; else than at the beginning.
local function since(kept, now, socket)
  local last = kept and now.packets_sent - kept.stats.packets_sent >= rules.ENOUGH and kept.stats or nil
  local more = {}
  for _, name in ipairs(growing) do
    more[name] = now[name] - (last and last[name] or 0)
  end
  local drops = socket and { rcvbuf = socket.rcvbuf, dropped_datagrams = socket.dropped_datagrams - (last and kept.drops or 0) } or nil
  return more, drops
end

local function streams_of(peer)
  local streams = {}
  for stream in pairs(peer._streams or {}) do
    local figures = stream:stats()
    if figures and figures.state ~= "closed" and figures.state ~= "failed" then
      streams[#streams + 1] = { name = ("%s (%d)"):format(stream.name, stream.id), id = stream.id, figures = figures }
    end
  end
  table.sort(streams, function(a, b)
    return a.figures.queued + a.figures.unread > b.figures.queued + b.figures.unread
      or a.figures.queued + a.figures.unread == b.figures.queued + b.figures.unread and a.id < b.id
  end)
  return streams
end

local function socket_of(peer)
  local host = peer.server_ctx._host[1]
  local endpoint = peer._endpoint or host and host._endpoint
  return endpoint and endpoint:stats()
end

local function facts_of(peer)
  local now = peer:stats()
  if not now or peer.closed_by then
    return { peer = peer, closed_by = peer.closed_by or errors.new("connection_closed", "the session is closed") }
  end
  local socket = socket_of(peer)
  local kept = peer._diagnosed
  local facts = { peer = peer, now = now, streams = streams_of(peer), beat = peer.heartbeat, in_flight = peer._ud:in_flight() }
  facts.since, facts.socket = since(kept, now, socket)
  if not kept or loop.now() - kept.at >= SPAN then
    peer._diagnosed = { at = loop.now(), stats = now, drops = socket and socket.dropped_datagrams or 0 }
  end
  return facts
end

-- The diagnosis -----------------------------------------------------------------------------------------------

local ranks = { problem = 1, warning = 2, note = 3 }

local function summary_of(facts)
  local now = facts.now
  if not now then
    return "no connection"
  end
  local sent = facts.since.packets_sent
  return ("round trip %s, %.1f %% of %d packets lost, %s under way of %s, %s queued, %d calls and streams"):format(time(now.rtt_smoothed),
    sent > 0 and 100 * facts.since.packets_lost / sent or 0, sent, bytes(now.bytes_in_flight), bytes(now.cwnd), bytes(now.queued), facts.in_flight)
end

local function judge(facts)
  local found = setmetatable({ healthy = true, summary = summary_of(facts) }, Diagnosis)
  for i, rule in ipairs(rules) do
    if facts.now or rule.name == "closed" then
      local what, why, fix, level = rule.look(facts, rule.limit)
      if what then
        level = level or rule.level
        found.healthy = found.healthy and level == "note"
        found[#found + 1] = { name = rule.name, level = level, what = what, why = why, fix = fix, source = rule.source, _at = i }
      end
    end
  end
  table.sort(found, function(a, b)
    return ranks[a.level] < ranks[b.level] or ranks[a.level] == ranks[b.level] and a._at < b._at
  end)
  for _, finding in ipairs(found) do
    finding._at = nil
  end
  return found
end

Diagnosis.__tostring = function(self)
  local lines = { (self.healthy and "healthy: " or "not healthy: ") .. self.summary }
  for _, finding in ipairs(self) do
    lines[#lines + 1] = ("%s: %s.\n  Why: %s.\n  Fix: %s."):format(finding.level, finding.what, finding.why, finding.fix)
  end
  return table.concat(lines, "\n")
end

local shared = {} -- of sessions and clients
M.shared = shared

--- What is wrong with the connection, in plain words: loss, congestion, credit, queues, and what helps. `print` it. Figures that grow count from
--- the last time that it was asked, so asking twice, some seconds apart, says how it is now. Costs a look at every open stream.
---@return echostream.diagnosis
function shared:diagnose()
  local peer = self
  if not self.server_ctx then
    peer = self.session
  end
  if not peer then
    return judge { peer = self }
  end
  return judge(facts_of(peer))
end

return M
