--- A directory of files over HTTP.
---
---     routes:add("GET", "/files/*rest", static.new("/srv/files", { cache_control = "max-age=3600" }))
---
--- What is served lies below the directory, also when links are followed: a link that leads out of it is 404, and so is one that was put
--- there between looking and opening, because the place is looked at once the file is open. Names that begin with a dot are 404 unless
--- allowed, `..` in any spelling is, and no name is decoded twice. Only files and directories with an index are there.

local accept = require "echostream.http.accept"
local conditional = require "echostream.http.conditional"
local date = require "echostream.http.date"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local loop = require "echostream.loop"
local mime = require "echostream.http.mime"
local options = require "echostream.options"
local query = require "echostream.http.query"
local range = require "echostream.http.range"
local reader = require "echostream.loop.reader"
local router = require "echostream.http.router"

local M = {}

---@class echostream.http.static.files  how files are reached; `echostream.loop.reader` is one
---@field real_path fun(path: string): string?  without links
---@field open fun(path: string): echostream.reader?, "not_found"|"denied"|"io"|nil  its `path` is without links

---@class echostream.options.static
---@field index? string|false  the file that stands for its directory; false: none does (default: "index.html")
---@field dotfiles? boolean|string[]  whether names that begin with a dot are served; or those that are, such as { ".well-known" } (default: false)
---@field precompressed? boolean  whether `x.zst`, `x.br` or `x.gz` is sent for `x` to who takes it (default: true)
---@field cache_control? string  the field `Cache-Control` of what is sent
---@field chunk? integer       bytes of a read (default: 131072)
---@field files? echostream.http.static.files  how files are reached, when they are no files of this machine
---@field now? fun(): number   seconds since 1970, for specs

local schema = {
  index = { type = { "string", "boolean" }, default = "index.html" },
  dotfiles = { type = { "boolean", "strings" }, default = false },
  precompressed = { type = "boolean", default = true },
  cache_control = { type = "string" },
  chunk = { type = "integer", min = 1, max = 1 << 24, default = 128 << 10 },
  files = { type = "table", default = reader },
  now = { type = "function", default = os.time },
}

local suffixes = { zstd = ".zst", br = ".br", gzip = ".gz" }
local codings = { "zstd", "br", "gzip" }

-- Names and places --------------------------------------------------------------------------------------------

local function is_hidden(self, name)
  return name:sub(1, 1) == "." and not (self.dotfiles == true or self.shown[name])
end

-- The segments below the root as one path, and whether it ends with a slash; nil when a request cannot mean any file by them.
local function relative_of(self, segments)
  local n = #segments
  for i, name in ipairs(segments) do
    if name == "" and i < n or name == "." or name == ".." or name:find "[/\0]" or is_hidden(self, name) then
      return nil
    end
  end
  local slash = n == 0 or segments[n] == ""
  return table.concat(segments, "/", 1, slash and n - 1 or n), slash
end

