--- `echostream tunnel agent`: serves backends that only this machine reaches to the visitors of a tunnel's server.

local M = {}

M.usage = "echostream tunnel agent [options] FILE"
M.summary = "beside the backends: registers with a server and serves its visitors"
M.help = [[
FILE is a Lua file that returns a table, or the same as JSON: where the servers are, who this agent is, and its services.

  return {
    servers = { "tunnel.example.org:5000" },
    client = { pin = "sha256:…" },            -- printed by the server; or ca = "ca.pem"
    group = "web",
    token = file "agents.token",              -- the secret is in a file beside this one; or env "TUNNEL_TOKEN"
    backend = "http://127.0.0.1:3000",
  }

The agent dials until a server takes it and comes back whenever the session is lost. Ctrl-C and SIGTERM let what is under way end;
a second one ends the process at once. SIGHUP and `echostream tunnel reload` read FILE again: services change at once, the rest is
named and wants a restart.]]
M.options = {
  check = { help = "only say whether FILE is right" },
  grace = { value = "SECONDS", number = true, help = "for what is under way at the end (default: drain_grace of FILE, 30)" },
  ["no-attach"] = { help = "no socket for `echostream tunnel status`, `drain` and `reload`, which only this user can use" },
}
M.examples = {
  { "echostream tunnel agent agent.lua", "runs it" },
  { "TUNNEL_TOKEN=… echostream tunnel agent agent.lua", "where FILE says token = env \"TUNNEL_TOKEN\"" },
  { "echostream tunnel agent --check agent.lua", "exit status 2 and the line, when something is wrong" },
}
M.exits = "0 it was told to end and did, 1 every server refused it, 2 wrong usage or FILE is wrong, 130 interrupted twice"
M.min, M.max = 1, 1

function M.run(options, words)
  return require("echostream.tunnel.cli.run").file("agent", options, words[1])
end

return M
