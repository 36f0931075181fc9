// needs: tunnel/csrc/http2 tunnel/csrc/head csrc/base/buf.c csrc/base/err.c
// needs: csrc/base/glitch.c csrc/base/mem.c csrc/base/varint.c
// pkgs: libnghttp2
/* Visitors of HTTP/2 that are wrong, slow or hostile. */
#include "h2_raw.h"

enum { NO_ERROR = 0, PROTOCOL = 1, FLOW = 3, SETTINGS_TIMEOUT = 4, REFUSED = 7, CANCEL = 8, CALM = 11 };

static uint64_t held(void)
{
    struct es_mem_stats m;

    es_mem_stats(&m);
    return m.in_use - env_memory;
}

TEST(a_wrong_preface_ends_the_connection)
{
    raw_open(ET_HTTP_VISITOR, NULL);
    raw_put("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
    raw_pump();
    CHECK_INT(visitor.closed, ==, 1);
    CHECK_INT(visitor.err, ==, ES_ERR_PROTOCOL);
    CHECK_INT(visitor.refused, ==, 1);
    raw_close();
}

/* Malformed requests: none is opened. */

enum { EITHER = 1 };

struct row {
    const char *what;
    const char *field[16]; /* names and values; NULL: the default of a pseudo field is not replaced */
    int status; /* that it is answered with; 0: RST_STREAM PROTOCOL_ERROR; EITHER: depends on the library's
                   version */
};

static const struct row rows[] = {
    {"no method", {":scheme", "https", ":path", "/", ":authority", "a"}, 0},
    {"no path", {":method", "GET", ":scheme", "https", ":authority", "a"}, 0},
    {"no scheme", {":method", "GET", ":path", "/", ":authority", "a"}, 0},
    {"neither authority nor host", {":method", "GET", ":scheme", "https", ":path", "/"}, 0},
    {"an empty path", {":method", "GET", ":scheme", "https", ":authority", "a", ":path", ""}, 0},
    {"a path without a slash", {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "x"}, 0},
    {"a star with GET", {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "*"}, 0},
    {"a space in the path", {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/a b"}, 0},
    {"a fragment", {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/a#b"}, 400},
    {"two paths", {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", ":path", "/"}, 0},
    {"two methods",
     {":method", "GET", ":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/"},
     0},
    {"an unknown pseudo field",
     {":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a", ":x", "y"},
     0},
    {"a status",
     {":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a", ":status", "200"},
     0},
    {"a pseudo field after a field",
     {":method", "GET", ":scheme", "https", ":path", "/", "x", "y", ":authority", "a"},
     0},
    {"a method that is no token", {":method", "G T", ":scheme", "https", ":authority", "a", ":path", "/"}, 0},
    {"another scheme", {":method", "GET", ":scheme", "ftp", ":authority", "a", ":path", "/"}, 400},
    {"userinfo", {":method", "GET", ":scheme", "https", ":authority", "u@a", ":path", "/"}, EITHER},
    {"a space in the authority",
     {":method", "GET", ":scheme", "https", ":authority", "a b", ":path", "/"},
     0},
    {"host is another",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "host", "b"},
     400},
    {"two hosts", {":method", "GET", ":scheme", "https", ":path", "/", "host", "b", "host", "b"}, 0},
    {"a protocol without CONNECT",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", ":protocol", "websocket"},
     0},
    {"CONNECT with a path", {":method", "CONNECT", ":authority", "a:1", ":path", "/"}, 0},
    {"CONNECT with a scheme", {":method", "CONNECT", ":authority", "a:1", ":scheme", "https"}, 0},
    {"an upper-case name",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "X-A", "b"},
     0},
    {"a space in a name",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "x a", "b"},
     0},
    {"a colon in a name",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "x:a", "b"},
     0},
    {"an empty name", {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "", "b"}, 0},
    {"CR LF in a value",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "x", "a\r\nb: c"},
     0},
    {"a leading blank",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "x", " a"},
     0},
    {"a trailing tab",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "x", "a\t"},
     0},
    {"connection",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "connection", "close"},
     0},
    {"keep-alive",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "keep-alive", "1"},
     0},
    {"proxy-connection",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "proxy-connection", "close"},
     0},
    {"transfer-encoding",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "transfer-encoding", "chunked"},
     0},
    {"upgrade", {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "upgrade", "h2c"}, 0},
    {"te other than trailers",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "te", "gzip"},
     0},
    {"a length that is no number",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "content-length", "0x1"},
     0},
    {"a negative length",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "content-length", "-1"},
     0},
    {"two lengths",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "content-length", "0",
      "content-length", "1"},
     0},
    {"a length and no body",
     {":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/", "content-length", "5"},
     0},
};

