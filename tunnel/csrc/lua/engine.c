/* The engine: steps, and what its objects tell Lua between the halves of one. */
#include <assert.h>
#include <string.h>
#include "binding.h"

#define ROUNDS 8 /* of telling and flushing in one step */

/* ---- objects ---- */

void et_obj_init(struct et_obj *o, struct et_engine *e, enum et_obj_kind kind)
{
    o->e = e;
    o->kind = kind;
    o->refs = 1;
    o->flags = 0;
    es_list_init(&o->pending);
    e->refs++;
}

void et_obj_unref(struct et_obj *o)
{
    struct et_engine *e = o->e;

    assert(o->refs > 0);
    if (--o->refs != 0) {
        return;
    }
    switch (o->kind) {
    case ET_OBJ_LISTENER:
        et_listener_free(o);
        break;
    case ET_OBJ_CONNECTION:
        et_connection_free(o);
        break;
    case ET_OBJ_SOCKET:
        et_socket_free(o);
        break;
    case ET_OBJ_EXCHANGE:
        et_exchange_free(o);
        break;
    }
    et_engine_unref(e);
}

void et_obj_mark(struct et_obj *o, unsigned flag)
{
    o->flags |= flag;
    if (es_list_empty(&o->pending)) {
        o->refs++;
        es_list_push(&o->e->pending, &o->pending);
        if (o->e->p != NULL) {
            et_poller_kick(o->e->p); /* when that is outside of a step */
        }
    }
}

static const char *class_of(const struct et_obj *o)
{
    switch (o->kind) {
    case ET_OBJ_LISTENER:
        return ET_LUA_LISTENER;
    case ET_OBJ_CONNECTION:
        return ET_LUA_CONNECTION;
    case ET_OBJ_SOCKET:
        return ET_LUA_SOCKET;
    case ET_OBJ_EXCHANGE:
        break;
    }
    return ET_LUA_EXCHANGE;
}

void et_obj_push(lua_State *L, int anchors, struct et_obj *o)
{
    struct et_obj **to;

    luaL_checkstack(L, 6, NULL);
    if (lua_rawgetp(L, anchors, o) == LUA_TUSERDATA) {
        return;
    }
    lua_pop(L, 1);
    to = lua_newuserdatauv(L, sizeof *to, ET_UVS);
    *to = NULL;
    luaL_setmetatable(L, class_of(o));
    lua_pushvalue(L, anchors);
    lua_setiuservalue(L, -2, ET_UV_ANCHORS);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, anchors, o);
    *to = o;
    o->refs++;
}

struct et_obj *et_obj_check(lua_State *L, int idx, const char *class)
{
    struct et_obj **o = luaL_checkudata(L, idx, class);

    if (*o == NULL) {
        luaL_error(L, "%s: it is not there any more", class);
    }
    return *o;
}

int et_obj_gc(lua_State *L)
{
    struct et_obj **o = lua_touserdata(L, 1);

    if (*o != NULL) {
        et_obj_unref(*o);
        *o = NULL;
    }
    return 0;
}

/* ---- info ---- */

struct et_info *et_info_new(const struct et_sock *s, const char *protocol)
{
    struct et_info *i = es_calloc(1, sizeof *i);

    if (i != NULL) {
        i->refs = 1;
        i->protocol = protocol;
        i->tls = et_sock_is_tls(s);
        et_sock_peer(s, i->peer, sizeof i->peer);
        et_sock_local(s, i->local, sizeof i->local);
        strncpy(i->sni, et_sock_sni(s), sizeof i->sni - 1);
    }
    return i;
}

void et_info_unref(struct et_info *i)
{
    if (i != NULL && --i->refs == 0) {
        es_free(i);
    }
}

