/* What the files of the binding share.
 *
 * An object is what a userdata stands for: a listener, a connection to a backend, a socket, an exchange. It
 * is counted: by its userdata, by what lies below (a codec, a socket) while that lives, and while it is in
 * the list of those that have something to tell. Up-calls from below set flags and put it into that list; Lua
 * hears of it from engine:step(), when every library has returned. Userdata of objects that live below are
 * anchored in a table of the engine's, so that Lua need not keep them. Finalisers come in any order: each
 * holds its own count of the engine. */
#ifndef ET_LUA_BINDING_H
#define ET_LUA_BINDING_H

#include <lauxlib.h>
#include <lua.h>
#include "../../../csrc/base/buf.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/list.h"
#include "../../../csrc/base/mem.h"
#include "../http/http.h"
#include "../net/listener.h"

#define ET_LUA_ENGINE     "echostream.tunnel.engine"
#define ET_LUA_LISTENER   "echostream.tunnel.listener"
#define ET_LUA_CONNECTION "echostream.tunnel.connection"
#define ET_LUA_EXCHANGE   "echostream.tunnel.core_exchange"
#define ET_LUA_SOCKET     "echostream.tunnel.socket"
#define ET_LUA_HEAD       "echostream.tunnel.head"
#define ET_LUA_TLS_SERVER "echostream.tunnel.tls_server"
#define ET_LUA_TLS_CLIENT "echostream.tunnel.tls_client"

/* User values of objects' userdata. */
enum { ET_UV_NOTIFY = 1, ET_UV_OPTIONS, ET_UV_ANCHORS, ET_UVS = 3 };

enum et_obj_kind { ET_OBJ_LISTENER, ET_OBJ_CONNECTION, ET_OBJ_SOCKET, ET_OBJ_EXCHANGE };

enum et_flag { /* what an object has to tell */
               ET_F_NEW = 1,
               ET_F_NAME = 2,
               ET_F_OPEN = 4,
               ET_F_HEAD = 8,
               ET_F_DATA = 16,
               ET_F_ROOM = 32,
               ET_F_READY = 64,
               ET_F_EOF = 128,
               ET_F_REFUSED = 256,
               ET_F_RESET = 512,
               ET_F_CLOSED = 1024 /* or gone: the last one */
};

struct et_engine {            /* counted */
    struct et_poller *p;      /* owned; NULL: closed */
    struct es_list pending;   /* objects with flags, each counted */
    struct es_list listeners; /* those that are open */
    struct es_buf spare;      /* a queue that nobody needs now */
    unsigned refs;
    int stepping, close_asked;                /* functions of Lua's are called; one of them closed it */
    int held;                                 /* between receive or hold, and flush */
    uint64_t exchanges, connections;          /* now */
    uint64_t exchanges_done, resets, refused; /* in all */
};

struct et_obj { /* embedded first */
    struct et_engine *e;
    struct es_list pending;
    unsigned refs, flags;
    enum et_obj_kind kind;
};

/* Whose connection an exchange or a socket is, for logs; counted. */
struct et_info {
    unsigned refs;
    int tls;
    const char *protocol; /* static */
    char peer[64], local[112], sni[256];
};

/* ---- engine.c ---- */
void et_obj_init(struct et_obj *o, struct et_engine *e, enum et_obj_kind kind);
void et_obj_unref(struct et_obj *o);
void et_obj_mark(struct et_obj *o, unsigned flag); /* flag will be told */
/* Pushes the userdata of an object, made and anchored when there is none yet. `anchors`: index of the table.
 */
void et_obj_push(lua_State *L, int anchors, struct et_obj *o);
struct et_obj *et_obj_check(lua_State *L, int idx, const char *class);
int et_obj_gc(lua_State *L);
struct et_engine *et_lua_engine(lua_State *L, int idx); /* raises when it is closed */
void et_engine_unref(struct et_engine *e);
/* Calls the function on top of the stack's `args` values; an error is kept for the end of the step. */
void et_lua_tell(lua_State *L, int args);
/* Pushes option `name` of the object's userdata at idx: 1 when it is a function, else pushes nothing. */
int et_lua_push_callback(lua_State *L, int idx, const char *name);
void et_engine_keep_spare(struct et_engine *e, struct es_buf *b); /* empties b */
void et_lua_open_engine(lua_State *L);

