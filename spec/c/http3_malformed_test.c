// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
//
// A server of HTTP/3 and a client that writes its bytes by hand. Each row says what it sends, and what
// becomes of the connection or of the stream; in none of them does a handler run.
#include "../../csrc/base/varint.h"
#include "h3_env.h"

static struct h3_env e;
static struct raw raw;

#define GET "0000 d1 d7 c1 50 01 61" /* GET https://a/ as a header block of 8 bytes */

enum { BIDI = ES_DIR_BIDI, UNI = ES_DIR_UNI, CONTROL = 2, ALONE = 3 };

static const struct row {
    const char *name;
    int where; /* ALONE: instead of the control stream */
    const char *hex;
    int fin;
    uint64_t closed, reset; /* codes; 0: not */
} rows[] = {
    /* streams and frames: RFC 9114 4.1, 6.2, 7 */
    {"settings must come first", ALONE, "00 07 01 00", 0, ES_H3_MISSING_SETTINGS, 0},
    {"settings come once", CONTROL, "04 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"a setting of HTTP/2", ALONE, "00 04 02 02 00", 0, ES_H3_SETTINGS_ERROR, 0},
    {"data on the control stream", CONTROL, "00 01 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"headers on the control stream", CONTROL, "01 01 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"a second control stream", UNI, "00 04 00", 0, ES_H3_STREAM_CREATION_ERROR, 0},
    {"a push stream of a client", UNI, "01 00", 0, ES_H3_STREAM_CREATION_ERROR, 0},
    {"the control stream ends", CONTROL, "", 1, ES_H3_CLOSED_CRITICAL_STREAM, 0},
    {"data before a head", BIDI, "00 01 61", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"settings on a request", BIDI, "04 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"goaway on a request", BIDI, "07 01 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"cancel_push on a request", BIDI, "03 01 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"max_push_id on a request", BIDI, "0d 01 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"push_promise of a client", BIDI, "05 01 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"priority of HTTP/2", BIDI, "02 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"ping of HTTP/2", BIDI, "06 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"window_update of HTTP/2", BIDI, "08 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"continuation of HTTP/2", BIDI, "09 00", 0, ES_H3_FRAME_UNEXPECTED, 0},
    {"a frame that is cut off", BIDI, "01 08 00", 1, ES_H3_FRAME_ERROR, 0},
    {"max_push_id that falls", CONTROL, "0d 01 05 0d 01 04", 0, ES_H3_FRAME_ERROR, 0}, /* see below */
    /* QPACK: RFC 9204 */
    {"a static entry that is none", BIDI, "01 04 0000 ff 24", 0, ES_H3_QPACK_DECOMPRESSION_FAILED, 0},
    {"a dynamic entry that is none", BIDI, "01 03 0000 80", 0, ES_H3_QPACK_DECOMPRESSION_FAILED, 0},
    {"a table larger than allowed", UNI, "02 3f e1 ff 03", 0, ES_H3_QPACK_ENCODER_STREAM_ERROR, 0},
    {"an increment of nothing", UNI, "03 00", 0, ES_H3_QPACK_DECODER_STREAM_ERROR, 0},
    {"an increment beyond what was sent", UNI, "03 05", 0, ES_H3_QPACK_DECODER_STREAM_ERROR, 0},
    {"an acknowledgement of nothing", UNI, "03 80", 0, ES_H3_QPACK_DECODER_STREAM_ERROR, 0},
    /* messages: RFC 9114 4.1.2, 4.2, 4.3 */
    {"no head at all", BIDI, "", 1, 0, ES_H3_REQUEST_INCOMPLETE},
    {"no path", BIDI, "01 07 0000 d1 d7 50 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"no method", BIDI, "01 07 0000 d7 c1 50 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"no scheme", BIDI, "01 07 0000 d1 c1 50 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"no authority and no host", BIDI, "01 05 0000 d1 d7 c1", 1, 0, ES_H3_MESSAGE_ERROR},
    {"two methods", BIDI, "01 09 0000 d1 d1 d7 c1 50 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a status in a request", BIDI, "01 09 " GET " d9", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a pseudo field that nobody knows", BIDI, "01 0d " GET " 22 3a78 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a pseudo field after others", BIDI, "01 0c 0000 d1 d7 50 01 61 21 78 01 61 c1", 1, 0,
     ES_H3_MESSAGE_ERROR},
    {"capitals in a name", BIDI, "01 0c " GET " 21 58 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"transfer-encoding", BIDI, "01 1d " GET " 27 0a 7472616e736665722d656e636f64696e67 01 61", 1, 0,
     ES_H3_MESSAGE_ERROR},
    {"te that is not trailers", BIDI, "01 0d " GET " 22 7465 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a path without a slash", BIDI, "01 0a 0000 d1 d7 51 01 78 50 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a path with a space", BIDI, "01 0b 0000 d1 d7 51 02 2f20 50 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a path with a line feed", BIDI, "01 0b 0000 d1 d7 51 02 2f0a 50 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a path with a NUL", BIDI, "01 0b 0000 d1 d7 51 02 2f00 50 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"an authority with a user", BIDI, "01 0a 0000 d1 d7 c1 50 03 624061", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a host beside another authority", BIDI, "01 0f " GET " 24 686f7374 01 62", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a line feed in a value", BIDI, "01 0e " GET " 21 78 03 610a62", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a carriage return in a value", BIDI, "01 0e " GET " 21 78 03 610d62", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a NUL in a value", BIDI, "01 0e " GET " 21 78 03 610062", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a space in a name", BIDI, "01 0e " GET " 23 782078 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"a line feed in a name", BIDI, "01 0e " GET " 23 780a78 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"an empty name", BIDI, "01 0b " GET " 20 01 61", 1, 0, ES_H3_MESSAGE_ERROR},
    {"an empty authority", BIDI, "01 07 0000 d1 d7 c1 50 00", 1, 0, ES_H3_MESSAGE_ERROR},
};

static void start(struct h3_env *env, const char *control)
{
    h3_env_init(env);
    raw_start(env, &raw, control);
}

TEST(what_breaks_the_rules_reaches_no_handler)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        int before = test_failures;

        for (size_t chunk = 0; chunk < 2; chunk++) {
            start(&e, r->where == ALONE ? r->hex : NULL);
            e.chunk = chunk;
            if (r->where == CONTROL) {
                raw.stream = raw.control;
            }
            if (r->where != ALONE) {
                raw_send(&raw, r->where == CONTROL ? -1 : r->where, r->hex, r->fin);
            }
            run(&e);
            CHECK_INT(e.server.requests, ==, 0);
            CHECK_INT(raw.closed, ==, r->closed != 0);
            CHECK_INT(raw.info.code, ==, r->closed);
            CHECK_INT(raw.resets, ==, r->reset != 0);
            CHECK_INT(raw.reset_code, ==, r->reset);
            h3_env_free(&e);
        }
        if (test_failures != before) {
            printf("    row: %s\n", r->name);
        }
    }
}

