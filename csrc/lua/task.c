/* Tasks: coroutines that the core resumes. A finished coroutine is reused for the next job, so a handler that
 * returns without yielding costs one lua_resume and no allocation.
 *
 * A task parks only through core.park (any wait) or session:request (which yields by itself); any other yield
 * that reaches us is a user's coroutine.yield() outside a coroutine of their own and ends the task with an
 * error that says so.
 */
#include "binding.h"
#include <string.h>
#include "../base/clock.h"
#include "../base/mem.h"
#include "../dispatch/host.h"
#include "errors.h"

#define TASK_MT  "echostream.task"
#define MAX_IDLE 256

/* The innermost task that this thread is resuming, so that it need not be looked up by its coroutine. */
static _Thread_local struct {
    lua_State *co;
    struct es_task *task; /* borrowed: it lives while it is resumed */
} running;

struct es_task *es_task_current(lua_State *L)
{
    if (running.co == L)
        return running.task;
    struct es_lua *lua = es_lua_get(L);
    return lua ? es_idmap_get(&lua->tasks, (uint64_t)(uintptr_t)L) : NULL;
}

static void task_free(lua_State *L, struct es_task *t)
{
    struct es_lloop *lp = t->loop;
    es_idmap_remove(&lp->lua->tasks, (uint64_t)(uintptr_t)t->co);
    luaL_unref(L, LUA_REGISTRYINDEX, t->co_ref);
    es_list_remove(&t->node);
    es_free(t);
}

struct es_task *es_task_new(lua_State *L, struct es_lloop *lp, enum es_task_job job)
{
    struct es_task *t;
    if (!es_list_empty(&lp->idle)) {
        t = es_container_of(lp->idle.next, struct es_task, node);
        es_list_remove(&t->node);
        lp->n_idle--;
    } else {
        t = es_calloc(1, sizeof *t);
        if (!t)
            return NULL;
        es_list_init(&t->node);
        t->loop = lp;
        t->early_ref = t->cancel_fns_ref = t->meta_ref = t->ud_ref = LUA_NOREF;
        t->co_ref = t->trailers_ref = t->came_ref = t->keep_ref = LUA_NOREF;
        lua_State *co = lua_newthread(L); /* may raise: t would leak a few bytes when Lua is out of memory */
        t->co = co;
        t->co_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        if (es_idmap_put(&lp->lua->tasks, (uint64_t)(uintptr_t)co, t) < 0) {
            luaL_unref(L, LUA_REGISTRYINDEX, t->co_ref);
            es_free(t);
            return NULL;
        }
    }
    t->waiter.kind = ES_WAITER_TASK;
    t->waiter.call = NULL;
    t->job = job;
    t->state = ES_TASK_READY;
    t->cancelled = t->parking = t->started_call = 0;
    t->refused = t->unreadable = 0;
    t->ticket = 0;
    lp->n_tasks++;
    return t;
}

static void drop_ref(lua_State *L, int *ref)
{
    if (*ref != LUA_NOREF) {
        luaL_unref(L, LUA_REGISTRYINDEX, *ref);
        *ref = LUA_NOREF;
    }
}

/* A stream's handler keeps its method; a call and an event do it for their tasks. Before the session, which
 * keeps the host. */
static void leave_method(struct es_task *t)
{
    if (t->job == ES_JOB_CHANNEL && t->method)
        es_method_unuse(t->method);
    t->method = NULL;
}

static void leave_holder(struct es_task *t)
{
    if (t->holder != NULL)
        *t->holder = NULL;
    t->holder = NULL;
}

