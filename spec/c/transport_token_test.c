// needs: csrc/base csrc/transport
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
/* Tokens: what a server takes for its own, and what a client keeps. TOKENS=n: how many of each kind of
 * forgery. */
#include "test.h"

#include "../../csrc/base/err.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/transport/token.h"
#include "../../csrc/transport/token_store.h"

#define WALL (UINT64_C(1700000000) * ES_SECOND)
#define HOUR (3600 * ES_SECOND)

static struct es_tokens ours, others;
static union es_addr here, port, there, six, six_other;
static ngtcp2_cid scid, odcid;

static void setup(void)
{
    uint8_t secret[32] = {1, 2, 3};

    es_tokens_init(&ours, secret);
    secret[31] = 9;
    es_tokens_init(&others, secret);
    es_addr_parse(&here, "192.0.2.1:5000");
    es_addr_parse(&port, "192.0.2.1:5001");
    es_addr_parse(&there, "192.0.2.2:5000");
    es_addr_parse(&six, "[2001:db8::1]:5000");
    es_addr_parse(&six_other, "[2001:db8::2]:5000");
    ngtcp2_cid_init(&scid, (const uint8_t *)"0123456789abcdef", 16);
    ngtcp2_cid_init(&odcid, (const uint8_t *)"fedcba98", 8);
}

static size_t make(struct es_tokens *t, int retry, uint8_t *out, const union es_addr *a, uint64_t wall)
{
    return retry ? es_tokens_make_retry(t, out, NGTCP2_PROTO_VER_V1, a, &scid, &odcid, wall)
                 : es_tokens_make_address(t, out, a, wall);
}

static enum es_token_verdict check(const uint8_t *token, size_t n, const union es_addr *a, uint64_t wall)
{
    ngtcp2_cid got;
    enum es_token_verdict v = es_tokens_check(&ours, token, n, NGTCP2_PROTO_VER_V1, a, &scid, wall, &got);

    if (v == ES_TOKEN_RETRY) {
        CHECK_MEM(got.data, got.datalen, odcid.data, odcid.datalen);
    }
    return v;
}

static int good(enum es_token_verdict v)
{
    return v == ES_TOKEN_RETRY || v == ES_TOKEN_ADDRESS;
}

TEST(genuine_tokens_are_taken_for_as_long_as_they_are_meant_to)
{
    uint8_t token[ES_TOKEN_MAX];
    struct es_tokens again;
    uint8_t secret[32] = {1, 2, 3};
    size_t n;

    setup();
    for (int i = 0; i < 2; i++) {
        const union es_addr *a = i ? &six : &here;
        /* at every place within the spans that share a key */
        for (uint64_t at = WALL; at < WALL + 30 * HOUR; at += 7 * 60 * ES_SECOND) {
            n = make(&ours, 1, token, a, at);
            CHECK_INT(n, >, 0);
            CHECK_INT(check(token, n, a, at), ==, ES_TOKEN_RETRY);
            CHECK_INT(check(token, n, a, at + ES_TOKEN_RETRY_VALID - 1), ==, ES_TOKEN_RETRY);
            CHECK_INT(check(token, n, a, at + ES_TOKEN_RETRY_VALID), ==, ES_TOKEN_FALSE);
            n = make(&ours, 0, token, a, at);
            CHECK_INT(n, >, 0);
            CHECK_INT(check(token, n, a, at), ==, ES_TOKEN_ADDRESS);
            CHECK_INT(check(token, n, a, at + ES_TOKEN_ADDRESS_VALID - 1), ==, ES_TOKEN_ADDRESS);
            CHECK_INT(check(token, n, a, at + ES_TOKEN_ADDRESS_VALID), ==, ES_TOKEN_STALE);
        }
    }
    /* a restarted server with the same secret */
    n = make(&ours, 0, token, &here, WALL);
    es_tokens_init(&again, secret);
    ours = again;
    CHECK_INT(check(token, n, &here, WALL + HOUR), ==, ES_TOKEN_ADDRESS);
    /* the client's port may be another one the next time, but not between Retry and answer */
    CHECK_INT(check(token, n, &port, WALL + HOUR), ==, ES_TOKEN_ADDRESS);
    n = make(&ours, 1, token, &here, WALL);
    CHECK_INT(check(token, n, &port, WALL), ==, ES_TOKEN_FALSE);
    /* somebody else's making, and none */
    CHECK_INT(check((const uint8_t *)"hello", 5, &here, WALL), ==, ES_TOKEN_NONE);
    CHECK_INT(check(token, 0, &here, WALL), ==, ES_TOKEN_NONE);
}

