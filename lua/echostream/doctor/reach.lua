--- How far UDP packets get on the way to a server, without a handshake: a long-header packet of a version that nobody speaks must
--- be answered with a Version Negotiation packet (RFC 9000, section 6.1), by any QUIC server. What does not get there may be
--- answered by ICMP, which the kernel hands to the socket that sent it; no privileges are needed.

local core = require "echostream.core"
local address = require "echostream.address"
local loop = require "echostream.loop"
local task = require "echostream.task"

local M = {}

-- A version of the form 0x?a?a?a?a, which is kept for making servers say what they speak.
local VERSION = "\x1a\x2a\x3a\x4a"
-- The least a server has to answer.
M.SMALLEST = 1200
-- Sockets are looked at again and again: often in the first moments, when the answer of somebody near comes. False: nobody waits for us
-- any more.
local function wait_a_little(since)
  return task.sleep(loop.now() - since < 0.1 and 0.001 or 0.005) == true
end

-- A packet of a version that nobody speaks, of `size` bytes, and the ids that its answer must have.
local function packet(size)
  local dcid, scid = core.random(8), core.random(8)
  local head = "\xc0" .. VERSION .. "\8" .. dcid .. "\8" .. scid
  return head .. core.random(size - #head), dcid, scid
end

-- The versions that an answer offers; nil: it is no answer to that packet.
local function versions_of(data, dcid, scid)
  local n = #data
  if n < 7 or data:byte(1) < 128 or data:sub(2, 5) ~= "\0\0\0\0" then
    return nil
  end
  local length = data:byte(6)
  local at = 7 + length
  if data:sub(7, at - 1) ~= scid or data:byte(at) ~= #dcid or data:sub(at + 1, at + #dcid) ~= dcid then
    return nil
  end
  local versions = {}
  for i = at + 1 + #dcid, n - 3, 4 do
    local version = (">I4"):unpack(data, i)
    if version & 0x0f0f0f0f ~= 0x0a0a0a0a then -- those are there to be ignored
      versions[#versions + 1] = version
    end
  end
  return versions
end

---@class echostream.doctor.reached
---@field answered? boolean    a QUIC server is there
---@field rtt? number          seconds
---@field versions? integer[]  what it speaks
---@field error? table         what the system or ICMP said: { name, text, icmp?, type?, code?, from? }

-- Whether a router says that the packet had gone as many hops as it might.
local function is_expiry(err)
  return err.icmp == 4 and err.type == 11 or err.icmp == 6 and err.type == 3
end

--- Asks whether a QUIC server is there. Waits until it answers or ICMP says why not.
---@param ip string
---@param port integer
---@param patience number  seconds
---@return echostream.doctor.reached
function M.ask(ip, port, patience)
  local probe <close>, err = core.probe(address.join(ip, port))
  if not probe then
    return { error = err }
  end
  local data, dcid, scid = packet(M.SMALLEST)
  local began, sent, resend = loop.now(), nil, 0.3
  repeat
    local now = loop.now()
    local over = now - began >= patience -- seen before the last look: what came while we slept counts
    if not over and (not sent or now - sent >= resend) then
      resend, sent = sent and resend * 2 or resend, now
      local ok, problem = probe:send(data)
      if not ok then -- perhaps because of what ICMP said meanwhile, of which the queue knows more
        local _, queued = probe:recv()
        return { error = queued or problem }
      end
    end
    local answer, problem = probe:recv()
    local versions = answer and versions_of(answer, dcid, scid)
    if versions then
      return { answered = true, rtt = loop.now() - sent, versions = versions }
    elseif problem then
      return { error = problem }
    elseif not answer and not problem then
      over = not wait_a_little(began) or over
    end
  until over
  return {}
end

---@class echostream.doctor.hop
---@field ttl integer
---@field from string
---@field reason "expired"|"unreachable"|"answered"
---@field code? integer  of the ICMP message
---@field icmp? integer

--- Finds out which routers on the way let packets through, by limiting how many hops packets may go.
---@param ip string
---@param port integer
---@param most integer     hops at most
---@param patience number  seconds for all
---@return echostream.doctor.hop[] hops  those that said something, nearest first
---@return table? err  there was nothing to be sent with
function M.trace(ip, port, most, patience)
  local probes, hops = {}, {}
  local function close()
    for _, each in pairs(probes) do
      each.socket:close()
    end
  end
  local first_error
  for ttl = 1, most do
    local socket, err = core.probe(address.join(ip, port))
    if socket then
      local data, dcid, scid = packet(M.SMALLEST)
      local ok, problem = socket:send(data, ttl)
      first_error = first_error or not ok and problem or nil
      probes[ttl] = { socket = socket, dcid = dcid, scid = scid }
    else
      first_error = first_error or err
    end
  end
  if next(probes) == nil then
    return hops, first_error
  end
  local began = loop.now()
  repeat
    local over = loop.now() - began >= patience
    for ttl, each in pairs(probes) do
      local answer, problem = each.socket:recv()
      local hop
      if answer and versions_of(answer, each.dcid, each.scid) then
        hop = { ttl = ttl, from = ip, reason = "answered" }
      elseif problem and problem.from then
        hop = { ttl = ttl, from = problem.from, icmp = problem.icmp, code = problem.code,
          reason = is_expiry(problem) and "expired" or "unreachable" }
      end
      if hop then
        hops[#hops + 1] = hop
        each.socket:close()
        probes[ttl] = nil
      end
    end
    over = not wait_a_little(began) or over
  until over or not next(probes)
  close()
  table.sort(hops, function(a, b)
    return a.ttl < b.ttl
  end)
  return hops
end

--- The largest UDP payload that is answered, of some common sizes, and what was said about larger ones.
---@param ip string
---@param port integer
---@param patience number  seconds for all
---@return integer? largest  nil: none was answered
---@return integer? mtu      of the path, where a router or the system said so (with IP headers)
---@return integer? refused  the smallest that did not come back
function M.largest(ip, port, patience)
  local v6 = ip:find(":", 1, true) ~= nil
  local sizes = v6 and { 1200, 1280, 1350, 1400, 1452 } or { 1200, 1280, 1350, 1400, 1452, 1472 }
  local headers = v6 and 48 or 28
  local probes, largest, mtu = {}, nil, nil
  local function look(each)
    local answer, problem = each.socket:recv()
    if answer and versions_of(answer, each.dcid, each.scid) then
      each.answered = true
      largest = math.max(largest or 0, each.size)
    elseif problem and problem.mtu then
      mtu = math.min(mtu or problem.mtu, problem.mtu)
    end
  end
  for i, size in ipairs(sizes) do
    local socket = core.probe(address.join(ip, port))
    if socket then
      local data, dcid, scid = packet(size)
      probes[#probes + 1] = { socket = socket, size = sizes[i], data = data, dcid = dcid, scid = scid }
    end
  end
  local began, rounds = loop.now(), 0
  repeat
    local passed, waiting = loop.now() - began, false
    local again = passed < patience and passed >= rounds * patience / 3 -- a lost one is sent again, twice
    for _, each in ipairs(probes) do
      if not each.answered and not (mtu and each.size + headers > mtu) then
        waiting = true
        if again then
          each.socket:send(each.data)
        end
        look(each)
      end
    end
    rounds = again and rounds + 1 or rounds
    waiting = waiting and passed < patience and wait_a_little(began)
  until not waiting
  local refused
  for _, each in ipairs(probes) do
    if not each.answered then
      refused = math.min(refused or each.size, each.size)
    end
    each.socket:close()
  end
  return largest, mtu, refused
end

return M
