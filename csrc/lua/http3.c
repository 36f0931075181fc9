/* HTTP/3 connections in Lua: the host that takes requests, the connections that we dial, and their events.
 *
 * The es_h3 of a connection is the core's; here it gets a struct es_lh3, counted: the es_h3 holds one
 * reference until it is gone, each userdata of it and of its exchanges one. It keeps the app, whose config
 * the core borrows. */
#include "http3.h"
#include <string.h>
#include "../base/mem.h"
#include "errors.h"
#include "http3_internal.h"
#include "luaaux.h"
#include "quic.h"

#define HOST_MT "echostream.h3host"
#define CONN_MT "echostream.h3"

static const char *const conn_names[] = {"open", "goaway", "credit", "idle", "closed", "early"};
static const char *const exchange_names[] = {"request",  "informed", "response", "readable",
                                             "writable", "aborted",  "late"};

/* ---- apps ---- */

static int attach(struct es_app *app, struct es_link *link, void *arg);
static void gone(void *user);

static struct es_lh3_app *app_new(struct es_lloop *lp)
{
    struct es_lh3_app *a = es_calloc(1, sizeof *a);

    if (a == NULL)
        return NULL;
    a->refs = 1;
    a->loop = es_lloop_ref(lp);
    a->fn_ref = a->idle_ref = LUA_NOREF;
    es_list_init(&a->conns);
    a->cfg.events = lp->events;
    a->cfg.timers = es_poller_timers(lp->poller);
    a->cfg.gone = gone;
    es_h3_limits_default(&a->cfg.limits);
    es_h3_app_init(&a->core, &a->cfg);
    a->app = a->core;
    a->app.attach = attach;
    a->app.user = a;
    return a;
}

struct es_lh3_app *es_lh3_app_ref(struct es_lh3_app *a)
{
    a->refs++;
    return a;
}

void es_lh3_app_unref(struct es_lh3_app *a)
{
    if (--a->refs != 0)
        return;
    struct es_lua *lua = a->loop->lua;
    int usable = !lua->closing && lua_checkstack(lua->main, 8);
    if (usable) {
        luaL_unref(lua->main, LUA_REGISTRYINDEX, a->fn_ref);
        luaL_unref(lua->main, LUA_REGISTRYINDEX, a->idle_ref);
    }
    es_lua_wt_free(usable ? lua->main : NULL, &a->wt);
    es_lloop_unref(a->loop);
    es_free(a);
}

struct es_app *es_lh3_app_of(struct es_lh3_app *a)
{
    return &a->app;
}

/* ---- connections ---- */

static uint64_t last_number;

static struct es_lh3 *conn_new(struct es_lh3_app *a)
{
    struct es_lh3 *c = es_calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->refs = 1;
    c->number = ++last_number;
    c->app = es_lh3_app_ref(a);
    c->ud_ref = LUA_NOREF;
    es_list_init(&c->node);
    return c;
}

struct es_lh3 *es_lh3_ref(struct es_lh3 *c)
{
    c->refs++;
    return c;
}

void es_lh3_unref(struct es_lh3 *c)
{
    if (--c->refs != 0)
        return;
    es_lh3_app_unref(c->app);
    es_free(c);
}

/* The core's connection is no more. */
static void gone(void *user)
{
    struct es_lh3 *c = user;

    c->h = NULL;
    es_list_remove(&c->node);
    es_lh3_unref(c);
}

static int attach(struct es_app *app, struct es_link *link, void *arg)
{
    struct es_lh3_app *a = app->user;
    struct es_lh3 *c = arg; /* dialled */
    struct es_h3_dial dial = {0};

    if (c != NULL)
        es_lh3_ref(c);
    else
        c = conn_new(a);
    if (c == NULL)
        return ES_ERR_NOMEM;
    dial.user = c;
    int rc = a->core.attach(&a->core, link, &dial);
    if (rc != 0) {
        es_lh3_unref(c);
        return rc;
    }
    c->h = dial.h3;
    es_h3_unref(c->h); /* the link has one, and what is under way; gone() tells of the end */
    es_list_push(&a->conns, &c->node);
    return 0;
}

