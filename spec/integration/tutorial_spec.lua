-- docs/TUTORIAL.md, played word for word on terminals of their own (spec/support/transcript.lua says how).
--
--   terminal NAME   what is typed and shown at that terminal, which goes on where its last block ended
--   lua file=NAME   a file, saved; `broken` behind it: it is no Lua, on purpose
--   console         what installs; here only that the targets exist

local markdown = require "spec.support.markdown"
local process = require "spec.support.process"
local pty = require "spec.support.pty"
local transcript = require "spec.support.transcript"

local DOCUMENT = "docs/TUTORIAL.md"

describe("the tutorial", function()
  local dir, player

  before_each(function()
    dir = process.directory()
    assert(os.execute(("mkdir -m 700 '%s/run'"):format(dir)))
    player = transcript.new {
      cwd = dir,
      env = { HOME = dir, NO_COLOR = "1", XDG_STATE_HOME = dir .. "/state", XDG_RUNTIME_DIR = dir .. "/run" },
      command = function(line) return (line:gsub("^echostream", process.echostream)) end,
    }
  end)

  after_each(function()
    player:close()
    process.remove(dir)
  end)

  it("does what it says, word for word", function()
    if not pty.available() then pending "script(1) or stty(1) is not installed" end
    local port = process.free_port()
    local makefile = process.read "Makefile"
    for _, block in ipairs(markdown.blocks(DOCUMENT)) do
      local text = block.text:gsub("127%.0%.0%.1:5000", "127.0.0.1:" .. port)
      local name = block.info:match "^terminal (%w+)$"
      local file, broken = block.info:match "^lua file=(%S+)(.*)$"
      local ok, problem = true, nil
      if name then
        ok, problem = pcall(player.play, player, text, name)
      elseif file then
        assert.equal(broken == "", load(text, file, "t") ~= nil)
        process.write(dir .. "/" .. file, text)
      elseif block.kind == "console" then
        for target in text:gmatch "%$ make ([%w-]+)" do
          assert.matches("\n" .. target:gsub("%-", "%%-") .. ":", makefile)
        end
      else
        ok, problem = false, "nobody plays a block of this kind: " .. block.info
      end
      if not ok then
        error(("%s:%d: %s"):format(DOCUMENT, block.line, tostring(problem)), 0)
      end
    end
    player:finish()
  end)
end)
