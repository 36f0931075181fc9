/* The watchdog: says which handler held the loop. While a handler computes nothing else runs, so one that
 * does so for long is everybody's problem and nobody's error message.
 *
 * It costs one reading of the clock for each resume: the end of one is the beginning of the next.
 * Simulated loops are watched only when asked for, because a log must not depend on the machine there.
 */
#include "binding.h"
#include <stdio.h>
#include "../base/clock.h"
#include "../framing/frame.h"
#include "luaaux.h"

#define DEFAULT_LIMIT (100 * ES_MILLI)
#define SILENCE       (10 * ES_SECOND) /* after a complaint about the same handler */

void es_lua_watch_loop(struct es_lloop *lp)
{
    lp->watch = lp->sim ? ES_NEVER : DEFAULT_LIMIT;
}

/* The real one also moves the loop's time on, so that what a handler's end is measured by includes the
 * handler. */
uint64_t es_lua_watch_clock(struct es_lloop *lp)
{
    return lp->sim ? es_clock_coarse() : es_poller_now(lp->poller);
}

/* A host's own limit; tasks that serve nobody have the loop's. */
static uint64_t limit_of(const struct es_task *t)
{
    struct es_lsession *ls = t->session ? es_session_user(t->session) : NULL;

    if (ls && ls->host->watch)
        return ls->host->watch;
    return t->loop->sim ? ES_NEVER : DEFAULT_LIMIT;
}

static uint64_t *warned_at(struct es_task *t)
{
    return t->method ? &t->method->warned_at : &t->loop->warned_at;
}

/* "rpc math.slow", or the place where a task's function stands, while its stack is still there. */
static void name_of(struct es_task *t, char *out, size_t room)
{
    static const char *const kinds[] = {
        [ES_JOB_CALL] = "method", [ES_JOB_EVENT] = "event handler", [ES_JOB_CHANNEL] = "stream handler"};
    lua_Debug ar;
    int low = 0, high = 1;

    if (t->method) {
        snprintf(out, room, "%s %s", kinds[t->job], t->method->name);
        return;
    }
    /* The outermost level by doubling and halving: lua_getstack walks, and a stack that overflowed has
     * 200,000. */
    while (lua_getstack(t->co, high, &ar)) {
        low = high;
        high *= 2;
    }
    while (low + 1 < high) {
        int middle = low + (high - low) / 2;
        if (lua_getstack(t->co, middle, &ar))
            low = middle;
        else
            high = middle;
    }
    if (lua_getstack(t->co, low, &ar) && lua_getinfo(t->co, "S", &ar))
        snprintf(out, room, "task at %s:%d", ar.short_src, ar.linedefined);
    else
        snprintf(out, room, "task");
}

void es_lua_watch_held(lua_State *L, struct es_task *t, uint64_t held)
{
    uint64_t *warned = warned_at(t);
    char name[ES_MAX_NAME + 64], text[sizeof name + 96];

    if (held <= limit_of(t) || (*warned && t->loop->stamp - *warned < SILENCE))
        return;
    *warned = t->loop->stamp;
    name_of(t, name, sizeof name);
    snprintf(text, sizeof text, "the %s held the loop for %.0f ms; nothing else ran meanwhile", name,
             (double)held / 1e6);
    es_lua_log(L, t->loop->lua, "warn", text, NULL, t->method ? t->method->name : NULL);
}

int es_lua_host_watchdog(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);

    if (lua_isboolean(L, 2)) {
        h->watch = ES_NEVER;
        return 0;
    }
    lua_Number seconds = luaL_checknumber(L, 2);
    luaL_argcheck(L, seconds > 0, 2, "a number of seconds, or false");
    h->watch = es_lua_to_ns(seconds);
    if (h->watch < h->loop->watch)
        h->loop->watch = h->watch;
    return 0;
}
