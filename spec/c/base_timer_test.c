// needs: csrc/base/mem.c csrc/base/timer.c
#include "test.h"
#include "../../csrc/base/err.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/base/timer.h"

static struct es_timers ts;
static struct es_timer *order[4096];
static size_t n_order;

static void note(struct es_timer *t)
{
    order[n_order++ % 4096] = t;
}

static void again(struct es_timer *t)
{
    note(t);
    es_timer_start(&ts, t, ts.now);
}

static void stop_other(struct es_timer *t)
{
    note(t);
    es_timer_stop(&ts, t->user);
}

static void heap_is_sound(void)
{
    for (size_t i = 0; i < ts.n; i++) {
        CHECK_INT(ts.heap[i]->index, ==, i + 1);
        CHECK(i == 0 || ts.heap[(i - 1) / 2]->at <= ts.heap[i]->at);
    }
}

TEST(timers_fire_in_order_of_time)
{
    struct es_timer t[1000];
    uint64_t seed = 7;

    es_timers_init(&ts);
    CHECK(es_timers_next(&ts) == ES_NEVER);
    for (int i = 0; i < 1000; i++) {
        es_timer_init(&t[i], note, NULL);
        CHECK(!es_timer_running(&t[i]));
        CHECK_INT(es_timer_start(&ts, &t[i], test_rand(&seed) % 5000), ==, ES_OK);
    }
    for (int i = 0; i < 3000; i++) { /* moved up and down, stopped, started again */
        struct es_timer *x = &t[test_rand(&seed) % 1000];
        if (test_rand(&seed) % 3 == 0) {
            es_timer_stop(&ts, x);
            es_timer_stop(&ts, x);
            CHECK(!es_timer_running(x));
        } else {
            es_timer_start(&ts, x, test_rand(&seed) % 5000);
        }
    }
    heap_is_sound();
    n_order = 0;
    ts.now = 2500;
    size_t running = ts.n, fired = es_timers_expire(&ts, SIZE_MAX);
    CHECK_INT(fired, ==, n_order);
    CHECK_INT(ts.n, ==, running - fired);
    for (size_t i = 1; i < n_order; i++) {
        CHECK(order[i - 1]->at <= order[i]->at);
    }
    CHECK(fired > 0 && order[fired - 1]->at <= 2500);
    CHECK(es_timers_next(&ts) > 2500);
    es_timers_free(&ts);
    for (int i = 0; i < 1000; i++) {
        CHECK(!es_timer_running(&t[i]));
    }
}

TEST(a_timer_that_restarts_itself_for_now_is_bounded_by_the_budget)
{
    struct es_timer t;

    es_timers_init(&ts);
    es_timer_init(&t, again, NULL);
    es_timer_start(&ts, &t, 0);
    n_order = 0;
    CHECK_INT(es_timers_expire(&ts, 10), ==, 10);
    CHECK_INT(n_order, ==, 10);
    CHECK(es_timer_running(&t));
    es_timers_free(&ts);
}

TEST(a_timer_may_stop_another_that_is_due)
{
    struct es_timer a, b;

    es_timers_init(&ts);
    es_timer_init(&a, stop_other, &b);
    es_timer_init(&b, note, NULL);
    es_timer_start(&ts, &a, 1);
    es_timer_start(&ts, &b, 2);
    ts.now = 5;
    CHECK_INT(es_timers_expire(&ts, 10), ==, 1);
    CHECK_INT(ts.n, ==, 0);
    es_timers_free(&ts);
}

TEST(out_of_memory_leaves_it_stopped)
{
    struct es_timer t;

    es_timers_init(&ts);
    es_timer_init(&t, note, NULL);
    es_mem_fail_nth(1);
    CHECK_INT(es_timer_start(&ts, &t, 1), ==, ES_ERR_NOMEM);
    CHECK(!es_timer_running(&t));
    CHECK(es_timers_next(&ts) == ES_NEVER);
    es_timers_free(&ts);
}
