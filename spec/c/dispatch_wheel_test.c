// needs: csrc/base csrc/dispatch/wheel.c
#include "test.h"
#include "../../csrc/base/err.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/dispatch/wheel.h"

#define N 5000

struct entry {
    struct es_deadline d;
    uint64_t want; /* 0: not in */
    uint64_t fired;
};

static struct es_timers timers;
static struct es_wheel wheel;
static struct entry entries[N];
static int fired, early, late, unasked;

static void expired(struct es_wheel *w, struct es_deadline *d)
{
    struct entry *e = es_container_of(d, struct entry, d);

    fired++;
    unasked += e->want == 0;
    early += timers.now < e->want;
    late += timers.now > e->want + ES_WHEEL_TICK && timers.now - e->want > 2 * ES_WHEEL_TICK;
    e->fired = timers.now;
    e->want = 0;
    (void)w;
}

static void setup(uint64_t now)
{
    es_timers_init(&timers);
    timers.now = now;
    es_wheel_init(&wheel, &timers, expired, NULL);
    for (int i = 0; i < N; i++) {
        es_deadline_init(&entries[i].d);
        entries[i].want = entries[i].fired = 0;
    }
    fired = early = late = unasked = 0;
}

static void teardown(void)
{
    es_wheel_free(&wheel);
    es_timers_free(&timers);
}

static void add(struct entry *e, uint64_t at)
{
    CHECK_INT(es_wheel_add(&wheel, &e->d, at), ==, ES_OK);
    e->want = at;
}

/* Sleeps as a loop would: until the timer is due. Returns the wake-ups. */
static int run_until(uint64_t end)
{
    int wakes = 0;

    while (es_timers_next(&timers) <= end) {
        if (timers.now < es_timers_next(&timers)) {
            timers.now = es_timers_next(&timers);
        }
        es_timers_expire(&timers, 100);
        wakes++;
    }
    timers.now = end;
    return wakes;
}

TEST(an_empty_wheel_arms_no_timer)
{
    setup(123 * ES_SECOND);
    CHECK(es_timers_next(&timers) == ES_NEVER);
    teardown();
}

TEST(a_deadline_fires_within_a_tick_and_never_early)
{
    static const uint64_t after[] = {1,
                                     ES_WHEEL_TICK - 1,
                                     ES_WHEEL_TICK,
                                     ES_WHEEL_TICK + 1,
                                     ES_SECOND,
                                     (ES_WHEEL_SLOTS - 1) * ES_WHEEL_TICK,
                                     ES_WHEEL_SLOTS * ES_WHEEL_TICK,
                                     ES_WHEEL_SLOTS * ES_WHEEL_TICK + 1,
                                     30 * ES_SECOND,
                                     3600 * ES_SECOND};
    static const uint64_t start[] = {0, 1, 5 * ES_WHEEL_TICK, 1000 * ES_SECOND + 1234567};

    for (size_t s = 0; s < sizeof(start) / sizeof(start[0]); s++) {
        for (size_t i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
            uint64_t at = start[s] + after[i];
            setup(start[s]);
            add(&entries[0], at);
            run_until(at + ES_WHEEL_TICK);
            CHECK_INT(fired, ==, 1);
            CHECK_INT(entries[0].fired, >=, at);
            CHECK_INT(entries[0].fired, <=, at + ES_WHEEL_TICK);
            CHECK_INT(wheel.count, ==, 0);
            teardown();
        }
    }
}

TEST(one_call_of_thirty_seconds_wakes_eight_times_at_most)
{
    setup(77 * ES_SECOND + 3);
    add(&entries[0], timers.now + 30 * ES_SECOND);
    CHECK_INT(run_until(timers.now + 31 * ES_SECOND), <=, 8);
    CHECK_INT(fired, ==, 1);
    teardown();
}

TEST(a_call_that_ends_in_time_costs_one_idle_wake_up)
{
    setup(77 * ES_SECOND);
    for (int i = 0; i < 1000; i++) {
        add(&entries[0], timers.now + 30 * ES_SECOND);
        es_wheel_remove(&wheel, &entries[0].d);
        timers.now += ES_MILLI;
    }
    CHECK_INT(run_until(timers.now + 100 * ES_SECOND), <=, 1);
    CHECK_INT(fired, ==, 0);
    CHECK(es_timers_next(&timers) == ES_NEVER);
    teardown();
}

TEST(steady_calls_wake_once_a_turn)
{
    int wakes = 0;

    setup(ES_SECOND);
    /* Ten calls a millisecond, each over after 2 ms, deadline 30 s: for 20 s. */
    for (int ms = 0; ms < 20000; ms++) {
        struct entry *e = &entries[ms % 2];
        es_wheel_remove(&wheel, &e->d);
        add(e, timers.now + 30 * ES_SECOND);
        wakes += run_until(timers.now + ES_MILLI);
    }
    CHECK_INT(wakes, <=, 20000 / (ES_WHEEL_SLOTS * 4) * 3 + 8);
    teardown();
}