/* The job is over in every respect: the coroutine goes back to the pool. */
static void task_recycle(lua_State *L, struct es_task *t)
{
    struct es_lloop *lp = t->loop;
    drop_ref(L, &t->early_ref);
    drop_ref(L, &t->cancel_fns_ref);
    drop_ref(L, &t->meta_ref);
    drop_ref(L, &t->trailers_ref);
    drop_ref(L, &t->came_ref);
    drop_ref(L, &t->keep_ref);
    if (t->ud) {
        t->ud->task = NULL;
        t->ud = NULL;
        drop_ref(L, &t->ud_ref);
    }
    leave_method(t);
    leave_holder(t);
    if (t->session) {
        es_session_unref(t->session);
        t->session = NULL;
    }
    t->call = NULL;
    t->job = ES_JOB_NONE;
    t->state = ES_TASK_IDLE;
    lp->n_tasks--;
    es_list_remove(&t->node);
    if (lp->n_idle >= MAX_IDLE || lp->closed || t->worn) {
        task_free(L, t);
    } else {
        lp->n_idle++;
        /* the most recently used goes first: its stack is warm */
        es_list_init(&t->node);
        t->node.next = lp->idle.next;
        t->node.prev = &lp->idle;
        lp->idle.next->prev = &t->node;
        lp->idle.next = &t->node;
    }
}

/* Keeps the outcome in the task's handle and runs its on_end functions. n results (or 1 error value) on top
 * of L stay there. */
static void task_settle(lua_State *L, struct es_task *t, int ok, int n)
{
    struct es_ltask_ud *ud = t->ud;
    if (!ud)
        return;
    int base = lua_gettop(L) - n;
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->ud_ref);
    int handle = lua_gettop(L);
    lua_createtable(L, n, 1);
    for (int i = 1; i <= n; i++) {
        lua_pushvalue(L, base + i);
        lua_rawseti(L, -2, i);
    }
    lua_pushinteger(L, n);
    lua_setfield(L, -2, "n");
    lua_setiuservalue(L, handle, 1);
    ud->ended = ok ? 'd' : (t->cancelled && es_lua_is_error(L, base + 1) ? 'c' : 'f');
    ud->task = NULL;
    t->ud = NULL;
    drop_ref(L, &t->ud_ref);
    if (lua_getiuservalue(L, handle, 2) == LUA_TTABLE) {
        lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
        for (lua_Integer i = 1; i <= count; i++) {
            lua_rawgeti(L, -1, i);
            lua_pushvalue(L, handle);
            if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
                es_lua_log(L, t->loop->lua, "error", es_lua_error_text(L, -1), NULL, "on_end");
                lua_pop(L, 2);
            }
        }
        lua_pushnil(L);
        lua_setiuservalue(L, handle, 2);
    }
    lua_settop(L, base + n);
}

/* The function returned or failed: the values are moved to L, the coroutine is made fit for the next job, the
 * job ends. */
static void task_finish(lua_State *L, struct es_task *t, int status, int nres)
{
    int base = lua_gettop(L);
    int ok = status == LUA_OK;
    if (ok && !lua_checkstack(L, nres + 8)) {
        ok = 0;
        lua_pushliteral(t->co, "too many results");
    }
    if (ok) {
        lua_xmove(t->co, L, nres);
    } else {
        nres = 1;
        luaL_checkstack(L, 8, "ending a task");
        const char *msg = NULL;
        int is_object = es_lua_is_error(t->co, -1);
        lua_xmove(t->co, L, 1);
        if (!is_object) {
            msg = es_lua_error_text(L, -1);
            luaL_traceback(L, t->co, msg, 0);
            es_lua_log(L, t->loop->lua, "error", msg, lua_tostring(L, -1),
                       t->method ? t->method->name : NULL);
            lua_settop(L, base + 1);
        }
        /* Until 5.4.6 lua_resetthread forgets neither an xpcall that the yield came out of nor its message
         * handler: the next error in this coroutine would become "error in error handling". */
        t->worn = lua_status(t->co) == LUA_YIELD;
        lua_resetthread(t->co);
    }
    lua_settop(t->co, 0);
    task_settle(L, t, ok, nres);
    if (t->cancelled && !ok && t->job == ES_JOB_SPAWNED)
        ok = 1; /* a cancelled task that ends by its error is no news */
    es_job_end(L, t, ok, nres);
    lua_settop(L, base);
    task_recycle(L, t);
}

