// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
#include "session_raw.h"

static struct env e;

#define REQUEST_ADD "02 15 04 01 01 08 6d6174682e616464 80007530 03 00 920a14"

static void methods(int side)
{
    env_add(&e, side, ES_KIND_RPC, "math.add", REF_ECHO, 0, 0);
    env_add(&e, side, ES_KIND_RPC, "hold", REF_HOLD, 0, 0);
    env_add(&e, side, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
    env_add(&e, side, ES_KIND_STREAM, "audio", REF_QUIET, 0, 0);
}

TEST(the_first_stream_is_the_control_stream_with_hello)
{
    struct raw_stream *c;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    c = raw_peer(ES_DIR_UNI, 0);
    REQUIRE(c != NULL);
    CHECK_HEX(c->in, 3, "00 00 28");     /* 0x28 bytes of HELLO */
    CHECK_HEX(c->in + 3, 3, "00 00 0f"); /* zstd, CRC-32C, events in datagrams, clock */
    CHECK_INT(c->n, ==, 3 + 0x28);
    /* max_message 4 MiB, max_metadata, max_calls, max_named_streams */
    CHECK_HEX(c->in + 22, c->n - 22, "04 01 04 80400000 02 04 80004000 03 02 4064 07 02 4100");
    env_stop(&e);
}

TEST(an_unknown_method_is_answered_with_the_golden_bytes)
{
    struct raw_stream *r;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, "02 15 04 01 01 08 6d6174682e737562 80007530 03 00 920a14", 1);
    env_pump(&e);
    CHECK_HEX(r->in, r->n,
              "04 2a 00 01 0c 00 10 6d6574686f645f6e6f745f666f756e64 12 6e6f206d6574686f64206d6174682e737562 "
              "00 00");
    CHECK(r->fin);
    env_stop(&e);
}

TEST(a_call_is_on_the_wire_as_the_protocol_says)
{
    struct es_call_opts o;
    struct raw_stream *r;

    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    es_call_opts_default(&o);
    o.idempotent = 1;
    CHECK_INT(es_session_request(e.s[CLIENT], "math.add", 8, &o, (const uint8_t *)"\x92\x0a\x14", 3, NULL,
                                 NULL, NULL, NULL),
              ==, 0);
    env_pump(&e);
    r = raw_peer(ES_DIR_BIDI, 0);
    REQUIRE(r != NULL);
    CHECK_HEX(r->in, r->n, REQUEST_ADD);
    CHECK(r->fin);
    raw_write(r, "04 06 00 01 00 00 911e", 1);
    env_pump(&e);
    REQUIRE(env_count(&e, CLIENT, ES_EV_RESPONSE) == 1);
    CHECK_HEX(env_find(&e, CLIENT, ES_EV_RESPONSE, 0)->data, 2, "911e");
    env_stop(&e);
}

TEST(an_event_is_on_the_wire_as_the_protocol_says)
{
    struct raw_stream *r;

    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 1, NULL, 0, 0, (const uint8_t *)"\x91\xa5hello", 7),
              ==, 0);
    env_pump(&e);
    r = raw_peer(ES_DIR_UNI, 1);
    REQUIRE(r != NULL);
    CHECK_HEX(r->in, r->n, "01 0c0f000100036c6f670091a568656c6c6f");
    env_stop(&e);
}

TEST(a_cancelled_call_sends_cancel_stop_sending_and_reset)
{
    struct es_call *c;
    struct raw_stream *r, *control;
    size_t before;

    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    control = raw_peer(ES_DIR_UNI, 0);
    before = control->n;
    c = env_call(&e, CLIENT, "slow", "x", NULL);
    REQUIRE(es_pair_pump(e.pair, 1)); /* a byte of it is out */
    es_call_cancel(c, ES_APP_CANCELLED);
    env_pump(&e);
    CHECK_HEX(control->in + before, control->n - before, "0a 02 01 10");
    r = raw_peer(ES_DIR_BIDI, 0);
    REQUIRE(r != NULL);
    CHECK(r->stopped);
    CHECK_INT(r->stop_code, ==, ES_APP_CANCELLED);
    CHECK(r->reset);
    CHECK_INT(r->reset_code, ==, ES_APP_CANCELLED);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 0);
    env_stop(&e);
}

