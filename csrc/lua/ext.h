/* MessagePack's extension types: values with a metatable that somebody registered, and timestamps.
 *
 * A type has a number from 0 to 127, the metatable of its values (of tables or userdata), and two Lua
 * functions: pack(value) gives the bytes, unpack(bytes) the value. They run protected; whatever they raise is
 * the reason of an error. Timestamps (type -1) are built in: tables { seconds, nanoseconds } with the
 * metatable "echostream.timestamp". Registrations are per Lua state. */
#ifndef ES_LUA_EXT_H
#define ES_LUA_EXT_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include "../base/buf.h"

/* 1: the value at idx is of the extension type *type. 0: of none. */
int es_ext_of(lua_State *L, int idx, int *type);
/* Appends the value, its head and its bytes; or 0 replaced by a negative enum es_err and the reason pushed.
 * Lua code may have run that used `out` for its own: it is kept aside meanwhile. */
int es_ext_pack(lua_State *L, int idx, int type, struct es_buf *out);
/* Pushes the value, or the reason with a negative enum es_err. Lua code may have run: p is not read after. */
int es_ext_unpack(lua_State *L, int type, const uint8_t *p, size_t n);

/* Turns the error value on top, whatever it is, into a string that is safe to use and to send. */
void es_ext_reason(lua_State *L);

/* Adds extend() and timestamp_mt to the module table at core_index. */
void es_lua_open_ext(lua_State *L, int core_index);

#endif
