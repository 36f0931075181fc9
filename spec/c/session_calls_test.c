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
