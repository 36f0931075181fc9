// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
//
// WebTransport sessions with both ends over the in-memory pair, and a server with a peer that writes by hand.
#include "wt_env.h"

static struct wt_env w;

TEST(a_session_has_streams_both_ways_and_datagrams)
{
    struct es_link_stream *s, *t;
    struct es_link_stats st;

    wt_start(&w);
    CHECK_INT(w.client.established, ==, 1);
    CHECK_INT(w.server.established, ==, 1);
    REQUIRE(w.client.link != NULL && w.server.link != NULL);
    CHECK_STR(w.server.link->door->name, "webtransport");
    CHECK_STR(w.server.link->door->path, "/echostream");
    CHECK_STR(w.server.link->door->authority, "a:1");
    CHECK_STR(w.server.link->door->origin, "");
    CHECK_INT(w.client.link->is_server, ==, 0);
    CHECK_INT(w.server.link->is_server, ==, 1);

    CHECK_INT(es_link_open(w.client.link, ES_DIR_BIDI, &w.client, &s), ==, 0);
    CHECK_INT(es_link_write(s, "ask ", 4, 0), ==, 0);
    CHECK_INT(es_link_open(w.client.link, ES_DIR_UNI, &w.client, &t), ==, 0);
    CHECK_INT(es_link_write(t, "one way ", 8, 1), ==, 0);
    wt_run(&w);
    CHECK_INT(w.server.bidi, ==, 1);
    CHECK_INT(w.server.uni, ==, 1);
    CHECK_INT(w.server.ended, ==, 1);
    CHECK_INT(w.server.n_got, ==, 12);

    CHECK_INT(es_link_open(w.server.link, ES_DIR_BIDI, &w.server, &s), ==, 0);
    CHECK_INT(es_link_write(s, "back", 4, 1), ==, 0);
    CHECK_INT(es_link_open(w.server.link, ES_DIR_UNI, &w.server, &t), ==, 0);
    CHECK_INT(es_link_write(t, "back", 4, 1), ==, 0);
    wt_run(&w);
    CHECK_INT(w.client.bidi, ==, 1);
    CHECK_INT(w.client.uni, ==, 1);
    CHECK_STR(w.client.got, "backback");

    es_link_stats_get(w.client.link, &st);
    CHECK_INT(st.max_datagram, ==, 1199); /* the number of the session takes a byte */
    CHECK_INT(es_link_datagram(w.client.link, "quick", 6), ==, 0);
    CHECK_INT(es_link_datagram(w.server.link, "quack", 6), ==, 0);
    CHECK_INT(es_link_datagram(w.client.link, w.client.got, 1200), ==, ES_ERR_TOO_LARGE);
    wt_run(&w);
    CHECK_STR(w.server.datagram, "quick");
    CHECK_STR(w.client.datagram, "quack");
    wt_free(&w);
}

TEST(codes_of_resets_and_stops_are_carried)
{
    static const uint64_t codes[] = {0, 1, 0x13, 0x1d, 0x1e, 0x1f, 0xff, 0x100 + 70000, UINT32_MAX};
    struct es_link_stream *s;

    wt_start(&w);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        w.server.reset_code = w.server.stop_code = 1234567;
        REQUIRE(es_link_open(w.client.link, ES_DIR_BIDI, &w.client, &s) == 0);
        CHECK_INT(es_link_write(s, "x", 1, 0), ==, 0);
        wt_run(&w);
        CHECK_INT(es_link_write(w.server.stream, "y", 1, 0), ==, 0);
        es_link_stop(s, codes[i]);
        es_link_reset(s, codes[i]);
        wt_run(&w);
        CHECK_INT(w.server.reset_code, ==, codes[i]);
        CHECK_INT(w.server.stop_code, ==, codes[i]);
    }
    REQUIRE(es_link_open(w.client.link, ES_DIR_BIDI, &w.client, &s) == 0);
    CHECK_INT(es_link_write(s, "x", 1, 0), ==, 0);
    es_link_reset(s, UINT64_C(1) << 40);
    wt_run(&w);
    CHECK_INT(w.server.reset_code, ==, UINT32_MAX);
    wt_free(&w);
}

