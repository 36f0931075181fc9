/* Codecs of users: a name, a number from 16 up, and two Lua functions. */
#include "codec_custom.h"

#include <lauxlib.h>
#include <string.h>
#include "../base/err.h"
#include "errors.h"
#include "ext.h"
#include "value.h"

/* Registry keys: number -> { encode, decode }; a light userdata with the struct es_codec_names. */
static const char functions_key, names_key;

void es_codec_share(lua_State *L, struct es_codec_names *names)
{
    luaL_checkstack(L, 2, NULL);
    lua_pushlightuserdata(L, names);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &names_key);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &functions_key);
}

static struct es_codec_names *names_of(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &names_key);
    struct es_codec_names *names = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return names;
}

const char *es_custom_name(lua_State *L, int codec_id)
{
    const struct es_codec_names *names = names_of(L);
    size_t i = (size_t)(codec_id - ES_FIRST_CODEC);
    return names != NULL && codec_id >= ES_FIRST_CODEC && i < names->n ? names->name[i] : NULL;
}

int es_custom_find(lua_State *L, const char *name)
{
    const struct es_codec_names *names = names_of(L);
    for (size_t i = 0; names != NULL && i < names->n; i++) {
        if (strcmp(names->name[i], name) == 0)
            return ES_FIRST_CODEC + (int)i;
    }
    return ES_ERR_NOT_FOUND;
}

int es_custom_add(lua_State *L, const char *name, size_t len, int encode, int decode)
{
    struct es_codec_names *names = names_of(L);
    int id = es_custom_find(L, name);

    if (names == NULL)
        return ES_ERR_UNSUPPORTED;
    if (len == 0 || len > ES_MAX_CODEC_NAME || strlen(name) != len)
        return ES_ERR_INVAL;
    if (id < 0 && names->n == ES_MAX_CODECS)
        return ES_ERR_LIMIT;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &functions_key);
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, encode);
    lua_rawseti(L, -2, 1);
    lua_pushvalue(L, decode);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, id >= 0 ? id : ES_FIRST_CODEC + (lua_Integer)names->n);
    lua_pop(L, 1);
    if (id < 0) {
        memcpy(names->name[names->n], name, len + 1);
        id = ES_FIRST_CODEC + (int)names->n++;
    }
    return id;
}

/* Pushes the function. The number is one that es_custom_name knows. */
static void push_function(lua_State *L, int codec_id, int which)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &functions_key);
    lua_rawgeti(L, -1, codec_id);
    lua_rawgeti(L, -1, which);
    lua_replace(L, -3);
    lua_pop(L, 1);
}

/* The reason on top becomes "codec x: reason" and the only thing above base. */
static int give_up(lua_State *L, int codec_id, int base, int err)
{
    es_ext_reason(L);
    lua_pushfstring(L, "codec %s: %s", es_custom_name(L, codec_id), lua_tostring(L, -1));
    lua_rotate(L, base + 1, 1);
    lua_settop(L, base + 1);
    return err;
}

int es_custom_encode(lua_State *L, int codec_id, int first, int n, struct es_buf *out)
{
    struct es_buf aside = *out;
    int base = lua_gettop(L), status;
    size_t len;

    if (n > ES_CODEC_MAX_VALUES || !lua_checkstack(L, n + 8)) {
        lua_pushfstring(L, "%d values, but at most %d can be sent", n, ES_CODEC_MAX_VALUES);
        return ES_ERR_LIMIT;
    }
    push_function(L, codec_id, 1);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, first + i);
    memset(out, 0, sizeof *out); /* what runs now may encode into the same buffer */
    status = lua_pcall(L, n, 2, 0);
    es_buf_free(out);
    *out = aside;
    if (status != LUA_OK)
        return give_up(L, codec_id, base, ES_ERR_INVAL);
    if (lua_type(L, -2) != LUA_TSTRING) {
        if (lua_isnil(L, -1)) /* not `nil, reason` either */
            lua_pushfstring(L, "encode gave a %s instead of a string", luaL_typename(L, -2));
        return give_up(L, codec_id, base, ES_ERR_INVAL);
    }
    const char *bytes = lua_tolstring(L, -2, &len);
    if (es_buf_put(out, bytes, len) != 0) {
        lua_pushliteral(L, "out of memory");
        return give_up(L, codec_id, base, ES_ERR_NOMEM);
    }
    lua_settop(L, base);
    return 0;
}

int es_custom_decode(lua_State *L, int codec_id, const uint8_t *p, size_t n, int *count)
{
    int base = lua_gettop(L);

    *count = 0;
    if (!lua_checkstack(L, 8)) {
        lua_pushliteral(L, "out of memory");
        return ES_ERR_NOMEM;
    }
    push_function(L, codec_id, 2);
    lua_pushlstring(L, n > 0 ? (const char *)p : "", n);
    if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK)
        return give_up(L, codec_id, base, ES_ERR_PROTOCOL);
    *count = lua_gettop(L) - base;
    if (*count >= 2 && lua_isnil(L, base + 1) && es_lua_is_error(L, base + 2)) {
        lua_settop(L, base + 2);
        return give_up(L, codec_id, base, ES_ERR_PROTOCOL);
    }
    if (*count > ES_CODEC_MAX_VALUES || !lua_checkstack(L, 8)) {
        lua_settop(L, base);
        lua_pushfstring(L, "decode gave more than %d values", ES_CODEC_MAX_VALUES);
        return give_up(L, codec_id, base, ES_ERR_LIMIT);
    }
    return 0;
}
