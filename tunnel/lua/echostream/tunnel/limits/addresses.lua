--- Sets of addresses and networks, IPv4 and IPv6, of any size: looked up by longest prefix, in one step per length of prefix that occurs.

local errors = require "echostream.tunnel.errors"
local show = require("echostream.errors").show

local M = {}

--- Reads an address: IPv4 as 32 bits; IPv6 as two halves of 64 bits, mapped ones (::ffff:1.2.3.4) as IPv4. A zone ("%eth0") is left out.
---@param text string
---@return 4|6|nil family, integer? high, integer? low
function M.parse(text)
  local a, b, c, d = text:match "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$"
  if a then
    a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
    if a > 255 or b > 255 or c > 255 or d > 255 then
      return nil
    end
    return 4, a << 24 | b << 16 | c << 8 | d
  end
  text = text:gsub("%%[%w._-]+$", "")
  if #text > 45 or not text:find ":.*:" or text:find ":::" or text:find "[^%x:.]" then
    return nil
  end
  local tail = text:match ":(%d+%.%d+%.%d+%.%d+)$"
  if tail then
    local family, bits = M.parse(tail)
    if family ~= 4 then
      return nil
    end
    text = text:sub(1, -#tail - 1) .. ("%x:%x"):format(bits >> 16, bits & 0xffff)
  end
  local front, back = text:match "^(.-)::(.*)$"
  if back and back:find("::", 1, true) then
    return nil
  end
  local groups = {}
  local function read(part)
    if part == "" then
      return true
    end
    for piece in (part .. ":"):gmatch "([^:]*):" do
      if not piece:find "^%x%x?%x?%x?$" then
        return false
      end
      groups[#groups + 1] = tonumber(piece, 16)
    end
    return true
  end
  if not read(front or text) then
    return nil
  end
  if front then
    local n = #groups
    if not read(back) or #groups > 7 then
      return nil
    end
    local zeros = 8 - #groups
    table.move(groups, n + 1, #groups, n + 1 + zeros)
    for i = n + 1, n + zeros do
      groups[i] = 0
    end
  end
  if #groups ~= 8 then
    return nil
  end
  local high = groups[1] << 48 | groups[2] << 32 | groups[3] << 16 | groups[4]
  local low = groups[5] << 48 | groups[6] << 32 | groups[7] << 16 | groups[8]
  if high == 0 and low >> 32 == 0xffff then
    return 4, low & 0xffffffff
  end
  return 6, high, low
end
local parse = M.parse

local function mask32(length)
  return length == 0 and 0 or (0xffffffff << (32 - length)) & 0xffffffff
end

local function masks128(length)
  if length == 0 then
    return 0, 0
  elseif length <= 64 then
    return -1 << (64 - length), 0
  end
  return -1, -1 << (128 - length)
end

---@class echostream.tunnel.addresses
---@field count integer  networks in it
local Addresses = { __name = "echostream.tunnel.addresses" }
Addresses.__index = Addresses

-- A list of lengths, longest first, with the networks of each.
local function level(levels, length)
  for i, one in ipairs(levels) do
    if one.length == length then
      return one
    elseif one.length < length then
      table.insert(levels, i, { length = length, nets = {} })
      return levels[i]
    end
  end
  levels[#levels + 1] = { length = length, nets = {} }
  return levels[#levels]
end

--- Adds an address or a network.
---@param text string  "10.0.0.0/8", "2001:db8::/32", "127.0.0.1", "all"
---@param value? any   what `find` returns for it (default: true)
---@return true? ok, string? why
function Addresses:add(text, value)
  if value == nil then
    value = true
  end
  if text == "all" then
    self:add("0.0.0.0/0", value)
    return self:add("::/0", value)
  end
  local address, length = text:match "^([^/]+)/(%d%d?%d?)$"
  local family, high, low = parse(address or text)
  if not family then
    return nil, ("%s is no address, and no network such as 10.0.0.0/8"):format(show(text))
  end
  local bits = family == 4 and 32 or 128
  length = length and tonumber(length) or bits
  if family == 4 and address and address:find(":", 1, true) then -- ::ffff:10.0.0.0/104
    length = length - 96
  end
  if length > bits or length < 0 then
    return nil, ("%s: the prefix is longer than the address"):format(show(text))
  end
  local entry = { text = text, value = value }
  self.count = self.count + 1
  if family == 4 then
    local one = level(self._four, length)
    one.mask = mask32(length)
    one.nets[high & one.mask] = entry
    return true
  end
  local one = level(self._six, length)
  one.high, one.low = masks128(length)
  local key = high & one.high
  local lows = one.nets[key] or {}
  one.nets[key] = lows
  lows[low & one.low] = entry
  return true
end

--- The value of the longest prefix that an address lies in, nil when there is none (or it is no address).
---@param ip string
---@return any value, string? network  as it was written
---@return integer? length  of the prefix
function Addresses:find(ip)
  local family, high, low = parse(ip)
  if family == 4 then
    for _, one in ipairs(self._four) do
      local entry = one.nets[high & one.mask]
      if entry then
        return entry.value, entry.text, one.length
      end
    end
  elseif family == 6 then
    for _, one in ipairs(self._six) do
      local lows = one.nets[high & one.high]
      local entry = lows and lows[low & one.low]
      if entry then
        return entry.value, entry.text, one.length
      end
    end
  end
  return nil
end

--- Makes a set.
---@param list? string[]  addresses and networks
---@return echostream.tunnel.addresses? set, string? why  nil: one of them is neither; `why` names it
function M.set(list)
  local self = setmetatable({ count = 0, _four = {}, _six = {} }, Addresses)
  for _, text in ipairs(list or {}) do
    local ok, why = self:add(text)
    if not ok then
      return nil, why
    end
  end
  return self
end

---@class echostream.tunnel.address_policy
local Policy = { __name = "echostream.tunnel.address_policy" }
Policy.__index = Policy

--- Whether an address is let in. The longest prefix decides; of two equal ones the denial. What is in neither list is let in when there is no
--- list of who is.
---@param ip string
---@return true? ok, echostream.error? err  403
---@return string why  for `explain`
function Policy:judge(ip)
  local verdict, network = self._set:find(ip)
  if verdict == nil then
    verdict = self._otherwise
  end
  if verdict == true then
    return true, nil, network and ("%s is in %s, which is allowed"):format(ip, network) or ("%s is not denied"):format(ip)
  end
  local why = network and ("%s is in %s, which is denied"):format(ip, network) or ("%s is in no network that is allowed"):format(ip)
  return nil, errors.new(403, "your address is not allowed here", { limit = "addresses" }), why
end

--- Makes a policy of two lists.
---@param lists { allow?: string[], deny?: string[] }
---@return echostream.tunnel.address_policy? policy, string? why
function M.policy(lists)
  local set = assert(M.set())
  for _, name in ipairs { "allow", "deny" } do -- denials last: they replace
    for _, text in ipairs(lists[name] or {}) do
      local ok, why = set:add(text, name == "allow")
      if not ok then
        return nil, why
      end
    end
  end
  return setmetatable({ _set = set, _otherwise = lists.allow == nil }, Policy)
end

return M