/* Firefox 153 loses an answer that its page has not read when it is told to stop sending. */
TEST(exchanges_of_the_peer_are_not_stopped_but_ignored)
{
    struct es_link_stream *s, *answered;
    char more[1000];

    memset(more, 'm', sizeof more);
    wt_start(&w);
    REQUIRE(es_link_open(w.client.link, ES_DIR_BIDI, &w.client, &s) == 0);
    CHECK_INT(es_link_write(s, "ask", 3, 0), ==, 0);
    wt_run(&w);
    answered = w.server.stream;
    REQUIRE(answered != NULL);
    CHECK_INT(es_link_write(answered, "answer", 6, 1), ==, 0);
    es_link_stop(answered, ES_APP_NO_MORE_WANTED);
    wt_run(&w);
    CHECK_STR(w.client.got, "answer");
    CHECK_INT(w.client.ended, ==, 1);
    CHECK_INT(w.client.stops, ==, 0);
    CHECK_INT(es_link_write(s, more, sizeof more, 0), ==, 0);
    wt_run(&w);
    CHECK_INT(w.server.n_got, ==, 3);
    CHECK_INT(w.server.ended, ==, 0);
    es_link_reset(s, ES_APP_NO_MORE_WANTED);
    wt_run(&w);
    CHECK_INT(w.server.stream_closes, ==, 1);
    wt_free(&w);
}

TEST(the_client_closes_with_a_code_and_a_reason)
{
    wt_start(&w);
    es_link_close(w.client.link, 1, 0x14, "enough\n");
    CHECK_INT(w.client.closed, ==, 0); /* never inside the call */
    wt_run(&w);
    CHECK_INT(w.server.closed, ==, 1);
    CHECK_INT(w.server.info.cause, ==, ES_CLOSE_PEER);
    CHECK_INT(w.server.info.code, ==, 0x14);
    CHECK_STR(w.server.info.reason, "enough?");
    CHECK_INT(w.client.closed, ==, 1);
    CHECK_INT(w.client.info.cause, ==, ES_CLOSE_LOCAL);
    CHECK_INT(w.client.info.code, ==, 0x14);
    CHECK_INT(w.h.server.conn_bits & ES_H3_CLOSED, !=, 0); /* the connection was for that session */
    wt_free(&w);
}

TEST(the_server_closes_and_streams_go_with_it)
{
    struct es_link_stream *s;

    wt_start(&w);
    REQUIRE(es_link_open(w.client.link, ES_DIR_BIDI, &w.client, &s) == 0);
    CHECK_INT(es_link_write(s, "x", 1, 0), ==, 0);
    wt_run(&w);
    es_link_close(w.server.link, 1, 0x11, "permission_denied: go away");
    wt_run(&w);
    CHECK_INT(w.client.closed, ==, 1);
    CHECK_INT(w.client.info.cause, ==, ES_CLOSE_PEER);
    CHECK_INT(w.client.info.app, ==, 1);
    CHECK_INT(w.client.info.code, ==, 0x11);
    CHECK_STR(w.client.info.reason, "permission_denied: go away");
    CHECK_INT(w.server.closed, ==, 1);
    CHECK_INT(w.server.info.cause, ==, ES_CLOSE_LOCAL);
    CHECK_INT(es_h3_in_flight(w.h.server.h), ==, 0);
    wt_free(&w);
}

TEST(the_network_dies)
{
    wt_start(&w);
    es_pair_cut(w.h.pair);
    wt_run(&w);
    CHECK_INT(w.client.closed, ==, 1);
    CHECK_INT(w.client.info.cause, ==, ES_CLOSE_IDLE);
    CHECK_INT(w.server.closed, ==, 1);
    wt_free(&w);
}