TEST(malformed_requests_are_refused_and_the_connection_goes_on)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *r = &rows[i];
        int before = test_failures;

        raw_hello(ET_HTTP_VISITOR, NULL);
        for (int k = 0; k < 16 && r->field[k] != NULL; k += 2) {
            f(r->field[k], r->field[k + 1]);
        }
        raw_headers(1, END_HEADERS | END_STREAM);
        raw_pump();
        CHECK_INT(visitor.n, ==, 0);
        CHECK_INT(visitor.refused, ==, 1);
        if (r->status == EITHER) {
            CHECK(raw.status == 400 || raw.rst_code == PROTOCOL);
        } else if (r->status != 0) {
            CHECK_INT(raw.status, ==, r->status);
        } else {
            CHECK_INT(raw.rst, ==, 1);
            CHECK_INT(raw.rst_code, ==, PROTOCOL);
        }
        CHECK(!raw.goaway);
        raw_get(3, 1);
        raw_pump();
        CHECK_INT(visitor.n, ==, 1);
        if (visitor.n == 1) {
            reply(asked(), 200, 1);
            raw_pump();
            CHECK_INT(raw.status, ==, 200);
        }
        if (test_failures != before) {
            fprintf(stderr, "    in \"%s\": %d refused with %d, status %d, RST %d %d, GOAWAY %d\n", r->what,
                    visitor.refused, visitor.refused_status, raw.status, raw.rst, raw.rst_code, raw.goaway);
        }
        raw_close();
    }
}

TEST(what_is_over_a_limit_is_answered_so)
{
    static char big[70000];
    int status;

    memset(big, 'a', sizeof(big));
    for (int i = 0; i < 5; i++) {
        raw_hello(ET_HTTP_VISITOR, NULL);
        f(":method", "POST");
        f(":scheme", "https");
        f(":authority", "a");
        if (i == 0) {
            big[0] = '/';
            field_n(":path", 5, big, 17000);
            big[0] = 'a';
        } else {
            f(":path", "/");
        }
        for (int k = 0; i == 1 && k < 101; k++) {
            f("x-a", "b");
        }
        for (int k = 0; i == 2 && k < 5; k++) {
            field_n("x-b", 3, big, 14000);
        }
        for (int k = 0; i == 3 && k < 7; k++) {
            field_n("cookie", 6, big, 10000);
        }
        if (i == 4) {
            f("host", "b");
        }
        raw_headers(1, END_HEADERS); /* a body would follow: it is not waited for */
        raw_pump();
        status = i == 0 ? 414 : i == 4 ? 400 : 431;
        CHECK_INT(visitor.refused_status, ==, status);
        CHECK_INT(visitor.n, ==, 0);
        CHECK(raw.status != 0 && raw.end == 1);
        CHECK_INT(raw.rst, ==, 1);
        CHECK_INT(raw.rst_code, ==, NO_ERROR);
        raw_frame(DATA, 0, 1, big, 16000); /* on its way already */
        raw_get(3, 1);
        raw_pump();
        CHECK_INT(visitor.n, ==, 1);
        raw_close();
    }
}

TEST(a_hundred_crumbs_are_one_cookie)
{
    raw_hello(ET_HTTP_VISITOR, NULL);
    f(":method", "GET");
    f(":scheme", "http"); /* what it says does not count */
    f(":path", "/");
    f("host", "Example.ORG");
    for (int i = 0; i < 150; i++) {
        f("cookie", "a=b");
    }
    f("http2-settings", "x");
    raw_headers(1, END_HEADERS | END_STREAM);
    raw_pump();
    REQUIRE(visitor.n == 1);
    CHECK_INT(et_head_count(asked()->head), ==, 1);
    CHECK(head_is(asked()->head, ET_SCHEME, "https"));
    CHECK(head_is(asked()->head, ET_AUTHORITY, "Example.ORG"));
    raw_close();
}

