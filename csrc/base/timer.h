/* Timers: a binary heap of intrusive nodes and one cached reading of the clock.
 *
 * Time is an argument everywhere in the core. Whoever drives the loop (transport/poller over real sockets, or
 * the simulator) sets `now` once per step; everything below reads it from here. Nanoseconds, CLOCK_MONOTONIC
 * or virtual.
 *
 *   static void on_fire(struct es_timer *t) { ... }           // may start or stop any timer, itself included
 *   es_timer_init(&c->timer, on_fire, c);
 *   es_timer_start(ts, &c->timer, ts->now + 5 * ES_SECOND);   // restarts when already running
 *   es_timer_stop(ts, &c->timer);                              // harmless when not running
 */
#ifndef ES_BASE_TIMER_H
#define ES_BASE_TIMER_H

#include <stddef.h>
#include <stdint.h>

#define ES_MICRO  UINT64_C(1000)
#define ES_MILLI  UINT64_C(1000000)
#define ES_SECOND UINT64_C(1000000000)
#define ES_NEVER  UINT64_MAX

struct es_timer {
    uint64_t at;  /* ns */
    size_t index; /* place in the heap + 1; 0 = not running */
    void (*fn)(struct es_timer *);
    void *user; /* borrowed */
};

struct es_timers {
    uint64_t now;           /* ns; set by the driver before it runs anything */
    struct es_timer **heap; /* owned array of borrowed timers */
    size_t n, cap;
};

void es_timers_init(struct es_timers *ts);
void es_timers_free(struct es_timers *ts); /* running timers are forgotten, not fired */

void es_timer_init(struct es_timer *t, void (*fn)(struct es_timer *), void *user);
int es_timer_start(struct es_timers *ts, struct es_timer *t, uint64_t at); /* 0 or ES_ERR_NOMEM */
void es_timer_stop(struct es_timers *ts, struct es_timer *t);
static inline int es_timer_running(const struct es_timer *t)
{
    return t->index != 0;
}

/* When the earliest timer is due, ES_NEVER when none runs. */
uint64_t es_timers_next(const struct es_timers *ts);

/* Fires every timer due at ts->now (those started meanwhile for <= now too, at most `budget` in all). Returns
 * how many. */
size_t es_timers_expire(struct es_timers *ts, size_t budget);

#endif
