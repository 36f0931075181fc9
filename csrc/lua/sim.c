/* What Lua does with a simulated network: its settings, its trace, addresses that change. */
#include "binding.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "../base/err.h"
#include "../base/mem.h"
#include "errors.h"
#include "luaaux.h"

#define ADDRESS_TEXT 64

struct kept { /* a record that waits for Lua */
    uint64_t at, number;
    union es_addr from, to;
    uint32_t len;
    uint8_t fate, corrupted, marked;
};

struct es_lsim_log {
    uint64_t began; /* times are told from here */
    FILE *file;     /* owned; NULL: records are kept */
    struct kept *v; /* owned */
    size_t n, cap;
    int rc; /* an es_err: the log is not whole */
};

static struct es_lloop *check_sim(lua_State *L)
{
    struct es_lloop *lp = es_lua_check_loop(L, 1);
    if (!lp->sim)
        luaL_error(L, "only a simulated loop can do that");
    return lp;
}

/* ---- settings ---- */

static double number(lua_State *L, int idx, const char *field, double def, double min, double max)
{
    double v = def;
    if (lua_getfield(L, idx, field) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TNUMBER)
            luaL_error(L, "%s: expected a number, got %s", field, luaL_typename(L, -1));
        v = lua_tonumber(L, -1);
        if (!(v >= min && v <= max))
            luaL_error(L, "%s: %f is out of range", field, v);
    }
    lua_pop(L, 1);
    return v;
}

static uint64_t duration(lua_State *L, int idx, const char *field, uint64_t def)
{
    return (uint64_t)(number(L, idx, field, (double)def / 1e9, 0, 1e7) * 1e9);
}

static void read_path(lua_State *L, int idx, struct es_sim_path *p)
{
    luaL_checktype(L, idx, LUA_TTABLE);
    p->loss = number(L, idx, "loss", p->loss, 0, 1);
    p->burst = (int)number(L, idx, "burst", p->burst, 1, 1e6);
    p->burst_enter = number(L, idx, "burst_enter", p->burst_enter, 0, 1);
    p->burst_leave = number(L, idx, "burst_leave", p->burst_leave, 0, 1);
    p->burst_loss = number(L, idx, "burst_loss", p->burst_loss, 0, 1);
    p->duplicate = number(L, idx, "duplicate", p->duplicate, 0, 1);
    p->reorder = number(L, idx, "reorder", p->reorder, 0, 1);
    p->corrupt = number(L, idx, "corrupt", p->corrupt, 0, 1);
    p->corrupt_span = (size_t)number(L, idx, "corrupt_span", (double)p->corrupt_span, 0, 65535);
    p->delay = duration(L, idx, "delay", p->delay);
    p->jitter = duration(L, idx, "jitter", p->jitter);
    p->rate = (uint64_t)number(L, idx, "rate", (double)p->rate, 0, 1e15);
    p->queue = (size_t)number(L, idx, "queue", (double)p->queue, 0, 1e7);
    p->queue_bytes = (size_t)number(L, idx, "queue_bytes", (double)p->queue_bytes, 0, 1e12);
    p->mark = (size_t)number(L, idx, "mark", (double)p->mark, 0, 1e12);
    es_lua_opt_boolean(L, idx, "bleach", &p->bleach);
    p->mtu = (size_t)number(L, idx, "mtu", (double)p->mtu, 0, 65535);
    p->on = duration(L, idx, "on", p->on);
    p->off = duration(L, idx, "off", p->off);
}

static int core_sim(lua_State *L)
{
    struct es_sim_config c;
    es_sim_config_default(&c);
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_getfield(L, 1, "seed");
    c.seed = (uint64_t)luaL_optinteger(L, -1, 1);
    lua_pop(L, 1);
    read_path(L, 1, &c.path);
    es_lloop_new(L, &c);
    return 1;
}

static int loop_path(lua_State *L)
{
    struct es_lloop *lp = check_sim(L);
    struct es_sim_config c;
    es_sim_config_default(&c);
    read_path(L, 2, &c.path);
    int rc = es_sim_set_path(lp->sim, luaL_optstring(L, 3, NULL), luaL_optstring(L, 4, NULL), &c.path);
    if (rc < 0)
        return luaL_error(L, "path: %s", es_strerror(rc));
    return 0;
}

static int loop_blackout(lua_State *L)
{
    struct es_lloop *lp = check_sim(L);
    uint64_t now = es_poller_now(lp->poller);
    uint64_t from = now + es_lua_to_ns(luaL_checknumber(L, 2));
    es_sim_blackout(lp->sim, from, from + es_lua_to_ns(luaL_checknumber(L, 3)));
    return 0;
}

/* loop:sim_move(endpoint, address or nil) -> true, or nil and why */
static int loop_sim_move(lua_State *L)
{
    struct es_lloop *lp = check_sim(L);
    struct es_lendpoint *le = es_lua_check_endpoint(L, 2);
    const char *text = luaL_optstring(L, 3, NULL);
    union es_addr to;
    int rc;
    if (!le->ep || le->loop != lp)
        return es_lua_fail(L, ES_ERR_NOT_FOUND, "no open endpoint of this simulation");
    if (!text)
        rc = es_sim_rebind(lp->sim, le->ep, 0);
    else if (es_addr_parse(&to, text) != 0)
        return luaL_error(L, "\"%s\" is no numeric address with a port", text);
    else
        rc = es_sim_move(lp->sim, le->ep, &to);
    if (rc < 0)
        return es_lua_fail(L, rc, text ? text : "rebind");
    lua_pushboolean(L, 1);
    return 1;
}