void et_info_push(lua_State *L, const struct et_info *i, uint64_t received, uint64_t sent)
{
    lua_createtable(L, 0, 9); /* with what the ingress adds */
    if (i != NULL) {
        lua_pushstring(L, i->peer);
        lua_setfield(L, -2, "peer");
        lua_pushstring(L, i->local);
        lua_setfield(L, -2, "local_address");
        lua_pushstring(L, i->protocol);
        lua_setfield(L, -2, "protocol");
        lua_pushboolean(L, i->tls);
        lua_setfield(L, -2, "tls");
        lua_pushstring(L, i->sni);
        lua_setfield(L, -2, "sni");
    }
    lua_pushinteger(L, (lua_Integer)received);
    lua_setfield(L, -2, "received");
    lua_pushinteger(L, (lua_Integer)sent);
    lua_setfield(L, -2, "sent");
}

/* ---- engines ---- */

static struct et_engine **slot(lua_State *L, int idx)
{
    return luaL_checkudata(L, idx, ET_LUA_ENGINE);
}

struct et_engine *et_lua_engine(lua_State *L, int idx)
{
    struct et_engine *e = *slot(L, idx);

    if (e == NULL || e->p == NULL || e->close_asked) {
        luaL_error(L, "the engine is closed");
    }
    return e;
}

void et_engine_unref(struct et_engine *e)
{
    if (--e->refs == 0) {
        es_buf_free(&e->spare);
        es_free(e);
    }
}

void et_engine_keep_spare(struct et_engine *e, struct es_buf *b)
{
    if (e->spare.p == NULL && b->cap <= 2 * ET_UNREAD_MAX) {
        e->spare = *b;
        e->spare.n = 0;
        memset(b, 0, sizeof *b);
    } else {
        es_buf_free(b);
    }
}

/* What is below tells its last words, which nobody hears any more. */
static void close_engine(struct et_engine *e)
{
    if (e->p == NULL) {
        return;
    }
    et_lua_close_listeners(e);
    et_poller_del(e->p);
    e->p = NULL;
    while (!es_list_empty(&e->pending)) {
        struct et_obj *o = es_container_of(e->pending.next, struct et_obj, pending);
        es_list_remove(&o->pending);
        et_obj_unref(o);
    }
}

static int gc_engine(lua_State *L)
{
    struct et_engine **e = slot(L, 1);

    if (*e != NULL) {
        close_engine(*e);
        et_engine_unref(*e);
        *e = NULL;
    }
    return 0;
}

static int engine_close(lua_State *L)
{
    struct et_engine *e = *slot(L, 1);

    if (e != NULL && e->stepping) {
        e->close_asked = 1; /* by one of the functions that a step calls */
    } else if (e != NULL) {
        close_engine(e);
        lua_newtable(L); /* nothing is anchored any more */
        lua_setiuservalue(L, 1, 1);
    }
    return 0;
}

int et_lua_new_engine(lua_State *L);

int et_lua_new_engine(lua_State *L)
{
    struct et_engine **to = lua_newuserdatauv(L, sizeof *to, 2), *e;
    int rv;

    *to = NULL;
    luaL_setmetatable(L, ET_LUA_ENGINE);
    if (lua_isfunction(L, 1)) {
        lua_pushvalue(L, 1);
        lua_setiuservalue(L, -2, 2);
    }
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    e = es_calloc(1, sizeof *e);
    if (e == NULL) {
        return luaL_error(L, "out of memory");
    }
    e->refs = 1;
    es_list_init(&e->pending);
    es_list_init(&e->listeners);
    *to = e;
    rv = et_poller_new(&e->p);
    if (rv != 0) {
        return luaL_error(L, "cannot make an engine: %s", es_strerror(rv));
    }
    return 1;
}

static int engine_fd(lua_State *L)
{
    lua_pushinteger(L, et_poller_fd(et_lua_engine(L, 1)->p));
    return 1;
}

/* ---- a step ---- */

static const char problem_key =
    0; /* registry: the first error of this step, when nobody is there to take it */

/* In tell_all: 1 is the engine's userdata, 2 its anchors, 3 this. */
static int traceback(lua_State *L)
{
    if (lua_type(L, 1) == LUA_TSTRING) {
        luaL_traceback(L, L, lua_tostring(L, 1), 1);
    }
    return 1;
}

