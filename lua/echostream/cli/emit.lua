--- `echostream emit`: one event from the command line.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local errors = require "echostream.errors"
local task = require "echostream.task"

local M = {}

M.usage = "echostream emit ADDR EVENT [JSON]… [--unreliable] (--pin PIN | --ca FILE | --insecure) [options]"
M.summary = "send a server an event"
M.help = [[
Every argument of the event is one JSON value; - stands for those that standard input has. Nothing is printed, or {"sent":true}
with --json. An event has no answer: success means that the server has received it, not that somebody there handles it.
With --unreliable it is one datagram, which may be lost.

]] .. connection.help
M.options = connection.options {
  unreliable = { help = "as one datagram that is not sent again when it is lost" },
}
M.examples = {
  { "echostream emit 127.0.0.1:5000 desk.note '\"tea at four\"' --pin sha256:…", "ends when the server has it" },
  { "echostream emit 127.0.0.1:5000 desk.note - --insecure --json <note.json", 'sends what a file has, and prints {"sent":true}' },
}
M.min, M.max = 2, 2 + 250

-- Until the server has all that was sent; returns why it never will.
local function wait_acknowledged(session, timeout)
  local done, err = task.await(function(resume)
    session._ud:on_flushed(function()
      resume(true)
    end)
  end, timeout)
  if not session:is_open() then
    return session.closed_by or errors.new("connection_closed", "the connection was lost before the event was acknowledged")
  end
  return not done and err or nil
end

function M.run(given, words)
  local arguments, problem = connection.decode(words, 3)
  if not arguments then
    return cli.misused(M, problem)
  end
  return connection.run(M, given, words[1], { unreliable = given.unreliable }, function(client, calls)
    local made, ok, err = connection.try(M, calls.emit, calls, words[2], table.unpack(arguments, 1, arguments.n))
    if not made then
      return ok
    elseif not ok then
      return connection.report(given, err)
    elseif not given.unreliable then
      err = wait_acknowledged(client.session, given.timeout or 30)
      if err then
        return connection.report(given, err)
      end
    end
    if given.json then
      connection.print_json { sent = true }
    end
    return cli.OK
  end)
end

return M
