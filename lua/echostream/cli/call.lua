--- `echostream call`: one request from the command line.

local cli = require "echostream.cli"
local connection = require "echostream.cli.connection"
local core = require "echostream.core"
local errors = require "echostream.errors"

local M = {}

M.usage = "echostream call ADDR METHOD [JSON]… (--pin PIN | --ca FILE | --insecure) [options]"
M.summary = "call a method of a server, print its results as JSON"
M.help = [[
Every argument of the method is one JSON value: 10, '"text"', '{"a":[1,2]}'; - stands for those that standard input has. Every
result is printed on a line of its own, as JSON; with --json all of them as {"results":[…]}. A failure is printed on standard
error as `code: message`.

]] .. connection.help
M.options = connection.options {
  idempotent = { help = "say that running the call twice does no harm" },
}
M.examples = {
  { "echostream call 127.0.0.1:5000 desk.add 10 20 --pin sha256:…", "prints 30" },
  { "echostream call 127.0.0.1:5000 desk.hello '\"Ada\"' --insecure --json", 'prints {"results":["hello Ada"]}' },
  { "echo '10 20' | echostream call 127.0.0.1:5000 desk.add - --insecure --timeout 2", "takes the arguments from standard input" },
}
M.min, M.max = 2, 2 + 250

local function print_results(given, results)
  if given.json then
    local list = core.array {}
    for i = 1, results.n do
      list[i] = results[i] == nil and core.null or results[i]
    end
    return connection.print_json { results = list } and cli.OK or cli.FAILED
  end
  for i = 1, results.n do
    if not connection.print_json(results[i]) then
      return cli.FAILED
    end
  end
  return cli.OK
end

function M.run(given, words)
  local arguments, problem = connection.decode(words, 3)
  if not arguments then
    return cli.misused(M, problem)
  end
  return connection.run(M, given, words[1], { idempotent = given.idempotent }, function(_, calls)
    local results = table.pack(connection.try(M, calls.request, calls, words[2], table.unpack(arguments, 1, arguments.n)))
    if not results[1] then
      return results[2]
    elseif results[2] == nil and errors.is_error(results[3]) then
      local err = results[3]
      if err.code == "method_not_found" and err.processed == "no" then
        return connection.no_method(given, calls, words[2], err)
      end
      return connection.report(given, err)
    end
    return print_results(given, table.pack(table.unpack(results, 2, results.n)))
  end)
end

return M
