// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
// The limits of docs/PROTOCOL.md section 11, from both sides: what is at the limit passes, one more is
// refused as it says there.
#include "session_raw.h"

static struct env e;
static uint8_t zeros[70000];

static void put(struct raw_stream *r, const char *hex, size_t n, int fin)
{
    raw_write(r, hex, 0);
    if (n > 0)
        CHECK_INT(es_link_write(r->ls, zeros, n, 0), ==, 0);
    if (fin)
        es_link_write(r->ls, NULL, 0, 1);
    env_pump(&e);
}

/* A session whose side takes messages of 1,000 bytes and metadata of 100. */
static int small(int side)
{
    struct env_options o = {.has_limits = 1};
    int rc;

    es_limits_default(&o.limits[CLIENT]);
    es_limits_default(&o.limits[SERVER]);
    o.limits[side].max_message = 1000;
    o.limits[side].max_metadata = 100;
    rc = raw_start(&e, side, &o);
    if (rc == 0) {
        env_add(&e, side, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
        env_add(&e, side, ES_KIND_STREAM, "audio", REF_QUIET, 0, 0);
        env_add(&e, side, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
        raw_open(ES_DIR_UNI, RAW_HELLO, 0);
        env_pump(&e);
    }
    return rc;
}

TEST(a_request_at_max_message_runs_and_one_byte_more_is_refused)
{
    struct raw_stream *r;

    REQUIRE(small(SERVER) == 0);
    r = raw_open(ES_DIR_BIDI, "", 0);
    put(r, "02 43f3 00 00 01 04 6563686f 00 03 00", 1000, 1); /* 11 bytes before the payload */
    CHECK_INT(raw_status(r), ==, ES_STATUS_OK);
    r = raw_open(ES_DIR_BIDI, "", 0);
    put(r, "02 43f4 00 00 02 04 6563686f 00 03 00", 1001, 1);
    CHECK_INT(raw_status(r), ==, ES_STATUS_RESOURCE_EXHAUSTED);
    CHECK(r->fin);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 1);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(a_body_is_max_message_and_max_metadata_and_4_kib_at_most)
{
    struct raw_stream *r;

    REQUIRE(small(SERVER) == 0);
    r = raw_open(ES_DIR_BIDI, "02 544c", 0); /* 5,196 bytes are announced: more may come */
    env_pump(&e);
    CHECK_INT(r->n, ==, 0);
    r = raw_open(ES_DIR_BIDI, "02 544d", 0);
    env_pump(&e);
    CHECK_INT(raw_status(r), ==, ES_STATUS_RESOURCE_EXHAUSTED);
    CHECK(r->fin && r->stopped);
    CHECK_INT(r->stop_code, ==, ES_APP_TOO_LARGE);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(metadata_over_max_metadata_is_refused_in_a_request_and_drops_an_event)
{
    struct raw_stream *r, *lane;

    REQUIRE(small(SERVER) == 0);
    /* One pair, "k" and 97 or 98 bytes: 100 bytes with their lengths, and 101. */
    r = raw_open(ES_DIR_BIDI, "", 0);
    put(r, "02 406f 00 00 01 04 6563686f 00 03 01 01 6b 4060", 96, 1);
    CHECK_INT(raw_status(r), ==, ES_STATUS_OK);
    r = raw_open(ES_DIR_BIDI, "", 0);
    put(r, "02 4070 00 00 02 04 6563686f 00 03 01 01 6b 4061", 97, 1);
    CHECK_INT(raw_status(r), ==, ES_STATUS_RESOURCE_EXHAUSTED);
    lane = raw_open(ES_DIR_UNI, "01", 0);
    put(lane, "0c 406c 00 00 00 03 6c6f67 01 01 6b 4060", 96, 0);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 1);
    put(lane, "0c 406d 00 00 01 03 6c6f67 01 01 6b 4061", 97, 0);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 1);
    put(lane, "0c 09 00 00 02 03 6c6f67 00 00", 0, 0);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 2);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(names_of_257_bytes_and_17_kib_of_metadata_refuse_a_request)
{
    static const char head[] = "02 %04x 00 00 %02x 4%03x";
    char hex[64];
    struct raw_stream *r;

    for (int over = 0; over <= 1; over++) {
        size_t name = 256 + (size_t)over;

        REQUIRE(raw_start(&e, SERVER, NULL) == 0);
        raw_open(ES_DIR_UNI, RAW_HELLO, 0);
        memset(zeros, 'x', sizeof zeros);
        snprintf(hex, sizeof hex, head, (unsigned)(0x4000 + 3 + 2 + name + 3), 1, (unsigned)name);
        r = raw_open(ES_DIR_BIDI, "", 0);
        put(r, hex, name, 0);
        put(r, "00 03 00", 0, 1);
        CHECK_INT(raw_status(r), ==, over ? ES_STATUS_RESOURCE_EXHAUSTED : ES_STATUS_METHOD_NOT_FOUND);
        CHECK(!raw.closed);
        memset(zeros, 0, sizeof zeros);
        env_stop(&e);
    }
    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, "", 0);
    put(r, "02 80004411 00 00 01 04 6563686f 00 03 01 01 6b 80004400", 0x4400, 1);
    CHECK_INT(raw_status(r), ==, ES_STATUS_RESOURCE_EXHAUSTED);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(a_message_of_a_named_stream_over_max_message_ends_the_stream)
{
    struct raw_stream *r;

    REQUIRE(small(SERVER) == 0);
    r = raw_open(ES_DIR_BIDI, "02 0c 03 00 01 05 617564696f 00 03 00", 0);
    put(r, "08 43ea 00 00", 1000, 0);
    CHECK_INT(raw_status(r), ==, -1);
    put(r, "08 43eb 00 00", 1001, 0);
    CHECK_INT(raw_status(r), ==, ES_STATUS_RESOURCE_EXHAUSTED);
    CHECK(r->fin && r->stopped);
    CHECK_INT(r->stop_code, ==, ES_APP_TOO_LARGE);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(an_event_over_max_message_closes_the_connection)
{
    struct raw_stream *lane;

    REQUIRE(small(SERVER) == 0);
    lane = raw_open(ES_DIR_UNI, "01", 0);
    put(lane, "0c 43f0 00 00 00 03 6c6f67 00", 1000, 0);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 1);
    CHECK(!raw.closed);
    put(lane, "0c 43f1 00 00 01 03 6c6f67 00", 1001, 0);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_TOO_LARGE);
    env_stop(&e);
}

