// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// Keys and sessions: key updates, tickets, early data.
#include "test.h"
#include "transport_support.h"
#include "../../csrc/transport/internal.h"

static void say_hello(struct rig *r, struct side *c)
{
    struct es_link_stream *st;
    int before = c->stream_closed;

    c->keep = 1;
    es_buf_clear(&c->bytes);
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    CHECK_INT(es_link_write(st, "hello", 5, 1), ==, 0);
    CHECK(UNTIL(r, 5, c->stream_closed > before || c->closed));
    CHECK_MEM(c->bytes.p, c->bytes.n, "hello", 5);
}

static struct es_link_stats stats_of(struct side *s)
{
    struct es_link_stats st;

    memset(&st, 0, sizeof st);
    if (s->link != NULL) {
        es_link_stats_get(s->link, &st);
    }
    return st;
}

/* Connects, waits for the ticket, and closes. */
static struct side *visit(struct rig *r, struct rig_options *o)
{
    int had = r->tickets;
    struct side *c = rig_dial(r, o);

    if (c == NULL || !UNTIL(r, 5, (c->established && r->tickets > had) || c->closed)) {
        test_fail(__FILE__, __LINE__, "no ticket came: %s", c != NULL ? c->info.reason : r->err);
    }
    return c;
}

TEST(a_ticket_shortens_the_next_handshake)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    uint8_t pin[32];

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    r.want_tickets = 1;
    c = visit(&r, &o);
    CHECK_INT(stats_of(c).resumed, ==, 0);
    es_link_close(c->link, 1, 0, "");
    CHECK(UNTIL(&r, 5, c->closed));
    CHECK_INT(r.tickets_freed, ==, 1);
    c = visit(&r, &o);
    CHECK_INT(stats_of(c).resumed, ==, 1);
    CHECK_INT(stats_of(c).early_data, ==, ES_LINK_EARLY_NONE);
    CHECK(UNTIL(&r, 5, r.n_s == 2 && r.s[1].established));
    CHECK_INT(stats_of(&r.s[1]).resumed, ==, 1);
    CHECK_INT(es_link_peer_pin(c->link, pin), ==, 0);
    CHECK_MEM(pin, 32, r.pin, 32);
    say_hello(&r, c);
    CHECK_INT(r.tickets, ==, 2);
    rig_close(&r);
}

TEST(a_client_that_wants_no_tickets_gets_none)
{
    struct rig r;
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    CHECK(UNTIL(&r, 5, c->established));
    say_hello(&r, c);
    CHECK_INT(r.tickets, ==, 0);
    rig_close(&r);
}

TEST(early_data_is_answered_before_the_handshake_is_over)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;

    rig_options(&o);
    o.server.enable_0rtt = o.client.enable_0rtt = 1;
    REQUIRE(rig_open(&r, &o) == 0);
    r.app.takes_early = 1;
    r.want_tickets = 1;
    c = visit(&r, &o);
    CHECK_INT(c->early, ==, 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    CHECK_INT(c->early, ==, 1);
    CHECK_INT(c->established, ==, 0);
    c->keep = 1;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    CHECK_INT(es_link_write(st, "early", 5, 1), ==, 0);
    CHECK(UNTIL(&r, 5, r.n_s == 2 && r.s[1].fins == 1));
    CHECK_INT(r.s[1].early, ==, 1);
    CHECK_INT(r.s[1].established, ==, 0); /* the bytes were there first */
    CHECK(UNTIL(&r, 5, c->stream_closed == 1 && r.s[1].established));
    CHECK_MEM(c->bytes.p, c->bytes.n, "early", 5);
    CHECK_INT(stats_of(c).early_data, ==, ES_LINK_EARLY_ACCEPTED);
    CHECK_INT(stats_of(&r.s[1]).early_data, ==, ES_LINK_EARLY_ACCEPTED);
    say_hello(&r, c);
    rig_close(&r);
}

TEST(early_data_that_is_refused_is_sent_again)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st[20], *given_up;

    rig_options(&o);
    o.server.enable_0rtt = o.client.enable_0rtt = 1;
    REQUIRE(rig_open(&r, &o) == 0);
    r.app.takes_early = 1;
    r.want_tickets = 1;
    c = visit(&r, &o);
    r.app.takes_early = 0; /* as after a restart: the ticket is good, its early data is not */
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL && c->early == 1);
    c->keep = 1;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &given_up) == 0);
    CHECK_INT(es_link_write(given_up, "never mind", 10, 0), ==, 0);
    for (int i = 0; i < 20; i++) {
        char text[16];
        snprintf(text, sizeof text, "call%03d", i);
        REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st[i]) == 0);
        CHECK_INT(es_link_write(st[i], text, 7, 1), ==, 0);
    }
    turn(&r);
    es_link_reset(given_up, 7);
    es_link_stop(given_up, 7);
    CHECK(UNTIL(&r, 5, c->stream_closed == 21));
    CHECK_INT(c->bytes.n, ==, 140);
    CHECK_INT(r.s[1].fins, ==, 20);
    CHECK_INT(r.s[1].early, ==, 0);
    CHECK_INT(stats_of(c).early_data, ==, ES_LINK_EARLY_REJECTED);
    CHECK_INT(stats_of(c).resumed, ==, 1);
    say_hello(&r, c);
    rig_close(&r);
}

/* ---- key updates ---- */

#define BLOCK 16384 /* bytes written at once */

/* The library makes the next keys some probe time-outs after the change before, so the load goes on until
 * there were enough changes, not for so many bytes. */
