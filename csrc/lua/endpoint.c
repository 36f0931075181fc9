/* Endpoints in Lua, and what sessions and raw connections share of the transport's figures. */
#include "binding.h"
#include <stdio.h>
#include <string.h>
#include "../base/mem.h"
#include "errors.h"
#include "http3.h"
#include "luaaux.h"
#include "quic.h"

#define ENDPOINT_MT "echostream.endpoint"
#define MAX_APPS    16
#define LOG_EVENT   0x300

/* An endpoint's apps outlive it: they are kept by the userdata until it is closed. */
struct apps {
    struct es_app *app[MAX_APPS];
    struct es_lhost *host[MAX_APPS]; /* the one that owns app[i], or NULL, */
    struct es_lh3_app *h3[MAX_APPS]; /* or the host of HTTP/3 that does; or NULL: a raw app */
    size_t n;
};

struct es_lendpoint *es_lua_check_endpoint(lua_State *L, int idx)
{
    return luaL_checkudata(L, idx, ENDPOINT_MT);
}

void es_lua_transport_config(lua_State *L, int idx, struct es_transport_config *c)
{
    static const char *const fields[] = {"idle_timeout",
                                         "keep_alive",
                                         "handshake_timeout",
                                         "max_streams_bidi",
                                         "max_streams_uni",
                                         "stream_window",
                                         "connection_window",
                                         "max_datagram",
                                         "congestion_control",
                                         "hold_cap",
                                         "version",
                                         "disable_mtu_discovery",
                                         "ignore_preferred",
                                         "wait_for_ready",
                                         "glitch_budget",
                                         "memory_cap",
                                         "enable_0rtt",
                                         "key_update_packets",
                                         "stall_timeout",
                                         "batch_bytes",
                                         "batch_delay",
                                         NULL};
    static const char *const ccs[] = {"cubic", "bbr", "newreno", NULL};
    if (lua_isnoneornil(L, idx))
        return;
    idx = lua_absindex(L, idx);
    es_lua_check_fields(L, idx, fields);
    es_lua_opt_seconds(L, idx, "idle_timeout", &c->idle_timeout);
    es_lua_opt_seconds(L, idx, "handshake_timeout", &c->handshake_timeout);
    es_lua_opt_seconds(L, idx, "stall_timeout", &c->stall_timeout);
    es_lua_opt_seconds(L, idx, "batch_delay", &c->batch_delay);
    if (lua_getfield(L, idx, "keep_alive") == LUA_TBOOLEAN)
        c->keep_alive = lua_toboolean(L, -1) ? ES_KEEP_ALIVE_AUTO : 0;
    else
        es_lua_opt_seconds(L, idx, "keep_alive", &c->keep_alive);
    lua_pop(L, 1);
    struct {
        const char *name;
        lua_Integer lo, hi;
        uint64_t *out;
    } const sizes[] = {{"max_streams_bidi", 0, INT64_C(1) << 60, &c->max_streams_bidi},
                       {"max_streams_uni", 0, INT64_C(1) << 60, &c->max_streams_uni},
                       {"stream_window", 1024, INT64_C(1) << 60, &c->stream_window},
                       {"connection_window", 1024, INT64_C(1) << 60, &c->connection_window},
                       {"key_update_packets", 16, INT64_C(1) << 22, &c->key_update_packets},
                       {"hold_cap", 1024, INT64_C(1) << 60, &c->hold_cap},
                       {"glitch_budget", 0, ES_GLITCH_BUDGET_MAX, &c->glitch_budget},
                       {"memory_cap", 1, INT64_C(1) << 60, &c->memory_cap},
                       {"batch_bytes", 1, 1 << 20, &c->batch_bytes},
                       {"max_datagram", 0, 65535, &c->max_datagram}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lua_Integer v;
        if (es_lua_opt_integer(L, idx, sizes[i].name, sizes[i].lo, sizes[i].hi, &v))
            *sizes[i].out = (uint64_t)v;
    }
    es_lua_opt_boolean(L, idx, "disable_mtu_discovery", &c->disable_mtu_discovery);
    es_lua_opt_boolean(L, idx, "ignore_preferred", &c->ignore_preferred);
    es_lua_opt_boolean(L, idx, "wait_for_ready", &c->wait_for_ready);
    es_lua_opt_boolean(L, idx, "enable_0rtt", &c->enable_0rtt);
    int cc = (int)c->cc;
    es_lua_opt_choice(L, idx, "congestion_control", ccs, &cc);
    c->cc = (enum es_cc)cc;
    lua_Integer version;
    if (es_lua_opt_integer(L, idx, "version", 1, 2, &version))
        c->version = (int)version;
}

