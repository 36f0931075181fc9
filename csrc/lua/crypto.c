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

/* Pins at the top of the stack, a list of strings of 32 bytes, into memory that the stack keeps. */
static void read_pins(lua_State *L, struct es_tls_config *c)
{
    size_t n = lua_rawlen(L, -1);
    luaL_argcheck(L, n <= 64, 1, "pins: at most 64");
    uint8_t(*pins)[32] = lua_newuserdatauv(L, n * 32 + 1, 0);
    for (size_t i = 0; i < n; i++) {
        size_t len = 0;
        lua_rawgeti(L, -2, (lua_Integer)i + 1);
        const char *pin = lua_tolstring(L, -1, &len);
        if (!pin || len != 32)
            luaL_error(L, "pins: expected strings of 32 bytes");
        memcpy(pins[i], pin, 32);
        lua_pop(L, 1);
    }
    c->pins = (const uint8_t(*)[32])pins;
    c->n_pins = n;
}

/* The further certificates at the top of the stack, likewise: a list of { name, cert_file | cert_pem,
 * key_file | key_pem }. */
static void read_certs(lua_State *L, struct es_tls_config *c)
{
    static const char *const fields[] = {"name", "cert_file", "key_file", "cert_pem", "key_pem", NULL};
    int list = lua_gettop(L);
    size_t n = lua_rawlen(L, list);
    luaL_argcheck(L, n <= ES_TLS_CERTS_MAX, 1, "certs: at most 256");
    struct es_tls_cert *certs = lua_newuserdatauv(L, (n + 1) * sizeof *certs, 0);
    memset(certs, 0, (n + 1) * sizeof *certs);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        int at = lua_gettop(L);
        luaL_checktype(L, at, LUA_TTABLE);
        es_lua_check_fields(L, at, fields);
        es_lua_opt_string(L, at, "name", &certs[i].name, NULL);
        es_lua_opt_string(L, at, "cert_file", &certs[i].cert_file, NULL);
        es_lua_opt_string(L, at, "key_file", &certs[i].key_file, NULL);
        es_lua_opt_string(L, at, "cert_pem", &certs[i].cert_pem, NULL);
        es_lua_opt_string(L, at, "key_pem", &certs[i].key_pem, NULL);
        if (!certs[i].name || (!certs[i].cert_file && !certs[i].cert_pem))
            luaL_error(L, "certs: expected name, certificate and key");
        lua_settop(L, at - 1); /* the list keeps the strings */
    }
    c->more = certs;
    c->n_more = n;
}

