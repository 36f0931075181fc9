// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
#include "session_env.h"

static struct env e;

TEST(both_sides_open_and_learn_about_each_other)
{
    struct es_pair_kv cred = {"token", "s3cret", 5, 6};
    struct env_options o = {.credentials = &cred, .n_credentials = 1};
    struct es_kv kv = {0};
    struct es_bytes k, v;
    size_t at = 0;

    REQUIRE(env_start(&e, &o) == 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_OPEN), ==, 1);
    CHECK_INT(env_count(&e, SERVER, ES_EV_SESSION_OPEN), ==, 1);
    CHECK_STR(es_session_agent(e.s[SERVER]), "spec-client");
    CHECK_STR(es_session_agent(e.s[CLIENT]), "spec-server");
    kv.p = es_session_credentials(e.s[SERVER], &kv.n);
    REQUIRE(es_kv_next(&kv, &at, &k, &v) == 1);
    CHECK_MEM(k.p, k.n, "token", 5);
    CHECK_MEM(v.p, v.n, "s3cret", 6);
    CHECK(es_session_is_open(e.s[CLIENT]));
    CHECK(es_session_is_open(e.s[SERVER]));
    CHECK(es_session_id(e.s[SERVER]) != es_session_id(e.s[CLIENT]));
    env_stop(&e);
}

static void round_trip(int from, size_t chunk)
{
    struct env_options o = {.chunk = chunk};
    struct env_log *l;
    int tag;

    REQUIRE(env_start(&e, &o) == 0);
    env_add(&e, !from, ES_KIND_RPC, "echo", REF_ECHO, ES_METHOD_IDEMPOTENT, 0);
    env_add(&e, !from, ES_KIND_RPC, "fail", REF_FAIL, 0, 0);
    env_add(&e, !from, ES_KIND_RPC, "nothing", REF_NOTHING, 0, 0);
    if (from == SERVER)
        env_pump(&e);
    env_call(&e, from, "echo", "hello", &tag);
    env_call(&e, from, "echo", "", NULL);
    env_call(&e, from, "fail", "why", &tag);
    env_call(&e, from, "nothing", "xxx", NULL);
    env_call(&e, from, "no.such", "xxx", NULL);
    CHECK_INT(es_session_in_flight(e.s[from]), ==, 5);
    env_pump(&e);
    CHECK_INT(es_session_in_flight(e.s[from]), ==, 0);
    REQUIRE(env_count(&e, from, ES_EV_RESPONSE) == 3);
    REQUIRE(env_count(&e, from, ES_EV_CALL_FAILED) == 2);
    for (size_t i = 0; i < 3; i++) {
        l = env_find(&e, from, ES_EV_RESPONSE, i);
        if (l->user == &tag) {
            CHECK_MEM(l->data, l->len, "hello", 5);
            CHECK_INT(l->idempotent, ==, 1);
        } else {
            CHECK_INT(l->len, ==, 0);
        }
        CHECK_INT(l->codec, ==, ES_CODEC_MSGPACK);
    }
    for (size_t i = 0; i < 2; i++) {
        l = env_find(&e, from, ES_EV_CALL_FAILED, i);
        if (l->user == &tag) {
            CHECK_INT(l->status, ==, ES_STATUS_UNKNOWN);
            CHECK_STR(l->text, "odd_code");
            CHECK_STR(l->message, "no luck");
            CHECK_INT(l->processed, ==, ES_PROCESSED_YES);
            CHECK_INT(l->retry_after_ms, ==, 70);
            CHECK_MEM(l->data, l->len, "why", 3);
        } else {
            CHECK_INT(l->status, ==, ES_STATUS_METHOD_NOT_FOUND);
            CHECK_STR(l->text, "method_not_found");
            CHECK_STR(l->message, "no method no.such");
            CHECK_INT(l->processed, ==, ES_PROCESSED_NO);
        }
    }
    env_stop(&e);
}

TEST(calls_go_both_ways_in_pieces_of_any_size)
{
    static const size_t chunk[] = {0, 1, 2, 7, 100};

    for (size_t i = 0; i < 5; i++) {
        round_trip(CLIENT, chunk[i]);
        round_trip(SERVER, chunk[i]);
    }
}

static void start(const struct env_options *o)
{
    if (env_start(&e, o) != 0) {
        fputs("env_start failed\n", stderr);
        abort();
    }
    for (int i = 0; i < 2; i++) {
        env_add(&e, i, ES_KIND_RPC, "echo", REF_ECHO, 0, 0);
        env_add(&e, i, ES_KIND_RPC, "hold", REF_HOLD, 0, 0);
    }
    env_pump(&e);
    env_clear(&e);
}

