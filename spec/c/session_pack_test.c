// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
/* Compression, checksums and codecs by name, between two sessions and against bytes. */
#include "../../csrc/framing/compress.h"
#include "session_raw.h"

static struct env e;

/* As RAW_HELLO, with the capabilities zstd, CRC-32C and datagrams. */
#define PACK_HELLO "00 001e000007 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064"
/* REQUEST echo("aaa…", a hundred of them), compressed; compressed and with a checksum. */
#define ECHO_ZSTD "02 23 10 01 01 04 6563686f 80007530 03 00 4067 28b52ffd20675500002091d964610100200544"
#define ECHO_BOTH                                                                                            \
    "02 27 30 01 01 04 6563686f 80007530 03 00 4067 28b52ffd20675500002091d964610100200544 66dcb438"
/* REQUEST math.add(10, 20) and its answer, an event and a message, with checksums. */
#define ADD_CRC    "02 19 20 01 01 08 6d6174682e616464 80007530 03 00 920a14 f25de081"
#define THIRTY_CRC "04 0a 20 01 00 00 911e 814deeec"
#define LOG_CRC    "0c 13 20 01 00 03 6c6f67 00 91a568656c6c6f 57a8acf4"
#define HELLO_CRC  "08 0b 20 00 68656c6c6f 596624a9"

static const struct es_packing all = {.compress = ES_COMPRESS_ON, .checksum = 1, .threshold = 64};
static char text[200000];

static void fill(void)
{
    static const char words[] = "all work and no play makes jack a dull boy; ";

    for (size_t i = 0; i < sizeof text - 1; i++)
        text[i] = words[i % (sizeof words - 1)];
}

static struct es_host_stats stats(int side)
{
    struct es_host_stats st;

    es_host_stats_get(e.host[side], &st);
    return st;
}

static int send_call(int side, const struct es_packing *how, int codec, size_t n)
{
    struct es_call_opts o;

    es_call_opts_default(&o);
    o.packing = how;
    o.codec = (uint8_t)codec;
    return es_session_request(e.s[side], "echo", 4, &o, (const uint8_t *)text, n, NULL, NULL, NULL, NULL);
}

TEST(a_compressed_request_is_taken_and_answered_in_kind)
{
    struct raw_stream *r;
    uint8_t answer[200];

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, ECHO_ZSTD, 1);
    env_pump(&e);
    REQUIRE(env_count(&e, SERVER, ES_EV_REQUEST) == 1);
    CHECK(e.log[1].packed);
    CHECK_INT(e.log[1].plain_rc, ==, 0);
    CHECK_INT(e.log[1].len, ==, 103);
    CHECK(e.log[1].data[2] == 100 && e.log[1].data[3] == 'a' && e.log[1].data[102] == 'a');
    /* 103 bytes are below what is worth compressing, so the answer is as it is. */
    size_t n = test_unhex("04 406b 00 01 00 00 91d964", answer, sizeof answer);
    memset(answer + n, 'a', 100);
    CHECK_MEM(r->in, r->n, answer, n + 100);
    CHECK_INT(stats(SERVER).compressed_in, ==, 1);
    env_stop(&e);
}

TEST(a_checksum_is_checked_and_answered_with_one)
{
    struct raw_stream *r;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, ECHO_BOTH, 1);
    env_pump(&e);
    REQUIRE(env_count(&e, SERVER, ES_EV_REQUEST) == 1);
    CHECK_INT(e.log[1].len, ==, 103);
    CHECK_INT(r->in[3], ==, ES_FLAG_CRC);
    CHECK(es_checksum_right(r->in + 3, r->n - 3));
    env_stop(&e);
}

