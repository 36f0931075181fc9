#include "acks.h"
#include <string.h>
#include "../base/mem.h"
#include "../base/timer.h"
#include "../base/varint.h"

#define FIRST_CAP  64
#define SKIP_MAX   256
#define REORDERING 3 /* packets, RFC 9002 6.1.1 */
#define ROUNDS     3 /* round trips of big losses that make a black hole */
#define TRY_FIRST  ES_SECOND
#define TRY_MAX    (600 * ES_SECOND) /* RFC 8899 5.1.1: PMTU_RAISE_TIMER */

void es_acks_init(struct es_acks *a)
{
    memset(a, 0, sizeof *a);
    a->big_sent = a->big_acked = a->try = -1;
    a->try_wait = TRY_FIRST;
}

void es_acks_free(struct es_acks *a)
{
    es_free(a->bits);
    a->bits = NULL;
    a->cap = 0;
}

/* ---- the ring ---- */

static inline int get(const struct es_acks *a, int big, int64_t number)
{
    size_t i = ((size_t)number & (a->cap - 1)) + (big ? a->cap : 0);

    return (int)(a->bits[i / 64] >> i % 64 & 1);
}

static inline void set(struct es_acks *a, int big, int64_t number, int to)
{
    size_t i = ((size_t)number & (a->cap - 1)) + (big ? a->cap : 0);
    uint64_t bit = UINT64_C(1) << i % 64;

    a->bits[i / 64] = to ? a->bits[i / 64] | bit : a->bits[i / 64] & ~bit;
}

static void grow(struct es_acks *a)
{
    struct es_acks old = *a;
    size_t cap = a->cap != 0 ? a->cap * 2 : FIRST_CAP;
    uint64_t *bits = cap <= ES_ACKS_MAX ? es_calloc(cap * 2 / 64, sizeof *bits) : NULL;

    if (bits == NULL) { /* the oldest half is forgotten; with nothing to forget, nobody is followed */
        a->low = a->cap != 0 ? a->low + (int64_t)a->cap / 2 : a->next;
        return;
    }
    a->bits = bits;
    a->cap = cap;
    for (int64_t i = a->low; i < a->next && old.cap != 0; i++) {
        set(a, 0, i, get(&old, 0, i));
        set(a, 1, i, get(&old, 1, i));
    }
    es_free(old.bits);
}

/* ---- sending ---- */

void es_acks_sent(struct es_acks *a, uint32_t number, unsigned bytes, size_t size, uint64_t now)
{
    uint64_t mask = bytes < 4 ? (UINT64_C(1) << 8 * bytes) - 1 : UINT32_MAX;
    int big = size > ES_ACKS_SMALL;
    int64_t full = a->next + (int64_t)((number - (uint64_t)a->next) & mask);

    if (a->next == 0 || full - a->next > SKIP_MAX) { /* the first: early data may have used some numbers */
        a->low = a->next = full;
    }
    for (; a->next < full; a->next++) { /* skipped on purpose: the library does so now and then */
        if (a->cap != 0 && a->next - a->low < (int64_t)a->cap) {
            set(a, 0, a->next, 1);
            set(a, 1, a->next, 0);
        }
    }
    a->next = full + 1;
    if (a->next - a->low > (int64_t)a->cap) {
        a->next--;
        grow(a);
        a->next++;
    }
    if (a->cap == 0 || full < a->low) {
        return;
    }
    set(a, 0, full, 0);
    set(a, 1, full, big);
    if (big) {
        a->big_sent = full;
        if (a->big_since == 0) {
            a->big_since = now;
        }
        if (a->small && a->trying) {
            a->trying = 0;
            a->try = full;
        }
    }
}

/* ---- black holes ---- */

static void shrink(struct es_acks *a, uint64_t now)
{
    a->small = 1;
    a->trying = 0;
    a->try = -1;
    a->try_at = now + a->try_wait;
    a->rounds = 0;
    a->holes++;
}

static void big_arrived(struct es_acks *a, int64_t number)
{
    if (number > a->big_acked) {
        a->big_acked = number;
    }
    a->big_since = 0;
    a->rounds = 0;
    if (a->small) {
        a->small = a->trying = 0;
        a->try = -1;
        a->try_wait = TRY_FIRST;
    }
}

