// needs: csrc/base/mem.c csrc/base/idmap.c
#include "test.h"
#include "../../csrc/base/err.h"
#include "../../csrc/base/map.h"
#include "../../csrc/base/mem.h"

#define N 3000

TEST(an_idmap_agrees_with_an_array)
{
    static char present[N];
    static int value[N];
    struct es_idmap m;
    uint64_t seed = 5;
    size_t n = 0;

    es_idmap_init(&m, 99);
    CHECK(es_idmap_get(&m, 1) == NULL);
    CHECK(es_idmap_remove(&m, 1) == NULL);
    for (int step = 0; step < 200000; step++) {
        unsigned i = (unsigned)(test_rand(&seed) % N);
        uint64_t key = (uint64_t)i * 4 + (i % 3 == 0 ? UINT64_C(1) << 61 : 0);
        void *was = present[i] ? &value[i] : NULL;
        CHECK(es_idmap_get(&m, key) == was);
        if (test_rand(&seed) % 2 == 0) {
            CHECK_INT(es_idmap_put(&m, key, &value[i]), ==, ES_OK);
            n += !present[i];
            present[i] = 1;
        } else {
            CHECK(es_idmap_remove(&m, key) == was);
            n -= (size_t)present[i];
            present[i] = 0;
        }
        CHECK_INT(m.n, ==, n);
    }
    es_idmap_free(&m);
    es_idmap_free(&m);
}

TEST(walking_sees_each_entry_once_and_may_remove_any_share_of_them)
{
    static int seen[N];

    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct es_idmap m;
        uint64_t key, r = seed;
        size_t it = 0, n = (size_t)(test_rand(&r) % N), removed = 0;
        void *v;

        memset(seen, 0, sizeof(seen));
        es_idmap_init(&m, seed);
        for (size_t i = 0; i < n; i++) {
            es_idmap_put(&m, i, &seen[i]);
        }
        while (es_idmap_next(&m, &it, &key, &v)) {
            CHECK(v == &seen[key]);
            seen[key]++;
            if (test_rand(&r) % 4 < seed % 5) {
                CHECK(es_idmap_remove(&m, key) == v);
                removed++;
            }
        }
        CHECK(!es_idmap_next(&m, &it, NULL, NULL));
        for (size_t i = 0; i < n; i++) {
            CHECK_INT(seen[i], ==, 1);
        }
        CHECK_INT(m.n, ==, n - removed);
        es_idmap_free(&m);
    }
}

TEST(ids_that_come_and_go_allocate_nothing)
{
    struct es_mem_stats a, b;
    struct es_idmap m;
    int v;

    es_idmap_init(&m, 1234);
    for (uint64_t id = 0; id < 200000; id++) {
        if (id == 1000) {
            es_mem_stats(&a);
        }
        CHECK_INT(es_idmap_put(&m, id * 4, &v), ==, ES_OK);
        if (id >= 100) {
            CHECK(es_idmap_remove(&m, (id - 100) * 4) == &v);
        }
    }
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
    es_idmap_free(&m);
}

TEST(a_large_map_that_is_emptied_gives_its_memory_back)
{
    struct es_mem_stats a, b;
    struct es_idmap m;
    uint64_t key;
    size_t it = 0, n = 0;
    void *v;

    es_mem_stats(&a);
    es_idmap_init(&m, 5);
    for (uint64_t id = 0; id < 10000; id++) {
        es_idmap_put(&m, id, &m);
    }
    while (es_idmap_next(&m, &it, &key, &v)) {
        es_idmap_remove(&m, key);
        n++;
    }
    CHECK_INT(n, ==, 10000);
    es_mem_stats(&b);
    CHECK_INT(a.in_use, ==, b.in_use);
    CHECK_INT(es_idmap_put(&m, 1, &m), ==, ES_OK);
    CHECK(es_idmap_get(&m, 1) == &m);
    es_idmap_free(&m);
}

TEST(replacing_refusing_null_and_running_out_of_memory)
{
    struct es_idmap m;
    int a, b;

    es_idmap_init(&m, 5);
    CHECK_INT(es_idmap_put(&m, 1, NULL), ==, ES_ERR_INVAL);
    for (uint64_t nth = 1; nth <= 2; nth++) {
        es_mem_fail_nth(nth);
        CHECK_INT(es_idmap_put(&m, 1, &a), ==, ES_ERR_NOMEM);
        CHECK_INT(m.n, ==, 0);
    }
    CHECK_INT(es_idmap_put(&m, 1, &a), ==, ES_OK);
    CHECK_INT(es_idmap_put(&m, 1, &b), ==, ES_OK);
    CHECK_INT(m.n, ==, 1);
    CHECK(es_idmap_get(&m, 1) == &b);
    CHECK(es_idmap_remove(&m, 2) == NULL);
    es_idmap_free(&m);
}
