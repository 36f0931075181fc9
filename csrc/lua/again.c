/* Requests that are sent again: their ids, how a host recognises them, and handlers that outlive their
 * callers because these may ask again. What is made of it are lua/echostream/retry.lua and retry/dedupe.lua.
 */
#include "binding.h"
#include <string.h>
#include "../framing/compress.h"
#include "errors.h"

#define INSTANCE_BYTES 16

/* session:request_id() -> integer, or nil, err once it is closed */
int es_lsession_request_id(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    uint64_t id = ls ? es_session_request_id(ls->s) : 0;
    if (id == 0)
        return es_lsession_closed_error(L);
    lua_pushinteger(L, (lua_Integer)id);
    return 1;
}

/* host:request_id([first]) -> integer: for a client whose next session is still to come; nil once it is
 * closed. first: ids go on from there */
int es_lua_host_request_id(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    lua_Integer first = luaL_optinteger(L, 2, 0);
    if (!h->host)
        return 0;
    if (first > 0)
        es_host_request_ids_from(h->host, (uint64_t)first);
    lua_pushinteger(L, (lua_Integer)es_host_request_id(h->host));
    return 1;
}

/* host:fingerprints(on) */
int es_lua_host_fingerprints(lua_State *L)
{
    struct es_lhost *h = es_lua_check_host(L, 1);
    h->fingerprints = lua_toboolean(L, 2);
    return 0;
}

/* Tells two requests under one id apart when a caller made a mistake. It is no defence: whoever knows the
 * instance can ask for the answer anyway. */
uint64_t es_lua_fingerprint(const uint8_t *p, size_t n)
{
    return (uint64_t)es_crc32c(0, p, n) | (uint64_t)n << 32;
}

/* core.call_key() -> key, fingerprint, attempt: of the call that the running handler serves, when its caller
 * may send it again; nothing else. */
static int core_call_key(lua_State *L)
{
    struct es_task *t = es_task_current(L);
    if (!t || t->job != ES_JOB_CALL || !t->call || !es_call_idempotent(t->call))
        return 0;
    const uint8_t *instance = es_session_peer_instance(t->session);
    if (!instance)
        return 0;
    uint64_t id = es_call_request_id(t->call);
    char key[INSTANCE_BYTES + sizeof id];
    memcpy(key, instance, INSTANCE_BYTES);
    memcpy(key + INSTANCE_BYTES, &id, sizeof id);
    lua_pushlstring(L, key, sizeof key);
    lua_pushinteger(L, (lua_Integer)t->fingerprint);
    lua_pushinteger(L, es_call_attempt(t->call));
    return 3;
}

/* core.keep_call(fn): when the caller of the running handler is lost, and did not cancel, fn(code) runs in a
 * task instead of the handler being cancelled. task:give_up(code) does the rest later. */
static int core_keep_call(lua_State *L)
{
    struct es_task *t = es_task_current(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    if (!t || t->job != ES_JOB_CALL)
        return luaL_error(L, "core.keep_call outside a handler");
    luaL_unref(L, LUA_REGISTRYINDEX, t->keep_ref); /* of an earlier run: middleware may call next() twice */
    t->keep_ref = LUA_NOREF;
    lua_pushvalue(L, 1);
    t->keep_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

int es_lua_call_kept(lua_State *L, struct es_task *t, uint64_t code)
{
    if (t->keep_ref == LUA_NOREF || t->job != ES_JOB_CALL || t->cancelled)
        return 0;
    if (code == ES_APP_CANCELLED || es_call_limited(t->call))
        return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->keep_ref);
    lua_pushinteger(L, (lua_Integer)code);
    es_task_call(L, t->loop, 1);
    return 1;
}

/* task:give_up(code): what the end of its caller would have meant. */
int es_lua_task_give_up(lua_State *L)
{
    struct es_ltask_ud *ud = luaL_checkudata(L, 1, "echostream.task");
    lua_Integer code = luaL_optinteger(L, 2, ES_APP_CANCELLED);
    if (ud->task)
        es_task_give_up(L, ud->task, (uint64_t)code);
    lua_pushboolean(L, ud->task != NULL);
    return 1;
}

void es_lua_open_again(lua_State *L, int core)
{
    static const luaL_Reg functions[] = {
        {"call_key", core_call_key}, {"keep_call", core_keep_call}, {NULL, NULL}};
    lua_pushvalue(L, core);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
