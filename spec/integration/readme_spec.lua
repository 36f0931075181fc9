-- Every code block of the README and of the guide does what it says.
--
--   lua file=NAME   a file that the blocks after it use
--   lua             a script; it must end well and print what its comments `--> …` say, in order
--   sh              shell commands; what they print is what their comments `# prints …` say, in order
--   repl            typed at a lua5.4 prompt: prompt_spec.lua
--   console         commands that every fresh clone runs (.ci/run): here only that they exist

local markdown = require "spec.support.markdown"
local process = require "spec.support.process"

-- Declares the specs of one document. Returns the kinds of blocks it has.
local function run(document)
  local dir
  local port = tostring(process.free_port())

  setup(function()
    dir = process.directory()
    process.write(dir .. "/echostream", ('#!/bin/sh\nexec %s "$@"\n'):format(process.echostream))
    os.execute("chmod +x " .. dir .. "/echostream")
  end)

  teardown(function()
    process.remove(dir)
  end)

  -- The README's port may be in use on this machine.
  local function here(text) return (text:gsub("127%.0%.0%.1:5000", "127.0.0.1:" .. port)) end

  local function lines(text)
    local list = {}
    for line in text:gmatch "([^\n]*)\n" do list[#list + 1] = line end
    return list
  end

  local environment = {
    XDG_STATE_HOME = os.getenv "XDG_STATE_HOME" or "/tmp",
  }

  local seen = {}
  for _, block in ipairs(markdown.blocks(document)) do
    seen[block.kind] = true
    local file = block.info:match "^lua file=(%S+)$"
    if file then
      it(("line %d: writes %s"):format(block.line, file), function()
        assert(load(block.text, file, "t"))
        process.write(dir .. "/" .. file, here(block.text))
      end)
    elseif block.info == "lua" then
      it(("line %d: runs, and prints what it says"):format(block.line), function()
        process.write(dir .. "/script.lua", here(block.text))
        local result = process.run("exec lua5.4 " .. dir .. "/script.lua", { env = environment })
        assert.equal(0, result.code, result.err)
        assert.same(markdown.promises(block.text, "-->"), lines(result.out))
      end)
    elseif block.info == "sh" then
      it(("line %d: runs, and prints what it says"):format(block.line), function()
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
      end)
    elseif block.info == "console" then
      it(("line %d: names targets and packages that exist"):format(block.line), function()
        local makefile, deps = process.read "Makefile", process.read ".ci/deps"
        for target in block.text:gmatch "%$ make ([%w-]+)" do
          assert.matches("\n" .. target:gsub("%-", "%%-") .. ":", makefile)
        end
        for package in (block.text:match "apt install ([^\n]+)" or ""):gmatch "%S+" do
          assert.truthy(deps:find("need " .. package, 1, true), package)
        end
      end)
    else
      it(("line %d: is a block of a kind that is run"):format(block.line), function()
        assert.equal("repl", block.info)
      end)
    end
  end
  return seen
end

describe("README.md", function()
  local seen = run "README.md"

  it("shows a script, a shell session and a prompt", function()
    assert.is_true(seen.lua and seen.sh and seen.repl and seen.console)
  end)

  it("has links that lead somewhere", function()
    for _, path in ipairs { "README.md", "docs/API.md", "docs/GUIDE.md", "docs/PROTOCOL.md" } do
      local text = process.read(path)
      local headings = {}
      for heading in ("\n" .. text):gmatch "\n#+ ([^\n]+)" do
        headings[heading:lower():gsub("[^%w%- ]", ""):gsub(" ", "-")] = true
      end
      for target in text:gmatch "%]%(([^)]+)%)" do
        if target:find "^#" then
          assert.truthy(headings[target:sub(2)], path .. ": " .. target)
        elseif not target:find "^https?:" then
          local base = path:match "^(.*/)" or ""
          assert.equal(0, process.run("test -e " .. base .. target).code, path .. ": " .. target)
        end
      end
    end
  end)
end)

describe("docs/GUIDE.md", function()
  run "docs/GUIDE.md"
end)
