#include "value.h"

#include <ctype.h>
#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Registry keys of the two metatables: an address is found faster than a name. */
static const char array_mark, map_mark;

enum es_shape es_value_shape(lua_State *L, int idx, lua_Integer *n)
{
    int array_hint = 0;
    if (lua_getmetatable(L, idx)) {
        lua_rawgetp(L, LUA_REGISTRYINDEX, &map_mark);
        int is_map = lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
        lua_rawgetp(L, LUA_REGISTRYINDEX, &array_mark);
        array_hint = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
        if (is_map)
            return ES_SHAPE_MAP;
    }
    if (!array_hint && lua_rawlen(L, idx) == 0)
        return ES_SHAPE_MAP; /* nothing at 1: no sequence */

    lua_Integer count = 0, max = 0;
    idx = lua_absindex(L, idx);
    lua_pushnil(L);
    while (lua_next(L, idx) != 0) {
        lua_pop(L, 1);
        lua_Integer k = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : 0;
        if (k < 1) {
            lua_pop(L, 1);
            return ES_SHAPE_MAP;
        }
        count++;
        if (k > max)
            max = k;
    }
    if (max != count && !(array_hint && max - count <= count + 8))
        return ES_SHAPE_MAP;
    *n = max;
    return ES_SHAPE_ARRAY;
}

void es_value_mark(lua_State *L, enum es_shape shape)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, shape == ES_SHAPE_ARRAY ? &array_mark : &map_mark);
    lua_setmetatable(L, -2);
}

const char *es_value_refusal(lua_State *L, int idx)
{
    switch (lua_type(L, idx)) {
    case LUA_TFUNCTION:
        return "a function cannot be sent";
    case LUA_TTHREAD:
        return "a coroutine cannot be sent";
    case LUA_TTABLE:
        return "a table cannot be a key";
    default:
        return "a userdata cannot be sent";
    }
}

/* Appends one step of the path, readable whatever the key holds. Returns the new length. */
static size_t put_step(char *out, size_t cap, size_t at, const struct es_path *p)
{
    if (at + 48 > cap) /* one step needs fewer than 48 bytes */
        return at;
    if (p->key == NULL)
        return at + (size_t)snprintf(out + at, cap - at, "[%lld]", (long long)p->index);

    size_t cut = p->key_len < 32 ? p->key_len : 32;
    int plain = cut > 0;
    char text[33];
    for (size_t i = 0; i < cut; i++) {
        unsigned char c = (unsigned char)p->key[i];
        plain = plain && (c == '_' || (c < 128 && isalnum(c)));
        text[i] = (char)(c >= 32 && c < 127 ? c : '?');
    }
    text[cut] = '\0';
    const char *dots = cut < p->key_len ? "..." : "";
    return at + (size_t)snprintf(out + at, cap - at, plain ? ".%s%s" : "[\"%s%s\"]", text, dots);
}

void es_value_push_path_error(lua_State *L, int argument, const struct es_path *path, const char *why)
{
    const struct es_path *step[ES_CODEC_MAX_DEPTH + 1];
    size_t n = 0, at = 0;
    char text[512] = "";

    for (; path != NULL && n < sizeof step / sizeof step[0]; path = path->up)
        step[n++] = path;
    while (n > 0)
        at = put_step(text, sizeof text, at, step[--n]);
    lua_checkstack(L, 4);
    const char *space = text[0] != '\0' ? " " : "";
    if (argument > 0)
        lua_pushfstring(L, "argument %d%s%s: %s", argument, space, text, why);
    else
        lua_pushfstring(L, "value%s%s: %s", space, text, why);
}

/* Upvalue 1: the metatable to set, upvalue 2: the other mark. */
static int mark(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (lua_getmetatable(L, 1) && !lua_rawequal(L, 2, lua_upvalueindex(1)) &&
        !lua_rawequal(L, 2, lua_upvalueindex(2)))
        return luaL_argerror(L, 1, "the table has a metatable already, so it cannot be marked");
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_setmetatable(L, 1);
    return 1;
}

void es_lua_open_value(lua_State *L, int core_index)
{
    luaL_checkstack(L, 6, NULL);
    es_value_push_null(L);
    lua_setfield(L, core_index, "null");

    luaL_newmetatable(L, "echostream.array"); /* sets __name, for printing; nothing else is in it */
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &array_mark);
    luaL_newmetatable(L, "echostream.map");
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &map_mark);

    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, mark, 2);
    lua_setfield(L, core_index, "array");
    lua_pushvalue(L, -1);
    lua_pushvalue(L, -3);
    lua_pushcclosure(L, mark, 2);
    lua_setfield(L, core_index, "map");
    lua_pop(L, 2);
}

/* ---- colliding keys ---- */

/* Where Lua's own hash puts a number in a table of `size` places (ltable.c: hashint, l_hashfloat). */
static uint64_t hash_number(lua_State *L, int idx, int *is_float)
{
    lua_Integer i;
    lua_Number x;
    int e;

    *is_float = 0;
    if (lua_isinteger(L, idx)) {
        return (uint64_t)lua_tointeger(L, idx);
    }
    x = lua_tonumber(L, idx);
    if (lua_numbertointeger(x, &i) && (lua_Number)i == x) {
        return (uint64_t)i; /* Lua makes such a key an integer */
    }
    *is_float = 1;
    x = frexp(x, &e) * -(lua_Number)INT_MIN;
    if (!lua_numbertointeger(x, &i)) {
        return 0; /* infinite */
    }
    unsigned u = (unsigned)e + (unsigned)i;
    return u <= (unsigned)INT_MAX ? u : ~u;
}

static size_t place(uint64_t hash, size_t size, int is_float)
{
    return LUA_VERSION_RELEASE_NUM < 50403 && !is_float ? hash & (size - 1) : hash % ((size - 1) | 1);
}

static size_t first_size(size_t n)
{
    size_t size = 1;

    while (size < n && size < ES_FLOOD_PRESIZED) {
        size *= 2;
    }
    return size;
}

int es_flood_key(lua_State *L, struct es_flood *f, struct es_flood_map *m)
{
    size_t first = first_size(m->n), at = 0;
    int is_float;
    uint64_t hash = hash_number(L, -1, &is_float);

    if (m->seen == NULL) {
        size_t total = first;
        for (size_t size = first; size < m->n; size *= 2) {
            total += size * 2;
        }
        m->seen = lua_newuserdatauv(L, total, 0);
        memset(m->seen, 0, total);
        lua_insert(L, -3);
    }
    for (size_t size = first;; size *= 2) {
        uint8_t *c = &m->seen[at + place(hash, size, is_float)];
        if (*c == UINT8_MAX || f->budget < *c) {
            return 0;
        }
        f->budget -= *c;
        ++*c;
        at += size;
        if (size >= m->n) {
            return 1;
        }
    }
}