/* What a caller makes of an answer. */
static const struct {
    const char *answer; /* hex */
    int fin;
    int64_t reset; /* code, -1: none */
    int status, processed;
    const char *code;
} ends[] = {
    {"", 1, -1, ES_STATUS_UNAVAILABLE, ES_PROCESSED_MAYBE, "unavailable"},
    {"06 02 00 00", 1, -1, ES_STATUS_UNAVAILABLE, ES_PROCESSED_MAYBE, "unavailable"},
    {"04 06 00 01", 1, -1, ES_STATUS_UNAVAILABLE, ES_PROCESSED_MAYBE, "unavailable"},
    {"", 0, 0x11, ES_STATUS_UNAVAILABLE, ES_PROCESSED_NO, "unavailable"},
    {"", 0, 0x10, ES_STATUS_CANCELLED, ES_PROCESSED_MAYBE, "cancelled"},
    {"", 0, 0x12, ES_STATUS_TIMEOUT, ES_PROCESSED_MAYBE, "timeout"},
    {"", 0, 0x01, ES_STATUS_UNAVAILABLE, ES_PROCESSED_MAYBE, "unavailable"},
    {"04 0b 00 01 07 00 03 6e6179 00 00 05", 1, -1, ES_STATUS_PERMISSION_DENIED, ES_PROCESSED_NO, "nay"},
    {"15 03 010203 06 02 00 00 04 0c 00 01 02 00 03 6e6179 00 02 4321", 1, -1, ES_STATUS_UNKNOWN,
     ES_PROCESSED_YES, "nay"},
};

TEST(a_caller_reports_how_its_call_ended)
{
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct env_log *l;
        struct raw_stream *r;
        int before = test_failures;

        REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
        raw_open(ES_DIR_UNI, RAW_HELLO, 0);
        env_pump(&e);
        env_call(&e, CLIENT, "x", "", NULL);
        env_pump(&e);
        r = raw_peer(ES_DIR_BIDI, 0);
        REQUIRE(r != NULL);
        raw_write(r, ends[i].answer, ends[i].fin);
        if (ends[i].reset >= 0)
            es_link_reset(r->ls, (uint64_t)ends[i].reset);
        env_pump(&e);
        CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 1);
        l = env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0);
        if (l != NULL) {
            CHECK_INT(l->status, ==, ends[i].status);
            CHECK_INT(l->processed, ==, ends[i].processed);
            CHECK_STR(l->text, ends[i].code);
        }
        CHECK_INT(es_session_in_flight(e.s[CLIENT]), ==, 0);
        CHECK(!raw.closed);
        if (test_failures != before)
            fprintf(stderr, "    in case %zu\n", i);
        env_stop(&e);
    }
}

