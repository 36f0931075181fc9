-- The HTTP/3 client asks servers of other makers: ngtcp2's gtlsserver, caddy, nginx and aioquic. One that this machine has not got is
-- skipped, loudly.

local echo = require "echostream"
local process = require "spec.support.process"

local quote, root = process.quote, process.root
-- The sanitizers' preloaded libraries are for lua5.4 only; the servers stay without.
local bare, sanitized = "env LD_PRELOAD= ", os.getenv "ASAN_OPTIONS" ~= nil
local MIB <const> = 1 << 20
local LARGE <const>, CALLS <const> = sanitized and 4 * MIB or 100 * MIB, sanitized and 200 or 1000
local SLOW <const> = sanitized and MIB or 4 * MIB -- to and from a server in Python

local dir, pin

-- 251 is a prime: nothing that is lost, doubled or moved in blocks fits in again.
local pattern
do
  local period = {}
  for i = 0, 250 do
    period[i + 1] = string.char(i)
  end
  pattern = table.concat(period)
end

local function patterned(size)
  return pattern:rep(size // #pattern + 1):sub(1, size)
end

local peers = {
  {
    name = "gtlsserver", files = true, trailers = true,
    missing = function()
      return process.run("command -v gtlsserver").code ~= 0 and "no gtlsserver (package ngtcp2-server)"
    end,
    command = function(port)
      return ("gtlsserver -q --send-trailers -d %s/files 127.0.0.1 %s %s/key.pem %s/cert.pem"):format(dir, port, dir, dir)
    end,
  },
  {
    name = "caddy", files = true, echoes = "/echo", redirects = "/moved",
    missing = function()
      return process.run("command -v caddy").code ~= 0 and "no caddy"
    end,
    command = function(port)
      process.write(dir .. "/Caddyfile", ([[
{
	admin off
	grace_period 100ms
	auto_https disable_redirects
	skip_install_trust
}
https://localhost:%s {
	bind 127.0.0.1
	tls %s/cert.pem %s/key.pem
	route {
		handle /echo {
			respond "{http.request.body}"
		}
		handle /moved {
			redir * /echo 307
		}
		file_server {
			root %s/files
		}
	}
}
]]):format(port, dir, dir, dir))
      return ("env HOME=%s caddy run --config %s/Caddyfile --adapter caddyfile"):format(dir, dir)
    end,
  },
  {
    name = "nginx", files = true, stores = "/stored/", redirects = "/moved",
    missing = function()
      local said = process.run "nginx -V 2>&1"
      if said.code ~= 0 then
        return "no nginx"
      end
      return not said.out:find("http_v3_module", 1, true) and "this nginx has no HTTP/3 (Debian 13's has)"
    end,
    command = function(port)
      process.write(dir .. "/nginx.conf", ([[
daemon off;
master_process off;
pid DIR/nginx.pid;
error_log stderr crit;
events { worker_connections 2048; }
http {
  access_log off;
  client_body_temp_path DIR/body;
  proxy_temp_path DIR/proxy;
  fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi;
  scgi_temp_path DIR/scgi;
  server {
    listen 127.0.0.1:PORT quic;
    ssl_certificate DIR/cert.pem;
    ssl_certificate_key DIR/key.pem;
    root DIR/files;
    client_max_body_size 0;
    location /stored/ { dav_methods PUT; create_full_put_path on; }
    location /moved { return 307 /small; }
  }
}
]]):gsub("DIR", dir):gsub("PORT", port))
      return ("nginx -c %s/nginx.conf -e stderr"):format(dir)
    end,
  },
  {
    name = "aioquic", echoes = "/echo", trailers = true, slow = true, answers_trailers = true,
    missing = function()
      return process.run(bare .. "python3 -c 'import aioquic'").code ~= 0 and "no python3-aioquic (Debian 13 has it)"
    end,
    command = function(port)
      return ("python3 -W ignore %s %s %s/cert.pem %s/key.pem"):format(quote(root .. "/spec/foreign/http_echo.py"), port, dir, dir)
    end,
  },
}

-- Whether somebody listens; where the system does not say, it may be.
local function is_bound(port)
  local file <close> = io.open "/proc/net/udp"
  return not file or file:read("a"):find((":%04X "):format(port), 1, true) ~= nil
end