static int core_tls(lua_State *L)
{
    static const char *const fields[] = {
        "server", "cert_file",   "key_file", "cert_pem", "key_pem", "trust",           "ca_file",
        "pins",   "server_name", "certs",    "priority", "keylog",  "client_optional", NULL};
    static const char *const trusts[] = {"none", "system", "ca", "pin", "skip", NULL};
    struct es_tls_config c;
    memset(&c, 0, sizeof c);
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    es_lua_check_fields(L, 1, fields);
    int trust = 0;
    es_lua_opt_boolean(L, 1, "server", &c.is_server);
    es_lua_opt_boolean(L, 1, "client_optional", &c.client_optional);
    es_lua_opt_string(L, 1, "cert_file", &c.cert_file, NULL);
    es_lua_opt_string(L, 1, "key_file", &c.key_file, NULL);
    es_lua_opt_string(L, 1, "cert_pem", &c.cert_pem, NULL);
    es_lua_opt_string(L, 1, "key_pem", &c.key_pem, NULL);
    es_lua_opt_choice(L, 1, "trust", trusts, &trust);
    es_lua_opt_string(L, 1, "ca_file", &c.ca_file, NULL);
    es_lua_opt_string(L, 1, "server_name", &c.server_name, NULL);
    es_lua_opt_string(L, 1, "priority", &c.priority, NULL);
    es_lua_opt_string(L, 1, "keylog", &c.keylog, NULL);
    c.trust = (enum es_trust)trust;
    struct es_tls **box = es_lua_new(L, TLS_MT, sizeof *box, 0);
    int tls = lua_gettop(L);
    if (es_lua_opt_push(L, 1, "pins", LUA_TTABLE))
        read_pins(L, &c);
    if (es_lua_opt_push(L, 1, "certs", LUA_TTABLE))
        read_certs(L, &c);
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

/* The list of names at idx; their strings stay with the list. Returns how many. */
static size_t read_names(lua_State *L, int idx, const char *names[64])
{
    size_t n = lua_rawlen(L, idx);
    luaL_argcheck(L, n >= 1 && n <= 64, idx, "1 to 64 names");
    for (size_t i = 0; i < n; i++) {
        if (lua_rawgeti(L, idx, (lua_Integer)i + 1) != LUA_TSTRING)
            luaL_argerror(L, idx, "names are strings");
        names[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    return n;
}

static int push_pem(lua_State *L, int rc, char *pem, const char *err)
{
    if (rc < 0)
        return es_lua_fail(L, rc, err[0] ? err : "certificate");
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
    size_t n = read_names(L, 2, names);
    char *pem = NULL, err[256] = "";
    int rc = es_cert_self_sign(key, names, n, (int)days, &pem, err, sizeof err);
    return push_pem(L, rc, pem, err);
}

static int core_cert_issue(lua_State *L)
{
    static const char *const fields[] = {"key",       "issuer_cert", "issuer_key", "names",     "not_before",
                                         "not_after", "servers",     "clients",    "authority", NULL};
    struct es_cert_order o;
    const char *names[64];
    int servers = 0, clients = 0;
    memset(&o, 0, sizeof o);
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    es_lua_check_fields(L, 1, fields);
    if (!es_lua_opt_string(L, 1, "key", &o.key_pem, NULL))
        return luaL_error(L, "cert_issue: key is missing");
    int issuer = es_lua_opt_string(L, 1, "issuer_cert", &o.issuer_cert, NULL);
    if (issuer != es_lua_opt_string(L, 1, "issuer_key", &o.issuer_key, NULL))
        return luaL_error(L, "cert_issue: issuer_cert and issuer_key belong together");
    lua_Integer from = 0, to = 0;
    if (!es_lua_opt_integer(L, 1, "not_before", 0, INT64_C(1) << 40, &from) ||
        !es_lua_opt_integer(L, 1, "not_after", 0, INT64_C(1) << 40, &to))
        return luaL_error(L, "cert_issue: not_before and not_after are seconds since 1970");
    o.not_before = from;
    o.not_after = to;
    es_lua_opt_boolean(L, 1, "servers", &servers);
    es_lua_opt_boolean(L, 1, "clients", &clients);
    es_lua_opt_boolean(L, 1, "authority", &o.authority);
    o.purposes = (servers ? ES_CERT_FOR_SERVERS : 0) | (clients ? ES_CERT_FOR_CLIENTS : 0);
    if (!es_lua_opt_push(L, 1, "names", LUA_TTABLE))
        return luaL_error(L, "cert_issue: names are missing");
    o.n_names = read_names(L, lua_gettop(L), names);
    o.names = names;
    char *pem = NULL, err[256] = "";
    int rc = es_cert_issue(&o, &pem, err, sizeof err);
    return push_pem(L, rc, pem, err);
}

static int core_cert_inspect(lua_State *L)
{
    const char *pem = luaL_checkstring(L, 1);
    struct es_cert_info *info = lua_newuserdatauv(L, sizeof *info, 0);
    int rc = es_cert_inspect(pem, info);
    if (rc < 0)
        return es_lua_fail(L, rc, "certificate");
    es_lua_push_cert(L, info);
    return 1;
}

/* same(given, secret) -> boolean, in a time that says nothing of where they differ: it depends on the length
 * of what was given alone. */
static int core_same(lua_State *L)
{
    size_t n, m;
    const char *given = luaL_checklstring(L, 1, &n), *secret = luaL_checklstring(L, 2, &m);
    volatile unsigned char different = n != m;

    for (size_t i = 0, at = 0; i < n && m > 0; i++) {
        different |= (unsigned char)(given[i] ^ secret[at]);
        if (++at == m)
            at = 0;
    }
    lua_pushboolean(L, different == 0);
    return 1;
}

void es_lua_open_crypto(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"pin", tls_pin}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", tls_gc}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"tls", core_tls},
                                         {"key_generate", core_key_generate},
                                         {"cert_self_sign", core_cert_self_sign},
                                         {"cert_issue", core_cert_issue},
                                         {"cert_inspect", core_cert_inspect},
                                         {"same", core_same},
                                         {NULL, NULL}};
    es_lua_class(L, TLS_MT, methods, meta);
    lua_pushvalue(L, core);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
