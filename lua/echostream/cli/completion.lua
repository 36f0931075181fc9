--- `echostream completion`: what bash and zsh complete after `echostream`, as a script for them. It is made of what the commands
--- themselves say about their options.

local cli = require "echostream.cli"
local output = require "echostream.cli.output"

local M = {}

M.usage = "echostream completion SHELL"
M.summary = "a script with which a shell completes commands, options and names of servers"
M.help = [[
Prints a script for SHELL, which is bash or zsh. For good it goes into a file that the shell reads when it starts: ~/.bashrc or
~/.zshrc may have the line of the examples.]]
M.options = {}
M.examples = {
  { 'eval "$(echostream completion bash)"', "in ~/.bashrc; for zsh the same with zsh" },
  { "echostream completion bash >echostream.bash", "or as a file, for /etc/bash_completion.d" },
}
M.exits = "0 done, 2 wrong usage"
M.min, M.max = 1, 1

-- What the value of an option is, by its name in the help: what is not here is not completed.
local values = { FILE = "file", DIR = "directory" }

-- zsh knows bash's words once it was told to.
local heads = { bash = "", zsh = "autoload -Uz compinit bashcompinit\n(( $+functions[compdef] )) || compinit\nbashcompinit\n" }

local SCRIPT = [[
# Completion of echostream for %s. Made by `echostream completion`.
%s_echostream() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    local flags= files= directories= others= choices=
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "%s help --help --version" -- "$word"))
        return
    fi
    case $command in
%s
    esac
    case " $files $directories " in *" $before "*)
        compopt -o filenames 2>/dev/null # zsh has none, and does so by itself
        case " $files " in
        *" $before "*) COMPREPLY=($(compgen -f -- "$word")) ;;
        *) COMPREPLY=($(compgen -d -- "$word")) ;;
        esac
        return
        ;;
    esac
    case " $others " in *" $before "*) return ;; esac
    case $word in
    -*) COMPREPLY=($(compgen -W "$flags --help" -- "$word")) ;;
    *)
        case $command in
        attach | top) choices=$(%s attach --list 2>/dev/null | while read -r name _; do [ "$name" = NAME ] || echo "$name"; done) ;;
        serve | repl)
            compopt -o filenames 2>/dev/null
            COMPREPLY=($(compgen -f -- "$word"))
            ;;
        tunnel)
            if [ "$COMP_CWORD" = 2 ]; then
                choices="%s"
            else
                compopt -o filenames 2>/dev/null
                COMPREPLY=($(compgen -f -- "$word"))
            fi
            ;;
        help) choices="%s" ;;
        completion) choices="bash zsh" ;;
        esac
        [ -z "$choices" ] || COMPREPLY=($(compgen -W "$choices" -- "$word"))
        ;;
    esac
}
complete -F _echostream echostream
]]

-- The options of a command, and of those below it.
local function gather(command, lists, seen)
  for option, spec in pairs(command.options) do
    local word = "--" .. option
    if not seen[word] then
      seen[word] = true
      table.insert(lists.flags, word)
      if spec.value then
        local kind = values[spec.value]
        table.insert(kind == "file" and lists.files or kind == "directory" and lists.directories or lists.others, word)
      end
    end
  end
  local names, commands = nil, nil
  if command.subcommands then
    names, commands = command.subcommands()
  end
  for _, name in ipairs(names or {}) do
    gather(commands[name], lists, seen)
  end
end

local function case_of(name)
  local lists = { flags = {}, files = {}, directories = {}, others = {} }
  gather(cli.command(name), lists, {})
  local parts = {}
  for _, list in ipairs { "flags", "files", "directories", "others" } do
    table.sort(lists[list])
    parts[#parts + 1] = ('%s="%s"'):format(list, table.concat(lists[list], " "))
  end
  return ("    %s) %s ;;"):format(name, table.concat(parts, " "))
end

function M.run(_, words)
  local head = heads[words[1]]
  if not head then
    return cli.misused(M, ("bash or zsh, not %s"):format(output.line(words[1])))
  end
  local names, cases = cli.commands(), {}
  for i, name in ipairs(names) do
    cases[i] = case_of(name)
  end
  local all, below = table.concat(names, " "), table.concat(cli.command("tunnel").subcommands() or {}, " ")
  io.stdout:write(SCRIPT:format(words[1], head, all, table.concat(cases, "\n"), "echostream", below, all))
  return cli.OK
end

return M