static struct es_host_stats stats_of(int side)
{
    struct es_host_stats st;

    es_host_stats_get(e.host[side], &st);
    return st;
}

static int respond(size_t i, const char *text)
{
    struct es_call *c = e.held[i];

    e.held[i] = NULL;
    return es_call_respond(c, 1, (const uint8_t *)text, strlen(text), NULL, NULL);
}

/* ---- cancelling ---- */

TEST(a_call_cancelled_before_anything_went_out_runs_nowhere)
{
    struct es_call *c;

    start(NULL);
    c = env_call(&e, CLIENT, "echo", "x", NULL);
    es_call_cancel(c, ES_APP_CANCELLED);
    env_pump(&e);
    CHECK_INT(e.n_log, ==, 0);
    CHECK_INT(es_session_in_flight(e.s[CLIENT]), ==, 0);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
    CHECK_INT(stats_of(CLIENT).calls_cancelled, ==, 1);
    env_stop(&e);
}

TEST(a_call_cancelled_while_its_handler_runs_tells_the_handler)
{
    struct es_call *c;
    struct env_log *l;
    int tag;

    start(NULL);
    c = env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    REQUIRE(e.n_held == 1);
    es_call_set_user(e.held[0], &tag);
    es_call_cancel(c, ES_APP_CANCELLED);
    env_pump(&e);
    l = env_find(&e, SERVER, ES_EV_CALL_CANCELLED, 0);
    REQUIRE(l != NULL);
    CHECK(l->what == e.held[0]);
    CHECK(l->user == &tag);
    CHECK_INT(l->code, ==, ES_APP_CANCELLED);
    CHECK(es_call_cancelled(e.held[0]));
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 1);
    CHECK_INT(respond(0, "late"), ==, ES_ERR_CLOSED);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE) + env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 0);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CALL_CANCELLED), ==, 1);
    env_stop(&e);
}

TEST(a_call_cancelled_while_it_is_queued_is_not_admitted)
{
    struct es_call *c;
    struct env_log *l;

    start(NULL);
    c = env_call(&e, CLIENT, "echo", "x", NULL);
    es_pair_pump(e.pair, 0); /* the request is in the server's queue */
    CHECK_INT(es_evq_len(e.q[SERVER]), ==, 1);
    es_call_cancel(c, ES_APP_CANCELLED);
    while (es_pair_pump(e.pair, 0))
        ;
    env_drain(&e);
    l = env_find(&e, SERVER, ES_EV_REQUEST, 0);
    REQUIRE(l != NULL);
    CHECK_INT(l->opened, ==, ES_ERR_CLOSED); /* what admit said */
    CHECK_INT(env_count(&e, SERVER, ES_EV_CALL_CANCELLED), ==, 0);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
    env_pump(&e);
    env_stop(&e);
}

TEST(a_call_cancelled_when_its_answer_is_queued_gives_no_event)
{
    struct es_call *c;

    start(NULL);
    c = env_call(&e, CLIENT, "echo", "x", NULL);
    for (int i = 0; i < 4 && es_evq_len(e.q[CLIENT]) == 0; i++) {
        struct es_event *ev;

        es_pair_pump(e.pair, 0);
        while ((ev = es_evq_peek(e.q[SERVER])) != NULL) {
            env_request(&e, (struct es_ev_message *)ev);
            es_session_pop(e.q[SERVER]);
        }
    }
    CHECK_INT(es_evq_len(e.q[CLIENT]), ==, 1);
    es_call_cancel(c, ES_APP_CANCELLED);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 0);
    env_stop(&e);
}

/* ---- deadlines ---- */

TEST(the_caller_sees_the_deadline_and_the_handler_is_told)
{
    struct es_call_opts o;
    struct env_log *l;

    start(NULL);
    es_call_opts_default(&o);
    o.deadline = e.timers.now + 50 * MS;
    CHECK_INT(es_session_request(e.s[CLIENT], "hold", 4, &o, NULL, 0, NULL, NULL, NULL, NULL), ==, 0);
    env_wait(&e, 48 * MS);
    REQUIRE(e.n_held == 1);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 0);
    CHECK(es_call_deadline(e.held[0]) <= e.timers.now + 10 * MS);
    env_wait(&e, 10 * MS);
    l = env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0);
    REQUIRE(l != NULL);
    CHECK_STR(l->text, "timeout");
    CHECK_INT(l->processed, ==, ES_PROCESSED_MAYBE);
    l = env_find(&e, SERVER, ES_EV_CALL_CANCELLED, 0);
    REQUIRE(l != NULL);
    CHECK_INT(l->code, ==, ES_APP_DEADLINE);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CALL_CANCELLED), ==, 1);
    respond(0, "");
    env_pump(&e);
    CHECK_INT(stats_of(CLIENT).calls_timed_out, ==, 1);
    env_stop(&e);
}

