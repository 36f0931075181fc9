// needs: csrc/base/clock.c
#include "test.h"
#include "../../csrc/base/clock.h"

TEST(the_monotonic_clock_never_goes_back)
{
    uint64_t last = es_clock_monotonic();

    for (int i = 0; i < 10000; i++) {
        uint64_t now = es_clock_monotonic();
        CHECK(now >= last);
        last = now;
    }
}

TEST(the_coarse_clock_is_a_little_behind_the_monotonic_one_and_never_goes_back)
{
    uint64_t last = es_clock_coarse();

    for (int i = 0; i < 10000; i++) {
        uint64_t before =
            es_clock_monotonic(); /* read first: whatever comes between makes `now` later only */
        uint64_t now = es_clock_coarse();
        CHECK(now >= last);
        CHECK(before < now + UINT64_C(20000000));
        last = now;
    }
}

TEST(the_wall_clock_is_past_2020_and_in_nanoseconds)
{
    CHECK(es_clock_wall() > UINT64_C(1577836800) * 1000000000);
    CHECK(es_clock_wall() < UINT64_C(10000000000) * 1000000000);
}

TEST(random_bytes_differ_and_fill_all_that_was_asked_for)
{
    static uint8_t a[100000], b[100000];
    size_t zeros = 0;

    es_random(a, sizeof(a));
    es_random(b, sizeof(b));
    es_random(NULL, 0);
    CHECK(memcmp(a, b, sizeof(a)) != 0);
    CHECK(memcmp(a + sizeof(a) - 16, b + sizeof(b) - 16, 16) != 0);
    for (size_t i = 0; i < sizeof(a); i++) {
        zeros += a[i] == 0;
    }
    CHECK_INT(zeros, <, 1000);
}
