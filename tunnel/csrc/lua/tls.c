#include <string.h>
#include "binding.h"

#define CERTS_MAX 1024
#define NAMES_MAX 256

struct et_tls_server *et_lua_tls_server(lua_State *L, int idx)
{
    return lua_isnoneornil(L, idx) ? NULL
                                   : *(struct et_tls_server **)luaL_checkudata(L, idx, ET_LUA_TLS_SERVER);
}

struct et_tls_client *et_lua_tls_client(lua_State *L, int idx)
{
    return lua_isnoneornil(L, idx) ? NULL
                                   : *(struct et_tls_client **)luaL_checkudata(L, idx, ET_LUA_TLS_CLIENT);
}

/* A NULL-terminated list of the strings in the table on top, in a userdata that is pushed; NULL when nil is
 * there (nothing useful is pushed then). The strings live as long as their table. */
static const char **strings(lua_State *L, const char *what)
{
    int t = lua_gettop(L);
    lua_Integer n;
    const char **list;

    if (lua_isnil(L, t)) {
        lua_pushnil(L);
        return NULL;
    }
    luaL_checktype(L, t, LUA_TTABLE);
    n = (lua_Integer)lua_rawlen(L, t);
    if (n > NAMES_MAX) {
        luaL_error(L, "%s: too many", what);
    }
    list = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *list, 0);
    for (lua_Integer i = 0; i < n; i++) {
        if (lua_rawgeti(L, t, i + 1) != LUA_TSTRING) {
            luaL_error(L, "%s: expected a list of strings", what);
        }
        list[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    list[n] = NULL;
    return list;
}

/* The certificates in the table at t, in a userdata that is pushed, with what its pointers live in. */
static struct et_tls_cert *certificates(lua_State *L, int t, size_t *n)
{
    struct et_tls_cert *c;
    int keep;

    luaL_checktype(L, t, LUA_TTABLE);
    *n = lua_rawlen(L, t);
    if (*n > CERTS_MAX) {
        luaL_error(L, "certs: at most %d", CERTS_MAX);
    }
    lua_newtable(L);
    keep = lua_gettop(L);
    c = lua_newuserdatauv(L, (*n + 1) * sizeof *c, 0);
    for (size_t i = 0; i < *n; i++) {
        int one;
        lua_rawgeti(L, t, (lua_Integer)i + 1);
        one = lua_gettop(L);
        luaL_checktype(L, one, LUA_TTABLE);
        c[i].cert_pem = et_opt_string(L, one, "cert");
        c[i].key_pem = et_opt_string(L, one, "key");
        if (c[i].cert_pem == NULL || c[i].key_pem == NULL) {
            luaL_error(L, "certs[%d]: wants cert and key, PEM texts", (int)i + 1);
        }
        lua_getfield(L, one, "names");
        c[i].names = strings(L, "names");
        lua_rawseti(L, keep, (lua_Integer)i + 1);
        lua_settop(L, one - 1);
    }
    return c;
}

int et_lua_new_tls_server(lua_State *L)
{
    struct et_tls_server **to;
    struct et_tls_cert *certs;
    const char **alpn;
    char reason[256] = "";
    size_t n;
    int rv;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    to = lua_newuserdatauv(L, sizeof *to, 0);
    *to = NULL;
    luaL_setmetatable(L, ET_LUA_TLS_SERVER);
    lua_getfield(L, 1, "certs");
    certs = certificates(L, 3, &n);
    lua_getfield(L, 1, "alpn");
    alpn = strings(L, "alpn");
    rv = et_tls_server_new(certs, n, alpn, et_opt_boolean(L, 1, "strict", 0), to, reason, sizeof reason);
    if (rv != 0) {
        return et_lua_fail(L, rv == ES_ERR_TLS ? ES_ERR_INVAL : rv, reason);
    }
    lua_pushvalue(L, 2);
    return 1;
}

static int swap(lua_State *L)
{
    struct et_tls_server *t = *(struct et_tls_server **)luaL_checkudata(L, 1, ET_LUA_TLS_SERVER);
    char reason[256] = "";
    size_t n;
    struct et_tls_cert *certs;
    int rv;

    lua_settop(L, 2);
    certs = certificates(L, 2, &n);
    rv = et_tls_server_swap(t, certs, n, reason, sizeof reason);
    if (rv != 0) {
        return et_lua_fail(L, rv == ES_ERR_TLS ? ES_ERR_INVAL : rv, reason);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int gc_server(lua_State *L)
{
    struct et_tls_server **t = luaL_checkudata(L, 1, ET_LUA_TLS_SERVER);

    et_tls_server_unref(*t);
    *t = NULL;
    return 0;
}

int et_lua_new_tls_client(lua_State *L)
{
    struct et_tls_client **to;
    const char **alpn;
    char reason[256] = "";
    int rv;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    to = lua_newuserdatauv(L, sizeof *to, 0);
    *to = NULL;
    luaL_setmetatable(L, ET_LUA_TLS_CLIENT);
    lua_getfield(L, 1, "alpn");
    alpn = strings(L, "alpn");
    rv = et_tls_client_new(et_opt_string(L, 1, "ca"), et_opt_string(L, 1, "pin"),
                           et_opt_boolean(L, 1, "verify", 1), et_opt_string(L, 1, "cert"),
                           et_opt_string(L, 1, "key"), alpn, to, reason, sizeof reason);
    if (rv != 0) {
        return et_lua_fail(L, rv == ES_ERR_TLS ? ES_ERR_INVAL : rv, reason);
    }
    lua_pushvalue(L, 2);
    return 1;
}

static int gc_client(lua_State *L)
{
    struct et_tls_client **t = luaL_checkudata(L, 1, ET_LUA_TLS_CLIENT);

    et_tls_client_unref(*t);
    *t = NULL;
    return 0;
}

void et_lua_open_tls(lua_State *L)
{
    static const luaL_Reg server[] = {{"swap", swap}, {NULL, NULL}}, none[] = {{NULL, NULL}};
    static const luaL_Reg server_meta[] = {{"__gc", gc_server}, {NULL, NULL}};
    static const luaL_Reg client_meta[] = {{"__gc", gc_client}, {NULL, NULL}};

    et_lua_class(L, ET_LUA_TLS_SERVER, server, server_meta);
    et_lua_class(L, ET_LUA_TLS_CLIENT, none, client_meta);
}