TEST(a_session_that_is_not_taken_is_refused_with_words)
{
    wt_init(&w);
    wt_dial(&w, "/other", NULL);
    CHECK_INT(w.client.closed, ==, 1);
    CHECK_INT(w.client.established, ==, 0);
    CHECK_INT(w.client.info.code, ==, ES_APP_REFUSED);
    CHECK_STR(w.client.info.reason, "not_found: the server answered the session with status 404");
    CHECK_INT(w.server.sessions, ==, 0);
    wt_free(&w);

    wt_init(&w);
    wt_dial(&w, "/echostream", "https://evil.example");
    CHECK_STR(w.client.info.reason, "permission_denied: the server answered the session with status 403");
    wt_free(&w);

    wt_init(&w);
    w.server.refuse = 1;
    wt_dial(&w, "/echostream?x", "https://a:1");
    CHECK_STR(w.client.info.reason, "unavailable: the server answered the session with status 503");
    wt_free(&w);

    wt_init(&w);
    w.h.server.cfg.webtransport = NULL;
    wt_dial(&w, "/echostream", NULL);
    CHECK_STR(w.client.info.reason, "unavailable: the server takes no WebTransport");
    wt_free(&w);
}

TEST(origins_are_the_servers_own_or_listed)
{
    static const char *const listed[] = {"https://example.org", "http://localhost:8080"};
    static const struct {
        const char *origin;
        int any, sessions;
    } rows[] = {{"https://a:1", 0, 1},
                {"HTTPS://A:1", 0, 1},
                {"https://example.org", 0, 1},
                {"http://localhost:8080", 0, 1},
                {"http://a:1", 0, 0},
                {"https://example.org.evil", 0, 0},
                {"https://a:12", 0, 0},
                {"null", 0, 0},
                {"null", 1, 1},
                {NULL, 0, 1}};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        wt_init(&w);
        w.cfg.origins = listed;
        w.cfg.n_origins = 2;
        w.cfg.any_origin = rows[i].any;
        wt_dial(&w, "/echostream", rows[i].origin);
        CHECK_INT(w.server.sessions, ==, rows[i].sessions);
        wt_free(&w);
    }
}

TEST(a_slow_reader_stops_its_stream_and_wakes_the_writer)
{
    static char bytes[400000];
    struct es_link_stream *s, *t;

    wt_start(&w);
    w.server.hold = 1;
    REQUIRE(es_link_open(w.client.link, ES_DIR_BIDI, &w.client, &s) == 0);
    es_link_marks(s, 65536, 16384);
    CHECK_INT(es_link_write(s, bytes, sizeof bytes, 0), ==, 0);
    wt_run(&w);
    CHECK_INT(es_link_queued(s), >, 65536);
    CHECK_INT(w.client.writable, ==, 0);
    REQUIRE(es_link_open(w.client.link, ES_DIR_UNI, &w.client, &t) == 0); /* others go on */
    CHECK_INT(es_link_write(t, "x", 1, 0), ==, 0);
    wt_run(&w);
    CHECK_INT(w.server.uni, ==, 1);
    es_link_credit(w.server.stream != NULL ? w.server.stream : s, 1);
    wt_free(&w);
}

TEST(sessions_end_with_a_connection_that_breaks_the_rules)
{
    wt_start(&w);
    es_h3_close(w.h.server.h, ES_H3_EXCESSIVE_LOAD, "too much");
    wt_run(&w);
    CHECK_INT(w.client.info.cause, ==, ES_CLOSE_PEER);
    CHECK_INT(w.client.info.code, ==, ES_APP_EXCESSIVE_LOAD); /* in our own words */
    CHECK_STR(w.client.info.reason, "too much");
    CHECK_INT(w.server.info.code, ==, ES_APP_EXCESSIVE_LOAD);
    wt_free(&w);
}

