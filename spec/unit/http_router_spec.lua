local fields = require "echostream.http.fields"
local router = require "echostream.http.router"

describe("routes", function()
  local routes
  local function add(method, pattern) routes:add(method, pattern, function() return pattern end) end
  local function found(method, path)
    local match, status, allow = routes:match(method, path)
    if not match then return status, allow end
    local names = {}
    for name, value in pairs(match.params) do names[#names + 1] = name .. "=" .. value end
    table.sort(names)
    return match.pattern .. (names[1] and " " .. table.concat(names, " ") or "")
  end
  before_each(function() routes = router.new() end)

  it("are found by literals, names and what is left", function()
    add("GET", "/")
    add("GET", "/users/:id")
    add("GET", "/users/:id/posts/:post")
    add("GET", "/files/*rest")
    assert.equal("/", found("GET", "/"))
    assert.equal("/", found("GET", "/?a=b/c"))
    assert.equal("/users/:id id=7", found("GET", "/users/7"))
    assert.equal("/users/:id id=a b", found("GET", "/users/a%20b?x"))
    assert.equal("/users/:id/posts/:post id=7 post=8", found("GET", "/users/7/posts/8"))
    assert.equal("/files/*rest rest=", found("GET", "/files/"))
    assert.equal("/files/*rest rest=a/b.txt", found("GET", "/files/a/b.txt"))
    assert.equal("/files/*rest rest=a/", found("GET", "/files/a/"))
    for _, path in ipairs { "/users", "/users/", "/users/7/", "/files", "/x", "/users/7/posts" } do
      assert.equal(404, found("GET", path), path)
    end
  end)

  it("go from the exact to the general, whatever order they were added in", function()
    add("GET", "/a/*rest")
    add("GET", "/a/:x/c")
    add("GET", "/a/b/d")
    add("GET", "/a/:y")
    add("GET", "/a/b")
    add("GET", "/*all")
    assert.equal("/a/b", found("GET", "/a/b"))
    assert.equal("/a/:y y=z", found("GET", "/a/z"))
    assert.equal("/a/b/d", found("GET", "/a/b/d"))
    assert.equal("/a/:x/c x=b", found("GET", "/a/b/c")) -- back out of the literal
    assert.equal("/a/*rest rest=b/e", found("GET", "/a/b/e"))
    assert.equal("/*all all=q", found("GET", "/q"))
    assert.equal("/*all all=", found("GET", "/"))
  end)

  it("know methods: HEAD is GET without a body, others are 405 or OPTIONS with Allow", function()
    add("GET", "/a")
    add({ "PUT", "DELETE" }, "/a")
    add("POST", "/:any")
    add("*", "/every")
    assert.equal("/a", found("HEAD", "/a"))
    assert.equal("/:any any=a", found("POST", "/a")) -- the next pattern that has the method
    assert.same({ 405, "DELETE, GET, HEAD, OPTIONS, POST, PUT" }, { found("PATCH", "/a") })
    assert.same({ 204, "DELETE, GET, HEAD, OPTIONS, POST, PUT" }, { found("OPTIONS", "/a") })
    assert.same({ 405, "OPTIONS, POST" }, { found("get", "/b") }) -- methods have case
    assert.equal("/every", found("BREW", "/every"))
    assert.same({ 204, "DELETE, GET, HEAD, OPTIONS, POST, PUT" }, { found("OPTIONS", "*") })
    assert.equal(404, found("OPTIONS", "/a/b"))
    assert.equal(400, found("GET", "*"))
    add("OPTIONS", "/a")
    add("HEAD", "/a")
    assert.equal("/a", found("OPTIONS", "/a"))
  end)

  it("decode a path once, after it was cut", function()
    add("GET", "/u/:name")
    add("GET", "/f/*rest")
    add("GET", "/a b/c")
    assert.equal("/a b/c", found("GET", "/%61%20b/c"))
    assert.equal("/u/:name name=%2e%2e", found("GET", "/u/%252e%252e"))
    assert.equal("/u/:name name=a/b", found("GET", "/u/a%2Fb"))
    assert.equal("/u/:name name=ä", found("GET", "/u/%C3%A4"))
    assert.equal("/u/:name name=+", found("GET", "/u/+"))
    assert.equal("/f/*rest rest=%2F", found("GET", "/f/%252F"))
    for _, path in ipairs { "/f/a%2Fb", "/f/..%2f..", "/u/%", "/u/%4", "/u/%zz", "/u/%00", "/f/a%00.txt", "/u/..", "/u/%2e%2E", "/f/a/../b",
      "/f/./a", "/f/%2e/a", "/f/..", "", "u/x", "http://x/", "/u/a b", "/u/a\r\n", "/u/ä", "/u/a\\b", "/u/a#b", "/u/\127" } do
      assert.equal(400, found("GET", path), path)
    end
    assert.equal(404, found("GET", "//u/x"))
    assert.equal(404, found("GET", "/u//x"))
    assert.equal(404, found("GET", "/f//x"))
    assert.equal(404, found("GET", "/f/a//b"))
    assert.equal(404, found("GET", "/f//"))
    assert.equal(414, found("GET", "/f/" .. ("x"):rep(20000)))
    assert.equal(414, found("GET", ("/x"):rep(300)))
    assert.equal("/u/:name name=x", found("GET", "/u/x?" .. ("y"):rep(20000))) -- the path counts
  end)

  it("keep the time of a search bounded", function()
    local pattern = ""
    for i = 1, 12 do
      pattern = pattern .. "/a"
      add("GET", pattern .. "/:x" .. i)
      add("GET", pattern:gsub("a$", ":y") .. "/b")
    end
    assert.equal(404, found("GET", ("/a"):rep(200)))
  end)

  it("refuse patterns that make no sense, and doubles", function()
    for _, pattern in ipairs { "", "a", "/:", "/*", "/:a-b", "/*a/b", "/:a/:a", "/..", "/a/./b", "/:1" } do
      assert.has_error(function() add("GET", pattern) end, nil, pattern)
    end
    assert.has_error(function() routes:add("G T", "/", print) end)
    assert.has_error(function() routes:add("GET", "/") end)
    add("GET", "/:a")
    assert.has_error(function() add("GET", "/:b") end)
    add("PUT", "/:b/c")
    assert.equal("/:b/c b=1", found("PUT", "/1/c"))
  end)

  it("are found by the very path as the tree would find them", function()
    routes:add("GET", "/a/b", "literal"):add("*", "/a/*rest", "rest"):add("POST", "/a/:name", "param")
    local function handler(method, path)
      local match, status = routes:match(method, path)
      return match and match.handler or status
    end
    assert.equal("literal", handler("GET", "/a/b"))
    assert.equal("literal", handler("HEAD", "/a/b"))
    assert.equal("literal", handler("GET", "/a/b?x"))
    assert.equal("literal", handler("GET", "/a/%62"))
    assert.equal("param", handler("POST", "/a/b"))
    assert.equal("rest", handler("PUT", "/a/b"))
    assert.equal("rest", handler("GET", "/a/b/c"))
    assert.is_true(routes:remove("GET", "/a/b"))
    assert.equal("rest", handler("GET", "/a/b"))
    assert.same({}, router.new():add("GET", "/", "root"):match("GET", "/").params)
  end)

  it("can be removed", function()
    add("GET", "/a")
    add({ "GET", "POST" }, "/b/*rest")
    assert.is_true(routes:remove("GET", "/a"))
    assert.is_false(routes:remove("GET", "/a"))
    assert.is_false(routes:remove("GET", "/never/was"))
    assert.equal(404, found("GET", "/a"))
    assert.is_true(routes:remove({ "GET", "POST" }, "/b/*rest"))
    assert.equal(404, found("GET", "/b/c"))
    add("GET", "/a")
    assert.equal("/a", found("GET", "/a"))
  end)

  it("answer requests", function()
    routes:add("GET", "/users/:id", function(request, response)
      response.body = request.params.id .. request.route
      return "result"
    end)
    local function ask(method, path)
      local response = { status = 200, headers = fields.new() }
      local result = routes:handle({ method = method, path = path, headers = fields.new() }, response)
      return response, result
    end
    local response, result = ask("GET", "/users/5")
    assert.same({ 200, "5/users/:id", "result" }, { response.status, response.body, result })
    response = ask("POST", "/users/5")
    assert.same({ 405, "GET, HEAD, OPTIONS" }, { response.status, response.headers:get "allow" })
    assert.equal(404, ask("GET", "/nobody").status)
    assert.equal(400, ask("GET", "/%00").status)
    assert.same({ "a", "b/c", "" }, router.segments "/a/b%2fc/?d")
  end)
end)
