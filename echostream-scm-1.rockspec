rockspec_format = "3.0"
package = "echostream"
version = "scm-1"
-- `luarocks make` builds what lies beside this file.
source = {
  url = "file://.",
}
description = {
  summary = "RPC, events and streams over QUIC, in both directions",
  detailed = [[
    Servers and clients call each other's functions, send each other events and open two-way streams over one
    QUIC connection. Handlers are plain Lua functions that may block. The core is C on ngtcp2 and GnuTLS.
  ]],
  license = "MIT",
  labels = { "network", "rpc", "quic", "async" },
}
supported_platforms = { "linux" }
dependencies = {
  "lua ~> 5.4",
  "luv",
}
external_dependencies = {
  NGTCP2 = { header = "ngtcp2/ngtcp2.h", library = "ngtcp2" },
  NGTCP2_CRYPTO_GNUTLS = { header = "ngtcp2/ngtcp2_crypto_gnutls.h", library = "ngtcp2_crypto_gnutls" },
  GNUTLS = { header = "gnutls/gnutls.h", library = "gnutls" },
  JANSSON = { header = "jansson.h", library = "jansson" },
  ZSTD = { header = "zstd.h", library = "zstd" },
}
build = {
  type = "builtin",
  modules = {
    ["echostream.core"] = {
      -- Kept in step with csrc/ by `.ci/rockspec-sources --fix`.
      sources = {
        "csrc/base/buf.c",
        "csrc/base/clock.c",
        "csrc/base/err.c",
        "csrc/base/event.c",
        "csrc/base/idmap.c",
        "csrc/base/map.c",
        "csrc/base/mem.c",
        "csrc/base/pool.c",
        "csrc/base/timer.c",
        "csrc/dispatch/dispatcher.c",
        "csrc/dispatch/limits.c",
        "csrc/dispatch/wheel.c",
        "csrc/framing/compress.c",
        "csrc/framing/crc32c.c",
        "csrc/framing/decode.c",
        "csrc/framing/encode.c",
        "csrc/framing/hello.c",
        "csrc/framing/kv.c",
        "csrc/framing/reader.c",
        "csrc/framing/varint.c",
        "csrc/link/pair.c",
        "csrc/link/pair_ops.c",
        "csrc/lua/channel.c",
        "csrc/lua/codec.c",
        "csrc/lua/codec_custom.c",
        "csrc/lua/core.c",
        "csrc/lua/crypto.c",
        "csrc/lua/drain.c",
        "csrc/lua/endpoint.c",
        "csrc/lua/errors.c",
        "csrc/lua/ext.c",
        "csrc/lua/frame.c",
        "csrc/lua/frame_encode.c",
        "csrc/lua/frame_fields.c",
        "csrc/lua/host.c",
        "csrc/lua/job.c",
        "csrc/lua/json.c",
        "csrc/lua/loop.c",
        "csrc/lua/luaaux.c",
        "csrc/lua/msgpack.c",
        "csrc/lua/prompt.c",
        "csrc/lua/quic.c",
        "csrc/lua/quic_link.c",
        "csrc/lua/quic_stream.c",
        "csrc/lua/request.c",
        "csrc/lua/session.c",
        "csrc/lua/task.c",
        "csrc/lua/value.c",
        "csrc/session/answer.c",
        "csrc/session/calls_in.c",
        "csrc/session/calls_out.c",
        "csrc/session/channel.c",
        "csrc/session/channel_in.c",
        "csrc/session/channel_open.c",
        "csrc/session/control.c",
        "csrc/session/emit.c",
        "csrc/session/hello.c",
        "csrc/session/lanes.c",
        "csrc/session/pack.c",
        "csrc/session/pending.c",
        "csrc/session/session.c",
        "csrc/session/strand.c",
        "csrc/session/text.c",
        "csrc/session/up.c",
        "csrc/sim/net.c",
        "csrc/sim/sim.c",
        "csrc/transport/accept.c",
        "csrc/transport/addr.c",
        "csrc/transport/callbacks.c",
        "csrc/transport/cert.c",
        "csrc/transport/close.c",
        "csrc/transport/conn.c",
        "csrc/transport/endpoint.c",
        "csrc/transport/link_ops.c",
        "csrc/transport/poller.c",
        "csrc/transport/stream.c",
        "csrc/transport/tls.c",
        "csrc/transport/tls_verify.c",
        "csrc/transport/udp.c",
        "csrc/transport/version.c",
        "csrc/transport/write.c",
      },
      defines = { "_GNU_SOURCE" },
      incdirs = {
        "$(NGTCP2_INCDIR)", "$(NGTCP2_CRYPTO_GNUTLS_INCDIR)", "$(GNUTLS_INCDIR)", "$(JANSSON_INCDIR)",
        "$(ZSTD_INCDIR)",
      },
      libdirs = {
        "$(NGTCP2_LIBDIR)", "$(NGTCP2_CRYPTO_GNUTLS_LIBDIR)", "$(GNUTLS_LIBDIR)", "$(JANSSON_LIBDIR)",
        "$(ZSTD_LIBDIR)",
      },
      libraries = { "ngtcp2_crypto_gnutls", "ngtcp2", "gnutls", "jansson", "zstd" },
    },
  },
  -- The Lua files need no list: everything under lua/ is installed.
  install = {
    bin = { echostream = "lua/echostream/bin/echostream" },
  },
  copy_directories = { "docs", "examples" },
}
