// needs: csrc/base/mem.c csrc/base/buf.c
#include "test.h"
#include "../../csrc/base/buf.h"
#include "../../csrc/base/err.h"
#include "../../csrc/base/mem.h"

TEST(bytes_come_out_as_they_went_in)
{
    struct es_buf b = {0};
    uint8_t want[100000];
    size_t n = 0;

    for (size_t i = 0; n < 90000; i++) {
        uint8_t piece[300];
        size_t k = i % sizeof(piece);
        memset(piece, (int)i, sizeof(piece));
        memcpy(want + n, piece, k);
        n += k;
        CHECK_INT(es_buf_put(&b, piece, k), ==, ES_OK);
    }
    CHECK_MEM(b.p, b.n, want, n);
    es_buf_drop(&b, 1000);
    CHECK_MEM(b.p, b.n, want + 1000, n - 1000);
    es_buf_drop(&b, 1000000);
    CHECK_INT(b.n, ==, 0);
    es_buf_free(&b);
    CHECK(b.p == NULL && b.cap == 0);
    es_buf_free(&b);
}

TEST(an_empty_buffer_takes_nothing_and_null)
{
    struct es_buf b = {0};

    CHECK_INT(es_buf_put(&b, NULL, 0), ==, ES_OK);
    es_buf_drop(&b, 0);
    es_buf_clear(&b);
    es_buf_shrink(&b, 0);
    CHECK(b.p == NULL);
    es_buf_free(&b);
}

TEST(shrinking_gives_memory_back_only_when_the_rest_fits)
{
    struct es_buf b = {0};

    CHECK_INT(es_buf_reserve(&b, 100000), ==, ES_OK);
    b.n = 2000;
    es_buf_shrink(&b, 1000);
    CHECK_INT(b.cap, >=, 100000);
    es_buf_shrink(&b, 4096);
    CHECK_INT(b.cap, ==, 4096);
    CHECK_INT(b.n, ==, 2000);
    b.n = 0;
    es_buf_shrink(&b, 0);
    CHECK(b.p == NULL);
}

TEST(out_of_memory_and_impossible_sizes_leave_it_as_it_was)
{
    struct es_buf b = {0};

    CHECK_INT(es_buf_put(&b, "abc", 3), ==, ES_OK);
    es_mem_fail_nth(1);
    CHECK_INT(es_buf_put(&b, (uint8_t[500]){0}, 500), ==, ES_ERR_NOMEM);
    CHECK_INT(es_buf_grow(&b, SIZE_MAX), ==, ES_ERR_NOMEM);
    CHECK_MEM(b.p, b.n, "abc", 3);
    CHECK_INT(es_buf_reserve(&b, 10000), ==, ES_OK);
    es_mem_fail_nth(1);
    es_buf_shrink(&b, 100); /* cannot: the larger one stays */
    CHECK_INT(b.cap, >=, 10000);
    es_mem_fail_nth(0);
    es_buf_free(&b);
}
