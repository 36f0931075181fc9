--- DNS messages (RFC 1035, with what RFC 6762 changes): bytes to tables and back. Pure functions: no I/O, no clock. What comes from
--- the network may be anything: every length is checked, pointers go backwards only, and what is wrong gives nil and a reason.
---
--- A name is a string of labels with dots between and none at the end. A dot or a backslash inside a label has a backslash before it:
--- the instance "v1.2" of a service is `v1\.2._echostream._udp.local`. Other bytes stand for themselves.

local M = {}

--- Numbers of the record types that are known here; `TYPE[16]` is "TXT".
M.TYPE = { A = 1, NS = 2, CNAME = 5, SOA = 6, PTR = 12, TXT = 16, AAAA = 28, SRV = 33, OPT = 41, NSEC = 47, ANY = 255 }
for name, number in pairs { A = 1, NS = 2, CNAME = 5, SOA = 6, PTR = 12, TXT = 16, AAAA = 28, SRV = 33, OPT = 41, NSEC = 47, ANY = 255 } do
  M.TYPE[number] = name
end

local TYPE = M.TYPE
local IN, TOP = 1, 0x8000 -- the class; its top bit asks for a unicast answer, or says that a record is the only one of its set
local MAX_NAME, MAX_LABEL, MAX_JUMPS = 255, 63, 127

---@class echostream.dns.question
---@field name string
---@field type integer
---@field class integer
---@field unicast boolean   the asker would like a unicast answer (RFC 6762, section 5.4)

---@class echostream.dns.record
---@field name string
---@field type integer
---@field class integer
---@field flush boolean     the cache-flush bit (RFC 6762, section 10.2)
---@field ttl integer       seconds
---@field rdata string      canonical: names in it are not compressed
---@field address? string   A, AAAA: as text
---@field target? string    PTR, CNAME, NS, SRV: a name
---@field priority? integer SRV
---@field weight? integer   SRV
---@field port? integer     SRV
---@field strings? string[] TXT

---@class echostream.dns.message
---@field id integer
---@field response boolean
---@field opcode integer
---@field authoritative boolean
---@field truncated boolean
---@field recursion boolean  desired
---@field rcode integer
---@field questions echostream.dns.question[]
---@field answers echostream.dns.record[]
---@field authorities echostream.dns.record[]
---@field additionals echostream.dns.record[]

-- Names -------------------------------------------------------------------------------------------------------

