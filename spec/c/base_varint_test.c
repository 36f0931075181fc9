// needs: csrc/base/varint.c
#include "test.h"
#include "../../csrc/base/varint.h"

TEST(the_examples_of_rfc_9000_appendix_a)
{
    static const struct {
        const char *hex;
        uint64_t value;
    } row[] = {{"c2197c5eff14e88c", UINT64_C(151288809941952652)},
               {"9d7f3e7d", 494878333},
               {"7bbd", 15293},
               {"25", 37},
               {"4025", 37}}; /* a longer form than needed is accepted */
    uint8_t in[8];
    uint64_t v;

    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        size_t n = test_unhex(row[i].hex, in, sizeof(in));
        CHECK_INT(es_varint_get(in, n, &v), ==, n);
        CHECK(v == row[i].value);
        for (size_t cut = 0; cut < n; cut++) {
            CHECK_INT(es_varint_get(in, cut, &v), ==, 0);
        }
    }
    CHECK_INT(es_varint_get(NULL, 0, &v), ==, 0);
}

TEST(every_edge_goes_out_in_the_shortest_form_and_comes_back)
{
    static const struct {
        uint64_t value;
        size_t len;
    } row[] = {{0, 1},     {63, 1},         {64, 2},         {16383, 2},
               {16384, 4}, {1073741823, 4}, {1073741824, 8}, {ES_VARINT_MAX, 8}};
    uint8_t buf[9];
    uint64_t v;

    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        memset(buf, 0xaa, sizeof(buf));
        CHECK_INT(es_varint_len(row[i].value), ==, row[i].len);
        CHECK_INT(es_varint_put(buf, row[i].value), ==, row[i].len);
        CHECK_INT(buf[row[i].len], ==, 0xaa);
        CHECK_INT(es_varint_get(buf, sizeof(buf), &v), ==, row[i].len);
        CHECK(v == row[i].value);
        CHECK_INT(es_varint_put_long(buf, row[i].value), ==, row[i].len);
        CHECK_INT(es_varint_get_long(buf, 8, &v), ==, row[i].len);
        CHECK(v == row[i].value);
    }
}

TEST(a_million_random_numbers_come_back)
{
    uint64_t seed = 1, v;
    uint8_t buf[8];
    int wrong = 0;

    for (int i = 0; i < 1000000; i++) {
        uint64_t x = (test_rand(&seed) & ES_VARINT_MAX) >> (test_rand(&seed) % 62);
        size_t n = es_varint_put(buf, x);
        wrong += es_varint_get(buf, n, &v) != n || v != x;
    }
    CHECK_INT(wrong, ==, 0);
}
