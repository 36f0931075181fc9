#include "hmac.h"
#include <lauxlib.h>
#include "../net/hmac.h"

int et_lua_hmac_sha256(lua_State *L)
{
    size_t key_n, n;
    const char *key = luaL_checklstring(L, 1, &key_n);
    const char *text = luaL_checklstring(L, 2, &n);
    uint8_t out[32];

    if (et_hmac_sha256(key, key_n, text, n, out) < 0)
        return luaL_error(L, "hmac_sha256: the library refuses");
    lua_pushlstring(L, (const char *)out, sizeof out);
    return 1;
}
