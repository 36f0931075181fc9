/* core.frame: the frames of docs/PROTOCOL.md as Lua tables, for tools, tests and prototypes. Calls do not
 * pass here. */
#ifndef ES_LUA_FRAME_H
#define ES_LUA_FRAME_H

#include <lua.h>

/* Adds field frame to the module table at core_index. Run es_lua_open_errors first. */
void es_lua_open_frame(lua_State *L, int core_index);

#endif
