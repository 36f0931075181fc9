/* Connections to backends. */
#include <string.h>
#include "binding.h"

enum codec { H1, H2, AUTO, RAW };

struct conn {
    struct et_obj o;      /* first */
    struct et_sock *s;    /* borrowed, until there is a codec */
    struct et_http *http; /* borrowed: it tells closed(); NULL: not yet, or closed */
    struct et_info *info; /* counted; NULL: never open */
    enum codec codec;
    struct et_http_limits limits;
    char *text; /* owned */
    const char *protocol;
    int err, over, draining;
};

static struct conn *check(lua_State *L)
{
    return (struct conn *)et_obj_check(L, 1, ET_LUA_CONNECTION);
}

void et_connection_free(struct et_obj *o)
{
    struct conn *c = (struct conn *)o;

    es_free(c->text);
    et_info_unref(c->info);
    es_free(c);
}

static void leave(struct conn *c, int err, const char *text)
{
    c->http = NULL;
    c->s = NULL;
    c->over = 1;
    if (c->err == 0) {
        c->err = err;
        if (text[0] != '\0' && (c->text = es_malloc(strlen(text) + 1)) != NULL) {
            strcpy(c->text, text);
        }
    }
    c->o.e->connections--;
    et_obj_mark(&c->o, ET_F_CLOSED);
    et_obj_unref(&c->o);
}

/* ---- from the codec ---- */

static void on_ready(void *user)
{
    et_obj_mark(&((struct conn *)user)->o, ET_F_READY);
}

static void on_draining(void *user)
{
    struct conn *c = user;

    c->draining = 1;
    et_obj_mark(&c->o, ET_F_READY);
}

static void on_closed(void *user, int err, const char *text)
{
    leave(user, err, text != NULL ? text : "");
}

static const struct et_http_events backend_events = {
    .ready = on_ready, .draining = on_draining, .closed = on_closed};

/* ---- from the socket ---- */

static void give_up(struct conn *c, int err, const char *text)
{
    struct et_sock *s = c->s;

    et_sock_set_user(s, NULL, NULL);
    et_sock_close(s, 0);
    leave(c, err, text);
}

static void on_open(void *user, const char *alpn)
{
    struct conn *c = user;
    struct et_sock *s = c->s;
    int h2 = c->codec == H2 || (c->codec == AUTO && strcmp(alpn, "h2") == 0), rv;

    if (c->codec == H2 && alpn[0] != '\0' && strcmp(alpn, "h2") != 0) {
        give_up(c, ES_ERR_UNSUPPORTED, "the other side does not speak HTTP/2");
        return;
    }
    c->info = et_info_new(s, h2 ? "h2" : "http/1.1");
    rv = c->info == NULL ? ES_ERR_NOMEM
                         : et_lua_codec(s, ET_HTTP_BACKEND, h2, &c->limits, &backend_events, c, &c->http);
    if (rv != 0) {
        give_up(c, rv, "");
        return;
    }
    c->s = NULL;
    c->protocol = c->http->ops->name;
    et_obj_mark(&c->o, ET_F_OPEN);
}

static const struct et_sock_events dial_events = {.open = on_open, .closed = on_closed};

/* ---- Lua ---- */

static int dial_raw(lua_State *L, struct et_engine *e, const struct et_sock_place *where,
                    struct et_tls_client *tls, const char *name)
{
    struct et_obj *o = et_lua_socket_new(e, NULL);
    struct et_sock *s;
    int rv;

    if (o == NULL) {
        return luaL_error(L, "out of memory");
    }
    et_obj_push(L, 5, o);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, 6, ET_UV_OPTIONS);
    rv = et_sock_connect(e->p, where, tls, name, &et_lua_socket_events, o, &s);
    if (rv != 0) {
        lua_pushnil(L);
        lua_rawsetp(L, 5, o);
        et_obj_unref(o);
        return et_lua_fail(L, rv, rv == ES_ERR_INVAL ? "that is no address, path or name" : NULL);
    }
    et_lua_socket_set(o, s, 0);
    return 1;
}

static int dial_http(lua_State *L, struct et_engine *e, const struct et_sock_place *where,
                     struct et_tls_client *tls, const char *name, enum codec codec)
{
    struct et_http_limits limits;
    struct conn *c;
    int rv;

    et_opt_limits(L, 2, &limits); /* what is wrong raises before there is anything */
    c = es_calloc(1, sizeof *c);
    if (c == NULL) {
        return luaL_error(L, "out of memory");
    }
    et_obj_init(&c->o, e, ET_OBJ_CONNECTION);
    c->codec = codec;
    c->limits = limits;
    et_obj_push(L, 5, &c->o);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, 6, ET_UV_OPTIONS);
    rv = et_sock_connect(e->p, where, tls, name, &dial_events, c, &c->s);
    if (rv != 0) {
        lua_pushnil(L);
        lua_rawsetp(L, 5, c);
        et_obj_unref(&c->o);
        return et_lua_fail(L, rv, rv == ES_ERR_INVAL ? "that is no address, path or name" : NULL);
    }
    e->connections++;
    return 1;
}