TEST(requests_go_on_beside_sessions)
{
    for (size_t chunk = 0; chunk < 3; chunk++) {
        wt_raw(&w, chunk);
        wt_say(&w, "B " WT_ASK "; B! 01[" GET "]; B 4041 00 'in'; + ' two'");
        CHECK_INT(w.h.server.requests, ==, 1);
        CHECK_INT(w.server.sessions, ==, 1);
        CHECK_STR(w.server.got, "in two");
        CHECK_INT(w.raw.closed, ==, 0);
        wt_free(&w);
    }
}

/* ---- a peer by hand ---- */

/* What it says after its settings, and what becomes of it. */
static const struct {
    const char *name, *say;
    int sessions, closed; /* sessions that were taken, that ended */
    uint64_t code;        /* the ended session's */
    const char *got;      /* on streams of sessions */
    int resets;           /* of streams of the peer's, which it is told */
    uint64_t reset, gone; /* with that code; the connection is closed with that one */
} rows[] = {
    {"a session, its kind and number in long forms",
     "B " WT_ASK "; B 80000041 80000000 'x'; U c000000000000054 c000000000000000 'y'", 1, 0, 0, "xy", 0, 0,
     0},
    {"a stream that ends at once", "B " WT_ASK "; U! 4054 00", 1, 0, 0, "", 0, 0, 0},
    {"streams that end within their prefix", "B " WT_ASK "; U! 4054; U! 40; B! 4041", 1, 0, 0, "", 0, 0,
     ES_H3_FRAME_ERROR},
    {"one-way streams that end within their prefix", "B " WT_ASK "; U! 4054; U! 40; U^ 4054", 1, 0, 0, "", 0,
     0, 0},
    {"a stream of a session that cannot be", "B " WT_ASK "; B 4041 01 'x'", 1, 1, ES_APP_PROTOCOL, "", 0, 0,
     ES_H3_ID_ERROR},
    {"a one-way stream of a session that cannot be", "U 4054 02", 0, 0, 0, "", 0, 0, ES_H3_ID_ERROR},
    {"a stream of a request that is no session", "B! 01[" GET "]; B 4041 00 'x'", 0, 0, 0, "", 1, 0x3994bd84,
     0},
    {"streams before their session", "B " WT_ASK "; U 4054 08 'early'; B 4041 08 ' bird'; B! 01[" GET "]", 1,
     0, 0, "", 0, 0, 0},
    {"a close", "B! " WT_ASK " 00[6843 06 00000007 'ab']", 1, 1, 7, "", 0, 0, 0},
    {"a close in pieces", "B " WT_ASK "; + 00[68]; + 00[43 06 0000]; + 00[0007 'a']; +! 00['b']", 1, 1, 7, "",
     0, 0, 0},
    {"an end without a close", "B! " WT_ASK, 1, 1, 0, "", 0, 0, 0},
    {"a reset", "B " WT_ASK "; +^ ", 1, 1, ES_APP_PROTOCOL, "", 1, ES_H3_REQUEST_CANCELLED, 0},
    {"capsules that nobody knows, one of a gigabyte",
     "B " WT_ASK " 00[21 03 'abc' 00 01 'x' 40ff 00]; + 00[17 c000000040000000 'abc']", 1, 0, 0, "", 0, 0, 0},
    {"a close behind one that nobody knows", "B " WT_ASK "; + 00[21 02 'a']; +! 00['b' 6843 04 00000009]", 1,
     1, 9, "", 0, 0, 0},
    {"a close that is too short", "B " WT_ASK " 00[6843 03 000000]", 1, 1, ES_APP_PROTOCOL, "", 1,
     ES_H3_MESSAGE_ERROR, 0},
    {"a close that is too long", "B " WT_ASK " 00[6843 4405 00]", 1, 1, ES_APP_PROTOCOL, "", 1,
     ES_H3_MESSAGE_ERROR, 0},
    {"the longest close", "B! " WT_ASK " 00[6843 4404 00000001 41*1024]", 1, 1, 1, "", 0, 0, 0},
    {"an end within a capsule", "B! " WT_ASK " 00[6843 06 0000]", 1, 1, ES_APP_PROTOCOL, "", 1,
     ES_H3_MESSAGE_ERROR, 0},
    {"a stream of a session that is over", "B! " WT_ASK "; B 4041 00 'late'; U 4054 00 'late'", 1, 1, 0, "",
     1, 0x170d7b68, 0},
    {"a stream that is reset", "B " WT_ASK "; B^ 4041 00 'x'", 1, 0, 0, "x", 0, 0, 0},
    {"another protocol",
     "B 01[0000 {:method:CONNECT} {:scheme:https} {:authority:a} {:path:/} {:protocol:foo}]", 0, 0, 0, "", 0,
     0, 0},
    {"a path that is longer", "B " WT_HEAD("/echostream2", ""), 0, 0, 0, "", 0, 0, 0},
    {"a path with a query", "B " WT_HEAD("/echostream?a", ""), 1, 0, 0, "", 0, 0, 0},
    {"two origins", "B " WT_HEAD("/echostream", "{origin:https://a:1} {origin:https://a:1}"), 0, 0, 0, "", 0,
     0, 0},
    {"the server's own origin", "B " WT_HEAD("/echostream", "{origin:https://a:1}"), 1, 0, 0, "", 0, 0, 0},
};

