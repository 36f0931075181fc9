#include "timer.h"
#include "err.h"
#include "mem.h"

void es_timers_init(struct es_timers *ts)
{
    ts->now = 0;
    ts->heap = NULL;
    ts->n = ts->cap = 0;
}

void es_timers_free(struct es_timers *ts)
{
    for (size_t i = 0; i < ts->n; i++) {
        ts->heap[i]->index = 0;
    }
    es_free(ts->heap);
    ts->heap = NULL;
    ts->n = ts->cap = 0;
}

void es_timer_init(struct es_timer *t, void (*fn)(struct es_timer *), void *user)
{
    t->at = ES_NEVER;
    t->index = 0;
    t->fn = fn;
    t->user = user;
}

static void place(struct es_timers *ts, size_t i, struct es_timer *t)
{
    ts->heap[i] = t;
    t->index = i + 1;
}

static void sift_up(struct es_timers *ts, size_t i, struct es_timer *t)
{
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (ts->heap[parent]->at <= t->at) {
            break;
        }
        place(ts, i, ts->heap[parent]);
        i = parent;
    }
    place(ts, i, t);
}

static void sift_down(struct es_timers *ts, size_t i, struct es_timer *t)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= ts->n) {
            break;
        }
        if (child + 1 < ts->n && ts->heap[child + 1]->at < ts->heap[child]->at) {
            child++;
        }
        if (ts->heap[child]->at >= t->at) {
            break;
        }
        place(ts, i, ts->heap[child]);
        i = child;
    }
    place(ts, i, t);
}

/* Puts t where its time belongs, starting from place i, which is free or its own. */
static void settle(struct es_timers *ts, size_t i, struct es_timer *t)
{
    if (i > 0 && ts->heap[(i - 1) / 2]->at > t->at) {
        sift_up(ts, i, t);
    } else {
        sift_down(ts, i, t);
    }
}

int es_timer_start(struct es_timers *ts, struct es_timer *t, uint64_t at)
{
    if (t->index != 0) {
        t->at = at;
        settle(ts, t->index - 1, t);
        return ES_OK;
    }
    if (ts->n == ts->cap) {
        size_t cap = ts->cap != 0 ? ts->cap * 2 : 16;
        struct es_timer **heap = es_realloc(ts->heap, cap * sizeof(*heap));
        if (heap == NULL) {
            return ES_ERR_NOMEM;
        }
        ts->heap = heap;
        ts->cap = cap;
    }
    t->at = at;
    ts->n++;
    sift_up(ts, ts->n - 1, t);
    return ES_OK;
}

void es_timer_stop(struct es_timers *ts, struct es_timer *t)
{
    size_t i = t->index;
    struct es_timer *last;

    if (i == 0) {
        return;
    }
    t->index = 0;
    last = ts->heap[--ts->n];
    if (last != t) {
        settle(ts, i - 1, last);
    }
}

uint64_t es_timers_next(const struct es_timers *ts)
{
    return ts->n != 0 ? ts->heap[0]->at : ES_NEVER;
}

size_t es_timers_expire(struct es_timers *ts, size_t budget)
{
    size_t fired = 0;

    while (fired < budget && ts->n != 0 && ts->heap[0]->at <= ts->now) {
        struct es_timer *t = ts->heap[0];
        es_timer_stop(ts, t);
        fired++;
        t->fn(t); /* may free t */
    }
    return fired;
}