/* Violations of a peer, and the code that the connection is closed with. 0: it lives. */
static const struct {
    const char *what;
    const char *control; /* after the HELLO; NULL: the stream has only `uni` */
    int control_fin;
    const char *uni, *bidi;
    int bidi_fin;
    uint64_t code;
} wrong[] = {
    {"nothing", "", 0, NULL, NULL, 0, 0},
    {"a second HELLO", "001e000000 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064", 0, NULL,
     NULL, 0, 6},
    {"GOAWAY before HELLO", NULL, 0, "00 0e 03 00 00 00", NULL, 0, 6},
    {"an unknown even type before HELLO", NULL, 0, "00 20 00", NULL, 0, 6},
    {"an odd type before HELLO", NULL, 0, "00 21 01 00", NULL, 0, 0},
    {"a HELLO that is too short", NULL, 0, "00 00 03 00 00 00", NULL, 0, 6},
    {"a HELLO without a common minor", NULL, 0, "00 00 14 01 01 00 000102030405060708090a0b0c0d0e0f 00", NULL,
     0, 6},
    {"the end of the control stream", "", 1, NULL, NULL, 0, 4},
    {"a second control stream", "", 0, "00", NULL, 0, 2},
    {"REQUEST on the control stream", REQUEST_ADD, 0, NULL, NULL, 0, 2},
    {"a CANCEL that is too short", "0a 01 01", 0, NULL, NULL, 0, 2},
    {"a CANCEL with a byte too many", "0a 03 01 10 00", 0, NULL, NULL, 0, 2},
    {"a CANCEL of nothing", "0a 02 05 10", 0, NULL, NULL, 0, 0},
    {"a GOAWAY that is too short", "0e 02 00 00", 0, NULL, NULL, 0, 2},
    {"a PING that is empty", "11 00", 0, NULL, NULL, 0, 2},
    {"an unknown even type on control", "20 00", 0, NULL, NULL, 0, 2},
    {"an unknown odd type on control", "21 03 010203", 0, NULL, NULL, 0, 0},
    {"a control frame of 1 MiB", "0a 80100000", 0, NULL, NULL, 0, 3},
    {"an unknown one-way stream", "", 0, "05 010203", NULL, 0, 0},
    {"a lane with HELLO", "", 0, "01 00 00", NULL, 0, 2},
    {"a lane with a malformed event", "", 0, "01 0c 03 00 01 00", NULL, 0, 2},
    {"a lane with an unknown odd frame", "", 0, "01 21 01 00", NULL, 0, 0},
    {"a lane with a frame over the limit", "", 0, "01 0c 80800000", NULL, 0, 3},
    {"a call that begins with DATA", "", 0, NULL, "08 02 00 00", 0, 2},
    {"a call that begins with RESPONSE", "", 0, NULL, "04 06 00 01 00 00 911e", 0, 2},
    {"a call that ends before its REQUEST", "", 0, NULL, "", 1, 2},
    {"a call that ends within its REQUEST", "", 0, NULL, "02 15 04 01", 1, 2},
    {"a call with a malformed REQUEST", "", 0, NULL, "02 03 00 01 01", 0, 2},
    {"a REQUEST with a flag that does not exist", "", 0, NULL,
     "02 16 4400 01 01 08 6d6174682e616464 80007530 03 00 920a14", 1, 2},
    {"a REQUEST with a flag for later", "", 0, NULL,
     "02 18 80010000 01 01 08 6d6174682e616464 80007530 03 00 920a14", 1, 0},
    {"a compressed REQUEST", "", 0, NULL, "02 15 10 01 01 08 6d6174682e616464 80007530 03 00 920a14", 1, 2},
    {"a REQUEST of priority 8", "", 0, NULL, "02 15 04 01 01 08 6d6174682e616464 80007530 08 00 920a14", 1,
     2},
    {"a REQUEST with the id 0", "", 0, NULL, "02 15 04 01 00 08 6d6174682e616464 80007530 03 00 920a14", 1,
     2},
    {"a method name with a blank", "", 0, NULL, "02 15 04 01 01 08 6d61746820616464 80007530 03 00 920a14", 1,
     2},
    {"two REQUESTs on one stream", "", 0, NULL,
     "02 0b 00 01 01 04 686f6c64 00 03 00 02 0b 00 01 02 04 686f6c64 00 03 00", 1, 2},
    {"a REQUEST and DATA on a call that runs", "", 0, NULL, "02 0b 00 01 01 04 686f6c64 00 03 00 08 02 00 00",
     0, 2},
    {"a REQUEST and an unknown odd frame", "", 0, NULL, "02 0b 00 01 01 04 686f6c64 00 03 00 21 01 00", 1, 0},
    {"an unknown even frame before REQUEST", "", 0, NULL, "20 00", 0, 2},
    {"a named stream with HEAD of the caller", "", 0, NULL,
     "02 0c 03 00 01 05 617564696f 00 03 00 06 02 00 00", 0, 2},
    {"a named stream with a malformed DATA", "", 0, NULL, "02 0c 03 00 01 05 617564696f 00 03 00 08 01 40", 0,
     2},
    {"a named stream that ends within a frame", "", 0, NULL, "02 0c 03 00 01 05 617564696f 00 03 00 08 05 00",
     1, 2},
};

TEST(a_violation_closes_the_connection_with_its_code)
{
    static const size_t chunk[] = {0, 1, 7};

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        for (size_t j = 0; j < 3; j++) {
            struct env_options o = {.chunk = chunk[j]};
            struct raw_stream *c = NULL;
            int before = test_failures;

            REQUIRE(raw_start(&e, SERVER, &o) == 0);
            methods(SERVER);
            if (wrong[i].control != NULL)
                c = raw_open(ES_DIR_UNI, RAW_HELLO, 0);
            if (c != NULL) {
                env_pump(&e);
                raw_write(c, wrong[i].control, wrong[i].control_fin);
            }
            if (wrong[i].uni != NULL)
                raw_open(ES_DIR_UNI, wrong[i].uni, 0);
            if (wrong[i].bidi != NULL)
                raw_open(ES_DIR_BIDI, wrong[i].bidi, wrong[i].bidi_fin);
            env_pump(&e);
            CHECK_INT(raw.closed, ==, wrong[i].code != 0);
            if (raw.closed) {
                struct es_host_stats st;

                CHECK_INT(raw.info.app, ==, 1);
                CHECK_INT(raw.info.code, ==, wrong[i].code);
                CHECK(raw.info.reason[0] != '\0');
                CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_CLOSED), ==, 1);
                es_host_stats_get(e.host[SERVER], &st);
                CHECK_INT(st.bad_frames, ==, 1);
            }
            if (test_failures != before)
                fprintf(stderr, "    in case %s, chunks of %zu\n", wrong[i].what, chunk[j]);
            env_stop(&e);
        }
    }
}