static void play(size_t i, size_t chunk)
{
    int before = test_failures;

    wt_raw(&w, chunk);
    wt_say(&w, rows[i].say);
    CHECK_INT(w.server.sessions, ==, rows[i].sessions);
    CHECK_INT(w.server.established, ==, rows[i].sessions);
    if (rows[i].gone == 0) {
        CHECK_INT(w.server.closed, ==, rows[i].closed);
    }
    if (rows[i].closed) {
        CHECK_INT(w.server.info.code, ==, rows[i].code);
    }
    CHECK_STR(w.server.got, rows[i].got);
    CHECK_INT(w.raw.resets, ==, rows[i].resets);
    CHECK_INT(w.raw.reset_code, ==, rows[i].reset);
    CHECK_INT(w.raw.closed, ==, rows[i].gone != 0);
    CHECK_INT(w.raw.info.code, ==, rows[i].gone);
    wt_free(&w);
    if (test_failures != before) {
        printf("    row: %s (pieces of %zu)\n", rows[i].name, chunk);
    }
}

TEST(what_a_peer_may_send_and_what_becomes_of_it)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (size_t chunk = 0; chunk < 4; chunk++) {
            play(i, chunk);
        }
    }
}

TEST(nothing_may_follow_a_close)
{
    wt_raw(&w, 0);
    wt_say(&w, "B " WT_ASK " 00[6843 04 00000001 00]");
    CHECK_INT(w.server.info.code, ==, ES_APP_PROTOCOL);
    CHECK_INT(w.raw.reset_code, ==, ES_H3_MESSAGE_ERROR);
    wt_free(&w);
}

TEST(a_session_waits_for_the_settings)
{
    wt_init(&w);
    raw_start(&w.h, &w.raw, "");
    wt_say(&w, "B " WT_ASK "; B 4041 04 'x'");
    CHECK_INT(w.server.sessions, ==, 0);
    w.raw.stream = w.raw.control;
    wt_say(&w, "C 00 " WT_SETTINGS);
    CHECK_INT(w.server.sessions, ==, 1);
    CHECK_INT(wt_status(&w.raw), ==, 200);
    wt_free(&w);

    wt_init(&w); /* for a while */
    raw_start(&w.h, &w.raw, "");
    wt_say(&w, "B " WT_ASK);
    w.h.timers.now += 11 * ES_SECOND;
    wt_run(&w);
    CHECK_INT(w.server.sessions, ==, 0);
    CHECK_INT(w.raw.resets, ==, 1);
    CHECK_INT(es_h3_in_flight(w.h.server.h), ==, 0);
    wt_free(&w);
}

