-- A client that downloads once, checks every byte, and says how long it took with connecting.
--   lua5.4 spec/interop/download.lua ADDRESS PIN BYTES [TRANSPORT OPTIONS]      such as '{ congestion_control = "bbr" }'

local echo = require "echostream"
local handlers = require "spec.interop.handlers"

local began = echo.now()
local client = assert(echo.connect(arg[1], { pin = arg[2], transport = arg[4] and assert(load("return " .. arg[4]))() or nil }))
assert(handlers.download(client, "a", math.tointeger(arg[3])))
print(("took %.6f"):format(echo.now() - began))
client:close()
