#include "wheel.h"
#include "../base/err.h"
#include <string.h>

#define NO_SLOT ES_WHEEL_SLOTS

/* The first tick that begins at or after `at`: rounding up, so that nothing fires early. */
static uint64_t tick_of(uint64_t at)
{
    return at / ES_WHEEL_TICK + (at % ES_WHEEL_TICK != 0);
}

/* Ticks from w->tick on to the first occupied slot, 0 to ES_WHEEL_SLOTS - 1; NO_SLOT: all are empty. */
static uint64_t distance(const struct es_wheel *w)
{
    size_t slot = (size_t)(w->tick % ES_WHEEL_SLOTS), word = slot / 64;
    uint64_t bits = w->occupied[word] & (~UINT64_C(0) << slot % 64);

    for (size_t i = 0; i <= ES_WHEEL_SLOTS / 64; i++) {
        if (bits != 0) {
            size_t found = word * 64 + (size_t)__builtin_ctzll(bits);
            return (found - slot) % ES_WHEEL_SLOTS;
        }
        word = (word + 1) % (ES_WHEEL_SLOTS / 64);
        bits = w->occupied[word];
    }
    return NO_SLOT;
}

/* Takes an entry out of whatever list it is in. */
static void unlink_entry(struct es_wheel *w, struct es_deadline *d)
{
    if (d->node.prev == d->node.next) {
        /* The last of its list. The list's head tells the slot, unless it is run_slot's waiting list. */
        uintptr_t offset = (uintptr_t)d->node.next - (uintptr_t)w->slot;
        if (offset < sizeof(w->slot)) {
            size_t slot = offset / sizeof(w->slot[0]);
            w->occupied[slot / 64] &= ~(UINT64_C(1) << slot % 64);
        }
    }
    es_list_remove(&d->node);
    d->at = 0;
    w->count--;
}

/* Fires what is due in one slot; what belongs to a later turn stays. `expired` may add to and remove from any
 * slot, this one too, so nothing but list heads is held across it. */
static void run_slot(struct es_wheel *w, size_t slot, uint64_t now)
{
    struct es_list waiting;

    es_list_init(&waiting);
    while (!es_list_empty(&w->slot[slot])) {
        struct es_list *n = w->slot[slot].next;
        struct es_deadline *d = es_container_of(n, struct es_deadline, node);
        if (d->at > now) {
            es_list_remove(n);
            es_list_push(&waiting, n);
        } else {
            unlink_entry(w, d);
            w->expired(w, d);
        }
    }
    w->occupied[slot / 64] &= ~(UINT64_C(1) << slot % 64);
    while (!es_list_empty(&waiting)) {
        struct es_list *n = waiting.next;
        es_list_remove(n);
        es_list_push(&w->slot[slot], n);
        w->occupied[slot / 64] |= UINT64_C(1) << slot % 64;
    }
}

static void on_timer(struct es_timer *t)
{
    struct es_wheel *w = t->user;
    uint64_t now = w->timers->now, last = now / ES_WHEEL_TICK, ahead;

    /* The timer has just left the heap, so there is a place for it: taking it before `expired` can start
     * timers of its own makes sure that arming cannot fail below. */
    (void)es_timer_start(w->timers, &w->timer, ES_NEVER);
    w->walking = 1;
    /* After a long sleep one turn sees every slot; the ticks before it need not be walked. */
    if (last >= ES_WHEEL_SLOTS && w->tick < last - ES_WHEEL_SLOTS + 1) {
        w->tick = last - ES_WHEEL_SLOTS + 1;
    }
    while (w->tick <= last) {
        size_t slot;
        ahead = distance(w);
        if (ahead == NO_SLOT || w->tick + ahead > last) {
            w->tick = last + 1;
            break;
        }
        w->tick += ahead;
        slot = (size_t)(w->tick % ES_WHEEL_SLOTS);
        w->tick++; /* what `expired` adds for the past goes to the next slot, not into an endless loop */
        run_slot(w, slot, now);
    }
    w->walking = 0;
    ahead = distance(w);
    if (ahead == NO_SLOT) {
        es_timer_stop(w->timers, &w->timer);
    } else {
        (void)es_timer_start(w->timers, &w->timer, (w->tick + ahead) * ES_WHEEL_TICK);
    }
}

void es_wheel_init(struct es_wheel *w, struct es_timers *ts,
                   void (*expired)(struct es_wheel *, struct es_deadline *), void *user)
{
    w->timers = ts;
    es_timer_init(&w->timer, on_timer, w);
    w->tick = 0;
    w->count = 0;
    w->walking = 0;
    memset(w->occupied, 0, sizeof(w->occupied));
    for (size_t i = 0; i < ES_WHEEL_SLOTS; i++) {
        es_list_init(&w->slot[i]);
    }
    w->expired = expired;
    w->user = user;
}

void es_wheel_free(struct es_wheel *w)
{
    for (size_t i = 0; i < ES_WHEEL_SLOTS; i++) {
        while (!es_list_empty(&w->slot[i])) {
            unlink_entry(w, es_container_of(w->slot[i].next, struct es_deadline, node));
        }
    }
    es_timer_stop(w->timers, &w->timer);
}

void es_deadline_init(struct es_deadline *d)
{
    es_list_init(&d->node);
    d->at = 0;
}

/* No slot between w->tick and the armed tick is occupied (see on_timer and es_wheel_add), so the wheel may be
 * turned on to now without looking. Else a deadline less than a turn away could seem more than one away. */
static void catch_up(struct es_wheel *w)
{
    uint64_t tick = w->timers->now / ES_WHEEL_TICK;

    if (w->count != 0 && w->timer.at / ES_WHEEL_TICK < tick) {
        tick = w->timer.at / ES_WHEEL_TICK;
    }
    if (w->tick < tick) {
        w->tick = tick;
    }
}

int es_wheel_add(struct es_wheel *w, struct es_deadline *d, uint64_t at)
{
    uint64_t tick, next;
    size_t slot;

    es_wheel_remove(w, d);
    if (at == ES_NEVER) {
        return ES_OK;
    }
    if (!w->walking) {
        catch_up(w);
    }
    tick = tick_of(at);
    if (tick < w->tick) {
        tick = w->tick;
    }
    slot = (size_t)(tick % ES_WHEEL_SLOTS);
    next = w->tick + (tick - w->tick) % ES_WHEEL_SLOTS; /* when its slot is looked at first */
    if (!w->walking && (!es_timer_running(&w->timer) || w->timer.at > next * ES_WHEEL_TICK)) {
        int rc = es_timer_start(w->timers, &w->timer, next * ES_WHEEL_TICK);
        if (rc != ES_OK) {
            return rc;
        }
    }
    d->at = at != 0 ? at : 1;
    es_list_push(&w->slot[slot], &d->node);
    w->occupied[slot / 64] |= UINT64_C(1) << slot % 64;
    w->count++;
    return ES_OK;
}

void es_wheel_remove(struct es_wheel *w, struct es_deadline *d)
{
    if (d->at != 0) {
        unlink_entry(w, d);
    }
}
