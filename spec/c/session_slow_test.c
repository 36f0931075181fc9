// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
//
// RELIABILITY T5, the session's part: peers that do not finish what they begin, or do not take what they
// asked for.
#include "session_raw.h"

static struct env e;

/* A call of "hold" or "echo" with that id (two digits); the payload of "echo" is 64 bytes of codec 0. */
#define HOLD(id) "02 0b 00 01 " id " 04 686f6c64 00 03 00"
#define ECHO(id)                                                                                             \
    "02 404b 00 00 " id " 04 6563686f 00 03 00"                                                              \
    "616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161" \
    "61"                                                                                                     \
    "616161616161616161616161"
#define STREAM(id) "02 0c 03 01 " id " 05 617564696f 00 03 00"

static int start(uint64_t assembly)
{
    struct env_options o = {.has_limits = 1};

    es_limits_default(&o.limits[SERVER]);
    o.limits[SERVER].assembly_timeout = assembly;
    if (raw_start(&e, SERVER, &o) != 0) {
        test_fail(__FILE__, __LINE__, "no session");
        return -1;
    }
    env_add(&e, SERVER, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
    env_add(&e, SERVER, ES_KIND_RPC, "hold", REF_HOLD, 0, 0);
    env_add(&e, SERVER, ES_KIND_STREAM, "audio", REF_QUIET, 0, 0);
    raw_open(ES_DIR_UNI, RAW_HELLO, 0);
    env_pump(&e);
    return 0;
}

TEST(a_request_that_does_not_become_whole_ends_alone)
{
    struct raw_stream *empty, *begun, *whole;

    if (start(30 * ES_SECOND) != 0)
        return;
    begun = raw_open(ES_DIR_BIDI, "02 0b 00 01", 0);
    empty = raw_open(ES_DIR_BIDI, "", 0);
    whole = raw_open(ES_DIR_BIDI, HOLD("05"), 1);
    env_wait(&e, 29 * ES_SECOND);
    CHECK_INT(begun->n, ==, 0);
    env_wait(&e, 10 * ES_SECOND);
    CHECK_INT(raw_status(begun), ==, ES_STATUS_TIMEOUT);
    CHECK(begun->stopped && begun->fin);
    if (empty->ls == NULL ||
        empty->fin) /* a stream that nothing came of may not exist on the other side yet */
        CHECK_INT(raw_status(empty), ==, ES_STATUS_TIMEOUT);
    CHECK_INT(whole->n, ==, 0);
    CHECK_INT(e.n_held, ==, 1);
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(a_byte_every_ten_seconds_is_too_slow)
{
    struct raw_stream *r;
    int seconds = 0;

    if (start(30 * ES_SECOND) != 0)
        return;
    r = raw_open(ES_DIR_BIDI, "02 4fff", 0);
    for (; seconds < 200 && !r->fin; seconds += 10) {
        raw_write(r, "00", 0);
        env_wait(&e, 10 * ES_SECOND);
    }
    CHECK(r->fin);
    CHECK_INT(seconds, <=, 50);
    env_stop(&e);
}

TEST(a_thin_line_is_not_too_slow)
{
    struct raw_stream *r;
    char hex[2 * 100 + 1];

    if (start(30 * ES_SECOND) != 0)
        return;
    memset(hex, '6', sizeof hex - 1);
    hex[sizeof hex - 1] = '\0';
    r = raw_open(ES_DIR_BIDI, "02 577b 00 00 07 04 6563686f 00 03 00", 0); /* 6,011 bytes */
    for (int i = 0; i < 59; i++) {
        raw_write(r, hex, 0);
        env_wait(&e, ES_SECOND);
    }
    CHECK_INT(r->n, ==, 0);
    raw_write(r, hex, 0);
    env_wait(&e, ES_SECOND);
    CHECK_INT(raw_status(r), ==, ES_STATUS_OK);
    env_stop(&e);
}

TEST(without_the_time_out_it_may_take_for_ever)
{
    struct raw_stream *r;

    if (start(0) != 0)
        return;
    r = raw_open(ES_DIR_BIDI, "02 0b 00 01", 0);
    env_wait(&e, 1000 * ES_SECOND);
    CHECK_INT(r->n, ==, 0);
    raw_write(r, "05 04 686f6c64 00 03 00", 1);
    env_pump(&e);
    CHECK_INT(e.n_held, ==, 1);
    env_stop(&e);
}

TEST(a_stream_between_two_messages_may_rest_and_within_one_it_may_not)
{
    struct raw_stream *r;

    if (start(30 * ES_SECOND) != 0)
        return;
    r = raw_open(ES_DIR_BIDI, STREAM("05"), 0);
    env_wait(&e, 500 * ES_SECOND);
    REQUIRE(e.n_channel[SERVER] == 1);
    for (int i = 0; i < 6; i++) {
        struct es_msg_in m;
        raw_write(r, "08 04 00 00", 0);
        env_wait(&e, 20 * ES_SECOND);
        raw_write(r, "6162", 0);
        env_pump(&e);
        CHECK_INT(es_channel_recv(e.channel[SERVER][0], &m), ==, 0);
        es_channel_consume(e.channel[SERVER][0]);
    }
    CHECK_INT(raw_status(r), ==, -1);
    raw_write(r, "08 04 00 00", 0);
    env_wait(&e, 60 * ES_SECOND);
    CHECK_INT(raw_status(r), ==, ES_STATUS_TIMEOUT);
    CHECK(!raw.closed);
    env_stop(&e);
}

/* The other side takes nothing while the pair is not pumped: all the answers of one batch are unacknowledged.
 */
TEST(calls_of_a_peer_that_takes_no_answers_wait_their_turn)
{
    struct raw_stream *r[6];
    struct es_link *l;

    if (start(0) != 0)
        return;
    l = es_pair_link(e.pair, 1);
    l->hold_cap = 200;
    r[0] = raw_open(ES_DIR_BIDI, ECHO("01"), 1);
    r[1] = raw_open(ES_DIR_BIDI, ECHO("02"), 1);
    r[2] = raw_open(ES_DIR_BIDI, ECHO("03"), 1);
    r[3] = raw_open(ES_DIR_BIDI, ECHO("04"), 1);
    r[4] = raw_open(ES_DIR_BIDI, ECHO("05"), 1);
    r[5] = raw_open(ES_DIR_BIDI, ECHO("06"), 1);
    es_pair_pump(e.pair, 0);
    (void)env_drain(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 6);
    CHECK_INT(l->held, <=, 200 + 6 * 80); /* two or three answers, the other requests */
    CHECK_INT(e.log[e.n_log - 1].opened, ==, ES_ERR_AGAIN);
    env_wait(&e, 100 * ES_MILLI);
    for (int i = 0; i < 6; i++)
        CHECK_INT(raw_status(r[i]), ==, ES_STATUS_OK);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
    env_stop(&e);
}

TEST(calls_that_wait_their_turn_die_with_the_session)
{
    if (start(0) != 0)
        return;
    es_pair_link(e.pair, 1)->hold_cap = 10;
    raw_open(ES_DIR_BIDI, ECHO("01"), 1);
    raw_open(ES_DIR_BIDI, ECHO("02"), 1);
    raw_open(ES_DIR_BIDI, ECHO("03"), 1);
    es_pair_pump(e.pair, 0);
    (void)env_drain(&e);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 2);
    es_link_close(raw.link, 1, 0, "");
    env_pump(&e);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
    env_stop(&e);
}

TEST(an_event_that_does_not_become_whole_ends_the_session)
{
    struct raw_stream *r;

    if (start(30 * ES_SECOND) != 0)
        return;
    env_add(&e, SERVER, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
    r = raw_open(ES_DIR_UNI, "01 0c0f000100036c6f67 0091a568656c6c6f", 0);
    env_wait(&e, 500 * ES_SECOND); /* between two events it may rest */
    CHECK(!raw.closed);
    for (int i = 1; i < 5; i++) { /* and within one for a while */
        raw_write(r, "0c0f000100036c6f67", 0);
        env_wait(&e, 25 * ES_SECOND);
        raw_write(r, "0091a568656c6c6f", 0);
        env_pump(&e);
    }
    CHECK(!raw.closed);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 5);
    raw_write(r, "0c0f000100036c6f67", 0);
    env_wait(&e, 29 * ES_SECOND);
    CHECK(!raw.closed);
    env_wait(&e, 11 * ES_SECOND);
    CHECK(raw.closed);
    CHECK_INT(raw.info.code, ==, ES_APP_EXCESSIVE_LOAD);
    env_stop(&e);
}