/* Its life is over: the userdata may be collected. */
static void conn_over(struct es_lh3 *c)
{
    struct es_lua *lua = c->app->loop->lua;

    if (c->h != NULL && es_h3_closed_by(c->h) != NULL)
        c->info = *es_h3_closed_by(c->h);
    c->over = 1;
    if (c->ud_ref != LUA_NOREF && !lua->closing && lua_checkstack(lua->main, 4))
        luaL_unref(lua->main, LUA_REGISTRYINDEX, c->ud_ref);
    c->ud_ref = LUA_NOREF;
    es_list_remove(&c->node);
}

/* ---- events: Lua from here on ---- */

static void begin(lua_State *L, struct es_lh3 *c, struct es_exchange *x, int *begun)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->app->fn_ref);
    struct es_lexchange *box = es_lua_push_exchange(L, c, x);
    *begun = 1; /* the userdata has it, whatever is raised from here on */
    struct es_task *t = es_task_call(L, c->app->loop, 1);
    box->task = t; /* the userdata lives: its task has it */
    if (t != NULL)
        t->holder = &box->task;
}

/* The handler took too long: the client hears it now, whatever the handler goes on doing. 0: it has begun to
 * answer since. */
static int answer_late(lua_State *L, struct es_lh3 *c, struct es_exchange *x)
{
    static const char body[] =
        "{\"error\":{\"code\":\"timeout\",\"message\":\"the handler did not answer in time\"}}";
    static const struct es_h3_field fields[] = {{"content-type", "application/json", 12, 16, 0}};
    size_t n;
    const char *path = es_h3_head_pseudo(es_exchange_head(x), ES_H3_PATH, &n);

    if (es_exchange_answer(x, 504, fields, 1, body, sizeof body - 1, NULL, NULL) != 0)
        return 0;
    es_lua_log(L, c->app->loop->lua, "warn", "a handler did not answer in time", NULL, path);
    es_lloop_wake(c->app->loop);
    return 1;
}

static void end_handler(lua_State *L, struct es_exchange *x, uint64_t code)
{
    struct es_lexchange *box = es_lua_exchange_find(L, x);

    if (box != NULL && code == ES_APP_DEADLINE)
        box->late = 1;
    if (box != NULL && box->task != NULL)
        es_task_give_up(L, box->task, code);
}

static void exchange_event(lua_State *L, struct es_lh3 *c, struct es_exchange *x, unsigned bits)
{
    struct es_exchange_error e;

    if ((bits & ES_EX_LATE) != 0 && answer_late(L, c, x))
        end_handler(L, x, ES_APP_DEADLINE);
    es_quic_notify(L, c->app->loop, x, bits & ~(unsigned)(ES_EX_REQUEST | ES_EX_LATE), exchange_names);
    if ((bits & ES_EX_ABORTED) != 0)
        end_handler(L, x, es_exchange_error(x, &e) == 0 ? e.code : 0);
}

/* Whoever drains looks again. */
static void maybe_idle(lua_State *L, struct es_lh3_app *a)
{
    if (a->idle_ref == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, a->idle_ref);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
        es_lua_log(L, a->loop->lua, "error", es_lua_error_text(L, -1), NULL, "http3");
        lua_pop(L, 1);
    }
}

struct told {
    struct es_event *ev;
    unsigned bits;
    int begun;
};

static int event_body(lua_State *L)
{
    struct told *t = lua_touserdata(L, 1);

    luaL_checkstack(L, 16, NULL);
    if (t->ev->type == ES_H3_EVENT_EXCHANGE) {
        struct es_exchange *x = t->ev->owner;
        struct es_lh3 *c = es_h3_user(es_exchange_h3(x));

        if ((t->bits & ES_EX_REQUEST) != 0) {
            begin(L, c, x, &t->begun);
        }
        exchange_event(L, c, x, t->bits);
    } else {
        struct es_lh3 *c = es_h3_user(t->ev->owner);

        es_quic_notify(L, c->app->loop, c, t->bits, conn_names);
        if ((t->bits & (ES_H3_IDLE | ES_H3_CLOSED)) != 0)
            maybe_idle(L, c->app);
    }
    return 0;
}

