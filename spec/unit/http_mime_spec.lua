local mime = require "echostream.http.mime"

describe("media types", function()
  it("are known by the extension", function()
    assert.equal("text/html; charset=utf-8", mime.by_name "/a/b.c/index.HTML")
    assert.equal("text/javascript; charset=utf-8", mime.by_name "x.min.mjs")
    assert.equal("application/wasm", mime.by_name "x.wasm")
    assert.equal("application/gzip", mime.by_name "x.tar.gz")
    for _, name in ipairs { "README", "a.b/README", ".html", "/x/.html", "x.", "x.unheard", "" } do
      assert.equal(mime.default, mime.by_name(name), name)
    end
  end)

  it("can be added to", function()
    mime.types.echo = "application/x-echo"
    assert.equal("application/x-echo", mime.by_name "a.echo")
    mime.types.echo = nil
  end)

  it("say whether compressing pays", function()
    for _, name in ipairs { "a.html", "a.json", "a.svg", "a.wasm", "a.webmanifest", "a.ico" } do
      assert.is_true(mime.compressible(mime.by_name(name)), name)
    end
    for _, name in ipairs { "a.png", "a.zip", "a.mp4", "a.woff2", "a" } do
      assert.is_false(mime.compressible(mime.by_name(name)), name)
    end
  end)
end)