-- What comes is what was expected, without holding all of it.
local function assert_patterned(response, size)
  local at = 0
  local long = pattern:rep(300) -- more than a piece and a period
  for piece in response:chunks() do
    local from = at % #pattern
    assert(piece == long:sub(from + 1, from + #piece), "other bytes, somewhere behind byte " .. at)
    at = at + #piece
  end
  assert.equal(size, at)
end

local function patterned_pieces(size)
  local at = 0
  local long = pattern:rep(300)
  return function()
    local n = math.min(60000, size - at)
    if n > 0 then
      local from = at % #pattern
      at = at + n
      return long:sub(from + 1, from + n)
    end
  end
end

describe("echo.http.request", function()
  setup(function()
    dir = process.directory()
    local made = process.run(process.echostream .. " cert --out " .. quote(dir))
    assert(made.code == 0, made.err)
    pin = assert((made.out .. made.err):match "pin%s+(sha256:%x+)" or (made.out .. made.err):match "(sha256:%x+)")
    assert(process.run(("mkdir -p %s/files/stored"):format(quote(dir))).code == 0)
    process.write(dir .. "/files/large", patterned(LARGE))
    process.write(dir .. "/files/small", "small\n")
  end)

  teardown(function()
    process.remove(dir)
  end)

  for _, peer in ipairs(peers) do
    local why = peer.missing()

    describe("with " .. peer.name, function()
      local base, server, client

      local function check(name, fn)
        if why then
          return pending(("skipped, %s: %s: %s"):format(peer.name, name, why))
        end
        it(name, function()
          local task = echo.spawn(fn)
          local ok, err = task:wait(100)
          assert(ok, tostring(err))
        end)
      end

      setup(function()
        if why then
          return
        end
        local port = process.free_port()
        server = process.start(bare .. peer.command(port), { seconds = 280 })
        base = "https://localhost:" .. port
        client = echo.http.client { pin = pin, session_cache = echo.session_cache.memory(), head_timeout = 60, connect_timeout = 20 }
        local ends = os.time() + 30 -- it takes its time to listen
        while not is_bound(port) and os.time() < ends do
          echo.sleep(0.02)
        end
        repeat
          local response, err = client:request(base .. "/small")
          assert(response or os.time() < ends, tostring(err))
        until response
        client:close()
      end)

      teardown(function()
        if server then
          client:close()
          server:stop()
        end
      end)

      if peer.files then
        check(("a file of %d MiB"):format(LARGE // MIB), function()
          local response = assert(client:request(base .. "/large"))
          assert.equal(200, response.status)
          assert_patterned(response, LARGE)
          if peer.trailers then
            assert.equal(1, response:trailers():count())
          end
        end)

        check("HEAD, and what is not there", function()
          local response = assert(client:request(base .. "/large", { method = "HEAD" }))
          assert.equal(tostring(LARGE), response.headers:get "content-length")
          assert.equal("", response:body())
          response = assert(client:request(base .. "/nothing/like/it"))
          assert.equal(404, response.status)
          assert(response:body())
        end)
      end

      check(("%d requests at once"):format(CALLS), function()
        local tasks = {}
        for i = 1, CALLS do
          tasks[i] = echo.spawn(function()
            local response = assert(client:request(base .. "/small"))
            assert(response.status == 200, response.status)
            return assert(response:body())
          end)
        end
        for _, body in ipairs(assert(echo.all(tasks))) do
          assert.equal(peer.files and "small\n" or "", body)
        end
      end)

      if peer.echoes then
        local size = peer.slow and SLOW or peer.name == "caddy" and 10 * MIB or LARGE
        check(("a body of %d MiB, there and back"):format(size // MIB), function()
          local response = assert(client:request(base .. peer.echoes, { method = "POST", body = patterned_pieces(size) }))
          assert.equal(200, response.status)
          assert_patterned(response, size)
        end)
      end

      if peer.stores then
        check(("a body of %d MiB is stored, and read again"):format(LARGE // MIB), function()
          local response = assert(client:request(base .. peer.stores .. "it", { method = "PUT", body = patterned(LARGE) }))
          assert.equal(201, response.status)
          assert(response:body())
          assert_patterned(assert(client:request(base .. peer.stores .. "it")), LARGE)
        end)
      end

      if peer.answers_trailers then
        check("trailers both ways", function()
          local response = assert(client:request(base, { body = "x", trailers = { ["x-mine"] = "1" } }))
          assert.equal("x", response:body())
          assert.equal("1", response:trailers():get "x-mine")
          assert.equal("yes", response:trailers():get "x-trailers")
        end)
      end

      if peer.redirects then
        check("a redirection", function()
          local response = assert(client:request(base .. peer.redirects))
          assert.equal(200, response.status)
          assert.equal(1, #response.redirects)
          assert(response:body())
        end)
      end

      -- aioquic keeps no tickets unless it is given a place for them
      local _ = not peer.slow and check("a session that goes on", function()
        for _ = 1, 50 do -- the ticket comes when it comes
          client:close()
          assert(client:request(base .. "/small")):body()
          if client:connections()[1].resumed then
            break
          end
          echo.sleep(0.02)
        end
        assert.is_true(client:connections()[1].resumed)
      end)
    end)
  end
end)