void es_task_run(lua_State *L, struct es_task *t, int nargs)
{
    struct es_lloop *lp = t->loop;
    struct es_task *before = lp->current;
    int nres = 0;
    es_list_remove(&t->node);
    t->state = ES_TASK_RUNNING;
    lp->current = t;
    lua_State *outer_co = running.co;
    struct es_task *outer = running.task;
    running.co = t->co;
    running.task = t;
    int status = lua_resume(t->co, L, nargs, &nres);
    running.co = outer_co;
    running.task = outer;
    lp->current = before;
    uint64_t now = es_lua_watch_clock(lp), held = now - lp->stamp;
    lp->stamp = now;
    if (held > lp->watch)
        es_lua_watch_held(L, t, held);
    if (status == LUA_YIELD && t->parking) {
        t->parking = 0;
        lua_pop(t->co, nres);
        t->state = ES_TASK_PARKED;
        es_list_push(&lp->parked, &t->node);
        if (t->job == ES_JOB_CALL && !t->started_call) {
            t->started_call = 1;
            es_call_started(t->call);
        }
        return;
    }
    if (status == LUA_YIELD) {
        lua_pushliteral(
            t->co,
            "coroutine.yield() was called outside a coroutine of your own; inside handlers and tasks use "
            "echostream's waiting calls, and echo.wrap for generators");
        status = LUA_ERRRUN;
    }
    task_finish(L, t, status, nres);
}

void es_task_ready(struct es_task *t, int nargs)
{
    es_list_remove(&t->node);
    t->nargs = nargs;
    t->state = ES_TASK_READY;
    es_list_push(&t->loop->ready, &t->node);
    es_lloop_wake(t->loop);
}

struct es_task *es_task_call(lua_State *L, struct es_lloop *lp, int nargs)
{
    struct es_task *t = lp->closed ? NULL : es_task_new(L, lp, ES_JOB_HOOK);
    if (!t || !lua_checkstack(t->co, nargs + 1)) {
        lua_pop(L, nargs + 1);
        return NULL;
    }
    lua_xmove(L, t->co, nargs + 1);
    es_task_ready(t, nargs);
    return t;
}

void es_task_discard(lua_State *L, struct es_task *t)
{
    lua_settop(t->co, 0);
    task_recycle(L, t);
}

static void push_cancelled(lua_State *L)
{
    es_lua_push_error(L, "cancelled", "the task was cancelled");
}

void es_task_cancel(lua_State *L, struct es_task *t)
{
    t->cancelled = 1;
    if (t->state == ES_TASK_PARKED) {
        if (t->waiter.call) {
            struct es_call *c = t->waiter.call;
            t->waiter.call = NULL;
            es_call_cancel(c, ES_APP_CANCELLED);
        }
        t->ticket = 0;
        if (!lua_checkstack(t->co, 2))
            return;
        lua_pushnil(L);
        push_cancelled(L);
        lua_xmove(L, t->co, 2);
        es_task_ready(t, 2);
    } else if (t->state == ES_TASK_READY && lua_status(t->co) == LUA_OK && t->job == ES_JOB_SPAWNED) {
        lua_settop(t->co, 0); /* it never starts */
        push_cancelled(L);
        task_settle(L, t, 0, 1);
        lua_pop(L, 1);
        task_recycle(L, t);
    }
}

void es_task_give_up(lua_State *L, struct es_task *t, uint64_t code)
{
    if (t->cancel_fns_ref != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, t->cancel_fns_ref);
        int list = lua_gettop(L);
        lua_Integer n = (lua_Integer)lua_rawlen(L, list);
        drop_ref(L, &t->cancel_fns_ref);
        for (lua_Integer i = 1; i <= n; i++) {
            lua_rawgeti(L, list, i);
            lua_pushinteger(L, (lua_Integer)code);
            es_task_call(L, t->loop, 1);
        }
        lua_pop(L, 1);
    }
    es_task_cancel(L, t);
}

