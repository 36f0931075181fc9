/* core.regex: regular expressions for rules. */
#ifndef ET_LUA_REGEX_H
#define ET_LUA_REGEX_H

#include <lua.h>

/* Makes the class, and puts the function `regex` into the table at the top of the stack. */
void et_lua_open_regex(lua_State *L);

#endif
