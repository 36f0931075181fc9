local date = require "echostream.http.date"
local fields = require "echostream.http.fields"
local range = require "echostream.http.range"
local router = require "echostream.http.router"
local scratch = require "spec.support.scratch"
local static = require "echostream.http.static"

local T = 1700000000

local function write(path, text, mtime)
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  os.execute(("touch -d @%d '%s'"):format(mtime or T, path))
end

describe("static files", function()
  local top, root
  setup(function()
    top = scratch.path()
    root = top .. "/root"
    os.execute(("mkdir -p '%s/sub/deep' '%s/empty' '%s/.git' '%s/.well-known' '%s/rootless'"):format(root, root, root, root, top))
    write(root .. "/a.txt", "0123456789")
    write(root .. "/index.html", "<p>top")
    write(root .. "/sub/index.html", "<p>sub")
    write(root .. "/none.txt", "")
    write(root .. "/ä b%2e.txt", "odd")
    write(root .. "/.git/config", "secret")
    write(root .. "/.env", "secret")
    write(root .. "/.well-known/x", "known")
    write(root .. "/z.css", "plain")
    write(root .. "/z.css.gz", "GZ")
    write(root .. "/z.css.zst", "ZSTD")
    write(root .. "/old.css", "new text", T + 10)
    write(root .. "/old.css.gz", "OLD", T)
    write(top .. "/secret.txt", "secret")
    write(top .. "/rootless/x", "secret")
    for link, target in pairs { ["/out.txt"] = "../secret.txt", ["/up"] = "..", ["/in.txt"] = "a.txt", ["/hide.txt"] = ".env",
      ["/loop"] = "loop", ["/abs"] = "/etc", ["/like"] = "../rootless", ["/insub"] = "sub" } do
      os.execute(("ln -s '%s' '%s%s'"):format(target, root, link))
    end
    os.execute(("mkfifo '%s/pipe'"):format(root))
  end)

  local function body_of(response)
    local body = response.body
    if type(body) ~= "table" then return body end
    local pieces = {}
    for piece in body do pieces[#pieces + 1] = piece end
    local text = table.concat(pieces)
    assert.equal(body.length, #text)
    return text
  end

  local function ask(path, headers, opts, method)
    local checked = { now = function() return T + 1000 end }
    for key, value in pairs(opts or {}) do checked[key] = value end
    local below = checked.root or root
    checked.root = nil
    local response = { status = 200, headers = fields.new() }
    static.new(below, checked)({ method = method or "GET", path = path, headers = fields.new(headers) }, response)
    return response
  end

  it("are sent with what there is to know about them", function()
    local response = ask "/a.txt"
    assert.equal(200, response.status)
    assert.equal("0123456789", body_of(response))
    local headers = response.headers
    assert.equal("10", headers:get "content-length")
    assert.equal("text/plain; charset=utf-8", headers:get "content-type")
    assert.equal(date.format(T), headers:get "last-modified")
    assert.matches('^"[%x.-]+"$', headers:get "etag")
    assert.equal("bytes", headers:get "accept-ranges")
    assert.equal("nosniff", headers:get "x-content-type-options")
    assert.is_nil(headers:get "cache-control")
    assert.equal("max-age=5", ask("/a.txt", nil, { cache_control = "max-age=5" }).headers:get "cache-control")
    assert.equal("odd", body_of(ask "/%C3%A4%20b%252e.txt?x"))
    response = ask "/none.txt"
    assert.same({ 200, "", "0" }, { response.status, response.body, response.headers:get "content-length" })
    response = ask("/a.txt", nil, nil, "HEAD")
    assert.is_nil(response.body)
    assert.equal("10", response.headers:get "content-length")
    response = ask("/a.txt", nil, nil, "POST")
    assert.same({ 405, "GET, HEAD" }, { response.status, response.headers:get "allow" })
  end)

  it("below a pattern come by its rest", function()
    local routes = router.new():add("GET", "/files/*rest", static.new(root))
    local function status(path)
      local response = { status = 200, headers = fields.new() }
      routes:handle({ method = "GET", path = path, headers = fields.new() }, response)
      return response.status, body_of(response), response.headers:get "location"
    end
    assert.same({ 200, "0123456789" }, { status "/files/a.txt" })
    assert.same({ 200, "<p>top" }, { status "/files/" })
    assert.same({ 200, "<p>sub" }, { status "/files/sub/" })
    assert.equal("/files/sub/?a=b", (select(3, status "/files/sub?a=b")))
    assert.equal(404, (status "/files/sub//index.html"))
    assert.equal(400, (status "/files/..%2fsecret.txt"))
    assert.equal(404, (status "/files/%252e%252e/secret.txt")) -- not decoded again
  end)

  it("stay inside, whatever is asked for", function()
    for path, status in pairs { ["/../secret.txt"] = 400, ["/%2e%2e/secret.txt"] = 400, ["/sub/../../secret.txt"] = 400,
      ["/..%2fsecret.txt"] = 404, ["/sub%2findex.html"] = 404, ["/%252e%252e/secret.txt"] = 404, ["/..%5csecret.txt"] = 404, ["/a.txt%00"] = 400,
      ["/a.txt%00.html"] = 400, ["//etc/passwd"] = 404, ["/out.txt"] = 404, ["/up/secret.txt"] = 404, ["/up/root/a.txt"] = 200,
      ["/abs/passwd"] = 404, ["/like/x"] = 404, ["/loop"] = 404, ["/in.txt"] = 200, ["/insub/"] = 200, ["/insub/index.html"] = 200,
      ["/hide.txt"] = 404, ["/.env"] = 404, ["/%2eenv"] = 404, ["/.git/config"] = 404, ["/.well-known/x"] = 404, ["/pipe"] = 404,
      ["/nothing"] = 404, ["/a.txt/"] = 404, ["/a.txt/b"] = 404, ["/empty/"] = 404, ["/"] = 200,
      ["/" .. ("x"):rep(300)] = 404, ["relative"] = 400 } do
      local response = ask(path)
      assert.equal(status, response.status, path)
      assert.is_nil((body_of(response) or ""):find "secret", path)
    end
    assert.equal(404, ask("/a.txt", nil, { root = top .. "/nowhere" }).status)
    assert.equal("secret", body_of(ask("/.env", nil, { dotfiles = true })))
    assert.equal("known", body_of(ask("/.well-known/x", nil, { dotfiles = { ".well-known" } })))
    assert.equal(404, ask("/.git/config", nil, { dotfiles = { ".well-known" } }).status)
    assert.equal(400, ask("/..", nil, { dotfiles = true }).status)
  end)

  it("of directories are their index", function()
    local response = ask "/sub?x=1"
    assert.same({ 308, "/sub/?x=1" }, { response.status, response.headers:get "location" })
    assert.equal("<p>sub", body_of(ask "/sub/"))
    assert.equal(404, ask("/sub/", nil, { index = false }).status)
    assert.equal(404, ask("/sub", nil, { index = false }).status)
    assert.equal("0123456789", body_of(ask("/", nil, { index = "a.txt" })))
    assert.equal(404, ask("/", nil, { index = "out.txt" }).status)
  end)

  it("go in ranges", function()
    local response = ask("/a.txt", { range = "bytes=2-4" })
    assert.same({ 206, "234", "bytes 2-4/10", "3" }, { response.status, body_of(response), response.headers:get "content-range",
      response.headers:get "content-length" })
    response = ask("/a.txt", { range = "bytes=10-" })
    assert.same({ 416, "bytes */10" }, { response.status, response.headers:get "content-range" })
    assert.is_nil(response.body)
    response = ask("/a.txt", { range = "bytes=0-1,-2" }, { chunk = 1 })
    local mark = response.headers:get "content-type":match "^multipart/byteranges; boundary=(%x+)$"
    local parts, tail = range.multipart({ { first = 0, last = 1 }, { first = 8, last = 9 } }, 10, "text/plain; charset=utf-8", mark)
    assert.equal(parts[1].head .. "01" .. parts[2].head .. "89" .. tail, body_of(response))
    assert.equal(tonumber(response.headers:get "content-length"), response.body.length)
    assert.equal(200, ask("/a.txt", { range = "bytes=5-2" }).status)
    assert.equal(200, ask("/a.txt", { range = "bytes=0-1" }, nil, "HEAD").status)
    local tag = ask("/a.txt").headers:get "etag"
    assert.equal(206, ask("/a.txt", { range = "bytes=0-1", ["if-range"] = tag }).status)
    assert.equal(200, ask("/a.txt", { range = "bytes=0-1", ["if-range"] = '"other"' }).status)
    assert.equal(206, ask("/a.txt", { range = "bytes=0-1", ["if-range"] = date.format(T) }).status)
    assert.equal(416, ask("/none.txt", { range = "bytes=0-" }).status)
  end)

  it("are not sent again when they are the same", function()
    local tag = ask("/a.txt").headers:get "etag"
    local response = ask("/a.txt", { ["if-none-match"] = tag })
    assert.equal(304, response.status)
    assert.is_nil(response.body)
    assert.equal(tag, response.headers:get "etag")
    assert.is_nil(response.headers:get "content-length")
    assert.equal(304, ask("/a.txt", { ["if-modified-since"] = date.format(T) }).status)
    assert.equal(200, ask("/a.txt", { ["if-modified-since"] = date.format(T - 1) }).status)
    assert.equal(412, ask("/a.txt", { ["if-match"] = '"x"' }).status)
    assert.matches('^W/"', ask("/a.txt", nil, { now = function() return T + 1 end }).headers:get "etag")
  end)

  it("are sent compressed when somebody did that before", function()
    local function coded(path, encoding, opts)
      local response = ask(path, { ["accept-encoding"] = encoding }, opts)
      return { response.headers:get "content-encoding" or "identity", body_of(response), response.headers:get "content-type" }
    end
    local css = "text/css; charset=utf-8"
    assert.same({ "zstd", "ZSTD", css }, coded("/z.css", "gzip, zstd"))
    assert.same({ "gzip", "GZ", css }, coded("/z.css", "gzip, br"))
    assert.same({ "identity", "plain", css }, coded("/z.css", "br"))
    assert.same({ "identity", "plain", css }, coded("/z.css", ""))
    assert.same({ "identity", "plain", css }, coded("/z.css", "gzip", { precompressed = false }))
    assert.same({ "identity", "new text", css }, coded("/old.css", "gzip")) -- older than the file
    local packed, plain = ask("/z.css", { ["accept-encoding"] = "gzip" }).headers, ask("/z.css").headers
    assert.not_equal(packed:get "etag", plain:get "etag")
    assert.equal("Accept-Encoding", packed:get "vary")
    assert.equal("Accept-Encoding", plain:get "vary")
    assert.same({ 206, "Z" }, (function()
      local response = ask("/z.css", { ["accept-encoding"] = "gzip", range = "bytes=1-" })
      return { response.status, body_of(response) }
    end)())
  end)

  -- Files that are not there: what the reader is asked for, and that it is closed.
  local function reader_of(read, size)
    local log = { reads = {} }
    log.real_path = function(path) return path end
    log.open = function(path)
      if path ~= "/r/big.bin" then return nil, path == "/r/denied" and "denied" or path == "/r/busy" and "io" or "not_found" end
      log.opened = (log.opened or 0) + 1
      return {
        kind = "file", path = path, size = size, mtime = T, mtime_nsec = 0,
        read = function(_, offset, n)
          log.reads[#log.reads + 1] = offset .. "+" .. n
          return read(offset, n)
        end,
        close = function() log.closed = (log.closed or 0) + 1 end,
      }
    end
    return log
  end

  it("are read when somebody takes the next piece, and closed", function()
    local files = reader_of(function(_, n) return ("x"):rep(n) end, 25)
    local response = ask("/big.bin", nil, { root = "/r", files = files, chunk = 10 })
    assert.same({}, files.reads)
    assert.equal(10, #response.body())
    assert.same({ "0+10" }, files.reads)
    assert.equal(10, #response.body())
    assert.is_nil(files.closed)
    assert.equal(5, #response.body())
    assert.same({ "0+10", "10+10", "20+5" }, files.reads)
    assert.equal(1, files.closed)
    assert.is_nil(response.body())
    assert.equal(25, response.body.length)
    ask("/big.bin", { ["if-none-match"] = "*" }, { root = "/r", files = files })
    ask("/big.bin", { range = "bytes=99-" }, { root = "/r", files = files })
    ask("/big.bin", nil, { root = "/r", files = files }, "HEAD")
    assert.equal(4, files.opened)
    assert.equal(4, files.closed)
    response = ask("/big.bin", nil, { root = "/r", files = files })
    response.body:close()
    assert.equal(5, files.closed)
    assert.equal(403, ask("/denied", nil, { root = "/r", files = files }).status)
    assert.equal(503, ask("/busy", nil, { root = "/r", files = files }).status)
  end)

  it("that get shorter or cannot be read fail instead of ending early", function()
    for _, read in ipairs { function(offset, n) return offset < 10 and ("x"):rep(n) or "" end,
      function(offset, n) if offset < 10 then return ("x"):rep(n) end return nil, "a broken disk" end } do
      local files = reader_of(read, 25)
      local response = ask("/big.bin", nil, { root = "/r", files = files, chunk = 10 })
      assert.equal(10, #response.body())
      local data, err = response.body()
      assert.is_nil(data)
      assert.is_truthy(err)
      assert.equal(1, files.closed)
    end
    local half = reader_of(function(_, n) return ("x"):rep(math.min(n, 3)) end, 7) -- a reader that gives less than it might
    assert.equal("xxxxxxx", body_of(ask("/big.bin", nil, { root = "/r", files = half })))
  end)

  it("want options that make sense", function()
    for _, opts in ipairs { { chunk = 0 }, { cache_control = "a\nb" }, { dotfile = true }, { index = 5 }, { files = 5 } } do
      assert.has_error(function() static.new(root, opts) end)
    end
    assert.has_error(function() static.new(nil) end)
  end)
end)