TEST(checksums_are_on_the_wire_as_the_protocol_says)
{
    struct raw_stream *r;
    struct es_call_opts o;
    struct es_packing how = {.checksum = 1};

    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    env_pump(&e);
    es_call_opts_default(&o);
    o.packing = &how;
    CHECK_INT(es_session_request(e.s[CLIENT], "math.add", 8, &o, (const uint8_t *)"\x92\x0a\x14", 3, NULL,
                                 NULL, NULL, NULL),
              ==, 0);
    CHECK_INT(es_session_emit_packed(e.s[CLIENT], &how, "log", 3, 0, 1, NULL, 0, 0,
                                     (const uint8_t *)"\x91\xa5hello", 7),
              ==, 0);
    CHECK_INT(es_session_emit_packed(e.s[CLIENT], &how, "log", 3, ES_LANE_DATAGRAM, 1, NULL, 0, 0,
                                     (const uint8_t *)"\x91\xa5hello", 7),
              ==, 0);
    env_pump(&e);
    r = raw_peer(ES_DIR_BIDI, 0);
    REQUIRE(r != NULL);
    CHECK_HEX(r->in, r->n, ADD_CRC);
    CHECK_HEX(raw_peer(ES_DIR_UNI, 1)->in, raw_peer(ES_DIR_UNI, 1)->n, "01" LOG_CRC);
    CHECK_HEX(raw.datagram, raw.datagram_len, "0c 20 01 00 03 6c6f67 00 91a568656c6c6f 57a8acf4");
    raw_write(r, THIRTY_CRC, 1);
    env_pump(&e);
    REQUIRE(env_count(&e, CLIENT, ES_EV_RESPONSE) == 1);
    CHECK_HEX(env_find(&e, CLIENT, ES_EV_RESPONSE, 0)->data, 2, "911e");
    CHECK_INT(env_find(&e, CLIENT, ES_EV_RESPONSE, 0)->len, ==, 2);
    env_stop(&e);
}

TEST(nothing_is_packed_that_the_peer_did_not_announce)
{
    REQUIRE(raw_start(&e, CLIENT, &(struct env_options){.packing = {all, all}}) == 0);
    fill();
    CHECK_INT(send_call(CLIENT, NULL, 1, 500), ==, 0); /* before its HELLO */
    env_pump(&e);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    CHECK_INT(send_call(CLIENT, NULL, 1, 500), ==, 0);
    env_pump(&e);
    for (size_t i = 0; i < 2; i++) {
        REQUIRE(raw_peer(ES_DIR_BIDI, i) != NULL);
        CHECK_INT(raw_peer(ES_DIR_BIDI, i)->in[3], ==, 0);
        CHECK_INT(raw_peer(ES_DIR_BIDI, i)->n, >, 500);
    }
    env_stop(&e);
}

TEST(what_was_not_announced_is_a_violation)
{
    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    raw_open(ES_DIR_BIDI, ECHO_ZSTD, 1);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_PROTOCOL);
    env_stop(&e);
}

TEST(a_packed_request_may_overtake_the_hello_that_allows_it)
{
    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    raw_open(ES_DIR_BIDI, ECHO_BOTH, 1);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    env_pump(&e);
    REQUIRE(env_count(&e, SERVER, ES_EV_REQUEST) == 1);
    CHECK_INT(e.log[1].len, ==, 103);
    env_stop(&e);
}

TEST(a_request_that_was_damaged_is_refused_with_data_loss)
{
    struct raw_stream *r;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    env_add(&e, SERVER, ES_KIND_RPC, "math.add", REF_ECHO, 0, 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, "02 19 20 01 01 08 6d6174682e616464 80007530 03 00 920a15 f25de081", 1);
    env_pump(&e);
    CHECK_HEX(r->in + 2, 3, "00 00 0f");
    CHECK(memmem(r->in, r->n, "data_loss", 9) != NULL);
    CHECK(r->fin);
    /* So is one whose head was: a name that no name can be. */
    r = raw_open(ES_DIR_BIDI, "02 19 20 01 01 08 006174682e616464 80007530 03 00 920a14 f25de081", 1);
    env_pump(&e);
    CHECK_HEX(r->in + 2, 3, "00 00 0f");
    CHECK(!raw.closed);
    CHECK_INT(stats(SERVER).checksum_errors, ==, 2);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 0);
    env_stop(&e);
}

