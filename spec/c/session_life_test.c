// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
#include "session_raw.h"

static struct env e;

static void start(const struct env_options *o)
{
    if (env_start(&e, o) != 0) {
        fputs("env_start failed\n", stderr);
        abort();
    }
    for (int i = 0; i < 2; i++) {
        env_add(&e, i, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
        env_add(&e, i, ES_KIND_RPC, "hold", REF_HOLD, 0, 0);
        env_add(&e, i, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
        env_add(&e, i, ES_KIND_EVENT, "slow", REF_HOLD, 0, 0);
        env_add(&e, i, ES_KIND_STREAM, "audio", REF_QUIET, 0, 0);
    }
}

static int respond(size_t i, const char *text)
{
    struct es_call *c = e.held[i];

    e.held[i] = NULL;
    return es_call_respond(c, 1, (const uint8_t *)text, strlen(text), NULL, NULL);
}

/* ---- accepting ---- */

TEST(calls_wait_until_the_session_is_accepted)
{
    struct env_options o = {.hold_until_accept = 1};

    start(&o);
    for (int i = 0; i < 5; i++)
        env_call(&e, CLIENT, "echo", "x", NULL);
    CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 1, NULL, 0, 0, NULL, 0), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_OPEN), ==, 1);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST) + env_count(&e, SERVER, ES_EV_EVENT), ==, 0);
    CHECK_INT(es_session_accept(e.s[SERVER]), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 5);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 1);
    CHECK_INT(es_session_accept(e.s[SERVER]), ==, 0);
    env_stop(&e);
}

TEST(a_session_that_is_not_accepted_runs_nothing)
{
    struct env_options o = {.hold_until_accept = 1};
    struct env_log *l;

    start(&o);
    env_call(&e, CLIENT, "echo", "x", NULL);
    env_pump(&e);
    es_session_close(e.s[SERVER], ES_APP_REFUSED, "not you");
    CHECK(!es_session_is_open(e.s[SERVER]));
    CHECK_INT(es_session_accept(e.s[SERVER]), ==, ES_ERR_CLOSED);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_REQUEST), ==, 0);
    l = env_find(&e, CLIENT, ES_EV_SESSION_CLOSED, 0);
    REQUIRE(l != NULL);
    CHECK_INT(l->close_code, ==, ES_APP_REFUSED);
    CHECK_STR(l->message, "not you");
    CHECK_INT(l->opened, ==, 1);
    env_stop(&e);
}

TEST(what_is_asked_before_the_handshake_goes_out_after_it)
{
    struct env_options o = {.no_establish = 1};
    static uint8_t big[100000];

    start(&o);
    CHECK(!es_session_is_open(e.s[CLIENT]));
    env_call(&e, CLIENT, "echo", "x", NULL);
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, NULL, big, sizeof big, NULL, NULL, NULL, NULL), ==,
              0);
    CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 1, NULL, 0, 0, NULL, 0), ==, ES_ERR_AGAIN);
    env_pump(&e);
    es_pair_establish(e.pair);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 2);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_WRITABLE), ==, 1);
    env_stop(&e);
}

/* ---- going away ---- */

TEST(goaway_lets_calls_end_and_refuses_new_ones)
{
    struct env_log *l;

    start(NULL);
    env_pump(&e);
    env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    CHECK_INT(es_session_goaway(e.s[SERVER], 5000, 1500, "restart"), ==, 0);
    CHECK_INT(es_session_goaway(e.s[SERVER], 5000, 1500, "restart"), ==, 0);
    env_call(&e, CLIENT, "echo", "crosses the goaway", NULL);
    env_pump(&e);
    l = env_find(&e, CLIENT, ES_EV_SESSION_GOAWAY, 0);
    REQUIRE(l != NULL);
    CHECK_STR(l->message, "restart");
    CHECK_INT(l->retry_after_ms, ==, 1500);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_GOAWAY), ==, 1);
    env_call(&e, CLIENT, "echo", "after the goaway", NULL);
    CHECK_INT(es_session_request(e.s[SERVER], "echo", 4, NULL, NULL, 0, NULL, NULL, NULL, NULL), ==,
              ES_ERR_CLOSED);
    env_pump(&e);
    REQUIRE(env_count(&e, CLIENT, ES_EV_CALL_FAILED) == 2);
    for (size_t i = 0; i < 2; i++) {
        l = env_find(&e, CLIENT, ES_EV_CALL_FAILED, i);
        CHECK_STR(l->text, "unavailable");
        CHECK_INT(l->processed, ==, ES_PROCESSED_NO);
        CHECK_INT(l->retry_after_ms, ==, 1500);
    }
    CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_IDLE), ==, 0);
    respond(0, "done");
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 1);
    CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_IDLE), ==, 1);
    CHECK(es_session_flushed(e.s[SERVER]));
    env_stop(&e);
}

