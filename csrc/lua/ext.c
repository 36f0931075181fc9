#include "ext.h"

#include <lauxlib.h>
#include <string.h>
#include "../base/err.h"
#include "errors.h"

#define TIMESTAMP     (-1)
#define TIMESTAMP_MT  "echostream.timestamp"
#define MAX_NANOS     999999999
#define SECONDS_34BIT (INT64_C(1) << 34)

/* Registry keys: metatable -> type number; type number -> { pack, unpack }. */
static const char by_metatable, by_type;

/* "chunk:12: text" without its position: the reason may be told to a peer, whom paths of this machine do not
 * concern. */
static void drop_position(lua_State *L)
{
    const char *s = lua_tostring(L, -1);
    for (const char *p = s; (p = strchr(p, ':')) != NULL && p - s < 200; p++) {
        const char *q = p + 1 + strspn(p + 1, "0123456789");
        if (q > p + 1 && q[0] == ':' && q[1] == ' ') {
            lua_pushstring(L, q + 2);
            lua_remove(L, -2);
            return;
        }
    }
}

void es_ext_reason(lua_State *L)
{
    if (lua_type(L, -1) == LUA_TSTRING) {
        drop_position(L);
        return;
    }
    if (es_lua_is_error(L, -1)) {
        lua_pushliteral(L, "message");
        lua_rawget(L, -2);
        if (lua_type(L, -1) == LUA_TSTRING) {
            lua_remove(L, -2);
            return;
        }
        lua_pop(L, 1);
    }
    lua_pushfstring(L, "an error that is a %s", luaL_typename(L, -1));
    lua_remove(L, -2);
}

int es_ext_of(lua_State *L, int idx, int *type)
{
    if (!lua_getmetatable(L, idx))
        return 0;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &by_metatable);
    lua_insert(L, -2);
    int known = lua_rawget(L, -2) == LUA_TNUMBER;
    *type = known ? (int)lua_tointeger(L, -1) : 0;
    lua_pop(L, 2);
    return known;
}

/* ---- the head ---- */

static int put_head(struct es_buf *out, int type, size_t n)
{
    uint8_t *p;
    size_t head = 2;

    if (n > UINT32_MAX || es_buf_reserve(out, n + 6) != 0)
        return ES_ERR_NOMEM;
    p = out->p + out->n;
    if (n == 1 || n == 2 || n == 4 || n == 8 || n == 16) { /* fixext */
        p[0] = (uint8_t)(n == 1 ? 0xd4 : n == 2 ? 0xd5 : n == 4 ? 0xd6 : n == 8 ? 0xd7 : 0xd8);
    } else {
        unsigned bytes = n <= 0xff ? 1 : n <= 0xffff ? 2 : 4;

        p[0] = (uint8_t)(bytes == 1 ? 0xc7 : bytes == 2 ? 0xc8 : 0xc9);
        for (unsigned i = 0; i < bytes; i++)
            p[1 + i] = (uint8_t)(n >> 8 * (bytes - 1 - i));
        head += bytes;
    }
    p[head - 1] = (uint8_t)type;
    out->n += head;
    return 0;
}

/* ---- timestamps ---- */

static void put_be(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = n; i > 0; i--, v >>= 8)
        p[i - 1] = (uint8_t)v;
}

static uint64_t get_be(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    while (n-- > 0)
        v = v << 8 | *p++;
    return v;
}

static int pack_timestamp(lua_State *L, int idx, struct es_buf *out)
{
    uint8_t bytes[12];
    unsigned n;
    int ok = lua_type(L, idx) == LUA_TTABLE, is_seconds = 0, is_nanos = 1;
    int64_t seconds = 0, nanos = 0;

    if (ok) {
        idx = lua_absindex(L, idx);
        lua_pushliteral(L, "seconds");
        lua_rawget(L, idx);
        lua_pushliteral(L, "nanoseconds");
        if (lua_rawget(L, idx) != LUA_TNIL)
            nanos = lua_tointegerx(L, -1, &is_nanos);
        seconds = lua_tointegerx(L, -2, &is_seconds);
        lua_pop(L, 2);
    }
    if (!ok || !is_seconds || !is_nanos || nanos < 0 || nanos > MAX_NANOS) {
        lua_pushliteral(L, "a timestamp has whole seconds and nanoseconds from 0 to 999999999");
        return ES_ERR_INVAL;
    }
    if (seconds >= 0 && seconds <= UINT32_MAX && nanos == 0) {
        put_be(bytes, (uint64_t)seconds, n = 4);
    } else if (seconds >= 0 && seconds < SECONDS_34BIT) {
        put_be(bytes, (uint64_t)nanos << 34 | (uint64_t)seconds, n = 8);
    } else {
        put_be(bytes, (uint64_t)nanos, 4);
        put_be(bytes + 4, (uint64_t)seconds, 8);
        n = 12;
    }
    if (put_head(out, TIMESTAMP, n) == 0 && es_buf_put(out, bytes, n) == 0)
        return 0;
    lua_pushliteral(L, "out of memory");
    return ES_ERR_NOMEM;
}

