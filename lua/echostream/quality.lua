--- How good a connection is: what the figures of QUIC say between two looks at them.

local M = {}

-- Packets below which a share of lost ones says nothing.
local ENOUGH = 20

--- What is remembered of one connection.
---@return table
function M.new()
  return { bad = 0 }
end

--- Looks at the figures; the reason when they were too bad twice in a row.
---@param watch table
---@param stats echostream.stats
---@param now number
---@param opts { max_loss: number, max_rtt?: number, silent: number }
---@return string? why
function M.judge(watch, stats, now, opts)
  local why
  if watch.heard == nil or stats.packets_received ~= watch.received then
    watch.heard, watch.asked = now, nil
  elseif stats.packets_sent ~= watch.sent and not watch.asked then
    watch.asked = now -- something went out since, and nothing came back
  end
  if watch.asked and now - watch.asked >= opts.silent then
    watch.bad, watch.asked = 0, now
    return ("nothing was heard for %.1f s"):format(now - watch.heard)
  end
  local sent, lost = stats.packets_sent - (watch.counted or 0), stats.packets_lost - (watch.lost or 0)
  if sent >= ENOUGH then
    if watch.counted and lost / sent > opts.max_loss then
      why = ("%.0f %% of the packets were lost"):format(100 * lost / sent)
    end
    watch.counted, watch.lost = stats.packets_sent, stats.packets_lost
  end
  if not why and opts.max_rtt and stats.rtt_smoothed > opts.max_rtt then
    why = ("a round trip takes %.3f s"):format(stats.rtt_smoothed)
  end
  watch.sent, watch.received = stats.packets_sent, stats.packets_received
  watch.bad = why and watch.bad + 1 or sent >= ENOUGH and 0 or watch.bad
  return watch.bad >= 2 and why or nil
end

return M
