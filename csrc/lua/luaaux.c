#include "luaaux.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "../base/timer.h"
#include "errors.h"

void es_lua_check_options(lua_State *L, int idx, const char *what)
{
    int t = lua_type(L, idx);
    if (t != LUA_TTABLE && t != LUA_TNIL && t != LUA_TNONE)
        luaL_error(L, "%s: expected a table of options, got %s", what, luaL_typename(L, idx));
}

int es_lua_opt_error(lua_State *L, const char *name, const char *want, int idx)
{
    return luaL_error(L, "%s: expected %s, got %s", name, want, luaL_typename(L, idx));
}

void es_lua_check_fields(lua_State *L, int idx, const char *const *names)
{
    if (lua_type(L, idx) != LUA_TTABLE)
        return;
    idx = lua_absindex(L, idx);
    luaL_checkstack(L, 4, NULL);
    for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            luaL_error(L, "unknown option: a key of type %s", luaL_typename(L, -2));
        const char *key = lua_tostring(L, -2);
        const char *const *n = names;
        while (*n != NULL && strcmp(*n, key) != 0)
            n++;
        if (*n == NULL)
            luaL_error(L, "unknown option '%s'", key);
    }
}

/* Pushes the field; 0 and nothing pushed when there is none. */
static int push_field(lua_State *L, int idx, const char *name)
{
    if (lua_type(L, idx) != LUA_TTABLE)
        return 0;
    luaL_checkstack(L, 3, NULL);
    if (lua_getfield(L, idx, name) != LUA_TNIL)
        return 1;
    lua_pop(L, 1);
    return 0;
}

int es_lua_opt_seconds(lua_State *L, int idx, const char *name, uint64_t *ns)
{
    if (!push_field(L, idx, name))
        return 0;
    if (lua_type(L, -1) != LUA_TNUMBER)
        return es_lua_opt_error(L, name, "a number of seconds", -1);
    lua_Number v = lua_tonumber(L, -1);
    if (!(v >= 0))
        return luaL_error(L, "%s: expected a number of seconds from 0 up, got %f", name, v);
    *ns = es_lua_to_ns(v);
    lua_pop(L, 1);
    return 1;
}

int es_lua_opt_integer(lua_State *L, int idx, const char *name, lua_Integer lo, lua_Integer hi,
                       lua_Integer *out)
{
    if (!push_field(L, idx, name))
        return 0;
    int is_int = 0;
    lua_Integer v = 0;
    if (lua_type(L, -1) == LUA_TNUMBER)
        v = lua_tointegerx(L, -1, &is_int);
    if (!is_int)
        return es_lua_opt_error(L, name, "an integer", -1);
    if (v < lo || v > hi)
        return luaL_error(L, "%s: expected an integer from %I to %I, got %I", name, (LUAI_UACINT)lo,
                          (LUAI_UACINT)hi, (LUAI_UACINT)v);
    *out = v;
    lua_pop(L, 1);
    return 1;
}

int es_lua_opt_number(lua_State *L, int idx, const char *name, double lo, double hi, double *out)
{
    if (!push_field(L, idx, name))
        return 0;
    if (lua_type(L, -1) != LUA_TNUMBER)
        return es_lua_opt_error(L, name, "a number", -1);
    double v = lua_tonumber(L, -1);
    if (!(v >= lo && v <= hi))
        return luaL_error(L, "%s: expected a number from %f to %f, got %f", name, lo, hi, v);
    *out = v;
    lua_pop(L, 1);
    return 1;
}

int es_lua_opt_boolean(lua_State *L, int idx, const char *name, int *out)
{
    if (!push_field(L, idx, name))
        return 0;
    if (lua_type(L, -1) != LUA_TBOOLEAN)
        return es_lua_opt_error(L, name, "a boolean", -1);
    *out = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return 1;
}

const char *es_lua_check_text(lua_State *L, int arg, size_t *len)
{
    luaL_checktype(L, arg, LUA_TSTRING);
    return lua_tolstring(L, arg, len);
}

static const char home_key = 0; /* its address is the registry's key */

void es_lua_set_home(lua_State *L, int idx)
{
    lua_pushvalue(L, idx);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &home_key);
}

int es_lua_misuse(lua_State *L, const char *fmt, ...)
{
    lua_Debug ar;
    va_list args;
    const char *home;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &home_key);
    home = lua_tostring(L, -1);
    lua_pushliteral(L, "");
    for (int level = 1; lua_getstack(L, level, &ar); level++) {
        if (!lua_getinfo(L, "Sl", &ar) || ar.currentline <= 0)
            continue;
        if (home && strncmp(ar.source, home, strlen(home)) == 0)
            continue;
        lua_pop(L, 1);
        lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
        break;
    }
    va_start(args, fmt);
    lua_pushvfstring(L, fmt, args);
    va_end(args);
    lua_concat(L, 2);
    return lua_error(L);
}

