// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
#include "test.h"
#include "transport_support.h"

TEST(a_pinned_server_is_reached_and_echoes)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    c->keep = 1;
    CHECK(UNTIL(&r, 5, c->established && r.n_s == 1));
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st), ==, 0);
    CHECK_INT(es_link_write(st, "hello", 5, 1), ==, 0);
    CHECK(UNTIL(&r, 5, c->stream_closed));
    CHECK_MEM(c->bytes.p, c->bytes.n, "hello", 5);
    CHECK_INT(c->fins, ==, 1);
    CHECK_INT(c->sent, ==, 1);
    CHECK(UNTIL(&r, 5, r.s[0].sent == 1));
    rig_close(&r);
    CHECK_INT(c->closed, ==, 1);
    CHECK_INT(r.s[0].closed, ==, 1);
}