struct pump {
    struct es_link_stream *st;
    size_t sent, total; /* total: SIZE_MAX until it is known */
    uint64_t until;     /* ns: when it ends in any case */
};

static void start_pump(struct pump *p, struct rig *r, struct side *c)
{
    p->sent = 0;
    p->total = SIZE_MAX;
    p->until = es_poller_now(r->p) + (uint64_t)(10e9 * patience());
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &p->st) == 0);
}

static void keep_full(struct pump *p)
{
    static uint8_t block[BLOCK];

    while (p->sent < p->total && es_link_queued(p->st) < 200000) {
        memset(block, (int)(p->sent / BLOCK), BLOCK);
        if (es_link_write(p->st, block, BLOCK, p->sent + BLOCK == p->total) != 0) {
            test_fail(__FILE__, __LINE__, "cannot write");
            return;
        }
        p->sent += BLOCK;
    }
}

static int enough(const struct pump *p, struct rig *r, struct side *c)
{
    return es_poller_now(r->p) > p->until ||
           (r->s[0].link != NULL && stats_of(c).key_updates >= 2 && stats_of(&r->s[0]).key_updates >= 2);
}

TEST(keys_change_under_load_whoever_asks)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct pump p;
    int asked[2] = {0, 0};

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    CHECK(UNTIL(&r, 5, c->established && r.n_s == 1 && r.s[0].established));
    start_pump(&p, &r, c);
    while (c->stream_closed == 0 && !c->closed) {
        keep_full(&p);
        if (p.total != SIZE_MAX || enough(&p, &r, c)) {
            p.total = p.total != SIZE_MAX ? p.total : p.sent + BLOCK;
            turn(&r);
            continue;
        }
        asked[0] += es_link_update_key(c->link) == 0;
        turn(&r);
        if (r.s[0].link != NULL) {
            asked[1] += es_link_update_key(r.s[0].link) == 0;
        }
    }
    CHECK_INT(c->closed, ==, 0);
    CHECK_INT(c->received, ==, p.total); /* the server echoes */
    CHECK_INT(asked[0] + asked[1], >=, 3);
    CHECK_INT(stats_of(c).key_updates, >=, 2);
    CHECK_INT(stats_of(&r.s[0]).key_updates, >=, 2);
    rig_close(&r);
}

TEST(keys_change_by_themselves_after_many_packets)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct pump p;

    rig_options(&o);
    o.server.key_update_packets = UINT64_MAX;
    o.client.key_update_packets = 500;
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    CHECK(UNTIL(&r, 5, c->established));
    start_pump(&p, &r, c);
    while (c->stream_closed == 0 && !c->closed) {
        keep_full(&p);
        if (p.total == SIZE_MAX && enough(&p, &r, c)) {
            p.total = p.sent + BLOCK;
        }
        turn(&r);
    }
    CHECK_INT(c->received, ==, p.total);
    CHECK_INT(stats_of(c).key_updates, >=, 2);
    CHECK_INT(stats_of(&r.s[0]).key_updates, >=, 2);
    rig_close(&r);
}

/* What GnuTLS computes itself, and what we compute from the secret that we kept. */
TEST(exported_keys_are_those_of_tls)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    uint8_t ours[3][100], theirs[100];
    const char *label = "EXPORTER-a-test";

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    CHECK_INT(es_link_export_key(c->link, label, "", 0, ours[0], 32), ==, ES_ERR_AGAIN);
    CHECK(UNTIL(&r, 5, c->established));
    gnutls_session_t tls = es_conn_of(c->link)->tls;
    REQUIRE(tls != NULL); /* not confirmed yet */
    CHECK_INT(es_link_export_key(c->link, label, "context", 7, ours[0], 100), ==, 0);
    CHECK_INT(gnutls_prf_rfc5705(tls, strlen(label), label, 7, "context", 100, (char *)theirs), ==, 0);
    CHECK_MEM(ours[0], 100, theirs, 100);
    CHECK_INT(es_link_export_key(c->link, label, NULL, 0, ours[1], 32), ==, 0);
    CHECK_INT(gnutls_prf_rfc5705(tls, strlen(label), label, 0, NULL, 32, (char *)theirs), ==, 0);
    CHECK_MEM(ours[1], 32, theirs, 32);
    say_hello(&r, c);
    CHECK_INT(es_link_export_key(r.s[0].link, label, "context", 7, ours[2], 100), ==, 0);
    CHECK_MEM(ours[2], 100, ours[0], 100);
    CHECK_INT(es_link_export_key(r.s[0].link, label, "", 0, ours[2], 65000), ==, ES_ERR_INVAL);
    rig_close(&r);
}

TEST(a_key_update_too_early_is_refused_and_harmless)
{
    struct rig r;
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    CHECK_INT(es_link_update_key(c->link), ==, ES_ERR_AGAIN);
    CHECK(UNTIL(&r, 5, c->established));
    say_hello(&r, c);
    CHECK_INT(es_link_update_key(c->link), ==, 0);
    CHECK_INT(es_link_update_key(c->link), ==, ES_ERR_AGAIN);
    /* It is counted when the keys after it are ready. */
    uint64_t until = es_poller_now(r.p) + (uint64_t)(5e9 * patience());
    while (es_poller_now(r.p) < until && stats_of(&r.s[0]).key_updates + stats_of(c).key_updates < 2) {
        say_hello(&r, c);
    }
    CHECK_INT(stats_of(c).key_updates, ==, 1);
    CHECK_INT(stats_of(&r.s[0]).key_updates, ==, 1);
    rig_close(&r);
}