/* Nothing but FIN may follow a RESPONSE. The caller has its answer, and does not look. */
TEST(of_two_answers_the_first_counts)
{
    struct raw_stream *r;

    for (int together = 0; together <= 1; together++) {
        REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
        raw_open(ES_DIR_UNI, RAW_HELLO, 0);
        env_pump(&e);
        env_call(&e, CLIENT, "x", "", NULL);
        env_pump(&e);
        r = raw_peer(ES_DIR_BIDI, 0);
        REQUIRE(r != NULL);
        raw_write(r, together ? "04 06 00 01 00 00 911e 04 06 00 01 00 00 911f" : "04 06 00 01 00 00 911e",
                  0);
        env_pump(&e);
        if (!together)
            raw_write(r, "04 06 00 01 00 00 911f", 1);
        env_pump(&e);
        REQUIRE(env_count(&e, CLIENT, ES_EV_RESPONSE) == 1);
        CHECK_HEX(env_find(&e, CLIENT, ES_EV_RESPONSE, 0)->data, 2, "911e");
        CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 0);
        CHECK(!raw.closed);
        env_stop(&e);
    }
}

TEST(violations_of_a_responder_close_the_connection_too)
{
    static const struct {
        const char *answer;
        uint64_t code;
    } bad[] = {
        {"08 02 00 00", 2},                          /* DATA on a call */
        {REQUEST_ADD, 2},                            /* REQUEST as an answer */
        {"06 02 00 00 06 02 00 00", 2},              /* HEAD twice */
        {"04 02 00 01", 2},                          /* too short */
        {"04 06 00 01 1f 00 911e", 2},               /* status 31 */
        {"04 06 00 03 00 00 911e", 2},               /* a codec that nobody has */
        {"04 0b 00 01 07 00 03 6e6179 00 07 00", 2}, /* processed 7 */
        {"20 00", 2},
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
        raw_open(ES_DIR_UNI, RAW_HELLO, 0);
        env_pump(&e);
        env_call(&e, CLIENT, "x", "", NULL);
        env_pump(&e);
        raw_write(raw_peer(ES_DIR_BIDI, 0), bad[i].answer, 0);
        env_pump(&e);
        CHECK_INT(raw.closed, ==, 1);
        CHECK_INT(raw.info.code, ==, bad[i].code);
        REQUIRE(env_count(&e, CLIENT, ES_EV_CALL_FAILED) == 1);
        CHECK_STR(env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0)->text, "connection_closed");
        CHECK_INT(env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0)->processed, ==, ES_PROCESSED_MAYBE);
        env_stop(&e);
    }
}

TEST(an_unknown_one_way_stream_is_told_to_stop)
{
    struct raw_stream *r;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    r = raw_open(ES_DIR_UNI, "4123 00112233", 0);
    env_pump(&e);
    CHECK(r->stopped);
    CHECK_INT(r->stop_code, ==, ES_APP_UNKNOWN_STREAM);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(a_ninth_lane_is_a_violation)
{
    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    for (int i = 0; i < 8; i++)
        raw_open(ES_DIR_UNI, "01", 0);
    env_pump(&e);
    CHECK(!raw.closed);
    raw_open(ES_DIR_UNI, "01", 0);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_PROTOCOL);
    env_stop(&e);
}

TEST(a_reset_control_stream_is_the_end)
{
    struct raw_stream *c;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    c = raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    es_link_reset(c->ls, 0);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_CLOSED_CRITICAL);
    env_stop(&e);

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    es_link_stop(raw_peer(ES_DIR_UNI, 0)->ls, 0);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_CLOSED_CRITICAL);
    env_stop(&e);
}

TEST(a_peer_without_hello_is_cut_after_ten_seconds)
{
    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    env_wait(&e, 9900 * MS);
    CHECK(!raw.closed);
    env_wait(&e, 200 * MS);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_HELLO);
    CHECK_INT(env_find(&e, SERVER, ES_EV_SESSION_CLOSED, 0)->opened, ==, 0);
    env_stop(&e);
}

