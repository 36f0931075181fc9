/* core.sha256 and core.pbkdf2_sha256. */
#ifndef ET_LUA_DIGEST_H
#define ET_LUA_DIGEST_H

#include <lua.h>

/* Puts the functions into the table at the top of the stack. */
void et_lua_open_digest(lua_State *L);

#endif
