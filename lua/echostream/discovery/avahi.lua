--- Publishes through avahi-daemon, where it runs and avahi-publish-service (Debian's avahi-utils) is installed: the machine's own
--- responder then answers for the service, beside everything else that it answers for. The helper ends with this process.

local errors = require "echostream.errors"
local process = require "echostream.loop.process"

local M = {}

local PROGRAM = "avahi-publish-service"

--- Whether it makes sense to try.
---@param service { strings: string[], ip: string? }
---@return boolean ok, string? reason
function M.fits(service)
  if service.ip and service.ip ~= "::" and service.ip ~= "0.0.0.0" then
    return false, "avahi publishes on every interface, and the server listens on one address"
  end
  for _, text in ipairs(service.strings) do
    if text:find "%z" then
      return false, "a property has a zero byte, which no argument of a program can have"
    end
  end
  if not process.is_there(PROGRAM) then
    return false, PROGRAM .. " is not installed (Debian: avahi-utils)"
  end
  return true
end

--- Publishes. `done` is called once: with the name that avahi gave it, or nil, err.
---@param service { name: string, type: string, subtypes: string[], port: integer, strings: string[] }
---@param done fun(name: string?, err: echostream.error?)
---@param lost fun(err: echostream.error)  avahi went away afterwards
---@return { remove: fun() }
function M.publish(service, done, lost)
  local arguments = { "LC_ALL=C", PROGRAM } -- what it says is translated elsewhere
  for _, subtype in ipairs(service.subtypes) do
    arguments[#arguments + 1] = ("--subtype=%s._sub.%s"):format(subtype, service.type)
  end
  table.move({ "--", service.name, service.type, tostring(service.port) }, 1, 4, #arguments + 1, arguments)
  table.move(service.strings, 1, #service.strings, #arguments + 1, arguments)
  local established, said, removed = false, "", false
  local child, err = process.start("env", arguments, function(line)
    local name = line:match "^Established under name '(.*)'$"
    if name then
      local first = not established
      established = true
      if first then
        done(name)
      end
    else
      said = line
    end
  end, function()
    local failure = errors.new("unavailable", "avahi does not publish it: " .. (said ~= "" and said or PROGRAM .. " ended"))
    if not established then
      done(nil, failure)
    elseif not removed then
      lost(failure)
    end
  end)
  if not child then
    done(nil, errors.new("unavailable", tostring(err)))
  end
  return {
    remove = function()
      removed = true
      if child then
        child:stop()
      end
    end,
  }
end

return M
