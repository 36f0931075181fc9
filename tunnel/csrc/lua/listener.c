/* Listeners, and the connections of visitors, which Lua sees only by their exchanges. */
#include <stdio.h>
#include <string.h>
#include "../http1/http1.h"
#include "../http2/http2.h"
#include "binding.h"

#define REFUSED_MAX 64 /* untold; more at once are only counted */

enum kind { HTTP, RAW, TLS_NAME };

struct listener {
    struct et_obj o;       /* first */
    struct es_list node;   /* of the engine's, while it is open */
    struct et_listener *l; /* owned; NULL: closed */
    enum kind kind;
    struct et_http_limits limits;
    struct es_list visits;
    struct es_list refusals;
    unsigned n_refusals;
    int draining, over;
    char address[112];
};

struct visit { /* a connection */
    struct es_list node;
    struct listener *l;   /* counted */
    struct et_sock *s;    /* borrowed, until there is a codec */
    struct et_http *http; /* borrowed: it tells closed() */
    struct et_info *info; /* counted */
    char first[4];        /* what came before it could be told which codec is meant */
    size_t n_first;
};

struct refusal { /* a request that a codec answered itself, to be told */
    struct es_list node;
    int status;
    char peer[64], why[120];
};

static struct listener *check(lua_State *L)
{
    return (struct listener *)et_obj_check(L, 1, ET_LUA_LISTENER);
}

/* Closed, and its last connection gone. */
static void check_over(struct listener *l)
{
    if (l->l == NULL && es_list_empty(&l->visits) && !l->over) {
        l->over = 1;
        et_obj_mark(&l->o, ET_F_CLOSED);
        et_obj_unref(&l->o);
    }
}

void et_listener_free(struct et_obj *o)
{
    struct listener *l = (struct listener *)o;

    es_list_foreach(it, &l->refusals)
    {
        es_free(es_container_of(it, struct refusal, node));
    }
    es_free(l);
}

/* ---- codecs ---- */

int et_lua_codec(struct et_sock *s, enum et_http_role role, int h2, const struct et_http_limits *limits,
                 const struct et_http_events *ev, void *user, struct et_http **out)
{
    const char *scheme = et_sock_is_tls(s) ? "https" : "http";
    int rv = h2 ? et_http2_new(s, role, scheme, limits, ev, user, out)
                : et_http1_new(s, role, scheme, limits, ev, user, out);

    if (rv != 0) {
        *out = NULL;
    }
    return rv;
}

/* ---- visitors ---- */

static int on_opened(void *user, struct et_exchange *x)
{
    struct visit *v = user;
    struct et_obj *o = et_lua_exchange_new(v->l->o.e, v->info, &v->l->o);

    if (o == NULL) {
        return ES_ERR_NOMEM;
    }
    x->events = &et_lua_exchange_events;
    x->user = o;
    et_lua_exchange_set(o, x);
    return 0;
}

static void on_refused(void *user, int status, const char *why)
{
    struct visit *v = user;
    struct listener *l = v->l;
    struct refusal *r;

    l->o.e->refused++;
    if (l->n_refusals >= REFUSED_MAX || (r = es_calloc(1, sizeof *r)) == NULL) {
        return;
    }
    r->status = status;
    snprintf(r->peer, sizeof r->peer, "%s", v->info != NULL ? v->info->peer : "");
    snprintf(r->why, sizeof r->why, "%s", why);
    es_list_push(&l->refusals, &r->node);
    l->n_refusals++;
    et_obj_mark(&l->o, ET_F_REFUSED);
}

static void end_visit(struct visit *v)
{
    struct listener *l = v->l;

    es_list_remove(&v->node);
    l->o.e->connections--;
    et_info_unref(v->info);
    es_free(v);
    check_over(l);
    et_obj_unref(&l->o);
}

static void on_http_closed(void *user, int err, const char *text)
{
    end_visit(user);
}

static void on_ready(void *user) {}