TEST(a_few_bytes_that_stand_for_very_many_end_the_connection)
{
    static char big[4000];

    memset(big, 'a', sizeof(big));
    raw_hello(ET_HTTP_VISITOR, NULL);
    f(":method", "GET");
    f(":scheme", "https");
    f(":path", "/");
    f(":authority", "a");
    raw_number(0x40, 6, 0); /* into the table */
    raw_number(0, 7, 1);
    es_buf_put(&block, "x", 1);
    raw_number(0, 7, sizeof(big));
    es_buf_put(&block, big, sizeof(big));
    for (int i = 0; i < 12000; i++) {
        raw_number(0x80, 7, 62); /* out of it: 48 MB in all */
    }
    raw_headers(1, END_HEADERS | END_STREAM);
    raw_pump();
    CHECK_INT(visitor.n, ==, 0);
    CHECK_INT(raw.goaway_code, ==, CALM);
    raw_close();
}

TEST(continuations_without_an_end_end_the_connection)
{
    uint64_t most = 0;

    raw_hello(ET_HTTP_VISITOR, NULL);
    f(":method", "GET");
    raw_headers(1, 0);
    for (int i = 0; i < 100000 && !visitor.closed && !raw.goaway; i++) {
        raw_frame(CONTINUATION, 0, 1, NULL, 0);
        if (i % 100 == 0) {
            raw_pump();
        }
        most = held() > most ? held() : most;
    }
    raw_pump();
    CHECK(visitor.closed || raw.goaway);
    CHECK_INT(most, <, 1 << 20);
    raw_close();
}

/* Floods: the connection ends after a bounded number of them, and what is held meanwhile is bounded. */

static int flood_until_over(void (*one)(int i), int reading, int most)
{
    uint64_t memory = 0;
    int i;

    raw_hello(ET_HTTP_VISITOR, NULL);
    visitor.sock.stuck = !reading;
    for (i = 0; i < most && !visitor.closed && !raw.goaway; i++) {
        one(i);
        if (i % 50 == 49) {
            raw_pump();
            memory = held() > memory ? held() : memory;
        }
    }
    raw_pump();
    CHECK_INT(memory, <, 3 << 20);
    visitor.sock.stuck = 0;
    raw_sleep(3 * ES_SECOND);
    CHECK(visitor.closed);
    if (reading) {
        CHECK(raw.goaway_code == CALM);
    }
    raw_close();
    return i;
}

static void one_ping(int i)
{
    raw_frame(PING, 0, 0, "12345678", 8);
}

static void one_settings(int i)
{
    raw_frame(SETTINGS, 0, 0, "\0\3\0\0\0\144", 6);
}

static void one_empty_data(int i)
{
    if (i == 0) {
        raw_get(1, 0);
    }
    raw_frame(DATA, 0, 1, NULL, 0);
}

static void one_padding(int i)
{
    if (i == 0) {
        raw_get(1, 0);
    }
    raw_frame(DATA, PADDED, 1, "\3\0\0\0", 4);
}

static void one_reset(int i)
{
    raw_get((uint32_t)i * 2 + 1, 1);
    raw_frame_32(RST, (uint32_t)i * 2 + 1, CANCEL);
}

static void one_empty_head(int i)
{
    raw_headers((uint32_t)i * 2 + 1, END_HEADERS | END_STREAM);
}

static void one_priority_update(int i)
{
    raw_frame(PRIORITY_UPDATE, 0, 0, "\0\0\0\1u=1", 7);
}

static void one_window(int i)
{
    raw_frame_32(WINDOW, 0, 1);
}

TEST(floods_end_the_connection)
{
    CHECK_INT(flood_until_over(one_ping, 1, 40000), <, 20000);
    CHECK_INT(flood_until_over(one_settings, 1, 40000), <, 2000);
    CHECK_INT(flood_until_over(one_empty_data, 1, 40000), <, 5000);
    CHECK_INT(flood_until_over(one_padding, 1, 40000), <, 5000);
    CHECK_INT(flood_until_over(one_reset, 1, 40000), <, 3000);
    CHECK_INT(flood_until_over(one_empty_head, 1, 40000), <, 2000);
    CHECK_INT(flood_until_over(one_priority_update, 1, 40000), <, 20000);
    CHECK_INT(flood_until_over(one_window, 1, 40000), <, 20000);
}