void es_task_close_all(lua_State *L, struct es_lloop *lp)
{
    struct es_list *lists[] = {&lp->ready, &lp->parked, &lp->idle};
    for (size_t i = 0; i < 3; i++) {
        es_list_foreach(it, lists[i])
        {
            struct es_task *t = es_container_of(it, struct es_task, node);
            es_job_abandon(t);
            leave_method(t);
            leave_holder(t);
            if (t->session)
                es_session_unref(t->session);
            if (t->channel) {
                t->channel->task = NULL;
                es_lchannel_unref(L, t->channel);
            }
            if (t->ud) {
                t->ud->task = NULL;
                t->ud->ended = 'c';
            }
            es_list_remove(&t->node);
            es_idmap_remove(&lp->lua->tasks, (uint64_t)(uintptr_t)t->co);
            if (L && !lp->lua->closing) {
                drop_ref(L, &t->early_ref);
                drop_ref(L, &t->cancel_fns_ref);
                drop_ref(L, &t->meta_ref);
                drop_ref(L, &t->trailers_ref);
                drop_ref(L, &t->came_ref);
                drop_ref(L, &t->keep_ref);
                drop_ref(L, &t->ud_ref);
                luaL_unref(L, LUA_REGISTRYINDEX, t->co_ref);
            }
            es_free(t);
        }
    }
    lp->n_tasks = lp->n_idle = 0;
}

/* ---- the Lua face ---- */

static struct es_ltask_ud *check_task(lua_State *L)
{
    return luaL_checkudata(L, 1, TASK_MT);
}

/* Pushes the task's handle, made on first use. */
static void push_handle(lua_State *L, struct es_task *t)
{
    if (t->ud) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, t->ud_ref);
        return;
    }
    struct es_ltask_ud *ud = lua_newuserdatauv(L, sizeof *ud, 2);
    memset(ud, 0, sizeof *ud);
    luaL_setmetatable(L, TASK_MT);
    lua_pushvalue(L, -1);
    t->ud_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    t->ud = ud;
    ud->task = t;
}

static int core_spawn(lua_State *L)
{
    struct es_lloop *lp = es_lua_check_loop(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    struct es_task *t = es_task_new(L, lp, ES_JOB_SPAWNED);
    if (!t)
        return luaL_error(L, "out of memory");
    push_handle(L, t);
    lua_insert(L, 2);
    int nargs = lua_gettop(L) - 3;
    if (!lua_checkstack(t->co, nargs + 1))
        return luaL_error(L, "too many arguments");
    lua_xmove(L, t->co, nargs + 1);
    es_task_ready(t, nargs);
    return 1;
}

static int task_status(lua_State *L)
{
    struct es_ltask_ud *ud = check_task(L);
    const char *s = "done";
    if (ud->task) {
        static const char *const names[] = {"ready", "ready", "running", "suspended"};
        s = names[ud->task->state];
    } else if (ud->ended == 'f') {
        s = "failed";
    } else if (ud->ended == 'c') {
        s = "cancelled";
    }
    lua_pushstring(L, s);
    return 1;
}

static int task_result(lua_State *L)
{
    struct es_ltask_ud *ud = check_task(L);
    if (ud->task) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushboolean(L, ud->ended == 'd');
    if (lua_getiuservalue(L, 1, 1) != LUA_TTABLE) {
        lua_pop(L, 1);
        if (ud->ended == 'd')
            return 1;
        push_cancelled(L);
        return 2;
    }
    int table = lua_gettop(L);
    lua_getfield(L, table, "n");
    int n = (int)lua_tointeger(L, -1);
    luaL_checkstack(L, n + 1, "too many results");
    lua_pop(L, 1);
    for (int i = 1; i <= n; i++)
        lua_rawgeti(L, table, i);
    lua_remove(L, table);
    return n + 1;
}

static int task_on_end(lua_State *L)
{
    struct es_ltask_ud *ud = check_task(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (!ud->task) {
        lua_pushvalue(L, 2);
        lua_pushvalue(L, 1);
        lua_call(L, 1, 0);
        return 0;
    }
    if (lua_getiuservalue(L, 1, 2) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_createtable(L, 1, 0);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, 2);
    }
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    return 0;
}

static int task_cancel(lua_State *L)
{
    struct es_ltask_ud *ud = check_task(L);
    struct es_task *t = ud->task;
    if (t)
        es_task_cancel(L, t);
    lua_pushboolean(L, t != NULL);
    return 1;
}

static int task_cancelled(lua_State *L)
{
    struct es_ltask_ud *ud = check_task(L);
    lua_pushboolean(L, ud->task ? ud->task->cancelled : ud->ended == 'c');
    return 1;
}

static int core_current(lua_State *L)
{
    struct es_task *t = es_task_current(L);
    if (t)
        push_handle(L, t);
    else
        lua_pushnil(L);
    return 1;
}

static int core_prepare(lua_State *L)
{
    struct es_task *t = es_task_current(L);
    if (!t) {
        lua_pushnil(L);
        return 1;
    }
    drop_ref(L, &t->early_ref);
    push_handle(L, t);
    t->ticket = ++t->loop->next_ticket;
    lua_pushinteger(L, (lua_Integer)t->ticket);
    return 2;
}

/* Pushes table { ..., n = } as values, drops it. */
static int unpack_ref(lua_State *L, int *ref)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, *ref);
    drop_ref(L, ref);
    int table = lua_gettop(L);
    lua_getfield(L, table, "n");
    int n = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    luaL_checkstack(L, n, "too many values");
    for (int i = 1; i <= n; i++)
        lua_rawgeti(L, table, i);
    return n;
}

