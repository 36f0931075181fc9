/* Error objects are those of echostream.errors, made by its own constructor. */
#include <stdarg.h>
#include "binding.h"

static const char constructor = 0; /* its address is the registry's key */

void et_lua_push_error(lua_State *L, const char *code, const char *fmt, ...)
{
    va_list ap;

    luaL_checkstack(L, 6, NULL);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &constructor);
    lua_pushstring(L, code);
    va_start(ap, fmt);
    lua_pushvfstring(L, fmt, ap);
    va_end(ap);
    lua_call(L, 2, 1);
}

void et_lua_push_es_err(lua_State *L, int err, const char *what)
{
    if (what != NULL && what[0] != '\0') {
        et_lua_push_error(L, es_err_code(err), "%s", what);
    } else {
        et_lua_push_error(L, es_err_code(err), "%s", es_strerror(err));
    }
}

int et_lua_fail(lua_State *L, int err, const char *what)
{
    lua_pushnil(L);
    et_lua_push_es_err(L, err, what);
    return 2;
}

void et_lua_open_errors(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "echostream.errors");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "new");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &constructor);
    lua_pop(L, 1);
}
