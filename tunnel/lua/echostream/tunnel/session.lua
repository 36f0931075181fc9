--- What both ends of a session between server and agent do alike.

local core = require "echostream.tunnel.core"

local M = {}

--- The label of the exporter whose bytes make a proof good on one connection only.
M.EXPORTER = "EXPORTER-echostream-tunnel"

--- Bytes that a session may hold: a thousand visitors that do not read, each with a stream's whole window. With less they would keep the
--- credit of the connection from those who do.
M.HOLD = 256 * 1024 * 1024

--- That whoever registers knows a token.
---@param token string
---@param client_id string
---@param group string
---@param nonce string     of `tunnel.challenge`
---@param exporter string  32 bytes of the session's exporter
---@return string  32 bytes
function M.proof(token, client_id, group, nonce, exporter)
  return core.hmac_sha256(token, "echostream tunnel 1" .. client_id .. "\0" .. group .. "\0" .. nonce .. exporter)
end

return M
