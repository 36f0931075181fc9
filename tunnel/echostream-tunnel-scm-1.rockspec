rockspec_format = "3.0"
package = "echostream-tunnel"
version = "scm-1"
-- `luarocks make` in this folder builds what lies beside this file, with the Makefile of the folder above.
source = {
  url = "file://.",
}
description = {
  summary = "A reverse tunnel for HTTP, gRPC, WebSocket and TCP, routed by Lua",
  detailed = [[
    A public server takes visitors over HTTP/1.1, HTTP/2, HTTP/3, WebSocket, gRPC and TCP, and hands each request through an echostream
    session to an agent beside the backends. Rules are data or Lua functions. `echostream tunnel server`, `echostream tunnel agent`.
  ]],
  license = "MIT",
  labels = { "network", "tunnel", "proxy", "http", "quic" },
}
supported_platforms = { "linux" }
dependencies = {
  "lua ~> 5.4",
  "echostream",
}
-- llhttp: the library where there is one (Debian 13: libllhttp-dev), else its sources (Debian 12: node-llhttp). The Makefile finds it.
external_dependencies = {
  NGHTTP2 = { header = "nghttp2/nghttp2.h", library = "nghttp2" },
  GNUTLS = { header = "gnutls/gnutls.h", library = "gnutls" },
}
build = {
  type = "make",
  build_target = "all",
  install_target = "install",
  build_variables = {
    CFLAGS = "$(CFLAGS) -g",
  },
  install_variables = {
    CFLAGS = "$(CFLAGS) -g",
    LUADIR = "$(LUADIR)",
    LIBDIR = "$(LIBDIR)",
  },
  copy_directories = { "docs" },
}