static const struct et_http_events visitor_events = {.opened = on_opened,
                                                     .ready = on_ready,
                                                     .draining = on_ready,
                                                     .closed = on_http_closed,
                                                     .refused = on_refused};

static void begin(struct visit *v, int h2)
{
    struct et_sock *s = v->s;

    et_sock_timer_in(s, 0);
    v->s = NULL;
    v->info = et_info_new(s, h2 ? "h2" : "http/1.1");
    if (v->info == NULL ||
        et_lua_codec(s, ET_HTTP_VISITOR, h2, &v->l->limits, &visitor_events, v, &v->http) != 0) {
        et_sock_set_user(s, NULL, NULL);
        et_sock_close(s, 0);
        end_visit(v);
        return;
    }
    if (v->l->draining) {
        v->http->ops->drain(v->http);
    }
}

/* Plain text: the first bytes tell HTTP/2 with prior knowledge (RFC 9113 3.3) from HTTP/1.1, which has no
 * method that begins like its preface. */
static void on_first(void *user, const uint8_t *p, size_t n)
{
    static const char preface[sizeof((struct visit *)0)->first] = {'P', 'R', 'I', ' '};
    struct visit *v = user;
    struct et_sock *s = v->s;
    size_t before = v->n_first, k = sizeof v->first - before;
    int same;

    k = n < k ? n : k;
    memcpy(v->first + before, p, k);
    v->n_first += k;
    same = memcmp(v->first, preface, v->n_first) == 0;
    if (same && v->n_first < sizeof v->first) {
        return; /* cannot be told yet */
    }
    if (et_sock_unread(s, p, n) != 0 || et_sock_unread(s, v->first, before) != 0) {
        et_sock_close(s, 0);
        return;
    }
    begin(v, same);
}

static void on_first_end(void *user)
{
    et_sock_close(((struct visit *)user)->s, 1);
}

static void on_first_closed(void *user, int err, const char *text)
{
    end_visit(user);
}

static const struct et_sock_events first_events = {
    .data = on_first, .eof = on_first_end, .timer = on_first_end, .closed = on_first_closed};

static struct visit *new_visit(struct listener *l, struct et_sock *s)
{
    struct visit *v = es_calloc(1, sizeof *v);

    if (v != NULL) {
        v->l = l;
        v->s = s;
        l->o.refs++;
        l->o.e->connections++;
        es_list_push(&l->visits, &v->node);
    }
    return v;
}

static void take_http(struct listener *l, struct et_sock *s, const char *alpn)
{
    struct visit *v = new_visit(l, s);

    if (v == NULL) {
        et_sock_close(s, 0);
    } else if (et_sock_is_tls(s)) {
        begin(v, strcmp(alpn, "h2") == 0);
    } else {
        et_sock_set_user(s, &first_events, v);
        et_sock_timer_in(s, l->limits.head_timeout != 0 ? l->limits.head_timeout : 10 * ES_SECOND);
    }
}

static void take_socket(struct listener *l, struct et_sock *s, unsigned flag)
{
    struct et_obj *o = et_lua_socket_new(l->o.e, &l->o);

    if (o == NULL) {
        et_sock_close(s, 0);
        return;
    }
    et_lua_socket_set(o, s, 1);
    et_obj_mark(o, flag);
}

static void on_accepted(void *user, struct et_sock *s, const char *alpn)
{
    struct listener *l = user;
    void *before = et_sock_user(s);

    if (before != NULL) { /* one that was asked for its name */
        et_sock_set_user(s, NULL, NULL);
        et_lua_socket_detach(before);
    }
    if (l->kind == RAW) {
        take_socket(l, s, ET_F_NEW);
    } else {
        take_http(l, s, alpn);
    }
}

static void on_peeked(void *user, struct et_sock *s, const char *sni)
{
    take_socket(user, s, ET_F_NAME);
}

static const struct et_listener_events listener_events = {on_accepted, on_peeked};

/* ---- Lua ---- */

