// needs: csrc/base csrc/framing/kv.c csrc/framing/compress.c csrc/dispatch
#include <stddef.h>
#include "../../csrc/base/err.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/dispatch/host.h"
#include "test.h"

static struct es_timers timers;
static struct es_evq *q;

static void fake_rand(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    memset(out, 3, n);
}

static uint64_t fake_wall(void *ctx)
{
    (void)ctx;
    return 1;
}

static struct es_host *host_new(void)
{
    struct es_host_config cfg = {0};
    struct es_host *h = NULL;

    es_timers_init(&timers);
    if (es_evq_new(&q) != 0)
        return NULL;
    cfg.timers = &timers;
    cfg.events = q;
    cfg.rand = fake_rand;
    cfg.wall = fake_wall;
    es_limits_default(&cfg.limits);
    CHECK_INT(es_host_new(&h, &cfg), ==, 0);
    return h;
}

static void host_end(struct es_host *h)
{
    es_host_unref(h);
    es_evq_del(q);
    es_timers_free(&timers);
}

TEST(the_limits_are_those_of_the_documentation)
{
    struct es_limits l;

    es_limits_default(&l);
    CHECK_INT(l.max_message, ==, 4 << 20);
    CHECK_INT(l.max_metadata, ==, 16384);
    CHECK_INT(l.max_calls, ==, 100);
    CHECK_INT(l.max_named_streams, ==, 256);
    CHECK_INT(l.max_pending, ==, 16384);
    CHECK(l.request_timeout == 30 * ES_SECOND);
}

TEST(names_are_unique_within_a_kind)
{
    struct es_host *h = host_new();
    int ref = 0;

    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a.b", 3, 1, 0, 0), ==, 0);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a.b", 3, 2, 0, 0), ==, ES_ERR_EXISTS);
    CHECK_INT(es_host_add(h, ES_KIND_EVENT, "a.b", 3, 3, 0, 4), ==, 0);
    CHECK_INT(es_host_add(h, ES_KIND_STREAM, "a.b", 3, 4, ES_METHOD_IDEMPOTENT, 0), ==, 0);
    CHECK_INT(es_host_find(h, ES_KIND_RPC, "a.b", 3)->ref, ==, 1);
    CHECK_STR(es_host_find(h, ES_KIND_EVENT, "a.b", 3)->name, "a.b");
    CHECK_INT(es_host_find(h, ES_KIND_EVENT, "a.b", 3)->concurrent, ==, 4);
    CHECK_INT(es_host_find(h, ES_KIND_STREAM, "a.b", 3)->flags, ==, ES_METHOD_IDEMPOTENT);
    CHECK(es_host_find(h, ES_KIND_RPC, "a.", 2) == NULL);
    CHECK_INT(es_host_remove(h, ES_KIND_RPC, "a.b", 3, &ref), ==, 0);
    CHECK_INT(ref, ==, 1);
    CHECK_INT(es_host_remove(h, ES_KIND_RPC, "a.b", 3, &ref), ==, ES_ERR_NOT_FOUND);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a.b", 3, 5, 0, 0), ==, 0);
    host_end(h);
}

TEST(bad_names_and_kinds_are_refused)
{
    char longest[257];
    struct es_host *h = host_new();
    int ref;

    memset(longest, 'x', sizeof longest);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, longest, 256, 1, 0, 0), ==, 0);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, longest, 257, 1, 0, 0), ==, ES_ERR_INVAL);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "", 0, 1, 0, 0), ==, ES_ERR_INVAL);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a b", 3, 1, 0, 0), ==, ES_ERR_INVAL);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "\0", 1, 1, 0, 0), ==, ES_ERR_INVAL);
    CHECK_INT(es_host_add(h, (enum es_kind)3, "a", 1, 1, 0, 0), ==, ES_ERR_INVAL);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a", 1, ES_NO_REF, 0, 0), ==, ES_ERR_INVAL);
    CHECK_INT(es_host_remove(h, (enum es_kind)3, "a", 1, &ref), ==, ES_ERR_INVAL);
    host_end(h);
}

