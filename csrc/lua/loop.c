/* Loops and timers: the userdata around a poller, and the one entry through which everything runs,
 * loop:step(). */
#include "binding.h"
#include <math.h>
#include <string.h>
#include "../base/clock.h"
#include "../base/mem.h"
#include "errors.h"
#include "luaaux.h"

#define LOOP_MT  "echostream.loop"
#define TIMER_MT "echostream.timer"

struct es_ltimer { /* userdata; user value 1: the function */
    struct es_timer timer;
    struct es_list node;   /* in loop->timers while running, in loop->fired when due */
    struct es_lloop *loop; /* referenced */
    int anchor_ref;        /* ourselves while running: a timer nobody holds still fires */
};

static struct es_lloop **box_of(lua_State *L, int idx)
{
    return luaL_checkudata(L, idx, LOOP_MT);
}

struct es_lloop *es_lua_check_loop(lua_State *L, int idx)
{
    struct es_lloop *lp = *box_of(L, idx);
    if (!lp || lp->closed)
        luaL_error(L, "the loop is closed");
    return lp;
}

struct es_lloop *es_lloop_ref(struct es_lloop *lp)
{
    lp->refs++;
    return lp;
}

void es_lloop_unref(struct es_lloop *lp)
{
    if (--lp->refs)
        return;
    es_lua_unref(lp->lua);
    es_idmap_free(&lp->hosts);
    es_idmap_free(&lp->callbacks);
    es_buf_free(&lp->scratch);
    es_free(lp);
}

/* The loop closes: its timers never fire, and nothing keeps them. */
static void timers_forget(lua_State *L, struct es_lloop *lp, struct es_list *list)
{
    es_list_foreach(it, list)
    {
        struct es_ltimer *lt = es_container_of(it, struct es_ltimer, node);
        es_list_remove(it);
        es_timer_stop(es_poller_timers(lp->poller), &lt->timer);
        if (!lp->lua->closing)
            luaL_unref(L, LUA_REGISTRYINDEX, lt->anchor_ref);
        lt->anchor_ref = LUA_NOREF;
    }
    lp->n_timers = 0;
}

static void on_kick(struct es_timer *t)
{
    (void)t; /* being due is all it is for: the step that follows drains */
}

void es_lloop_wake(struct es_lloop *lp)
{
    if (!lp->busy && !lp->closed) {
        es_timer_start(es_poller_timers(lp->poller), &lp->kick, es_poller_now(lp->poller));
        es_poller_kick(lp->poller);
    }
}

static int has_work(struct es_lloop *lp)
{
    return es_evq_peek(lp->events) || !es_list_empty(&lp->ready) || !es_list_empty(&lp->fired) ||
           !es_list_empty(&lp->busy_doors);
}

/* Frees everything but the struct. Not from inside a step: close_now below waits for its end. */
static void loop_close(lua_State *L, struct es_lloop *lp)
{
    if (lp->closed)
        return;
    lp->busy = 1; /* nothing below may kick */
    es_list_foreach(it, &lp->endpoints)
    {
        es_lendpoint_close(L, es_container_of(it, struct es_lendpoint, node));
    }
    es_lua_doors_close(L, lp);
    lp->closed = 1;
    timers_forget(L, lp, &lp->timers);
    timers_forget(L, lp, &lp->fired);
    es_task_close_all(L, lp);
    es_list_foreach(it, &lp->channels)
    {
        es_lchannel_release(es_container_of(it, struct es_lchannel, node));
    }
    /* Endpoints delivered closed() to their sessions: these last events are taken, but no user code runs. */
    es_lua_drop_events(L, lp);
    size_t it_cb = 0;
    uint64_t handle;
    void *cb;
    while (es_idmap_next(&lp->callbacks, &it_cb, &handle, &cb)) {
        if (!lp->lua->closing)
            luaL_unref(L, LUA_REGISTRYINDEX, ((struct es_lcallback *)cb)->done_ref);
        es_free(cb);
    }
    es_idmap_free(&lp->callbacks);
    es_timer_stop(es_poller_timers(lp->poller), &lp->kick);
    es_evq_del(lp->events);
    lp->events = NULL;
    if (lp->sim) {
        es_sim_del(lp->sim);
        es_lsim_log_free(lp);
    } else {
        es_poller_del(lp->poller);
    }
    lp->poller = NULL;
    lp->sim = NULL;
}

static int loop_gc(lua_State *L)
{
    struct es_lloop **box = box_of(L, 1);
    struct es_lloop *lp = *box;
    *box = NULL;
    if (lp) {
        loop_close(L, lp);
        es_lloop_unref(lp);
    }
    return 0;
}

static int loop_close_method(lua_State *L)
{
    struct es_lloop *lp = *box_of(L, 1);
    if (!lp || lp->closed)
        return 0;
    if (lp->busy)
        return luaL_error(L, "the loop cannot be closed from inside itself; use echo.stop()");
    loop_close(L, lp);
    return 0;
}

