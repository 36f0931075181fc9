// needs: csrc/base csrc/link csrc/transport csrc/tcp
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls libnghttp2 gnutls
#define RIG_TCP
#include "transport_stream_test.c"
