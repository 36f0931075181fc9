--- Several handlers behind one name, which take turns or go by who is least busy.

local balance = require "echostream.fleet.balance"
local errors = require "echostream.errors"

local M = {}

--- What the option `balance` of handlers may be.
M.names = { "round_robin", "least_in_flight", "power_of_two" }

---@class echostream.group
---@field handler function  what is registered in the place of all
local Group = {}
Group.__index = Group

-- A member closes itself when its handler has ended, however it did.
local Member = {
  __index = {
    in_flight = function(self)
      return self.running
    end,
  },
  __close = function(self)
    self.running = self.running - 1
  end,
}

--- Makes a group without members.
---@param opts table  the options of the first member: `balance` and the rest, which all share
---@return echostream.group
function M.new(opts)
  local self = setmetatable({ opts = opts, members = {}, state = {} }, Group)
  local pick = balance.policies[opts.balance]
  function self.handler(...)
    local member = pick(self.members, self.state)
    member.running = member.running + 1
    local _ <close> = member
    return member.fn(...)
  end
  return self
end

--- Adds a handler. Its options are those of the group, or not given; raises (without a position) when they are others.
---@param fn function
---@param opts table
---@package
function Group:add(fn, opts)
  for name, value in pairs(opts) do
    if self.opts[name] ~= value then
      error(("the handlers of one name share their options: \"%s\" is %s there"):format(name, errors.show(self.opts[name])), 0)
    end
  end
  self.members[#self.members + 1] = setmetatable({ name = tostring(fn), fn = fn, running = 0 }, Member)
end

--- Takes one away. False when it is not in here.
---@param fn function
---@return boolean removed
---@return boolean last  there is none left
---@package
function Group:remove(fn)
  for i, member in ipairs(self.members) do
    if member.fn == fn then
      -- A new list: a policy may be looking at this one.
      local members = table.move(self.members, 1, #self.members, 1, {})
      table.remove(members, i)
      if #members > 0 then
        self.members = members
      end
      return true, #members == 0
    end
  end
  return false, false
end

return M
