// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// Streams, datagrams and credit over two endpoints on loopback.
#include "test.h"
#include "transport_support.h"

static struct side *up(struct rig *r, struct rig_options *o)
{
    struct side *c;

    if (rig_open(r, o) != 0) {
        test_fail(__FILE__, __LINE__, "rig: %s", r->err);
        return NULL;
    }
    c = rig_dial(r, o);
    if (c == NULL || !UNTIL(r, 5, c->established && r->n_s == 1 && r->s[0].established)) {
        test_fail(__FILE__, __LINE__, "no connection: %s %s", r->err, c != NULL ? c->info.reason : "");
        return NULL;
    }
    return c;
}

/* ---- bulk: a pattern that depends on the offset, so that a lost, doubled or moved byte shows ---- */

struct bulk {
    uint64_t sent, total, got, bad;
    int fin;
};

static uint8_t pattern(uint64_t i)
{
    uint64_t x = (i >> 3) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint8_t)(x >> (8 * (i & 7)));
}

static void bulk_fill(struct bulk *b, struct es_link_stream *st)
{
    uint8_t chunk[10000];

    while (b->sent < b->total && es_link_queued(st) < ES_LINK_HIGH) {
        size_t n = b->total - b->sent < sizeof chunk ? (size_t)(b->total - b->sent) : sizeof chunk;
        for (size_t i = 0; i < n; i++) {
            chunk[i] = pattern(b->sent + i);
        }
        b->sent += n;
        es_link_write(st, chunk, n, b->sent == b->total);
    }
}

static void bulk_data(struct side *s, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    struct bulk *b = s->user;

    for (size_t i = 0; i < n; i++) {
        b->bad += p[i] != pattern(b->got + i);
    }
    b->got += n;
    b->fin |= fin;
    es_link_credit(st, n);
}

static void bulk_both_ways(const char *bind)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    struct bulk b = {0, 10 * 1000 * 1000, 0, 0, 0};

    rig_options(&o);
    o.bind = bind;
    o.client_bind = bind;
    c = up(&r, &o);
    REQUIRE(c != NULL);
    c->on_data = bulk_data;
    c->user = &b;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    while (!c->closed && !b.fin) {
        bulk_fill(&b, st);
        turn(&r);
    }
    CHECK_INT(b.got, ==, b.total);
    CHECK_INT(b.bad, ==, 0);
    CHECK(UNTIL(&r, 5, c->stream_closed == 1));
    CHECK_INT(c->link->held, ==, 0);
    CHECK(UNTIL(&r, 5, r.s[0].stream_closed == 1 && r.s[0].link->held == 0));
    rig_close(&r);
}

TEST(ten_megabytes_are_echoed_over_ipv4)
{
    bulk_both_ways("127.0.0.1:0");
}

TEST(ten_megabytes_are_echoed_over_ipv6)
{
    bulk_both_ways("[::1]:0");
}

TEST(ten_megabytes_are_echoed_over_wildcard_sockets)
{
    bulk_both_ways("0.0.0.0:0");
}

TEST(a_two_stack_socket_dials_ipv4_and_names_it_so)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    char text[64];

    rig_options(&o);
    o.client_bind = "[::]:0";
    c = up(&r, &o);
    REQUIRE(c != NULL);
    es_link_peer_addr(c->link, text, sizeof text);
    CHECK(strncmp(text, "127.0.0.1:", 10) == 0);
    rig_close(&r);
}

/* ---- small calls ---- */

struct calls {
    struct rig *r;
    struct side *c;
    int started, target, in_flight, done, bad;
    uint8_t got[20000]; /* bytes of each answer so far */
};

static void call_start(struct calls *k)
{
    struct es_link_stream *st;

    if (es_link_open(k->c->link, ES_DIR_BIDI, NULL, &st) == 0) {
        char msg[32];
        int n = snprintf(msg, sizeof msg, "call %06d", k->started);
        st->user = (void *)(intptr_t)k->started++;
        k->in_flight++;
        es_link_write(st, msg, (size_t)n, 1);
    }
}

static void call_data(void *u, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    struct side *c = u;
    struct calls *k = c->user;
    char want[32];
    int i = (int)(intptr_t)st->user;
    size_t w = (size_t)snprintf(want, sizeof want, "call %06d", i);

    k->bad += k->got[i] + n > w || memcmp(want + k->got[i], p, n) != 0;
    k->got[i] += (uint8_t)n;
    if (fin) {
        k->bad += k->got[i] != w;
        k->done++;
        k->in_flight--;
    }
}

