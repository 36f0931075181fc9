/* TLS contexts, keys and certificates in Lua. */
#include "binding.h"
#include <string.h>
#include "../base/mem.h"
#include "errors.h"
#include "luaaux.h"

#define TLS_MT "echostream.tls"

struct es_tls *es_lua_check_tls(lua_State *L, int idx)
{
    struct es_tls **box = luaL_checkudata(L, idx, TLS_MT);
    return *box;
}

static int tls_gc(lua_State *L)
{
    struct es_tls **box = luaL_checkudata(L, 1, TLS_MT);
    if (*box)
        es_tls_unref(*box);
    *box = NULL;
    return 0;
}

static int core_tls(lua_State *L)
{
    static const char *const fields[] = {"server", "cert_file", "key_file", "cert_pem",    "key_pem",
                                         "trust",  "ca_file",   "pins",     "server_name", NULL};
    static const char *const trusts[] = {"none", "system", "ca", "pin", "skip", NULL};
    struct es_tls_config c;
    memset(&c, 0, sizeof c);
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    es_lua_check_fields(L, 1, fields);
    int trust = 0;
    es_lua_opt_boolean(L, 1, "server", &c.is_server);
    es_lua_opt_string(L, 1, "cert_file", &c.cert_file, NULL);
    es_lua_opt_string(L, 1, "key_file", &c.key_file, NULL);
    es_lua_opt_string(L, 1, "cert_pem", &c.cert_pem, NULL);
    es_lua_opt_string(L, 1, "key_pem", &c.key_pem, NULL);
    es_lua_opt_choice(L, 1, "trust", trusts, &trust);
    es_lua_opt_string(L, 1, "ca_file", &c.ca_file, NULL);
    es_lua_opt_string(L, 1, "server_name", &c.server_name, NULL);
    c.trust = (enum es_trust)trust;
    struct es_tls **box = es_lua_new(L, TLS_MT, sizeof *box, 0);
    int tls = lua_gettop(L);
    if (es_lua_opt_push(L, 1, "pins", LUA_TTABLE)) {
        size_t n = lua_rawlen(L, -1);
        luaL_argcheck(L, n <= 64, 1, "pins: at most 64");
        uint8_t(*pins)[32] = lua_newuserdatauv(L, n * 32 + 1, 0);
        for (size_t i = 0; i < n; i++) {
            size_t len = 0;
            lua_rawgeti(L, -2, (lua_Integer)i + 1);
            const char *pin = lua_tolstring(L, -1, &len);
            if (!pin || len != 32)
                return luaL_error(L, "pins: expected strings of 32 bytes");
            memcpy(pins[i], pin, 32);
            lua_pop(L, 1);
        }
        c.pins = (const uint8_t(*)[32])pins;
        c.n_pins = n;
    }
    char err[256] = "";
    int rc = es_tls_new(box, &c, err, sizeof err);
    if (rc < 0) {
        lua_pushnil(L);
        es_lua_push_error(L,
                          rc == ES_ERR_INVAL ? "invalid_argument"
                          : rc == ES_ERR_IO  ? "io"
                                             : "unavailable",
                          "%s", err[0] ? err : es_strerror(rc));
        return 2;
    }
    lua_settop(L, tls);
    return 1;
}

static int tls_pin(lua_State *L)
{
    uint8_t spki[32], der[32];
    if (es_tls_pin(es_lua_check_tls(L, 1), spki, der) < 0) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushlstring(L, (char *)spki, 32);
    lua_pushlstring(L, (char *)der, 32);
    return 2;
}

static int core_key_generate(lua_State *L)
{
    char *pem = NULL;
    int rc = es_key_generate(&pem);
    if (rc < 0)
        return es_lua_fail(L, rc, "key");
    lua_pushstring(L, pem);
    es_free(pem);
    return 1;
}

static int core_cert_self_sign(lua_State *L)
{
    const char *key = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer days = luaL_checkinteger(L, 3);
    luaL_argcheck(L, days >= 1 && days <= 36500, 3, "1 to 36500 days");
    const char *names[64];
    size_t n = lua_rawlen(L, 2);
    luaL_argcheck(L, n >= 1 && n <= 64, 2, "1 to 64 names");
    luaL_checkstack(L, (int)n, NULL);
    for (size_t i = 0; i < n; i++) {
        if (lua_rawgeti(L, 2, (lua_Integer)i + 1) != LUA_TSTRING)
            return luaL_argerror(L, 2, "names are strings");
        names[i] = lua_tostring(L, -1);
    }
    char *pem = NULL, err[256] = "";
    int rc = es_cert_self_sign(key, names, n, (int)days, &pem, err, sizeof err);
    if (rc < 0)
        return es_lua_fail(L, rc, err[0] ? err : "certificate");
    lua_pushstring(L, pem);
    es_free(pem);
    return 1;
}

static int core_cert_inspect(lua_State *L)
{
    struct es_cert_info info;
    int rc = es_cert_inspect(luaL_checkstring(L, 1), &info);
    if (rc < 0)
        return es_lua_fail(L, rc, "certificate");
    lua_createtable(L, 0, 5);
    lua_pushlstring(L, (char *)info.spki, 32);
    lua_setfield(L, -2, "spki");
    lua_pushlstring(L, (char *)info.der, 32);
    lua_setfield(L, -2, "der");
    lua_pushinteger(L, info.not_before);
    lua_setfield(L, -2, "not_before");
    lua_pushinteger(L, info.not_after);
    lua_setfield(L, -2, "not_after");
    lua_pushstring(L, info.subject);
    lua_setfield(L, -2, "subject");
    return 1;
}

void es_lua_open_crypto(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"pin", tls_pin}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", tls_gc}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"tls", core_tls},
                                         {"key_generate", core_key_generate},
                                         {"cert_self_sign", core_cert_self_sign},
                                         {"cert_inspect", core_cert_inspect},
                                         {NULL, NULL}};
    es_lua_class(L, TLS_MT, methods, meta);
    lua_pushvalue(L, core);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
