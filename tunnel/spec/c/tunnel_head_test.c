// needs: tunnel/csrc/head csrc/base/buf.c csrc/base/mem.c csrc/base/varint.c
#include "../../../spec/c/test.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"
#include "../../csrc/head/head.h"
#include "../../csrc/head/parts.h"

#define S(s) (s), sizeof(s) - 1

static int add(struct et_head *h, const char *name, const char *value)
{
    return et_head_add(h, name, strlen(name), value, strlen(value));
}

static int set(struct et_head *h, const char *name, const char *value)
{
    return et_head_set(h, name, strlen(name), value, strlen(value));
}

static int has(struct et_text t, const char *s)
{
    return t.n == strlen(s) && memcmp(t.p, s, t.n) == 0;
}

/* "name: value\n" of every field. */
static const char *all(const struct et_head *h)
{
    static char out[4096];
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < et_head_count(h) && n < sizeof out; i++) {
        struct et_field f = et_head_field(h, i);
        n += (size_t)snprintf(out + n, sizeof out - n, "%.*s: %.*s\n", (int)f.name.n, f.name.p,
                              (int)f.value.n, f.value.p);
    }
    return out;
}

static struct et_head *request(void)
{
    struct et_head *h = et_head_new(ET_HEAD_REQUEST);

    et_head_set_part(h, ET_METHOD, S("GET"));
    et_head_set_part(h, ET_SCHEME, S("https"));
    et_head_set_part(h, ET_AUTHORITY, S("example.org:8443"));
    et_head_set_part(h, ET_PATH, S("/a?b=c"));
    return h;
}

TEST(the_parts_of_a_request_are_kept)
{
    struct et_head *h = request();

    CHECK(has(et_head_part(h, ET_METHOD), "GET"));
    CHECK(has(et_head_part(h, ET_AUTHORITY), "example.org:8443"));
    CHECK(has(et_head_part(h, ET_PROTOCOL), ""));
    CHECK_INT(et_head_set_part(h, ET_PATH, S("/other")), ==, 0);
    CHECK(has(et_head_part(h, ET_PATH), "/other"));
    CHECK_INT(et_head_bytes(h), ==, 3 + 5 + 16 + 6);
    CHECK_INT(et_head_set_status(h, 200), ==, ES_ERR_INVAL);
    et_head_del(h);
}

TEST(parts_with_bytes_that_may_not_be_there_are_refused)
{
    struct et_head *h = request();
    static const struct {
        enum et_head_part part;
        const char *text;
    } bad[] = {
        {ET_METHOD, "GE T"},        {ET_METHOD, "GET\r\n"}, {ET_PATH, "/a b"},        {ET_PATH, "a"},
        {ET_PATH, "/#x"},           {ET_PATH, "/\x7f"},     {ET_PATH, "/\xc3\xa4"},   {ET_PATH, "**"},
        {ET_PATH, "http://x/"},     {ET_AUTHORITY, "a b"},  {ET_AUTHORITY, "u@host"}, {ET_AUTHORITY, "a/b"},
        {ET_AUTHORITY, "a?b"},      {ET_AUTHORITY, "a\n"},  {ET_SCHEME, "1http"},     {ET_SCHEME, "http://"},
        {ET_PROTOCOL, "web socket"}};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(et_head_set_part(h, bad[i].part, bad[i].text, strlen(bad[i].text)), ==, ES_ERR_INVAL);
    }
    CHECK_INT(et_head_set_part(h, ET_PATH, "/a\0b", 4), ==, ES_ERR_INVAL);
    CHECK_INT(et_head_set_part(h, ET_AUTHORITY, "a\0b", 3), ==, ES_ERR_INVAL);
    CHECK_INT(et_head_set_part(h, ET_PATH, S("*")), ==, 0);
    CHECK_INT(et_head_set_part(h, ET_AUTHORITY, S("[::1]:80")), ==, 0);
    CHECK_INT(et_head_set_part(h, ET_PROTOCOL, S("websocket")), ==, 0);
    CHECK_INT(et_head_set_part(h, ET_PROTOCOL, "", 0), ==, 0);
    CHECK(has(et_head_part(h, ET_PROTOCOL), ""));
    et_head_del(h);
}

