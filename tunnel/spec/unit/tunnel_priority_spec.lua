local priority = require "echostream.tunnel.priority"

describe("a priority", function()
  local function parse(value) return ("%d %s"):format(priority.parse(value)) end

  it("is read from a dictionary", function()
    for value, expected in pairs { ["u=0"] = "0 false", ["u=7, i"] = "7 true", ["i,u=2"] = "2 true", ["u=5,i=?0"] = "5 false", ["i=?1"] = "3 true",
      [" u=1 ,\ti "] = "1 true", ["u=1, u=2"] = "2 false", ["u=1;x=y, i;z"] = "1 true", ["x=\"a b\", u=4"] = "4 false",
        ["a=1.5,b=:aGk=:,u=6"] = "6 false",
      ["foo, u=1"] = "1 false", [""] = "3 false" } do
      assert.equal(expected, parse(value), value)
    end
    assert.equal("3 false", parse(nil))
  end)

  it("that cannot be read is none", function()
    for _, value in ipairs { "u=8", "u=-1", "u=a", "u=", "u", "i=1", "i=?2", "U=1", "u=1,,i", "u=1, 5", "u=1 i", "=1", ",", "u=1,",
      ("x"):rep(300) .. ",u=1" } do
      assert.equal("3 false", parse(value), value)
    end
  end)
end)
