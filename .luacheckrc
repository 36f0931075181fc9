std = "lua54"
max_line_length = 150
cache = false
exclude_files = { "build/", "lua_modules/", ".luarocks/" }
-- The C module's annotations declare functions without bodies.
files["lua/echostream/_meta"] = { ignore = { "211", "212", "241", "431", "631" } }
files["tunnel/lua/echostream/tunnel/_meta"] = { ignore = { "211", "212", "241", "431", "631" } }
files["tunnel/spec"] = { std = "+busted" }
files["spec"] = { std = "+busted" }
files["*.rockspec"] = { std = "+rockspec" }
files[".busted"] = { std = "lua54" }