TEST(fields_keep_their_order_and_lose_their_blanks)
{
    struct et_head *h = et_head_new(ET_HEAD_RESPONSE);

    CHECK_INT(et_head_status(h), ==, 200);
    CHECK_INT(add(h, "Set-Cookie", "a=1"), ==, 0);
    CHECK_INT(add(h, "X-Y", " \t b\tc  "), ==, 0);
    CHECK_INT(add(h, "set-cookie", "b=2"), ==, 0);
    CHECK_INT(add(h, "empty", ""), ==, 0);
    CHECK_STR(all(h), "set-cookie: a=1\nx-y: b\tc\nset-cookie: b=2\nempty: \n");
    CHECK_INT(et_head_find(h, S("set-cookie"), 0), ==, 0);
    CHECK_INT(et_head_find(h, S("set-cookie"), 1), ==, 2);
    CHECK(et_head_find(h, S("set-cookie"), 3) == SIZE_MAX);
    CHECK_INT(set(h, "Set-Cookie", "c=3"), ==, 0);
    CHECK_STR(all(h), "set-cookie: c=3\nx-y: b\tc\nempty: \n");
    CHECK_INT(set(h, "new", "x"), ==, 0);
    CHECK_INT(et_head_remove(h, S("X-y")), ==, 1);
    CHECK_INT(et_head_remove(h, S("x-y")), ==, 0);
    CHECK_STR(all(h), "set-cookie: c=3\nempty: \nnew: x\n");
    CHECK_INT(et_head_bytes(h), ==, 10 + 3 + 5 + 3 + 1);
    et_head_del(h);
}

TEST(fields_with_bytes_that_may_not_be_there_are_refused)
{
    struct et_head *h = et_head_new(ET_HEAD_REQUEST);

    CHECK_INT(add(h, "", "x"), ==, ES_ERR_INVAL);
    CHECK_INT(add(h, ":path", "x"), ==, ES_ERR_INVAL);
    CHECK_INT(add(h, "a b", "x"), ==, ES_ERR_INVAL);
    CHECK_INT(add(h, "a\xe4", "x"), ==, ES_ERR_INVAL);
    CHECK_INT(et_head_add(h, "a\0b", 3, "x", 1), ==, ES_ERR_INVAL);
    CHECK_INT(add(h, "a", "x\r\ny: z"), ==, ES_ERR_INVAL);
    CHECK_INT(add(h, "a", "x\ry"), ==, ES_ERR_INVAL);
    CHECK_INT(et_head_add(h, "a", 1, "x\0y", 3), ==, ES_ERR_INVAL);
    CHECK_INT(add(h, "a", "x\x7f"), ==, ES_ERR_INVAL);
    CHECK_INT(add(h, "a", "\xc3\xa4"), ==, 0);
    CHECK_INT(et_head_count(h), ==, 1);
    et_head_del(h);
}

TEST(every_byte_of_a_value_is_looked_at_wherever_it_is)
{
    for (size_t n = 3; n <= 19; n += 4) { /* with and without a rest of fewer than eight */
        for (size_t at = 1; at < n - 1; at++) {
            struct et_head *h = request();
            char value[20];
            memset(value, 'a', sizeof value);
            for (int c = 0; c < 256; c++) {
                int may = (c >= 0x20 && c != 0x7f) || c == '\t';
                value[at] = (char)c;
                value[n - 1] = (char)(c % 2 == 0 ? 0xff : 'a');
                CHECK_INT(et_head_set(h, S("x"), value, n), ==, may ? 0 : ES_ERR_INVAL);
            }
            et_head_del(h);
        }
    }
}

