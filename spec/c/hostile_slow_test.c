// needs: csrc/base csrc/transport spec/c/hostile.c spec/c/hostile_edit.c
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// RELIABILITY T5, the transport's part: peers that take nothing of what they asked for, or acknowledge
// nothing, and go on talking so that no idle time-out ends them.
#include "hostile_world.h"

#define STALL (400 * ES_MILLI)
#define CAP   (64 * 1024)

static size_t answer; /* bytes for each hello */

static void answer_hello(struct side *s, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    static const uint8_t bytes[CAP];

    for (size_t left = answer; left > 0; left -= left < CAP ? left : CAP) {
        es_link_write(st, bytes, left < CAP ? left : CAP, 0);
    }
}

static void ping(struct world *w, uint64_t until)
{
    for (uint64_t next = 0; es_poller_now(w->r.p) < until;) {
        if (es_poller_now(w->r.p) >= next) {
            (void)hostile_inject(w->h, "01");
            next = es_poller_now(w->r.p) + 10 * ES_MILLI;
        }
        turns(w);
    }
}

/* Returns the side of ours, after the hostile peer asked for `n` bytes and then pinged for a while. */
static struct side *ask(struct world *w, size_t n, int no_window, int no_acks, int seconds_tenths)
{
    struct hostile_plan plan = {.alpn = "test/1", .level = HOSTILE_1RTT, .no_window = no_window};
    struct side *s = begin(w, &plan);

    if (s == NULL) {
        test_fail(__FILE__, __LINE__, "no handshake");
        return NULL;
    }
    turns(w);
    s->on_data = answer_hello;
    answer = n;
    if (no_acks) {
        hostile_stop_acks(w->h);
    }
    CHECK_INT(hostile_hello(w->h), ==, 0);
    ping(w, es_poller_now(w->r.p) + (uint64_t)(seconds_tenths * 1e8 * (w->slack > 10 ? 10 : w->slack)));
    return s;
}

static int world_of_slow(struct world *w, uint64_t stall)
{
    if (world_open(w) != 0) {
        return -1;
    }
    rig_close(&w->r);
    w->o.server.stall_timeout = stall;
    w->o.server.hold_cap = CAP;
    return rig_open(&w->r, &w->o);
}

static void check_cut(const struct side *s, const char *why)
{
    CHECK(s->closed);
    CHECK_INT(s->info.app, ==, 1);
    CHECK_INT(s->info.code, ==, ES_APP_EXCESSIVE_LOAD);
    CHECK_STR(s->info.reason, why);
}

TEST(who_acknowledges_nothing_and_goes_on_talking_is_cut)
{
    struct world w;
    struct side *s;

    REQUIRE(world_of_slow(&w, STALL) == 0);
    REQUIRE((s = ask(&w, 1000, 0, 1, 30)) != NULL);
    check_cut(s, "the peer acknowledges nothing");
    end(&w);
    honest(&w, "no acknowledgements");
    rig_close(&w.r);
}

TEST(who_acknowledges_is_not)
{
    struct world w;
    struct side *s;

    REQUIRE(world_of_slow(&w, STALL) == 0);
    REQUIRE((s = ask(&w, 1000, 0, 0, 15)) != NULL);
    CHECK(!s->closed);
    end(&w);
    rig_close(&w.r);
}

TEST(who_lets_as_much_as_the_cap_wait_is_cut_and_one_byte_less_may_wait)
{
    struct world w;
    struct side *s;

    REQUIRE(world_of_slow(&w, STALL) == 0);
    REQUIRE((s = ask(&w, CAP - 1, 1, 0, 15)) != NULL);
    CHECK(!s->closed);
    end(&w);
    REQUIRE((s = ask(&w, CAP, 1, 0, 15)) != NULL);
    check_cut(s, "the peer takes nothing of what it asked for");
    end(&w);
    honest(&w, "closed windows");
    rig_close(&w.r);
}

TEST(without_the_time_out_nobody_is_cut)
{
    struct world w;
    struct side *s;

    REQUIRE(world_of_slow(&w, 0) == 0);
    REQUIRE((s = ask(&w, 2 * CAP, 1, 0, 10)) != NULL);
    CHECK(!s->closed);
    end(&w);
    rig_close(&w.r);
}

/* ---- the allowance of streams ---- */

static int kept;

static void keep(struct side *s, struct es_link_stream *st)
{
    kept += es_link_stream_keep(st);
}

static void finish(struct side *s, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    if (fin) {
        es_link_write(st, "", 0, 1);
    }
}

static int opens(struct world *w, struct side *c, struct es_link_stream **st)
{
    int rc = ES_ERR_LIMIT;

    (void)WAIT(w, 2, rc == 0 || (rc = es_link_open(c->link, ES_DIR_BIDI, c, st)) == 0);
    return rc == 0;
}

TEST(the_allowance_of_a_stream_can_outlive_it)
{
    struct world w;
    struct es_link_stream *st[3];
    struct side *c, *s;

    REQUIRE(world_open(&w) == 0);
    rig_close(&w.r);
    w.o.server.max_streams_bidi = 2;
    REQUIRE(rig_open(&w.r, &w.o) == 0);
    c = rig_dial(&w.r, &w.o);
    REQUIRE(WAIT(&w, 2, c->established && w.r.n_s == 1));
    s = &w.r.s[0];
    s->on_data = finish;
    s->on_stream_closed = keep;
    kept = 0;
    for (int i = 0; i < 2; i++) {
        CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st[i]), ==, 0);
        es_link_write(st[i], "x", 1, 1);
    }
    CHECK(WAIT(&w, 2, s->stream_closed == 2 && c->stream_closed == 2));
    for (int i = 0; i < 20; i++) {
        turns(&w);
    }
    CHECK_INT(kept, ==, 2);
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st[2]), ==, ES_ERR_LIMIT);
    es_link_allow(s->link, ES_DIR_BIDI);
    REQUIRE(opens(&w, c, &st[2]));
    s->on_stream_closed = NULL; /* without a word it comes back with the end of the stream */
    es_link_write(st[2], "x", 1, 1);
    CHECK(opens(&w, c, &st[0]));
    rig_close(&w.r);
}
