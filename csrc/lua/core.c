/* The module table of echostream.core, the per-state struct, the log sink. */
#include "binding.h"
#include <stdio.h>
#include <string.h>
#include "../base/clock.h"
#include "../base/mem.h"
#include "codec.h"
#include "codec_custom.h"
#include "errors.h"
#include "frame.h"
#include "http3.h"
#include "quic.h"

static const char state_key; /* its address is the registry key of the struct es_lua */

struct es_lua *es_lua_get(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
    struct es_lua **box = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return box ? *box : NULL;
}

void es_lua_unref(struct es_lua *l)
{
    if (--l->refs == 0) {
        es_idmap_free(&l->tasks);
        es_free(l);
    }
}

/* The state is closing: whoever is still alive must not touch Lua any more. */
static int state_gc(lua_State *L)
{
    struct es_lua **box = lua_touserdata(L, 1);
    if (*box) {
        (*box)->closing = 1;
        es_lua_unref(*box);
        *box = NULL;
    }
    return 0;
}

static struct es_lua *state_new(lua_State *L)
{
    struct es_lua **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, state_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    struct es_lua *l = es_calloc(1, sizeof *l);
    if (!l) {
        luaL_error(L, "out of memory");
        return NULL;
    }
    uint64_t seed;
    es_random(&seed, sizeof seed);
    es_idmap_init(&l->tasks, seed);
    l->refs = 1;
    l->log_ref = LUA_NOREF;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    l->main = lua_tothread(L, -1);
    lua_pop(L, 1);
    *box = l;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
    return l;
}

/* log(record) in a protected call: 1 level, 2 message, 3 traceback or nil, 4 method or nil, upvalue-free;
 * stack: fn first. */
static int log_body(lua_State *L)
{
    const char **v = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, (lua_Integer)(intptr_t)v[4]);
    lua_createtable(L, 0, 4);
    static const char *const names[] = {"level", "message", "traceback", "method"};
    for (int i = 0; i < 4; i++) {
        if (v[i]) {
            lua_pushstring(L, v[i]);
            lua_setfield(L, -2, names[i]);
        }
    }
    lua_call(L, 1, 0);
    return 0;
}

/* Peers choose some of these bytes (names, reasons): control characters never reach a terminal. */
static void print_clean(const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '\n' || c == '\t' || (c >= 0x20 && c != 0x7f))
            fputc(c, stderr);
        else
            fprintf(stderr, "\\x%02x", c);
    }
}

void es_lua_log(lua_State *L, struct es_lua *lua, const char *level, const char *message,
                const char *traceback, const char *method)
{
    if (lua->log_ref != LUA_NOREF && lua_checkstack(L, 8)) {
        const char *v[5] = {level, message, traceback, method, (const char *)(intptr_t)lua->log_ref};
        lua_pushcfunction(L, log_body);
        lua_pushlightuserdata(L, v);
        int rc = lua_pcall(L, 1, 0, 0);
        if (rc == LUA_OK)
            return;
        lua_pop(L, 1); /* a log function that fails must not hide the message */
    }
    fprintf(stderr, "echostream: %s: ", level);
    if (method) {
        print_clean(method);
        fputs(": ", stderr);
    }
    print_clean(traceback ? traceback : message);
    fputc('\n', stderr);
}

static int core_set_log(lua_State *L)
{
    struct es_lua *lua = es_lua_get(L);
    if (!lua_isnoneornil(L, 1))
        luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_unref(L, LUA_REGISTRYINDEX, lua->log_ref);
    lua->log_ref = LUA_NOREF;
    if (!lua_isnoneornil(L, 1)) {
        lua_pushvalue(L, 1);
        lua->log_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    return 0;
}

static int core_random(lua_State *L)
{
    lua_Integer n = luaL_checkinteger(L, 1);
    luaL_argcheck(L, n >= 0 && n <= 65536, 1, "0 to 65536 bytes");
    luaL_Buffer b;
    char *p = luaL_buffinitsize(L, &b, (size_t)n);
    es_random(p, (size_t)n);
    luaL_pushresultsize(&b, (size_t)n);
    return 1;
}

/* Counters of the core's allocations, for specs and benches: allocs, frees, bytes in use. */
static int core_memory(lua_State *L)
{
    struct es_mem_stats st;
    es_mem_stats(&st);
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, (lua_Integer)st.allocs);
    lua_setfield(L, -2, "allocs");
    lua_pushinteger(L, (lua_Integer)st.frees);
    lua_setfield(L, -2, "frees");
    lua_pushinteger(L, (lua_Integer)st.in_use);
    lua_setfield(L, -2, "in_use");
    return 1;
}

__attribute__((visibility("default"))) LUALIB_API int luaopen_echostream_core(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"set_log", core_set_log}, {"random", core_random}, {"memory", core_memory}, {NULL, NULL}};
    if (!es_lua_get(L))
        state_new(L);
    luaL_newlib(L, functions);
    int core = lua_gettop(L);
    lua_pushliteral(L, "scm-1");
    lua_setfield(L, core, "version");
    lua_createtable(L, 0, 3);
    lua_pushstring(L, es_transport_ngtcp2_version());
    lua_setfield(L, -2, "ngtcp2");
    lua_pushstring(L, es_transport_gnutls_version());
    lua_setfield(L, -2, "gnutls");
    lua_pushliteral(L, LUA_RELEASE);
    lua_setfield(L, -2, "lua");
    lua_setfield(L, core, "libraries");
    es_lua_open_errors(L, core);
    es_lua_open_codec(L, core);
    es_codec_share(L, &es_lua_get(L)->codecs);
    es_lua_open_frame(L, core);
    es_lua_open_loop(L, core);
    es_lua_open_task(L, core);
    es_lua_open_crypto(L, core);
    es_lua_open_endpoint(L, core);
    es_lua_open_host(L, core);
    es_lua_open_histogram(L, core);
    es_lua_open_probe(L, core);
    es_lua_open_local(L, core);
    es_lua_open_session(L, core);
    es_lua_open_door(L, core);
    es_lua_open_request(L, core);
    es_lua_open_again(L, core);
    es_lua_open_encoded(L, core);
    es_lua_open_middleware(L, core);
    es_lua_open_channel(L, core);
    es_lua_open_quic(L, core);
    es_lua_open_http3(L, core);
    es_lua_open_coding(L, core);
    es_lua_open_decoding(L, core);
    es_lua_open_prompt(L, core);
    return 1;
}