TEST(a_peer_without_datagrams_gets_none)
{
    struct es_link_stats st;

    wt_init(&w);
    raw_start(&w.h, &w.raw, "00 04 00");
    wt_say(&w, "B " WT_ASK);
    REQUIRE(w.server.link != NULL);
    es_link_stats_get(w.server.link, &st);
    CHECK_INT(st.max_datagram, ==, 0);
    CHECK_INT(es_link_datagram(w.server.link, "x", 1), ==, ES_ERR_UNSUPPORTED);
    wt_free(&w);
}

TEST(streams_that_come_before_their_session_wait_within_bounds)
{
    static uint8_t bytes[70000];
    struct es_link_stream *s;

    wt_raw(&w, 0);
    wt_say(&w, "B 4041 04 'early '; U! 4054 04 'bird'; B^ 4041 04 'x'");
    CHECK_INT(w.server.sessions, ==, 0);
    CHECK_INT(es_pair_link(w.h.pair, 1)->held, >, 0);
    wt_say(&w, "B " WT_ASK); /* stream 8, another one */
    CHECK_STR(w.server.got, "");
    wt_free(&w);

    wt_raw(&w, 0); /* too many of them */
    for (int i = 0; i < 15; i++) {
        wt_say(&w, "U 4054 04");
    }
    wt_say(&w, "B 4041 04; B 4041 04 'x'");
    CHECK_INT(w.raw.resets, ==, 1);
    CHECK_INT(w.raw.reset_code, ==, 0x3994bd84);
    wt_free(&w);

    wt_raw(&w, 0); /* too much */
    wt_say(&w, "B 4041 04");
    s = w.raw.stream;
    CHECK_INT(es_link_write(s, bytes, sizeof bytes, 0), ==, 0);
    wt_run(&w);
    CHECK_INT(w.raw.reset_code, ==, 0x3994bd84);
    CHECK_INT(es_pair_link(w.h.pair, 1)->held, ==, 0);
    wt_free(&w);

    wt_raw(&w, 0); /* too long */
    wt_say(&w, "B 4041 04 'x'");
    w.h.timers.now += 4 * ES_SECOND;
    wt_run(&w);
    CHECK_INT(w.raw.resets, ==, 0);
    w.h.timers.now += 2 * ES_SECOND;
    wt_run(&w);
    CHECK_INT(w.raw.resets, ==, 1);
    CHECK_INT(es_pair_link(w.h.pair, 1)->held, ==, 0);
    wt_free(&w);
}

/* The stream is opened before the CONNECT, and its bytes come first. */
TEST(what_waited_is_delivered_in_order)
{
    struct es_link_stream *ask, *s;
    uint8_t buf[512];
    const char *text = WT_ASK;
    size_t n;

    for (int how = 0; how < 3; how++) {
        wt_raw(&w, 0);
        REQUIRE(es_link_open(w.raw.link, ES_DIR_BIDI, NULL, &ask) == 0); /* 0 */
        wt_say(&w, how == 1   ? "B! 4041 00 'first '"
                   : how == 2 ? "B^ 4041 00 'first '"
                              : "B 4041 00 'first '");
        s = w.raw.stream;
        if (how == 0) {
            CHECK_INT(es_link_write(s, "second", 6, 0), ==, 0);
            es_link_stop(s, 0x52e4a40fa8db + 5);
            wt_run(&w);
        }
        CHECK_INT(w.server.bidi, ==, 0);
        text = WT_ASK;
        n = h3_bytes(buf, &text);
        CHECK_INT(es_link_write(ask, buf, n, 0), ==, 0);
        wt_run(&w);
        CHECK_INT(w.server.sessions, ==, 1);
        CHECK_INT(w.server.bidi, ==, 1);
        CHECK_STR(w.server.got, how == 0 ? "first second" : "first ");
        CHECK_INT(w.server.ended, ==, how == 1);
        CHECK_INT(w.server.resets, ==, how == 2);
        CHECK_INT(w.server.stops, ==, how == 0);
        CHECK_INT(es_pair_link(w.h.pair, 1)->held, ==, 0);
        wt_free(&w);
    }
}