void es_lua_h3_event(lua_State *L, struct es_event *ev)
{
    struct told t = {ev, es_h3_take(ev), 0};
    struct es_h3 *h = ev->type == ES_H3_EVENT_CONN ? ev->owner : es_exchange_h3(ev->owner);
    struct es_lh3 *c = es_h3_user(h);

    lua_pushcfunction(L, event_body);
    lua_pushlightuserdata(L, &t);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) { /* out of memory */
        es_lua_log(L, c->app->loop->lua, "error", es_lua_error_text(L, -1), NULL, "http3");
        lua_pop(L, 1);
        if (ev->type == ES_H3_EVENT_EXCHANGE && (t.bits & ES_EX_REQUEST) != 0 && !t.begun)
            es_exchange_release(ev->owner);
    }
    if (ev->type == ES_H3_EVENT_CONN && (t.bits & ES_H3_CLOSED) != 0)
        conn_over(c);
}

void es_lua_h3_drop(struct es_event *ev)
{
    struct es_lh3 *over = NULL;

    if (ev->type == ES_H3_EVENT_CONN && es_h3_closed_by(ev->owner) != NULL)
        over = es_h3_user(ev->owner);
    es_h3_drop(ev);
    if (over != NULL)
        conn_over(over);
}

/* ---- hosts ---- */

struct es_lh3_app *es_lua_check_h3_host(lua_State *L, int idx)
{
    struct es_lh3_app *a = *(struct es_lh3_app **)luaL_checkudata(L, idx, HOST_MT);

    if (a == NULL)
        luaL_error(L, "the host was collected");
    return a;
}

static void read_limits(lua_State *L, int idx, struct es_h3_config *cfg)
{
    static const char *const fields[] = {
        "max_header_bytes", "max_header_fields", "max_target_bytes", "head_timeout",
        "body_timeout",     "timeout",           "connect",          NULL};
    lua_Integer v;

    if (lua_isnoneornil(L, idx))
        return;
    es_lua_check_fields(L, idx, fields);
    if (es_lua_opt_integer(L, idx, "max_header_bytes", 256, 1 << 24, &v))
        cfg->limits.max_header = (uint64_t)v;
    if (es_lua_opt_integer(L, idx, "max_header_fields", 8, 1 << 20, &v))
        cfg->limits.max_fields = (size_t)v;
    if (es_lua_opt_integer(L, idx, "max_target_bytes", 16, 1 << 24, &v))
        cfg->limits.max_target = (size_t)v;
    es_lua_opt_seconds(L, idx, "head_timeout", &cfg->limits.head_timeout);
    es_lua_opt_seconds(L, idx, "body_timeout", &cfg->limits.body_timeout);
    es_lua_opt_seconds(L, idx, "timeout", &cfg->limits.answer_timeout);
    es_lua_opt_boolean(L, idx, "connect", &cfg->connect);
}

static int core_h3_host(lua_State *L)
{
    struct es_lloop *lp = es_lua_check_loop(L, 1);

    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 4);
    struct es_lh3_app **box = es_lua_new(L, HOST_MT, sizeof *box, 0);
    struct es_lh3_app *a = app_new(lp);
    if (a == NULL)
        return luaL_error(L, "out of memory");
    *box = a;
    read_limits(L, 3, &a->cfg);
    if (!lua_isnil(L, 4)) {
        es_lua_wt_read(L, 4, &a->wt);
        a->cfg.webtransport = &a->wt.core;
        lua_settop(L, 5); /* the userdata */
    }
    lua_pushvalue(L, 2);
    a->fn_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 1;
}

