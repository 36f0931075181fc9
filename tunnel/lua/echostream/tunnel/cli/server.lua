--- `echostream tunnel server`: takes visitors on a public machine and passes them to agents.

local M = {}

M.usage = "echostream tunnel server [options] FILE"
M.summary = "on the public machine: takes visitors and passes them to agents"
M.help = [[
FILE is a Lua file that returns a table, or the same as JSON: where agents and visitors come to, who may register, and the rules.

  return {
    server = { bind = "0.0.0.0:5000" },                         -- agents, over UDP; prints its pin
    agents = { { token = file "agents.token" } },               -- who may register
    listen = { { bind = "0.0.0.0:8080" } },                     -- visitors
    rules = { { host = "app.example.org", group = "web" } },    -- or rules = here "rules.lua"
    access_log = { path = "access.log" },
    metrics = { bind = "127.0.0.1:9464" },
    inspector = { bind = "127.0.0.1:9466" },
  }

Prints where it listens once it does. Ctrl-C and SIGTERM take no more visitors and let what is under way end; a second one ends the process
at once. SIGHUP and `echostream tunnel reload` read FILE, rules and certificates again and open the access log anew; what cannot change
while it runs is named.]]
M.options = {
  check = { help = "only say whether FILE is right" },
  grace = { value = "SECONDS", number = true, help = "for what is under way at the end (default: what FILE says, else 30)" },
  ["no-attach"] = { help = "no socket for `echostream tunnel status`, `drain` and `reload`, which only this user can use" },
}
M.examples = {
  { "echostream tunnel server server.lua", "runs it" },
  { "echostream tunnel server --check server.lua", "exit status 2 and the line, when something is wrong" },
}
M.exits = "0 it was told to end and did, 1 it failed, 2 wrong usage or FILE is wrong, 130 interrupted twice"
M.min, M.max = 1, 1

function M.run(options, words)
  return require("echostream.tunnel.cli.run").file("server", options, words[1])
end

return M