int et_lua_listen(lua_State *L)
{
    static const char *const kinds[] = {"http", "raw", "tls_name", NULL};
    struct et_engine *e = et_lua_engine(L, 1);
    struct et_listener_options o;
    struct et_http_limits limits;
    struct listener *l;
    char reason[200] = "";
    int rv, kind;

    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    memset(&o, 0, sizeof o);
    o.ip = et_opt_string(L, 2, "ip");
    o.path = et_opt_string(L, 2, "path");
    o.port = (uint16_t)et_opt_integer(L, 2, "port", 0, 0, 65535);
    o.max_connections = (unsigned)et_opt_integer(L, 2, "max_connections", 0, 0, 1 << 24);
    o.handshake_timeout = et_opt_seconds(L, 2, "handshake_timeout", 0);
    lua_getfield(L, 2, "tls");
    o.tls = et_lua_tls_server(L, 3);
    lua_getfield(L, 2, "kind");
    kind = luaL_checkoption(L, 4, NULL, kinds); /* what is wrong raises before there is anything */
    et_opt_limits(L, 2, &limits);
    l = es_calloc(1, sizeof *l);
    if (l == NULL) {
        return luaL_error(L, "out of memory");
    }
    et_obj_init(&l->o, e, ET_OBJ_LISTENER);
    es_list_init(&l->node);
    es_list_init(&l->visits);
    es_list_init(&l->refusals);
    lua_getiuservalue(L, 1, 1);
    et_obj_push(L, 5, &l->o); /* from here on the userdata and the count below own it */
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, 6, ET_UV_OPTIONS);
    l->over = 1;
    l->kind = (enum kind)kind;
    l->limits = limits;
    o.peek = l->kind == TLS_NAME;
    rv = et_listener_open(e->p, &o, &listener_events, l, &l->l, reason, sizeof reason);
    if (rv != 0) {
        lua_pushnil(L);
        lua_rawsetp(L, 5, l);
        et_obj_unref(&l->o);
        return et_lua_fail(L, rv, reason);
    }
    l->over = 0;
    es_list_push(&e->listeners, &l->node);
    et_listener_local(l->l, l->address, sizeof l->address);
    lua_settop(L, 6);
    return 1;
}

static int address(lua_State *L)
{
    lua_pushstring(L, check(L)->address);
    return 1;
}

static void stop_accepting(struct listener *l)
{
    struct et_listener *was = l->l;

    if (was != NULL && l->o.e->p != NULL) {
        l->l = NULL;
        es_list_remove(&l->node);
        et_listener_close(was);
        check_over(l);
    }
}

void et_lua_close_listeners(struct et_engine *e)
{
    es_list_foreach(it, &e->listeners)
    {
        stop_accepting(es_container_of(it, struct listener, node));
    }
}

static int close_listener(lua_State *L)
{
    stop_accepting(check(L));
    return 0;
}

static int drain(lua_State *L)
{
    struct listener *l = check(L);

    l->draining = 1;
    es_list_foreach(it, &l->visits)
    {
        struct visit *v = es_container_of(it, struct visit, node);
        if (v->http != NULL) {
            v->http->ops->drain(v->http);
        } else if (v->s != NULL) {
            et_sock_close(v->s, 1);
        }
    }
    stop_accepting(l);
    return 0;
}

void et_listener_tell(lua_State *L, struct et_obj *o, unsigned flags)
{
    struct listener *l = (struct listener *)o;
    int ud = lua_gettop(L);

    while (!es_list_empty(&l->refusals)) {
        struct refusal *r = es_container_of(l->refusals.next, struct refusal, node), copy = *r;
        es_list_remove(&r->node);
        es_free(r);
        l->n_refusals--;
        if (et_lua_push_callback(L, ud, "on_refused")) {
            lua_pushstring(L, copy.peer);
            lua_pushinteger(L, copy.status);
            lua_pushstring(L, copy.why);
            et_lua_tell(L, 3);
        }
    }
}

void et_lua_open_listener(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"address", address}, {"close", close_listener}, {"drain", drain}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", et_obj_gc}, {NULL, NULL}};

    et_lua_class(L, ET_LUA_LISTENER, methods, meta);
}
