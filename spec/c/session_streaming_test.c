// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
/* Streaming calls: arguments, messages and results on one stream. */
#include "session_raw.h"

static struct env e;

#define IN   ES_CHANNEL_IN
#define OUT  ES_CHANNEL_OUT
#define BOTH (ES_CHANNEL_IN | ES_CHANNEL_OUT)

static void methods(int side)
{
    env_add(&e, side, ES_KIND_RPC, "plain", REF_ECHO, 0, 0);
    env_add(&e, side, ES_KIND_RPC, "sum", REF_QUIET, ES_METHOD_STREAM_IN, 0);
    env_add(&e, side, ES_KIND_RPC, "range", REF_QUIET, ES_METHOD_STREAM_OUT, 0);
    env_add(&e, side, ES_KIND_RPC, "chat", REF_QUIET, ES_METHOD_STREAM, 0);
    env_add(&e, side, ES_KIND_STREAM, "audio", REF_QUIET, 0, 0);
}

static void start(const struct env_options *o)
{
    if (env_start(&e, o) != 0) {
        fputs("env_start failed\n", stderr);
        abort();
    }
    methods(SERVER);
    methods(CLIENT);
    env_pump(&e);
    env_clear(&e);
}

static struct es_channel *call(int side, const char *name, unsigned flags, const char *payload)
{
    struct es_channel *c = NULL;

    CHECK_INT(es_channel_call(e.s[side], name, strlen(name), NULL, flags, (const uint8_t *)payload,
                              strlen(payload), NULL, &c),
              ==, 0);
    return c;
}

static struct es_channel *theirs(int side)
{
    size_t n = e.n_channel[side];
    struct es_channel *c;

    if (n == 0)
        return NULL;
    c = e.channel[side][n - 1];
    e.channel[side][n - 1] = NULL;
    return c;
}

static int send_text(struct es_channel *c, const char *text)
{
    struct es_msg_out m = {.data = (const uint8_t *)text, .len = strlen(text), .codec = ES_CODEC_MSGPACK};

    return es_channel_send(c, &m);
}

static int respond(struct es_channel *c, const char *text)
{
    return es_channel_respond(c, ES_CODEC_MSGPACK, (const uint8_t *)text, strlen(text), NULL, NULL);
}

static void expect(struct es_channel *c, const char *text)
{
    struct es_msg_in m = {0};
    int rc = es_channel_recv(c, &m);

    CHECK_INT(rc, ==, 0);
    if (rc == 0) {
        CHECK_INT(m.codec, ==, ES_CODEC_MSGPACK);
        CHECK_MEM(m.data, m.len, text, strlen(text));
        es_channel_consume(c);
    }
}

static int recv_rc(struct es_channel *c)
{
    struct es_msg_in m;

    return es_channel_recv(c, &m);
}

static int result_rc(struct es_channel *c)
{
    struct es_msg_in m;

    return es_channel_result(c, &m);
}

static void expect_result(struct es_channel *c, const char *text)
{
    struct es_msg_in m = {0};

    CHECK_INT(es_channel_result(c, &m), ==, 0);
    CHECK_INT(m.codec, ==, ES_CODEC_MSGPACK);
    CHECK_MEM(m.data, m.len, text, strlen(text));
}

static const char *error_of(struct es_channel *c)
{
    static char text[400];
    struct es_failure f;

    if (es_channel_error(c, &f) != 0)
        return "none";
    snprintf(text, sizeof text, "%.*s: %.*s", (int)f.code_len, f.code, (int)f.message_len, f.message);
    return text;
}

/* Nothing is left of any stream on either side. */
static void expect_quiet(void)
{
    env_pump(&e);
    CHECK_INT(es_session_in_flight(e.s[0]) + es_session_in_flight(e.s[1]), ==, 0);
    CHECK_INT(es_pair_link(e.pair, 0)->held + es_pair_link(e.pair, 1)->held, ==, 0);
}

