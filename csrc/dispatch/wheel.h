/* A hashed timing wheel for call deadlines: O(1) to add and remove, no system call, no malloc.
 *
 * 1,024 slots of 4 ms; a deadline further away than a turn (4.1 s) stays in its slot and is looked at once a
 * turn. One es_timer is armed lazily for the next occupied slot, so an idle process with one 30 s call wakes
 * eight times, one without calls never. An entry fires at most one tick (4 ms) late and never early.
 */
#ifndef ES_DISPATCH_WHEEL_H
#define ES_DISPATCH_WHEEL_H

#include <stdint.h>
#include "../base/list.h"
#include "../base/timer.h"

#define ES_WHEEL_SLOTS 1024
#define ES_WHEEL_TICK  (4 * ES_MILLI)

struct es_deadline {
    struct es_list node; /* init with es_deadline_init */
    uint64_t at;         /* ns; 0: not waiting */
};

struct es_wheel {
    struct es_timers *timers; /* borrowed */
    struct es_timer timer;
    uint64_t tick; /* the next tick to be looked at, counted from time 0; its slot is tick % ES_WHEEL_SLOTS */
    uint64_t count; /* entries */
    int walking;    /* `expired` may be running: add leaves the timer to the walk */
    uint64_t occupied[ES_WHEEL_SLOTS / 64];
    struct es_list slot[ES_WHEEL_SLOTS];
    void (*expired)(struct es_wheel *w, struct es_deadline *d); /* d is out of the wheel already */
    void *user;
};

void es_wheel_init(struct es_wheel *w, struct es_timers *ts,
                   void (*expired)(struct es_wheel *, struct es_deadline *), void *user);
void es_wheel_free(struct es_wheel *w); /* entries are forgotten */
void es_deadline_init(struct es_deadline *d);
/* 0 or ES_ERR_NOMEM (arming the timer; d is not in then). Moves d when it is in; ES_NEVER takes it out. A
 * time that has passed fires at the next expiry, never from inside. */
int es_wheel_add(struct es_wheel *w, struct es_deadline *d, uint64_t at);
void es_wheel_remove(struct es_wheel *w, struct es_deadline *d); /* harmless when not in */

#endif