TEST(a_ping_is_answered_with_the_round_trip)
{
    uint64_t id = 0, other = 0;
    struct env_log *l;

    start(NULL);
    env_pump(&e);
    CHECK_INT(es_session_ping(e.s[CLIENT], &id), ==, 0);
    CHECK_INT(es_session_ping(e.s[CLIENT], &other), ==, 0);
    CHECK(id != 0 && id != other); /* in the same microsecond */
    e.timers.now += 30 * MS;
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_PONG), ==, 2);
    CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_PONG), ==, 0);
    l = env_find(&e, CLIENT, ES_EV_SESSION_PONG, 0);
    REQUIRE(l != NULL);
    CHECK_INT(l->code, ==, id);
    CHECK_INT(l->seq, ==, 30 * MS);
    env_stop(&e);
}

TEST(pings_that_nobody_answers_are_few_and_forgotten_after_a_minute)
{
    uint64_t id;

    start(NULL);
    env_pump(&e);
    for (int i = 0; i < ES_MAX_PINGS; i++) {
        CHECK_INT(es_session_ping(e.s[SERVER], &id), ==, 0);
    }
    CHECK_INT(es_session_ping(e.s[SERVER], &id), ==, ES_ERR_LIMIT);
    e.timers.now += 61 * ES_SECOND;
    CHECK_INT(es_session_ping(e.s[SERVER], &id), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_PONG), ==, ES_MAX_PINGS);
    es_session_close(e.s[SERVER], 0, "");
    CHECK_INT(es_session_ping(e.s[SERVER], &id), ==, ES_ERR_CLOSED);
    env_stop(&e);
}

TEST(nobody_is_asked_before_the_hellos)
{
    struct env_options o = {.no_establish = 1};
    uint64_t id;

    CHECK_INT(env_start(&e, &o), ==, 0);
    CHECK(es_session_ping(e.s[CLIENT], &id) < 0);
    es_pair_establish(e.pair);
    CHECK_INT(es_session_ping(e.s[CLIENT], &id), ==, ES_ERR_AGAIN);
    env_pump(&e);
    CHECK_INT(es_session_ping(e.s[CLIENT], &id), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_PONG), ==, 1);
    env_stop(&e);
}

TEST(waiting_calls_fail_at_once_when_the_peer_goes_away)
{
    struct env_options o = {.bidi = 1};

    start(&o);
    env_pump(&e);
    for (int i = 0; i < 4; i++)
        env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    es_session_goaway(e.s[SERVER], 0, 0, NULL);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 3);
    CHECK_INT(es_session_in_flight(e.s[CLIENT]), ==, 1);
    env_stop(&e);
}

/* ---- the end ---- */

