--- A plugin: what a server or client counts, for Prometheus, as `GET /metrics` over HTTP/1.1 on the loopback interface.
---
---     server:plugin(echo.plugins.metrics_endpoint { bind = "127.0.0.1:9464" })

local metrics = require "echostream.metrics"
local options = require "echostream.options"

local M = {}

---@class echostream.options.metrics_endpoint
---@field bind? string  numeric address and port (default: "127.0.0.1:9464")
---@field timeout? number  seconds for each request (default: 10)
---@field all? boolean  true: of every server and client of the process, not of this one alone (default: false)

local schema = {
  bind = { type = "string", default = "127.0.0.1:9464" },
  timeout = { type = "seconds", min = 0.001, max = 3600, default = 10 },
  all = { type = "boolean", default = false },
}

---@class echostream.metrics_endpoint: echostream.plugin
---@field address string?  where it listens, with the real port; nil: it does not

-- Who adopted the endpoint of another has it together with that one, until one of them goes.
local function close(self)
  local endpoint = self._endpoint
  if endpoint then
    self._endpoint, self.address = nil, nil
    endpoint.holders = endpoint.holders - 1
    if endpoint.holders == 0 then
      endpoint:close()
    end
  end
end

-- The file that installs the plugin was loaded again: the port is in use, by us.
local function adopt(self, old)
  if old._endpoint and old._bind == self._bind and old._timeout == self._timeout and old._all == self._all then
    self._adopted = old._endpoint
  end
end

local function install(self, host)
  local hosts = not self._all and { host:itself() } or nil
  local endpoint = self._adopted
  if not endpoint then
    local err
    endpoint, err = metrics.serve { bind = self._bind, timeout = self._timeout, hosts = hosts }
    if not endpoint then
      return nil, err
    end
    endpoint.holders = 0
  end
  endpoint.holders = endpoint.holders + 1
  self._endpoint, self.address = endpoint, endpoint.address
  host:on_stop(function()
    close(self)
  end)
end

--- Makes the plugin. It listens from its installation until the server or client stops. It is not over TLS and open to
--- whoever reaches the address, so leave it on the loopback interface. Simulations have no such sockets.
---@param opts? echostream.options.metrics_endpoint
---@return echostream.metrics_endpoint
function M.metrics_endpoint(opts)
  local checked = options.check("plugins.metrics_endpoint", opts, schema)
  return { name = "metrics_endpoint", install = install, uninstall = close, adopt = adopt, address = nil, _endpoint = nil, _bind = checked.bind,
    _timeout = checked.timeout, _all = checked.all }
end

return M