static int run_calls(struct rig *r, struct side *c, int target, int parallel, double seconds)
{
    static struct es_link_events ev;
    static struct calls k;

    memset(&k, 0, sizeof k);
    k.r = r;
    k.c = c;
    k.target = target;
    ev = side_events;
    ev.data = call_data;
    c->link->events = &ev;
    c->user = &k;
    UNTIL(r, seconds, ({
              int before;
              do {
                  before = k.started;
                  if (k.started < k.target && k.in_flight < parallel) {
                      call_start(&k);
                  }
              } while (k.started != before);
              k.done >= k.target || c->closed;
          }));
    CHECK_INT(k.done, ==, target);
    CHECK_INT(k.bad, ==, 0);
    c->link->events = &side_events;
    return k.done;
}

TEST(two_thousand_calls_one_after_another_fit_through_a_hundred_streams)
{
    struct rig r;
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    o.server.max_streams_bidi = 100;
    c = up(&r, &o);
    REQUIRE(c != NULL);
    run_calls(&r, c, 2000, 1, 20);
    rig_close(&r);
}

TEST(a_thousand_calls_at_once_are_all_answered)
{
    struct rig r;
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    run_calls(&r, c, 1000, 1000, 20);
    run_calls(&r, c, 5000, 1000, 20);
    rig_close(&r);
}

TEST(out_of_streams_says_limit_and_credit_follows)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st[4];

    rig_options(&o);
    o.server.max_streams_bidi = 2;
    c = up(&r, &o);
    REQUIRE(c != NULL);
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st[0]), ==, 0);
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st[1]), ==, 0);
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st[2]), ==, ES_ERR_LIMIT);
    int before = c->credit_events;
    es_link_write(st[0], "x", 1, 1);
    CHECK(UNTIL(&r, 5, c->credit_events > before));
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st[2]), ==, 0);
    rig_close(&r);
}

#ifndef RIG_TCP /* TLS allocates for each record */
TEST(small_calls_allocate_nothing_once_warm)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_mem_stats a, b;

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    run_calls(&r, c, 3000, 64, 20);
    es_mem_stats(&a);
    run_calls(&r, c, 3000, 64, 20);
    es_mem_stats(&b);
    /* ngtcp2's memory is counted too: reordering lists and the like, rarely. */
    CHECK_INT(b.allocs - a.allocs, <, 30);
    fprintf(stderr, "%llu allocations in 3,000 calls\n", (unsigned long long)(b.allocs - a.allocs));
    rig_close(&r);
}
#endif

/* ---- reset, stop, uni ---- */

TEST(a_reset_reaches_the_peer_with_its_code)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    static char big[100000];

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    es_link_write(st, "some", 4, 0);
    CHECK(UNTIL(&r, 5, c->received == 4));
    es_link_write(st, big, sizeof big, 0);
    es_link_reset(st, 0x112);
    CHECK_INT(es_link_write(st, "x", 1, 0), ==, ES_ERR_CLOSED);
    CHECK_INT(es_link_queued(st), ==, 0);
    CHECK(UNTIL(&r, 5, r.s[0].resets == 1));
    CHECK_INT(r.s[0].reset_code, ==, 0x112);
    CHECK(UNTIL(&r, 5, c->stream_closed == 1 && r.s[0].stream_closed == 1));
    CHECK_INT(c->link->held, ==, 0);
    rig_close(&r);
}

static void stop_at_the_window(struct side *s, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    if (s->received >= 256 * 1024) {
        es_link_stop(st, 0x77);
        es_link_stream_done(st);
    }
}

TEST(a_writer_without_credit_learns_that_it_was_stopped_and_the_stream_closes)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    static char big[2000000];

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    r.s[0].echo = 0;
    r.s[0].hold_each = 1;
    r.s[0].on_data = stop_at_the_window;
    REQUIRE(es_link_open(c->link, ES_DIR_UNI, c, &st) == 0);
    es_link_write(st, big, sizeof big, 0);
    CHECK(UNTIL(&r, 5, c->stops == 1));
    CHECK_INT(c->stop_code, ==, 0x77);
    CHECK_INT(es_link_queued(st), ==, 0); /* what waited to be sent is gone */
    CHECK(UNTIL(&r, 5, c->stream_closed == 1));
    CHECK_INT(c->link->held, ==, 0);
    rig_close(&r);
}

static void stop_on_data(struct side *s, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    es_link_stop(st, 0x13);
    es_link_write(st, "no", 2, 1);
    es_link_stream_done(st);
}

