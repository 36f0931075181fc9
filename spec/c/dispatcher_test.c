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

/* What a call that began does. */
static struct es_method *begin(struct es_host *h, const char *name)
{
    struct es_method *m = es_host_find(h, ES_KIND_RPC, name, strlen(name));

    es_method_use(m);
    m->running++;
    return m;
}

static void end(struct es_method *m)
{
    m->running--;
    m->calls++;
    es_method_unuse(m);
}

TEST(a_registration_that_is_replaced_lives_until_its_calls_have_ended)
{
    struct es_host *h = host_new();
    struct es_method *v1, *v2, *v3;
    struct es_meter *meter;
    int ref = 0;

    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "a", 1, 0, 0, 2), ==, ES_ERR_NOT_FOUND);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a", 1, 7, 0, 0), ==, 0);
    v1 = begin(h, "a");
    meter = es_method_meter(v1);
    CHECK_INT(v1->version, ==, 1);
    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "a", 1, ES_METHOD_IDEMPOTENT, 0, 2), ==, 0);
    CHECK_INT(es_host_limit(h, ES_KIND_RPC, "a", 1, 5, 6), ==, 0);
    v2 = begin(h, "a");
    CHECK(v2 != v1 && v2->older == v1 && v1->newer == v2);
    CHECK_INT(v2->version, ==, 2);
    CHECK_INT(v2->flags, ==, ES_METHOD_IDEMPOTENT);
    CHECK_INT(v1->flags, ==, 0); /* as it began */
    CHECK_INT(v1->max_calls, ==, 0);
    CHECK_INT(v2->max_calls, ==, 6);
    CHECK_INT(v1->ref, ==, 7); /* what is queued gets the new function, which the binding puts there */
    CHECK_INT(v2->ref, ==, 7);
    CHECK(es_method_meter(v1) == meter && es_method_meter(v2) == meter);
    CHECK_INT(es_method_inside(v2), ==, 2);
    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "a", 1, 0, 0, 3), ==, 0);
    v3 = begin(h, "a");
    CHECK_INT(v3->max_calls, ==, 0); /* limits are those of the new registration */
    end(v2);                         /* the one in the middle */
    CHECK(v3->older == v1 && v1->newer == v3);
    CHECK_INT(v3->calls, ==, 1); /* its figures live on */
    end(v1);
    CHECK(v3->older == NULL);
    CHECK_INT(v3->calls, ==, 2);
    end(v3);
    CHECK(es_host_find(h, ES_KIND_RPC, "a", 1) == v3);
    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "a", 1, 0, 0, 4), ==, 0);
    CHECK(es_host_find(h, ES_KIND_RPC, "a", 1) == v3); /* nothing ran: no need for another */
    CHECK_INT(v3->version, ==, 4);
    CHECK_INT(es_host_remove(h, ES_KIND_RPC, "a", 1, &ref), ==, 0);
    host_end(h);
}

TEST(a_name_that_is_removed_leaves_every_version_to_its_calls)
{
    struct es_host *h = host_new();
    struct es_method *v1, *v2;
    struct es_meter *meter;
    int ref = 0;

    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a", 1, 7, 0, 0), ==, 0);
    v1 = begin(h, "a");
    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "a", 1, 0, 0, 2), ==, 0);
    v2 = begin(h, "a");
    meter = es_method_meter(v2);
    CHECK_INT(es_host_remove(h, ES_KIND_RPC, "a", 1, &ref), ==, 0);
    CHECK_INT(ref, ==, 7);
    CHECK_INT(v1->ref, ==, ES_NO_REF);
    CHECK_INT(v2->ref, ==, ES_NO_REF);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a", 1, 8, 0, 0), ==, 0); /* another one of that name */
    CHECK(es_host_find(h, ES_KIND_RPC, "a", 1)->older == NULL);
    end(v2);
    CHECK(es_method_meter(v1) == meter);
    end(v1);
    CHECK_INT(es_host_find(h, ES_KIND_RPC, "a", 1)->calls, ==, 0);
    host_end(h);
}

TEST(a_method_that_becomes_a_streaming_one_refuses_what_was_queued_for_the_plain_one)
{
    struct es_host *h = host_new();
    struct es_method *plain;

    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a", 1, 7, 0, 0), ==, 0);
    CHECK_INT(es_host_add(h, ES_KIND_STREAM, "s", 1, 8, 0, 0), ==, 0);
    CHECK_INT(es_host_add(h, ES_KIND_RPC, "s", 1, 9, 0, 0), ==, 0);
    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "s", 1, ES_METHOD_STREAM_IN, 0, 2), ==, ES_ERR_EXISTS);
    plain = begin(h, "a");
    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "a", 1, ES_METHOD_STREAM_OUT, 0, 2), ==, 0);
    CHECK_INT(plain->ref, ==, ES_NO_REF);
    CHECK_INT(es_host_find(h, ES_KIND_RPC, "a", 1)->ref, ==, 7);
    end(plain);
    CHECK(es_host_find(h, ES_KIND_RPC, "a", 1)->older == NULL);
    host_end(h);
}

TEST(it_refuses_what_was_queued_for_plain_versions_before_the_last_too)
{
    struct es_host *h = host_new();
    struct es_method *plain;

    CHECK_INT(es_host_add(h, ES_KIND_RPC, "a", 1, 7, 0, 0), ==, 0);
    plain = begin(h, "a");
    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "a", 1, 0, 0, 2), ==, 0);
    CHECK_INT(plain->ref, ==, 7);
    CHECK_INT(es_host_replace(h, ES_KIND_RPC, "a", 1, ES_METHOD_STREAM_OUT, 0, 3), ==, 0);
    CHECK_INT(plain->ref, ==, ES_NO_REF);
    CHECK_INT(es_host_find(h, ES_KIND_RPC, "a", 1)->ref, ==, 7);
    CHECK_INT(es_host_find(h, ES_KIND_RPC, "a", 1)->version, ==, 3);
    end(plain);
    CHECK(es_host_find(h, ES_KIND_RPC, "a", 1)->older == NULL);
    host_end(h);
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
