// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
/* Metadata of answers. */
#include "session_env.h"

static struct env e;
static const struct es_pair_kv two[2] = {{"cost", "7", 4, 1}, {"page", "next", 4, 4}};

static void start(size_t chunk)
{
    struct env_options o = {.chunk = chunk};

    if (env_start(&e, &o) != 0) {
        fputs("env_start failed\n", stderr);
        abort();
    }
    env_add(&e, SERVER, ES_KIND_RPC, "hold", REF_HOLD, 0, 0);
    env_pump(&e);
    env_clear(&e);
}

static void check_pairs(const uint8_t *p, size_t n)
{
    struct es_kv raw = {p, n, SIZE_MAX};
    struct es_bytes k, v;
    size_t at = 0;

    for (int i = 0; i < 2; i++) {
        REQUIRE(es_kv_next(&raw, &at, &k, &v) == 1);
        CHECK_MEM(k.p, k.n, two[i].key, two[i].key_len);
        CHECK_MEM(v.p, v.n, two[i].value, two[i].value_len);
    }
    CHECK_INT(at, ==, n);
}

static struct es_call *held(void)
{
    env_call(&e, CLIENT, "hold", "x", NULL);
    env_pump(&e);
    return e.n_held > 0 ? e.held[--e.n_held] : NULL;
}

TEST(they_come_with_results_and_with_failures_in_pieces_of_any_size)
{
    static const size_t chunk[] = {0, 1, 3, 50};
    struct es_failure f = {.status = ES_STATUS_ABORTED, .processed = ES_PROCESSED_YES};
    struct env_log *l;
    struct es_call *c;

    f.details = (const uint8_t *)"why";
    f.details_len = 3;
    for (size_t i = 0; i < 4; i++) {
        start(chunk[i]);
        REQUIRE((c = held()) != NULL);
        CHECK_INT(es_call_set_trailers(c, two, 1), ==, 0);
        CHECK_INT(es_call_set_trailers(c, two, 2), ==, 0); /* instead of those before */
        CHECK_INT(es_call_respond(c, ES_CODEC_RAW, (const uint8_t *)"done", 4, NULL, NULL), ==, 0);
        env_pump(&e);
        REQUIRE((l = env_find(&e, CLIENT, ES_EV_RESPONSE, 0)) != NULL);
        CHECK_MEM(l->data, l->len, "done", 4);
        check_pairs((const uint8_t *)l->meta, l->meta_len);

        REQUIRE((c = held()) != NULL);
        CHECK_INT(es_call_set_trailers(c, two, 2), ==, 0);
        CHECK_INT(es_call_fail(c, &f), ==, 0);
        env_pump(&e);
        REQUIRE((l = env_find(&e, CLIENT, ES_EV_CALL_FAILED, 0)) != NULL);
        CHECK_MEM(l->data, l->len, "why", 3);
        check_pairs((const uint8_t *)l->meta, l->meta_len);

        REQUIRE((c = held()) != NULL);
        CHECK_INT(es_call_respond(c, ES_CODEC_RAW, NULL, 0, NULL, NULL), ==, 0);
        env_pump(&e);
        REQUIRE((l = env_find(&e, CLIENT, ES_EV_RESPONSE, 1)) != NULL);
        CHECK_INT(l->meta_len, ==, 0);
        env_stop(&e);
    }
}

TEST(those_that_may_not_be_are_refused_and_leave_none)
{
    static char big[20000];
    struct es_pair_kv wrong[3] = {{"Upper", "x", 5, 1}, {"", "x", 0, 1}, {"k", big, 1, sizeof big}};
    struct es_pair_kv twice[2] = {{"k", "1", 1, 1}, {"k", "2", 1, 1}};
    struct env_log *l;
    struct es_call *c;

    start(0);
    REQUIRE((c = held()) != NULL);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(es_call_set_trailers(c, two, 2), ==, 0);
        CHECK_INT(es_call_set_trailers(c, &wrong[i], 1), <, 0);
    }
    CHECK_INT(es_call_set_trailers(c, twice, 2), <, 0);
    CHECK_INT(es_call_respond(c, ES_CODEC_RAW, NULL, 0, NULL, NULL), ==, 0);
    env_pump(&e);
    REQUIRE((l = env_find(&e, CLIENT, ES_EV_RESPONSE, 0)) != NULL);
    CHECK_INT(l->meta_len, ==, 0);
    env_stop(&e);
}

TEST(an_abandoned_call_frees_them)
{
    struct es_call *c;

    start(0);
    REQUIRE((c = held()) != NULL);
    CHECK_INT(es_call_set_trailers(c, two, 2), ==, 0);
    es_session_close(e.s[CLIENT], 0, "");
    env_pump(&e);
    CHECK_INT(es_call_respond(c, ES_CODEC_RAW, NULL, 0, NULL, NULL), ==, ES_ERR_CLOSED);
    env_stop(&e);
}
