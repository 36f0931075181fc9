/* core.hmac_sha256(key, text) -> 32 bytes; the module's table gets it in its opener. */
#ifndef ET_LUA_HMAC_H
#define ET_LUA_HMAC_H

#include <lua.h>

int et_lua_hmac_sha256(lua_State *L);

#endif