/* What concerns those who come: Retry, the caps and the secret. */
static void admission_config(lua_State *L, int idx, struct es_endpoint_config *c)
{
    static const char *const retries[] = {"auto", "always", "never", NULL};
    int retry = (int)c->retry;
    lua_Integer v;
    const char *secret = NULL;
    size_t len = 0;
    es_lua_opt_choice(L, idx, "retry", retries, &retry);
    c->retry = (enum es_retry)retry;
    if (es_lua_opt_integer(L, idx, "retry_above", 1, INT32_MAX, &v))
        c->retry_above = (size_t)v;
    if (es_lua_opt_integer(L, idx, "max_half_open", 1, INT32_MAX, &v))
        c->max_half_open = (size_t)v;
    if (es_lua_opt_integer(L, idx, "max_half_open_per_address", 1, INT32_MAX, &v))
        c->max_half_open_each = (size_t)v;
    if (es_lua_opt_string(L, idx, "secret", &secret, &len)) {
        if (len < sizeof c->secret)
            luaL_error(L, "secret: expected at least 32 bytes, got %d", (int)len);
        es_endpoint_config_secret(c, secret, len);
    }
}

/* Library callbacks may log: the text waits in the event queue until Lua may run. */
static int on_log(void *user, int level, const char *text)
{
    struct es_lloop *lp = user;
    size_t n = strlen(text) + 1;
    struct es_event *ev = es_evq_push(lp->events, LOG_EVENT, NULL, sizeof *ev + n);
    (void)level;
    if (ev)
        memcpy(ev + 1, text, n);
    return 0;
}

static void apps_free(lua_State *L, struct apps *a)
{
    for (size_t i = 0; i < a->n; i++) {
        if (a->host[i])
            es_lhost_unref(L, a->host[i]);
        else if (a->h3[i])
            es_lh3_app_unref(a->h3[i]);
        else
            es_lua_raw_app_del(L, a->app[i]);
    }
    a->n = 0;
}

/* The list at idx: { alpn = , host = }, { alpn = "h3", h3 = } or { alpn = , raw = fn }. */
static void apps_read(lua_State *L, int idx, struct es_lloop *lp, struct apps *a)
{
    size_t n = lua_rawlen(L, idx);
    luaL_argcheck(L, n <= MAX_APPS, 2, "apps: at most 16");
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, idx, (lua_Integer)i + 1);
        int at = lua_gettop(L);
        luaL_checktype(L, at, LUA_TTABLE);
        const char *alpn = NULL;
        size_t len = 0;
        if (!es_lua_opt_string(L, at, "alpn", &alpn, &len) || len == 0 || len > 255)
            luaL_error(L, "apps: alpn is a string of 1 to 255 bytes");
        if (lua_getfield(L, at, "host") != LUA_TNIL) {
            struct es_lhost *h = es_lua_check_host(L, -1);
            a->host[a->n] = es_lhost_ref(h);
            a->app[a->n++] = &h->app;
        } else if (lua_getfield(L, at, "h3") != LUA_TNIL) {
            struct es_lh3_app *h = es_lua_check_h3_host(L, -1);
            a->host[a->n] = NULL;
            a->h3[a->n] = es_lh3_app_ref(h);
            a->app[a->n++] = es_lh3_app_of(h);
        } else {
            lua_getfield(L, at, "raw");
            luaL_checktype(L, -1, LUA_TFUNCTION);
            struct es_app *app = es_lua_raw_app_new(L, lp, alpn, lua_gettop(L));
            if (!app)
                luaL_error(L, "out of memory");
            a->host[a->n] = NULL;
            a->app[a->n++] = app;
        }
        lua_settop(L, at - 1);
    }
}