TEST(more_sessions_than_a_connection_may_have_are_refused)
{
    wt_raw(&w, 0);
    wt_say(&w, "B " WT_ASK "; B " WT_ASK);
    CHECK_INT(w.server.sessions, ==, 2);
    w.raw.n_got = 0;
    wt_say(&w, "B " WT_ASK);
    CHECK_INT(w.server.sessions, ==, 2);
    CHECK_INT(wt_status(&w.raw), ==, -1); /* 429 is in no table */
    wt_say(&w, "B 4041 04 'to the second'");
    CHECK_STR(w.server.got, "to the second");
    wt_free(&w);
}

TEST(datagrams_that_name_no_session)
{
    wt_raw(&w, 0);
    wt_say(&w, "B " WT_ASK);
    CHECK_INT(es_link_datagram(w.raw.link, "\x00quick", 7), ==, 0);
    CHECK_INT(es_link_datagram(w.raw.link, "\x07nobody", 8), ==, 0);
    wt_run(&w);
    CHECK_INT(w.server.datagrams, ==, 1);
    CHECK_STR(w.server.datagram, "quick");
    CHECK_INT(w.raw.closed, ==, 0);
    for (int i = 0; i < 6000 && !w.raw.closed; i++) {
        (void)es_link_datagram(w.raw.link, "\x07", 1);
        wt_run(&w);
    }
    CHECK_INT(w.raw.closed, ==, 1);
    CHECK_INT(w.raw.info.code, ==, ES_H3_EXCESSIVE_LOAD);
    CHECK_INT(w.server.info.code, ==, ES_APP_EXCESSIVE_LOAD);
    wt_free(&w);

    wt_raw(&w, 0);
    CHECK_INT(es_link_datagram(w.raw.link, "", 0), ==, 0);
    wt_run(&w);
    CHECK_INT(w.raw.info.code, ==, 0x33);
    wt_free(&w);

    wt_raw(&w, 0);
    CHECK_INT(es_link_datagram(w.raw.link, "\xff\xff\xff\xff\xff\xff\xff\xff", 8), ==, 0);
    wt_run(&w);
    CHECK_INT(w.raw.info.code, ==, 0x33);
    wt_free(&w);
}

TEST(floods_of_streams_for_nobody_end_the_connection)
{
    wt_raw(&w, 0);
    wt_say(&w, "B! " WT_ASK); /* over at once */
    for (int i = 0; i < 1000 && !w.raw.closed; i++) {
        wt_say(&w, "B 4041 00 'x'");
    }
    CHECK_INT(w.raw.closed, ==, 1);
    CHECK_INT(w.raw.info.code, ==, ES_H3_EXCESSIVE_LOAD);
    wt_free(&w);
}

TEST(sessions_that_are_asked_for_again_and_again_end_the_connection)
{
    int asked = 0;

    wt_raw(&w, 0);
    while (asked < 1000 && !w.raw.closed) {
        wt_say(&w, "B! " WT_ASK);
        asked++;
    }
    CHECK_INT(asked, >=, 100);
    CHECK_INT(w.raw.closed, ==, 1);
    CHECK_INT(w.raw.info.code, ==, ES_H3_EXCESSIVE_LOAD);
    CHECK_INT(w.server.closed, ==, w.server.sessions);
    wt_free(&w);
}

TEST(a_server_opens_no_two_way_streams_but_those_of_the_session)
{
    struct es_link_stream *s;

    wt_start(&w);
    REQUIRE(es_link_open(es_pair_link(w.h.pair, 1), ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, "\x01", 1, 0), ==, 0);
    wt_run(&w);
    CHECK_INT(w.client.closed, ==, 1);
    CHECK_INT(w.client.info.code, ==, ES_APP_PROTOCOL);
    wt_free(&w);
}