TEST(the_default_deadline_is_the_hosts_and_never_is_never)
{
    struct es_call_opts o;
    struct es_call *c;

    start(NULL);
    c = env_call(&e, CLIENT, "hold", "", NULL);
    CHECK_INT(es_call_deadline(c), ==, e.timers.now + 30 * ES_SECOND);
    es_call_opts_default(&o);
    o.deadline = ES_NEVER;
    CHECK_INT(es_session_request(e.s[CLIENT], "hold", 4, &o, NULL, 0, NULL, NULL, NULL, &c), ==, 0);
    env_pump(&e);
    REQUIRE(e.n_held == 2);
    CHECK(es_call_deadline(e.held[1]) == ES_NEVER);
    env_wait(&e, 31 * ES_SECOND);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 1);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CALL_CANCELLED), ==, 1);
    respond(1, "ok");
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 1);
    env_stop(&e);
}

/* ---- limits ---- */

TEST(only_suspended_handlers_count_against_max_calls)
{
    struct env_options o = {.has_limits = 1};
    struct env_log *l;

    es_limits_default(&o.limits[CLIENT]);
    es_limits_default(&o.limits[SERVER]);
    o.limits[SERVER].max_calls = 3;
    start(&o);
    for (int i = 0; i < 1000; i++)
        env_call(&e, CLIENT, "echo", "x", NULL);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 1000);
    env_clear(&e);
    for (int i = 0; i < 3; i++)
        env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 0);
    env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    CHECK_INT(e.n_held, ==, 3);
    l = env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0);
    REQUIRE(l != NULL);
    CHECK_STR(l->text, "resource_exhausted");
    CHECK_INT(l->processed, ==, ES_PROCESSED_NO);
    respond(0, "");
    env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    CHECK_INT(e.n_held, ==, 4);
    CHECK_INT(stats_of(SERVER).calls_in_refused, ==, 1);
    env_stop(&e);
}

TEST(calls_beyond_the_stream_allowance_wait_and_are_all_answered)
{
    struct env_options o = {.bidi = 4};

    start(&o);
    for (int i = 0; i < 200; i++)
        env_call(&e, CLIENT, "echo", "x", NULL);
    CHECK_INT(es_session_in_flight(e.s[CLIENT]), ==, 200);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 200);
    CHECK_INT(es_session_in_flight(e.s[CLIENT]), ==, 0);
    env_stop(&e);
}

static int released;

static void on_release(void *arg)
{
    (void)arg;
    released++;
}

TEST(waiting_calls_are_bounded_expire_and_can_be_cancelled)
{
    static const uint8_t big[5000] = {7};
    struct env_options o = {.bidi = 2, .has_limits = 1};
    struct es_call *c, *anchored;
    struct env_log *l;

    es_limits_default(&o.limits[CLIENT]);
    es_limits_default(&o.limits[SERVER]);
    o.limits[CLIENT].max_pending = 3;
    o.limits[CLIENT].request_timeout = 100 * MS;
    released = 0;
    start(&o);
    env_call(&e, CLIENT, "hold", "x", NULL);
    env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    c = env_call(&e, CLIENT, "echo", "x", NULL);
    CHECK_INT(
        es_session_request(e.s[CLIENT], "echo", 4, NULL, big, sizeof big, on_release, NULL, NULL, &anchored),
        ==, 0);
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, NULL, big, sizeof big, on_release, NULL, NULL, NULL),
              ==, 0);
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, NULL, big, sizeof big, on_release, NULL, NULL, NULL),
              ==, ES_ERR_LIMIT);
    CHECK_INT(released, ==, 0);
    es_call_cancel(c, ES_APP_CANCELLED);
    es_call_cancel(anchored, ES_APP_CANCELLED);
    CHECK_INT(released, ==, 1);
    env_wait(&e, 110 * MS);
    CHECK_INT(released, ==, 2);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CALL_FAILED), ==, 3);
    for (size_t i = 0; i < 3; i++) {
        l = env_find(&e, CLIENT, ES_EV_CALL_FAILED, i);
        CHECK_STR(l->text, "timeout");
    }
    /* The one that waited certainly did not run. */
    CHECK_INT(env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0)->processed +
                  env_find(&e, CLIENT, ES_EV_CALL_FAILED, 1)->processed +
                  env_find(&e, CLIENT, ES_EV_CALL_FAILED, 2)->processed,
              ==, 2 * ES_PROCESSED_MAYBE);
    env_stop(&e);
}

