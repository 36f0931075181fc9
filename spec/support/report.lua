-- A busted output handler for .ci/test: prints what failed or was skipped, and writes the counts to the file that ES_REPORT names:
-- lines "passed N", "failed N", "skipped NAME (REASON)" and, as proof that the end was reached, "over".
local pretty = require "pl.pretty"

return function()
  local busted = require "busted"
  local handler = require "busted.outputHandlers.base"()

  local function text(message)
    if message == nil then return "" end
    return type(message) == "string" and message or pretty.write(message)
  end

  local function show(kind, entry)
    local where = entry.trace and entry.trace.short_src
    print(("%s: %s%s"):format(kind, entry.name, where and ("  (%s:%s)"):format(where, entry.trace.currentline) or ""))
    print((text(entry.message):gsub("^", "  "):gsub("\n", "\n  ")))
    if entry.isError and entry.trace and entry.trace.traceback then print(entry.trace.traceback) end
  end

  handler.testFailure = function()
    show("FAILED", handler.failures[#handler.failures])
    return nil, true
  end

  handler.testError = function()
    show("ERROR", handler.errors[#handler.errors])
    return nil, true
  end

  handler.error = function(element)
    if element.descriptor ~= "it" then show("ERROR", handler.errors[#handler.errors]) end
    return nil, true
  end

  -- The name of the test that is running, for the case that it never ends.
  local function started(element)
    local path = os.getenv "ES_REPORT"
    local file = path and io.open(path .. ".now", "w")
    if file then
      file:write(handler.getFullName(element), "\n")
      file:close()
    end
    return nil, true
  end

  handler.suiteEnd = function()
    local lines = {
      "passed " .. handler.successesCount,
      "failed " .. handler.failuresCount + handler.errorsCount,
    }
    for _, entry in ipairs(handler.pendings) do
      local reason = text(entry.message)
      lines[#lines + 1] = ("skipped %s%s"):format(entry.name, reason ~= "" and " (" .. reason .. ")" or ""):gsub("\n", " ")
    end
    -- The sanitized module, or valgrind's, was meant: another one proves nothing.
    local core = os.getenv "ES_CORE"
    local maps = core and io.open "/proc/self/maps"
    if maps then
      local mapped = maps:read "a"
      maps:close()
      if mapped:find("/core.so", 1, true) and not mapped:find(core, 1, true) then
        print("the module under test was not " .. core)
        lines[2] = "failed " .. handler.failuresCount + handler.errorsCount + 1
      end
    end
    lines[#lines + 1] = "over"
    local path = os.getenv "ES_REPORT"
    if path then
      local file <close> = assert(io.open(path, "w"))
      file:write(table.concat(lines, "\n"), "\n")
    else
      print(table.concat(lines, "\n"))
    end
    return nil, true
  end

  -- For .ci/symbolize.lua: where the modules are, as long as they are.
  local function save_map()
    local report = os.getenv "ES_REPORT"
    if not report or not os.getenv "ES_SANITIZED" then return end
    local stat <close> = assert(io.open "/proc/self/stat")
    local maps <close> = assert(io.open "/proc/self/maps")
    local copy <close> = assert(io.open(report:gsub("[^/]*$", "") .. "maps." .. stat:read "n", "w"))
    copy:write(maps:read "a")
  end

  busted.subscribe({ "exit" }, save_map)
  busted.subscribe({ "suite", "end" }, handler.suiteEnd)
  busted.subscribe({ "test", "start" }, started)
  busted.subscribe({ "failure", "it" }, handler.testFailure)
  busted.subscribe({ "error", "it" }, handler.testError)
  busted.subscribe({ "failure" }, handler.error)
  busted.subscribe({ "error" }, handler.error)
  return handler
end
