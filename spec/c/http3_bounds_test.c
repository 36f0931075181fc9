// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
//
// Peers of HTTP/3 that would have a server keep what it need not, or catch it at a bad moment.
#include "wt_env.h"

static struct wt_env w;
static uint8_t said[256]; /* on the one-way streams of the server */
static size_t n_said;

static void hear(void *u, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    if ((s->id & 2) != 0 && n > 0 && n_said + n <= sizeof said) {
        memcpy(said + n_said, p, n);
        n_said += n;
    }
    raw_data(u, s, p, n, fin);
}

static int is_said(const char *bytes, size_t n)
{
    return memmem(said, n_said, bytes, n) != NULL;
}

/* The library ends the process when GOAWAY is asked for and there is no stream for it. */
TEST(a_goaway_waits_until_the_peer_allows_a_control_stream)
{
    static struct h3_env e;
    static struct raw r;
    struct es_link_events events = raw_events;

    h3_env_init(&e);
    memset(&r, 0, sizeof r);
    es_pair_limits(e.pair, 16, 0, (size_t)256 * 1024, 1200);
    r.link = es_pair_link(e.pair, 0);
    REQUIRE(e.server.app.attach(&e.server.app, es_pair_link(e.pair, 1), NULL) == 0);
    e.server.h = es_pair_link(e.pair, 1)->user;
    es_h3_ref(e.server.h);
    events.data = hear;
    n_said = 0;
    es_link_attach(r.link, &events, &r);
    es_pair_establish(e.pair);
    run(&e);
    CHECK_INT(e.server.conn_bits, ==, 0);
    CHECK_INT(es_h3_goaway(e.server.h, 0), ==, 0);
    CHECK_INT(es_h3_goaway(e.server.h, 1), ==, 0);
    run(&e);
    CHECK_INT(e.server.conn_bits, ==, ES_H3_IDLE);
    for (int i = 0; i < 3; i++) {
        es_link_allow(r.link, ES_DIR_UNI);
    }
    run(&e);
    CHECK_INT(r.closed, ==, 0);
    CHECK(is_said("\x07\x01\x00", 3));
    h3_env_free(&e);
}

TEST(a_client_that_goes_before_it_is_open_asks_for_nothing)
{
    static struct h3_env e;
    struct es_h3_dial dial = {0};
    struct es_exchange *x;

    h3_env_init(&e);
    REQUIRE(e.server.app.attach(&e.server.app, es_pair_link(e.pair, 1), NULL) == 0);
    REQUIRE(e.client.app.attach(&e.client.app, es_pair_link(e.pair, 0), &dial) == 0);
    e.client.h = dial.h3;
    CHECK_INT(es_h3_goaway(e.client.h, 1), ==, 0);
    es_pair_establish(e.pair);
    run(&e);
    CHECK_INT(e.client.conn_bits & ES_H3_IDLE, ==, ES_H3_IDLE);
    CHECK_INT(e.server.conn_bits & ES_H3_GOAWAY, ==, ES_H3_GOAWAY);
    CHECK_INT(es_h3_request(e.client.h, &GET_ROOT, NULL, 0, 1, NULL, &x), ==, ES_ERR_CLOSED);
    h3_env_free(&e);
}

/* A handler outlives its connection, and says what time it wants. */
TEST(nothing_waits_for_a_connection_that_is_over)
{
    static struct h3_env e;
    struct es_exchange *x;

    h3_env_init(&e);
    h3_env_start(&e);
    REQUIRE(es_h3_request(e.client.h, &GET_ROOT, NULL, 0, 1, NULL, &x) == 0);
    run(&e);
    REQUIRE(e.server.requests == 1);
    es_h3_close(e.client.h, ES_H3_NO_ERROR, "");
    run(&e);
    REQUIRE(es_h3_closed_by(e.server.h) != NULL);
    CHECK_INT(es_timers_next(&e.timers), ==, ES_NEVER);
    es_exchange_set_timeouts(e.server.x, ES_SECOND, ES_SECOND);
    CHECK_INT(es_timers_next(&e.timers), ==, ES_NEVER);
    es_exchange_release(x);
    h3_env_free(&e);
}

static uint64_t in_use(void)
{
    struct es_mem_stats m;

    es_mem_stats(&m);
    return m.in_use;
}

static void wish(uint64_t id)
{
    char text[64];

    snprintf(text, sizeof text, "C 800f0700[%08x 'u=1']", (unsigned)(0x80000000u | id));
    wt_say(&w, text);
}

/* Priorities of streams that turn out to be a session's, before they come and when they are gone. */
TEST(wishes_for_streams_of_sessions_are_not_kept)
{
    enum { MANY = 400 };
    uint64_t before = 0;

    wt_raw(&w, 0);
    wt_say(&w, "B " WT_ASK);
    REQUIRE(w.server.established == 1);
    for (uint64_t i = 1; i <= MANY; i++) {
        if (i % 2 == 0) {
            wish(4 * i);
        }
        wt_say(&w, "B! 4041 00 'x'");
        REQUIRE(w.server.stream != NULL);
        CHECK_INT(es_link_write(w.server.stream, NULL, 0, 1), ==, 0);
        wt_run(&w);
        CHECK_INT(w.server.stream_closes, ==, i);
        wish(4 * i);
        if (i == MANY / 2) {
            before = in_use();
        }
    }
    CHECK_INT(w.raw.closed, ==, 0);
    CHECK_INT(in_use(), <=, before + 16384); /* 200 more would be about 100,000 */
    wt_free(&w);
}

