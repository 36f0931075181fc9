// needs: tunnel/csrc/http2 tunnel/csrc/head csrc/base/buf.c csrc/base/err.c
// needs: csrc/base/glitch.c csrc/base/mem.c csrc/base/varint.c
// pkgs: libnghttp2
/* Visitors of HTTP/2 that take their time: who is cut off, and who may be silent. */
#include "h2_raw.h"

enum { NO_ERROR = 0, CANCEL = 8, CALM = 11 };

static uint64_t held(void)
{
    struct es_mem_stats m;

    es_mem_stats(&m);
    return m.in_use - env_memory;
}

TEST(a_preface_that_does_not_come_or_trickles_ends_after_the_head_time_out)
{
    raw_open(ET_HTTP_VISITOR, NULL);
    for (int i = 0; i < 9 && !visitor.closed; i++) {
        raw_put(&"PRI * HTTP/2.0"[i], 1);
        raw_sleep(ES_SECOND);
    }
    CHECK(!visitor.closed);
    raw_sleep(4 * ES_SECOND);
    CHECK(visitor.closed && visitor.n == 0);
    CHECK_INT(visitor.refused_status, ==, 408);
    raw_close();
}

TEST(a_head_that_trickles_ends_the_connection)
{
    raw_hello(ET_HTTP_VISITOR, NULL);
    f(":method", "GET");
    raw_headers(1, 0);
    raw_pump();
    for (int i = 0; i < 9; i++) {
        raw_sleep(ES_SECOND);
        if (i < 3) {
            f("x-a", "b");
            raw_frame(CONTINUATION, 0, 1, block.p, block.n);
            es_buf_clear(&block);
        }
    }
    CHECK(!visitor.closed);
    raw_sleep(4 * ES_SECOND);
    CHECK(visitor.closed && visitor.n == 0);
    CHECK_INT(raw.goaway_code, ==, CALM);
    CHECK_INT(visitor.refused_status, ==, 408);
    raw_close();
}

TEST(an_idle_connection_is_ended_in_order)
{
    raw_hello(ET_HTTP_VISITOR, NULL);
    for (int i = 0; i < 7; i++) { /* PINGs do not keep it */
        raw_sleep(9 * ES_SECOND);
        CHECK(!raw.goaway || i == 6);
        raw_frame(PING, 0, 0, "12345678", 8);
    }
    raw_sleep(4 * ES_SECOND);
    CHECK(visitor.closed);
    CHECK_INT(visitor.err, ==, 0);
    CHECK_INT(raw.goaway, ==, 1);
    CHECK_INT(raw.goaway_code, ==, NO_ERROR);
    raw_close();
}

TEST(a_window_of_zero_ends_after_the_body_time_out)
{
    struct talk *t;

    raw_open(ET_HTTP_VISITOR, NULL);
    raw_put("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    raw_frame(SETTINGS, 0, 0, "\0\4\0\0\0\0", 6); /* INITIAL_WINDOW_SIZE 0 */
    raw_get(1, 1);
    raw_pump();
    t = asked();
    reply(t, 200, 0);
    say_much(t, 100000, 1);
    raw_pump();
    CHECK_INT(raw.data, ==, 0);
    raw_sleep(29 * ES_SECOND);
    CHECK(!t->gone);
    raw_frame_32(WINDOW, 1, 1); /* one byte buys another 30 s and no more */
    raw_sleep(29 * ES_SECOND);
    CHECK_INT(raw.data, ==, 1);
    CHECK(!t->gone);
    raw_sleep(3 * ES_SECOND);
    CHECK_INT(t->why, ==, ET_RESET_TIMEOUT);
    CHECK(t->gone);
    CHECK_INT(raw.rst_code, ==, CANCEL);
    raw_close();
}

TEST(a_peer_that_does_not_read_at_all_is_given_up)
{
    struct talk *t;

    raw_hello(ET_HTTP_VISITOR, NULL);
    raw_frame_32(WINDOW, 0, 1 << 30);
    raw_get(1, 1);
    raw_frame_32(WINDOW, 1, 1 << 30);
    raw_pump();
    t = asked();
    reply(t, 200, 0);
    visitor.sock.stuck = 1;
    say_much(t, 4 << 20, 1);
    raw_pump();
    CHECK_INT(sock_most, <, 400 * 1024);
    raw_sleep(32 * ES_SECOND);
    CHECK_INT(t->why, ==, ET_RESET_TIMEOUT);
    CHECK(t->gone);
    CHECK_INT(held(), <, 1 << 20);
    raw_sleep(75 * ES_SECOND);
    CHECK(raw.goaway == 0 && visitor.closed); /* nothing could be said, and it is gone all the same */
    raw_close();
}

TEST(an_upload_that_stops_is_answered_with_408)
{
    raw_hello(ET_HTTP_VISITOR, NULL);
    raw_get(1, 0);
    raw_frame(DATA, 0, 1, "abc", 3);
    raw_sleep(20 * ES_SECOND);
    raw_frame(DATA, 0, 1, "d", 1);
    raw_sleep(29 * ES_SECOND);
    CHECK(!asked()->gone);
    raw_sleep(2 * ES_SECOND);
    CHECK_INT(asked()->why, ==, ET_RESET_TIMEOUT);
    CHECK(asked()->gone && raw.status != 0 && raw.end == 1);
    CHECK_INT(raw.rst_code, ==, NO_ERROR);
    raw_close();
}

TEST(silence_that_is_allowed_is_not_punished)
{
    raw_hello(ET_HTTP_VISITOR, NULL);
    f(":method", "POST");
    f(":scheme", "https");
    f(":path", "/grpc");
    f(":authority", "a");
    f("content-type", "application/grpc+proto");
    raw_headers(1, END_HEADERS);
    f(":method", "CONNECT");
    f(":scheme", "https");
    f(":path", "/ws");
    f(":authority", "a");
    f(":protocol", "websocket");
    raw_headers(3, END_HEADERS);
    raw_get(5, 0);
    raw_pump();
    REQUIRE(visitor.n == 3);
    reply(&visitor.talk[2], 200, 0); /* the response began: both directions may take their time */
    raw_get(7, 0);
    raw_pump();
    asked()->keep = 1;
    for (int i = 0; i < 16; i++) { /* its reader does not take it: not the visitor's fault */
        static char data[16384];

        raw_frame(DATA, 0, 7, data, sizeof(data));
    }
    raw_pump();
    CHECK_INT(asked()->unread, ==, ET_UNREAD_MAX);
    raw_sleep(600 * ES_SECOND);
    for (int i = 0; i < 4; i++) {
        CHECK(!visitor.talk[i].gone);
    }
    asked()->x->ops->consume(asked()->x, ET_UNREAD_MAX);
    raw_sleep(29 * ES_SECOND);
    CHECK(!asked()->gone);
    raw_sleep(2 * ES_SECOND);
    CHECK(asked()->gone);
    raw_close();
}

TEST(a_body_slower_than_the_least_rate_is_answered_with_408)
{
    struct et_http_limits slow = {.min_body_rate = 100};

    raw_hello(ET_HTTP_VISITOR, &slow);
    raw_get(1, 0);
    for (int i = 0; i < 25; i++) {
        static char data[200];

        raw_frame(DATA, 0, 1, data, i < 12 ? 200 : 20);
        raw_sleep(ES_SECOND);
        CHECK(i > 15 || !asked()->gone);
    }
    raw_sleep(10 * ES_SECOND);
    CHECK_INT(asked()->why, ==, ET_RESET_TIMEOUT);
    raw_close();
}