static int loop_sim_stats(lua_State *L)
{
    struct es_sim_stats st;
    es_sim_stats_get(check_sim(L)->sim, &st);
    lua_createtable(L, 0, 9);
#define FIELD(name) (lua_pushinteger(L, (lua_Integer)st.name), lua_setfield(L, -2, #name))
    FIELD(sent);
    FIELD(delivered);
    FIELD(lost);
    FIELD(duplicated);
    FIELD(reordered);
    FIELD(corrupted);
    FIELD(marked);
    FIELD(queue_dropped);
    FIELD(no_listener);
#undef FIELD
    return 1;
}

/* ---- the trace ---- */

static void write_line(struct es_lsim_log *log, const struct es_sim_record *r)
{
    char from[ADDRESS_TEXT], to[ADDRESS_TEXT];
    uint64_t at = r->at - log->began;
    if (fprintf(log->file, "%llu.%09llu\t%llu\t%s\t%s\t%zu\t%s%s%s\n", (unsigned long long)(at / ES_SECOND),
                (unsigned long long)(at % ES_SECOND), (unsigned long long)r->number,
                es_addr_format(r->from, from, sizeof from), es_addr_format(r->to, to, sizeof to), r->len,
                es_sim_fate_name(r->fate), r->corrupted ? "\tcorrupted" : "",
                r->marked ? "\tmarked" : "") < 0)
        log->rc = ES_ERR_IO;
}

/* Called in the middle of the core: it writes down and does nothing else. */
static void on_record(void *user, const struct es_sim_record *r)
{
    struct es_lsim_log *log = user;
    if (log->file) {
        write_line(log, r);
        return;
    }
    if (log->n == log->cap) {
        size_t cap = log->cap ? log->cap * 2 : 256;
        struct kept *v = es_realloc(log->v, cap * sizeof *v);
        if (!v) {
            log->rc = ES_ERR_NOMEM;
            return;
        }
        log->v = v;
        log->cap = cap;
    }
    struct kept *k = &log->v[log->n++];
    k->at = r->at - log->began;
    k->number = r->number;
    k->from = *r->from;
    k->to = *r->to;
    k->len = (uint32_t)r->len;
    k->fate = (uint8_t)r->fate;
    k->corrupted = r->corrupted;
    k->marked = r->marked;
}

/* loop:sim_trace([file]): from now on every datagram's fate is written into the file, or kept for
 * sim_records. */
static int loop_sim_trace(lua_State *L)
{
    struct es_lloop *lp = check_sim(L);
    const char *path = luaL_optstring(L, 2, NULL);
    if (lp->sim_log)
        return luaL_error(L, "there is a trace already");
    struct es_lsim_log *log = es_calloc(1, sizeof *log);
    if (!log)
        return luaL_error(L, "out of memory");
    log->began = es_poller_now(lp->poller);
    if (path) {
        log->file = fopen(path, "w");
        if (!log->file) {
            es_free(log);
            return luaL_error(L, "trace: %s: %s", path, strerror(errno));
        }
    }
    lp->sim_log = log;
    es_sim_trace(lp->sim, on_record, log);
    return 0;
}

static void push_address(lua_State *L, const union es_addr *a)
{
    char text[ADDRESS_TEXT];
    lua_pushstring(L, es_addr_format(a, text, sizeof text));
}

static void push_kept(lua_State *L, const struct kept *k)
{
    lua_createtable(L, 0, 6);
    lua_pushnumber(L, (double)k->at / 1e9);
    lua_setfield(L, -2, "time");
    lua_pushinteger(L, (lua_Integer)k->number);
    lua_setfield(L, -2, "number");
    push_address(L, &k->from);
    lua_setfield(L, -2, "from");
    push_address(L, &k->to);
    lua_setfield(L, -2, "to");
    lua_pushinteger(L, (lua_Integer)k->len);
    lua_setfield(L, -2, "size");
    lua_pushstring(L, es_sim_fate_name((enum es_sim_fate)k->fate));
    lua_setfield(L, -2, "fate");
    if (k->corrupted) {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "corrupted");
    }
    if (k->marked) {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "marked");
    }
}

/* loop:sim_records() -> list of what was kept since the last time; nil: there is no trace. A trace into a
 * file is written out. Raises when records are missing. */
static int loop_sim_records(lua_State *L)
{
    struct es_lloop *lp = check_sim(L);
    struct es_lsim_log *log = lp->sim_log;
    if (!log)
        return 0;
    if (log->file && fflush(log->file) != 0)
        log->rc = ES_ERR_IO;
    if (log->rc < 0)
        return luaL_error(L, "the trace is not whole: %s", es_strerror(log->rc));
    lua_createtable(L, (int)log->n, 0);
    for (size_t i = 0; i < log->n; i++) {
        push_kept(L, &log->v[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    log->n = 0;
    return 1;
}

void es_lsim_log_free(struct es_lloop *lp)
{
    struct es_lsim_log *log = lp->sim_log;
    if (!log)
        return;
    if (log->file)
        fclose(log->file);
    es_free(log->v);
    es_free(log);
    lp->sim_log = NULL;
}

void es_lua_open_sim(lua_State *L, int core, int methods)
{
    static const luaL_Reg functions[] = {{"path", loop_path},
                                         {"blackout", loop_blackout},
                                         {"sim_move", loop_sim_move},
                                         {"sim_stats", loop_sim_stats},
                                         {"sim_trace", loop_sim_trace},
                                         {"sim_records", loop_sim_records},
                                         {NULL, NULL}};
    lua_pushvalue(L, methods);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
    lua_pushcfunction(L, core_sim);
    lua_setfield(L, core, "sim");
}
