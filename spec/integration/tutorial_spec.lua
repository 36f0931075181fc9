-- docs/TUTORIAL.md, played word for word on terminals of their own.
--
--   terminal NAME   what is typed and shown at that terminal, which goes on where its last block ended. Lines that begin with a
--                   prompt (`$ `, `> `, `>> `) are typed; `^C` and `^D` are keys; every other line must be shown, in this order,
--                   with nothing between. `…` stands for whatever is there, in a line or, alone, for any number of lines.
--   lua file=NAME   a file, saved; `broken` behind it: it is no Lua, on purpose
--   console         what installs; here only that the targets exist

local markdown = require "spec.support.markdown"
local process = require "spec.support.process"
local pty = require "spec.support.pty"
local screen = require "spec.support.screen"

local DOCUMENT = "docs/TUTORIAL.md"
local PROMPTS = { "$ ", "> ", ">> " }
local KEYS = { ["^C"] = "\3", ["^D"] = "\4" }

---@class tutorial.terminal
---@field read integer  lines of the screen that were compared
local Terminal = {}
Terminal.__index = Terminal

local function open(name, dir, path)
  local program = pty.spawn("bash --noprofile --norc -i", {
    cwd = dir,
    env = {
      HOME = dir, PS1 = "$ ", INPUTRC = "/dev/null", PATH = path, XDG_STATE_HOME = dir .. "/state", XDG_RUNTIME_DIR = dir .. "/run",
    },
  })
  return setmetatable({ name = name, pty = program, screen = screen.new(), read = 0 }, Terminal)
end

local function fail(self, line, what)
  error(("%s:%d: terminal %s: %s; from there on it shows:\n%s"):format(DOCUMENT, line, self.name, what,
    table.concat(self.screen.lines, "\n", self.read + 1)), 0)
end

-- Waits until `seen()` gives something.
local function wait(self, line, what, seen)
  local found = self.pty:watch(function(bytes)
    self.screen:feed(bytes)
    return seen()
  end)
  if not found then
    fail(self, line, what)
  end
  return found
end

local function pattern_of(text)
  return "^" .. text:gsub("[%^%$%(%)%%%.%[%]%*%+%-%?]", "%%%0"):gsub("…", ".-") .. "%s*$"
end

-- The next line that is complete: the cursor has left it.
function Terminal:expect(text, line)
  local pattern = pattern_of(text)
  wait(self, line, ("waited for the line %q"):format(text), function()
    return self.screen.row > self.read + 1
  end)
  self.read = self.read + 1
  if not self.screen.lines[self.read]:find(pattern) then
    self.read = self.read - 1
    fail(self, line, ("wanted the line %q"):format(text))
  end
end

-- Skips lines until one is as wanted, which stays.
function Terminal:skip_to(seen, line, what)
  local found = wait(self, line, what, function()
    for row = self.read + 1, #self.screen.lines do
      if seen(self.screen.lines[row], row) then
        return row
      end
    end
  end)
  self.read = found - 1
end

function Terminal:type(prompt, text, line)
  wait(self, line, ("waited for the prompt %q"):format(prompt), function()
    return self.screen.row == self.read + 1 and self.screen.lines[self.screen.row] == prompt
  end)
  self.pty:send(KEYS[text] or text .. "\r")
  if KEYS[text] then
    if text == "^C" then self:skip_to(function(shown) return shown ~= prompt end, line, "waited for Ctrl-C") end
    return
  end
  wait(self, line, ("waited for %q to be shown"):format(text), function()
    return self.screen.row > self.read + 1
  end)
  self.read = self.read + 1
  assert.equal(prompt .. text, self.screen.lines[self.read])
end

local function prompt_of(line)
  for _, prompt in ipairs(PROMPTS) do
    if line:sub(1, #prompt) == prompt then
      return prompt, line:sub(#prompt + 1)
    end
  end
end

function Terminal:play(block)
  local number, skipping = block.line, false
  for line in block.text:gmatch "([^\n]*)\n" do
    number = number + 1
    local prompt, typed = prompt_of(line)
    if line == "…" then
      skipping = true
    elseif prompt then
      if skipping then
        self:skip_to(function(shown, row) return shown == prompt and row == self.screen.row end, number, "waited for " .. prompt)
      end
      self:type(prompt, typed, number)
      skipping = false
    elseif KEYS[line] then
      self.pty:send(KEYS[line])
    else
      if skipping then
        local pattern = pattern_of(line)
        self:skip_to(function(shown, row) return shown:find(pattern) and row < self.screen.row end, number,
          ("waited for the line %q"):format(line))
      end
      self:expect(line, number)
      skipping = false
    end
  end
  if skipping then -- what follows begins at the next prompt
    self:skip_to(function(shown, row)
      return row == self.screen.row and (shown == "$ " or shown == "> ")
    end, number, "waited for a prompt")
  end
end

describe("the tutorial", function()
  local dir, terminals

  before_each(function()
    dir, terminals = process.directory(), {}
    assert(os.execute(("mkdir -m 700 '%s/run'"):format(dir)))
  end)

  after_each(function()
    for _, terminal in pairs(terminals) do terminal.pty:close() end
    process.remove(dir)
  end)

  it("does what it says, word for word", function()
    if not pty.available() then pending "script(1) or stty is not installed" end
    local port = process.free_port()
    local function here(text) return (text:gsub("127%.0%.0%.1:5000", "127.0.0.1:" .. port)) end
    local path = process.root .. "/lua/echostream/bin:" .. os.getenv "PATH"
    local makefile = process.read "Makefile"
    for _, block in ipairs(markdown.blocks(DOCUMENT)) do
      local name = block.info:match "^terminal (%w+)$"
      local file, broken = block.info:match "^lua file=(%S+)(.*)$"
      block.text = here(block.text)
      if name then
        terminals[name] = terminals[name] or open(name, dir, path)
        terminals[name]:play(block)
      elseif file then
        assert.equal(broken == "", load(block.text, file, "t") ~= nil)
        process.write(dir .. "/" .. file, block.text)
      elseif block.kind == "console" then
        for target in block.text:gmatch "%$ make ([%w-]+)" do
          assert.matches("\n" .. target:gsub("%-", "%%-") .. ":", makefile)
        end
      else
        error(("%s:%d: nobody plays a block %q"):format(DOCUMENT, block.line, block.info))
      end
    end
  end)
end)
