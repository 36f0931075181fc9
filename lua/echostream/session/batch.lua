--- Many calls at once: they leave in as few packets as they fit into, and their results come back in order.

local core = require "echostream.core"
local errors = require "echostream.errors"
local loop = require "echostream.loop"
local options = require "echostream.options"
local task = require "echostream.task"
local view = require "echostream.view"

local M = {}

-- So many are under way at once; the others follow as these end.
local AT_ONCE <const> = 1000

---@class echostream.batch  what the function gets that fills one
---@field request fun(self: echostream.batch, name: string, ...): integer  adds a call, and says its place in the results
local Batch = { __name = "echostream.session.batch" }
Batch.__index = Batch

function Batch:request(name, ...)
  options.argument("batch:request", "name", name, "string")
  local n = #self + 1
  self[n] = { n = 1 + select("#", ...), name, ... }
  return n
end

---@class echostream.batch.results  [1] to [n]: as the responses of middleware, `ok`, `n`, the results or `err`
---@field n integer       how many
---@field failed integer  how many of them failed

local function collect(what)
  local batch = setmetatable({}, Batch)
  if type(what) == "function" then
    what(batch)
    what = batch
  end
  for i, item in ipairs(what) do
    if type(item) ~= "table" or type(item[1]) ~= "string" then
      error(("batch: item %d wants { \"method\", arguments … }, got %s"):format(i,
        type(item) == "table" and "a table that begins with " .. errors.show(item[1]) or errors.show(item)), 4)
    end
    if type(item[item.n or #item]) == "function" then
      error(("batch: item %d has a callback; the batch may have one"):format(i), 4)
    end
    batch[i] = item
  end
  return batch
end

local function response(first, ...)
  local err = ...
  if first == nil and errors.is_error(err) then
    return { ok = false, n = 0, err = err }
  end
  return { ok = true, n = 1 + select("#", ...), first, ... }
end

-- The calls run in tasks of their own, which do not know the handler that this may be; its deadline bounds them all the same.
local function within(calls, owner, given)
  local serving = core.call_info()
  local bound = serving and serving.deadline
  if not bound then
    return calls
  end
  local timeout = given
  if timeout == nil then
    timeout = owner._timeout > 0 and owner._timeout
  end
  local left = math.max(bound - loop.now(), 0)
  return calls:with { timeout = timeout and math.min(timeout, left) or left }
end

local function run(calls, owner, timeout, items)
  local results, count = view.of { n = #items, failed = 0 }, #items
  local next_item, left, raised = 0, math.min(count, AT_ONCE), nil
  if count == 0 then
    return results
  end
  calls = within(calls, owner, timeout)
  local ok, err = task.await(function(resume)
    local tasks = {}
    local function work()
      while next_item < count and not raised do
        next_item = next_item + 1
        local i = next_item
        local item = items[i]
        local fine, result = pcall(function()
          return response(calls:request(item[1], table.unpack(item, 2, item.n or #item)))
        end)
        if not fine then
          raised = raised or { result }
          break
        end
        results[i] = result
        results.failed = results.failed + (result.ok and 0 or 1)
      end
      left = left - 1
      if left == 0 then
        resume(true)
      end
    end
    for i = 1, left do
      tasks[i] = task.spawn(work)
    end
    return function()
      for _, one in ipairs(tasks) do
        one:cancel()
      end
    end
  end)
  if not ok then
    return nil, err
  elseif raised then
    error(raised[1], 0)
  end
  return results
end

--- The body of every `batch`.
---@param calls table      has `request` and `with`
---@param owner table      the session or client
---@param timeout number|boolean|nil  of the calls, when they have one of their own
---@param what table|function
---@param callback function?
---@return any ...
function M.run(calls, owner, timeout, what, callback)
  options.argument("batch", "calls", what, { "table", "function" }, 3)
  if callback ~= nil then
    options.argument("batch", "callback", callback, "function", 3)
  end
  local items = collect(what)
  if callback then
    return task.call_back(callback, run, calls, owner, timeout, items)
  end
  return task.block(run, calls, owner, timeout, items)
end

return M