TEST(an_answer_that_was_damaged_fails_its_call)
{
    REQUIRE(raw_start(&e, CLIENT, NULL) == 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    env_pump(&e);
    env_call(&e, CLIENT, "math.add", "x", NULL);
    env_pump(&e);
    raw_write(raw_peer(ES_DIR_BIDI, 0), "04 0a 20 01 00 00 911f 814deeec", 1);
    env_pump(&e);
    REQUIRE(env_count(&e, CLIENT, ES_EV_CALL_FAILED) == 1);
    CHECK_STR(env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0)->text, "data_loss");
    CHECK_INT(env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0)->processed, ==, ES_PROCESSED_MAYBE);
    CHECK_INT(stats(CLIENT).checksum_errors, ==, 1);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(a_damaged_event_closes_a_lane_and_drops_a_datagram)
{
    static const uint8_t bad[] = {0x0c, 0x20, 1, 0, 3, 'l', 'o', 'g', 0, 0x91, 7, 1, 2, 3, 4};

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    env_add(&e, SERVER, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    env_pump(&e);
    CHECK_INT(es_link_datagram(raw.link, bad, sizeof bad), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 0);
    CHECK_INT(stats(SERVER).checksum_errors, ==, 1);
    CHECK(!raw.closed);
    raw_open(ES_DIR_UNI, "01" LOG_CRC, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 1);
    raw_open(ES_DIR_UNI, "01 0c 13 20 01 00 03 6c6f67 00 91a568656c6c70 57a8acf4", 0);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_PROTOCOL);
    env_stop(&e);
}

TEST(a_damaged_message_ends_its_stream_with_data_loss)
{
    struct es_msg_in m;
    struct es_failure f;
    struct raw_stream *r;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    env_add(&e, SERVER, ES_KIND_STREAM, "s", REF_QUIET, 0, 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    r = raw_open(ES_DIR_BIDI, "02 08 03 00 01 01 73 00 03 00" HELLO_CRC "08 0b 20 00 68656c6c70 596624a9", 0);
    env_pump(&e);
    REQUIRE(e.n_channel[SERVER] == 1);
    CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, 0); /* what came before it */
    CHECK_MEM(m.data, m.len, "hello", 5);
    es_channel_consume(e.channel[SERVER][0]);
    CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, ES_ERR_CLOSED);
    CHECK_INT(es_channel_error(e.channel[SERVER][0], &f), ==, 0);
    CHECK_INT(f.status, ==, ES_STATUS_DATA_LOSS);
    env_pump(&e);
    CHECK(r->fin && r->stopped && !raw.closed);
    CHECK(memmem(r->in, r->n, "data_loss", 9) != NULL);
    env_stop(&e);
}

/* What is said to unfold into more than is allowed costs nothing. */
TEST(bombs_are_refused_for_what_they_say)
{
    struct env_options o = {.has_limits = 1};
    struct raw_stream *r;

    es_limits_default(&o.limits[SERVER]);
    o.limits[SERVER].max_message = 100000;
    REQUIRE(raw_start(&e, SERVER, &o) == 0);
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    env_add(&e, SERVER, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    /* 100,001 bytes: over the limit; 65,537 out of 17: over the ratio */
    r = raw_open(ES_DIR_BIDI,
                 "02 25 10 01 01 04 6563686f 80007530 03 00 800186a1 28b52ffd206755000020 91d964610100200544",
                 1);
    env_pump(&e);
    CHECK_HEX(r->in + 3, 3, "00 00 08");
    CHECK(memmem(r->in, r->n, "resource_exhausted", 18) != NULL);
    r = raw_open(ES_DIR_BIDI,
                 "02 25 10 01 02 04 6563686f 80007530 03 00 80010001 28b52ffd206755000020 91d964610100200544",
                 1);
    env_pump(&e);
    CHECK_HEX(r->in + 3, 3, "00 00 08");
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 0);
    CHECK(!raw.closed);
    /* A size that the data do not keep to: refused when it is unfolded. */
    raw_open(ES_DIR_BIDI,
             "02 23 10 01 03 04 6563686f 80007530 03 00 4068 28b52ffd20675500002091d964610100200544", 1);
    env_pump(&e);
    REQUIRE(env_count(&e, SERVER, ES_EV_REQUEST) == 1);
    CHECK_INT(env_find(&e, SERVER, ES_EV_REQUEST, 0)->plain_rc, ==, ES_ERR_PROTOCOL);
    /* An event of that kind breaks the rule of lanes. */
    raw_open(ES_DIR_UNI, "01 0c 0f 10 01 00 03 6c6f67 00 800186a1 28b52f", 0);
    env_pump(&e);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_TOO_LARGE);
    env_stop(&e);
}

