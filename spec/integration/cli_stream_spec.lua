-- `echostream stream`, in a process of its own: standard input and output beside a stream.

local command = require "spec.support.command"
local process = require "spec.support.process"

describe("echostream stream", function()
  local server

  setup(function()
    server = command.server [[
      local server = ...
      local function back(_, stream)
        for frame in stream:frames() do
          stream:send(frame.data)
        end
      end
      server:add_stream("back", back)
      server:add_stream("values", back, { codec = "msgpack" })
      server:add_stream("count", function(_, stream)
        local n, bytes = 0, 0
        for frame in stream:frames() do
          n, bytes = n + 1, bytes + #frame.data
        end
        stream:send(("%d bytes, %s"):format(bytes, n > 0 and "in messages" or "no message"))
      end)
      server:add_stream("three", function(_, stream)
        for i = 1, 3 do
          stream:send_timestamped { data = "x\255" .. i, wall_time = 1000.5 }
        end
      end)
      server:add_stream("broken", function()
        error(require "echostream".error("data_loss", "nothing left"))
      end)
    ]]
  end)

  teardown(function()
    server:stop()
  end)

  local function stream(arguments, input)
    return server:run("stream", arguments, { input = input })
  end

  it("carries any bytes both ways, and ends when the server has finished", function()
    local bytes = {}
    for i = 1, 40000 do
      bytes[i] = string.pack("<I4", i * 2654435761 % (1 << 32))
    end
    local text = table.concat(bytes, "\n\0")
    local result = stream("back", text)
    assert.equal(0, result.code, result.err)
    assert.equal(#text, #result.out)
    assert.is_true(text == result.out)
  end)

  it("finishes at the end of standard input, and prints what comes after it", function()
    assert.equal("12 bytes, in messages", stream("count", "twelve bytes").out)
    assert.equal("0 bytes, no message", stream("count", "").out)
  end)

  it("is held up by a slow reader, and loses nothing", function()
    local dir = process.directory()
    local source = ("0123456789abcdef"):rep(3 << 16) -- 3 MiB
    process.write(dir .. "/in", source)
    -- The reader looks at the pipe when the stream's queues and windows had time to fill; what it then gets is all of it.
    local result = process.run(("%s stream %s --pin %s back <%s/in | (sleep 0.5; cat)"):format(process.echostream, server.address,
      server.pin, dir))
    process.remove(dir)
    assert.equal(0, result.code, result.err)
    assert.is_true(result.out == source)
  end)

  it("ends with an error when nobody reads its output any more", function()
    local result = process.run(("(yes | %s stream %s --pin %s back; echo $? >&2) | head -c 10"):format(process.echostream,
      server.address, server.pin))
    assert.equal("y\ny\ny\ny\ny\n", result.out)
    assert.matches("standard output", result.err, 1, true)
    assert.matches("\n1\n$", result.err)
  end)

  it("makes a message of each line when told so", function()
    local result = stream("back --lines", "one\n\ntwo\nwithout an end")
    assert.equal(0, result.code, result.err)
    assert.equal("one\n\ntwo\nwithout an end\n", result.out)
  end)

  it("speaks JSON: text, and base64 where that is no text", function()
    local result = stream("back --json", '"a"\n{"data":"b"}\n{"base64":"/wA="}\n{"base64":""}\n')
    assert.equal(0, result.code, result.err)
    assert.equal('{"data":"a"}\n{"data":"b"}\n{"base64":"/wA="}\n{"data":""}\n', result.out)
    result = stream("three --json", "")
    assert.equal(0, result.code, result.err)
    local n = 0
    for line in result.out:gmatch "[^\n]+" do
      assert.matches('"base64":"eP8[xyz]"', line)
      assert.matches('"seq":' .. n, line, 1, true)
      assert.matches('"wall_time":1000.5', line, 1, true)
      n = n + 1
    end
    assert.equal(3, n)
  end)

  it("sends values where the stream has a codec", function()
    local result = stream("values --codec msgpack", '7\n{"k":[1,null]}\nnull\n')
    assert.equal(0, result.code, result.err)
    assert.equal('{"data":7}\n{"data":{"k":[1,null]}}\n{"data":null}\n', result.out)
  end)

  it("fails with 1 and the error when the stream fails or is not there", function()
    local result = stream("broken", "")
    assert.equal(1, result.code)
    assert.matches("^data_loss: nothing left", result.err)
    result = stream("nowhere --json", "")
    assert.equal(1, result.code)
    assert.equal("", result.err)
    assert.matches('"code":"method_not_found"', result.out)
  end)

  it("fails with 2 for wrong arguments and wrong input", function()
    assert.equal(2, stream("", "").code)
    assert.equal(2, stream("back surplus", "").code)
    assert.equal(2, stream("back --codec xml", "").code)
    assert.equal(2, stream("back --lines --json", "").code)
    for _, line in ipairs { "{", "7", '{"base64":"?"}', '"a" "b"' } do
      local result = stream("back --json", line .. "\n")
      assert.equal(2, result.code)
      assert.matches("a line of standard input is", result.err, 1, true)
    end
  end)

  it("takes a standard input that is closed for an empty one", function()
    local result = process.run(("%s stream %s --pin %s count <&-"):format(process.echostream, server.address, server.pin))
    assert.equal(0, result.code, result.err)
    assert.equal("0 bytes, no message", result.out)
  end)

  it("fails with 3 when nobody listens", function()
    local port = process.free_port()
    local result = command.run(("stream 127.0.0.1:%d back --insecure --timeout 1"):format(port))
    assert.equal(3, result.code)
    assert.equal("", result.out)
    result = command.run(("stream 127.0.0.1:%d back --insecure --timeout 1 --json"):format(port))
    assert.equal(3, result.code)
    assert.matches('^{"error":', result.out)
  end)
end)