TEST(calls_before_hello_wait_for_it)
{
    struct raw_stream *r, *ch, *gone;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    r = raw_open(ES_DIR_BIDI, REQUEST_ADD, 1);
    ch = raw_open(ES_DIR_BIDI, "02 0c 03 00 02 05 617564696f 00 03 00 08 03 00 00 61", 0);
    gone = raw_open(ES_DIR_BIDI, "02 15 04 01 03 08 6d6174682e616464 80007530 03 00 920a14", 1);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 0);
    CHECK_INT(r->n, ==, 0);
    raw_write(ch, "08 03 00 00 62", 1);
    env_pump(&e);
    raw_open(ES_DIR_UNI, RAW_HELLO "0a 02 03 10", 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_OPEN), ==, 1);
    CHECK(env_count(&e, SERVER, ES_EV_REQUEST) >= 1);
    CHECK_HEX(r->in, r->n, "04 07 00 01 00 00 920a14");
    CHECK(r->fin && gone->fin);
    REQUIRE(e.n_channel[SERVER] == 1);
    {
        struct es_msg_in m;

        REQUIRE(es_channel_recv(e.channel[SERVER][0], &m) == 0);
        CHECK_MEM(m.data, m.len, "a", 1);
        es_channel_consume(e.channel[SERVER][0]);
        REQUIRE(es_channel_recv(e.channel[SERVER][0], &m) == 0);
        CHECK_MEM(m.data, m.len, "b", 1);
        es_channel_consume(e.channel[SERVER][0]);
        CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, ES_ERR_NOT_FOUND);
    }
    env_stop(&e);
}

TEST(a_parked_call_expires_and_a_reset_one_is_forgotten)
{
    struct raw_stream *r, *x;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    r = raw_open(ES_DIR_BIDI, "02 15 04 01 01 08 6d6174682e616464 80000064 03 00 920a14", 1); /* 100 ms */
    x = raw_open(ES_DIR_BIDI, "02 15 04 01 02 08 6d6174682e616464 80007530 03 00 920a14", 0);
    env_pump(&e);
    es_link_reset(x->ls, ES_APP_CANCELLED);
    env_wait(&e, 90 * MS);
    CHECK_INT(r->n, ==, 0);
    env_wait(&e, 20 * MS);
    CHECK_INT(raw_status(r), ==, ES_STATUS_TIMEOUT);
    CHECK(r->fin);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 0);
    env_stop(&e);
}

TEST(a_cancel_that_overtakes_its_request_refuses_it)
{
    struct raw_stream *c, *r, *retry;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    c = raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    raw_write(c, "0a 02 01 10", 0);
    env_pump(&e);
    /* A retry has the id of a call that ended: the old CANCEL does not mean it. */
    retry = raw_open(ES_DIR_BIDI, "02 15 08 01 01 08 6d6174682e616464 80007530 03 00 920a14", 1);
    env_pump(&e);
    CHECK_HEX(retry->in, retry->n, "04 07 00 01 00 00 920a14");
    r = raw_open(ES_DIR_BIDI, REQUEST_ADD, 1);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 1);
    CHECK_INT(raw_status(r), ==, ES_STATUS_CANCELLED);
    /* It was taken: the same id is a new call now. */
    r = raw_open(ES_DIR_BIDI, REQUEST_ADD, 1);
    env_pump(&e);
    CHECK_HEX(r->in, r->n, "04 07 00 01 00 00 920a14");
    env_stop(&e);
}

TEST(a_retry_that_may_have_run_needs_a_method_that_is_idempotent)
{
    struct raw_stream *r;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    env_add(&e, SERVER, ES_KIND_RPC, "math.mul", REF_ECHO, ES_METHOD_IDEMPOTENT, 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, "02 15 0c 01 01 08 6d6174682e616464 80007530 03 00 920a14", 1);
    env_pump(&e);
    CHECK_INT(raw_status(r), ==, ES_STATUS_FAILED_PRECONDITION);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 0);
    r = raw_open(ES_DIR_BIDI, "02 15 0c 01 02 08 6d6174682e6d756c 80007530 03 00 920a14", 1);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 1);
    CHECK_INT(raw_status(r), ==, 0);
    env_stop(&e);
}

TEST(remembered_cancels_are_bounded)
{
    struct raw_stream *c, *r;
    char hex[64];

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    c = raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    raw_write(c, "0a 02 01 10", 0);
    for (int i = 0; i < 256; i++) {
        snprintf(hex, sizeof hex, "0a 03 %04x 10", 0x4100 + i);
        raw_write(c, hex, 0);
    }
    env_pump(&e);
    r = raw_open(ES_DIR_BIDI, REQUEST_ADD, 1); /* its CANCEL was the oldest of 257 */
    env_pump(&e);
    CHECK_HEX(r->in, r->n, "04 07 00 01 00 00 920a14");
    env_stop(&e);
}

