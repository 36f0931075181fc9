-- Real backends for specs: node's server with many habits (backend.mjs), nginx, Python's WebSocket server. Each is a process of its own
-- that ends with this one.

local child = require "spec.support.child"
local echo = require "echostream"
local process = require "spec.support.process"
local uv = require "luv"

local M = {}

-- Waits until somebody listens there; the time limit of the spec is the only one.
local function wait_for(running, port)
  repeat
    assert(not running.ended, "the server ended")
    local socket = uv.new_tcp()
    local err = echo.await(function(resume)
      socket:connect("127.0.0.1", port, function(err) resume(err or "") end)
    end)
    socket:close()
  until err == "" or not echo.sleep(0.02)
end

local function found(command)
  return os.execute(("command -v %s >/dev/null 2>&1"):format(command)) == true
end

--- Whether node with the package ws is there.
M.has_node = found "node" and os.execute("LD_PRELOAD= node -e "
  .. "'try { require(\"ws\") } catch { require(\"/usr/share/nodejs/ws\") }' >/dev/null 2>&1") == true
M.has_nginx = found "nginx" or found "/usr/sbin/nginx"
M.has_websockets = os.execute "LD_PRELOAD= /usr/bin/python3 -c 'import websockets' >/dev/null 2>&1" == true

-- Starts a program that says "ready PORT". In a task.
local function start(program, arguments)
  -- A sanitizer that is preloaded for our own code is none of theirs.
  local running = child.start("env", { "LD_PRELOAD=", program, table.unpack(arguments) })
  local port = running:expect "^ready (%S+)$"
  return { port = tonumber(port), child = running, kill = function() running:kill() end }
end

--- backend.mjs. In a task; `kill` ends it.
---@param at? string  a path for a unix socket, or a port
function M.node(at)
  return start("node", { process.root .. "/tunnel/spec/support/backend.mjs", at })
end

--- An echo server of python3-websockets.
function M.python_websockets()
  return start("/usr/bin/python3", { process.root .. "/tunnel/spec/support/websocket_server.py" })
end

--- tcp_server.py.
---@param path? string  of a unix socket
function M.tcp(path)
  return start("/usr/bin/python3", { process.root .. "/tunnel/spec/support/tcp_server.py", path })
end

local NGINX = [[
daemon off; master_process off; worker_processes 1; pid %s/pid; error_log %s/error.log;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %s/body; proxy_temp_path %s/proxy; fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;
  keepalive_requests 1000000; sendfile on; tcp_nopush off; tcp_nodelay on; root %s/www; default_type text/plain;
  server { listen 127.0.0.1:%d %s; %s }
}
]]

--- nginx with files: `files` by name, `server` more of its configuration, `listen` words such as "ssl http2", `tls` { cert, key }.
---@param opts? { files?: table<string, string>, server?: string, listen?: string, tls?: table }
function M.nginx(opts)
  opts = opts or {}
  local dir = process.directory()
  os.execute("mkdir -p " .. dir .. "/www && chmod 755 " .. dir)
  for name, text in pairs(opts.files or { ["index.html"] = "hello from nginx\n" }) do
    process.write(dir .. "/www/" .. name, text)
  end
  local port = process.free_port()
  local more = opts.server or ""
  if opts.tls then
    process.write(dir .. "/cert.pem", opts.tls.cert)
    process.write(dir .. "/key.pem", opts.tls.key)
    more = ("ssl_certificate %s/cert.pem; ssl_certificate_key %s/key.pem; %s"):format(dir, dir, more)
  end
  local d = dir
  process.write(dir .. "/nginx.conf", NGINX:format(d, d, d, d, d, d, d, d, port, opts.listen or "", more))
  local running = child.start("env", { "LD_PRELOAD=", found "nginx" and "nginx" or "/usr/sbin/nginx", "-p", dir, "-c", dir .. "/nginx.conf" })
  wait_for(running, port)
  return { port = port, child = running, dir = dir, kill = function()
    running:kill()
    process.remove(dir)
  end }
end

--- nghttpd: HTTP/2 without TLS, by prior knowledge. `files` by name.
function M.nghttpd(files)
  local dir = process.directory()
  for name, text in pairs(files) do process.write(dir .. "/" .. name, text) end
  local port = process.free_port()
  local running = child.start("env", { "LD_PRELOAD=", "nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", dir, tostring(port) })
  wait_for(running, port)
  return { port = port, child = running, kill = function()
    running:kill()
    process.remove(dir)
  end }
end
M.has_nghttpd = found "nghttpd"

return M