TEST(a_message_that_does_not_unfold_ends_its_stream)
{
    struct es_msg_in m;
    struct es_failure f;

    REQUIRE(raw_start(&e, SERVER, NULL) == 0);
    env_add(&e, SERVER, ES_KIND_STREAM, "s", REF_QUIET, 0, 0);
    raw_open(ES_DIR_UNI, PACK_HELLO, 0);
    raw_open(ES_DIR_BIDI, "02 08 03 00 01 01 73 00 03 00 08 08 10 00 0a 28b52ffd20", 0);
    env_pump(&e);
    REQUIRE(e.n_channel[SERVER] == 1);
    CHECK_INT(es_channel_readable(e.channel[SERVER][0]), ==, 1);
    CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, ES_ERR_CLOSED);
    CHECK_INT(es_channel_error(e.channel[SERVER][0], &f), ==, 0);
    CHECK(f.code_len == 13 && memcmp(f.code, "serialization", 13) == 0);
    env_pump(&e);
    CHECK(!raw.closed);
    env_stop(&e);
}

/* Calls, events, messages and datagrams, packed, in pieces of every size. */
static void everything(size_t chunk)
{
    struct env_options o = {.chunk = chunk, .packing = {all, all}};
    struct es_msg_out out = {.data = (const uint8_t *)text};
    struct es_channel *ch;
    struct es_msg_in m;

    REQUIRE(env_start(&e, &o) == 0);
    fill();
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    env_add(&e, SERVER, ES_KIND_RPC, "fail", REF_FAIL, 0, 0);
    env_add(&e, SERVER, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
    env_add(&e, SERVER, ES_KIND_STREAM, "s", REF_QUIET, 0, 0);
    env_pump(&e);
    CHECK_INT(send_call(CLIENT, NULL, 1, 20000), ==, 0);
    CHECK_INT(send_call(CLIENT, NULL, 1, 10), ==, 0);
    env_call(&e, CLIENT, "fail", "why", NULL);
    CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 1, NULL, 0, 0, (const uint8_t *)text, 5000), ==, 0);
    CHECK_INT(
        es_session_emit(e.s[CLIENT], "log", 3, ES_LANE_DATAGRAM, 1, NULL, 0, 0, (const uint8_t *)text, 3000),
        ==, 0); /* only compressed does it fit */
    CHECK_INT(es_channel_open(e.s[CLIENT], "s", 1, NULL, NULL, &ch), ==, 0);
    out.len = 30000;
    CHECK_INT(es_channel_send(ch, &out), ==, 0);
    env_pump(&e);
    REQUIRE(env_count(&e, CLIENT, ES_EV_RESPONSE) == 2 && e.n_channel[SERVER] == 1);
    for (size_t i = 0; i < 2; i++) {
        struct env_log *l = env_find(&e, CLIENT, ES_EV_RESPONSE, i);
        CHECK(l->plain_rc == 0 && (l->len == 20000 || l->len == 10) && memcmp(l->data, text, 10) == 0);
    }
    REQUIRE(env_count(&e, CLIENT, ES_EV_CALL_FAILED) == 1);
    CHECK_MEM(env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0)->data, 3, "why", 3);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 2);
    CHECK_INT(env_find(&e, SERVER, ES_EV_EVENT, 0)->len + env_find(&e, SERVER, ES_EV_EVENT, 1)->len, ==,
              8000);
    CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, 0);
    CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, 0); /* the same again */
    CHECK_MEM(m.data, m.len, text, 30000);
    es_channel_consume(e.channel[SERVER][0]);
    CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, ES_ERR_AGAIN);
    CHECK_INT(stats(CLIENT).compressed_out, ==, 4);
    CHECK_INT(stats(SERVER).compressed_in, ==, 4);
    CHECK_INT(stats(CLIENT).compression_saved, >, 50000);
    CHECK_INT(stats(CLIENT).checksum_errors + stats(SERVER).checksum_errors, ==, 0);
    es_channel_release(ch);
    env_stop(&e);
}

TEST(everything_goes_packed_both_ways)
{
    everything(0);
}

TEST(everything_goes_packed_in_pieces)
{
    static const size_t chunks[] = {1, 2, 3, 5, 7, 64};

    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++)
        everything(chunks[i]);
}