TEST(kinds_of_frames_and_streams_that_nobody_knows_are_passed_over)
{
    start(&e, NULL);
    raw_send(&raw, UNI, "21 0102", 0);
    run(&e);
    CHECK_INT(raw.closed, ==, 0);
    CHECK_INT(raw.stops, ==, 1);
    raw_send(&raw, BIDI, "21 02 0000 01 08 " GET " 40 21 00", 1);
    run(&e);
    CHECK_INT(raw.closed, ==, 0);
    CHECK_INT(e.server.requests, ==, 1);
    h3_env_free(&e);
}

/* ---- limits ---- */

static struct es_link_stream *fields(const char *field, int n, size_t each)
{
    static uint8_t block[65536];
    uint8_t head[16];
    size_t at = unhex(block, GET), start_of_frame = 0;
    struct es_link_stream *s = NULL;

    for (int i = 0; i < n && at + each < sizeof block; i++) {
        at += unhex(block + at, field);
    }
    head[start_of_frame++] = 1;
    start_of_frame += es_varint_put(head + start_of_frame, at);
    CHECK_INT(es_link_open(raw.link, BIDI, NULL, &s), ==, 0);
    (void)es_link_write(s, head, start_of_frame, 0);
    (void)es_link_write(s, block, at, 1);
    return s;
}

/* The answer's first bytes: HEADERS with a status as the encoder of either library writes it. */
static int was_answered(void)
{
    return raw.n_got > 2 && raw.got[0] == 1;
}

TEST(too_many_fields_are_431_without_a_handler)
{
    start(&e, NULL);
    fields("21 78 01 61", 96, 4);
    run(&e);
    CHECK_INT(e.server.requests, ==, 1);
    fields("21 78 01 61", 97, 4);
    run(&e);
    CHECK_INT(e.server.requests, ==, 1);
    CHECK(was_answered());
    CHECK_INT(raw.closed, ==, 0);
    h3_env_free(&e);
}

