// needs: csrc/base csrc/transport
// libs: -lpthread
// defines: -DES_EARLY_SEEN_MAX=8
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// The memory of hellos, here of eight, is full: what it forgets must not open any more.
#include "test.h"
#include "transport_support.h"

struct outcome {
    int resumed;
    enum es_link_early early;
};

/* Connects with the ticket that r has, and waits for the next one. */
static struct outcome visit(struct rig *r, struct rig_options *o)
{
    struct outcome out = {0, ES_LINK_EARLY_NONE};
    struct es_link_stats st;
    int had = r->tickets;
    struct side *c = rig_dial(r, o);

    if (c == NULL || !UNTIL(r, 5, (c->established && r->tickets > had) || c->closed) || c->closed) {
        test_fail(__FILE__, __LINE__, "no ticket came: %s", c != NULL ? c->info.reason : r->err);
        return out;
    }
    es_link_stats_get(c->link, &st);
    out.resumed = st.resumed;
    out.early = st.early_data;
    es_link_close(c->link, 1, 0, "");
    CHECK(UNTIL(r, 5, c->closed));
    return out;
}

TEST(a_full_memory_begins_anew_and_voids_the_tickets_of_before)
{
    struct rig r;
    struct rig_options o;
    struct outcome got;

    rig_options(&o);
    o.server.enable_0rtt = o.client.enable_0rtt = 1;
    REQUIRE(rig_open(&r, &o) == 0);
    r.app.takes_early = 1;
    r.want_tickets = 1;
    got = visit(&r, &o);
    CHECK_INT(got.resumed, ==, 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 8; i++) {
            got = visit(&r, &o);
            CHECK_INT(got.resumed, ==, 1);
            CHECK_INT(got.early, ==, ES_LINK_EARLY_ACCEPTED);
        }
        got = visit(&r, &o); /* there is no room to remember this one */
        CHECK_INT(got.resumed, ==, 1);
        CHECK_INT(got.early, ==, ES_LINK_EARLY_REJECTED);
        got = visit(&r, &o); /* a ticket from before */
        CHECK_INT(got.resumed, ==, 0);
        CHECK_INT(got.early, ==, ES_LINK_EARLY_REJECTED);
    }
    got = visit(&r, &o);
    CHECK_INT(got.early, ==, ES_LINK_EARLY_ACCEPTED);
    rig_close(&r);
}
