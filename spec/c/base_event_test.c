// needs: csrc/base/mem.c csrc/base/event.c
#include "test.h"
#include "../../csrc/base/err.h"
#include "../../csrc/base/event.h"
#include "../../csrc/base/mem.h"

struct record {
    struct es_event h;
    uint64_t number;
    uint8_t rest[];
};

static void *push(struct es_evq *q, uint64_t number, size_t extra)
{
    struct record *r = es_evq_push(q, (unsigned)(number & 0xffff), q, sizeof(*r) + extra);

    if (r != NULL) {
        CHECK_INT(r->number, ==, 0);
        r->number = number;
        memset(r->rest, (int)number, extra);
    }
    return r;
}

/* Looks at the oldest record, checks it, and drops it. */
static void pop(struct es_evq *q, uint64_t number, size_t extra)
{
    struct record *r = (struct record *)es_evq_peek(q);

    REQUIRE(r != NULL);
    CHECK_INT(r->number, ==, number);
    CHECK_INT(r->h.type, ==, number & 0xffff);
    CHECK(r->h.owner == q);
    CHECK_INT(r->h.size, ==, (sizeof(*r) + extra + 15) / 16 * 16);
    CHECK_INT((uintptr_t)r % 16, ==, 0);
    for (size_t i = 0; i < extra; i++) {
        if (r->rest[i] != (uint8_t)number) {
            CHECK_INT(r->rest[i], ==, (uint8_t)number);
            break;
        }
    }
    es_evq_pop(q);
}

TEST(records_come_out_in_order_and_keep_their_bytes)
{
    struct es_evq *q;
    uint64_t in = 0, out = 0, seed = 3, sizes[4096];

    REQUIRE(es_evq_new(&q) == ES_OK);
    CHECK(es_evq_peek(q) == NULL);
    for (int i = 0; i < 40000; i++) {
        if (test_rand(&seed) % 2 == 0 && in - out < 4096) {
            size_t extra = test_rand(&seed) % (test_rand(&seed) % 100 == 0 ? 200000 : 400);
            sizes[in % 4096] = extra;
            REQUIRE(push(q, in, extra) != NULL);
            in++;
        } else if (out < in) {
            pop(q, out, sizes[out % 4096]);
            out++;
        }
        CHECK_INT(es_evq_len(q), ==, in - out);
    }
    es_evq_del(q); /* with records in it */
    es_evq_del(NULL);
}

TEST(a_record_is_where_it_was_while_others_are_pushed)
{
    struct es_evq *q;
    struct es_event *first;

    REQUIRE(es_evq_new(&q) == ES_OK);
    push(q, 1, 100);
    first = es_evq_peek(q);
    for (uint64_t i = 2; i < 5000; i++) {
        push(q, i, 100);
    }
    CHECK(es_evq_peek(q) == first);
    for (uint64_t i = 1; i < 5000; i++) {
        pop(q, i, 100);
    }
    CHECK(es_evq_peek(q) == NULL);
    es_evq_del(q);
}

TEST(a_steady_state_allocates_nothing)
{
    struct es_evq *q;
    struct es_mem_stats a, b;

    REQUIRE(es_evq_new(&q) == ES_OK);
    for (int round = 0; round < 50; round++) {
        if (round == 1) {
            es_mem_stats(&a);
        }
        for (uint64_t i = 0; i < 5000; i++) {
            push(q, i, 200);
        }
        for (uint64_t i = 0; i < 5000; i++) {
            pop(q, i, 200);
        }
    }
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
    es_evq_del(q);
}

TEST(a_burst_gives_its_memory_back)
{
    struct es_evq *q;
    struct es_mem_stats a, b;

    es_mem_stats(&a);
    REQUIRE(es_evq_new(&q) == ES_OK);
    for (uint64_t i = 0; i < 1000; i++) {
        push(q, i, 60000);
    }
    for (uint64_t i = 0; i < 1000; i++) {
        pop(q, i, 60000);
    }
    es_mem_stats(&b);
    CHECK_INT(b.in_use - a.in_use, <, 3 << 20);
    es_evq_del(q);
    es_mem_stats(&b);
    CHECK_INT(b.in_use, ==, a.in_use);
}

TEST(a_record_larger_than_a_block_is_freed_when_popped)
{
    struct es_evq *q;
    struct es_mem_stats a, b;

    REQUIRE(es_evq_new(&q) == ES_OK);
    push(q, 1, 10);
    es_mem_stats(&a);
    push(q, 2, 4 << 20);
    push(q, 3, 10);
    pop(q, 1, 10);
    pop(q, 2, 4 << 20);
    es_mem_stats(&b);
    CHECK_INT(b.in_use - a.in_use, <, 70000);
    pop(q, 3, 10);
    push(q, 4, 1 << 20); /* alone */
    pop(q, 4, 1 << 20);
    push(q, 5, 1);
    pop(q, 5, 1);
    es_evq_del(q);
}

TEST(the_first_bytes_are_zero_even_in_a_used_block)
{
    struct es_evq *q;
    uint8_t *r;

    REQUIRE(es_evq_new(&q) == ES_OK);
    for (int round = 0; round < 3; round++) {
        r = es_evq_push(q, 9, NULL, 1024);
        REQUIRE(r != NULL);
        for (size_t i = sizeof(struct es_event); i < sizeof(struct es_event) + 128; i++) {
            CHECK_INT(r[i], ==, 0);
        }
        memset(r + sizeof(struct es_event), 0xff, 1024 - sizeof(struct es_event));
        es_evq_pop(q);
    }
    es_evq_del(q);
}

TEST(a_size_below_the_head_is_a_head)
{
    struct es_evq *q;

    REQUIRE(es_evq_new(&q) == ES_OK);
    REQUIRE(es_evq_push(q, 1, NULL, 0) != NULL);
    CHECK_INT(es_evq_peek(q)->size, ==, sizeof(struct es_event));
    es_evq_pop(q);
    es_evq_del(q);
}

TEST(out_of_memory_is_null_and_loses_nothing)
{
    struct es_evq *q;

    es_mem_fail_nth(1);
    CHECK_INT(es_evq_new(&q), ==, ES_ERR_NOMEM);
    REQUIRE(es_evq_new(&q) == ES_OK);
    es_mem_fail_nth(1);
    CHECK(push(q, 1, 10) == NULL);
    push(q, 2, 10);
    es_mem_fail_nth(1);
    CHECK(push(q, 3, 100000) == NULL);
    es_mem_fail_nth(0);
    CHECK(es_evq_push(q, 1, NULL, (size_t)UINT32_MAX) == NULL);
    pop(q, 2, 10);
    CHECK(es_evq_peek(q) == NULL);
    es_evq_del(q);
}