static int apps_gc(lua_State *L)
{
    apps_free(L, lua_touserdata(L, 1));
    return 0;
}

/* Field "preferred" of the options at 2: a list of addresses. */
static int prefer(lua_State *L, struct es_endpoint *ep, char *err, size_t size)
{
    int rc = 0;
    if (!es_lua_opt_push(L, 2, "preferred", LUA_TTABLE))
        return 0;
    int list = lua_gettop(L);
    for (lua_Integer i = 1; rc == 0 && lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
        union es_addr a;
        const char *text = lua_tostring(L, -1);
        if (text == NULL || es_addr_parse(&a, text) < 0) {
            snprintf(err, size, "preferred: no numeric address: %s", text != NULL ? text : "?");
            rc = ES_ERR_INVAL;
        } else {
            rc = es_endpoint_prefer(ep, &a, err, size);
        }
    }
    lua_settop(L, list - 1);
    return rc;
}

/* Field "tcp" of the options at 2: sessions are accepted over TCP as well; true: at the address and port of
 * UDP, else where the text says, and port 0 there is UDP's port too. */
static int listen_tcp(lua_State *L, struct es_lendpoint *le, const struct es_endpoint_config *c,
                      const struct apps *apps, char *err, size_t size)
{
    struct es_app *over[MAX_APPS];
    struct es_tcp_config tc;
    union es_addr addr, udp;
    int type = lua_getfield(L, 2, "tcp");
    if (!lua_toboolean(L, -1))
        return 0;
    es_endpoint_address(le->ep, &udp);
    addr = udp;
    if (type != LUA_TBOOLEAN && (type != LUA_TSTRING || es_addr_parse(&addr, lua_tostring(L, -1)) < 0)) {
        snprintf(err, size, "tcp: expected true or a numeric address such as 0.0.0.0:5000");
        return ES_ERR_INVAL;
    }
    if (addr.sa.sa_family == AF_INET6 && addr.in6.sin6_port == 0)
        addr.in6.sin6_port = udp.in6.sin6_port; /* the same place in both families */
    else if (addr.sa.sa_family == AF_INET && addr.in4.sin_port == 0)
        addr.in4.sin_port = udp.in4.sin_port;
    es_tcp_config_default(&tc);
    tc.bind = &addr;
    tc.tls = c->tls;
    tc.transport = c->transport;
    tc.max_half_open = c->max_half_open;
    tc.max_half_open_each = c->max_half_open_each;
    tc.apps = over;
    for (size_t i = 0; i < apps->n; i++)
        if (apps->host[i])
            over[tc.n_apps++] = apps->app[i];
    return es_tcp_new(le->loop->poller, &tc, &le->tcp, err, size);
}

int es_lendpoint_dial(struct es_lendpoint *le, int tcp, const struct es_connect_config *cc,
                      struct es_link **out, char *err, size_t n)
{
    struct es_connect_config from = *cc;
    struct es_tcp_config tc;
    union es_addr local;
    int rc = 0;
    if (!tcp)
        return es_endpoint_connect(le->ep, cc, out, err, n);
    es_endpoint_address(le->ep, &local); /* the port is UDP's affair */
    if (local.sa.sa_family == AF_INET6)
        local.in6.sin6_port = 0;
    else
        local.in4.sin_port = 0;
    from.local = &local;
    if (!le->tcp) {
        es_tcp_config_default(&tc);
        rc = es_tcp_new(le->loop->poller, &tc, &le->tcp, err, n);
    }
    return rc == 0 ? es_tcp_connect(le->tcp, &from, out, err, n) : rc;
}

