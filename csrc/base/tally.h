/* Bytes of several things together: of all connections of a server, for example. */
#ifndef ES_BASE_TALLY_H
#define ES_BASE_TALLY_H

#include <stdint.h>

struct es_tally {
    uint64_t bytes;
};

/* What may wait somewhere: when there is more than `high`, nobody may add to it until it has fallen to `low`.
 * high 0: any number. */
struct es_marks {
    uint64_t high, low;
};

/* *full is remembered between calls, zero at first. 1: nothing may be added now. */
static inline int es_marks_full(const struct es_marks *m, uint64_t bytes, uint8_t *full)
{
    if (m->high == 0 || bytes <= m->low)
        *full = 0;
    else if (bytes > m->high)
        *full = 1;
    return *full;
}

#endif