static void keep_problem(lua_State *L)
{
    int top = lua_gettop(L);

    if (lua_getiuservalue(L, 1, 2) == LUA_TFUNCTION) {
        lua_pushvalue(L, top);
        if (lua_pcall(L, 1, 0, 0) == LUA_OK) {
            lua_settop(L, top - 1);
            return;
        }
    }
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &problem_key) == LUA_TNIL) {
        lua_pushvalue(L, top);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &problem_key);
    }
    lua_settop(L, top - 1);
}

void et_lua_tell(lua_State *L, int args)
{
    if (lua_pcall(L, args, 0, 3) != LUA_OK) {
        keep_problem(L);
    }
}

int et_lua_push_callback(lua_State *L, int idx, const char *name)
{
    idx = lua_absindex(L, idx);
    if (lua_getiuservalue(L, idx, ET_UV_OPTIONS) == LUA_TTABLE) {
        lua_getfield(L, -1, name);
        lua_remove(L, -2);
        if (lua_isfunction(L, -1)) {
            return 1;
        }
    }
    lua_pop(L, 1);
    return 0;
}

/* An upvalue-free function so that what Lua raises (memory) leaves the lists as they are. 1: an engine's
 * userdata, 2: its anchors. */
static int tell_all(lua_State *L)
{
    struct et_engine *e = *(struct et_engine **)lua_touserdata(L, 1);

    lua_pushcfunction(L, traceback);

    while (!es_list_empty(&e->pending) && !e->close_asked) {
        struct et_obj *o = es_container_of(e->pending.next, struct et_obj, pending);
        unsigned flags = o->flags;
        et_obj_push(L, 2, o); /* may raise: it stays in the list then */
        es_list_remove(&o->pending);
        o->flags = 0;
        switch (o->kind) {
        case ET_OBJ_LISTENER:
            et_listener_tell(L, o, flags);
            break;
        case ET_OBJ_CONNECTION:
            et_connection_tell(L, o, flags);
            break;
        case ET_OBJ_SOCKET:
            et_socket_tell(L, o, flags);
            break;
        case ET_OBJ_EXCHANGE:
            et_exchange_tell(L, o, flags);
            break;
        }
        if ((flags & ET_F_CLOSED) != 0) { /* nothing below keeps it any more */
            lua_pushnil(L);
            lua_rawsetp(L, 2, o);
        }
        lua_settop(L, 3);
        et_obj_unref(o);
    }
    return 0;
}

static void tell(lua_State *L, struct et_engine *e)
{
    et_poller_enter(e->p);
    lua_pushcfunction(L, tell_all);
    lua_pushvalue(L, 1);
    lua_getiuservalue(L, 1, 1);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
        keep_problem(L);
    }
    et_poller_leave(e->p);
}

static void hold(struct et_engine *e)
{
    if (!e->held) {
        (void)et_poller_now(e->p); /* for timers that are started meanwhile */
        et_poller_enter(e->p);
        e->held = 1;
    }
}

static void let_go(struct et_engine *e)
{
    if (e->held) {
        et_poller_leave(e->p);
        e->held = 0;
    }
}

/* What was told may have closed it, or raised: said when everything is in order again. */
static void end_telling(lua_State *L, struct et_engine *e)
{
    e->stepping = 0;
    if (e->close_asked) {
        close_engine(e);
        lua_newtable(L);
        lua_setiuservalue(L, 1, 1);
    }
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &problem_key) != LUA_TNIL) {
        lua_pushnil(L);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &problem_key);
        lua_error(L);
    }
    lua_pop(L, 1);
}

static int receive(lua_State *L, struct et_engine *e, lua_Integer budget)
{
    int more;

    let_go(e);
    more = et_poller_receive(e->p, budget > 0 && budget < 10000 ? (unsigned)budget : 64);
    hold(e);
    if (!es_list_empty(&e->pending)) {
        tell(L, e);
    }
    return more;
}