static int core_endpoint(lua_State *L)
{
    static const char *const fields[] = {
        "bind", "tls",       "apps",  "transport",   "worker",        "secret",
        "qlog", "preferred", "retry", "retry_above", "max_half_open", "max_half_open_per_address",
        "tcp",  NULL};
    struct es_lloop *lp = es_lua_check_loop(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    es_lua_check_fields(L, 2, fields);
    struct es_lendpoint *le = es_lua_new(L, ENDPOINT_MT, sizeof *le, 1);
    es_list_init(&le->node);
    le->anchor_ref = LUA_NOREF;
    le->loop = es_lloop_ref(lp);
    struct apps *apps = lua_newuserdatauv(L, sizeof *apps, 0);
    memset(apps, 0, sizeof *apps);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, apps_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_setiuservalue(L, 3, 1);

    struct es_endpoint_config c;
    es_endpoint_config_default(&c);
    union es_addr addr;
    const char *bind = NULL;
    if (!es_lua_opt_string(L, 2, "bind", &bind, NULL) || es_addr_parse(&addr, bind) < 0)
        return luaL_error(L, "bind: expected a numeric address such as 127.0.0.1:5000, got %s",
                          bind ? bind : "nothing");
    c.bind = &addr;
    if (lua_getfield(L, 2, "tls") != LUA_TNIL)
        c.tls = es_lua_check_tls(L, -1);
    lua_getfield(L, 2, "transport");
    es_lua_transport_config(L, -1, &c.transport);
    if (es_lua_opt_push(L, 2, "apps", LUA_TTABLE))
        apps_read(L, lua_gettop(L), lp, apps);
    c.apps = apps->app;
    c.n_apps = apps->n;
    lua_Integer worker = 0;
    es_lua_opt_integer(L, 2, "worker", 0, 255, &worker);
    c.worker = (uint8_t)worker;
    admission_config(L, 2, &c);
    es_lua_opt_string(L, 2, "qlog", &c.qlog_dir, NULL);
    c.on_log = on_log;
    c.log_user = lp;
    char err[256] = "";
    int rc = es_endpoint_new(lp->poller, &c, &le->ep, err, sizeof err);
    if (rc == 0) {
        rc = prefer(L, le->ep, err, sizeof err);
        if (rc == 0)
            rc = listen_tcp(L, le, &c, apps, err, sizeof err);
        if (rc < 0) {
            es_endpoint_del(le->ep);
            le->ep = NULL;
        }
    }
    if (rc < 0) {
        lua_pushnil(L);
        es_lua_push_error(L, es_err_code(rc), "%s", err[0] ? err : es_strerror(rc));
        return 2;
    }
    es_list_push(&lp->endpoints, &le->node);
    lua_pushvalue(L, 3);
    le->anchor_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_settop(L, 3);
    return 1;
}

void es_lendpoint_close(lua_State *L, struct es_lendpoint *le)
{
    if (!le->ep)
        return;
    struct es_endpoint *ep = le->ep;
    struct es_tcp *tcp = le->tcp;
    le->ep = NULL;
    le->tcp = NULL;
    es_list_remove(&le->node);
    es_tcp_del(tcp);
    es_endpoint_del(ep);
    if (!le->loop->lua->closing) {
        luaL_unref(L, LUA_REGISTRYINDEX, le->anchor_ref);
        le->anchor_ref = LUA_NOREF;
    }
}

static int endpoint_gc(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    if (le->loop) {
        es_lendpoint_close(L, le);
        es_lloop_unref(le->loop);
        le->loop = NULL;
    }
    return 0;
}

static int endpoint_close(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    if (le->ep) {
        es_lendpoint_close(L, le);
        es_lloop_wake(le->loop);
    }
    return 0;
}

static int closed(lua_State *L)
{
    return es_lua_closed(L, "endpoint");
}

static int endpoint_address(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    if (!le->ep)
        return closed(L);
    union es_addr a;
    char buf[80];
    es_endpoint_address(le->ep, &a);
    lua_pushstring(L, es_addr_format(&a, buf, sizeof buf));
    return 1;
}

/* endpoint:tcp_address() -> "127.0.0.1:5000", nil: it accepts nobody over TCP */
static int endpoint_tcp_address(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    if (!le->ep)
        return closed(L);
    union es_addr a;
    char buf[80];
    if (!le->tcp)
        return 0;
    es_tcp_address(le->tcp, &a);
    lua_pushstring(L, es_addr_format(&a, buf, sizeof buf));
    return 1;
}

static int endpoint_accepting(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    if (!le->ep)
        return closed(L);
    es_endpoint_accepting(le->ep, lua_toboolean(L, 2));
    if (le->tcp)
        es_tcp_accepting(le->tcp, lua_toboolean(L, 2));
    lua_pushboolean(L, 1);
    return 1;
}

static int endpoint_set_tls(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    struct es_tls *tls = es_lua_check_tls(L, 2);
    if (!le->ep)
        return closed(L);
    int rc = es_endpoint_set_tls(le->ep, tls);
    if (rc == 0 && le->tcp)
        rc = es_tcp_set_tls(le->tcp, tls);
    if (rc < 0)
        return es_lua_fail(L, rc, "tls");
    lua_pushboolean(L, 1);
    return 1;
}

static int endpoint_rebind(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    if (!le->ep)
        return closed(L);
    int rc = le->loop->sim ? es_sim_rebind(le->loop->sim, le->ep, 0) : es_endpoint_rebind(le->ep);
    if (rc < 0)
        return es_lua_fail(L, rc, "rebind");
    lua_pushboolean(L, 1);
    return 1;
}

static int endpoint_stats(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    if (!le->ep)
        return closed(L);
    struct es_endpoint_stats st;
    es_endpoint_stats_get(le->ep, &st);
    lua_createtable(L, 0, 20);
#define NUMBER(name) (lua_pushinteger(L, (lua_Integer)st.name), lua_setfield(L, -2, #name))
#define FLAG(name)   (lua_pushboolean(L, st.name), lua_setfield(L, -2, #name))
    NUMBER(connections);
    NUMBER(accepted);
    NUMBER(dialled);
    NUMBER(refused);
    NUMBER(half_open);
    NUMBER(retries);
    NUMBER(tokens_accepted);
    NUMBER(tokens_rejected);
    NUMBER(version_negotiations);
    NUMBER(resets_sent);
    NUMBER(forgotten);
    FLAG(retrying);
    NUMBER(datagrams_in);
    NUMBER(datagrams_out);
    NUMBER(bytes_in);
    NUMBER(bytes_out);
    NUMBER(batches_in);
    NUMBER(batches_out);
    NUMBER(dropped_datagrams);
    NUMBER(rcvbuf);
    NUMBER(sndbuf);
    FLAG(gso);
    FLAG(gro);
    FLAG(ecn);
    FLAG(pktinfo);
#undef FLAG
    if (le->tcp) {
        struct es_tcp_stats tcp;
        es_tcp_stats_get(le->tcp, &tcp);
        lua_createtable(L, 0, 7);
#undef NUMBER
#define NUMBER(name) (lua_pushinteger(L, (lua_Integer)tcp.name), lua_setfield(L, -2, #name))
        NUMBER(connections);
        NUMBER(accepted);
        NUMBER(dialled);
        NUMBER(refused);
        NUMBER(half_open);
        NUMBER(bytes_in);
        NUMBER(bytes_out);
        lua_setfield(L, -2, "tcp");
    }
#undef NUMBER
    return 1;
}

void es_lua_open_endpoint(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {
        {"address", endpoint_address},     {"tcp_address", endpoint_tcp_address},
        {"accepting", endpoint_accepting}, {"set_tls", endpoint_set_tls},
        {"stats", endpoint_stats},         {"close", endpoint_close},
        {"rebind", endpoint_rebind},       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", endpoint_gc}, {NULL, NULL}};
    es_lua_class(L, ENDPOINT_MT, methods, meta);
    lua_pushcfunction(L, core_endpoint);
    lua_setfield(L, core, "endpoint");
}