TEST(names_metadata_and_sizes_are_checked_before_anything_is_sent)
{
    struct es_pair_kv kv[65];
    struct env_options opt = {.has_limits = 1};
    struct es_call_opts o;
    uint8_t *big = calloc(1, 2001);

    es_limits_default(&opt.limits[CLIENT]);
    es_limits_default(&opt.limits[SERVER]);
    opt.limits[SERVER].max_message = 2000;
    start(&opt);
    es_call_opts_default(&o);
    o.metadata = kv;
    for (int i = 0; i < 65; i++)
        kv[i] = (struct es_pair_kv){"k", "v", 1, 1};
    o.n_metadata = 2;
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, &o, NULL, 0, NULL, NULL, NULL, NULL), ==,
              ES_ERR_INVAL);
    kv[0].key = "UPPER";
    kv[0].key_len = 5;
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, &o, NULL, 0, NULL, NULL, NULL, NULL), ==,
              ES_ERR_INVAL);
    CHECK_INT(es_session_request(e.s[CLIENT], "", 0, NULL, NULL, 0, NULL, NULL, NULL, NULL), ==,
              ES_ERR_INVAL);
    CHECK_INT(es_session_request(e.s[CLIENT], "a b", 3, NULL, NULL, 0, NULL, NULL, NULL, NULL), ==,
              ES_ERR_INVAL);
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, NULL, big, 2001, NULL, NULL, NULL, NULL), ==,
              ES_ERR_TOO_LARGE);
    CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, NULL, big, 2000, NULL, NULL, NULL, NULL), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 1);
    /* The other way the answer is what is too large. */
    env_clear(&e);
    env_call(&e, SERVER, "hold", "", NULL);
    env_pump(&e);
    REQUIRE(e.n_held == 1);
    CHECK_INT(es_call_respond(e.held[0], 1, big, 2001, NULL, NULL), ==, ES_ERR_TOO_LARGE);
    e.held[0] = NULL;
    env_pump(&e);
    REQUIRE(env_count(&e, SERVER, ES_EV_CALL_FAILED) == 1);
    CHECK_STR(env_find(&e, SERVER, ES_EV_CALL_FAILED, 0)->text, "resource_exhausted");
    CHECK_INT(env_find(&e, SERVER, ES_EV_CALL_FAILED, 0)->processed, ==, ES_PROCESSED_YES);
    CHECK_INT(es_session_in_flight(e.s[CLIENT]), ==, 0);
    free(big);
    env_stop(&e);
}

TEST(metadata_codec_priority_and_attempt_arrive)
{
    struct es_pair_kv kv[2] = {{"trace", "abc", 5, 3}, {"empty", "", 5, 0}};
    struct es_call_opts o;
    struct es_bytes k, v;
    struct es_kv raw = {0};
    size_t at = 0;

    start(NULL);
    env_add(&e, SERVER, ES_KIND_RPC, "hold.any", REF_HOLD, ES_METHOD_IDEMPOTENT, 0);
    es_call_opts_default(&o);
    o.metadata = kv;
    o.n_metadata = 2;
    o.codec = ES_CODEC_JSON;
    o.retry = 1;
    o.request_id = 77;
    o.idempotent = 1;
    o.priority = 0;
    CHECK_INT(es_session_request(e.s[CLIENT], "hold.any", 8, &o, NULL, 0, NULL, NULL, NULL, NULL), ==, 0);
    env_pump(&e);
    REQUIRE(e.n_held == 1);
    CHECK_INT(es_call_request_id(e.held[0]), ==, 77);
    CHECK_INT(es_call_idempotent(e.held[0]), ==, 1);
    CHECK_INT(es_call_limited(e.held[0]), ==, 0);
    REQUIRE(es_session_peer_instance(e.s[SERVER]) != NULL);
    CHECK_INT(es_session_request_id(e.s[CLIENT]), !=, es_session_request_id(e.s[CLIENT]));
    CHECK_INT(es_call_attempt(e.held[0]), ==, 2);
    CHECK_INT(env_find(&e, SERVER, ES_EV_REQUEST, 0)->codec, ==, ES_CODEC_JSON);
    CHECK_INT(env_find(&e, SERVER, ES_EV_REQUEST, 0)->idempotent, ==, 1);
    raw.p = es_call_metadata(e.held[0], &raw.n);
    REQUIRE(es_kv_next(&raw, &at, &k, &v) == 1);
    CHECK_MEM(k.p, k.n, "trace", 5);
    CHECK_MEM(v.p, v.n, "abc", 3);
    REQUIRE(es_kv_next(&raw, &at, &k, &v) == 1);
    CHECK_MEM(k.p, k.n, "empty", 5);
    CHECK_INT(v.n, ==, 0);
    CHECK_INT(es_kv_next(&raw, &at, &k, &v), ==, 0);
    env_stop(&e);
}

