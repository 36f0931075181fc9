/* Hosts in Lua: the functions behind method, event and stream names, and the hooks of their sessions. */
#include "binding.h"
#include <string.h>
#include "../base/clock.h"
#include "../base/mem.h"
#include "../framing/frame.h"
#include "errors.h"
#include "luaaux.h"

#define HOST_MT "echostream.host"

static struct es_lhost **box_of(lua_State *L, int idx)
{
    return luaL_checkudata(L, idx, HOST_MT);
}

struct es_lhost *es_lua_check_host(lua_State *L, int idx)
{
    struct es_lhost *h = *box_of(L, idx);
    if (!h)
        luaL_error(L, "the host was finalised already"); /* by lua_close, before what still uses it */
    return h;
}

struct es_lhost *es_lhost_ref(struct es_lhost *h)
{
    h->refs++;
    return h;
}

static int *hook_of(struct es_lhost *h, int i)
{
    int *const hooks[] = {&h->open_ref, &h->accept_ref, &h->closed_ref, &h->goaway_ref,
                          &h->idle_ref, &h->moved_ref,  &h->pong_ref,   &h->wrapper_ref};
    return hooks[i];
}
#define N_HOOKS 8

void es_lhost_unref(lua_State *L, struct es_lhost *h)
{
    if (--h->refs)
        return;
    if (!h->loop->lua->closing && L) {
        for (int i = 0; i < N_HOOKS; i++)
            luaL_unref(L, LUA_REGISTRYINDEX, *hook_of(h, i));
        const int *refs = (const int *)(const void *)h->method_refs.p;
        for (size_t i = 0; i < h->method_refs.n / sizeof *refs; i++)
            luaL_unref(L, LUA_REGISTRYINDEX, refs[i]);
    }
    es_buf_free(&h->method_refs);
    es_idmap_remove(&h->loop->hosts, (uint64_t)(uintptr_t)h->host);
    if (h->app_ready)
        es_session_app_free(&h->app);
    if (h->host)
        es_host_unref(h->host);
    es_lloop_unref(h->loop);
    es_free(h);
}

static int host_gc(lua_State *L)
{
    struct es_lhost **box = box_of(L, 1);
    if (*box)
        es_lhost_unref(L, *box);
    *box = NULL;
    return 0;
}

static void host_rand(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    es_random(out, n);
}

uint64_t es_lhost_wall(const struct es_lhost *h)
{
    const struct es_lloop *lp = h->loop;
    uint64_t wall = lp->poller ? es_poller_wall(lp->poller) : es_clock_wall();
    if (h->skewed_at)
        wall += (uint64_t)(h->ahead + (int64_t)((double)(wall - h->skewed_at) * h->drift));
    return wall;
}

static uint64_t host_wall(void *ctx)
{
    return es_lhost_wall(ctx);
}

/* host:wall() -> seconds since 1970, as this side's clock has them */
static int host_wall_seconds(lua_State *L)
{
    lua_pushnumber(L, (double)es_lhost_wall(es_lua_check_host(L, 1)) / 1e9);
    return 1;
}

/* host:skew(ahead, drift): in a simulation, this side's wall clock is so many seconds ahead from now on, and
 * gains `drift` seconds in each. */
static int host_skew(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    lua_Number ahead = luaL_checknumber(L, 2), drift = luaL_optnumber(L, 3, 0);
    if (!h->loop->sim)
        return luaL_error(L, "only in a simulation can a clock be wrong");
    luaL_argcheck(L, ahead > -1e9 && ahead < 1e9, 2, "seconds, less than 1e9 either way");
    luaL_argcheck(L, drift > -0.1 && drift < 0.1, 3, "a drift is less than 0.1 either way");
    h->ahead = (int64_t)(ahead * 1e9);
    h->drift = drift;
    h->skewed_at = es_poller_wall(h->loop->poller);
    return 0;
}