TEST(a_removed_method_lives_until_its_last_use)
{
    struct es_mem_stats before, after;
    struct es_host *h = host_new();
    struct es_method *m;
    int ref;

    es_mem_stats(&before);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "x", 1, 1, 0, 0), ==, 0);
    m = es_host_find(h, ES_KIND_RPC, "x", 1);
    es_method_use(m);
    es_method_use(m);
    CHECK_INT(es_host_remove(h, ES_KIND_RPC, "x", 1, &ref), ==, 0);
    CHECK_INT(m->ref, ==, ES_NO_REF);
    es_method_unuse(m);
    CHECK_STR(m->name, "x");
    es_method_unuse(m);
    host_end(h);
    es_mem_stats(&after);
    CHECK(after.in_use < before.in_use);
}

TEST(a_method_has_the_urgency_of_its_caller_unless_told)
{
    struct es_host *h = host_new();

    REQUIRE(es_host_add(h, ES_KIND_RPC, "m", 1, 1, 0, 0) == 0);
    CHECK_INT(es_host_find(h, ES_KIND_RPC, "m", 1)->priority, ==, ES_CALLERS_PRIORITY);
    CHECK_INT(es_host_prioritize(h, ES_KIND_RPC, "m", 1, 0), ==, 0);
    CHECK_INT(es_host_find(h, ES_KIND_RPC, "m", 1)->priority, ==, 0);
    CHECK_INT(es_host_prioritize(h, ES_KIND_RPC, "m", 1, 99), ==, 0);
    CHECK_INT(es_host_find(h, ES_KIND_RPC, "m", 1)->priority, ==, ES_CALLERS_PRIORITY);
    CHECK_INT(es_host_prioritize(h, ES_KIND_STREAM, "m", 1, 0), ==, ES_ERR_NOT_FOUND);
    host_end(h);
}

TEST(without_memory_nothing_is_added_and_nothing_leaks)
{
    for (uint64_t n = 1; n < 8; n++) {
        struct es_mem_stats before, after;
        struct es_host_config cfg = {0};
        struct es_host *h = NULL;
        int rc;

        es_mem_stats(&before);
        es_timers_init(&timers);
        REQUIRE(es_evq_new(&q) == 0);
        cfg.timers = &timers;
        cfg.events = q;
        cfg.rand = fake_rand;
        cfg.wall = fake_wall;
        es_mem_fail_nth(n);
        rc = es_host_new(&h, &cfg);
        if (rc == 0)
            rc = es_host_add(h, ES_KIND_RPC, "x", 1, 1, 0, 0);
        es_mem_fail_nth(0);
        CHECK(rc == 0 || rc == ES_ERR_NOMEM);
        CHECK(n > 1 || h == NULL);
        if (h != NULL)
            CHECK((es_host_find(h, ES_KIND_RPC, "x", 1) != NULL) == (rc == 0));
        host_end(h);
        es_mem_stats(&after);
        CHECK_INT(after.in_use, ==, before.in_use);
    }
}

TEST(spare_buffers_go_round_and_are_bounded)
{
    struct es_host *h = host_new();
    struct es_buf b = {0};

    es_host_take_buf(h, &b);
    CHECK(b.p == NULL);
    CHECK_INT(es_buf_reserve(&b, 100000), ==, 0);
    es_host_give_buf(h, &b);
    CHECK(b.p == NULL && b.cap == 0);
    CHECK_INT(h->n_spare, ==, 1);
    es_host_take_buf(h, &b);
    CHECK(b.cap >= 100000 && b.n == 0);
    es_buf_free(&b);
    for (int i = 0; i < ES_HOST_SPARES + 5; i++) {
        CHECK_INT(es_buf_reserve(&b, 5000), ==, 0);
        es_host_give_buf(h, &b);
    }
    CHECK_INT(h->n_spare, ==, ES_HOST_SPARES);
    CHECK_INT(es_buf_reserve(&b, 100), ==, 0);
    es_host_give_buf(h, &b); /* too small to be worth it */
    CHECK(b.p == NULL);
    host_end(h);
}
