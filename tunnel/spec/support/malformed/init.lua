-- Reads the lists of requests beside it: lines of columns between " | ", with the escapes \r \n \t \\ \" \xHH and %{text*N} (N times).

local M = {}

local letters = { r = "\r", n = "\n", t = "\t" }

local function unescape(text)
  text = text:gsub("%%{(.-)%*(%d+)}", function(part, times) return part:rep(tonumber(times)) end)
  return (text:gsub("\\(.)(%x?%x?)", function(c, hex)
    if c == "x" then return string.char(tonumber(hex, 16)) end
    return (letters[c] or c) .. hex
  end))
end

local function lines(name, pattern, fn)
  local list = {}
  for line in io.lines("tunnel/spec/support/malformed/" .. name) do
    if line:sub(1, 1) ~= "#" then list[#list + 1] = fn(line:match(pattern)) end
  end
  return list
end

--- Malformed requests: { status, class, bytes }. Of the class "chunk" the head is fine and the body is not.
function M.requests()
  return lines("requests.txt", "^(%d+) | ([^|]+) | (.*)$", function(status, class, bytes)
    return { status = tonumber(status), class = class, bytes = unescape(bytes) }
  end)
end

--- Requests that look odd and are well-formed: { says = "METHOD path", bytes }.
function M.fine()
  return lines("fine.txt", "^(.-) | (.*)$", function(says, bytes)
    return { says = unescape(says), bytes = unescape(bytes) }
  end)
end

return M