TEST(a_call_may_ask_for_it_or_refuse_it)
{
    const struct es_packing on = {.compress = ES_COMPRESS_ON, .threshold = 1024},
                            never = {ES_COMPRESS_NEVER, 0, 0, 0};
    struct env_options o = {.packing = {{0}, {0}}};

    REQUIRE(env_start(&e, &o) == 0);
    fill();
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    env_pump(&e);
    CHECK_INT(send_call(CLIENT, NULL, 1, 5000), ==, 0);
    CHECK_INT(send_call(CLIENT, &never, 1, 5000), ==, 0);
    env_pump(&e);
    CHECK_INT(stats(CLIENT).compressed_out + stats(SERVER).compressed_out, ==, 0);
    CHECK_INT(send_call(CLIENT, &on, 1, 1023), ==, 0); /* below the threshold */
    env_pump(&e);
    CHECK_INT(stats(CLIENT).compressed_out + stats(SERVER).compressed_out, ==, 0);
    CHECK_INT(send_call(CLIENT, &on, 1, 1024), ==, 0);
    env_pump(&e);
    CHECK_INT(stats(CLIENT).compressed_out, ==, 1);
    CHECK_INT(stats(SERVER).compressed_out, ==, 1); /* the answer followed */
    env_stop(&e);
}

static int released;

static void release(void *arg)
{
    (void)arg;
    released++;
}

TEST(anchored_payloads_are_released_once)
{
    struct env_options o = {.packing = {all, all}};
    struct es_call_opts opts;

    REQUIRE(env_start(&e, &o) == 0);
    fill();
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    es_call_opts_default(&opts);
    released = 0;
    for (int i = 0; i < 2; i++) { /* waiting for the peer's HELLO, and at once */
        CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, &opts, (const uint8_t *)text, 100000, release,
                                     NULL, NULL, NULL),
                  ==, 0);
        env_pump(&e);
        CHECK_INT(released, ==, i + 1);
    }
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 2);
    env_stop(&e);
    CHECK_INT(released, ==, 2);
}

TEST(a_steady_state_of_packed_calls_allocates_nothing)
{
    struct env_options o = {.packing = {all, all}};
    struct es_mem_stats before, after;

    REQUIRE(env_start(&e, &o) == 0);
    fill();
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    e.quiet = 1;
    for (int i = 0; i < 60; i++) {
        if (i == 50)
            es_mem_stats(&before);
        CHECK_INT(send_call(CLIENT, NULL, 1, 2000), ==, 0);
        env_pump(&e);
    }
    es_mem_stats(&after);
    /* What the in-memory pair takes for a call without any packing. */
    struct es_mem_stats b2, a2;
    const struct es_packing none = {ES_COMPRESS_NEVER, 0, 0, 0};
    for (int i = 0; i < 20; i++) {
        if (i == 10)
            es_mem_stats(&b2);
        CHECK_INT(send_call(CLIENT, &none, 1, 2000), ==, 0);
        env_pump(&e);
    }
    es_mem_stats(&a2);
    CHECK_INT(after.allocs - before.allocs, <=, a2.allocs - b2.allocs);
    env_stop(&e);
}

static const struct es_codec_names ab = {2, {"alpha", "beta"}}, xb = {3, {"gamma", "beta", "xi"}};

