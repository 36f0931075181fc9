-- Every code block of the README and of the guide does what it says.
--
--   lua file=NAME   a file that the blocks after it use
--   lua             a script; it must end well and print what its comments `--> …` say, in order
--   sh              shell commands; what they print is what their comments `# prints …` say, in order
--   terminal        commands and what is typed in them, behind a pseudo-terminal
--   repl            typed at a lua5.4 prompt: prompt_spec.lua
--   console         commands that every fresh clone runs (.ci/run): here only that they exist
--   ini             a systemd unit; the command it starts has the options it is given

local markdown = require "spec.support.markdown"
local process = require "spec.support.process"
local pty = require "spec.support.pty"
local transcript = require "spec.support.transcript"

local function lines(text)
  local list = {}
  for line in text:gmatch "([^\n]*)\n" do list[#list + 1] = line end
  return list
end

local seen = {}

local function declare(path)
  local dir
  local ports = { ["5000"] = process.free_port(), ["5001"] = process.free_port() }

  setup(function()
    dir = process.directory()
    process.write(dir .. "/echostream", ('#!/bin/sh\nexec %s "$@"\n'):format(process.echostream))
    os.execute("chmod +x " .. dir .. "/echostream")
  end)

  teardown(function()
    process.remove(dir)
  end)

  -- The document's ports may be in use on this machine.
  local function here(text)
    return (text:gsub("127%.0%.0%.1:(500[01])", function(port) return "127.0.0.1:" .. ports[port] end))
  end

  local run = {}

  run["lua file"] = function(block, file)
    assert(load(block.text, file, "t"))
    process.write(dir .. "/" .. file, here(block.text))
  end

  function run.lua(block)
    process.write(dir .. "/script.lua", here(block.text))
    local result = process.run("exec lua5.4 " .. dir .. "/script.lua", {
      env = { XDG_STATE_HOME = os.getenv "XDG_STATE_HOME" or "/tmp" },
    })
    local printed = {}
    for i, line in ipairs(lines(result.out)) do printed[i] = line:match "^(.-)%s*$" end
    assert.same(markdown.promises(block.text, "-->"), printed, result.err)
    assert.equal(0, result.code, result.err)
  end

  function run.sh(block)
    local result = process.run(here(block.text), {
      cwd = dir,
      env = { PATH = dir .. ":" .. os.getenv "PATH", XDG_STATE_HOME = dir .. "/state" },
    })
    local printed = {}
    for _, line in ipairs(lines(result.out)) do
      if not line:find "^listening on " and not line:find "^pin " then printed[#printed + 1] = line end
    end
    assert.same(markdown.promises(block.text, "# prints"), printed, result.err)
    assert.equal(0, result.code, result.err)
  end

  function run.terminal(block)
    if not pty.available() then pending "script(1) or stty(1) is missing" end
    transcript.play(here(block.text), { cwd = dir, env = {
      PATH = dir .. ":" .. os.getenv "PATH", XDG_STATE_HOME = dir .. "/state", NO_COLOR = "1",
    } })
  end

  function run.console(block)
    local makefile, deps = process.read "Makefile", process.read ".ci/deps"
    for target in block.text:gmatch "%$ make ([%w-]+)" do
      assert.matches("\n" .. target:gsub("%-", "%%-") .. ":", makefile)
    end
    for package in (block.text:match "apt install ([^\n]+)" or ""):gmatch "%S+" do
      assert.truthy(deps:find("need " .. package, 1, true), package)
    end
  end

  function run.ini(block)
    local command = assert(block.text:match "ExecStart=echostream (%w+)")
    local help = process.run(dir .. "/echostream " .. command .. " --help").out
    for option in block.text:gmatch " (%-%-[%w-]+)" do
      assert.truthy(help:find(option, 1, true), option)
    end
  end

  for _, block in ipairs(markdown.blocks(path)) do
    local file = block.info:match "^lua file=(%S+)$"
    local kind = file and "lua file" or block.info
    seen[block.kind] = true
    if kind ~= "repl" and kind ~= "" then -- "": a picture
      it(("line %d: %s does what it says"):format(block.line, kind), function()
        assert.truthy(run[kind], "a block of a kind that is not run: " .. kind)
        run[kind](block, file)
      end)
    end
  end
end

-- Under a sanitizer one document is enough: what the others run is run by the specs of its parts too.
local documents = os.getenv "ES_SANITIZED" and { "README.md" } or { "README.md", "docs/GUIDE.md", "docs/PLUGINS.md", "docs/QUALITY.md" }
for _, path in ipairs(documents) do
  describe(path, function() declare(path) end)
end

describe("the documents", function()
  it("show scripts, shell sessions and prompts", function()
    assert.is_true(seen.lua and seen.sh and seen.repl and seen.console)
  end)

  -- The anchors that a document's headings get.
  local function anchors_of(path)
    local anchors, count, fenced = {}, {}, false
    for line in io.lines(path) do
      if line:find "^```" then fenced = not fenced end
      local heading = not fenced and line:match "^#+ (.+)$"
      if heading then
        local anchor = heading:lower():gsub("[^%w%- _]", ""):gsub(" ", "-")
        anchors[count[anchor] and anchor .. "-" .. count[anchor] or anchor] = true
        count[anchor] = (count[anchor] or 0) + 1
      end
    end
    return anchors
  end

  it("have links that lead somewhere", function()
    for _, path in ipairs { "README.md", "docs/API.md", "docs/GUIDE.md", "docs/PERFORMANCE.md", "docs/PLUGINS.md", "docs/PROTOCOL.md",
      "docs/QUALITY.md", "docs/RELIABILITY.md", "docs/TUNNEL.md" } do
      for target in process.read(path):gmatch "%]%(([^)]+)%)" do
        local file, anchor = target:match "^([^#]*)#?(.*)$"
        if not target:find "^https?:" then
          local there = file == "" and path or (path:match "^(.*/)" or "") .. file
          assert.equal(0, process.run("test -e " .. there).code, path .. ": " .. target)
          assert.is_true(anchor == "" or anchors_of(there)[anchor] ~= nil, path .. ": " .. target)
        end
      end
    end
  end)
end)
