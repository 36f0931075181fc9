// needs: csrc/base/mem.c csrc/base/map.c
#include "test.h"
#include "../../csrc/base/err.h"
#include "../../csrc/base/map.h"
#include "../../csrc/base/mem.h"

static const uint8_t seed16[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

TEST(siphash_gives_the_numbers_of_its_paper)
{
    uint8_t in[64];

    for (int i = 0; i < 64; i++) {
        in[i] = (uint8_t)i;
    }
    CHECK(es_siphash(seed16, in, 15) == UINT64_C(0xa129ca6149be45e5));
    CHECK(es_siphash(seed16, in, 0) == UINT64_C(0x726fdb47dd0e0e31));
    CHECK(es_siphash(seed16, in, 1) == UINT64_C(0x74f839c593dc67fd));
    CHECK(es_siphash(seed16, in, 8) == UINT64_C(0x93f5f5799a932462));
    CHECK(es_siphash(seed16, in, 63) == UINT64_C(0x958a324ceb064572));
}

/* A name of any length that belongs to a number; its bytes lie in `buf`. */
static size_t name_of(unsigned i, char *buf, size_t cap)
{
    size_t n = (size_t)snprintf(buf, cap, "%u", i);

    while (n < i % 40) {
        buf[n++] = '.';
    }
    return n;
}

TEST(a_map_agrees_with_an_array)
{
    static char present[2000];
    static int value[2000];
    struct es_map m;
    uint64_t seed = 11;
    size_t n = 0;

    memset(present, 0, sizeof(present));
    es_map_init(&m, seed16);
    for (int step = 0; step < 60000; step++) {
        unsigned i = (unsigned)(test_rand(&seed) % 2000);
        char name[64];
        size_t len = name_of(i, name, sizeof(name));
        void *was = present[i] ? &value[i] : NULL;
        CHECK(es_map_get(&m, name, len) == was);
        if (test_rand(&seed) % 2 == 0) {
            CHECK_INT(es_map_put(&m, name, len, &value[i]), ==, ES_OK);
            n += !present[i];
            present[i] = 1;
        } else {
            CHECK(es_map_remove(&m, name, len) == was);
            n -= (size_t)present[i];
            present[i] = 0;
        }
        CHECK_INT(m.n, ==, n);
        CHECK(m.used >= m.n && (m.used < m.cap || m.cap == 0));
    }
    es_map_free(&m);
    es_map_free(&m);
}

TEST(walking_a_map_sees_each_entry_once_and_may_remove_it)
{
    static int value[1000];
    struct es_map m;
    size_t it = 0, len, seen = 0;
    const void *key;
    void *v;

    memset(value, 0, sizeof(value));
    es_map_init(&m, seed16);
    CHECK(!es_map_next(&m, &it, &key, &len, &v));
    for (unsigned i = 0; i < 1000; i++) {
        char name[64];
        es_map_put(&m, name, name_of(i, name, sizeof(name)), &value[i]);
    }
    it = 0;
    while (es_map_next(&m, &it, &key, &len, &v)) {
        char copy[64];
        memcpy(copy, key, len);
        ++*(int *)v;
        seen++;
        if (seen % 2 == 0) {
            CHECK(es_map_remove(&m, copy, len) == v);
        }
    }
    CHECK_INT(seen, ==, 1000);
    CHECK_INT(m.n, ==, 500);
    for (int i = 0; i < 1000; i++) {
        CHECK_INT(value[i], ==, 1);
    }
    CHECK(!es_map_next(&m, &it, NULL, NULL, NULL));
    es_map_free(&m);
}

TEST(keys_that_come_and_go_do_not_make_a_map_grow)
{
    struct es_map m;
    int v;

    es_map_init(&m, seed16);
    for (unsigned i = 0; i < 100000; i++) {
        char name[64];
        es_map_put(&m, name, name_of(i, name, sizeof(name)), &v);
        if (i >= 10) {
            CHECK(es_map_remove(&m, name, name_of(i - 10, name, sizeof(name))) == &v);
        }
    }
    CHECK_INT(m.cap, <=, 64);
    es_map_free(&m);
}

TEST(the_empty_key_and_a_replaced_value)
{
    struct es_map m;
    int a, b;

    es_map_init(&m, seed16);
    CHECK(es_map_get(&m, NULL, 0) == NULL);
    CHECK(es_map_remove(&m, "x", 1) == NULL);
    CHECK_INT(es_map_put(&m, NULL, 0, &a), ==, ES_OK);
    CHECK_INT(es_map_put(&m, "", 0, &b), ==, ES_OK);
    CHECK_INT(m.n, ==, 1);
    CHECK(es_map_get(&m, NULL, 0) == &b);
    CHECK_INT(es_map_put(&m, "x", 1, NULL), ==, ES_ERR_INVAL);
    es_map_free(&m);
}

TEST(a_map_out_of_memory_is_as_it_was)
{
    char key[200];
    struct es_map m;
    int v;

    memset(key, 'k', sizeof(key));
    es_map_init(&m, seed16);
    es_mem_fail_nth(1);
    CHECK_INT(es_map_put(&m, key, 5, &v), ==, ES_ERR_NOMEM);
    CHECK_INT(es_map_put(&m, key, 5, &v), ==, ES_OK);
    es_mem_fail_nth(1);
    CHECK_INT(es_map_put(&m, key, 100, &v), ==, ES_ERR_NOMEM); /* the key's copy */
    CHECK_INT(m.n, ==, 1);
    for (size_t n = 6; m.used + 1 <= m.cap / 4 * 3; n++) {
        CHECK_INT(es_map_put(&m, key, n, &v), ==, ES_OK);
    }
    size_t n = m.n;
    es_mem_fail_nth(1);
    CHECK_INT(es_map_put(&m, key, 150, &v), ==, ES_ERR_NOMEM); /* the larger table */
    CHECK_INT(m.n, ==, n);
    CHECK(es_map_get(&m, key, 5) == &v);
    es_map_free(&m);
}