TEST(a_request_over_the_limit_is_refused_and_others_live_on)
{
    struct env_options o = {.has_limits = 1};
    struct raw_stream *r, *ok;

    es_limits_default(&o.limits[SERVER]);
    o.limits[SERVER].max_message = 100;
    REQUIRE(raw_start(&e, SERVER, &o) == 0);
    methods(SERVER);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    r = raw_open(ES_DIR_BIDI, "02 80100000 00 01", 0); /* 1 MiB is announced */
    ok = raw_open(ES_DIR_BIDI, REQUEST_ADD, 1);
    env_pump(&e);
    CHECK_INT(raw_status(r), ==, ES_STATUS_RESOURCE_EXHAUSTED);
    CHECK(r->fin && r->stopped);
    CHECK_INT(r->stop_code, ==, ES_APP_TOO_LARGE);
    CHECK_HEX(ok->in, ok->n, "04 07 00 01 00 00 920a14");
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(pings_are_answered_and_a_flood_of_them_is_bounded)
{
    struct raw_stream *c, *out;
    size_t before;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    c = raw_open(ES_DIR_UNI, RAW_HELLO_CLOCK, 0);
    env_pump(&e);
    out = raw_peer(ES_DIR_UNI, 0);
    before = out->n;
    raw_write(c, "11 01 05 13 03 01 02 03", 0);
    env_pump(&e);
    CHECK_INT(out->n - before, ==, 2 + 1 + 8 + 8);
    CHECK_HEX(out->in + before, 3, "13 11 05");
    env_stop(&e);
}

TEST(a_ping_is_ignored_when_the_peer_did_not_announce_its_clock)
{
    struct raw_stream *c, *out;
    size_t before;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    c = raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    out = raw_peer(ES_DIR_UNI, 0);
    before = out->n;
    raw_write(c, "11 01 05", 0);
    env_pump(&e);
    CHECK_INT(out->n, ==, before);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(resets_beyond_the_answered_calls_cut_the_peer)
{
    int i;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    e.quiet = 1;
    for (i = 0; i < 600 && !raw.closed; i++) {
        struct raw_stream *r;

        raw.n = 40; /* the same slot again */
        memset(&raw.stream[40], 0, sizeof raw.stream[40]);
        r = raw_open(ES_DIR_BIDI, "02 0b 00 01 01 04 686f6c64 00 03 00", 0);
        es_pair_pump(e.pair, 0);
        if (r->ls != NULL)
            es_link_reset(r->ls, ES_APP_CANCELLED);
        env_pump(&e);
    }
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_EXCESSIVE_LOAD);
    CHECK_INT(i, ==, 501);
    env_stop(&e);
}

TEST(a_request_id_in_use_is_refused)
{
    struct raw_stream *r;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    raw_open(ES_DIR_BIDI, "02 0b 00 01 01 04 686f6c64 00 03 00", 1);
    env_pump(&e);
    r = raw_open(ES_DIR_BIDI, "02 0b 00 01 01 04 686f6c64 00 03 00", 1);
    env_pump(&e);
    CHECK_INT(raw_status(r), ==, ES_STATUS_ALREADY_EXISTS);
    CHECK_INT(e.n_held, ==, 1);
    env_stop(&e);
}

TEST(datagrams_that_make_no_sense_are_dropped)
{
    static const char *const bad[] = {"", "0a0110", "0c", "0c0001", "21ff", "0c10010003 6c6f67 00 90"};
    uint8_t b[64];
    size_t n;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    methods(SERVER);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        n = test_unhex(bad[i], b, sizeof b);
        CHECK_INT(es_link_datagram(raw.link, b, n), ==, 0);
    }
    n = test_unhex("0c 00 01 05 03 6c6f67 00 90", b, sizeof b);
    CHECK_INT(es_link_datagram(raw.link, b, n), ==, 0);
    env_pump(&e);
    CHECK(!raw.closed);
    REQUIRE(env_count(&e, SERVER, ES_EV_EVENT) == 1);
    CHECK_INT(env_find(&e, SERVER, ES_EV_EVENT, 0)->seq, ==, 5);
    CHECK_INT(env_find(&e, SERVER, ES_EV_EVENT, 0)->lane, ==, ES_LANE_DATAGRAM);
    env_stop(&e);
}
