--- Processes for the benches: start pinned, measure, end. Plain Lua 5.4 on a POSIX shell, so that the harness itself
--- needs nothing that is being measured.
local M = {}

--- Where the helpers are built and reports written; run.sh makes it.
M.dir = os.getenv("BENCH_DIR") or "build/bench"
local pid_file = os.getenv("BENCH_PIDS")

--- CPUs of the server and the client side: the first two, pinned apart; one CPU machines measure something else and say so.
M.server_cpu = os.getenv("BENCH_SERVER_CPU") or "0"
M.client_cpu = os.getenv("BENCH_CLIENT_CPU") or "1"

---@param text string
---@return string shell-quoted
local function quote(text)
  return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end
M.quote = quote

---@param argv string[]
---@return string command for sh
local function join(argv)
  local words = {}
  for i, word in ipairs(argv) do words[i] = quote(word) end
  return table.concat(words, " ")
end

---@param path string
---@return string text "" when it cannot be read
function M.read(path)
  local file = io.open(path, "r")
  if not file then return "" end
  local text = file:read("a") or ""
  file:close()
  return text
end

--- "a=1 b=x" -> { a = 1, b = "x" }: the format every helper prints.
---@param text string
---@return table
function M.parse(text)
  local fields = {}
  for key, value in text:gmatch("([%w_]+)=(%S+)") do fields[key] = math.tointeger(value) or tonumber(value) or value end
  return fields
end

---@param seconds number
function M.sleep(seconds)
  os.execute(("sleep %.3f"):format(seconds))
end

--- Runs a command to its end and returns its standard output.
---@param argv string[]
---@return string output, boolean ok
function M.run(argv)
  local pipe = assert(io.popen(join(argv), "r"))
  local output = pipe:read("a")
  local ok = pipe:close()
  return output, ok == true
end

--- A server: started in the background on its CPU, output to a log file in M.dir.
---@class bench.server
---@field pid string
---@field log string path
---@param name string
---@param argv string[]
---@return bench.server
function M.start(name, argv)
  local log = ("%s/%s.log"):format(M.dir, name)
  os.remove(log) -- the background shell makes it a moment later; an older one would be believed
  local command = ("exec taskset -c %s %s >%s 2>&1 </dev/null & echo $!"):format(M.server_cpu, join(argv), quote(log))
  local pipe = assert(io.popen(command, "r"))
  local pid = assert(pipe:read("l"), "the shell gave no pid")
  pipe:close()
  if pid_file then
    local file = assert(io.open(pid_file, "a"))
    file:write(pid, "\n")
    file:close()
  end
  return { pid = pid, log = log }
end

--- Ends a server that start() made and waits until it is gone.
---@param server bench.server
function M.stop(server)
  os.execute("kill " .. server.pid .. " 2>/dev/null")
  for _ = 1, 100 do
    local status = M.read("/proc/" .. server.pid .. "/status")
    if status == "" or status:find("State:%s+Z") then return end
    M.sleep(0.02)
  end
  os.execute("kill -9 " .. server.pid .. " 2>/dev/null")
end

--- Waits until a server's log has a line that matches, or raises with the log.
---@param server bench.server
---@param pattern string
---@return string ... captures
function M.wait_log(server, pattern)
  for _ = 1, 1000 do
    local found = { M.read(server.log):match(pattern) }
    if found[1] then return table.unpack(found) end
    if M.read("/proc/" .. server.pid .. "/stat") == "" then break end
    M.sleep(0.02)
  end
  error(("%s: not ready within 20 s: %s"):format(server.log, M.read(server.log)))
end

--- A UDP port of 127.0.0.1 that nobody has now, and whether somebody has one.
local function port_used(port)
  local hex = (":%04X "):format(port)
  return (M.read("/proc/net/udp") .. M.read("/proc/net/udp6")):find(hex, 1, true) ~= nil
end

---@return string port
function M.free_port()
  for _ = 1, 100 do
    local port = math.random(20000, 31000)
    if not port_used(port) then return tostring(port) end
  end
  error("no free UDP port found")
end

---@param port string
function M.wait_port(port)
  for _ = 1, 1000 do
    if port_used(tonumber(port)) then return end
    M.sleep(0.02)
  end
  error("nobody listens on UDP port " .. port)
end

---@class bench.usage
---@field cpu_ns integer
---@field voluntary integer context switches
---@field involuntary integer

--- What a process used so far, all its threads. schedstat counts nanoseconds, where stat counts ticks of 10 ms.
---@param pid string
---@return bench.usage
function M.usage(pid)
  local use = { cpu_ns = 0, voluntary = 0, involuntary = 0 }
  local threads = M.run({ "ls", "/proc/" .. pid .. "/task" })
  for thread in threads:gmatch("%d+") do
    local root = ("/proc/%s/task/%s/"):format(pid, thread)
    use.cpu_ns = use.cpu_ns + (math.tointeger(tonumber(M.read(root .. "schedstat"):match("^%d+"))) or 0)
    local status = M.read(root .. "status")
    use.voluntary = use.voluntary + (tonumber(status:match("\nvoluntary_ctxt_switches:%s+(%d+)")) or 0)
    use.involuntary = use.involuntary + (tonumber(status:match("nonvoluntary_ctxt_switches:%s+(%d+)")) or 0)
  end
  return use
end

---@class bench.measured
---@field wall_ns integer
---@field cpu_ns integer
---@field voluntary integer
---@field involuntary integer
---@field maxrss_kib integer
---@field status integer
---@field output string standard output
---@field server bench.usage difference over the run; zeros without a server

--- Runs a client on its CPU and says what it and the server used meanwhile. Raises when it fails or takes over `timeout` s.
---@param argv string[]
---@param server? bench.server
---@param timeout? number seconds, default 120
---@return bench.measured
function M.measure(argv, server, timeout)
  local report = M.dir .. "/measure.txt"
  local errors = M.dir .. "/client.err"
  local before = server and M.usage(server.pid)
  local command = ("timeout %d taskset -c %s %s/measure %s %s 2>%s"):format(timeout or 120, M.client_cpu, M.dir, quote(report),
    join(argv), quote(errors))
  local pipe = assert(io.popen(command, "r"))
  local output = pipe:read("a")
  local ok, _, code = pipe:close()
  local after = server and M.usage(server.pid)
  if not ok then
    error(("%s: status %s\n%s%s"):format(table.concat(argv, " "), code, M.read(errors):sub(1, 2000),
      server and ("server: " .. M.read(server.log):sub(-2000)) or ""))
  end
  local result = M.parse(M.read(report))
  result.output = output
  result.server = { cpu_ns = 0, voluntary = 0, involuntary = 0 }
  if before and after then
    for key in pairs(result.server) do result.server[key] = after[key] - before[key] end
  end
  return result
end

return M