TEST(stop_sending_ends_the_peers_writing)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    static char big[2000000];

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    r.s[0].on_data = stop_on_data;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    es_link_write(st, big, sizeof big, 0);
    CHECK(UNTIL(&r, 5, c->stops == 1));
    CHECK_INT(c->stop_code, ==, 0x13);
    CHECK(UNTIL(&r, 5, c->stream_closed == 1 && r.s[0].stream_closed == 1));
    CHECK_INT(c->fins, ==, 1);
    CHECK_INT(c->received, ==, 2);
    CHECK_INT(c->link->held, ==, 0);
    rig_close(&r);
}

/* Each stream is stopped with a code that tells which one it is. */
static void stop_with_its_id(struct side *s, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    es_link_stop(st, 0x100 + (uint64_t)st->id);
    es_link_write(st, "", 0, 1);
    es_link_stream_done(st);
}

static void count_wrong(struct side *s, struct es_link_stream *st, uint64_t code)
{
    *(int *)s->user += code != 0x100 + (uint64_t)st->id;
}

TEST(each_of_many_streams_learns_that_it_was_stopped_however_many_came_and_went)
{
    enum { CROWD = 300, ROUNDS = 3 };
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st, *stays;
    int wrong = 0;

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    c->user = &wrong;
    c->on_stopped = count_wrong;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &stays) == 0);
    es_link_write(stays, "x", 1, 0);
    CHECK(UNTIL(&r, 5, r.s[0].received == 1));
    r.s[0].on_data = stop_with_its_id;
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < CROWD; i++) {
            REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
            es_link_write(st, "x", 1, 0);
        }
        CHECK(UNTIL(&r, 10, c->stops == round * CROWD && c->stream_closed == round * CROWD));
    }
    es_link_write(stays, "y", 1, 0); /* it was there before the first of them */
    CHECK(UNTIL(&r, 5, c->stops == ROUNDS * CROWD + 1 && c->stream_closed == ROUNDS * CROWD + 1));
    CHECK_INT(wrong, ==, 0);
    CHECK_INT(c->link->held, ==, 0);
    rig_close(&r);
}

TEST(one_way_streams_flow_in_one_direction_only)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    r.s[0].keep = 1;
    REQUIRE(es_link_open(c->link, ES_DIR_UNI, c, &st) == 0);
#ifndef RIG_TCP /* it gets its number with its first frame */
    CHECK_INT(st->id & 3, ==, 2);
#endif
    es_link_write(st, "one", 3, 0);
    es_link_write(st, "way", 3, 1);
    CHECK(UNTIL(&r, 5, r.s[0].stream_closed == 1 && c->stream_closed == 1));
    CHECK_MEM(r.s[0].bytes.p, r.s[0].bytes.n, "oneway", 6);
    CHECK_INT(c->received, ==, 0); /* the echo of a one-way stream is refused */
    rig_close(&r);
}

/* ---- credit ---- */

TEST(without_stream_credit_the_peer_stops_at_the_window_and_others_go_on)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    static char big[1000000];

    rig_options(&o);
    o.server.stream_window = 64 * 1024;
    c = up(&r, &o);
    REQUIRE(c != NULL);
    r.s[0].echo = 0;
    r.s[0].hold_each = 1;
    for (int i = 0; i < 20; i++) {
        REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
        es_link_write(st, big, 200000, 0);
    }
    CHECK(UNTIL(&r, 5, r.s[0].received == 20 * 64 * 1024));
    r.s[0].echo = 1; /* a fast stream beside twenty stuck ones */
    r.s[0].hold_each = 0;
    uint64_t before = c->received;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    es_link_write(st, "quick", 5, 1);
    CHECK(UNTIL(&r, 2, c->received == before + 5));
    rig_close(&r);
}

TEST(what_is_held_over_the_cap_withholds_the_connections_credit)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    static char big[1000000];

    rig_options(&o);
    o.server.connection_window = 256 * 1024;
    o.server.hold_cap = 128 * 1024;
    c = up(&r, &o);
    REQUIRE(c != NULL);
    r.s[0].echo = 0;
    es_link_hold(r.s[0].link, 1 << 20);
    CHECK(!es_link_would_hold(r.s[0].link, 1));
    for (int i = 0; i < 8; i++) {
        REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
        es_link_write(st, big, 200000, 1);
    }
    UNTIL(&r, 0.5, 0);
    CHECK_INT(r.s[0].received, ==, 256 * 1024);
    es_link_hold(r.s[0].link, -(1 << 20));
    CHECK(UNTIL(&r, 5, r.s[0].received == 8 * 200000));
    rig_close(&r);
}

TEST(writable_comes_when_the_queue_falls)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    static char big[600000];

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    es_link_write(st, big, sizeof big, 0);
    CHECK(UNTIL(&r, 5, c->writables == 1));
    CHECK_INT(es_link_queued(st), <=, ES_LINK_HIGH / 2);
    rig_close(&r);
}