TEST(everything_open_is_told_exactly_once_when_the_network_dies)
{
    struct env_options o = {.bidi = 60};
    struct es_channel *ch[4];
    struct es_failure f;
    struct es_call *cancelled;
    int tags[100];

    start(&o);
    env_pump(&e);
    for (int i = 0; i < 70; i++)
        env_call(&e, CLIENT, i % 2 ? "hold" : "echo", "x", &tags[i]);
    cancelled = env_call(&e, CLIENT, "hold", "x", NULL);
    for (int i = 0; i < 4; i++)
        CHECK_INT(es_channel_open(e.s[SERVER], "audio", 5, NULL, &tags[i], &ch[i]), ==, 0);
    for (int i = 0; i < 3; i++)
        env_call(&e, SERVER, "hold", "x", NULL);
    es_session_emit(e.s[CLIENT], "slow", 4, 0, 1, NULL, 0, 0, NULL, 0);
    env_pump(&e);
    env_call(&e, CLIENT, "hold", "on its way", NULL);
    es_call_cancel(cancelled, ES_APP_CANCELLED);
    env_call(&e, SERVER, "echo", "on its way too", NULL);
    es_pair_cut(e.pair);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE) + env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 71);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CALL_FAILED), ==, 4);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_CLOSED), ==, 1);
    CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_CLOSED), ==, 1);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_CLOSED), ==, 4);
    CHECK_INT(e.log[e.n_log - 1].type, ==, ES_EV_SESSION_CLOSED);
    for (size_t i = 0; i < e.n_held; i++)
        CHECK(es_call_cancelled(e.held[i]));
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, NULL, NULL, 0, NULL, NULL, NULL, NULL), ==,
              ES_ERR_CLOSED);
    CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 1, NULL, 0, 0, NULL, 0), ==, ES_ERR_CLOSED);
    CHECK_INT(es_session_goaway(e.s[CLIENT], 0, 0, NULL), ==, ES_ERR_CLOSED);
    CHECK_INT(es_session_accept(e.s[SERVER]), ==, ES_ERR_CLOSED);
    CHECK(es_session_link(e.s[CLIENT]) == NULL);
    CHECK(es_session_flushed(e.s[CLIENT]));
    es_session_close(e.s[CLIENT], 0, "again");
    for (int i = 0; i < 4; i++) {
        struct es_msg_out m = {.data = (const uint8_t *)"x", .len = 1};
        struct es_msg_in in;

        CHECK(es_channel_user(ch[i]) == &tags[i]);
        CHECK_INT(es_channel_send(ch[i], &m), ==, ES_ERR_CLOSED);
        CHECK_INT(es_channel_recv(ch[i], &in), ==, ES_ERR_CLOSED);
        CHECK_INT(es_channel_error(ch[i], &f), ==, 0);
        CHECK_INT(memcmp(f.code, "connection_closed", f.code_len), ==, 0);
        es_channel_release(ch[i]);
    }
    env_stop(&e);
}

TEST(closing_in_the_middle_of_everything_is_safe)
{
    start(NULL);
    env_pump(&e);
    for (int i = 0; i < 20; i++)
        env_call(&e, CLIENT, "hold", "x", NULL);
    es_pair_pump(e.pair, 0);
    for (int i = 0; i < 10; i++) { /* ten are handled, then the server closes while ten stand in the queue */
        struct es_ev_message *m = (struct es_ev_message *)es_evq_peek(e.q[SERVER]);

        env_request(&e, m);
        es_session_pop(e.q[SERVER]);
    }
    es_session_close(e.s[SERVER], ES_APP_SESSION_CLOSED, "enough");
    es_session_close(e.s[SERVER], 0, "twice");
    for (int i = 0; i < 5; i++)
        CHECK_INT(respond((size_t)i, "x"), ==, ES_ERR_CLOSED);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 20);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CALL_CANCELLED), ==, 5);
    CHECK_INT(e.n_held, ==, 10);
    CHECK_INT(env_find(&e, CLIENT, ES_EV_SESSION_CLOSED, 0)->close_code, ==, ES_APP_SESSION_CLOSED);
    env_stop(&e);
}

TEST(a_session_outlives_its_link_as_long_as_somebody_holds_it)
{
    struct es_session *s;

    start(NULL);
    env_pump(&e);
    env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    s = e.s[SERVER];
    es_session_set_user(s, &e);
    es_pair_cut(e.pair);
    env_pump(&e);
    CHECK(es_session_user(s) == &e);
    CHECK(es_session_host(s) == e.host[SERVER]);
    CHECK(es_call_session(e.held[0]) == s);
    CHECK_INT(es_session_in_flight(s), ==, 1);
    env_stop(&e);
}

/* ---- without memory ---- */

