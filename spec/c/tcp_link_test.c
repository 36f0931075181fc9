// needs: csrc/base csrc/link csrc/transport csrc/tcp
// pkgs: libngtcp2 libngtcp2_crypto_gnutls libnghttp2 gnutls
//
// Links over TCP keep link.h's rules.
#define RIG_TCP
#include "test.h"
#include "transport_support.h"

static struct rig r;
static struct rig_options o;

static struct side *start(void)
{
    struct side *c;

    if (rig_open(&r, &o) != 0) {
        fprintf(stderr, "%s\n", r.err);
        return NULL;
    }
    c = rig_dial(&r, &o);
    return c != NULL && UNTIL(&r, 5, c->established && r.s[0].established) ? c : NULL;
}

TEST(bytes_go_both_ways)
{
    struct side *c;
    struct es_link_stream *s;

    rig_options(&o);
    REQUIRE((c = start()) != NULL);
    c->keep = 1;
    CHECK_STR(c->link->door->name, "tcp");
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &s), ==, 0);
    CHECK_INT(es_link_write(s, "hello", 5, 1), ==, 0);
    CHECK(UNTIL(&r, 5, c->fins == 1));
    CHECK_MEM(c->bytes.p, c->bytes.n, "hello", 5);
    CHECK(UNTIL(&r, 5, c->stream_closed == 1 && r.s[0].stream_closed == 1));
    CHECK_INT(c->sent, ==, 1);
    CHECK_INT(r.s[0].sent, ==, 1);
    es_link_close(c->link, 1, 42, "enough");
    CHECK(UNTIL(&r, 5, c->closed && r.s[0].closed));
    CHECK_INT(c->info.cause, ==, ES_CLOSE_LOCAL);
    CHECK_INT(r.s[0].info.cause, ==, ES_CLOSE_PEER);
    CHECK_INT(r.s[0].info.code, ==, 42);
    CHECK_INT(r.s[0].info.app, ==, 1);
    CHECK_STR(r.s[0].info.reason, "enough");
    rig_close(&r);
}