TEST(a_request_reaches_methods_of_the_sort_that_its_flags_mean)
{
    static const struct {
        const char *name, *is;
        int fits[4]; /* by flags: none, in, out, both */
    } row[] = {
        {"plain", "plain is a plain method: it is called without a stream", {1, 0, 0, 0}},
        {"sum", "sum is a client-streaming method: it is called with a stream to it", {0, 1, 0, 1}},
        {"range", "range is a server-streaming method: it is called with a stream from it", {0, 0, 1, 1}},
        {"chat", "chat is a two-way streaming method: it is called with a stream both ways", {0, 0, 0, 1}},
    };
    char want[200];

    for (size_t i = 0; i < 4; i++) {
        snprintf(want, sizeof want, "invalid_argument: %s", row[i].is);
        for (unsigned flags = 0; flags < 4; flags++) {
            start(NULL);
            if (flags == 0) {
                struct env_log *l;

                env_call(&e, CLIENT, row[i].name, "x", NULL);
                env_pump(&e);
                l = env_find(&e, CLIENT, row[i].fits[0] ? ES_EV_RESPONSE : ES_EV_CALL_FAILED, 0);
                REQUIRE(l != NULL);
                CHECK_STR(l->message, row[i].fits[0] ? "" : row[i].is);
                CHECK_INT(l->processed, ==, 0);
            } else {
                struct es_channel *a = call(CLIENT, row[i].name, flags, "x"), *b;

                env_pump(&e);
                b = theirs(SERVER);
                CHECK_INT(b != NULL, ==, row[i].fits[flags]);
                if (b != NULL) {
                    CHECK(es_channel_is_call(b));
                    CHECK_INT(respond(b, "y"), ==, 0);
                    es_channel_release(b);
                    env_pump(&e);
                    expect_result(a, "y");
                } else {
                    CHECK_INT(result_rc(a), ==, ES_ERR_CLOSED);
                    CHECK_INT(recv_rc(a), ==, ES_ERR_CLOSED);
                    CHECK_STR(error_of(a), want);
                }
                es_channel_release(a);
            }
            expect_quiet();
            env_stop(&e);
        }
    }
}

TEST(a_named_stream_is_no_method_and_a_method_no_named_stream)
{
    struct es_channel *a;

    start(NULL);
    a = call(CLIENT, "audio", IN, "");
    env_pump(&e);
    CHECK_STR(error_of(a), "method_not_found: no method audio");
    es_channel_release(a);
    /* They are asked for with the same flags, so they cannot share a name. */
    CHECK_INT(env_add(&e, SERVER, ES_KIND_STREAM, "chat", REF_QUIET, 0, 0), ==, ES_ERR_EXISTS);
    CHECK_INT(env_add(&e, SERVER, ES_KIND_RPC, "audio", REF_QUIET, ES_METHOD_STREAM_OUT, 0), ==,
              ES_ERR_EXISTS);
    CHECK_INT(env_add(&e, SERVER, ES_KIND_RPC, "audio", REF_QUIET, 0, 0), ==, 0);
    CHECK_INT(env_add(&e, SERVER, ES_KIND_STREAM, "plain", REF_QUIET, 0, 0), ==, 0);
    env_stop(&e);
}

TEST(arguments_messages_and_results_pass_in_pieces_of_any_size)
{
    static const size_t chunk[] = {0, 1, 7};

    for (size_t i = 0; i < 3; i++) {
        for (int side = 0; side < 2; side++) {
            struct env_options o = {.chunk = chunk[i]};
            struct es_channel *a, *b;
            struct env_log *l;

            start(&o);
            a = call(side, "chat", BOTH, "arguments");
            CHECK_INT(send_text(a, "one"), ==, 0);
            CHECK_INT(result_rc(a), ==, ES_ERR_AGAIN);
            env_pump(&e);
            b = theirs(!side);
            REQUIRE(b != NULL);
            l = env_find(&e, !side, ES_EV_CHANNEL_REQUEST, 0);
            CHECK_MEM(l->data, l->len, "arguments", 9);
            CHECK_INT(l->codec, ==, ES_CODEC_MSGPACK);
            CHECK_INT(es_channel_codec(b), ==, ES_CODEC_MSGPACK);
            CHECK(es_channel_deadline(b) == ES_NEVER);
            expect(b, "one");
            CHECK_INT(send_text(b, "two"), ==, 0);
            CHECK_INT(result_rc(b), ==, ES_ERR_INVAL); /* the caller's only */
            CHECK_INT(respond(b, "results"), ==, 0);
            CHECK_INT(respond(b, "again"), ==, ES_ERR_CLOSED);
            CHECK_INT(es_channel_end(b, NULL), ==, 0);
            es_channel_release(b);
            env_pump(&e);
            expect_result(a, "results"); /* also while messages wait */
            CHECK_INT(env_count(&e, side, ES_EV_CHANNEL_CLOSED), ==, 1);
            CHECK_INT(send_text(a, "late"), ==, ES_ERR_CLOSED);
            expect(a, "two");
            CHECK_INT(recv_rc(a), ==, ES_ERR_NOT_FOUND);
            expect_result(a, "results");
            CHECK_STR(error_of(a), "none");
            es_channel_release(a);
            expect_quiet();
            env_stop(&e);
        }
    }
}