static int unpack_timestamp(lua_State *L, const uint8_t *p, size_t n)
{
    uint64_t nanos = 0, v;
    int64_t seconds;

    if (n == 4) {
        seconds = (int64_t)get_be(p, 4);
    } else if (n == 8) {
        v = get_be(p, 8);
        nanos = v >> 34;
        seconds = (int64_t)(v & (uint64_t)(SECONDS_34BIT - 1));
    } else if (n == 12) {
        nanos = get_be(p, 4);
        seconds = (int64_t)get_be(p + 4, 8);
    } else {
        lua_pushfstring(L, "a timestamp has 4, 8 or 12 bytes, not %I", (LUAI_UACINT)n);
        return ES_ERR_PROTOCOL;
    }
    if (nanos > MAX_NANOS) {
        lua_pushliteral(L, "a timestamp with a second or more of nanoseconds");
        return ES_ERR_PROTOCOL;
    }
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, seconds);
    lua_setfield(L, -2, "seconds");
    lua_pushinteger(L, (lua_Integer)nanos);
    lua_setfield(L, -2, "nanoseconds");
    luaL_setmetatable(L, TIMESTAMP_MT);
    return 0;
}

/* ---- those that were registered ---- */

/* Pushes the function `which` of a type: 1; or nothing: 0. */
static int push_function(lua_State *L, int type, int which)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &by_type);
    if (lua_rawgeti(L, -1, type) != LUA_TTABLE) {
        lua_pop(L, 2);
        return 0;
    }
    lua_rawgeti(L, -1, which);
    lua_replace(L, -3);
    lua_pop(L, 1);
    return 1;
}

int es_ext_pack(lua_State *L, int idx, int type, struct es_buf *out)
{
    struct es_buf aside = *out;
    int rc = ES_ERR_INVAL, status;
    size_t n = 0;

    if (!lua_checkstack(L, 8)) {
        lua_pushliteral(L, "out of memory");
        return ES_ERR_NOMEM;
    }
    if (type == TIMESTAMP)
        return pack_timestamp(L, idx, out);
    idx = lua_absindex(L, idx);
    push_function(L, type, 1);
    lua_pushvalue(L, idx);
    memset(out, 0, sizeof *out); /* what runs now may encode into the same buffer */
    status = lua_pcall(L, 1, 1, 0);
    es_buf_free(out);
    *out = aside;
    if (status != LUA_OK) {
        es_ext_reason(L);
        lua_pushfstring(L, "extension type %d: %s", type, lua_tostring(L, -1));
    } else if (lua_type(L, -1) != LUA_TSTRING) {
        lua_pushfstring(L, "extension type %d: pack gave a %s instead of a string", type,
                        luaL_typename(L, -1));
    } else {
        const char *bytes = lua_tolstring(L, -1, &n);

        rc = put_head(out, type, n);
        if (rc == 0)
            rc = es_buf_put(out, bytes, n);
        if (rc != 0)
            lua_pushliteral(L, "out of memory");
    }
    if (rc == 0)
        lua_pop(L, 1);
    else
        lua_remove(L, -2);
    return rc;
}

int es_ext_unpack(lua_State *L, int type, const uint8_t *p, size_t n)
{
    if (!lua_checkstack(L, 8)) {
        lua_pushliteral(L, "out of memory");
        return ES_ERR_NOMEM;
    }
    if (type == TIMESTAMP)
        return unpack_timestamp(L, p, n);
    if (!push_function(L, type, 2)) {
        lua_pushfstring(L, "extension type %d is not known here", type);
        return ES_ERR_PROTOCOL;
    }
    lua_pushlstring(L, n > 0 ? (const char *)p : "", n);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK)
        return 0;
    es_ext_reason(L);
    lua_pushfstring(L, "extension type %d: %s", type, lua_tostring(L, -1));
    lua_remove(L, -2);
    return ES_ERR_PROTOCOL;
}

/* extend(type, metatable, pack, unpack): checked by the caller but for what it cannot see. Returns true, or
 * nil and the number that the metatable has already. */
static int extend(lua_State *L)
{
    lua_Integer type = luaL_checkinteger(L, 1);

    luaL_argcheck(L, type >= 0 && type <= 127, 1, "a type is 0 to 127");
    luaL_checktype(L, 2, LUA_TTABLE);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    luaL_checktype(L, 4, LUA_TFUNCTION);
    lua_settop(L, 4);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &by_metatable);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, 5) != LUA_TNIL && lua_tointeger(L, -1) != type) {
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    lua_settop(L, 5);
    /* A metatable that the type had before is forgotten. */
    for (lua_pushnil(L); lua_next(L, 5) != 0; lua_pop(L, 1)) {
        if (lua_tointeger(L, -1) == type) {
            lua_pushvalue(L, -2);
            lua_pushnil(L);
            lua_rawset(L, 5);
        }
    }
    lua_pushvalue(L, 2);
    lua_pushinteger(L, type);
    lua_rawset(L, 5);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &by_type);
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, 3);
    lua_rawseti(L, -2, 1);
    lua_pushvalue(L, 4);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, type);
    lua_pushboolean(L, 1);
    return 1;
}

void es_lua_open_ext(lua_State *L, int core_index)
{
    luaL_checkstack(L, 6, NULL);
    lua_newtable(L);
    luaL_newmetatable(L, TIMESTAMP_MT);
    lua_pushvalue(L, -1);
    lua_setfield(L, core_index, "timestamp_mt");
    lua_pushinteger(L, TIMESTAMP);
    lua_rawset(L, -3);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &by_metatable);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &by_type);
    lua_pushcfunction(L, extend);
    lua_setfield(L, core_index, "codec_extend");
}