/* Each of these makes tokens that must not be taken; returns how many were. */
static long forged(int retry, long count, const char *how, uint64_t *seed)
{
    uint8_t token[ES_TOKEN_MAX];
    long taken = 0;

    for (long i = 0; i < count; i++) {
        uint64_t at = WALL + test_rand(seed) % (1000 * HOUR), now = at;
        const union es_addr *from = &here, *to = &here;
        struct es_tokens *who = &ours;
        size_t n;

        if (strcmp(how, "address") == 0) {
            from = i & 1 ? &six : &here;
            to = i & 1 ? &six_other : &there;
        } else if (strcmp(how, "expired") == 0) {
            uint64_t valid = retry ? ES_TOKEN_RETRY_VALID : ES_TOKEN_ADDRESS_VALID;
            now = at + valid + test_rand(seed) % (100 * valid);
        } else if (strcmp(how, "key") == 0) {
            who = &others;
        }
        n = make(who, retry, token, from, at);
        if (strcmp(how, "flipped") == 0) {
            token[test_rand(seed) % n] ^= (uint8_t)(1 + test_rand(seed) % 255);
        } else if (strcmp(how, "cut") == 0) {
            n = test_rand(seed) % n;
        } else if (strcmp(how, "noise") == 0) {
            for (size_t k = 1; k < n; k++) {
                token[k] = (uint8_t)test_rand(seed);
            }
        }
        taken += good(check(token, n, to, now));
    }
    return taken;
}

TEST(forged_stolen_and_old_tokens_are_not)
{
    static const char *const how[] = {"flipped", "address", "expired", "key", "cut", "noise"};
    const char *wanted = getenv("TOKENS");
    long count = wanted != NULL ? atol(wanted) : 2000, all = 0, taken = 0;
    uint64_t seed = 4711;

    setup();
    for (int retry = 0; retry < 2; retry++) {
        for (size_t i = 0; i < sizeof how / sizeof how[0]; i++) {
            long t = forged(retry, count, how[i], &seed);
            if (t != 0) {
                test_fail(__FILE__, __LINE__, "%s %s: %ld", retry ? "retry" : "address", how[i], t);
            }
            taken += t;
            all += count;
        }
    }
    fprintf(stderr, "forged tokens: %ld of %ld accepted\n", taken, all);
}

TEST(a_retry_token_is_for_one_connection_id)
{
    uint8_t token[ES_TOKEN_MAX];
    ngtcp2_cid got, other;
    size_t n;

    setup();
    n = make(&ours, 1, token, &here, WALL);
    ngtcp2_cid_init(&other, (const uint8_t *)"0123456789abcdeF", 16);
    CHECK_INT(es_tokens_check(&ours, token, n, NGTCP2_PROTO_VER_V1, &here, &other, WALL, &got), ==,
              ES_TOKEN_FALSE);
    CHECK_INT(es_tokens_check(&ours, token, n, NGTCP2_PROTO_VER_V1, &here, &scid, WALL, &got), ==,
              ES_TOKEN_RETRY);
}

TEST(a_client_keeps_the_newest_tokens_of_each_server_and_shows_each_once)
{
    struct es_token_store s = {0};
    uint8_t out[ES_TOKEN_LONG];
    struct es_mem_stats before, after;

    setup();
    es_mem_stats(&before);
    CHECK_INT(es_token_store_take(&s, &here, "a", out), ==, 0);
    es_token_store_put(&s, &here, "a", (const uint8_t *)"one", 3);
    es_token_store_put(&s, &here, "a", (const uint8_t *)"two!", 4);
    es_token_store_put(&s, &here, "b", (const uint8_t *)"three", 5);
    es_token_store_put(&s, &port, "a", (const uint8_t *)"fourth", 6);
    CHECK_INT(es_token_store_take(&s, &there, "a", out), ==, 0);
    CHECK_INT(es_token_store_take(&s, &here, "", out), ==, 0);
    CHECK_INT(es_token_store_take(&s, &here, "a", out), ==, 4);
    CHECK_MEM(out, 4, "two!", 4);
    CHECK_INT(es_token_store_take(&s, &here, "a", out), ==, 3);
    CHECK_INT(es_token_store_take(&s, &here, "a", out), ==, 0);
    CHECK_INT(es_token_store_take(&s, &here, "b", out), ==, 5);
    CHECK_INT(es_token_store_take(&s, &port, "a", out), ==, 6);
    CHECK_INT(es_token_store_count(&s), ==, 0);

    for (int i = 0; i < 10 * ES_TOKEN_STORE; i++) { /* bounded: the oldest give way */
        es_token_store_put(&s, i < ES_TOKEN_STORE ? &here : &there, "x", out, 100);
    }
    CHECK_INT(es_token_store_count(&s), ==, ES_TOKEN_STORE);
    CHECK_INT(es_token_store_take(&s, &here, "x", out), ==, 0);
    CHECK_INT(es_token_store_take(&s, &there, "x", out), ==, 100);
    memset(out, 7, sizeof out);
    es_token_store_put(&s, &here, "long", out, ES_TOKEN_LONG);
    CHECK_INT(es_token_store_take(&s, &here, "long", out), ==, ES_TOKEN_LONG);
    es_token_store_put(&s, &here, "long", out, ES_TOKEN_LONG + 1);
    CHECK_INT(es_token_store_take(&s, &here, "long", out), ==, 0);
    es_token_store_free(&s);
    es_mem_fail_nth(1); /* without memory nothing is kept */
    es_token_store_put(&s, &here, "nomem", out, 10);
    es_mem_fail_nth(0);
    CHECK_INT(es_token_store_take(&s, &here, "nomem", out), ==, 0);
    es_token_store_free(&s);
    es_mem_stats(&after);
    CHECK_INT(after.in_use, ==, before.in_use);
}