TEST(an_event_over_max_message_in_a_datagram_is_dropped)
{
    uint8_t d[1100] = {0};

    REQUIRE(small(SERVER) == 0);
    for (size_t n = 1000; n <= 1001; n++) {
        size_t head = test_unhex("0c 00 00 05 03 6c6f67 00", d, sizeof d);

        CHECK_INT(es_link_datagram(raw.link, d, head + n), ==, 0);
        env_pump(&e);
        CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 1);
    }
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(an_answer_over_max_message_fails_its_call)
{
    for (int over = 0; over <= 1; over++) {
        struct raw_stream *r;
        struct env_log *l;

        REQUIRE(small(CLIENT) == 0);
        env_call(&e, CLIENT, "x", "", NULL);
        env_pump(&e);
        r = raw_peer(ES_DIR_BIDI, 0);
        REQUIRE(r != NULL);
        put(r, over ? "04 43ed 00 00 00 00" : "04 43ec 00 00 00 00", 1000 + (size_t)over, 1);
        CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, !over);
        l = env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0);
        REQUIRE((l != NULL) == over);
        if (l != NULL) {
            CHECK_INT(l->status, ==, ES_STATUS_RESOURCE_EXHAUSTED);
            CHECK_INT(l->processed, ==, ES_PROCESSED_YES);
        }
        CHECK(!raw.closed);
        env_stop(&e);
    }
}

TEST(a_hello_has_64_parameters_and_64_kib_at_most)
{
    static const struct {
        const char *head;
        size_t n;
        uint64_t code;
    } cases[] = {
        /* One parameter of an unknown number that fills 65,536 bytes, and one byte more. */
        {"00 00 80010000 00 00 00 00000000000000000000000000000000 01 08 8000ffe7", 0xffe7, 0},
        {"00 00 80010001 00 00 00 00000000000000000000000000000000 01 08 8000ffe8", 0xffe8, ES_APP_HELLO},
    };

    for (size_t i = 0; i < 2; i++) {
        struct raw_stream *c;

        REQUIRE(raw_start(&e, SERVER, NULL) == 0);
        c = raw_open(ES_DIR_UNI, "", 0);
        put(c, cases[i].head, cases[i].n, 0);
        CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_OPEN), ==, cases[i].code == 0);
        CHECK_INT(raw.closed, ==, cases[i].code != 0);
        CHECK(!raw.closed || raw.info.code == cases[i].code);
        env_stop(&e);
    }
    for (int n = 64; n <= 65; n++) {
        char hex[600];
        size_t at =
            (size_t)snprintf(hex, sizeof hex, "00 00 %04x 00 00 00 00000000000000000000000000000000 %04x",
                             0x4000 + 3 + 16 + 2 + 3 * n, 0x4000 + n);

        for (int i = 0; i < n; i++)
            at += (size_t)snprintf(hex + at, sizeof hex - at, "%04x00", 0x4100 + i);
        REQUIRE(raw_start(&e, SERVER, NULL) == 0);
        raw_open(ES_DIR_UNI, hex, 0);
        env_pump(&e);
        CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_OPEN), ==, n == 64);
        CHECK_INT(raw.closed, ==, n == 65);
        CHECK(!raw.closed || raw.info.code == ES_APP_HELLO);
        env_stop(&e);
    }
}