const char *es_lua_users_text(lua_State *L, int arg, const char *where, const char *what, size_t *len)
{
    if (lua_type(L, arg) != LUA_TSTRING)
        es_lua_misuse(L, "%s: %s wants a string, got %s", where, what, luaL_typename(L, arg));
    return lua_tolstring(L, arg, len);
}

int es_lua_wrong_name(lua_State *L, const char *where, const char *what, const char *name, size_t len)
{
    char shown[49], size[40] = "";
    size_t n = len < sizeof shown - 1 ? len : sizeof shown - 1;
    for (size_t i = 0; i < n; i++)
        shown[i] = name[i] < 0x20 || name[i] > 0x7e ? '?' : name[i];
    shown[n] = '\0';
    if (n < len)
        snprintf(size, sizeof size, "... (%zu bytes)", len);
    return es_lua_misuse(L, "%s: %s is 1 to 256 bytes of A-Z a-z 0-9 . _ / : -, got '%s'%s", where, what,
                         shown, size);
}

int es_lua_opt_string(lua_State *L, int idx, const char *name, const char **out, size_t *len)
{
    if (!push_field(L, idx, name))
        return 0;
    if (lua_type(L, -1) != LUA_TSTRING) /* a number would be converted in place and die with the pop */
        return es_lua_opt_error(L, name, "a string", -1);
    *out = lua_tolstring(L, -1, len);
    lua_pop(L, 1);
    return 1;
}

int es_lua_opt_choice(lua_State *L, int idx, const char *name, const char *const *choices, int *out)
{
    const char *s;
    if (!es_lua_opt_string(L, idx, name, &s, NULL))
        return 0;
    for (int i = 0; choices[i] != NULL; i++) {
        if (strcmp(choices[i], s) == 0) {
            *out = i;
            return 1;
        }
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int i = 0; choices[i] != NULL; i++) {
        if (i > 0)
            luaL_addstring(&b, ", ");
        luaL_addstring(&b, choices[i]);
    }
    luaL_pushresult(&b);
    return luaL_error(L, "%s: expected one of %s, got '%s'", name, lua_tostring(L, -1), s);
}

int es_lua_opt_push(lua_State *L, int idx, const char *name, int type)
{
    if (!push_field(L, idx, name))
        return 0;
    if (lua_type(L, -1) != type) {
        const char *want = lua_typename(L, type);
        lua_pushfstring(L, "a%s %s", strchr("aeiou", want[0]) != NULL ? "n" : "", want);
        return es_lua_opt_error(L, name, lua_tostring(L, -1), -2);
    }
    return 1;
}

int es_lua_rawfield(lua_State *L, int idx, const char *name)
{
    idx = lua_absindex(L, idx);
    lua_pushstring(L, name);
    return lua_rawget(L, idx);
}

uint64_t es_lua_to_ns(lua_Number seconds)
{
    if (!(seconds > 0))
        return 0;
    lua_Number ns = seconds * 1e9;
    /* 2^63 is far beyond any uptime, and below it the conversion is exact enough and never undefined */
    return ns >= 9223372036854775808.0 ? ES_NEVER - 1 : (uint64_t)llround(ns);
}

uint64_t es_lua_check_seconds(lua_State *L, int arg, const char *what)
{
    if (lua_type(L, arg) != LUA_TNUMBER)
        luaL_error(L, "%s: expected a number of seconds, got %s", what, luaL_typename(L, arg));
    lua_Number v = lua_tonumber(L, arg);
    if (!(v >= 0))
        luaL_error(L, "%s: expected a number of seconds from 0 up, got %f", what, v);
    return es_lua_to_ns(v);
}

void es_lua_push_seconds(lua_State *L, uint64_t ns)
{
    lua_pushnumber(L, (lua_Number)ns / 1e9);
}

void es_lua_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *metamethods)
{
    luaL_checkstack(L, 4, NULL);
    if (luaL_newmetatable(L, name)) {
        if (metamethods != NULL)
            luaL_setfuncs(L, metamethods, 0);
        lua_pushstring(L, name);
        lua_setfield(L, -2, "__metatable");
        lua_newtable(L);
        if (methods != NULL)
            luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
}

void *es_lua_new(lua_State *L, const char *name, size_t size, int user_values)
{
    luaL_checkstack(L, 3, NULL);
    void *ud = lua_newuserdatauv(L, size, user_values);
    memset(ud, 0, size);
    luaL_setmetatable(L, name);
    return ud;
}

int es_lua_set_notify(lua_State *L)
{
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

int es_lua_closed(lua_State *L, const char *what)
{
    lua_pushnil(L);
    es_lua_push_error(L, "connection_closed", "the %s is closed", what);
    return 2;
}

void es_lua_registry_table(lua_State *L, const void *key, const char *mode)
{
    luaL_checkstack(L, 4, NULL);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, key) == LUA_TTABLE)
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    if (mode != NULL) {
        lua_createtable(L, 0, 1);
        lua_pushstring(L, mode);
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
    }
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}