TEST(removing_twice_or_what_never_was_in_is_harmless)
{
    setup(0);
    es_wheel_remove(&wheel, &entries[0].d);
    add(&entries[0], ES_SECOND);
    add(&entries[0], 2 * ES_SECOND); /* moves */
    CHECK_INT(wheel.count, ==, 1);
    es_wheel_remove(&wheel, &entries[0].d);
    es_wheel_remove(&wheel, &entries[0].d);
    CHECK_INT(wheel.count, ==, 0);
    CHECK_INT(es_wheel_add(&wheel, &entries[0].d, ES_NEVER), ==, ES_OK);
    CHECK_INT(wheel.count, ==, 0);
    teardown();
}

TEST(a_time_in_the_past_fires_at_the_next_expiry)
{
    setup(1000 * ES_SECOND);
    add(&entries[0], 1);
    add(&entries[1], timers.now);
    run_until(timers.now + ES_WHEEL_TICK);
    CHECK_INT(fired, ==, 2);
    CHECK_INT(early, ==, 0);
    teardown();
}

TEST(after_a_long_sleep_everything_due_fires_at_once)
{
    setup(0);
    for (int i = 0; i < N; i++) {
        add(&entries[i], (uint64_t)(i + 1) * 10 * ES_MILLI);
    }
    timers.now = 3600 * ES_SECOND;
    es_timers_expire(&timers, 10);
    CHECK_INT(fired, ==, N);
    CHECK(es_timers_next(&timers) == ES_NEVER);
    teardown();
}

TEST(free_forgets_the_entries_and_removing_them_later_is_harmless)
{
    setup(0);
    add(&entries[0], ES_SECOND);
    add(&entries[1], 2 * ES_SECOND);
    es_wheel_free(&wheel);
    CHECK(es_timers_next(&timers) == ES_NEVER);
    es_wheel_remove(&wheel, &entries[0].d);
    CHECK_INT(entries[1].d.at, ==, 0);
    es_timers_free(&timers);
}

TEST(a_refused_timer_leaves_the_entry_out)
{
    setup(0);
    es_mem_fail_nth(1);
    CHECK_INT(es_wheel_add(&wheel, &entries[0].d, ES_SECOND), ==, ES_ERR_NOMEM);
    CHECK_INT(wheel.count, ==, 0);
    CHECK_INT(entries[0].d.at, ==, 0);
    add(&entries[0], ES_SECOND);
    run_until(2 * ES_SECOND);
    CHECK_INT(fired, ==, 1);
    teardown();
}

static int chain;
static void expired_and_meddles(struct es_wheel *w, struct es_deadline *d)
{
    struct entry *e = es_container_of(d, struct entry, d);

    expired(w, d);
    if (chain-- > 0) {
        add(e, timers.now);                /* due at once: not from inside, but soon */
        es_wheel_remove(w, &entries[1].d); /* a neighbour of the same slot */
        add(&entries[2], timers.now + ES_WHEEL_SLOTS * ES_WHEEL_TICK); /* the same slot, a turn later */
    }
}

TEST(the_callback_may_add_and_remove_even_in_its_own_slot)
{
    setup(0);
    wheel.expired = expired_and_meddles;
    chain = 3;
    add(&entries[0], ES_SECOND);
    add(&entries[1], ES_SECOND);
    add(&entries[3], ES_SECOND + ES_WHEEL_SLOTS * ES_WHEEL_TICK);
    run_until(2 * ES_SECOND);
    CHECK_INT(fired, ==, 4);
    CHECK_INT(entries[1].fired, ==, 0);
    CHECK_INT(wheel.count, ==, 2);
    run_until(20 * ES_SECOND);
    CHECK_INT(fired, ==, 6);
    CHECK_INT(early, ==, 0);
    CHECK_INT(wheel.count, ==, 0);
    teardown();
}

TEST(random_adds_removes_and_sleeps_keep_every_promise)
{
    uint64_t seed = 42;

    for (int round = 0; round < 20; round++) {
        int in = 0;
        setup(test_rand(&seed) % (1000 * ES_SECOND));
        for (int i = 0; i < 20000; i++) {
            struct entry *e = &entries[test_rand(&seed) % N];
            uint64_t far = test_rand(&seed) % 3 == 0 ? 60 * ES_SECOND : ES_SECOND;
            if (test_rand(&seed) % 4 == 0) {
                es_wheel_remove(&wheel, &e->d);
                e->want = 0;
            } else {
                add(e, timers.now + test_rand(&seed) % far);
            }
            if (test_rand(&seed) % 16 == 0) {
                run_until(timers.now + test_rand(&seed) % (20 * ES_MILLI));
            }
        }
        for (int i = 0; i < N; i++) {
            in += entries[i].want != 0;
            CHECK((entries[i].want != 0) == (entries[i].d.at != 0));
        }
        CHECK_INT(wheel.count, ==, in);
        run_until(timers.now + 61 * ES_SECOND);
        CHECK_INT(wheel.count, ==, 0);
        CHECK_INT(early, ==, 0);
        CHECK_INT(late, ==, 0);
        CHECK_INT(unasked, ==, 0);
        CHECK(es_timers_next(&timers) == ES_NEVER);
        teardown();
    }
}
