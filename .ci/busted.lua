-- busted under the interpreter that runs this file. Debian's `busted` starts with whatever `lua` means on the machine.
require "busted.runner" { standalone = false }