struct es_lloop *es_lloop_new(lua_State *L, const struct es_sim_config *sim)
{
    struct es_lloop **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, LOOP_MT);
    struct es_lloop *lp = es_calloc(1, sizeof *lp);
    if (!lp)
        luaL_error(L, "out of memory");
    lp->refs = 1;
    lp->lua = es_lua_get(L);
    lp->lua->refs++;
    struct es_list *lists[] = {&lp->ready, &lp->idle,      &lp->parked,   &lp->timers,
                               &lp->fired, &lp->endpoints, &lp->channels, &lp->flush_waiters,
                               &lp->doors, &lp->busy_doors};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        es_list_init(lists[i]);
    uint64_t seed;
    es_random(&seed, sizeof seed);
    es_idmap_init(&lp->hosts, seed);
    es_idmap_init(&lp->callbacks, seed);
    es_timer_init(&lp->kick, on_kick, NULL);
    int rc = es_evq_new(&lp->events);
    if (rc == 0)
        rc = sim ? es_sim_new(&lp->sim, sim) : es_poller_new(&lp->poller);
    if (rc == 0 && sim)
        lp->poller = es_sim_poller(lp->sim);
    es_lua_watch_loop(lp);
    if (rc < 0) {
        es_evq_del(lp->events);
        lp->closed = 1;
        es_lloop_unref(lp);
        luaL_error(L, "cannot make a loop: %s", es_strerror(rc));
    }
    *box = lp;
    return lp;
}

static int core_loop(lua_State *L)
{
    es_lloop_new(L, NULL);
    return 1;
}

static int loop_fd(lua_State *L)
{
    lua_pushinteger(L, es_poller_fd(es_lua_check_loop(L, 1)->poller));
    return 1;
}

static int loop_now(lua_State *L)
{
    lua_pushnumber(L, (double)es_poller_now(es_lua_check_loop(L, 1)->poller) / 1e9);
    return 1;
}

static int loop_wall(lua_State *L)
{
    lua_pushnumber(L, (double)es_poller_wall(es_lua_check_loop(L, 1)->poller) / 1e9);
    return 1;
}

/* loop:turn(): another number each time that somebody was resumed. Who reads the same one twice has not
 * waited between. */
static int loop_turn(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)es_lua_check_loop(L, 1)->stamp);
    return 1;
}

/* Drains and flushes until nothing is left to run now, but gives the network its turn after a few rounds. */
static int run_ready(lua_State *L, struct es_lloop *lp)
{
    int n = 0;
    for (int round = 0; round < 4; round++) {
        es_poller_enter(lp->poller);
        lp->stamp = es_lua_watch_clock(lp);
        if (!es_list_empty(&lp->busy_doors))
            n += es_lua_doors_pump(L, lp);
        n += (int)es_lua_drain(L, lp);
        es_poller_leave(lp->poller);
        es_poller_flush(lp->poller);
        if (!has_work(lp) || es_evq_peek(lp->events)) /* events that are left: the drain's time was up */
            break;
    }
    es_lsession_check_flushed(L, lp);
    return n;
}

static int finish_step(lua_State *L, struct es_lloop *lp, int n)
{
    lp->busy = 0;
    if (has_work(lp))
        es_lloop_wake(lp);
    lua_pushinteger(L, n);
    return 1;
}

static struct es_lloop *enter(lua_State *L)
{
    struct es_lloop *lp = es_lua_check_loop(L, 1);
    if (lp->busy)
        luaL_error(L, "the loop is running already: a handler, a task or a callback cannot run it again");
    lp->busy = 1;
    return lp;
}

static int is_alive(struct es_lloop *lp)
{
    return !es_list_empty(&lp->endpoints) || !es_list_empty(&lp->doors) || lp->n_timers > 0 ||
           lp->n_tasks > 0 || has_work(lp);
}

static int loop_step(lua_State *L)
{
    lua_Integer budget = luaL_optinteger(L, 2, 64);
    struct es_lloop *lp = enter(L);
    int n = 0;
    /* A simulated step may move the clock: only when everything that can run now has run. */
    if (!lp->sim || !has_work(lp)) {
        n = es_poller_step(lp->poller, budget > 0 ? (size_t)budget : 64);
        if (n < 0) {
            es_lua_log(L, lp->lua, "error", es_strerror(n), NULL, "poller");
            n = 0;
        }
    }
    n += run_ready(L, lp);
    finish_step(L, lp, n);
    lua_pushboolean(L, is_alive(lp));
    return 2;
}

static int loop_flush(lua_State *L)
{
    struct es_lloop *lp = enter(L);
    es_poller_now(lp->poller);
    return finish_step(L, lp, run_ready(L, lp));
}

/* loop:run(fn, ...): a step whose news are what fn brings. */
static int loop_run(lua_State *L)
{
    luaL_checktype(L, 2, LUA_TFUNCTION);
    struct es_lloop *lp = enter(L);
    es_poller_now(lp->poller);
    es_poller_enter(lp->poller);
    int rc = lua_pcall(L, lua_gettop(L) - 2, 0, 0);
    es_poller_leave(lp->poller);
    finish_step(L, lp, run_ready(L, lp));
    lua_pop(L, 1);
    if (rc != LUA_OK)
        return lua_error(L);
    lua_pushboolean(L, is_alive(lp));
    return 1;
}