local function split(path)
  local segments = {}
  for name in (path .. "/"):gmatch "([^/]*)/" do
    segments[#segments + 1] = name
  end
  return segments
end

-- Whether a place without links lies below the root, and shows no name that is hidden.
local function is_inside(self, root, path)
  if path == root then
    return true
  end
  local prefix = root == "/" and "/" or root .. "/"
  if path:sub(1, #prefix) ~= prefix then
    return false
  end
  for name in path:sub(#prefix + 1):gmatch "[^/]+" do
    if is_hidden(self, name) then
      return false
    end
  end
  return true
end

local function open_inside(self, root, path)
  local file, why = self.files.open(path)
  if file and not is_inside(self, root, file.path) then
    file:close()
    return nil, "not_found"
  end
  return file, why
end

-- Bodies ------------------------------------------------------------------------------------------------------

-- A body of parts { head?, first, last } of a file, and a tail. Each call reads one piece; a file that has become shorter cannot keep
-- the length that was promised, so the response fails.
local function body_of(file, chunk, parts, tail, length)
  local at, position, over = 1, nil, false
  local function finish()
    if not over then
      over = true
      file:close()
    end
  end
  return setmetatable({ length = length, close = finish }, {
    __name = "echostream.http.body",
    __call = function()
      local part = parts[at]
      if over then
        return nil
      elseif not part then
        finish()
        return tail
      elseif not position then
        position = part.first
        if part.head then
          return part.head
        end
      end
      local data, err = file:read(position, math.min(chunk, part.last - position + 1))
      if not data or data == "" then
        finish()
        return nil, err or errors.new("data_loss", "the file has become shorter")
      end
      position = position + #data
      if position > part.last then
        at, position = at + 1, nil
        if at > #parts and not tail then
          finish() -- now, not when somebody asks for what comes after the end
        end
      end
      return data
    end,
  })
end

local function boundary()
  return ("%08x%08x%08x"):format(loop.random() * 0xffffffff // 1 | 0, loop.random() * 0xffffffff // 1 | 0,
    loop.random() * 0xffffffff // 1 | 0)
end

-- Sets status, Content-Length and body for what `Range` asks for. Whoever sends no body closes the file.
local function fill(self, request, response, file, kind, validators)
  local headers = response.headers
  local ranges, why
  if request.method == "GET" and conditional.if_range(request.headers:get "if-range", validators, self.now()) then
    ranges, why = range.parse(request.headers:get "range", file.size)
  end
  if why == "unsatisfiable" then
    response.status = 416
    headers:set("content-range", range.unsatisfied(file.size)):remove "content-type":remove "content-encoding"
    return file:close()
  end
  local parts, tail, length = { { first = 0, last = file.size - 1 } }, nil, file.size
  if ranges and #ranges == 1 then
    response.status, parts = 206, ranges
    length = ranges[1].last - ranges[1].first + 1
    headers:set("content-range", range.content_range(ranges[1], file.size))
  elseif ranges then
    local mark = boundary()
    parts, tail, length = range.multipart(ranges, file.size, kind, mark)
    response.status = 206
    headers:set("content-type", "multipart/byteranges; boundary=" .. mark)
  end
  headers:set("content-length", length)
  if request.method == "HEAD" or length == 0 then
    file:close()
    response.body = length == 0 and "" or nil
  else
    response.body = body_of(file, self.chunk, parts, tail, length)
  end
end

-- Answers -----------------------------------------------------------------------------------------------------

local function refuse(response, status)
  response.status = status
  response.headers:set("content-type", "text/plain; charset=utf-8")
  response.body = status == 403 and "forbidden\n" or status == 404 and "not found\n" or status == 503 and "busy\n" or nil
end

local refusals = { not_found = 404, denied = 403, io = 503 }

-- The compressed form that lies beside a file and that the client likes best, unless it is older than the file.
local function precompressed(self, root, path, file, request)
  for _, coding in ipairs(accept.encodings(request.headers:get "accept-encoding", codings)) do
    if coding == "identity" then
      return nil
    end
    local other = open_inside(self, root, path .. suffixes[coding])
    if other and other.kind == "file" and (other.mtime > file.mtime
        or other.mtime == file.mtime and other.mtime_nsec >= file.mtime_nsec) then
      return other, coding
    elseif other then
      other:close()
    end
  end
end

-- A tag is weak as long as the file could change once more without another time.
local function tag_of(self, file, coding)
  local text = ("%x-%x.%x%s"):format(file.size, file.mtime, file.mtime_nsec, coding and "-" .. coding or "")
  return conditional.etag(text, self.now() - file.mtime < 2)
end

local function send(self, request, response, root, path, file)
  local headers, kind = response.headers, mime.by_name(path)
  local other, coding
  local modified = file.mtime
  if self.precompressed then
    headers:include("vary", "Accept-Encoding")
    other, coding = precompressed(self, root, path, file, request)
    if other then
      file:close()
      file = other
      headers:set("content-encoding", coding)
    end
  end
  local validators = { etag = tag_of(self, file, coding), last_modified = modified }
  headers:set("content-type", kind):set("x-content-type-options", "nosniff"):set("accept-ranges", "bytes")
  headers:set("etag", validators.etag):set("last-modified", date.format(modified))
  if self.cache_control then
    headers:set("cache-control", self.cache_control)
  end
  local status = conditional.evaluate(request, validators, self.now())
  if status then
    file:close()
    response.status = status
    headers:remove "content-type":remove "content-encoding"
    return
  end
  response.status = 200
  fill(self, request, response, file, kind, validators)
end

local function serve(self, request, response)
  local segments
  if request.params and request.params.rest then
    segments = split(request.params.rest)
  else
    local status
    segments, status = router.segments(request.path)
    if not segments then
      return refuse(response, status)
    end
  end
  local root = self.files.real_path(self.root)
  local relative, slash = relative_of(self, segments)
  if not root or not relative then
    return refuse(response, 404)
  end
  local path = relative == "" and root or (root == "/" and "" or root) .. "/" .. relative
  local file, why = open_inside(self, root, path)
  if file and file.kind == "directory" then
    file:close()
    if not self.index then
      return refuse(response, 404)
    elseif not slash and relative ~= "" then
      local raw, asked = query.split(request.path)
      if raw:find "^//" then -- would name another server
        return refuse(response, 404)
      end
      response.status = 308
      response.headers:set("location", raw .. "/" .. (asked and "?" .. asked or ""))
      return
    end
    path = path .. "/" .. self.index
    file, why = open_inside(self, root, path)
    if file and file.kind ~= "file" then
      file:close()
      file = nil
    end
  elseif file and slash then -- "/a.txt/"
    file:close()
    file = nil
  end
  if not file then
    return refuse(response, refusals[why] or 404)
  end
  send(self, request, response, root, path, file)
end

--- Makes a handler that serves a directory. What is asked for is the pattern's `*rest`, without a pattern the whole path. The directory's
--- own path may be a link, also one that is pointed elsewhere later. Methods but GET and HEAD are 405. Ranges, conditions and (for a
--- file `x` with `x.zst`, `x.br` or `x.gz` beside it that is not older) compressed forms are answered.
---@param root string
---@param opts? echostream.options.static
---@return echostream.http.handler
function M.new(root, opts)
  options.argument("http.static", "directory", root, "string")
  local self = options.check("http.static", opts, schema)
  if self.index == true then
    self.index = "index.html"
  end
  if self.cache_control and not fields.is_value(self.cache_control) then
    error("http.static: option \"cache_control\" wants the value of a header field", 2)
  end
  self.root, self.shown = root, {}
  for _, name in ipairs(type(self.dotfiles) == "table" and self.dotfiles or {}) do
    self.shown[name] = true
  end
  return function(request, response)
    if request.method ~= "GET" and request.method ~= "HEAD" then
      response.status = 405
      response.headers:set("allow", "GET, HEAD")
      return
    end
    serve(self, request, response)
  end
end

return M