/* ---- long messages ---- */

TEST(messages_longer_than_the_window_pass_both_ways)
{
    static const size_t sizes[] = {1000, 65536, 70000, 1 << 20, 4 << 20};
    static const size_t windows[] = {600, 16384, 262144};

    for (size_t w = 0; w < 3; w++) {
        for (size_t i = 0; i < 5; i++) {
            struct env_options o = {.window = windows[w], .chunk = 5000};
            size_t n = sizes[i];
            uint8_t *p = malloc(n);

            if (windows[w] == 600 && n > 70000) { /* hundreds of rounds more and nothing new */
                free(p);
                continue;
            }
            for (size_t j = 0; j < n; j++)
                p[j] = (uint8_t)(j * 31 + (j >> 8));
            start(&o);
            released = 0;
            CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, NULL, p, n, on_release, NULL, NULL, NULL),
                      ==, 0);
            env_pump(&e);
            REQUIRE(env_count(&e, CLIENT, ES_EV_RESPONSE) == 1);
            CHECK_INT(env_find(&e, CLIENT, ES_EV_RESPONSE, 0)->len, ==, n);
            CHECK_MEM(env_find(&e, CLIENT, ES_EV_RESPONSE, 0)->data, 256, p, 256);
            CHECK_INT(released, ==, 1);
            CHECK_INT(es_pair_link(e.pair, 0)->held, ==, 0);
            CHECK_INT(es_pair_link(e.pair, 1)->held, ==, 0);
            env_stop(&e);
            free(p);
        }
    }
}

TEST(long_messages_take_turns_when_the_connection_is_full)
{
    struct env_options o = {.window = 16384, .chunk = 5000};
    size_t n = 3 << 20;
    uint8_t *p = calloc(1, n);

    start(&o);
    for (int i = 0; i < 12; i++)
        CHECK_INT(es_session_request(e.s[CLIENT], "echo", 4, NULL, p, n, on_release, NULL, NULL, NULL), ==,
                  0);
    while (env_count(&e, CLIENT, ES_EV_RESPONSE) < 12 && es_pair_link(e.pair, 1)->held < (64 << 20)) {
        uint64_t before = e.timers.now;

        env_wait(&e, 25 * MS);
        if (before > 1020 * ES_SECOND)
            break;
    }
    CHECK_INT(env_count(&e, CLIENT, ES_EV_RESPONSE), ==, 12);
    CHECK_INT(es_pair_link(e.pair, 0)->held, ==, 0);
    CHECK_INT(es_pair_link(e.pair, 1)->held, ==, 0);
    free(p);
    env_stop(&e);
}

/* ---- speed ---- */

static uint64_t allocs(void)
{
    struct es_mem_stats st;

    es_mem_stats(&st);
    return st.allocs;
}

TEST(ten_thousand_calls_allocate_nothing_of_ours)
{
    uint64_t per_round, before;
    struct es_link_stream *ls;
    int i;

    start(NULL);
    e.quiet = 1;
    for (i = 0; i < 200; i++) {
        env_call(&e, CLIENT, "echo", "warm", NULL);
        if (i % 20 == 19)
            env_pump(&e);
    }
    /* What the pair itself needs for a stream that is written once in each direction. */
    (void)ls;
    before = allocs();
    for (i = 0; i < 1000; i++) {
        env_call(&e, CLIENT, "echo", "thirty-two bytes of payload here", NULL);
        if (i % 20 == 19)
            env_pump(&e);
    }
    per_round = (allocs() - before) / 1000;
    CHECK_INT(per_round, ==, 3); /* the pair: a stream and one chunk each way */
    before = allocs();
    for (i = 0; i < 10000; i++) {
        env_call(&e, CLIENT, "echo", "thirty-two bytes of payload here", NULL);
        if (i % 20 == 19)
            env_pump(&e);
    }
    CHECK_INT(allocs() - before, ==, 30000);
    env_stop(&e);
}