TEST(a_second_control_stream_and_a_ninth_lane_close_with_protocol)
{
    REQUIRE(small(SERVER) == 0);
    raw_open(ES_DIR_UNI, "00", 0);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_PROTOCOL);
    env_stop(&e);
}

/* ---- what is sent keeps to what the peer said ---- */

/* The other side takes 100 bytes of metadata. */
static void meta_peer(void)
{
    struct env_options o = {.has_limits = 1};

    es_limits_default(&o.limits[CLIENT]);
    es_limits_default(&o.limits[SERVER]);
    o.limits[SERVER].max_metadata = 100;
    if (env_start(&e, &o) != 0)
        abort();
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    env_add(&e, CLIENT, ES_KIND_RPC, "hold", REF_HOLD, 0, 0);
    env_add(&e, SERVER, ES_KIND_STREAM, "audio", REF_QUIET, 0, 0);
    env_add(&e, SERVER, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
}

TEST(metadata_over_what_the_peer_takes_is_refused_before_it_is_sent)
{
    struct es_pair_kv kv = {"k", (const char *)zeros, 1, 96}; /* 100 bytes with its lengths */
    struct es_call_opts o;
    struct es_channel *ch;

    meta_peer();
    env_pump(&e);
    es_call_opts_default(&o);
    o.metadata = &kv;
    o.n_metadata = 1;
    for (int over = 0; over <= 1; over++) {
        int want = over ? ES_ERR_METADATA : 0;

        kv.value_len = 96 + (size_t)over;
        CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, &o, NULL, 0, NULL, NULL, NULL, NULL), ==, want);
        CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 0, &kv, 1, 0, NULL, 0), ==, want);
        CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, ES_LANE_DATAGRAM, 0, &kv, 1, 0, NULL, 0), ==, want);
        o.codec = ES_CODEC_RAW;
        CHECK_INT(es_channel_open(e.s[CLIENT], "audio", 5, &o, NULL, &ch), ==, want);
        if (want == 0)
            es_channel_release(ch);
        o.codec = ES_CODEC_MSGPACK;
        CHECK_INT(es_channel_call(e.s[CLIENT], "audio", 5, &o, ES_CHANNEL_OUT, NULL, 0, NULL, &ch), ==, want);
        if (want == 0)
            es_channel_release(ch);
        env_pump(&e);
    }
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 2);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 1);
    /* The metadata of an answer, too. */
    env_call(&e, SERVER, "hold", "", NULL);
    env_pump(&e);
    REQUIRE(e.n_held == 1);
    kv.value_len = 97;
    CHECK_INT(es_call_set_trailers(e.held[0], &kv, 1), ==, ES_ERR_METADATA);
    kv.value_len = 96;
    CHECK_INT(es_call_set_trailers(e.held[0], &kv, 1), ==, 0);
    CHECK_INT(es_call_respond(e.held[0], 1, (const uint8_t *)"\x90", 1, NULL, NULL), ==, 0);
    e.held[0] = NULL;
    env_pump(&e);
    REQUIRE(env_count(&e, SERVER, ES_EV_RESPONSE) == 1);
    CHECK_INT(env_find(&e, SERVER, ES_EV_RESPONSE, 0)->meta_len, ==, 100);
    env_stop(&e);
}

/* A call that waited for HELLO (its payload is over 64 KiB) learns only then what the peer takes. */
TEST(a_call_that_waited_for_hello_fails_when_its_metadata_is_too_large)
{
    struct es_pair_kv kv = {"k", (const char *)zeros, 1, 97};
    struct es_call_opts o;
    struct env_log *l;

    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    env_pump(&e);
    es_call_opts_default(&o);
    o.metadata = &kv;
    o.n_metadata = 1;
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, &o, zeros, sizeof zeros, NULL, NULL, NULL, NULL), ==,
              0);
    env_pump(&e);
    CHECK(raw_peer(ES_DIR_BIDI, 0) == NULL);
    /* max_message 4 MiB, max_metadata 100 */
    raw_open(ES_DIR_UNI, "00 001e000000 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 02 02 4064", 0);
    env_pump(&e);
    l = env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0);
    REQUIRE(l != NULL);
    CHECK_INT(l->status, ==, ES_STATUS_RESOURCE_EXHAUSTED);
    CHECK_INT(l->processed, ==, ES_PROCESSED_NO);
    CHECK_STR(l->message, "the metadata is larger than the peer's max_metadata");
    CHECK(raw_peer(ES_DIR_BIDI, 0) == NULL);
    env_stop(&e);
}
