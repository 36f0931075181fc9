/* The account of what a peer sends that is of no use: a budget in points that refills with time.
 *
 * Every single one of these things is allowed, so none of them is answered with an error; it is their number
 * that does harm (RFC 9000 21.9). What is charged for what is decided by those who see it: frames by the
 * transport, streams and messages by the protocols. Honest work takes points off the account again.
 *
 * A budget of B points refills by B / 16 each second, so that an honest peer's occasional oddities never add
 * up. A budget of 0 charges nothing.
 */
#ifndef ES_BASE_GLITCH_H
#define ES_BASE_GLITCH_H

#include <stdint.h>

#define ES_GLITCH_BUDGET     4096
#define ES_GLITCH_BUDGET_MAX (1u << 24)
#define ES_GLITCH_SAVED      4 /* budgets that honest work can save */

struct es_glitch {
    uint64_t used;     /* points */
    uint64_t expected; /* points that are charged to nobody: saved, or asked for by us */
    uint64_t at;       /* ns: up to when the refill was counted */
    uint32_t budget;
    uint32_t over; /* the budget was exceeded once */
};

void es_glitch_init(struct es_glitch *g, uint32_t budget, uint64_t now);

/* Returns 1 the first time that the budget is exceeded; exactly `budget` points pass. */
int es_glitch_charge(struct es_glitch *g, uint64_t now, uint64_t points);

/* We did what makes an honest peer send something that would be charged. */
static inline void es_glitch_expect(struct es_glitch *g, uint64_t points)
{
    if (g->expected < ES_GLITCH_BUDGET_MAX) {
        g->expected += points;
    }
}

static inline void es_glitch_forgive(struct es_glitch *g, uint64_t points)
{
    if (g->used >= points) {
        g->used -= points;
    } else {
        /* Saved, up to some budgets: what an honest peer sends may be late, a crowd of CANCELs for calls that
         * were answered meanwhile. A client that stood still while its answers got lost gives up thousands.
         */
        points -= g->used;
        g->used = 0;
        if (g->expected < (uint64_t)ES_GLITCH_SAVED * g->budget) {
            g->expected += points;
        }
    }
}

#endif