static int loop_next(lua_State *L)
{
    struct es_lloop *lp = es_lua_check_loop(L, 1);
    if (has_work(lp)) {
        lua_pushnumber(L, 0);
        return 1;
    }
    uint64_t next = es_poller_next(lp->poller), now = es_poller_now(lp->poller);
    if (next == ES_NEVER)
        lua_pushnil(L);
    else
        lua_pushnumber(L, next <= now ? 0 : (double)(next - now) / 1e9);
    return 1;
}

static int loop_alive(lua_State *L)
{
    lua_pushboolean(L, is_alive(es_lua_check_loop(L, 1)));
    return 1;
}

/* ---- timers ---- */

static void ltimer_fire(struct es_timer *t)
{
    struct es_ltimer *lt = es_container_of(t, struct es_ltimer, timer);
    es_list_remove(&lt->node);
    es_list_push(&lt->loop->fired, &lt->node);
}

static void ltimer_end(lua_State *L, struct es_ltimer *lt)
{
    es_list_remove(&lt->node);
    if (lt->anchor_ref != LUA_NOREF) {
        luaL_unref(L, LUA_REGISTRYINDEX, lt->anchor_ref);
        lt->anchor_ref = LUA_NOREF;
        lt->loop->n_timers--;
    }
}

static int loop_timer(lua_State *L)
{
    struct es_lloop *lp = es_lua_check_loop(L, 1);
    lua_Number seconds = luaL_checknumber(L, 2);
    luaL_argcheck(L, seconds >= 0 && seconds < 1e9, 2, "seconds, 0 or more");
    luaL_checktype(L, 3, LUA_TFUNCTION);
    struct es_ltimer *lt = lua_newuserdatauv(L, sizeof *lt, 1);
    memset(lt, 0, sizeof *lt);
    es_timer_init(&lt->timer, ltimer_fire, NULL);
    es_list_init(&lt->node);
    lt->anchor_ref = LUA_NOREF;
    lt->loop = es_lloop_ref(lp);
    luaL_setmetatable(L, TIMER_MT);
    lua_pushvalue(L, 3);
    lua_setiuservalue(L, -2, 1);
    if (es_timer_start(es_poller_timers(lp->poller), &lt->timer,
                       es_poller_now(lp->poller) + es_lua_to_ns(seconds) + (seconds > 0)) < 0)
        return luaL_error(L, "out of memory");
    lua_pushvalue(L, -1);
    lt->anchor_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    es_list_push(&lp->timers, &lt->node);
    lp->n_timers++;
    if (!lp->busy)
        es_poller_rearm(lp->poller);
    return 1;
}

static int timer_stop(lua_State *L)
{
    struct es_ltimer *lt = luaL_checkudata(L, 1, TIMER_MT);
    int was = lt->anchor_ref != LUA_NOREF;
    if (lt->loop && !lt->loop->closed) {
        es_timer_stop(es_poller_timers(lt->loop->poller), &lt->timer);
        ltimer_end(L, lt);
    }
    lua_pushboolean(L, was);
    return 1;
}

static int timer_gc(lua_State *L)
{
    struct es_ltimer *lt = luaL_checkudata(L, 1, TIMER_MT);
    struct es_lloop *lp = lt->loop;
    lt->loop = NULL;
    if (lp) {
        es_list_remove(&lt->node);
        if (!lp->closed)
            es_timer_stop(es_poller_timers(lp->poller), &lt->timer);
        es_lloop_unref(lp);
    }
    return 0;
}

size_t es_lua_run_fired(lua_State *L, struct es_lloop *lp)
{
    size_t n = 0;
    while (!es_list_empty(&lp->fired)) {
        struct es_ltimer *lt = es_container_of(lp->fired.next, struct es_ltimer, node);
        lua_rawgeti(L, LUA_REGISTRYINDEX, lt->anchor_ref);
        lua_getiuservalue(L, -1, 1);
        ltimer_end(L, lt);
        es_task_call(L, lp, 0);
        lua_pop(L, 1);
        n++;
    }
    return n;
}

void es_lua_open_loop(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"fd", loop_fd},       {"now", loop_now},
                                       {"wall", loop_wall},   {"step", loop_step},
                                       {"flush", loop_flush}, {"run", loop_run},
                                       {"next", loop_next},   {"alive", loop_alive},
                                       {"timer", loop_timer}, {"close", loop_close_method},
                                       {"turn", loop_turn},   {NULL, NULL}};
    luaL_newmetatable(L, LOOP_MT);
    luaL_newlib(L, methods);
    es_lua_open_sim(L, core, lua_gettop(L));
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, loop_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    luaL_newmetatable(L, TIMER_MT);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, timer_stop);
    lua_setfield(L, -2, "stop");
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, timer_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    lua_pushcfunction(L, core_loop);
    lua_setfield(L, core, "loop");
}
