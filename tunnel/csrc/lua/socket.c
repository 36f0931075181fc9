/* Sockets with raw bytes. */
#include <string.h>
#include "binding.h"

struct sock {
    struct et_obj o;      /* first */
    struct et_sock *s;    /* borrowed; NULL: closed, or TLS took it over */
    struct et_info *info; /* counted */
    struct et_obj *owner; /* counted: the listener, until its function was called */
    struct es_buf in;     /* from at on */
    size_t at;
    char *text; /* owned */
    int err;
    uint64_t received, sent;
    uint8_t eof, paused;
};

static struct sock *check(lua_State *L)
{
    return (struct sock *)et_obj_check(L, 1, ET_LUA_SOCKET);
}

struct et_obj *et_lua_socket_new(struct et_engine *e, struct et_obj *owner)
{
    struct sock *t = es_calloc(1, sizeof *t);

    if (t == NULL) {
        return NULL;
    }
    et_obj_init(&t->o, e, ET_OBJ_SOCKET);
    t->owner = owner;
    if (owner != NULL) {
        owner->refs++;
    }
    return &t->o;
}

void et_lua_socket_set(struct et_obj *o, struct et_sock *s, int open)
{
    struct sock *t = (struct sock *)o;

    t->s = s;
    if (open) {
        t->info = et_info_new(s, "tcp");
        et_sock_set_user(s, &et_lua_socket_events, t);
    }
}

void et_socket_free(struct et_obj *o)
{
    struct sock *t = (struct sock *)o;

    es_buf_free(&t->in);
    es_free(t->text);
    et_info_unref(t->info);
    if (t->owner != NULL) {
        et_obj_unref(t->owner);
    }
    es_free(t);
}

static void leave(struct sock *t, int err, const char *text)
{
    if (t->s != NULL) {
        t->received = et_sock_received(t->s);
        t->sent = et_sock_sent(t->s);
    }
    t->s = NULL;
    t->err = err;
    if (text[0] != '\0' && (t->text = es_malloc(strlen(text) + 1)) != NULL) {
        strcpy(t->text, text);
    }
    et_obj_mark(&t->o, ET_F_CLOSED);
    et_obj_unref(&t->o);
}

void et_lua_socket_detach(void *user)
{
    leave(user, 0, "");
}

/* ---- from the socket ---- */

static void on_open(void *user, const char *alpn)
{
    struct sock *t = user;

    t->info = et_info_new(t->s, "tcp");
    et_obj_mark(&t->o, ET_F_OPEN);
}

static void on_data(void *user, const uint8_t *p, size_t n)
{
    struct sock *t = user;

    if (t->in.p == NULL && t->o.e->spare.p != NULL) {
        t->in = t->o.e->spare;
        memset(&t->o.e->spare, 0, sizeof t->o.e->spare);
    }
    if (t->at > t->in.n / 2) {
        es_buf_drop(&t->in, t->at);
        t->at = 0;
    }
    if (es_buf_put(&t->in, p, n) != 0) {
        et_sock_close(t->s, 0);
        return;
    }
    if (t->in.n - t->at >= ET_UNREAD_MAX) {
        t->paused = 1;
        et_sock_pause(t->s);
    }
    et_obj_mark(&t->o, ET_F_DATA);
}

static void on_eof(void *user)
{
    struct sock *t = user;

    t->eof = 1;
    et_obj_mark(&t->o, ET_F_EOF);
}

static void on_room(void *user)
{
    et_obj_mark(&((struct sock *)user)->o, ET_F_ROOM);
}

static void on_closed(void *user, int err, const char *text)
{
    leave(user, err, text);
}

const struct et_sock_events et_lua_socket_events = {
    .open = on_open, .data = on_data, .eof = on_eof, .room = on_room, .closed = on_closed};

/* ---- to Lua ---- */

static int push_failure(lua_State *L, const struct sock *t)
{
    if (t->err == 0) {
        lua_pushnil(L);
    } else {
        et_lua_push_es_err(L, t->err, t->text);
    }
    return 1;
}

static void notify(lua_State *L, const char *what)
{
    int ud = lua_gettop(L);

    if (lua_getiuservalue(L, ud, ET_UV_NOTIFY) == LUA_TFUNCTION) {
        lua_pushvalue(L, ud);
        lua_pushstring(L, what);
        et_lua_tell(L, 2);
    }
    lua_settop(L, ud);
}

static void introduce(lua_State *L, struct sock *t, int by_name)
{
    int ud = lua_gettop(L), args = 1;
    struct et_obj *owner = t->owner;

    t->owner = NULL;
    et_obj_push(L, 2, owner);
    et_obj_unref(owner);
    if (et_lua_push_callback(L, ud + 1, by_name ? "on_name" : "on_socket")) {
        lua_pushvalue(L, ud);
        if (by_name) {
            lua_pushstring(L, t->info != NULL ? t->info->sni : "");
            args = 2;
        }
        et_lua_tell(L, args);
    } else if (t->s != NULL) {
        et_sock_close(t->s, 0);
    }
    lua_settop(L, ud);
}

