/* JSON (RFC 8259) between Lua values and bytes. The rules that it shares with MessagePack are in value.h.
 *
 * Integers are 64-bit and exact, floats keep a point or an exponent so that they stay floats. Refused in both
 * directions: strings that are not UTF-8, integers beyond 64 bits, numbers that are not finite, keys that are
 * not strings, keys that come twice. Written by hand (nothing but the buffer is touched), read by Jansson.
 *
 * The contracts are msgpack.h's, function by function: 0, or a negative enum es_err with the reason pushed.
 */
#ifndef ES_LUA_JSON_H
#define ES_LUA_JSON_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include "../base/buf.h"

int es_json_encode(lua_State *L, int first, int n, struct es_buf *out);
int es_json_decode(lua_State *L, const uint8_t *p, size_t n, int *count);
int es_json_pack(lua_State *L, int idx, struct es_buf *out);
int es_json_unpack(lua_State *L, const uint8_t *p, size_t n, size_t *used);

/* Registers the class of the boxes that keep Jansson's trees from leaking when Lua runs out of memory. */
void es_lua_open_json(lua_State *L);

#endif
