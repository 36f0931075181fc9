// needs: csrc/base/mem.c
#include "test.h"
#include "../../csrc/base/mem.h"

TEST(what_is_obtained_and_given_back_is_counted)
{
    struct es_mem_stats a, b;
    void *p, *q;

    es_mem_stats(&a);
    p = es_malloc(100);
    q = es_calloc(10, 10);
    REQUIRE(p != NULL && q != NULL);
    es_mem_stats(&b);
    CHECK_INT(b.allocs, ==, a.allocs + 2);
    CHECK_INT(b.in_use, >=, a.in_use + 200);
    p = es_realloc(p, 100000);
    es_mem_stats(&b);
    CHECK_INT(b.in_use, >=, a.in_use + 100100);
    es_free(p);
    es_free(q);
    es_free(NULL);
    es_mem_stats(&b);
    CHECK_INT(b.in_use, ==, a.in_use);
    CHECK_INT(b.allocs - a.allocs, ==, b.frees - a.frees);
}

TEST(calloc_zeroes_and_refuses_an_overflow)
{
    volatile size_t huge = SIZE_MAX / 2;
    uint8_t *p = es_calloc(1, 64);

    REQUIRE(p != NULL);
    for (int i = 0; i < 64; i++) {
        CHECK_INT(p[i], ==, 0);
    }
    es_free(p);
    CHECK(es_calloc(huge, 4) == NULL);
}

TEST(nothing_is_a_unique_pointer)
{
    void *p = es_malloc(0), *q = es_malloc(0), *r = es_calloc(0, 5), *s = es_realloc(NULL, 0);

    CHECK(p != NULL && q != NULL && r != NULL && s != NULL && p != q);
    es_free(p);
    es_free(q);
    es_free(r);
    es_free(s);
}

TEST(the_nth_allocation_fails_once)
{
    void *p, *q;

    es_mem_fail_nth(2);
    p = es_malloc(1);
    CHECK(p != NULL);
    CHECK(es_calloc(1, 1) == NULL);
    q = es_malloc(1);
    CHECK(q != NULL);
    es_mem_fail_nth(1);
    CHECK(es_realloc(q, 50) == NULL); /* q is still ours */
    es_mem_fail_nth(1);
    CHECK(es_realloc(NULL, 50) == NULL);
    es_mem_fail_nth(1);
    es_mem_fail_nth(0);
    es_free(q);
    q = es_malloc(1);
    CHECK(q != NULL);
    es_free(q);
    es_free(p);
}