int et_lua_dial(lua_State *L)
{
    static const char *const codecs[] = {"http/1.1", "h2", "auto", "raw", NULL};
    struct et_engine *e = et_lua_engine(L, 1);
    struct et_sock_place where;
    struct et_tls_client *tls;
    const char *name;
    int codec;

    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    where.ip = et_opt_string(L, 2, "ip");
    where.path = et_opt_string(L, 2, "path");
    where.port = (uint16_t)et_opt_integer(L, 2, "port", 0, 0, 65535);
    where.timeout = et_opt_seconds(L, 2, "timeout", 0);
    name = et_opt_string(L, 2, "name");
    lua_getfield(L, 2, "tls");
    tls = et_lua_tls_client(L, 3);
    lua_getfield(L, 2, "codec");
    codec = luaL_checkoption(L, 4, NULL, codecs);
    lua_getiuservalue(L, 1, 1);
    return codec == RAW ? dial_raw(L, e, &where, tls, name)
                        : dial_http(L, e, &where, tls, name, (enum codec)codec);
}

static int closed(lua_State *L, const struct conn *c)
{
    lua_pushnil(L);
    et_lua_push_error(L, "unavailable",
                      c->over ? "the connection is closed" : "the connection is not open yet");
    return 2;
}

static int request(lua_State *L)
{
    struct conn *c = check(L);
    struct et_head *h = et_lua_check_head(L, 2);
    int fin = lua_toboolean(L, 3), rv;
    struct et_exchange *x;
    struct et_obj *o;

    luaL_checktype(L, 4, LUA_TFUNCTION);
    lua_settop(L, 4);
    if (c->http == NULL) {
        return closed(L, c);
    }
    if (et_head_kind(h) != ET_HEAD_REQUEST) {
        return et_lua_fail(L, ES_ERR_INVAL, "that is no request's head");
    }
    o = et_lua_exchange_new(c->o.e, c->info, NULL);
    if (o == NULL) {
        return luaL_error(L, "out of memory");
    }
    lua_getiuservalue(L, 1, ET_UV_ANCHORS);
    et_obj_push(L, 5, o);
    lua_pushvalue(L, 4);
    lua_setiuservalue(L, 6, ET_UV_NOTIFY);
    rv = c->http->ops->begin(c->http, &et_lua_exchange_events, o, &x);
    if (rv == 0) {
        et_lua_exchange_set(o, x);
        rv = x->ops->head(x, h, fin);
        if (rv != 0) {
            et_lua_exchange_set(o, NULL);
            x->ops->release(x);
        }
    }
    if (rv != 0) {
        lua_pushnil(L);
        lua_rawsetp(L, 5, o);
        et_obj_unref(o);
        if (rv == ES_ERR_LIMIT || rv == ES_ERR_CLOSED) {
            lua_pushnil(L);
            et_lua_push_error(L, "unavailable", "the connection takes no request now");
            return 2;
        }
        return et_lua_fail(L, rv, NULL);
    }
    return 1;
}

static int room(lua_State *L)
{
    struct conn *c = check(L);

    lua_pushinteger(L, c->http != NULL && !c->draining ? c->http->ops->room(c->http) : 0);
    return 1;
}

static int count(lua_State *L)
{
    struct conn *c = check(L);

    lua_pushinteger(L, c->http != NULL ? c->http->ops->count(c->http) : 0);
    return 1;
}

static int protocol(lua_State *L)
{
    lua_pushstring(L, check(L)->protocol);
    return 1;
}

static int drain(lua_State *L)
{
    struct conn *c = check(L);

    c->draining = 1;
    if (c->http != NULL) {
        c->http->ops->drain(c->http);
    } else if (c->s != NULL) {
        et_sock_close(c->s, 0);
    }
    return 0;
}

static int close_connection(lua_State *L)
{
    struct conn *c = check(L);

    if (c->http != NULL) {
        c->http->ops->close(c->http);
    } else if (c->s != NULL) {
        et_sock_close(c->s, 0);
    }
    return 0;
}

void et_connection_tell(lua_State *L, struct et_obj *o, unsigned flags)
{
    struct conn *c = (struct conn *)o;
    int ud = lua_gettop(L);

    if ((flags & ET_F_OPEN) && et_lua_push_callback(L, ud, "on_open")) {
        lua_pushvalue(L, ud);
        et_lua_tell(L, 1);
    }
    if ((flags & ET_F_READY) && et_lua_push_callback(L, ud, "on_ready")) {
        lua_pushvalue(L, ud);
        et_lua_tell(L, 1);
    }
    if ((flags & ET_F_CLOSED) && et_lua_push_callback(L, ud, "on_closed")) {
        lua_pushvalue(L, ud);
        if (c->err != 0) {
            et_lua_push_es_err(L, c->err, c->text);
        } else {
            lua_pushnil(L);
        }
        et_lua_tell(L, 2);
    }
}

void et_lua_open_connection(lua_State *L)
{
    static const luaL_Reg methods[] = {{"request", request}, {"room", room},
                                       {"count", count},     {"protocol", protocol},
                                       {"drain", drain},     {"close", close_connection},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", et_obj_gc}, {NULL, NULL}};

    et_lua_class(L, ET_LUA_CONNECTION, methods, meta);
}