TEST(messages_go_only_where_the_call_has_them)
{
    struct es_channel *a, *b;

    start(NULL);
    a = call(CLIENT, "sum", IN, "");
    env_pump(&e);
    b = theirs(SERVER);
    CHECK_INT(send_text(b, "x"), ==, ES_ERR_UNSUPPORTED);
    CHECK_INT(send_text(a, "1"), ==, 0);
    CHECK_INT(es_channel_finish(a), ==, 0);
    env_pump(&e);
    expect(b, "1");
    CHECK_INT(recv_rc(b), ==, ES_ERR_NOT_FOUND);
    respond(b, "1");
    env_pump(&e);
    CHECK_INT(recv_rc(a), ==, ES_ERR_NOT_FOUND);
    expect_result(a, "1");
    es_channel_release(a);
    es_channel_release(b);

    a = call(CLIENT, "range", OUT, "3");
    CHECK_INT(send_text(a, "x"), ==, ES_ERR_UNSUPPORTED);
    CHECK_INT(es_channel_finish(a), ==, 0);
    env_pump(&e);
    b = theirs(SERVER);
    CHECK_INT(recv_rc(b), ==, ES_ERR_NOT_FOUND);
    CHECK_INT(send_text(b, "3"), ==, 0);
    respond(b, "");
    env_pump(&e);
    expect(a, "3");
    expect_result(a, "");
    es_channel_release(a);
    es_channel_release(b);

    /* A caller that is ready for both is told to send nothing; the handler does not take that for an end. */
    a = call(CLIENT, "range", BOTH, "3");
    CHECK_INT(send_text(a, "nobody reads this"), ==, 0);
    env_pump(&e);
    b = theirs(SERVER);
    CHECK_INT(recv_rc(b), ==, ES_ERR_NOT_FOUND);
    CHECK(!es_channel_cancelled(b, NULL));
    CHECK_INT(send_text(a, "x"), ==, ES_ERR_CLOSED);
    CHECK_INT(send_text(b, "3"), ==, 0);
    respond(b, "done");
    env_pump(&e);
    expect(a, "3");
    expect_result(a, "done");
    es_channel_release(a);
    es_channel_release(b);
    expect_quiet();
    env_stop(&e);
}

TEST(a_handler_may_stop_sending_or_reading_before_it_has_results)
{
    struct es_channel *a, *b;

    start(NULL);
    a = call(CLIENT, "chat", BOTH, "");
    env_pump(&e);
    b = theirs(SERVER);
    CHECK_INT(es_channel_finish(b), ==, 0);
    CHECK_INT(es_channel_finish(b), ==, 0);
    CHECK_INT(send_text(b, "x"), ==, ES_ERR_CLOSED);
    CHECK_INT(send_text(a, "still read"), ==, 0);
    env_pump(&e);
    CHECK_INT(recv_rc(a), ==, ES_ERR_AGAIN); /* the end comes with the answer */
    expect(b, "still read");
    es_channel_shut(b);
    CHECK_INT(recv_rc(b), ==, ES_ERR_CLOSED);
    env_pump(&e);
    CHECK_INT(send_text(a, "x"), ==, ES_ERR_CLOSED);
    CHECK_INT(result_rc(a), ==, ES_ERR_AGAIN);
    CHECK_INT(respond(b, "yes"), ==, 0);
    es_channel_release(b);
    env_pump(&e);
    expect_result(a, "yes");
    es_channel_release(a);
    expect_quiet();
    env_stop(&e);
}

