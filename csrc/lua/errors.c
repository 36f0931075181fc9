#include "errors.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <string.h>
#include "../session/session.h"
#include "luaaux.h"

static const char *processed_text(int processed)
{
    switch (processed) {
    case ES_PROCESSED_NO:
        return "no";
    case ES_PROCESSED_YES:
        return "yes";
    default: /* a number from a newer peer: the careful reading */
        return "maybe";
    }
}

/* [.. message] -> [.. error]: wraps the string on top. */
static void wrap_message(lua_State *L, const char *code, size_t code_len, int processed)
{
    lua_createtable(L, 0, 4);
    lua_insert(L, -2);
    lua_setfield(L, -2, "message");
    lua_pushlstring(L, code, code_len);
    lua_setfield(L, -2, "code");
    lua_pushstring(L, processed_text(processed));
    lua_setfield(L, -2, "processed");
    luaL_setmetatable(L, ES_LUA_ERROR);
}

void es_lua_push_error(lua_State *L, const char *code, const char *fmt_message, ...)
{
    luaL_checkstack(L, 4, "error object");
    va_list ap;
    va_start(ap, fmt_message);
    lua_pushvfstring(L, fmt_message, ap);
    va_end(ap);
    wrap_message(L, code, strlen(code), ES_PROCESSED_NO);
}

void es_lua_push_failure(lua_State *L, const char *code, size_t code_len, const char *message,
                         size_t message_len, int processed, uint64_t retry_after_ms, int details_index)
{
    luaL_checkstack(L, 4, "error object");
    lua_pushlstring(L, message, message_len);
    wrap_message(L, code, code_len, processed);
    if (retry_after_ms > 0) {
        lua_pushnumber(L, (lua_Number)retry_after_ms / 1000.0);
        lua_setfield(L, -2, "retry_after");
    }
    if (details_index != 0) {
        lua_pushvalue(L, details_index);
        lua_setfield(L, -2, "details");
    }
}

void es_lua_push_es_err(lua_State *L, int err, const char *what)
{
    if (what != NULL)
        es_lua_push_error(L, es_err_code(err), "%s: %s", what, es_strerror(err));
    else
        es_lua_push_error(L, es_err_code(err), "%s", es_strerror(err));
}

int es_lua_fail(lua_State *L, int err, const char *what)
{
    lua_pushnil(L);
    es_lua_push_es_err(L, err, what);
    return 2;
}

const char *es_lua_close_cause(int cause)
{
    static const char *const text[] = {"error", "local", "peer", "idle", "reset", "handshake", "error"};
    return cause > 0 && (size_t)cause < sizeof text / sizeof text[0] ? text[cause] : "error";
}

static void push_close_message(lua_State *L, const struct es_close_info *info)
{
    const char *code = "connection_closed";
    const char *text = "the connection was closed";

    switch (info->cause) {
    case ES_CLOSE_LOCAL:
        text = "the connection was closed here";
        break;
    case ES_CLOSE_PEER:
        text = "the peer closed the connection";
        break;
    case ES_CLOSE_IDLE:
        text = "the connection was idle for too long";
        break;
    case ES_CLOSE_RESET:
        text = "the peer lost the connection's state (stateless reset)";
        break;
    case ES_CLOSE_HANDSHAKE:
        /* nobody was connected yet, so "connection_closed" would mislead */
        code = info->err == ES_ERR_CLOSED ? "unavailable" : es_err_code(info->err);
        text = "the handshake failed";
        break;
    case ES_CLOSE_ERROR:
        code = es_err_code(info->err);
        text = "the connection failed";
        break;
    }
    if (es_close_is_certificate(info))
        code = "unauthenticated";
    if (info->reason[0] != '\0')
        es_lua_push_error(L, code, "%s: %s", text, info->reason);
    else if (info->code != 0)
        es_lua_push_error(L, code, "%s (%s error %I)", text, info->app ? "application" : "transport",
                          (LUAI_UACINT)info->code);
    else
        es_lua_push_error(L, code, "%s", text);
}

void es_lua_push_close_err(lua_State *L, const struct es_close_info *info)
{
    const char *message;
    size_t n;

    if (es_session_refusal(info, &n, &message))
        es_lua_push_failure(L, info->reason, n, message, strlen(message), ES_PROCESSED_NO, 0, 0);
    else
        push_close_message(L, info);
    lua_createtable(L, 0, 3);
    lua_pushstring(L, es_lua_close_cause((int)info->cause));
    lua_setfield(L, -2, "cause");
    lua_pushboolean(L, info->app);
    lua_setfield(L, -2, "app");
    lua_pushinteger(L, (lua_Integer)info->code);
    lua_setfield(L, -2, "code");
    lua_setfield(L, -2, "details");
}

int es_lua_is_error(lua_State *L, int idx)
{
    if (lua_type(L, idx) != LUA_TTABLE)
        return 0;
    luaL_checkstack(L, 2, "error object");
    if (!lua_getmetatable(L, idx))
        return 0;
    luaL_getmetatable(L, ES_LUA_ERROR);
    int same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

/* Users may change the fields, so nothing is taken for granted here. */
static int error_tostring(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TTABLE) { /* called by hand, on something else */
        lua_pushliteral(L, "echostream.error");
        return 1;
    }
    lua_settop(L, 1);
    lua_pushliteral(L, "code");
    lua_rawget(L, 1);
    lua_pushliteral(L, "message");
    lua_rawget(L, 1);
    const char *code = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "unknown";
    const char *message = lua_isstring(L, 3) ? lua_tostring(L, 3) : "";
    lua_pushfstring(L, "%s: %s", code, message);
    return 1;
}

void es_lua_open_errors(lua_State *L, int core_index)
{
    if (luaL_newmetatable(L, ES_LUA_ERROR)) { /* sets __name */
        lua_pushcfunction(L, error_tostring);
        lua_setfield(L, -2, "__tostring");
    }
    lua_setfield(L, core_index, "error_mt");
}