TEST(floods_of_peers_that_do_not_read_end_the_connection)
{
    (void)flood_until_over(one_ping, 0, 40000);
    (void)flood_until_over(one_settings, 0, 40000);
    (void)flood_until_over(one_empty_head, 0, 40000);
}

TEST(readers_that_tell_of_each_small_piece_do_no_harm)
{
    struct talk *t;
    size_t acked = 0;

    raw_hello(ET_HTTP_VISITOR, NULL);
    raw_get(1, 1);
    raw_pump();
    t = asked();
    reply(t, 200, 0);
    for (int i = 0; i < 500 && !visitor.closed; i++) { /* 32 MB */
        say_much(t, 65536, 0);
        for (int k = 0; k < 4; k++) {
            raw_pump();
            for (; acked + 1024 <= raw.data; acked += 1024) { /* as some do, and a PING for good measure */
                raw_frame_32(WINDOW, 0, 1024);
                raw_frame_32(WINDOW, 1, 1024);
            }
            raw_frame(PING, 0, 0, "12345678", 8);
        }
    }
    raw_pump();
    CHECK(!raw.goaway && !visitor.closed);
    CHECK_INT(raw.data, >, 30 << 20);
    raw_close();
}

TEST(calls_whose_deadline_passed_do_no_harm)
{
    raw_hello(ET_HTTP_VISITOR, NULL);
    for (uint32_t i = 0; i < 10000; i++) { /* a thousand a second for ten seconds, 50 at once */
        raw_get(i * 2 + 1, 1);
        if (i >= 50) {
            raw_frame_32(RST, (i - 50) * 2 + 1, CANCEL);
        }
        raw_sleep(ES_MILLI);
    }
    CHECK(!raw.goaway && !visitor.closed);
    raw_close();
}

TEST(honest_resets_do_no_harm)
{
    raw_hello(ET_HTTP_VISITOR, NULL);
    for (uint32_t i = 0; i < 3000; i++) { /* downloads that are aborted after their head, 200 a second */
        raw_get(i * 2 + 1, 1);
        raw_pump();
        REQUIRE(visitor.n == i + 1);
        reply(asked(), 200, 0);
        say(asked(), "some", 0);
        raw_pump();
        raw_frame_32(RST, i * 2 + 1, CANCEL);
        raw_sleep(5 * ES_MILLI);
        CHECK_INT(asked()->why, ==, ET_RESET_CANCEL);
    }
    CHECK(!raw.goaway && !visitor.closed);
    raw_close();
}

TEST(more_streams_than_were_offered_are_refused)
{
    struct et_http_limits few = {.max_streams = 3};

    raw_hello(ET_HTTP_VISITOR, &few);
    for (uint32_t i = 0; i < 5; i++) {
        raw_get(i * 2 + 1, 1);
    }
    raw_pump();
    CHECK_INT(visitor.n, ==, 3);
    CHECK(raw.rst_code == REFUSED || raw.goaway_code == PROTOCOL);
    raw_close();
}

TEST(a_body_that_is_not_as_long_as_announced_is_a_reset)
{
    for (int longer = 0; longer < 2; longer++) {
        raw_hello(ET_HTTP_VISITOR, NULL);
        f(":method", "POST");
        f(":scheme", "https");
        f(":path", "/");
        f(":authority", "a");
        f("content-length", "5");
        raw_headers(1, END_HEADERS);
        raw_frame(DATA, longer ? 0 : END_STREAM, 1, "abcdefg", longer ? 7 : 3);
        raw_pump();
        CHECK_INT(asked()->why, ==, ET_RESET_PROTOCOL);
        CHECK(asked()->gone && !asked()->ended);
        CHECK_INT(raw.rst_code, ==, PROTOCOL);
        raw_close();
    }
}

