-- Runs once, before busted reads the first spec file. busted gives every file a package.loaded of its own, and luv does not bear
-- that its first module table is dropped (lua/echostream/loop.lua says why): loaded here, it is the same for all files.

require "luv"
