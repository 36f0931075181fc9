/* Digests of secrets in Lua. */
#include "digest.h"
#include <lauxlib.h>
#include "../net/digest.h"

static int pushed(lua_State *L, int rv, const uint8_t digest[32])
{
    if (rv < 0)
        return luaL_error(L,
                          "the digest cannot be made"); /* of the library's, and nothing a caller could do */
    lua_pushlstring(L, (const char *)digest, 32);
    return 1;
}

/* sha256(text) -> 32 bytes */
static int core_sha256(lua_State *L)
{
    size_t n = 0;
    const char *p = luaL_checklstring(L, 1, &n);
    uint8_t digest[32];
    return pushed(L, et_digest_sha256(p, n, digest), digest);
}

/* pbkdf2_sha256(password, salt, rounds) -> 32 bytes */
static int core_pbkdf2(lua_State *L)
{
    size_t n = 0, salt_n = 0;
    const char *password = luaL_checklstring(L, 1, &n);
    const char *salt = luaL_checklstring(L, 2, &salt_n);
    lua_Integer rounds = luaL_checkinteger(L, 3);
    luaL_argcheck(L, n <= 65536, 1, "longer than 64 KiB");
    luaL_argcheck(L, salt_n <= 65536, 2, "longer than 64 KiB");
    luaL_argcheck(L, rounds >= 1 && rounds <= 10000000, 3, "expected 1 to 10,000,000 rounds");
    uint8_t digest[32];
    return pushed(L, et_digest_pbkdf2(password, n, salt, salt_n, (unsigned)rounds, digest), digest);
}

void et_lua_open_digest(lua_State *L)
{
    lua_pushcfunction(L, core_sha256);
    lua_setfield(L, -2, "sha256");
    lua_pushcfunction(L, core_pbkdf2);
    lua_setfield(L, -2, "pbkdf2_sha256");
}