TEST(codecs_are_numbered_by_each_side_and_meet_by_name)
{
    struct env_options o = {.codecs = {&ab, &xb}};
    struct env_log *l;

    REQUIRE(env_start(&e, &o) == 0);
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    env_add(&e, SERVER, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
    fill();
    CHECK_INT(es_session_takes_codec(e.s[CLIENT], 17), ==, ES_ERR_AGAIN);
    CHECK_INT(es_session_takes_codec(e.s[CLIENT], 1), ==, 1);
    CHECK_INT(send_call(CLIENT, NULL, 17, 4), ==, 0); /* waits for the peer's HELLO */
    CHECK_INT(send_call(CLIENT, NULL, 16, 4), ==, 0); /* which says that it has no "alpha" */
    CHECK_INT(send_call(CLIENT, NULL, 15, 4), ==, ES_ERR_INVAL);
    env_pump(&e);
    REQUIRE(env_count(&e, CLIENT, ES_EV_RESPONSE) == 1);
    l = env_find(&e, SERVER, ES_EV_REQUEST, 0);
    CHECK_INT(l->codec, ==, 17); /* "beta" is the second there, too */
    REQUIRE(env_count(&e, CLIENT, ES_EV_CALL_FAILED) == 1);
    CHECK_STR(env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0)->text, "invalid_argument");
    CHECK_INT(es_session_takes_codec(e.s[CLIENT], 17), ==, 1);
    CHECK_INT(es_session_takes_codec(e.s[CLIENT], 16), ==, 0);
    CHECK_INT(es_session_takes_codec(e.s[CLIENT], 18), ==, 0);
    CHECK_INT(send_call(CLIENT, NULL, 16, 4), ==, ES_ERR_UNSUPPORTED);
    CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 16, NULL, 0, 0, (const uint8_t *)"x", 1), ==,
              ES_ERR_UNSUPPORTED);
    CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 17, NULL, 0, 0, (const uint8_t *)"x", 1), ==, 0);
    env_pump(&e);
    CHECK_INT(env_find(&e, SERVER, ES_EV_EVENT, 0)->codec, ==, 17);
    env_stop(&e);
}

TEST(numbers_differ_where_the_lists_do)
{
    static const struct es_codec_names b = {1, {"beta"}};
    struct env_options o = {.codecs = {&b, &xb}};
    struct es_call_opts opts;
    struct es_msg_out out = {.data = (const uint8_t *)"x", .len = 1, .codec = 16};
    struct es_msg_in m;
    struct es_channel *ch;

    REQUIRE(env_start(&e, &o) == 0);
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    env_add(&e, SERVER, ES_KIND_STREAM, "s", REF_QUIET, 0, 0);
    fill();
    es_call_opts_default(&opts);
    opts.codec = 16;
    CHECK_INT(es_channel_open(e.s[CLIENT], "s", 1, &opts, NULL, &ch), ==, ES_ERR_AGAIN);
    CHECK_INT(send_call(CLIENT, NULL, 16, 4), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_WRITABLE), ==, 1);
    CHECK_INT(env_find(&e, SERVER, ES_EV_REQUEST, 0)->codec, ==, 17);
    REQUIRE(env_count(&e, CLIENT, ES_EV_RESPONSE) == 1);
    CHECK_INT(env_find(&e, CLIENT, ES_EV_RESPONSE, 0)->codec, ==, 16);
    CHECK_INT(es_channel_open(e.s[CLIENT], "s", 1, &opts, NULL, &ch), ==, 0);
    CHECK_INT(es_channel_send(ch, &out), ==, 0);
    env_pump(&e);
    REQUIRE(e.n_channel[SERVER] == 1);
    CHECK_INT(es_channel_codec(e.channel[SERVER][0]), ==, 17);
    CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, 0);
    CHECK_INT(m.codec, ==, 17);
    es_channel_release(ch);
    env_stop(&e);
}

TEST(a_number_that_was_not_given_out_is_refused)
{
    struct raw_stream *r;

    REQUIRE(raw_start(&e, SERVER, &(struct env_options){.codecs = {&ab, &ab}}) == 0);
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    /* HELLO with codecs {20: "beta", 21: "other"} */
    raw_open(ES_DIR_UNI,
             "00 0023 000007 000102030405060708090a0b0c0d0e0f 01 04 0d 14 04 62657461 15 05 6f74686572", 0);
    r = raw_open(ES_DIR_BIDI, "02 0f 00 12 01 04 6563686f 80007530 03 00 7a", 1); /* 18 */
    env_pump(&e);
    CHECK(memmem(r->in, r->n, "unknown codec", 13) != NULL);
    r = raw_open(ES_DIR_BIDI, "02 0f 00 11 02 04 6563686f 80007530 03 00 7a",
                 1); /* beta: 17 here, 20 there */
    env_pump(&e);
    CHECK_HEX(r->in, r->n, "04 05 00 14 00 00 7a");
    /* alpha: the caller did not announce it, so it cannot be answered in it */
    r = raw_open(ES_DIR_BIDI, "02 0f 00 10 03 04 6563686f 80007530 03 00 7a", 1);
    env_pump(&e);
    CHECK(memmem(r->in, r->n, "invalid_argument", 16) != NULL);
    CHECK(!raw.closed);
    env_stop(&e);
}