TEST(trailers_that_are_malformed_or_too_large_reset_the_exchange)
{
    static char big[60000];

    memset(big, 'a', sizeof(big));
    for (int i = 0; i < 5; i++) {
        raw_hello(ET_HTTP_VISITOR, NULL);
        raw_get(1, 0);
        raw_frame(DATA, 0, 1, "abc", 3);
        switch (i) {
        case 0:
            f(":path", "/again");
            break;
        case 1:
            f("connection", "close");
            break;
        case 2:
            field_n("x", 1, big, sizeof(big));
            field_n("x", 1, big, sizeof(big));
            break;
        case 3:
            f("X", "y");
            break;
        default:
            f("x", "y"); /* without END_STREAM */
        }
        raw_headers(1, END_HEADERS | (i == 4 ? 0 : END_STREAM));
        raw_pump();
        CHECK_INT(asked()->why, ==, i == 2 ? ET_RESET_ENHANCE_CALM : ET_RESET_PROTOCOL);
        CHECK(asked()->gone && !asked()->ended);
        raw_close();
    }
}

TEST(frames_that_may_not_be_end_the_connection)
{
    for (int i = 0; i < 8; i++) {
        static char big[20000];

        raw_hello(ET_HTTP_VISITOR, NULL);
        raw_get(1, 0);
        switch (i) {
        case 0:
            raw_frame(DATA, 0, 0, "a", 1);
            break;
        case 1:
            raw_frame(DATA, 0, 5, "a", 1); /* idle */
            break;
        case 2:
            raw_get(2, 1); /* ours */
            break;
        case 3:
            raw_frame(DATA, 0, 1, big, sizeof(big)); /* over MAX_FRAME_SIZE */
            break;
        case 4:
            raw_frame_32(WINDOW, 0, 0x7fffffff);
            break;
        case 5:
            raw_frame(PUSH, END_HEADERS, 1, "\0\0\0\2", 4);
            break;
        case 6:
            raw_frame(SETTINGS, 0, 0, "\0\4\377\377\377\377", 6);
            break;
        default:
            raw_frame(CONTINUATION, END_HEADERS, 1, NULL, 0);
        }
        raw_sleep(3 * ES_SECOND);
        CHECK_INT(raw.goaway, ==, 1);
        CHECK(raw.goaway_code != NO_ERROR);
        CHECK(visitor.closed && visitor.refused > 0);
        CHECK_INT(visitor.err, ==, ES_ERR_PROTOCOL);
        CHECK(asked()->why == ET_RESET_TRUNCATED || asked()->why == ET_RESET_PROTOCOL);
        raw_close();
    }
}

TEST(a_peer_that_heeds_no_window_is_ended)
{
    static char data[16384];

    raw_hello(ET_HTTP_VISITOR, NULL);
    raw_get(1, 0);
    raw_pump();
    asked()->keep = 1;
    for (int i = 0; i < 64; i++) {
        raw_frame(DATA, 0, 1, data, sizeof(data));
    }
    raw_pump();
    CHECK_INT(asked()->got, <=, ET_UNREAD_MAX + sizeof(data)); /* the one that was too many, too */
    CHECK(raw.rst_code == FLOW || raw.goaway_code == FLOW);
    CHECK(asked()->gone);
    raw_close();
}

TEST(a_priority_that_came_before_its_request_is_its_priority)
{
    raw_hello(ET_HTTP_VISITOR, NULL);
    raw_frame(PRIORITY_UPDATE, 0, 0, "\0\0\0\3u=6", 7);
    raw_frame(PRIORITY_UPDATE, 0, 0, "\0\0\0\3u=5, i", 10);
    raw_frame(PRIORITY_UPDATE, 0, 0, "\0\0\0\1u=0", 7);
    raw_get(1, 1);
    f(":method", "GET");
    f(":scheme", "https");
    f(":authority", "a");
    f(":path", "/");
    f("priority", "u=2");
    raw_headers(3, END_HEADERS | END_STREAM);
    raw_get(5, 1);
    raw_pump();
    REQUIRE(visitor.n == 3);
    CHECK_STR(field(visitor.talk[0].head, "priority"), "u=0");
    CHECK_STR(field(visitor.talk[1].head, "priority"), "u=5, i");
    CHECK_STR(field(visitor.talk[2].head, "priority"), "(none)");
    raw_close();
}
