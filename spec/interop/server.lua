-- The server of the interop cases, as a process: prints its address and pin and runs until it is killed.
--   lua5.4 spec/interop/server.lua [BIND [OPTIONS]]      OPTIONS: a Lua table of server options, such as '{ names = { "a" } }'

local echo = require "echostream"
local handlers = require "spec.interop.handlers"

local opts = arg[2] and assert(load("return " .. arg[2]))() or {}
opts.bind = arg[1] or "127.0.0.1:0"
opts.quiet = true
local server = echo.server(opts)
handlers.install(server)
assert(server:start())
io.stdout:setvbuf "line"
print("listening on " .. server.address)
print("pin " .. server.pin)
server:run()
