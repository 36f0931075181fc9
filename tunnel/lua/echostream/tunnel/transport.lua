--- What a session that carries visitors needs of its connection, beyond what suits calls.

local M = {}

--- Bytes that a connection may hold: a thousand streams of visitors that do not read, each with a whole window of 256 KiB. With less, that many
--- use up the credit of the connection, and those who do read wait for them.
M.HOLD = 256 * 1024 * 1024

--- Options for `transport` of a server or client: the given ones over the tunnel's, which are `hold_cap` and `connection_window` of 256 MiB.
---@param given? table|string  the options `transport` as `echo.server` or `echo.client` takes them
---@return table
function M.options(given)
  local transport = { hold_cap = M.HOLD, connection_window = M.HOLD }
  for name, value in pairs(type(given) == "string" and { carrier = given } or given or {}) do
    transport[name] = value
  end
  return transport
end

return M
