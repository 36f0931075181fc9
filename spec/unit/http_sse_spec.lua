local codec = require "echostream.codec"
local errors = require "echostream.errors"
local fields = require "echostream.http.fields"
local sse = require "echostream.http.sse"

-- Reads a stream as the HTML standard says (section 9.2.6).
local function read(text)
  local events, data, name, id = {}, {}, nil, nil
  for line in text:gmatch "([^\r\n]*)\r?\n?" do
    if line == "" then
      if #data > 0 then events[#events + 1] = { data = table.concat(data, "\n"), event = name, id = id } end
      data, name = {}, nil
    elseif line:sub(1, 1) ~= ":" then
      local key, value = line:match "^([^:]*):? ?(.*)$"
      if key == "data" then data[#data + 1] = value elseif key == "event" then name = value elseif key == "id" then id = value end
    end
  end
  return events
end

describe("server-sent events", function()
  it("are written as fields, line by line", function()
    assert.equal("data: hello\n\n", sse.encode "hello")
    assert.equal("event: tick\nid: 7\nretry: 1500\ndata: {\"a\":[1,2]}\n\n",
      sse.encode { event = "tick", id = 7, retry = 1.5, data = { a = { 1, 2 } } })
    assert.equal(": alive\n\n", sse.comment "alive")
    assert.equal(": why\ndata: x\n\n", sse.encode { comment = "why", data = "x" })
    assert.equal("data: \n\n", sse.encode "")
    assert.equal("data: false\n\n", sse.encode { data = false })
  end)

  it("carry any text, and nobody else's events", function()
    for _, text in ipairs { "a\nb", "a\r\nb\rc\n", "\n\n", "x\n\nevent: forged\ndata: y", " leading", "ä" } do
      local events = read(sse.encode(text))
      assert.equal(1, #events)
      assert.equal((text:gsub("\r\n?", "\n")), events[1].data)
      assert.is_nil(events[1].event)
    end
    assert.same({}, read(sse.comment "a\ndata: b\n\ndata: c"))
    for _, event in ipairs { { event = "a\nb" }, { id = "1\r2" }, { id = "a\0" }, { retry = -1 }, { retry = 0 / 0 }, { event = 5 },
      { data = print }, { data = "\xff" } } do
      assert.has_error(function() sse.encode(event) end)
    end
  end)

  it("are a response that is made while it is read", function()
    local n, closed = 0, 0
    local response = sse.respond({ status = 0, headers = fields.new() }, function()
      n = n + 1
      if n <= 2 then return { data = n, id = n } end
    end, function() closed = closed + 1 end)
    assert.equal(200, response.status)
    assert.equal("text/event-stream", response.headers:get "content-type")
    assert.equal("no-store", response.headers:get "cache-control")
    assert.equal(0, n)
    assert.equal("id: 1\ndata: 1\n\n", response.body())
    assert.equal(1, n) -- not before somebody wants it
    assert.equal("id: 2\ndata: 2\n\n", response.body())
    assert.is_nil(response.body())
    assert.is_nil(response.body())
    response.body:close()
    assert.equal(1, closed)
    assert.equal(3, n)
  end)

  it("end with what went wrong", function()
    local response = sse.respond({ headers = fields.new() }, function() return nil, errors.new("not_found", "gone") end)
    local events = read(response.body())
    assert.equal("error", events[1].event)
    assert.same({ error = { code = "not_found", message = "gone" } }, codec.json.unpack(events[1].data))
    assert.is_nil(response.body())
  end)

  it("go on after the last that was seen", function()
    assert.equal("7", sse.last_event_id { headers = fields.new { ["last-event-id"] = "7" } })
    assert.is_nil(sse.last_event_id { headers = fields.new() })
    assert.is_nil(sse.last_event_id { headers = fields.new { ["last-event-id"] = "" } })
  end)
end)