static int host_goaway(lua_State *L)
{
    struct es_lh3_app *a = es_lua_check_h3_host(L, 1);
    int final = lua_toboolean(L, 2);

    es_list_foreach(it, &a->conns)
    {
        (void)es_h3_goaway(es_container_of(it, struct es_lh3, node)->h, final);
    }
    es_lloop_wake(a->loop);
    return 0;
}

static int host_close(lua_State *L)
{
    struct es_lh3_app *a = es_lua_check_h3_host(L, 1);

    es_list_foreach(it, &a->conns)
    {
        es_h3_close(es_container_of(it, struct es_lh3, node)->h, ES_H3_NO_ERROR, luaL_optstring(L, 2, ""));
    }
    es_lloop_wake(a->loop);
    return 0;
}

/* connections, of them with something under way, the longest round trip of all in seconds */
static int host_in_flight(lua_State *L)
{
    struct es_lh3_app *a = es_lua_check_h3_host(L, 1);
    struct es_link_stats st;
    lua_Integer conns = 0, busy = 0;
    uint64_t rtt = 0;

    es_list_foreach(it, &a->conns)
    {
        struct es_h3 *h = es_container_of(it, struct es_lh3, node)->h;

        if (es_h3_link(h) == NULL)
            continue;
        conns++;
        busy += !es_h3_is_idle(h);
        es_link_stats_get(es_h3_link(h), &st);
        rtt = st.rtt_smoothed > rtt ? st.rtt_smoothed : rtt;
    }
    lua_pushinteger(L, conns);
    lua_pushinteger(L, busy);
    lua_pushnumber(L, (lua_Number)rtt / 1e9);
    return 3;
}

/* on_idle(fn): fn() is called when a connection that was told to go may be idle, or is closed; nil: no more
 */
static int host_on_idle(lua_State *L)
{
    struct es_lh3_app *a = es_lua_check_h3_host(L, 1);

    lua_settop(L, 2);
    luaL_unref(L, LUA_REGISTRYINDEX, a->idle_ref);
    a->idle_ref = LUA_NOREF;
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TFUNCTION);
        a->idle_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    return 0;
}

static int host_gc(lua_State *L)
{
    struct es_lh3_app **box = luaL_checkudata(L, 1, HOST_MT);
    struct es_lh3_app *a = *box;

    *box = NULL;
    if (a != NULL)
        es_lh3_app_unref(a);
    return 0;
}

/* Whether the running task serves a request. */
static int core_h3_serving(lua_State *L)
{
    struct es_task *t = es_task_current(L);

    lua_pushboolean(L, t != NULL && t->holder != NULL);
    return 1;
}

/* ---- connections that we dial ---- */

static struct es_lh3 *check_conn(lua_State *L)
{
    struct es_lh3 *c = *(struct es_lh3 **)luaL_checkudata(L, 1, CONN_MT);

    if (c == NULL)
        luaL_error(L, "the connection was collected");
    return c;
}

int es_lua_h3_closed(lua_State *L, const struct es_lh3 *c)
{
    const struct es_close_info *info = c->over ? &c->info : c->h != NULL ? es_h3_closed_by(c->h) : NULL;

    if (info == NULL)
        return es_lua_closed(L, "connection");
    lua_pushnil(L);
    es_lua_push_close_err(L, info);
    return 2;
}

static int conn_notify(lua_State *L)
{
    luaL_checkudata(L, 1, CONN_MT);
    return es_lua_set_notify(L);
}