/* Sends, tells what comes of that, sends again. */
static int flush(lua_State *L, struct et_engine *e)
{
    int more = 0;

    for (int round = 0; round < ROUNDS; round++) {
        let_go(e);
        more |= et_poller_flush(e->p);
        if (es_list_empty(&e->pending)) {
            return more;
        }
        hold(e);
        tell(L, e);
        if (e->close_asked) {
            return 0;
        }
    }
    let_go(e);
    et_poller_kick(e->p);
    return 1;
}

static struct et_engine *begin(lua_State *L)
{
    struct et_engine *e = et_lua_engine(L, 1);

    if (e->stepping) {
        luaL_error(L, "a step of the engine inside of its own");
    }
    e->stepping = 1;
    return e;
}

static int engine_receive(lua_State *L)
{
    lua_Integer budget = luaL_optinteger(L, 2, 64); /* what raises comes before begin() */
    struct et_engine *e = begin(L);
    int more;

    lua_settop(L, 1);
    more = receive(L, e, budget);
    end_telling(L, e);
    lua_pushboolean(L, more);
    return 1;
}

static int engine_hold(lua_State *L)
{
    hold(et_lua_engine(L, 1));
    return 0;
}

static int engine_tell(lua_State *L)
{
    struct et_engine *e = begin(L);

    lua_settop(L, 1);
    hold(e);
    tell(L, e);
    end_telling(L, e);
    return 0;
}

static int engine_flush(lua_State *L)
{
    struct et_engine *e = begin(L);
    int last = lua_toboolean(L, 2), more;

    lua_settop(L, 1);
    let_go(e);
    (void)et_poller_flush(e->p);
    more = !es_list_empty(&e->pending);
    if (more && last) {
        et_poller_kick(e->p);
    }
    end_telling(L, e);
    lua_pushboolean(L, more);
    return 1;
}

static int engine_step(lua_State *L)
{
    lua_Integer budget = luaL_optinteger(L, 2, 64); /* what raises comes before begin() */
    struct et_engine *e = begin(L);
    int more;

    lua_settop(L, 1);
    more = receive(L, e, budget);
    if (!e->close_asked) {
        more |= flush(L, e);
    }
    end_telling(L, e);
    lua_pushboolean(L, more);
    return 1;
}

static int engine_alive(lua_State *L)
{
    const struct et_net_stats *s = et_poller_stats(et_lua_engine(L, 1)->p);

    lua_pushboolean(L, s->sockets + s->listeners != 0);
    return 1;
}

static int engine_stats(lua_State *L)
{
    struct et_engine *e = et_lua_engine(L, 1);
    const struct et_net_stats *s = et_poller_stats(e->p);
    struct es_mem_stats m;
    es_mem_stats(&m);
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {{"sockets", s->sockets},
                {"listeners", s->listeners},
                {"accepted", s->accepted},
                {"dialed", s->dialed},
                {"handshakes", s->handshakes},
                {"handshakes_failed", s->handshakes_lost},
                {"received", s->received},
                {"sent", s->sent},
                {"accept_pauses", s->accept_pauses},
                {"exchanges", e->exchanges},
                {"exchanges_done", e->exchanges_done},
                {"connections", e->connections},
                {"resets", e->resets},
                {"refused", e->refused},
                {"memory", m.in_use}};

    lua_createtable(L, 0, sizeof rows / sizeof *rows);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lua_pushinteger(L, (lua_Integer)rows[i].value);
        lua_setfield(L, -2, rows[i].name);
    }
    return 1;
}

void et_lua_open_engine(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"fd", engine_fd},       {"step", engine_step},       {"stats", engine_stats},
        {"close", engine_close}, {"listen", et_lua_listen},   {"dial", et_lua_dial},
        {"alive", engine_alive}, {"receive", engine_receive}, {"hold", engine_hold},
        {"flush", engine_flush}, {"tell", engine_tell},       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", gc_engine}, {NULL, NULL}};

    et_lua_class(L, ET_LUA_ENGINE, methods, meta);
}
