-- What .ci/docs.lua makes tunnel/docs/API.md of. Public are the functions of `modules` and the methods of objects (`prefixes`) in the
-- modules that `only` names. Classes of options (echostream.tunnel.options.…) get a table each by themselves.
return {
  root = "tunnel/lua/echostream/tunnel",
  docs = "tunnel/docs",
  folders = "*", -- all of them
  prefixes = {},
  modules = { init = "tunnel" },
  only = { init = true },
  schemas = {},
  chapters = {},
}