static int core_park(lua_State *L)
{
    struct es_task *t = es_task_current(L);
    if (!t)
        return luaL_error(L, "core.park outside a task");
    if (t->early_ref != LUA_NOREF)
        return unpack_ref(L, &t->early_ref);
    if (t->cancelled) {
        t->ticket = 0;
        lua_pushnil(L);
        push_cancelled(L);
        return 2;
    }
    if ((uint64_t)luaL_checkinteger(L, 1) != t->ticket)
        return luaL_error(L, "core.park with a stale ticket");
    if (!lua_isyieldable(L))
        return luaL_error(L, "this call waits, which cannot be done inside a callback of a C function "
                             "(string.gsub, table.sort, "
                             "a metamethod called from C) or a coroutine of your own; use echo.wrap, or do "
                             "it before or after");
    t->parking = 1;
    return lua_yield(L, 0);
}

static int core_wake(lua_State *L)
{
    struct es_ltask_ud *ud = check_task(L);
    uint64_t ticket = (uint64_t)luaL_checkinteger(L, 2);
    struct es_task *t = ud->task;
    if (!t || ticket == 0 || t->ticket != ticket) {
        lua_pushboolean(L, 0);
        return 1;
    }
    int n = lua_gettop(L) - 2;
    if (t->state == ES_TASK_PARKED) {
        if (!lua_checkstack(t->co, n))
            return luaL_error(L, "too many values");
        t->ticket = 0;
        lua_xmove(L, t->co, n);
        es_task_ready(t, n);
    } else {
        lua_createtable(L, n, 1);
        lua_insert(L, 3);
        for (int i = n; i >= 1; i--)
            lua_rawseti(L, 3, i);
        lua_pushinteger(L, n);
        lua_setfield(L, 3, "n");
        lua_settop(L, 3);
        t->early_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        t->ticket = 0;
    }
    lua_pushboolean(L, 1);
    return 1;
}

void es_lua_open_task(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"status", task_status},
                                       {"result", task_result},
                                       {"on_end", task_on_end},
                                       {"cancel", task_cancel},
                                       {"give_up", es_lua_task_give_up},
                                       {"cancelled", task_cancelled},
                                       {NULL, NULL}};
    static const luaL_Reg functions[] = {{"spawn", core_spawn},     {"current", core_current},
                                         {"prepare", core_prepare}, {"park", core_park},
                                         {"wake", core_wake},       {NULL, NULL}};
    luaL_newmetatable(L, TASK_MT);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_pushvalue(L, core);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