/* One of everything; ends whatever happens. */
static void exercise(void)
{
    struct es_pair_kv kv = {"k", "v", 1, 1};
    struct es_channel *ch = NULL;
    struct es_call_opts o;
    struct es_msg_out m = {.data = (const uint8_t *)"message", .len = 7};
    struct es_msg_in in;

    es_call_opts_default(&o);
    o.metadata = &kv;
    o.n_metadata = 1;
    env_pump(&e);
    (void)es_session_request(e.s[CLIENT], "echo", 4, &o, (const uint8_t *)"x", 1, NULL, NULL, NULL, NULL);
    (void)es_session_request(e.s[CLIENT], "no.such", 7, &o, (const uint8_t *)"x", 1, NULL, NULL, NULL, NULL);
    (void)es_session_request(e.s[CLIENT], "hold", 4, &o, (const uint8_t *)"x", 1, NULL, NULL, NULL, NULL);
    (void)es_session_emit(e.s[CLIENT], "slow", 4, 0, 1, &kv, 1, 7, (const uint8_t *)"x", 1);
    (void)es_session_emit(e.s[CLIENT], "log", 3, 0, 1, &kv, 1, 7, (const uint8_t *)"x", 1);
    (void)es_session_emit(e.s[CLIENT], "log", 3, ES_LANE_DATAGRAM, 1, &kv, 1, 7, (const uint8_t *)"x", 1);
    if (es_channel_open(e.s[CLIENT], "audio", 5, &o, NULL, &ch) == 0)
        (void)es_channel_send(ch, &m);
    env_pump(&e);
    if (e.n_events > 0) {
        es_session_event_done(e.s[SERVER], e.lanes[0], e.events[0]);
        e.events[0] = NULL;
    }
    if (e.n_channel[SERVER] > 0) {
        struct es_channel *in_ch = e.channel[SERVER][0];

        if (es_channel_recv(in_ch, &in) == 0)
            es_channel_consume(in_ch);
        (void)es_channel_send(in_ch, &m);
        (void)es_channel_end(in_ch, NULL);
    }
    (void)es_session_goaway(e.s[SERVER], 0, 0, "bye");
    env_pump(&e);
    if (ch != NULL) {
        if (es_channel_recv(ch, &in) == 0)
            es_channel_consume(ch);
        es_channel_release(ch);
    }
    env_pump(&e);
}

static void without_memory(size_t chunk)
{
    for (uint64_t n = 1; n <= 500; n++) {
        struct env_options o = {.chunk = chunk, .no_establish = 1};
        struct es_mem_stats before, after;
        size_t answers;

        es_mem_stats(&before);
        start(&o);
        es_mem_fail_nth(n);
        es_pair_establish(e.pair);
        exercise();
        es_mem_fail_nth(0);
        es_pair_cut(e.pair);
        env_wait(&e, 50 * MS);
        /* Each call that was taken is told once, and both sessions report their end. */
        answers = env_count(&e, CLIENT, ES_EV_RESPONSE) + env_count(&e, CLIENT, ES_EV_CALL_FAILED);
        CHECK(answers <= 3);
        CHECK_INT(es_session_in_flight(e.s[CLIENT]), ==, 0);
        CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_CLOSED), ==, 1);
        CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_CLOSED), ==, 1);
        env_stop(&e);
        es_mem_stats(&after);
        CHECK_INT(after.in_use, ==, before.in_use);
        if (test_failures > 0) {
            fprintf(stderr, "    when allocation %d failed, chunks of %zu\n", (int)n, chunk);
            return;
        }
    }
}

TEST(any_allocation_may_fail)
{
    without_memory(0);
    without_memory(3);
}

TEST(no_memory_for_the_last_words_only_delays_them)
{
    for (uint64_t n = 1; n < 12; n++) {
        start(NULL);
        env_pump(&e);
        for (int i = 0; i < 400; i++) /* more records than one block of the queue takes */
            env_call(&e, CLIENT, "hold", "x", NULL);
        env_pump(&e);
        es_pair_cut(e.pair);
        es_mem_fail_nth(n);
        es_pair_pump(e.pair, 0);
        es_mem_fail_nth(0);
        env_wait(&e, 50 * MS);
        CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED) + env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 400);
        CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_CLOSED), ==, 1);
        CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_CLOSED), ==, 1);
        env_stop(&e);
    }
}