TEST(limits_hold_and_a_widened_head_takes_more)
{
    struct et_head *h = et_head_new(ET_HEAD_REQUEST);
    static char big[ET_HEAD_MAX_BYTES];

    memset(big, 'x', sizeof big);
    for (int i = 0; i < ET_HEAD_MAX_FIELDS; i++) {
        CHECK_INT(add(h, "a", "b"), ==, 0);
    }
    CHECK_INT(add(h, "a", "b"), ==, ES_ERR_LIMIT);
    CHECK_INT(set(h, "a", "only"), ==, 0); /* replaces, and there is room again */
    CHECK_INT(et_head_count(h), ==, 1);
    CHECK_INT(et_head_add(h, "b", 1, big, sizeof big - 6), ==, 0);
    CHECK_INT(et_head_bytes(h), ==, ET_HEAD_MAX_BYTES);
    CHECK_INT(add(h, "c", ""), ==, ES_ERR_LIMIT);
    CHECK_INT(et_head_set_part(h, ET_METHOD, S("G")), ==, ES_ERR_LIMIT);
    et_head_widen(h);
    CHECK_INT(add(h, "c", ""), ==, 0);
    CHECK_INT(et_head_set_part(h, ET_METHOD, S("GET")), ==, 0);
    et_head_del(h);
}

TEST(text_of_a_head_may_be_given_to_it_again)
{
    struct et_head *h = request();

    CHECK_INT(add(h, "x", "0123456789012345678901234567890123456789"), ==, 0);
    for (int i = 0; i < 90; i++) {
        struct et_field f = et_head_field(h, 0);
        CHECK_INT(et_head_add(h, f.name.p, f.name.n, f.value.p, f.value.n), ==, 0);
    }
    struct et_text path = et_head_part(h, ET_PATH);
    CHECK_INT(et_head_set_part(h, ET_PATH, path.p, 2), ==, 0);
    CHECK(has(et_head_part(h, ET_PATH), "/a"));
    et_head_del(h);
}

TEST(a_head_that_is_changed_often_does_not_grow)
{
    struct et_head *h = request();
    struct es_mem_stats before, after;

    es_mem_stats(&before);
    for (int i = 0; i < 100000; i++) {
        char value[32];
        snprintf(value, sizeof value, "/%d", i);
        CHECK_INT(et_head_set_part(h, ET_PATH, value, strlen(value)), ==, 0);
        CHECK_INT(set(h, "x-forwarded-for", value), ==, 0);
    }
    es_mem_stats(&after);
    CHECK_INT(after.in_use - before.in_use, <, 32768);
    CHECK(has(et_head_part(h, ET_PATH), "/99999"));
    CHECK(has(et_head_part(h, ET_METHOD), "GET"));
    CHECK_STR(all(h), "x-forwarded-for: /99999\n");
    et_head_del(h);
}

TEST(what_is_about_one_connection_is_taken_away)
{
    struct et_head *h = request();
    struct et_text connection[2] = {{S("close, X-Mine ,,")}, {S("TE, keep-alive, bad name, x-other")}};

    add(h, "Host", "a");
    add(h, "Connection", "x");
    add(h, "x-mine", "1");
    add(h, "X-Other", "1");
    add(h, "x-kept", "1");
    add(h, "keep-alive", "timeout=5");
    add(h, "proxy-connection", "keep-alive");
    add(h, "transfer-encoding", "chunked");
    add(h, "upgrade", "websocket");
    add(h, "http2-settings", "AAA");
    add(h, "te", "gzip;q=0.5, Trailers ;q=1");
    et_head_strip(h, connection, 2);
    CHECK_STR(all(h), "x-kept: 1\nte: trailers\n");
    et_head_strip(h, NULL, 0);
    CHECK_STR(all(h), "x-kept: 1\nte: trailers\n");
    set(h, "te", "gzip");
    et_head_strip(h, NULL, 0);
    CHECK_STR(all(h), "x-kept: 1\n");
    CHECK_INT(et_head_is_hop(S("te")), ==, 0);
    CHECK_INT(et_head_is_hop(S("host")), ==, 1);
    et_head_del(h);
}