--- The labels of a name.
---@param name string
---@return string[]
function M.labels(name)
  local labels, label, at = {}, {}, 1
  while at <= #name do
    local c = name:sub(at, at)
    if c == "\\" then
      at = at + 1
      label[#label + 1] = name:sub(at, at)
    elseif c == "." then
      labels[#labels + 1] = table.concat(label)
      label = {}
    else
      label[#label + 1] = c
    end
    at = at + 1
  end
  if #label > 0 then
    labels[#labels + 1] = table.concat(label)
  end
  return labels
end

--- One label as it stands in a name.
---@param label string
---@return string
function M.escape(label)
  return (label:gsub("[.\\]", "\\%0"))
end

--- A name of labels.
---@param labels string[]
---@return string
function M.join(labels)
  local escaped = {}
  for i, label in ipairs(labels) do
    escaped[i] = M.escape(label)
  end
  return table.concat(escaped, ".")
end

--- What names are compared by: DNS does not tell ASCII's upper and lower case apart.
---@param name string
---@return string
function M.key(name)
  return (name:gsub("%u+", string.lower))
end

-- Reads a name at `at`. Pointers must point before the name (or the part of it) they stand in, which rules out every circle. `known`
-- has the parts of this message that pointers led to: a packet of pointers to one long name costs no more than its length.
local function read_name(bytes, at, known, followed)
  local parts, total, limit = {}, 1, at
  while true do
    local length = bytes:byte(at)
    if not length then
      return nil, "a name goes beyond the end"
    elseif length == 0 then
      return table.concat(parts, "."), at + 1, total, 0
    elseif length >= 0xC0 then
      local low = bytes:byte(at + 1)
      if not low then
        return nil, "a pointer goes beyond the end"
      end
      local to = ((length & 0x3F) << 8 | low) + 1
      if to >= limit or (followed or 0) >= MAX_JUMPS then
        return nil, "a pointer in a name does not go back"
      end
      local rest = known[to]
      if not rest then
        local name, after, size, depth = read_name(bytes, to, known, (followed or 0) + 1)
        if not name then
          return nil, after
        end
        rest = { name = name, total = size, jumps = depth + 1 }
        known[to] = rest
      end
      total = total + rest.total - 1
      if total > MAX_NAME then
        return nil, "a name is longer than 255 bytes"
      elseif rest.jumps > MAX_JUMPS then
        return nil, "a pointer in a name does not go back"
      end
      parts[#parts + 1] = rest.name ~= "" and rest.name or nil
      return table.concat(parts, "."), at + 2, total, rest.jumps
    elseif length > MAX_LABEL then
      return nil, "a label of an unknown kind"
    else
      total = total + length + 1
      if total > MAX_NAME then
        return nil, "a name is longer than 255 bytes"
      elseif at + length > #bytes then
        return nil, "a label goes beyond the end"
      end
      parts[#parts + 1] = M.escape(bytes:sub(at + 1, at + length))
      at = at + length + 1
    end
  end
end

--- A name's uncompressed bytes; nil and the reason when it is no name.
---@param name string
---@return string? bytes, string? reason
function M.pack_name(name)
  local parts, total = {}, 1
  for i, label in ipairs(M.labels(name)) do
    if #label == 0 or #label > MAX_LABEL then
      return nil, ("a label of a name has 1 to 63 bytes, not %d"):format(#label)
    end
    parts[i] = string.char(#label) .. label
    total = total + #label + 1
  end
  if total > MAX_NAME then
    return nil, "a name has at most 255 bytes"
  end
  return table.concat(parts) .. "\0"
end

-- Addresses ---------------------------------------------------------------------------------------------------

local function ip6_text(rdata)
  local words = { (">I2I2I2I2I2I2I2I2"):unpack(rdata) }
  local best, best_length, from = nil, 1, nil
  for i = 1, 9 do -- the longest run of two or more zeros becomes "::"
    if i < 9 and words[i] == 0 then
      from = from or i
    elseif from then
      if i - from > best_length then
        best, best_length = from, i - from
      end
      from = nil
    end
  end
  local function hex(a, b)
    local list = {}
    for i = a, b do
      list[#list + 1] = ("%x"):format(words[i])
    end
    return table.concat(list, ":")
  end
  if not best then
    return hex(1, 8)
  end
  return hex(1, best - 1) .. "::" .. hex(best + best_length, 8)
end

-- Bytes of an IPv6 address, without its scope.
local function ip6_bytes(text)
  text = text:gsub("%%.*$", "")
  local tail = text:match "(%d+%.%d+%.%d+%.%d+)$"
  if tail then
    local a, b, c, d = tail:match "(%d+)%.(%d+)%.(%d+)%.(%d+)"
    text = text:sub(1, -#tail - 1) .. ("%x:%x"):format(tonumber(a) << 8 | tonumber(b), tonumber(c) << 8 | tonumber(d))
  end
  local function words(part)
    local list = {}
    for word in part:gmatch "%x+" do
      list[#list + 1] = tonumber(word, 16)
    end
    return list
  end
  local head, rest = text:match "^(.-)::(.*)$"
  local list = words(head or text)
  if head then
    local last = words(rest)
    for _ = 1, 8 - #list - #last do
      list[#list + 1] = 0
    end
    table.move(last, 1, #last, #list + 1, list)
  end
  if #list ~= 8 then
    return nil
  end
  return (">I2I2I2I2I2I2I2I2"):pack(table.unpack(list))
end

--- The bytes of an IP address, and the type of the record that has them; nil when it is none.
---@param text string  "10.0.0.1", "fe80::1%eth0"
---@return string? rdata, integer? type
function M.pack_address(text)
  local a, b, c, d = text:match "^(%d+)%.(%d+)%.(%d+)%.(%d+)$"
  if a then
    a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
    if a > 255 or b > 255 or c > 255 or d > 255 then
      return nil
    end
    return string.char(a, b, c, d), TYPE.A
  elseif text:find ":" then
    local bytes = ip6_bytes(text)
    return bytes, bytes and TYPE.AAAA
  end
end

-- Records -----------------------------------------------------------------------------------------------------

-- What each type's data mean: fn(record, bytes, from, to, known) -> true; or nil, reason.
local read_data = {}

read_data[TYPE.A] = function(record, bytes, from, to)
  if to - from ~= 3 then
    return nil, "an A record has 4 bytes"
  end
  record.rdata = bytes:sub(from, to)
  record.address = ("%d.%d.%d.%d"):format(bytes:byte(from, to))
  return true
end

read_data[TYPE.AAAA] = function(record, bytes, from, to)
  if to - from ~= 15 then
    return nil, "an AAAA record has 16 bytes"
  end
  record.rdata = bytes:sub(from, to)
  record.address = ip6_text(record.rdata)
  return true
end

local function read_target(record, bytes, from, to, before, known)
  local name, after = read_name(bytes, from, known)
  if not name then
    return nil, after
  elseif after ~= to + 1 then
    return nil, "a name does not fill its record"
  end
  record.target = name
  record.rdata = before .. M.pack_name(name)
  return true
end

read_data[TYPE.PTR] = function(record, bytes, from, to, known)
  return read_target(record, bytes, from, to, "", known)
end
read_data[TYPE.CNAME], read_data[TYPE.NS] = read_data[TYPE.PTR], read_data[TYPE.PTR]

read_data[TYPE.SRV] = function(record, bytes, from, to, known)
  if to - from < 6 then
    return nil, "an SRV record is too short"
  end
  record.priority, record.weight, record.port = (">I2I2I2"):unpack(bytes, from)
  return read_target(record, bytes, from + 6, to, bytes:sub(from, from + 5), known)
end

read_data[TYPE.TXT] = function(record, bytes, from, to)
  record.rdata, record.strings = bytes:sub(from, to), {}
  while from <= to do
    local length = bytes:byte(from)
    if from + length > to then
      return nil, "a string of a TXT record goes beyond its end"
    end
    record.strings[#record.strings + 1] = bytes:sub(from + 1, from + length)
    from = from + length + 1
  end
  return true
end

local function read_record(bytes, at, known)
  local name, from = read_name(bytes, at, known)
  if not name then
    return nil, from
  elseif from + 9 > #bytes then
    return nil, "a record goes beyond the end"
  end
  local kind, class, ttl, length, data = (">I2I2I4I2"):unpack(bytes, from)
  local to = data + length - 1
  if to > #bytes then
    return nil, "a record's data go beyond the end"
  end
  if ttl >= 1 << 31 then -- RFC 2181, section 8
    ttl = 0
  end
  local record = { name = name, type = kind, class = class & ~TOP, flush = class & TOP ~= 0, ttl = ttl }
  if read_data[kind] and not (kind == TYPE.TXT and length == 0) then
    local ok, reason = read_data[kind](record, bytes, data, to, known)
    if not ok then
      return nil, reason
    end
  elseif kind == TYPE.OPT then
    record.class, record.flush, record.rdata = class, false, bytes:sub(data, to)
  else
    record.rdata = bytes:sub(data, to)
  end
  return record, to + 1
end

--- Reads a message.
---@param bytes string
---@return echostream.dns.message? message, string? reason
function M.decode(bytes)
  if #bytes < 12 then
    return nil, "shorter than a header"
  end
  local id, flags, n_questions, n_answers, n_authorities, n_additionals, at = (">I2I2I2I2I2I2"):unpack(bytes)
  local message = {
    id = id, response = flags & 0x8000 ~= 0, opcode = flags >> 11 & 15, authoritative = flags & 0x400 ~= 0,
    truncated = flags & 0x200 ~= 0, recursion = flags & 0x100 ~= 0, rcode = flags & 15,
    questions = {}, answers = {}, authorities = {}, additionals = {},
  }
  local known = {}
  for i = 1, n_questions do
    local name, after = read_name(bytes, at, known)
    if not name then
      return nil, after
    elseif after + 3 > #bytes then
      return nil, "a question goes beyond the end"
    end
    local kind, class
    kind, class, at = (">I2I2"):unpack(bytes, after)
    message.questions[i] = { name = name, type = kind, class = class & ~TOP, unicast = class & TOP ~= 0 }
  end
  for _, part in ipairs { { n_answers, "answers" }, { n_authorities, "authorities" }, { n_additionals, "additionals" } } do
    local list = message[part[2]]
    for i = 1, part[1] do
      local record, after = read_record(bytes, at, known)
      if not record then
        return nil, after
      end
      list[i], at = record, after
    end
  end
  return message
end

-- Writing -----------------------------------------------------------------------------------------------------

--- Makes a record of the class IN; its data are packed here. Raises when a name or a string is too long: check what users give first.
---@param fields table  `name type ttl`, `flush`, and `address`, `target`, `priority weight port target` or `strings`
---@return echostream.dns.record
function M.record(fields)
  local record = { class = IN, flush = false, ttl = 0 }
  for key, value in pairs(fields) do
    record[key] = value
  end
  local kind = record.type
  if record.rdata then
    return record
  elseif kind == TYPE.A or kind == TYPE.AAAA then
    local rdata, found = M.pack_address(record.address)
    assert(found == kind, "no address of this type")
    record.rdata = rdata
  elseif kind == TYPE.SRV then
    record.rdata = (">I2I2I2"):pack(record.priority, record.weight, record.port) .. assert(M.pack_name(record.target))
  elseif kind == TYPE.TXT then
    local parts = {}
    for i, text in ipairs(record.strings) do
      parts[i] = (">s1"):pack(text)
    end
    record.rdata = #parts > 0 and table.concat(parts) or "\0" -- RFC 6763, section 6.1: never empty
  else
    record.rdata = assert(M.pack_name(record.target))
  end
  return record
end

-- Appends a name, with a pointer to what stands earlier in the message where that helps.
local function write_name(out, name)
  local labels = M.labels(name)
  for i = 1, #labels do
    local rest = M.key(M.join(table.move(labels, i, #labels, 1, {})))
    local seen = out.names[rest]
    if seen then
      out:add((">I2"):pack(0xC000 | seen))
      return
    end
    if out.size < 0x4000 then
      out.names[rest] = out.size
    end
    out:add((">s1"):pack(labels[i]))
  end
  out:add "\0"
end

local function write_record(out, record)
  write_name(out, record.name)
  out:add((">I2I2I4"):pack(record.type, record.class | (record.flush and TOP or 0), record.ttl))
  local kind = record.type
  if kind ~= TYPE.PTR and kind ~= TYPE.CNAME then -- in others names are better left alone: RFC 3597, section 4, and SRV by RFC 2782
    return out:add((">s2"):pack(record.rdata))
  end
  local at = #out + 1
  out:add "\0\0"
  local before = out.size
  write_name(out, record.target)
  out[at] = (">I2"):pack(out.size - before)
end

--- Writes a message. Names are compressed.
---@param message table  as `decode` gives; what is missing is empty, 0 or false
---@return string
function M.encode(message)
  local out = { size = 0, names = {} }
  function out:add(text)
    self[#self + 1] = text
    self.size = self.size + #text
  end
  local none = {}
  local questions, answers = message.questions or none, message.answers or none
  local authorities, additionals = message.authorities or none, message.additionals or none
  local flags = (message.response and 0x8000 or 0) | (message.opcode or 0) << 11 | (message.authoritative and 0x400 or 0)
    | (message.truncated and 0x200 or 0) | (message.recursion and 0x100 or 0) | (message.rcode or 0)
  out:add((">I2I2I2I2I2I2"):pack(message.id or 0, flags, #questions, #answers, #authorities, #additionals))
  for _, question in ipairs(questions) do
    write_name(out, question.name)
    out:add((">I2I2"):pack(question.type, (question.class or IN) | (question.unicast and TOP or 0)))
  end
  for _, list in ipairs { answers, authorities, additionals } do
    for _, record in ipairs(list) do
      write_record(out, record)
    end
  end
  return table.concat(out)
end

return M