TEST(a_failure_comes_with_its_details)
{
    struct es_channel *a, *b;
    struct es_failure f = {.status = ES_STATUS_NOT_FOUND,
                           .message = "no such user",
                           .message_len = 12,
                           .processed = ES_PROCESSED_YES,
                           .retry_after_ms = 50,
                           .codec = ES_CODEC_JSON,
                           .details = (const uint8_t *)"{\"id\":7}",
                           .details_len = 8},
                      got;

    start(NULL);
    a = call(CLIENT, "chat", BOTH, "");
    env_pump(&e);
    b = theirs(SERVER);
    CHECK_INT(es_channel_end(b, &f), ==, 0);
    es_channel_release(b);
    env_pump(&e);
    CHECK_INT(result_rc(a), ==, ES_ERR_CLOSED);
    CHECK_STR(error_of(a), "not_found: no such user");
    CHECK_INT(es_channel_error(a, &got), ==, 0);
    CHECK_INT(got.processed, ==, ES_PROCESSED_YES);
    CHECK_INT(got.retry_after_ms, ==, 50);
    CHECK_INT(got.codec, ==, ES_CODEC_JSON);
    CHECK_MEM(got.details, got.details_len, "{\"id\":7}", 8);
    es_channel_release(a);
    expect_quiet();
    env_stop(&e);
}

TEST(a_users_reset_code_reaches_the_other_side_in_both_directions)
{
    static const struct {
        uint64_t n;
        const char *hex;
    } row[] = {
        {0, "81 a5 7265736574 00"},
        {127, "81 a5 7265736574 7f"},
        {128, "81 a5 7265736574 cc 80"},
        {255, "81 a5 7265736574 cc ff"},
        {256, "81 a5 7265736574 cd 0100"},
        {65536, "81 a5 7265736574 ce 00010000"},
        {UINT64_C(1) << 32, "81 a5 7265736574 cf 0000000100000000"},
        {(UINT64_C(1) << 61) - 1, "81 a5 7265736574 cf 1fffffffffffffff"},
    };

    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        for (int opener_resets = 0; opener_resets < 2; opener_resets++) {
            struct es_channel *a, *b, *hit;
            struct es_failure f = {0};
            uint64_t code = 0;

            start(NULL);
            a = call(CLIENT, "chat", BOTH, "");
            env_pump(&e);
            b = theirs(SERVER);
            es_channel_reset(opener_resets ? a : b, ES_APP_USER + row[i].n);
            env_pump(&e);
            hit = opener_resets ? b : a;
            CHECK_INT(recv_rc(hit), ==, ES_ERR_CLOSED);
            CHECK_INT(es_channel_error(hit, &f), ==, 0);
            CHECK_INT(f.status, ==, ES_STATUS_CANCELLED);
            CHECK_INT(f.codec, ==, ES_CODEC_MSGPACK);
            CHECK_HEX(f.details, f.details_len, row[i].hex);
            CHECK_INT(es_channel_cancelled(b, &code), ==, opener_resets);
            CHECK(!opener_resets || code == ES_APP_USER + row[i].n);
            CHECK_INT(respond(b, "too late"), ==, ES_ERR_CLOSED);
            es_channel_release(a);
            es_channel_release(b);
            expect_quiet();
            env_stop(&e);
        }
    }
}

static int released;

static void release(void *arg)
{
    (void)arg;
    released++;
}

TEST(a_caller_that_lets_go_without_an_answer_cancels)
{
    for (int finished = 0; finished < 2; finished++) {
        struct es_channel *a, *b;
        uint64_t code = 0;

        start(NULL);
        a = call(CLIENT, "chat", BOTH, "");
        if (finished)
            es_channel_finish(a);
        env_pump(&e);
        b = theirs(SERVER);
        CHECK(!es_channel_cancelled(b, NULL));
        es_channel_release(a);
        env_pump(&e);
        CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_CLOSED), ==, 1);
        CHECK(es_channel_cancelled(b, &code));
        CHECK_INT(code, ==, ES_APP_CANCELLED);
        released = 0;
        CHECK_INT(es_channel_respond(b, ES_CODEC_MSGPACK, (const uint8_t *)"x", 1, release, NULL), ==,
                  ES_ERR_CLOSED);
        CHECK_INT(released, ==, 0); /* the binding keeps what was not taken */
        es_channel_release(b);
        expect_quiet();
        env_stop(&e);
    }
}

