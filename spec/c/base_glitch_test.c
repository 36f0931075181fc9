// needs: csrc/base
#include "../../csrc/base/glitch.h"
#include "../../csrc/base/timer.h"
#include "test.h"

TEST(the_budget_passes_and_one_point_more_does_not)
{
    struct es_glitch g;

    es_glitch_init(&g, 100, 5 * ES_SECOND);
    for (int i = 0; i < 100; i++) {
        CHECK_INT(es_glitch_charge(&g, 5 * ES_SECOND, 1), ==, 0);
    }
    CHECK_INT(es_glitch_charge(&g, 5 * ES_SECOND, 1), ==, 1);
}

TEST(it_is_said_once)
{
    struct es_glitch g;

    es_glitch_init(&g, 10, 0);
    CHECK_INT(es_glitch_charge(&g, 0, 11), ==, 1);
    CHECK_INT(es_glitch_charge(&g, 0, 11), ==, 0);
}

TEST(a_sixteenth_comes_back_each_second)
{
    struct es_glitch g;

    es_glitch_init(&g, 1600, 0);
    CHECK_INT(es_glitch_charge(&g, 0, 1600), ==, 0);
    CHECK_INT(es_glitch_charge(&g, ES_SECOND, 100), ==, 0);
    CHECK_INT(es_glitch_charge(&g, ES_SECOND, 1), ==, 1);
}

TEST(a_steady_trickle_at_the_refill_never_trips_however_fine_it_is)
{
    struct es_glitch g;
    uint64_t now = 0;

    es_glitch_init(&g, 1600, 0);
    for (int i = 0; i < 1000000; i++) {
        now += 10 * ES_MILLI;
        REQUIRE(es_glitch_charge(&g, now, 1) == 0);
    }
    CHECK_INT(g.used, <=, 2);
}

TEST(a_steady_flow_above_the_refill_trips)
{
    struct es_glitch g;
    uint64_t now = 0;
    int tripped = 0;

    es_glitch_init(&g, 1600, 0);
    for (int i = 0; i < 3300 && !tripped; i++) {
        now += 10 * ES_MILLI;
        tripped = es_glitch_charge(&g, now, 2);
    }
    CHECK(tripped);
}

TEST(honest_work_takes_points_off_and_saves_up_to_some_budgets)
{
    struct es_glitch g;

    es_glitch_init(&g, 10, 0);
    CHECK_INT(es_glitch_charge(&g, 0, 10), ==, 0);
    es_glitch_forgive(&g, 4);
    CHECK_INT(g.used, ==, 6);
    es_glitch_forgive(&g, 8);
    CHECK_INT(g.used, ==, 0);
    CHECK_INT(es_glitch_charge(&g, 0, 12), ==, 0);
    CHECK_INT(es_glitch_charge(&g, 0, 1), ==, 1);
    es_glitch_init(&g, 10, 0);
    for (int i = 0; i < 100; i++)
        es_glitch_forgive(&g, 5);
    CHECK_INT(es_glitch_charge(&g, 0, 10 + ES_GLITCH_SAVED * 10), ==, 0);
    CHECK_INT(es_glitch_charge(&g, 0, 1), ==, 1);
}

TEST(what_was_asked_for_is_not_charged)
{
    struct es_glitch g;

    es_glitch_init(&g, 10, 0);
    es_glitch_expect(&g, 1000);
    CHECK_INT(es_glitch_charge(&g, 0, 1000), ==, 0);
    CHECK_INT(g.used, ==, 0);
    CHECK_INT(es_glitch_charge(&g, 0, 11), ==, 1);
}

TEST(without_a_budget_nothing_is_charged)
{
    struct es_glitch g;

    es_glitch_init(&g, 0, 0);
    CHECK_INT(es_glitch_charge(&g, 0, UINT64_C(1) << 60), ==, 0);
}

TEST(the_largest_budget_does_not_overflow)
{
    struct es_glitch g;

    es_glitch_init(&g, UINT32_MAX, 0);
    CHECK_INT(g.budget, ==, ES_GLITCH_BUDGET_MAX);
    CHECK_INT(es_glitch_charge(&g, 0, ES_GLITCH_BUDGET_MAX), ==, 0);
    CHECK_INT(es_glitch_charge(&g, 15 * ES_SECOND, 1), ==, 0);
    CHECK_INT(g.used, ==, ES_GLITCH_BUDGET_MAX / 16 + 1);
    CHECK_INT(es_glitch_charge(&g, UINT64_MAX, 1), ==, 0);
    CHECK_INT(g.used, ==, 1);
}