/* Field `name`: { high, low }, which the caller of core.host has checked. */
static void read_marks(lua_State *L, int idx, const char *name, struct es_marks *m)
{
    if (lua_getfield(L, idx, name) == LUA_TTABLE) {
        for (int i = 1; i <= 2; i++) {
            lua_rawgeti(L, -i, i);
            lua_Integer v = luaL_checkinteger(L, -1);
            luaL_argcheck(L, v >= 0, idx, name);
            *(i == 1 ? &m->high : &m->low) = (uint64_t)v;
        }
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
}

static void read_limits(lua_State *L, int idx, struct es_limits *l)
{
    lua_Integer v;
    read_marks(L, idx, "stream_queue", &l->stream_queue);
    read_marks(L, idx, "event_queue", &l->event_queue);
    read_marks(L, idx, "session_queue", &l->session_queue);
    read_marks(L, idx, "total_queue", &l->total_queue);
    if (es_lua_opt_integer(L, idx, "max_total_calls", 0, 1 << 30, &v))
        l->max_total_calls = (uint32_t)v;
    if (es_lua_opt_integer(L, idx, "max_message", 1, INT64_C(1) << 40, &v))
        l->max_message = (uint64_t)v;
    if (es_lua_opt_integer(L, idx, "max_metadata", 0, ES_MAX_META_BYTES, &v))
        l->max_metadata = (uint64_t)v;
    if (es_lua_opt_integer(L, idx, "max_calls", 1, 1 << 30, &v))
        l->max_calls = (uint32_t)v;
    if (es_lua_opt_integer(L, idx, "max_named_streams", 0, 1 << 30, &v))
        l->max_named_streams = (uint32_t)v;
    if (es_lua_opt_integer(L, idx, "max_pending", 0, 1 << 30, &v))
        l->max_pending = (uint32_t)v;
    es_lua_opt_seconds(L, idx, "request_timeout", &l->request_timeout);
    es_lua_opt_seconds(L, idx, "assembly_timeout", &l->assembly_timeout);
}

static int core_host(lua_State *L)
{
    static const char *const fields[] = {
        "max_message", "max_metadata",    "max_calls",        "max_named_streams",
        "max_pending", "request_timeout", "assembly_timeout", "agent",
        "hooks",       "compress",        "checksum",         "stream_queue",
        "event_queue", "session_queue",   "total_queue",      "max_total_calls",
        NULL};
    static const char *const hooks[] = {"open", "accept", "closed", "goaway", "idle", "moved", "pong", NULL};
    struct es_lloop *lp = es_lua_check_loop(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    es_lua_check_fields(L, 2, fields);
    if (!es_lua_opt_push(L, 2, "hooks", LUA_TTABLE))
        return luaL_error(L, "hooks: a table with `open` is needed");
    int hooks_at = lua_gettop(L);
    es_lua_check_fields(L, hooks_at, hooks);
    struct es_lhost **box = es_lua_new(L, HOST_MT, sizeof *box, 0);
    struct es_lhost *h = es_calloc(1, sizeof *h);
    if (!h)
        return luaL_error(L, "out of memory");
    h->refs = 1;
    h->loop = es_lloop_ref(lp);
    *box = h;
    for (int i = 0; i < N_HOOKS; i++)
        *hook_of(h, i) = LUA_NOREF;
    for (int i = 0; hooks[i]; i++)
        if (es_lua_opt_push(L, hooks_at, hooks[i], LUA_TFUNCTION))
            *hook_of(h, i) = luaL_ref(L, LUA_REGISTRYINDEX);
    if (h->open_ref == LUA_NOREF)
        return luaL_error(L, "hooks.open: a function is needed");
    struct es_host_config c;
    memset(&c, 0, sizeof c);
    c.timers = es_poller_timers(lp->poller);
    c.events = lp->events;
    c.rand = host_rand;
    c.wall = host_wall;
    c.ctx = h;
    c.hold_until_accept = h->accept_ref != LUA_NOREF;
    es_limits_default(&c.limits);
    read_limits(L, 2, &c.limits);
    (void)es_lua_read_packing(L, 2, &h->packing);
    c.packing = h->packing;
    c.codecs = &lp->lua->codecs;
    const char *agent = "";
    es_lua_opt_string(L, 2, "agent", &agent, NULL);
    strncpy(c.agent, agent, sizeof c.agent - 1);
    int rc = es_host_new(&h->host, &c);
    if (rc == 0)
        rc = es_session_app_init(&h->app, h->host);
    if (rc < 0)
        return luaL_error(L, "%s", es_strerror(rc));
    h->app_ready = 1;
    if (es_idmap_put(&lp->hosts, (uint64_t)(uintptr_t)h->host, h) < 0)
        return luaL_error(L, "out of memory");
    return 1;
}

static enum es_kind check_kind(lua_State *L, int idx)
{
    static const char *const kinds[] = {"rpc", "event", "stream", NULL};
    return (enum es_kind)luaL_checkoption(L, idx, NULL, kinds);
}

/* What a handler was registered with. */
struct registration {
    enum es_kind kind;
    const char *name;
    size_t len;
    unsigned flags;
    uint32_t concurrent, max_calls;
    unsigned priority;
    uint64_t timeout;
};

/* kind, name, function, options: arguments 2 to 5. */
static void read_registration(lua_State *L, struct registration *r)
{
    r->kind = check_kind(L, 2);
    r->name = es_lua_check_text(L, 3, &r->len);
    luaL_checktype(L, 4, LUA_TFUNCTION);
    static const char *const streams[] = {"in", "out", "both", NULL};
    static const unsigned stream_flags[] = {ES_METHOD_STREAM_IN, ES_METHOD_STREAM_OUT, ES_METHOD_STREAM};
    int idempotent = 0, secret = 0, stream = -1;
    lua_Integer concurrent = 0, max_calls = 0, priority = ES_CALLERS_PRIORITY;
    r->timeout = 0;
    es_lua_check_options(L, 5, "options");
    es_lua_opt_boolean(L, 5, "idempotent", &idempotent);
    es_lua_opt_boolean(L, 5, "secret", &secret);
    es_lua_opt_integer(L, 5, "concurrent", 1, 1 << 20, &concurrent);
    es_lua_opt_integer(L, 5, "max_calls", 1, 1 << 30, &max_calls);
    es_lua_opt_integer(L, 5, "priority", 0, 7, &priority);
    es_lua_opt_seconds(L, 5, "timeout", &r->timeout);
    es_lua_opt_choice(L, 5, "stream", streams, &stream);
    luaL_argcheck(L, stream < 0 || r->kind == ES_KIND_RPC, 5, "only a method can be a streaming one");
    r->flags = (idempotent ? ES_METHOD_IDEMPOTENT : 0) | (secret ? ES_METHOD_SECRET : 0) |
               (stream >= 0 ? stream_flags[stream] : 0);
    r->concurrent = (uint32_t)concurrent;
    r->max_calls = (uint32_t)max_calls;
    r->priority = (unsigned)priority;
}

static void limit_registration(struct es_lhost *h, const struct registration *r)
{
    (void)es_host_limit(h->host, r->kind, r->name, r->len, r->timeout, r->max_calls);
    (void)es_host_prioritize(h->host, r->kind, r->name, r->len, r->priority);
}

static int host_add(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    struct registration r;
    read_registration(L, &r);
    lua_pushvalue(L, 4);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    int rc = es_buf_reserve(&h->method_refs, sizeof ref);
    if (rc == 0)
        rc = es_host_add(h->host, r.kind, r.name, r.len, ref, r.flags, r.concurrent);
    if (rc == 0) {
        limit_registration(h, &r);
        es_buf_put(&h->method_refs, &ref, sizeof ref);
        lua_pushboolean(L, 1);
        return 1;
    }
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    if (rc == ES_ERR_INVAL)
        return luaL_argerror(L, 3, "a name is 1 to 256 bytes of A-Z a-z 0-9 . _ / : -");
    return es_lua_fail(L, rc, r.name);
}

/* Another function for a name; what was queued for the old one goes to the new one. With options and a number
 * it is a registration of its own, a version; without, all else stays. False: there is none. */
static int host_replace(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    struct registration r;
    read_registration(L, &r);
    if (!lua_isnoneornil(L, 6)) {
        lua_Integer version = luaL_checkinteger(L, 6);
        luaL_argcheck(L, version >= 1 && version <= UINT32_MAX, 6, "a version is a number from 1 on");
        int rc = es_host_replace(h->host, r.kind, r.name, r.len, r.flags, r.concurrent, (uint32_t)version);
        if (rc < 0 && rc != ES_ERR_NOT_FOUND)
            return es_lua_fail(L, rc, r.name);
        limit_registration(h, &r);
    }
    struct es_method *m = es_host_find(h->host, r.kind, r.name, r.len);
    if (m) {
        lua_pushvalue(L, 4);
        lua_rawseti(L, LUA_REGISTRYINDEX, m->ref);
    }
    lua_pushboolean(L, m != NULL);
    return 1;
}

/* The versions of what is behind a name, the last first: a list of { version =, running = }. Earlier ones are
 * in it while calls run. */
static int host_versions(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    enum es_kind kind = check_kind(L, 2);
    size_t len;
    const char *name = es_lua_check_text(L, 3, &len);
    const struct es_method *first = es_host_find(h->host, kind, name, len);
    lua_Integer n = 0;
    lua_newtable(L);
    for (const struct es_method *m = first; m; m = m->older) {
        if (m != first && m->running == 0)
            continue;
        lua_createtable(L, 0, 2);
        lua_pushinteger(L, m->version);
        lua_setfield(L, -2, "version");
        lua_pushinteger(L, m->running);
        lua_setfield(L, -2, "running");
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static int host_remove(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    enum es_kind kind = check_kind(L, 2);
    size_t len;
    const char *name = es_lua_check_text(L, 3, &len);
    int ref = LUA_NOREF;
    int rc = es_host_remove(h->host, kind, name, len, &ref);
    if (rc == 0) {
        int *refs = (int *)(void *)h->method_refs.p;
        size_t n = h->method_refs.n / sizeof ref;
        for (size_t i = 0; i < n; i++) {
            if (refs[i] == ref) {
                refs[i] = refs[n - 1];
                h->method_refs.n -= sizeof ref;
                break;
            }
        }
        luaL_unref(L, LUA_REGISTRYINDEX, ref);
    }
    lua_pushboolean(L, rc == 0);
    return 1;
}

static int host_early_open(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    es_host_early_open(h->host, lua_toboolean(L, 2));
    return 0;
}

static int host_set_wrapper(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    luaL_unref(L, LUA_REGISTRYINDEX, h->wrapper_ref);
    h->wrapper_ref = LUA_NOREF;
    if (!lua_isnoneornil(L, 2)) {
        lua_pushvalue(L, 2);
        h->wrapper_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    return 0;
}

static int host_stats(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    struct es_host_stats st;
    es_host_stats_get(h->host, &st);
    lua_createtable(L, 0, 15);
#define FIELD(name) (lua_pushinteger(L, (lua_Integer)st.name), lua_setfield(L, -2, #name))
    FIELD(sessions);
    FIELD(sessions_total);
    FIELD(calls_in);
    FIELD(calls_in_running);
    FIELD(calls_in_refused);
    FIELD(calls_out);
    FIELD(calls_out_running);
    FIELD(calls_timed_out);
    FIELD(calls_cancelled);
    FIELD(events_in);
    FIELD(events_out);
    FIELD(events_unhandled);
    FIELD(streams_in);
    FIELD(streams_out);
    FIELD(bad_frames);
    FIELD(compressed_in);
    FIELD(compressed_out);
    FIELD(compression_saved);
    FIELD(checksum_errors);
    FIELD(queued);
    FIELD(send_waits);
#undef FIELD
    lua_pushnumber(L, (double)st.send_waited / 1e9);
    lua_setfield(L, -2, "send_waited");
    return 1;
}

void es_lua_open_host(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"add", host_add},
                                       {"replace", host_replace},
                                       {"remove", host_remove},
                                       {"versions", host_versions},
                                       {"set_wrapper", host_set_wrapper},
                                       {"early_open", host_early_open},
                                       {"fingerprints", es_lua_host_fingerprints},
                                       {"outcomes", es_lua_host_outcomes},
                                       {"request_id", es_lua_host_request_id},
                                       {"stats", host_stats},
                                       {"wall", host_wall_seconds},
                                       {"skew", host_skew},
                                       {"figures", es_lua_host_figures},
                                       {"watchdog", es_lua_host_watchdog},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", host_gc}, {NULL, NULL}};
    es_lua_class(L, HOST_MT, methods, meta);
    lua_pushcfunction(L, core_host);
    lua_setfield(L, core, "host");
}
