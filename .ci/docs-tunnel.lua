-- What .ci/docs.lua makes tunnel/docs/API.md of. Public are the functions of `modules` and the methods of objects (`prefixes`) in the
-- modules that `only` names. Classes of options (echostream.tunnel.options.…) get a table each by themselves.
return {
  root = "tunnel/lua/echostream/tunnel",
  docs = "tunnel/docs",
  folders = "*", -- all of them
  prefixes = {
    ["rules/init.Rules"] = "rules", Explanation = "explanation", Gate = "gate", Slot = "slot", ["limits/addresses.Addresses"] = "addresses",
    ["limits/addresses.Policy"] = "policy", Groups = "groups", Forwarded = "forwarded",
    ["server/init.Server"] = "tunnel_server", ["agent/init.Agent"] = "tunnel_agent", ["agent/run.Running"] = "running_agent",
    AccessLog = "access_log", Metrics = "tunnel_metrics", ["inspector.Inspector"] = "inspector", Config = "config",
  },
  modules = {
    init = "tunnel", ["rules/init"] = "tunnel.rules", ["rules/request"] = "tunnel.rules.request", ["limits/init"] = "tunnel.limits",
    ["limits/passwords"] = "tunnel.limits.passwords", ["limits/addresses"] = "tunnel.limits.addresses", errors = "tunnel.errors",
    ["groups/init"] = "tunnel.groups", forwarded = "tunnel.forwarded", ids = "tunnel.ids", priority = "tunnel.priority",
    access_log = "tunnel.access_log", metrics = "tunnel.metrics", inspector = "tunnel.inspector", config = "tunnel.config",
  },
  only = {
    init = true, ["rules/init"] = true, ["rules/request"] = true, ["rules/explain"] = true, ["limits/init"] = true, ["limits/passwords"] = true,
    ["limits/addresses"] = true, errors = true, ["groups/init"] = true, forwarded = true, ids = true, priority = true,
    ["server/init"] = true, ["agent/init"] = true, ["agent/run"] = true, access_log = true, metrics = true, inspector = true, config = true,
  },
  schemas = {},
  chapters = {},
}