TEST(lengths_are_numbers_that_agree)
{
    static const struct {
        const char *a, *b;
        int64_t want;
    } rows[] = {{"5", NULL, 5},
                {"0", NULL, 0},
                {"5", "5", 5},
                {"5", "6", -1},
                {"+5", NULL, -1},
                {"5, 5", NULL, -1},
                {"", NULL, -1},
                {"0x5", NULL, -1},
                {"9223372036854775807", NULL, INT64_MAX},
                {"9223372036854775808", NULL, -1}};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct et_head *h = et_head_new(ET_HEAD_RESPONSE);
        CHECK_INT(et_head_length(h), ==, -1);
        add(h, "Content-Length", rows[i].a);
        if (rows[i].b != NULL) {
            add(h, "content-length", rows[i].b);
        }
        CHECK_INT(et_head_length(h), ==, rows[i].want);
        et_head_del(h);
    }
}

TEST(heads_travel_and_are_the_same_afterwards)
{
    struct es_buf wire = {0}, again = {0};
    struct et_head *h = request(), *copy, *got;
    uint8_t want[64];
    size_t n;

    add(h, "a", "b");
    CHECK_INT(et_head_encode(h, &wire), ==, 0);
    CHECK_INT(wire.n, ==, et_head_size(h));
    n = test_unhex(
        "01 03474554 056874747073 10 6578616d706c652e6f72673a38343433 06 2f613f623d63 00 01 0161 0162", want,
        sizeof want);
    CHECK_MEM(wire.p, wire.n, want, n);
    REQUIRE(et_head_decode(wire.p, wire.n, &got) == 0);
    copy = et_head_copy(got);
    CHECK_INT(et_head_encode(copy, &again), ==, 0);
    CHECK_MEM(wire.p, wire.n, again.p, again.n);
    CHECK_INT(et_head_bytes(copy), ==, et_head_bytes(h));
    for (size_t i = 0; i < wire.n; i++) { /* cut anywhere: refused */
        struct et_head *cut;
        CHECK_INT(et_head_decode(wire.p, i, &cut), ==, ES_ERR_PROTOCOL);
    }
    et_head_del(h);
    et_head_del(got);
    et_head_del(copy);
    es_buf_free(&wire);
    es_buf_free(&again);
}

TEST(heads_of_a_peer_are_checked)
{
    static const char *const bad[] = {
        "04 00",                                    /* no kind */
        "02 40c8 01 0a 636f6e6e656374696f6e 01 78", /* connection: x */
        "02 40c8 01 11 7472616e736665722d656e636f64696e67 07 6368756e6b6564",
        "02 40c8 01 0e 636f6e74656e742d6c656e677468 02 2b31", /* content-length: +1 */
        "03 01 0e 636f6e74656e742d6c656e677468 01 31",        /* in trailers */
        "02 40c8 01 0161 03 780a79",                          /* a line break */
        "02 40c8 02 0161 0162",                               /* one field too few */
        "02 40c8 00 00",                                      /* something after the end */
        "02 32 00",                                           /* status 50 */
        "02 43e8 00",                                         /* status 1000 */
        "01 00 00 00 00 00 00",                               /* no method */
        "02 40c8 ffffffffffffffff",                           /* many fields */
        "02 40c8 01 0174 ffffffffffffffff",
        "01 03474554 00 00 012f 00 01 027465 04 677a6970", /* te: gzip */
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t p[128];
        struct et_head *h;
        size_t n = test_unhex(bad[i], p, sizeof p);
        CHECK_INT(et_head_decode(p, n, &h), ==, ES_ERR_PROTOCOL);
        CHECK(h == NULL);
    }
}

TEST(memory_that_runs_out_is_told)
{
    struct es_mem_stats before, after;
    struct es_buf wire = {0};
    struct et_head *h = request();

    for (int i = 0; i < 20; i++) {
        add(h, "name", "value");
    }
    REQUIRE(et_head_encode(h, &wire) == 0);
    es_mem_stats(&before);
    for (uint64_t i = 1;; i++) {
        struct et_head *got, *copy;
        es_mem_fail_nth(i);
        int rv = et_head_decode(wire.p, wire.n, &got);
        es_mem_fail_nth(0);
        if (rv == 0) {
            et_head_del(got);
            CHECK_INT(i, >, 3);
            break;
        }
        CHECK_INT(rv, ==, ES_ERR_NOMEM);
        es_mem_fail_nth(i);
        copy = et_head_copy(h);
        es_mem_fail_nth(0);
        et_head_del(copy);
    }
    es_mem_stats(&after);
    CHECK_INT(after.in_use, ==, before.in_use);
    et_head_del(h);
    es_buf_free(&wire);
}