/* ---- anchored writes ---- */

static int released[1000];

static void release(void *arg)
{
    released[(intptr_t)arg]++;
}

TEST(anchored_bytes_are_released_once_acknowledged_or_given_up)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st, *st2;
    static char big[5000];
    int sum = 0, twice = 0;

    memset(released, 0, sizeof released);
    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    r.s[0].echo = 0;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    for (intptr_t i = 0; i < 100; i++) {
        CHECK_INT(es_link_write(st, "between", 7, 0), ==, 0);
        CHECK_INT(es_link_write_ref(st, big, sizeof big, i == 99, release, (void *)i), ==, 0);
    }
    CHECK_INT(es_link_write_ref(st, big, sizeof big, 0, release, (void *)999), ==, ES_ERR_CLOSED);
    CHECK_INT(released[0], ==, 0);
    CHECK(UNTIL(&r, 5, c->sent == 1));
    turn(&r);
    for (int i = 0; i < 100; i++) {
        sum += released[i] == 1;
    }
    CHECK_INT(sum, ==, 100);
    /* Given up: by a reset, and by the end of the connection. */
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st2) == 0);
    for (intptr_t i = 100; i < 300; i++) {
        CHECK_INT(es_link_write_ref(i < 200 ? st : st2, big, sizeof big, 0, release, (void *)i), ==, 0);
    }
    turn(&r);
    es_link_reset(st, 1);
    turn(&r);
    CHECK_INT(es_link_write_ref(st2, big, 0, 0, release, (void *)300), ==, 0);
    rig_close(&r);
    sum = 0;
    for (int i = 0; i < 301; i++) {
        sum += released[i] == 1;
        twice += released[i] > 1;
    }
    CHECK_INT(sum, ==, 301);
    CHECK_INT(twice, ==, 0);
    CHECK_INT(released[999], ==, 0);
}

/* ---- datagrams ---- */

TEST(datagrams_come_back_up_to_the_announced_size)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stats st;
    static char big[2000];

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    CHECK_INT(es_link_datagram(c->link, "hi", 2), ==, 0);
    CHECK(UNTIL(&r, 2, c->datagrams == 1));
    CHECK_MEM(c->last_datagram, c->last_datagram_len, "hi", 2);
    es_link_stats_get(c->link, &st);
    CHECK_INT(st.max_datagram, >, 1100);
    CHECK_INT(es_link_datagram(c->link, big, st.max_datagram), ==, 0);
    CHECK_INT(es_link_datagram(c->link, big, 1900), ==, ES_ERR_TOO_LARGE);
    CHECK(UNTIL(&r, 2, c->datagrams == 2));
    CHECK_INT(c->last_datagram_len, ==, st.max_datagram);
    int n = 0;
    while (es_link_datagram(c->link, "x", 1) == 0) {
        n++;
    }
    CHECK_INT(n, ==, 256);
    CHECK_INT(es_link_datagram(c->link, "x", 1), ==, ES_ERR_LIMIT);
    CHECK(UNTIL(&r, 2, c->datagrams > 200));
    rig_close(&r);
}

TEST(a_peer_without_datagrams_is_named_so)
{
    struct rig r;
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    o.server.max_datagram = 0;
    c = up(&r, &o);
    REQUIRE(c != NULL);
    CHECK_INT(es_link_datagram(c->link, "hi", 2), ==, ES_ERR_UNSUPPORTED);
    rig_close(&r);
}

TEST(urgent_streams_overtake_bulk)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st, *urgent;
    static char big[4000000];
    struct es_link_stats stats;

    rig_options(&o);
    c = up(&r, &o);
    REQUIRE(c != NULL);
    c->user = NULL;
    r.s[0].echo = 0;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    es_link_write(st, big, sizeof big, 1);
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &urgent) == 0);
    es_link_write(urgent, "now", 3, 1);
    es_link_priority(urgent, ES_PRIO_CONTROL);
    CHECK(UNTIL(&r, 5, r.s[0].fins == 1));
    CHECK_INT(r.s[0].received, <, 2000000);
    CHECK(UNTIL(&r, 5, r.s[0].fins == 2));
    CHECK_INT(r.s[0].received, ==, 4000003);
    es_link_stats_get(c->link, &stats);
    CHECK(stats.rtt_smoothed > 0 && stats.cwnd > 0 && stats.handshake_time > 0 && stats.path_mtu >= 1200);
    CHECK(stats.idle_timeout == 30 * ES_SECOND && stats.streams_bidi_left > 1000);
    rig_close(&r);
}
