#include "glitch.h"
#include <string.h>
#include "timer.h"

#define FULL (16 * ES_SECOND) /* in that time an empty account is full again */

void es_glitch_init(struct es_glitch *g, uint32_t budget, uint64_t now)
{
    memset(g, 0, sizeof *g);
    g->budget = budget < ES_GLITCH_BUDGET_MAX ? budget : ES_GLITCH_BUDGET_MAX;
    g->at = now;
}

static void refill(struct es_glitch *g, uint64_t now)
{
    uint64_t passed = now > g->at ? now - g->at : 0, points;

    if (g->used == 0 || passed >= FULL) {
        g->used = 0;
        g->at = now;
        return;
    }
    points = passed * g->budget / FULL;
    if (points > 0) { /* the rest of the time is counted with the next one */
        g->at += points * FULL / g->budget;
        g->used -= g->used < points ? g->used : points;
    }
}

int es_glitch_charge(struct es_glitch *g, uint64_t now, uint64_t points)
{
    if (g->budget == 0 || g->over) {
        return 0;
    }
    if (g->expected > 0) {
        uint64_t ours = g->expected < points ? g->expected : points;

        g->expected -= ours;
        points -= ours;
    }
    refill(g, now);
    g->used += points;
    g->over = g->used > g->budget;
    return (int)g->over;
}