struct et_info *et_info_new(const struct et_sock *s, const char *protocol);
void et_info_unref(struct et_info *i);
/* Pushes the table of x:info(); i may be NULL. */
void et_info_push(lua_State *L, const struct et_info *i, uint64_t received, uint64_t sent);

/* Each kind: what its flags say, with its userdata on top of the stack; and its end. */
void et_listener_tell(lua_State *L, struct et_obj *o, unsigned flags);
void et_connection_tell(lua_State *L, struct et_obj *o, unsigned flags);
void et_socket_tell(lua_State *L, struct et_obj *o, unsigned flags);
void et_exchange_tell(lua_State *L, struct et_obj *o, unsigned flags);
void et_listener_free(struct et_obj *o);
void et_lua_close_listeners(struct et_engine *e);
void et_connection_free(struct et_obj *o);
void et_socket_free(struct et_obj *o);
void et_exchange_free(struct et_obj *o);

/* ---- listener.c, connection.c, socket.c, exchange.c ---- */
int et_lua_listen(lua_State *L);
int et_lua_dial(lua_State *L);
void et_lua_open_listener(lua_State *L);
void et_lua_open_connection(lua_State *L);
void et_lua_open_socket(lua_State *L);
void et_lua_open_exchange(lua_State *L);

extern const struct et_exchange_events et_lua_exchange_events;
extern const struct et_sock_events et_lua_socket_events;
/* A new exchange object; the codec's side holds one count of it. NULL: no memory. `owner`: the listener whose
 * on_exchange will be called; NULL: a request of ours. */
struct et_obj *et_lua_exchange_new(struct et_engine *e, struct et_info *info, struct et_obj *owner);
void et_lua_exchange_set(struct et_obj *o, struct et_exchange *x);
/* A new socket object, counted once for the socket that et_lua_socket_set() gives to it. `owner`: the
 * listener whose on_socket or on_name will be called. */
struct et_obj *et_lua_socket_new(struct et_engine *e, struct et_obj *owner);
void et_lua_socket_set(struct et_obj *o, struct et_sock *s, int open);
void et_lua_socket_detach(void *user); /* TLS took its socket over: for Lua it is closed */

/* A codec on a socket. ES_ERR_*; s is closed when it fails. */
int et_lua_codec(struct et_sock *s, enum et_http_role role, int h2, const struct et_http_limits *limits,
                 const struct et_http_events *ev, void *user, struct et_http **out);

/* ---- tls.c ---- */
struct et_tls_server *et_lua_tls_server(lua_State *L, int idx); /* borrowed; nil: NULL */
struct et_tls_client *et_lua_tls_client(lua_State *L, int idx);
int et_lua_new_tls_server(lua_State *L);
int et_lua_new_tls_client(lua_State *L);
void et_lua_open_tls(lua_State *L);

/* ---- head.c, parts.c ---- */
void et_lua_push_head(lua_State *L, struct et_head *h); /* takes h, which gets wider; frees it if it raises */
struct et_head *et_lua_check_head(lua_State *L, int idx);
int et_lua_new_head(lua_State *L);
int et_lua_parts(lua_State *L);
int et_lua_split(lua_State *L);
int et_lua_part(lua_State *L);
void et_lua_open_head(lua_State *L);
const char *et_reset_name(unsigned why);    /* "cancel" …; "internal" for numbers that are none */
unsigned et_reset_number(const char *name); /* 0: no such name */

/* ---- errors.c ---- */
/* Pushes an error object of the core. fmt as for lua_pushfstring. */
void et_lua_push_error(lua_State *L, const char *code, const char *fmt, ...);
/* nil and the error object of an es_err; "what: text". Returns 2. */
int et_lua_fail(lua_State *L, int err, const char *what);
void et_lua_push_es_err(lua_State *L, int err, const char *what);
void et_lua_open_errors(lua_State *L);

/* ---- options.c ---- */
void et_lua_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta);
/* Fields of the table at idx; absent leaves *out as it is. They raise "name: expected …". */
const char *et_opt_string(lua_State *L, int idx,
                          const char *name); /* NULL: absent; lives as the table does */
lua_Integer et_opt_integer(lua_State *L, int idx, const char *name, lua_Integer otherwise, lua_Integer lo,
                           lua_Integer hi);
int et_opt_boolean(lua_State *L, int idx, const char *name, int otherwise);
uint64_t et_opt_seconds(lua_State *L, int idx, const char *name, uint64_t otherwise); /* ns */
void et_opt_limits(lua_State *L, int idx, struct et_http_limits *out);                /* field "limits" */

#endif
