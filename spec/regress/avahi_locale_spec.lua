-- avahi-publish-service speaks the user's language, and whoever was not told "Established" in English waited for half a minute in vain.

local process = require "spec.support.process"

describe("what avahi says", function()
  local dir

  before_each(function() dir = process.directory() end)
  after_each(function() process.remove(dir) end)

  it("is asked for in English, whatever the user's language is", function()
    process.write(dir .. "/avahi-publish-service", [[#!/bin/sh
      if [ "$LC_ALL" = C ]; then echo "Established under name '$2'"; else echo "Eingerichtet unter dem Namen »$2«"; fi
      exec sleep 60
    ]])
    os.execute("chmod +x " .. dir .. "/avahi-publish-service")
    process.write(dir .. "/publish.lua", [[
      local avahi = require "echostream.discovery.avahi"
      local echo = require "echostream"
      local published
      print(echo.await(function(resume)
        published = avahi.publish({ name = "küche", type = "_chat._udp", subtypes = {}, port = 1, strings = {} }, resume, print)
      end, 30))
      published.remove()
    ]])
    local result = process.run(".ci/env env LC_ALL=de_DE.UTF-8 LANGUAGE=de lua5.4 " .. dir .. "/publish.lua",
      { env = { PATH = dir .. ":" .. os.getenv "PATH" } })
    assert.same({ code = 0, out = "küche\n", err = "" }, result)
  end)
end)