/* request(target, fields, fin): an exchange, or nil, "again", or nil, err */
static int conn_request(lua_State *L)
{
    struct es_lh3 *c = check_conn(L);
    struct es_h3_target t = {NULL, NULL, NULL, NULL, NULL};
    struct es_exchange *x;
    size_t n = 0;

    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 4);
    es_lua_opt_string(L, 2, "method", &t.method, NULL);
    es_lua_opt_string(L, 2, "scheme", &t.scheme, NULL);
    es_lua_opt_string(L, 2, "authority", &t.authority, NULL);
    es_lua_opt_string(L, 2, "path", &t.path, NULL);
    es_lua_opt_string(L, 2, "protocol", &t.protocol, NULL);
    struct es_h3_field few[ES_LH3_FEW];
    const struct es_h3_field *f = es_lua_h3_fields(L, 3, few, &n);
    /* The userdata first: making it may raise, a request cannot be undone. It may also collect the last
     * exchange of a connection that is over, and with it that. */
    struct es_lexchange *box = es_lua_exchange_box(L, c);
    if (c->h == NULL)
        return es_lua_h3_closed(L, c);
    int rc = es_h3_request(c->h, &t, f, n, lua_toboolean(L, 4), NULL, &x);
    if (rc == 0) {
        es_lua_exchange_fill(L, box, x);
        es_lloop_wake(c->app->loop);
        return 1;
    }
    if (rc == ES_ERR_AGAIN || rc == ES_ERR_LIMIT) {
        lua_pushnil(L);
        lua_pushliteral(L, "again");
        return 2;
    }
    return rc == ES_ERR_CLOSED ? es_lua_h3_closed(L, c) : es_lua_fail(L, rc, "request");
}

static int conn_goaway(lua_State *L)
{
    struct es_lh3 *c = check_conn(L);

    if (c->h != NULL)
        (void)es_h3_goaway(c->h, 1);
    es_lloop_wake(c->app->loop);
    return 0;
}

static int conn_close(lua_State *L)
{
    struct es_lh3 *c = check_conn(L);
    lua_Integer code = luaL_optinteger(L, 2, ES_H3_NO_ERROR);

    luaL_argcheck(L, code >= 0 && code < (lua_Integer)1 << 62, 2, "a code is 0 to 2^62 - 1");
    if (c->h != NULL)
        es_h3_close(c->h, (uint64_t)code, luaL_optstring(L, 3, ""));
    es_lloop_wake(c->app->loop);
    return 0;
}

/* nil while it lives, or the error that says how it ended */
static int conn_closed(lua_State *L)
{
    struct es_lh3 *c = check_conn(L);

    if (c->h != NULL && es_h3_closed_by(c->h) == NULL) {
        lua_pushnil(L);
        return 1;
    }
    (void)es_lua_h3_closed(L, c);
    return 1;
}

static int conn_stats(lua_State *L)
{
    struct es_lh3 *c = check_conn(L);

    if (c->h == NULL || es_h3_link(c->h) == NULL)
        return es_lua_h3_closed(L, c);
    es_lua_push_link_stats(L, es_h3_link(c->h));
    return 1;
}

static int conn_peer_addr(lua_State *L)
{
    struct es_lh3 *c = check_conn(L);
    char buf[80] = "";

    if (c->h == NULL || es_h3_link(c->h) == NULL)
        return es_lua_h3_closed(L, c);
    es_link_peer_addr(es_h3_link(c->h), buf, sizeof buf);
    lua_pushstring(L, buf);
    return 1;
}

/* Requests that were not let go. */
static int conn_in_flight(lua_State *L)
{
    struct es_lh3 *c = check_conn(L);

    lua_pushinteger(L, c->h != NULL ? (lua_Integer)es_h3_in_flight(c->h) : 0);
    return 1;
}

static int conn_gc(lua_State *L)
{
    struct es_lh3 **box = luaL_checkudata(L, 1, CONN_MT);
    struct es_lh3 *c = *box;

    *box = NULL;
    if (c != NULL)
        es_lh3_unref(c);
    return 0;
}

static void push_conn(lua_State *L, struct es_lh3 *c)
{
    struct es_lh3 **box = es_lua_new(L, CONN_MT, sizeof *box, 1);

    es_quic_link_userdata(L, c);
    lua_pushvalue(L, -1);
    c->ud_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    *box = es_lh3_ref(c);
}

