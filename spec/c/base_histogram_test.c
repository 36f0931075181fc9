// needs: csrc/base
#include "../../csrc/base/histogram.h"
#include "test.h"

TEST(an_empty_one_has_no_quantiles)
{
    static struct es_histogram h;

    CHECK(es_histogram_quantile(&h, 0.5) == 0);
    CHECK_INT(es_histogram_at_most(&h, 1000), ==, 0);
}

TEST(every_value_lies_within_the_bounds_of_its_bucket_and_these_rise)
{
    uint64_t last = 0;

    for (unsigned i = 0; i < ES_HISTOGRAM_BUCKETS - 1; i++) {
        uint64_t upper = es_histogram_upper(i);

        CHECK(upper > last);
        CHECK_INT(es_histogram_index(upper), ==, i);
        CHECK_INT(es_histogram_index(last + 1), ==, i);
        CHECK((upper - last) * ES_HISTOGRAM_SUB <= (last > ES_HISTOGRAM_SUB ? last : ES_HISTOGRAM_SUB));
        last = upper;
    }
    CHECK(last == UINT64_C(1) << ES_HISTOGRAM_TOP);
}

TEST(zero_and_what_is_too_large_have_a_bucket_too)
{
    CHECK_INT(es_histogram_index(0), ==, 0);
    CHECK_INT(es_histogram_index((UINT64_C(1) << ES_HISTOGRAM_TOP) + 1), ==, ES_HISTOGRAM_BUCKETS - 1);
    CHECK_INT(es_histogram_index(UINT64_MAX), ==, ES_HISTOGRAM_BUCKETS - 1);
    CHECK(es_histogram_upper(ES_HISTOGRAM_BUCKETS - 1) == UINT64_MAX);
}

TEST(what_is_too_large_is_not_counted_with_what_is_just_not)
{
    static struct es_histogram h;

    es_histogram_add(&h, UINT64_C(1) << ES_HISTOGRAM_TOP);
    es_histogram_add(&h, (UINT64_C(1) << ES_HISTOGRAM_TOP) + 1);
    es_histogram_add(&h, UINT64_MAX);
    CHECK_INT(es_histogram_at_most(&h, UINT64_C(1) << ES_HISTOGRAM_TOP), ==, 1);
    CHECK_INT(es_histogram_at_most(&h, UINT64_MAX - 1), ==, 1); /* rounded down to a bound */
    CHECK_INT(es_histogram_at_most(&h, UINT64_MAX), ==, 3);
    CHECK(es_histogram_quantile(&h, 0.3) <= (double)(UINT64_C(1) << ES_HISTOGRAM_TOP));
    CHECK(es_histogram_quantile(&h, 1) == (double)UINT64_MAX);
}

TEST(quantiles_of_a_ramp_are_within_an_eighth)
{
    static struct es_histogram h;

    for (uint64_t v = 1; v <= 100000; v++) {
        es_histogram_add(&h, v);
    }
    for (int percent = 1; percent <= 100; percent++) {
        double got = es_histogram_quantile(&h, percent / 100.0), want = percent * 1000.0;

        CHECK(got > want * 0.99 && got < want * 1.01); /* the ramp is even within its buckets */
    }
    CHECK_INT(h.count, ==, 100000);
    CHECK_INT(h.max, ==, 100000);
    CHECK(h.sum == UINT64_C(100000) * 100001 / 2);
}

TEST(a_quantile_never_exceeds_the_largest_value)
{
    static struct es_histogram h;

    es_histogram_add(&h, 1000001);
    CHECK(es_histogram_quantile(&h, 1) == 1000001);
    CHECK(es_histogram_quantile(&h, 0.99) <= 1000001);
    CHECK(es_histogram_quantile(&h, 0.99) >= 1000001 * 7.0 / 8);
    es_histogram_add(&h, UINT64_C(1) << 50);
    CHECK(es_histogram_quantile(&h, 1) == (double)(UINT64_C(1) << 50));
}

TEST(counts_up_to_a_power_of_two_are_exact)
{
    static struct es_histogram h;

    for (uint64_t v = 0; v <= 5000; v++) {
        es_histogram_add(&h, v);
    }
    CHECK_INT(es_histogram_at_most(&h, 1), ==, 2);
    CHECK_INT(es_histogram_at_most(&h, 1024), ==, 1025);
    CHECK_INT(es_histogram_at_most(&h, 4096), ==, 4097);
    CHECK_INT(es_histogram_at_most(&h, UINT64_C(1) << 44), ==, 5001);
}

TEST(two_together_are_as_if_all_had_gone_into_one)
{
    static struct es_histogram a, b, both;

    for (uint64_t v = 1; v < 1000; v++) {
        es_histogram_add(v % 3 ? &a : &b, v * 977);
        es_histogram_add(&both, v * 977);
    }
    es_histogram_merge(&a, &b);
    CHECK(memcmp(&a, &both, sizeof a) == 0);
}
