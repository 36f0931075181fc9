// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
//
// A server of HTTP/3 and a client that writes its bytes by hand. Each row says what it sends, and what
// becomes of the connection or of the stream; in none of them does a handler run.
#include "h3_play.h"

static struct h3_env e;
static struct raw raw;

enum { BIDI = ES_DIR_BIDI, UNI = ES_DIR_UNI };

static void start(struct h3_env *env, const char *control)
{
    h3_env_init(env);
    raw_start(env, &raw, control);
}

static void play(const struct h3_row *r, size_t chunk)
{
    const char *text = r->say;

    h3_env_init(&e);
    raw_start(&e, &raw, *text == 'A' ? "" : NULL);
    e.chunk = chunk;
    if (*text == 'A') {
        raw.stream = raw.control;
    }
    while (!raw.closed && h3_say(&raw, &text)) {
        run(&e);
        if (raw.pending_reset != NULL) {
            es_link_reset(raw.pending_reset, 0);
            run(&e);
        }
    }
    CHECK_INT(e.server.requests, ==, r->told);
    CHECK_INT(raw.closed, ==, r->closed != 0);
    if (r->also == 0 || raw.info.code != r->also) {
        CHECK_INT(raw.info.code, ==, r->closed);
    }
    CHECK_INT(raw.resets, ==, r->reset != 0);
    CHECK_INT(raw.reset_code, ==, r->reset);
    h3_env_free(&e);
}

static void play_all(const struct h3_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int before = test_failures;

        for (size_t chunk = 0; chunk < 2; chunk++) {
            play(&rows[i], chunk);
        }
        if (test_failures != before) {
            printf("    row: %s\n", rows[i].name);
        }
    }
}

TEST(streams_and_frames_that_break_the_rules)
{
    play_all(h3_frame_rows, N_ROWS(h3_frame_rows));
}

TEST(compression_that_breaks_the_rules)
{
    play_all(h3_qpack_rows, N_ROWS(h3_qpack_rows));
}

TEST(messages_that_break_the_rules)
{
    play_all(h3_message_rows, N_ROWS(h3_message_rows));
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

/* ---- every limit, and one more ---- */

/* What a request with these fields and this path is answered with, by a handler that says 200. */
static int status_of(const char *path, size_t n_fields, size_t value_len, int *told)
{
    static char value[100000];
    struct es_h3_field f[128];
    struct es_h3_target t = {"GET", "https", "a", path, NULL};
    struct es_exchange *x = NULL;
    int status = 0;

    memset(value, 'v', sizeof value);
    memset(f, 0, sizeof f);
    for (size_t i = 0; i < n_fields; i++) {
        f[i] = (struct es_h3_field){.name = "x", .value = value, .name_len = 1, .value_len = value_len};
    }
    h3_env_init(&e);
    es_pair_limits(e.pair, 16, 16, (size_t)1 << 20, 1200);
    h3_env_start(&e);
    if (es_h3_request(e.client.h, &t, f, n_fields, 1, NULL, &x) == 0) {
        run(&e);
        *told = e.server.requests;
        if (e.server.requests == 1) {
            CHECK_INT(es_exchange_respond(e.server.x, 200, NULL, 0, 1), ==, 0);
        }
        run(&e);
        status = es_exchange_head(x) != NULL ? es_h3_head_status(es_exchange_head(x)) : 0;
        es_exchange_release(x);
        run(&e);
    }
    CHECK(es_h3_closed_by(e.client.h) == NULL);
    h3_env_free(&e);
    return status;
}

TEST(heads_of_just_the_allowed_size_pass_and_one_more_is_refused)
{
    /* Of 65,536 bytes the pseudo fields take (name, value, 32): 42, 44, 43 and 38; the field's own name 1
     * and 32. */
    const size_t room = 65536 - (42 + 44 + 43 + 38) - 33;
    static char path[16386];
    int told;

    CHECK_INT(status_of("/", 1, room, &told), ==, 200);
    CHECK_INT(told, ==, 1);
    CHECK_INT(status_of("/", 1, room + 1, &told), ==, 431);
    CHECK_INT(told, ==, 0);
    CHECK_INT(status_of("/", 96, 1, &told), ==, 200); /* with four pseudo fields */
    CHECK_INT(status_of("/", 97, 1, &told), ==, 431);
    CHECK_INT(told, ==, 0);
    memset(path, '/', sizeof path - 1);
    path[16384] = '\0';
    CHECK_INT(status_of(path, 0, 0, &told), ==, 200);
    path[16384] = '/';
    CHECK_INT(status_of(path, 0, 0, &told), ==, 414);
    CHECK_INT(told, ==, 0);
}

/* Names of settings that nobody knows, two bytes each pair: just so many bytes, or more. */
static void settings_of(size_t n, uint64_t closed)
{
    static uint8_t bytes[8192];
    size_t at = 0;

    start(&e, "");
    bytes[at++] = 0x00;
    bytes[at++] = 0x04;
    at += es_varint_put(bytes + at, n);
    memset(bytes + at, 0x21, n); /* 0x21 = 0x21, again and again */
    REQUIRE(raw.control != NULL);
    (void)es_link_write(raw.control, bytes, at + n, 0);
    run(&e);
    CHECK_INT(raw.closed, ==, closed != 0);
    CHECK_INT(raw.info.code, ==, closed);
    h3_env_free(&e);
}

TEST(settings_of_just_the_allowed_size_pass_and_more_are_refused)
{
    settings_of(4096, 0);
    settings_of(4098, ES_H3_EXCESSIVE_LOAD);
}

TEST(priorities_longer_than_anybody_needs_are_passed_over)
{
    const char *text = "C 800f0700 [00 ~127]; + 800f0700 [00 ~128]; + 800f0700 [00 20*4000]; B! 01[" GET "]";

    start(&e, NULL);
    while (h3_say(&raw, &text)) {
        run(&e);
    }
    CHECK_INT(raw.closed, ==, 0);
    CHECK_INT(e.server.requests, ==, 1);
    h3_env_free(&e);
}