/* core.h3_dial(endpoint, { remote, tls, transport, ticket, on_ticket, limits }): a connection, which is open
 * when it says so */
static int core_h3_dial(lua_State *L)
{
    static const char *const fields[] = {"remote", "tls", "transport", "ticket", "on_ticket", "limits", NULL};
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    struct es_connect_config cc;
    union es_addr remote;
    const char *text = NULL;
    struct es_link *link;
    char err[256] = "";

    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    es_lua_check_fields(L, 2, fields);
    if (le->ep == NULL)
        return es_lua_closed(L, "endpoint");
    memset(&cc, 0, sizeof cc);
    if (!es_lua_opt_string(L, 2, "remote", &text, NULL) || es_addr_parse(&remote, text) < 0)
        return luaL_error(L, "remote: expected a numeric address such as 127.0.0.1:5000, got %s",
                          text != NULL ? text : "nothing");
    lua_getfield(L, 2, "tls");
    cc.tls = es_lua_check_tls(L, -1);
    lua_getfield(L, 2, "transport");
    es_transport_config_default(&cc.transport, 0);
    es_lua_transport_config(L, -1, &cc.transport);
    cc.remote = &remote;

    struct es_h3_config wanted;
    es_h3_limits_default(&wanted.limits);
    lua_getfield(L, 2, "limits");
    read_limits(L, -1, &wanted);
    struct es_lh3_app *app = app_new(le->loop);
    if (app != NULL)
        app->cfg.limits = wanted.limits;
    struct es_lh3 *c = app != NULL ? conn_new(app) : NULL;
    if (app != NULL)
        es_lh3_app_unref(app); /* the connection's now */
    if (c == NULL)
        return es_lua_fail(L, ES_ERR_NOMEM, "connection");
    push_conn(L, c);
    es_lh3_unref(c); /* the userdata's now */
    cc.app = &app->app;
    cc.app_arg = c;
    int rc = es_lua_ticket_options(L, 2, c->app->loop, &cc);
    if (rc == 0)
        rc = es_endpoint_connect(le->ep, &cc, &link, err, sizeof err);
    if (rc < 0 && cc.ticket_free != NULL)
        cc.ticket_free(cc.ticket_user);
    if (rc == 0) {
        es_lloop_wake(c->app->loop);
        return 1;
    }
    conn_over(c);
    if (c->h != NULL) /* attached, and closed() will not come: the link's reference */
        es_h3_unref(c->h);
    lua_pushnil(L);
    es_lua_push_error(L, es_err_code(rc), "%s", err[0] != '\0' ? err : es_strerror(rc));
    return 2;
}

void es_lua_open_http3(lua_State *L, int core)
{
    static const luaL_Reg host_methods[] = {{"goaway", host_goaway},
                                            {"close", host_close},
                                            {"in_flight", host_in_flight},
                                            {"on_idle", host_on_idle},
                                            {NULL, NULL}};
    static const luaL_Reg host_meta[] = {{"__gc", host_gc}, {NULL, NULL}};
    static const luaL_Reg conn_methods[] = {
        {"notify", conn_notify},       {"request", conn_request},     {"goaway", conn_goaway},
        {"close", conn_close},         {"closed", conn_closed},       {"stats", conn_stats},
        {"peer_addr", conn_peer_addr}, {"in_flight", conn_in_flight}, {NULL, NULL}};
    static const luaL_Reg conn_meta[] = {{"__gc", conn_gc}, {NULL, NULL}};

    es_lua_class(L, HOST_MT, host_methods, host_meta);
    es_lua_class(L, CONN_MT, conn_methods, conn_meta);
    es_lua_open_exchange(L);
    lua_pushcfunction(L, core_h3_host);
    lua_setfield(L, core, "h3_host");
    lua_pushcfunction(L, core_h3_serving);
    lua_setfield(L, core, "h3_serving");
    lua_pushcfunction(L, core_h3_dial);
    lua_setfield(L, core, "h3_dial");
}
