-- Responses over an exchange that is a table; over the core's: spec/integration/http_server_spec.lua.
local echo = require "echostream"
local responses = require "echostream.http.response"

describe("responses", function()
  local log

  local function new(method)
    log = {}
    local x = {}
    for _, name in ipairs { "respond", "write", "finish", "answer", "inform", "reset" } do
      x[name] = function(_, ...)
        log[#log + 1] = { name, ... }
        return true
      end
    end
    return responses.new { method = method or "GET", _x = x, _host = {} }
  end

  local function field(list, name)
    for i = 1, #list, 2 do
      if list[i] == name then
        return list[i + 1]
      end
    end
  end

  it("send a plain string in one", function()
    local response = new()
    response.body = "hello"
    assert.is_true(responses.complete(response))
    assert.equal(1, #log)
    assert.same({ "answer", 200, "hello" }, { log[1][1], log[1][2], log[1][4] })
    assert.equal("5", field(log[1][3], "content-length"))
    assert.is_truthy(field(log[1][3], "date"))
    assert.is_true(responses.complete(response))
    assert.equal(1, #log)
  end)

  it("have helpers for what is usual", function()
    local response = new()
    assert.equal(response, response:json({ a = 1 }, 201))
    assert.same({ 201, '{"a":1}', "application/json" }, { response.status, response.body, response.headers:get "content-type" })
    assert.is_false(pcall(response.json, response, print))
    response:set_cookie("a", "1"):set_cookie("b", "2")
    assert.equal(2, #response.headers:all "set-cookie")
    response:redirect "/x"
    assert.same({ 302, "/x", nil }, { response.status, response.headers:get "location", response.body })
    assert.is_true(response:early_hints { link = "</a>" })
    assert.same({ "inform", 103, { "link", "</a>" } }, log[1])
  end)

  it("may be urgent", function()
    local response, said = new(), nil
    response._x.priority = function(_, urgency)
      said = urgency
    end
    assert.equal(response, response:priority(1))
    assert.equal(1, said)
    assert.is_false(pcall(response.priority, response, 8))
  end)

  it("are written piece by piece", function()
    local response = new()
    response.status = 201
    assert.is_true(response:write "a")
    assert.is_true(response.begun)
    assert.is_true(response:write "b")
    assert.is_true(response:finish { ["x-end"] = "1" })
    assert.same({ "respond", 201 }, { log[1][1], log[1][2] })
    assert.same({ { "write", "a" }, { "write", "b" }, { "finish", { "x-end", "1" } } }, { log[2], log[3], log[4] })
    local ok, err = response:send "again"
    assert.same({ nil, "failed_precondition" }, { ok, err.code })
  end)

  it("are sent whole before the handler ends", function()
    local response = new()
    assert.is_true(response:send("gone", 404, { ["x-a"] = "1" }))
    assert.equal(404, log[1][2])
    assert.equal("1", field(log[1][3], "x-a"))
    assert.equal("4", field(log[1][3], "content-length"))
  end)

  it("of nothing are 204", function()
    assert.is_true(responses.complete(new()))
    assert.same({ "respond", 204 }, { log[1][1], log[1][2] })
    assert.is_true(log[1][4])
  end)

  it("that no client could read are refused", function()
    local response = new()
    response.status = 99
    local ok, err = responses.complete(response)
    assert.same({ nil, "internal" }, { ok, err.code })
    response = new()
    response.body = setmetatable({}, { __call = function() return nil, echo.error("io", "no disk") end })
    ok, err = responses.complete(response)
    assert.same({ nil, "io", "reset" }, { ok, err.code, log[#log][1] })
  end)
end)
