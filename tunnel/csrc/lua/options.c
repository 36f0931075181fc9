#include <math.h>
#include <string.h>
#include "../../../csrc/base/timer.h"
#include "binding.h"

void et_lua_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta)
{
    if (luaL_newmetatable(L, name)) {
        lua_pushstring(L, name);
        lua_setfield(L, -2, "__metatable"); /* nobody takes it to call __gc on something else */
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
        luaL_setfuncs(L, meta, 0);
    }
    lua_pop(L, 1);
}

static int wrong(lua_State *L, const char *name, const char *want)
{
    return luaL_error(L, "%s: expected %s, got %s", name, want, luaL_typename(L, -1));
}

const char *et_opt_string(lua_State *L, int idx, const char *name)
{
    const char *s = NULL;

    if (lua_getfield(L, idx, name) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TSTRING) {
            wrong(L, name, "a string");
        }
        s = lua_tostring(L, -1);
        if (strlen(s) != lua_rawlen(L, -1)) {
            luaL_error(L, "%s: there is a zero byte in it", name);
        }
    }
    lua_pop(L, 1);
    return s;
}

lua_Integer et_opt_integer(lua_State *L, int idx, const char *name, lua_Integer otherwise, lua_Integer lo,
                           lua_Integer hi)
{
    int ok = 1;

    if (lua_getfield(L, idx, name) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TNUMBER) {
            wrong(L, name, "an integer");
        }
        otherwise = lua_tointegerx(L, -1, &ok);
        if (!ok || otherwise < lo || otherwise > hi) {
            luaL_error(L, "%s: expected an integer from %I to %I", name, (LUAI_UACINT)lo, (LUAI_UACINT)hi);
        }
    }
    lua_pop(L, 1);
    return otherwise;
}

int et_opt_boolean(lua_State *L, int idx, const char *name, int otherwise)
{
    if (lua_getfield(L, idx, name) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TBOOLEAN) {
            wrong(L, name, "a boolean");
        }
        otherwise = lua_toboolean(L, -1);
    }
    lua_pop(L, 1);
    return otherwise;
}

uint64_t et_opt_seconds(lua_State *L, int idx, const char *name, uint64_t otherwise)
{
    if (lua_getfield(L, idx, name) != LUA_TNIL) {
        lua_Number v = lua_tonumber(L, -1);
        if (lua_type(L, -1) != LUA_TNUMBER || !(v >= 0)) {
            wrong(L, name, "a number of seconds from 0 up");
        }
        otherwise = v >= 4e9 ? (uint64_t)4e18 : (uint64_t)llround(v * 1e9);
    }
    lua_pop(L, 1);
    return otherwise;
}

void et_opt_limits(lua_State *L, int idx, struct et_http_limits *out)
{
    memset(out, 0, sizeof *out);
    if (lua_getfield(L, idx, "limits") != LUA_TNIL) {
        int t = lua_gettop(L);
        lua_Integer most = (lua_Integer)1 << 40;
        luaL_checktype(L, t, LUA_TTABLE);
        out->head_bytes = (size_t)et_opt_integer(L, t, "head_bytes", 0, 0, (lua_Integer)ET_HEAD_MAX_BYTES);
        out->head_fields = (size_t)et_opt_integer(L, t, "head_fields", 0, 0, ET_HEAD_MAX_FIELDS);
        out->target_bytes =
            (size_t)et_opt_integer(L, t, "target_bytes", 0, 0, (lua_Integer)ET_HEAD_MAX_BYTES);
        out->head_timeout = et_opt_seconds(L, t, "head_timeout", 0);
        out->idle_timeout = et_opt_seconds(L, t, "idle_timeout", 0);
        out->body_timeout = et_opt_seconds(L, t, "body_timeout", 0);
        out->min_body_rate = (uint64_t)et_opt_integer(L, t, "min_body_rate", 0, 0, most);
        out->max_streams = (uint32_t)et_opt_integer(L, t, "max_streams", 0, 0, 1 << 20);
        out->max_requests = (uint32_t)et_opt_integer(L, t, "max_requests", 0, 0, UINT32_MAX);
        out->ping_interval = et_opt_seconds(L, t, "ping_interval", 0);
        out->ping_timeout = et_opt_seconds(L, t, "ping_timeout", 0);
    }
    lua_pop(L, 1);
}
