-- An inspector with requests that were made to break its page; one more comes for every line of standard input.
local echo = require "echostream"
local fake = require "tunnel.spec.support.fake_head"
local inspector = require "echostream.tunnel.inspector"

local evil <const> = [["><img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>]]

local it = assert(inspector.new({ bind = "127.0.0.1:0", bodies = 1024 }, function(entry)
  return { status = 299, headers = { { "x-evil", evil } }, body = evil .. entry.method, seconds = 0.01 }
end))

local function put(method, path, status, more)
  local record = { id = "id-" .. path, trace_id = "t", at = os.time(), kind = "http", protocol = "h2", listener = "web", peer_ip = "10.0.0.1",
    host = "shop.example.org", method = method, path = path, rule = "shop", group = "web", agent = "agent-1", status = status, bytes_in = 0,
    bytes_out = 4242, to_headers = 0.0123, duration = 0.0345, attempts = 1, backend = { backend = "web", reused = true, connect_time = 0 },
    request = fake.head("request", { method = method, scheme = "https", authority = "shop.example.org", path = path, { "user-agent", evil } }),
    response = fake.head("response", { status = status, { "content-type", "text/html" } }) }
  for key, value in pairs(more or {}) do record[key] = value end
  it:record(record, { request = "", response = evil, request_whole = true })
end

for i = 1, 12 do put("GET", "/assets/" .. i .. ".png", 200) end
put("POST", "/orders", 201)
put("GET", "/missing", 404)
put("GET", "/slow", 504, { cause = "timeout", reason = "the backend did not answer within 30 s", duration = 30, agent = evil })
put("GET", "/" .. evil, 200, { host = evil, rule = evil, group = evil })
print("at " .. it.url)
io.stdout:flush()
echo.spawn(function()
  while true do
    echo.sleep(0.2)
    put("GET", "/live", 200)
  end
end)
echo.run(50)