/* Whoever never ends its requests has as many streams as were allowed in the beginning, and no more until
 * they are closed: the peer by hand gives up what it is told to stop, as RFC 9000 3.5 wants. */
TEST(requests_without_an_end_make_no_room_for_more)
{
    enum { ROOM = 16 };
    struct es_link_stream *s;
    int requests = 0;

    wt_init(&w);
    es_pair_limits(w.h.pair, ROOM, 16, (size_t)256 * 1024, 1200);
    raw_start(&w.h, &w.raw, NULL);
    for (int i = 0; i < 3 * ROOM; i++) { /* in order: each gives back what it took */
        wt_say(&w, "B! 01[" GET "]");
        REQUIRE(w.h.server.requests == ++requests);
        CHECK_INT(es_exchange_respond(w.h.server.x, 200, NULL, 0, 1), ==, 0);
        let_go(&w.h.server, w.h.server.x);
        wt_run(&w);
    }
    for (int i = 0; i < ROOM; i++) {
        wt_say(&w, "B 01[" GET "]");
        REQUIRE(w.h.server.requests == ++requests);
        CHECK_INT(es_exchange_respond(w.h.server.x, 200, NULL, 0, 1), ==, 0);
        wt_run(&w);
    }
    CHECK_INT(es_link_open(w.raw.link, ES_DIR_BIDI, NULL, &s), ==, ES_ERR_LIMIT);
    for (int i = requests - ROOM; i < requests; i++) {
        let_go(&w.h.server, w.h.server.held[i]);
    }
    wt_run(&w);
    CHECK_INT(es_link_open(w.raw.link, ES_DIR_BIDI, NULL, &s), ==, ES_ERR_LIMIT);
    w.h.timers.now += 2 * ES_SECOND; /* so long they may come to their end (patience.c) */
    es_timers_expire(&w.h.timers, 100);
    wt_run(&w);
    CHECK_INT(es_link_open(w.raw.link, ES_DIR_BIDI, NULL, &s), ==, 0);
    wt_free(&w);
}

/* A session that ends in the middle of things has bytes of the connection's budget, and room for streams. */
TEST(a_session_gives_back_what_it_had_of_its_connection)
{
    enum { ROOM = 5 };
    struct es_link_stream *ask, *s;
    struct es_link *l;

    wt_init(&w);
    es_pair_limits(w.h.pair, ROOM, 16, (size_t)256 * 1024, 1200);
    raw_start(&w.h, &w.raw, "00 04 07 33 01 ab 60 37 42 01");
    l = es_pair_link(w.h.pair, 1);
    wt_say(&w, "B " WT_ASK);
    ask = w.raw.stream;
    REQUIRE(w.server.established == 1);
    for (int i = 1; i < ROOM; i++) {
        wt_say(&w, "B! 4041 00 'x'");
        REQUIRE(w.server.stream != NULL);
        CHECK_INT(es_link_stream_keep(w.server.stream), ==, 1);
        CHECK_INT(es_link_write(w.server.stream, NULL, 0, 1), ==, 0);
        wt_run(&w);
    }
    es_link_allow(w.server.link, ES_DIR_BIDI); /* one comes back in time */
    wt_say(&w, "B! 4041 00 'x'");
    CHECK_INT(es_link_open(w.raw.link, ES_DIR_BIDI, NULL, &s), ==, ES_ERR_LIMIT);
    es_link_hold(w.server.link, 5000);
    es_link_hold(w.server.link, -1000);
    CHECK_INT(l->held, >=, 4000);
    CHECK_INT(es_link_write(ask, NULL, 0, 1), ==, 0);
    wt_run(&w);
    CHECK_INT(w.server.closed, ==, 1);
    CHECK_INT(l->held, ==, 0);
    for (int i = 0; i < ROOM; i++) {
        CHECK_INT(es_link_open(w.raw.link, ES_DIR_BIDI, NULL, &s), ==, 0);
    }
    CHECK_INT(es_link_open(w.raw.link, ES_DIR_BIDI, NULL, &s), ==, ES_ERR_LIMIT);
    wt_free(&w);
}

TEST(a_stream_of_a_server_that_says_too_little_goes_with_the_connection)
{
    struct es_link_stream *s;
    uint64_t before;

    wt_start(&w);
    before = in_use();
    REQUIRE(es_link_open(es_pair_link(w.h.pair, 1), ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, "\x40", 1, 0), ==, 0);
    wt_run(&w);
    CHECK_INT(w.client.closed, ==, 0);
    CHECK_INT(in_use(), >, before);
    wt_free(&w); /* what is left is found by those who look for leaks */
}

TEST(floods_of_streams_of_unknown_kinds_end_the_connection)
{
    int opened = 0;

    wt_raw(&w, 0);
    while (opened < 5000 && !w.raw.closed) {
        wt_say(&w, "U! 4021 'x'");
        opened++;
    }
    CHECK_INT(opened, >=, 1000);
    CHECK_INT(w.raw.closed, ==, 1);
    CHECK_INT(w.raw.info.code, ==, ES_H3_EXCESSIVE_LOAD);
    wt_free(&w);
}