TEST(a_deadline_cancels_the_handler_and_a_lost_session_too)
{
    struct es_call_opts o;
    struct es_channel *a, *b;
    uint64_t code = 0;

    start(NULL);
    es_call_opts_default(&o);
    o.deadline = e.timers.now + 100 * MS;
    CHECK_INT(es_channel_call(e.s[CLIENT], "chat", 4, &o, BOTH, NULL, 0, NULL, &a), ==, 0);
    env_pump(&e);
    b = theirs(SERVER);
    CHECK(es_channel_deadline(b) != ES_NEVER);
    env_wait(&e, 110 * MS);
    CHECK(strncmp(error_of(a), "timeout", 7) == 0);
    CHECK_INT(result_rc(a), ==, ES_ERR_CLOSED);
    CHECK(es_channel_cancelled(b, &code));
    CHECK_INT(code, ==, ES_APP_DEADLINE);
    es_channel_end(b, NULL);
    es_channel_release(a);
    es_channel_release(b);
    expect_quiet();

    a = call(CLIENT, "chat", BOTH, "");
    env_pump(&e);
    b = theirs(SERVER);
    es_session_close(e.s[CLIENT], ES_APP_SESSION_CLOSED, "");
    env_pump(&e);
    CHECK(strncmp(error_of(a), "connection_closed", 17) == 0);
    CHECK(es_channel_cancelled(b, &code));
    CHECK_INT(code, ==, ES_APP_SESSION_CLOSED);
    es_channel_release(a);
    es_channel_release(b);
    env_stop(&e);
}

TEST(results_over_the_callers_limit_are_refused_and_large_ones_are_anchored)
{
    static uint8_t big[70000];
    struct env_options o = {.has_limits = 1, .chunk = 1400};
    struct es_channel *a, *b;
    struct es_msg_in m = {0};

    es_limits_default(&o.limits[CLIENT]);
    es_limits_default(&o.limits[SERVER]);
    o.limits[CLIENT].max_message = sizeof big;
    start(&o);
    for (size_t over = 0; over < 2; over++) {
        a = call(CLIENT, "chat", BOTH, "");
        env_pump(&e);
        b = theirs(SERVER);
        released = 0;
        /* over: one byte more than there is, which nobody reads */
        CHECK_INT(es_channel_respond(b, ES_CODEC_RAW, big, sizeof big + over, release, NULL), ==,
                  over ? ES_ERR_TOO_LARGE : 0);
        env_pump(&e);
        CHECK_INT(released, ==, !over);
        if (over) {
            CHECK_STR(error_of(a), "resource_exhausted: the answer is larger than the caller's max_message");
        } else {
            CHECK_INT(es_channel_result(a, &m), ==, 0);
            CHECK_INT(m.len, ==, sizeof big);
        }
        es_channel_release(a);
        es_channel_release(b);
        expect_quiet();
    }
    /* Arguments: the same, and nothing is sent. */
    CHECK_INT(es_channel_call(e.s[SERVER], "chat", 4, NULL, BOTH, big, sizeof big + 1, NULL, &a), ==,
              ES_ERR_TOO_LARGE);
    CHECK_INT(es_channel_call(e.s[SERVER], "chat", 4, NULL, 0, NULL, 0, NULL, &a), ==, ES_ERR_INVAL);
    env_stop(&e);
}

TEST(a_call_that_came_before_it_may_be_let_in_is_kept_whole)
{
    struct env_options o = {.hold_until_accept = 1};
    struct es_channel *a, *b;

    start(&o);
    a = call(CLIENT, "sum", IN, "arguments");
    send_text(a, "1");
    es_channel_finish(a);
    env_pump(&e);
    CHECK_INT(e.n_channel[SERVER], ==, 0);
    es_session_accept(e.s[SERVER]);
    env_pump(&e);
    b = theirs(SERVER);
    REQUIRE(b != NULL);
    expect(b, "1");
    CHECK_INT(recv_rc(b), ==, ES_ERR_NOT_FOUND);
    respond(b, "1");
    env_pump(&e);
    expect_result(a, "1");
    es_channel_release(a);
    es_channel_release(b);
    expect_quiet();
    env_stop(&e);
}

TEST(stats_tell_what_waits_and_since_when)
{
    struct es_channel_stats st;
    struct es_channel *a, *b;

    start(NULL);
    a = call(CLIENT, "chat", BOTH, "");
    env_pump(&e);
    b = theirs(SERVER);
    send_text(a, "12345");
    env_pump(&e);
    env_wait(&e, 40 * MS);
    es_channel_stats_get(b, &st);
    CHECK_INT(st.messages_in, ==, 1);
    CHECK(st.unread >= 5);
    CHECK_INT(st.idle, ==, 40 * MS);
    expect(b, "12345");
    es_channel_stats_get(b, &st);
    CHECK_INT(st.unread, ==, 0);
    send_text(b, "x");
    es_channel_stats_get(b, &st);
    CHECK_INT(st.idle, ==, 0);
    es_channel_release(a);
    es_channel_release(b);
    env_stop(&e);
}