void et_socket_tell(lua_State *L, struct et_obj *o, unsigned flags)
{
    static const struct {
        unsigned flag;
        const char *what;
    } rows[] = {{ET_F_DATA, "data"}, {ET_F_EOF, "eof"}, {ET_F_ROOM, "room"}, {ET_F_CLOSED, "closed"}};
    int ud = lua_gettop(L);

    if ((flags & (ET_F_NEW | ET_F_NAME)) && ((struct sock *)o)->owner != NULL) {
        introduce(L, (struct sock *)o, flags & ET_F_NAME);
    }
    if ((flags & ET_F_OPEN) && et_lua_push_callback(L, ud, "on_open")) {
        lua_pushvalue(L, ud);
        et_lua_tell(L, 1);
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (flags & rows[i].flag) {
            notify(L, rows[i].what);
        }
    }
    if ((flags & ET_F_CLOSED) && et_lua_push_callback(L, ud, "on_closed")) {
        lua_pushvalue(L, ud);
        push_failure(L, (struct sock *)o);
        et_lua_tell(L, 2);
    }
}

static int set_notify(lua_State *L)
{
    check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_setiuservalue(L, 1, ET_UV_NOTIFY);
    return 0;
}

static int read_bytes(lua_State *L)
{
    struct sock *t = check(L);
    lua_Integer max = luaL_optinteger(L, 2, 65536);
    size_t n = t->in.n - t->at;

    luaL_argcheck(L, max > 0, 2, "wants a number of bytes");
    n = n < (size_t)max ? n : (size_t)max;
    if (n == 0) {
        lua_pushnil(L);
        lua_pushboolean(L, t->eof || t->s == NULL);
        return 2;
    }
    lua_pushlstring(L, (const char *)t->in.p + t->at, n);
    t->at += n;
    if (t->at == t->in.n) {
        et_engine_keep_spare(t->o.e, &t->in);
        t->at = 0;
    }
    if (t->paused && t->in.n - t->at < ET_UNREAD_MAX / 2) {
        t->paused = 0;
        if (t->s != NULL) {
            et_sock_resume(t->s);
        }
    }
    lua_pushboolean(L, t->in.n == t->at && (t->eof || t->s == NULL));
    return 2;
}

static int closed(lua_State *L, const struct sock *t)
{
    lua_pushnil(L);
    if (t->err != 0) {
        et_lua_push_es_err(L, t->err, t->text);
    } else {
        et_lua_push_error(L, "connection_closed", "the socket is closed");
    }
    return 2;
}

static int write_bytes(lua_State *L)
{
    struct sock *t = check(L);
    size_t n;
    const char *p = luaL_checklstring(L, 2, &n);
    int rv = t->s == NULL ? ES_ERR_CLOSED : et_sock_write(t->s, p, n);

    if (rv == ES_ERR_CLOSED) {
        return closed(L, t);
    }
    if (rv != 0) {
        return et_lua_fail(L, rv, NULL);
    }
    lua_pushboolean(L, et_sock_queued(t->s) <= ET_QUEUE_HIGH);
    return 1;
}

static int room(lua_State *L)
{
    struct sock *t = check(L);

    lua_pushboolean(L, t->s == NULL || et_sock_queued(t->s) <= ET_QUEUE_HIGH);
    return 1;
}

static int finish(lua_State *L)
{
    struct sock *t = check(L);

    if (t->s != NULL) {
        et_sock_finish(t->s);
    }
    return 0;
}

static int close_socket(lua_State *L)
{
    struct sock *t = check(L);

    if (t->s != NULL) {
        et_sock_close(t->s, lua_toboolean(L, 2));
    }
    return 0;
}

static int info(lua_State *L)
{
    struct sock *t = check(L);

    et_info_push(L, t->info, t->s != NULL ? et_sock_received(t->s) : t->received,
                 t->s != NULL ? et_sock_sent(t->s) : t->sent);
    return 1;
}

static int start_tls(lua_State *L)
{
    struct sock *t = check(L);
    struct et_tls_server *tls;

    luaL_checkudata(L, 2, ET_LUA_TLS_SERVER);
    tls = et_lua_tls_server(L, 2);
    if (t->s != NULL) {
        et_sock_start_tls(t->s, tls);
    }
    return 0;
}

static int take_raw(lua_State *L)
{
    struct sock *t = check(L);

    if (t->s != NULL) {
        et_sock_take_raw(t->s);
    }
    return 0;
}

static int failure(lua_State *L)
{
    return push_failure(L, check(L));
}

void et_lua_open_socket(lua_State *L)
{
    static const luaL_Reg methods[] = {{"notify", set_notify},
                                       {"read", read_bytes},
                                       {"write", write_bytes},
                                       {"finish", finish},
                                       {"room", room},
                                       {"close", close_socket},
                                       {"info", info},
                                       {"start_tls", start_tls},
                                       {"take_raw", take_raw},
                                       {"failure", failure},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", et_obj_gc}, {NULL, NULL}};

    et_lua_class(L, ET_LUA_SOCKET, methods, meta);
}
