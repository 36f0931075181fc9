--- `echostream stream`: a named stream between standard input and output, as netcat does for TCP.

local base64 = require "echostream.base64"
local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local core = require "echostream.core"
local errors = require "echostream.errors"
local stdio = require "echostream.loop.stdio"
local task = require "echostream.task"

local M = {}

M.usage = "echostream stream ADDR NAME [--lines | --json] (--pin PIN | --ca FILE | --insecure) [options]"
M.summary = "open a stream between a server and standard input and output"
M.help = [[
What standard input has is sent as messages as it comes, and what comes back is written to standard output; both are bytes, and
each side waits while the other has no room. The end of standard input finishes the sending side. The command ends when the
server finishes its side.

--lines makes each line one message, and each message one line. --json does so too, with lines of JSON: those that are read are
"text", {"data":"text"} or {"base64":"…"}; those that are written are {"data":"text"} or, where that is no UTF-8, {"base64":"…"},
with "seq" and "wall_time" where the sender gave them. With --codec, messages are values: "data" is any JSON then.

]] .. connection.help
M.options = connection.options {
  lines = { help = "one line is one message, in both directions" },
  json = { help = "one line is one message as JSON, in both directions" },
  codec = { value = "NAME", help = "msgpack or json: messages are values (implies --json); the server's stream must have the same" },
}
M.examples = {
  { "echo 'over the wire' | echostream stream 127.0.0.1:5000 desk.upper --lines --pin sha256:…", "prints OVER THE WIRE" },
  { "echostream stream 127.0.0.1:5000 desk.upper --insecure <note.json >upper", "bytes there and back" },
  { "echo '{\"data\":\"a\"}' | echostream stream 127.0.0.1:5000 desk.upper --json --insecure", 'prints {"data":"A"}' },
}
M.min, M.max = 2, 2

-- Messages and lines --------------------------------------------------------------------------------------------

-- What a line of standard input sends: { data = }, or nil and what is wrong with it.
local function message_of(line, has_codec)
  local value, after = core.codec.json.unpack(line)
  if value == nil and errors.is_error(after) or line:find("%S", type(after) == "number" and after or 1) then
    return nil, "a line of standard input is not one JSON value: " .. errors.show(line)
  elseif has_codec then
    return { data = value }
  elseif type(value) == "string" then
    return { data = value }
  end
  local data = type(value) == "table" and value.data
  if type(value) == "table" and type(value.base64) == "string" then
    data = base64.decode(value.base64)
  end
  if type(data) ~= "string" then
    return nil, 'a line of standard input is neither "text" nor {"data":"text"} nor {"base64":"…"}: ' .. errors.show(line)
  end
  return { data = data }
end

local function line_of(frame, has_codec)
  local out = { seq = frame.seq, wall_time = frame.wall_time }
  if has_codec then
    out.data = frame.data == nil and core.null or frame.data
  elseif utf8.len(frame.data) then
    out.data = frame.data
  else
    out.base64 = base64.encode(frame.data)
  end
  return core.codec.json.pack(out)
end

-- Both directions -------------------------------------------------------------------------------------------------

local function read(source)
  return task.await(function(resume)
    source:read(resume)
  end)
end

local function write(sink, data)
  return task.await(function(resume)
    sink:write(data, function(err)
      resume(not err, err)
    end)
  end)
end

-- An iterator over the chunks of standard input as they come.
local function chunks(source)
  return function()
    return (read(source))
  end
end

-- The same by lines, without their ends. The last one need not have one.
local function lines(source)
  local text, from, ended = "", 1, false
  return function()
    while true do
      local stop = text:find("\n", from, true)
      if stop then
        local line = text:sub(from, stop - 1)
        from = stop + 1
        return line
      end
      text, from = text:sub(from), 1
      if ended then
        local line = text
        text = ""
        return line ~= "" and line or nil
      end
      local data = read(source)
      if data then
        text = text .. data
      else
        ended = true
      end
    end
  end
end

-- Sends all of standard input; returns what is wrong with it, or nothing.
local function send_all(given, stream, source)
  local pieces = (given.lines or given.json) and lines or chunks
  for piece in pieces(source) do
    local message, problem = { data = piece }, nil
    if given.json then
      message, problem = message_of(piece, given.codec)
    end
    if not message then
      stream:reset()
      return problem
    elseif not stream:send(message.data) then
      return -- the receiving side says why
    end
  end
  stream:finish()
end

-- Writes all that comes; returns the error of the stream, or what is wrong with standard output.
local function receive_all(given, stream, sink)
  while true do
    local frame, err = stream:recv()
    if not frame then
      return err
    end
    local data = frame.data
    if given.json then
      data = line_of(frame, given.codec)
    end
    if given.json or given.lines then
      data = data .. "\n"
    end
    local ok, problem = write(sink, data)
    if not ok then
      stream:reset()
      return nil, problem
    end
  end
end

local function both_ways(given, stream, source, sink)
  local wrong
  local sending = task.spawn(function()
    wrong = send_all(given, stream, source)
  end)
  local err, broken = receive_all(given, stream, sink)
  sending:cancel()
  if wrong then
    cli.complain("%s", wrong)
    return cli.USAGE
  elseif broken then
    cli.complain("standard output: %s", tostring(broken))
    return cli.FAILED
  end
  local interrupted = core.current():cancelled()
  return err and not interrupted and connection.report(given, err) or cli.OK
end

function M.run(given, words)
  if given.lines and (given.json or given.codec) then
    return cli.misused(M, "--lines and --json exclude each other")
  elseif given.codec and given.codec ~= "json" and given.codec ~= "msgpack" then
    return cli.misused(M, "--codec wants msgpack or json, got " .. given.codec)
  end
  given.json = given.json or given.codec ~= nil
  local source, problem = stdio.source(0)
  local sink
  if source then
    sink, problem = stdio.sink(1)
  end
  if problem then
    cli.complain("standard input or output: %s", problem)
    return cli.FAILED
  end
  local code = connection.run(M, given, words[1], nil, function(_, calls)
    local made, stream, err = connection.try(M, calls.create_stream, calls, words[2], { codec = given.codec })
    if not made then
      return stream
    elseif not stream then
      return connection.report(given, err)
    end
    local answered = task.block(both_ways, given, stream, source, sink)
    stream:close()
    return answered
  end)
  source:close()
  sink:close()
  return code
end

return M