static void big_lost(struct es_acks *a, int64_t number, uint64_t now)
{
    if (number == a->try) {
        a->try = -1;
        a->try_wait = a->try_wait * 2 < TRY_MAX ? a->try_wait * 2 : TRY_MAX;
        a->try_at = now + a->try_wait;
    }
    if (a->small || number < a->big_acked || number < a->round_end) {
        return;
    }
    a->round_end = a->next;
    if (++a->rounds >= ROUNDS) {
        shrink(a, now);
    }
}

void es_acks_silence(struct es_acks *a, uint64_t now, uint64_t pto)
{
    uint64_t since = a->heard_at > a->big_since ? a->heard_at : a->big_since;

    /* The second probe is due after three PTOs: it goes out small. */
    if (!a->small && a->big_since != 0 && a->big_sent >= a->low && now - since > 5 * pto / 2) {
        shrink(a, now);
    }
}

void es_acks_moved(struct es_acks *a)
{
    a->small = a->trying = 0;
    a->try = -1;
    a->rounds = 0;
    a->big_since = 0;
    a->round_end = a->next;
    a->try_wait = TRY_FIRST;
}

/* ---- acknowledgements ---- */

static int varint(const uint8_t **p, const uint8_t *end, uint64_t *out)
{
    size_t used = es_varint_get(*p, (size_t)(end - *p), out);

    *p += used;
    return used != 0;
}

/* Returns 1 when one of them was new. */
static int mark(struct es_acks *a, int64_t first, int64_t last)
{
    int new = 0;

    for (int64_t i = first > a->low ? first : a->low; i <= last; i++) {
        if (!get(a, 0, i)) {
            set(a, 0, i, 1);
            new = 1;
            if (get(a, 1, i)) {
                big_arrived(a, i);
            }
        }
    }
    return new;
}

static void settle(struct es_acks *a, int64_t largest, uint64_t now)
{
    for (; a->low <= largest - REORDERING; a->low++) {
        if (!get(a, 0, a->low)) {
            a->lost++;
            if (get(a, 1, a->low)) {
                big_lost(a, a->low, now);
            }
        }
    }
    while (a->low <= largest && get(a, 0, a->low)) {
        a->low++;
    }
}

int es_acks_covers(const uint8_t *p, size_t n, int64_t number)
{
    const uint8_t *end = p + n;
    uint64_t largest, delay, ranges, length, gap;
    int64_t last;

    if (n == 0 || (*p != 2 && *p != 3)) {
        return 0;
    }
    p++;
    if (!varint(&p, end, &largest) || !varint(&p, end, &delay) || !varint(&p, end, &ranges) ||
        !varint(&p, end, &length) || length > largest || largest > INT64_MAX) {
        return 0;
    }
    for (last = (int64_t)largest;; ranges--) {
        if (number > last) {
            return 0; /* in a gap, or above all */
        }
        last -= (int64_t)length;
        if (number >= last) {
            return 1;
        }
        if (ranges == 0 || !varint(&p, end, &gap) || !varint(&p, end, &length) || (uint64_t)last < gap + 2 ||
            (uint64_t)last - gap - 2 < length) {
            return 0;
        }
        last -= (int64_t)gap + 2;
    }
}

void es_acks_received(struct es_acks *a, const uint8_t *p, size_t n, uint64_t now)
{
    const uint8_t *end = p + n;
    uint64_t largest, delay, ranges, length, gap;
    int64_t last;
    int new;
    uint8_t type;

    if (n == 0 || (*p != 2 && *p != 3) || a->cap == 0) {
        return;
    }
    type = *p++;
    if (!varint(&p, end, &largest) || !varint(&p, end, &delay) || !varint(&p, end, &ranges) ||
        !varint(&p, end, &length) || largest >= (uint64_t)a->next || length > largest) {
        return;
    }
    last = (int64_t)largest;
    new = mark(a, last - (int64_t)length, last);
    for (last -= (int64_t)length; ranges > 0; ranges--) {
        if (!varint(&p, end, &gap) || !varint(&p, end, &length) || (uint64_t)last < gap + 2 ||
            (uint64_t)last - gap - 2 < length) {
            return;
        }
        last -= (int64_t)gap + 2;
        if (last >= a->low) {
            new |= mark(a, last - (int64_t)length, last);
        }
        last -= (int64_t)length;
    }
    if (new) {
        a->heard_at = now;
        settle(a, (int64_t)largest, now);
    }
    if (type == 3 && varint(&p, end, &length) && varint(&p, end, &gap) && varint(&p, end, &delay)) {
        a->ect0 = length;
        a->ce = delay;
    }
}
