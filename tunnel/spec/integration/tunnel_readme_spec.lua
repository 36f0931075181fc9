-- Every code block of tunnel/README.md does what it says.

-- Its commands are run by other specs as well; under a sanitizer they would take a minute.
if os.getenv "ES_SANITIZED" then return end

local markdown = require "spec.support.markdown"
local process = require "spec.support.process"

local function lines(text)
  local list = {}
  for line in text:gmatch "([^\n]*)\n" do list[#list + 1] = line end
  return list
end

describe("tunnel/README.md", function()
  local dir, port_of, background

  setup(function()
    dir = process.directory()
    process.write(dir .. "/echostream", ('#!/bin/sh\nexec %s "$@"\n'):format(process.echostream))
    os.execute(("chmod +x %s/echostream && mkdir -m 700 %s/run"):format(dir, dir))
    port_of = {}
    for _, port in ipairs { "5000", "8080", "3000", "9464", "9466" } do port_of[port] = tostring(process.free_port()) end
    background = dir .. "/pids"
    process.write(background, "")
  end)

  teardown(function()
    -- What a block leaves running in the background said its process id.
    for pid in process.read(background):gmatch "%d+" do os.execute("kill " .. pid .. " 2>/dev/null") end
    process.remove(dir)
  end)

  -- The document's ports may be in use on this machine.
  local function here(text)
    return (text:gsub("%f[%d]%d%d%d%d%f[%D]", port_of))
  end

  local env = function()
    return { PATH = dir .. ":" .. os.getenv "PATH", XDG_STATE_HOME = dir .. "/state", XDG_RUNTIME_DIR = dir .. "/run" }
  end

  local run = {}

  run["lua file"] = function(block, file)
    assert(load(block.text, file, "t"))
    process.write(dir .. "/" .. file, here(block.text))
  end

  function run.lua(block)
    process.write(dir .. "/script.lua", here(block.text))
    local result = process.run("exec lua5.4 " .. dir .. "/script.lua", { env = env(), seconds = 60 })
    assert.same(markdown.promises(block.text, "-->"), lines(result.out), result.err)
    assert.equal(0, result.code, result.err)
  end

  -- Blocks that go on in one shell: what one sets, the next has.
  local function run_shell(blocks)
    local text, promises = "set -u\n", {}
    for _, block in ipairs(blocks) do
      text = text .. block.text
      for _, promise in ipairs(markdown.promises(block.text, "# prints")) do promises[#promises + 1] = promise end
    end
    text = here(text):gsub(" &\n", " & echo $! >>" .. background .. "\n")
    local result = process.run(text, { cwd = dir, env = env(), seconds = 200 })
    local logs = ""
    for _, name in ipairs { "server.log", "agent.log" } do
      local file = io.open(dir .. "/" .. name)
      if file then
        logs = logs .. name .. ":\n" .. file:read "a"
        file:close()
      end
    end
    assert.same(promises, lines(result.out), result.err .. logs)
    assert.equal(0, result.code, result.err)
  end

  local shell = {}
  for _, block in ipairs(markdown.blocks "tunnel/README.md") do
    local file = block.info:match "^lua file=(%S+)$"
    local kind = file and "lua file" or block.info
    if kind == "sh" then
      shell[#shell + 1] = block
    elseif kind == "console" then
      it(("line %d: names packages and targets that there are"):format(block.line), function()
        local makefile, deps = process.read "Makefile", process.read ".ci/deps"
        for target in block.text:gmatch "%$ make ([%w-]+)" do assert.matches("\n" .. target:gsub("%-", "%%-") .. ":", makefile) end
        for package in (block.text:match "apt install ([^\n]+)" or ""):gmatch "%S+" do
          assert.truthy(deps:find("need " .. package, 1, true), package)
        end
      end)
    elseif kind ~= "" then
      it(("line %d: %s does what it says"):format(block.line, kind), function()
        assert.truthy(run[kind], "a block of a kind that is not run: " .. kind)
        run[kind](block, file)
      end)
    end
  end

  it("does in a shell what it says, from nothing to the end", function()
    if process.run("command -v curl && command -v python3 && command -v openssl").code ~= 0 then pending "curl and python3 are wanted" end
    run_shell(shell)
  end)

  it("has links that lead somewhere", function()
    for _, path in ipairs { "tunnel/README.md", "docs/TUNNEL.md" } do
      for target in process.read(path):gmatch "%]%(([^)#]+)[^)]*%)" do
        if not target:find "^https?:" then
          local file = io.open(path:match "^(.*/)" .. target)
          assert.truthy(file, path .. ": " .. target)
          file:close()
        end
      end
    end
  end)
end)