TEST(fields_beyond_any_measure_are_not_read_to_the_end)
{
    start(&e, NULL);
    fields("21 78 01 61", 10000, 4);
    run(&e);
    CHECK_INT(e.server.requests, ==, 0);
    CHECK_INT(raw.resets, ==, 1);
    CHECK_INT(raw.reset_code, ==, ES_H3_EXCESSIVE_LOAD);
    CHECK_INT(raw.closed, ==, 0);
    h3_env_free(&e);
}

TEST(a_few_bytes_that_stand_for_many_are_counted_as_many)
{
    char insert[8192] = "02 3f e1 1f "; /* a table of 4096 bytes; then a field of 4,000 */
    size_t at = strlen(insert);

    start(&e, NULL);
    e.server.cfg.limits.max_fields = 100000;
    strcpy(insert + at, "41 78 7f a1 1e "); /* insert "x" with a value of 127 + 3873 bytes */
    at = strlen(insert);
    for (int i = 0; i < 4000; i++, at += 2) {
        memcpy(insert + at, "61", 3);
    }
    raw_send(&raw, UNI, insert, 0);
    run(&e);
    CHECK_INT(raw.closed, ==, 0);
    {
        /* required insert count 1, base 1: each byte 80 is the 4,033 bytes of the entry */
        char block[512] = "01 40 40 02 00 d1 d7 c1 50 01 61 ";

        at = strlen(block);
        for (int i = 0; i < 56; i++, at += 2) {
            memcpy(block + at, "80", 3);
        }
        raw_send(&raw, BIDI, block, 0);
    }
    run(&e);
    CHECK_INT(e.server.requests, ==, 0);
    CHECK_INT(raw.closed, ==, 0);
    CHECK(was_answered());
    h3_env_free(&e);
}

TEST(a_head_that_does_not_come_is_given_up)
{
    start(&e, NULL);
    raw_send(&raw, BIDI, "01 08 00", 0);
    run(&e);
    CHECK_INT(raw.resets, ==, 0);
    e.timers.now = 11 * ES_SECOND;
    es_timers_expire(&e.timers, 100);
    run(&e);
    CHECK_INT(raw.resets, ==, 1);
    CHECK_INT(raw.reset_code, ==, ES_H3_REQUEST_INCOMPLETE);
    CHECK_INT(raw.closed, ==, 0);
    h3_env_free(&e);
}

TEST(requests_given_up_at_once_close_the_connection_in_the_end)
{
    int n = 0;

    h3_env_init(&e);
    es_pair_limits(e.pair, 4096, 16, 65536, 1200);
    raw_start(&e, &raw, NULL);
    for (; n < 2000 && !raw.closed; n++) {
        struct es_link_stream *s = raw_send(&raw, BIDI, "01 08 " GET, 0);

        run(&e);
        if (s != NULL && !raw.closed) {
            es_link_reset(s, ES_H3_REQUEST_CANCELLED);
            run(&e);
        }
    }
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_H3_EXCESSIVE_LOAD);
    CHECK(n > 200 && n < 300);
    h3_env_free(&e);
}

TEST(a_body_that_is_not_as_long_as_was_said_is_an_error)
{
    struct es_exchange_error err;

    start(&e, NULL); /* content-length is static entry 4: 54 01 35 */
    raw_send(&raw, BIDI, "01 0b " GET " 54 01 35 00 02 6161", 1);
    run(&e);
    REQUIRE(e.server.requests == 1);
    REQUIRE(es_exchange_error(e.server.x, &err) == 0);
    CHECK_INT(err.code, ==, ES_H3_MESSAGE_ERROR);
    CHECK_INT(raw.reset_code, ==, ES_H3_MESSAGE_ERROR);
    CHECK_INT(raw.closed, ==, 0);
    h3_env_free(&e);
}

TEST(trailers_that_may_not_be_make_the_message_an_error)
{
    static const char *const bad[] = {
        "01 08 0000 21 78 03 610a62", /* a line feed in a value */
        "01 03 0000 c1",              /* :path */
        "01 06 0000 21 58 01 61",     /* a capital */
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct es_exchange_error err;
        char hex[256];

        start(&e, NULL);
        snprintf(hex, sizeof hex, "01 08 " GET " 00 02 6161 %s", bad[i]);
        raw_send(&raw, BIDI, hex, 1);
        run(&e);
        REQUIRE(e.server.requests == 1);
        REQUIRE(es_exchange_error(e.server.x, &err) == 0);
        CHECK_INT(err.code, ==, ES_H3_MESSAGE_ERROR);
        CHECK_INT(raw.reset_code, ==, ES_H3_MESSAGE_ERROR);
        CHECK_INT(raw.closed, ==, 0);
        CHECK(es_exchange_trailers(e.server.x) == NULL);
        h3_env_free(&e);
    }
}
