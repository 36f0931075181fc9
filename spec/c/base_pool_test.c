// needs: csrc/base/mem.c csrc/base/pool.c
#include "test.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/base/pool.h"

TEST(a_steady_state_allocates_nothing)
{
    struct es_mem_stats a, b;
    struct es_pool p;
    void *obj[8];

    es_pool_init(&p, 48, 8);
    for (int round = 0; round < 100; round++) {
        if (round == 1) {
            es_mem_stats(&a);
        }
        for (int i = 0; i < 8; i++) {
            obj[i] = es_pool_get(&p);
            REQUIRE(obj[i] != NULL);
            for (int j = 0; j < 48; j++) {
                CHECK_INT(((uint8_t *)obj[i])[j], ==, 0);
            }
            memset(obj[i], 0xee, 48);
        }
        CHECK_INT(p.live, ==, 8);
        for (int i = 0; i < 8; i++) {
            es_pool_put(&p, obj[i]);
        }
    }
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
    CHECK_INT(p.idle, ==, 8);
    es_pool_free(&p);
    CHECK_INT(p.idle, ==, 0);
}

TEST(more_idle_objects_than_wanted_are_given_back)
{
    struct es_mem_stats a, b;
    struct es_pool p;
    void *obj[8];

    es_mem_stats(&a);
    es_pool_init(&p, 1, 2); /* smaller than the link it holds when idle */
    for (int i = 0; i < 8; i++) {
        obj[i] = es_pool_get(&p);
    }
    for (int i = 0; i < 8; i++) {
        es_pool_put(&p, obj[i]);
    }
    es_pool_put(&p, NULL);
    CHECK_INT(p.idle, ==, 2);
    CHECK_INT(p.live, ==, 0);
    es_pool_free(&p);
    es_mem_stats(&b);
    CHECK_INT(a.in_use, ==, b.in_use);
}

TEST(out_of_memory_is_null)
{
    struct es_pool p;

    es_pool_init(&p, 16, 2);
    es_mem_fail_nth(1);
    CHECK(es_pool_get(&p) == NULL);
    CHECK_INT(p.live, ==, 0);
    es_pool_free(&p);
}