TEST(messages_are_whole_parts)
{
    struct es_buf b = {0};
    struct et_head *h = et_head_new(ET_HEAD_RESPONSE), *got;
    const uint8_t *p;
    size_t n;
    struct et_part part;
    uint64_t why;
    struct et_text text;
    static uint8_t body[150000];

    et_head_set_status(h, 103);
    CHECK_INT(et_part_put_head(&b, h), ==, 0);
    et_head_set_status(h, 200);
    CHECK_INT(et_part_put_head(&b, h), ==, 0);
    CHECK_INT(et_part_put_body(&b, body, sizeof body), ==, 0);
    CHECK_INT(et_part_put_reset(&b, 4, S("cut")), ==, 0);
    CHECK_INT(et_part_put(&b, ET_PART_END, NULL, 0), ==, 0);
    CHECK_INT(et_part_check(b.p, b.n), ==, 0);
    p = b.p;
    n = b.n;
    REQUIRE(et_part_next(&p, &n, &part) == 1);
    CHECK_INT(part.type, ==, ET_PART_INFORMATIONAL);
    REQUIRE(et_part_head(&part, &got) == 0);
    CHECK_INT(et_head_status(got), ==, 103);
    et_head_del(got);
    part.type = ET_PART_HEAD; /* an informational one is no final one */
    CHECK_INT(et_part_head(&part, &got), ==, ES_ERR_PROTOCOL);
    REQUIRE(et_part_next(&p, &n, &part) == 1);
    CHECK_INT(part.type, ==, ET_PART_HEAD);
    size_t sizes[3] = {65536, 65536, 150000 - 131072};
    for (int i = 0; i < 3; i++) {
        REQUIRE(et_part_next(&p, &n, &part) == 1);
        CHECK_INT(part.type, ==, ET_PART_BODY);
        CHECK_INT(part.n, ==, sizes[i]);
    }
    REQUIRE(et_part_next(&p, &n, &part) == 1);
    REQUIRE(et_part_reset(&part, &why, &text) == 0);
    CHECK_INT(why, ==, 4);
    CHECK(has(text, "cut"));
    REQUIRE(et_part_next(&p, &n, &part) == 1);
    CHECK_INT(part.type, ==, ET_PART_END);
    CHECK_INT(et_part_next(&p, &n, &part), ==, 0);
    et_head_del(h);
    es_buf_free(&b);
}

TEST(malformed_messages_are_refused)
{
    static const char *const bad[] = {"",   "00 00",    "08 00",       "05 01 00",
                                      "05", "03 02 41", "03 80010001", "05 00 09"};
    static uint8_t big[70000] = {3, 0x80, 0x01, 0x00, 0x01};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t p[16];
        size_t n = test_unhex(bad[i], p, sizeof p);
        CHECK_INT(et_part_check(p, n), ==, ES_ERR_PROTOCOL);
    }
    CHECK_INT(et_part_check(big, 5 + 65537), ==, ES_ERR_PROTOCOL); /* a body of 65,537 */
    big[4] = 0;
    CHECK_INT(et_part_check(big, 5 + 65536), ==, 0);
}

TEST(what_stands_before_a_payload_can_be_written_in_place)
{
    static const size_t sizes[] = {0, 63, 64, 16383, 16384, 65536};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t room[ET_PART_ROOM];
        static uint8_t body[65536];
        struct es_buf want = {0};
        size_t k = et_part_before(room + sizeof room, ET_PART_BODY, sizes[i]);
        CHECK_INT(et_part_put(&want, ET_PART_BODY, body, sizes[i]), ==, 0);
        CHECK_MEM(room + sizeof room - k, k, want.p, want.n - sizes[i]);
        es_buf_free(&want);
    }
}