/* ---- the bytes ---- */

#define REQUEST_SUM(flags) "02 0d " flags " 01 01 03 73756d 00 03 00 920a14"

TEST(the_bytes_are_those_of_a_call_with_messages_between)
{
    struct raw_stream *r;
    struct es_channel *b;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, REQUEST_SUM("01") "08 03 00 01 07", 1);
    env_pump(&e);
    b = theirs(SERVER);
    REQUIRE(b != NULL);
    expect(b, "\x07");
    CHECK_INT(respond(b, "\x91\x1e"), ==, 0);
    es_channel_release(b);
    env_pump(&e);
    CHECK_HEX(r->in, r->n, "06 02 00 00  04 06 00 01 00 00 911e"); /* HEAD, RESPONSE */
    CHECK(r->fin && !r->stopped && !r->reset);

    r = raw_open(ES_DIR_BIDI, "02 0d 03 01 03 05 72616e6765 00 03 00 c0", 0); /* range, both flags */
    env_pump(&e);
    CHECK(r->stopped && r->stop_code == ES_APP_NO_MORE_WANTED);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(a_responders_reset_is_an_answer_with_the_golden_bytes)
{
    struct raw_stream *r;
    struct es_channel *b;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, "02 0c 03 01 03 04 63686174 00 03 00 c0", 0);
    env_pump(&e);
    b = theirs(SERVER);
    REQUIRE(b != NULL);
    es_channel_reset(b, ES_APP_USER + 7);
    env_pump(&e);
    CHECK_HEX(r->in, r->n,
              "06 02 00 00 "
              "04 39 00 01 01 00 09 63616e63656c6c6564 20"
              "7468652073747265616d20776173207265736574207769746820636f64652037"
              " 01 00 81a5726573657407");
    CHECK(r->fin && !r->reset);
    CHECK(r->stopped && r->stop_code == ES_APP_USER + 7);
    es_channel_release(b);
    env_stop(&e);
}

TEST(messages_that_were_not_announced_close_the_connection)
{
    struct raw_stream *r;
    struct es_channel *a = NULL;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    raw_open(ES_DIR_BIDI, "02 0d 02 01 01 05 72616e6765 00 03 00 c0  08 03 00 01 07", 0); /* STREAM only */
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_PROTOCOL);
    env_stop(&e);

    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    CHECK_INT(es_channel_call(e.s[CLIENT], "sum", 3, NULL, IN, (const uint8_t *)"\x92\x0a\x14", 3, NULL, &a),
              ==, 0);
    env_pump(&e);
    r = raw_peer(ES_DIR_BIDI, 0);
    REQUIRE(r != NULL);
    CHECK_HEX(r->in, r->n, REQUEST_SUM("01"));
    CHECK(!r->fin);
    raw_write(r, "08 03 00 01 07", 0);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_PROTOCOL);
    es_channel_release(a);
    env_stop(&e);
}

TEST(a_caller_that_only_listens_finishes_with_its_request)
{
    struct es_channel *a = NULL;
    struct raw_stream *r;

    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    CHECK_INT(es_channel_call(e.s[CLIENT], "sum", 3, NULL, OUT, (const uint8_t *)"\x92\x0a\x14", 3, NULL, &a),
              ==, 0);
    env_pump(&e);
    r = raw_peer(ES_DIR_BIDI, 0);
    REQUIRE(r != NULL);
    CHECK_HEX(r->in, r->n, REQUEST_SUM("02"));
    CHECK(r->fin);
    raw_write(r, "08 03 00 01 07  04 06 00 02 00 00 5b5d", 1);
    env_pump(&e);
    CHECK(!raw.closed);
    expect(a, "\x07");
    {
        struct es_msg_in m = {0};

        CHECK_INT(es_channel_result(a, &m), ==, 0);
        CHECK_INT(m.codec, ==, ES_CODEC_JSON);
    }
    es_channel_release(a);
    env_stop(&e);
}

TEST(an_answer_in_a_codec_that_nobody_has_is_a_violation)
{
    struct es_channel *a = NULL;

    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    CHECK_INT(es_channel_call(e.s[CLIENT], "sum", 3, NULL, OUT, NULL, 0, NULL, &a), ==, 0);
    env_pump(&e);
    raw_write(raw_peer(ES_DIR_BIDI, 0), "04 06 00 14 00 00 911e", 1);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_PROTOCOL);
    es_channel_release(a);
    env_stop(&e);
}
