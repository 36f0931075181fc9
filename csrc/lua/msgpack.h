/* MessagePack straight between Lua values and bytes (github.com/msgpack/msgpack, spec.md). The rules that it
 * shares with JSON are in value.h.
 *
 * Strings are bytes: encoded as str whatever they hold, decoded from str and bin alike. Integers stay
 * integers in their shortest form, floats are float 64 (float 32 is read). An unsigned integer above 2^63 - 1
 * has no Lua integer and is refused rather than rounded. Extension types are those of ext.h; unknown ones are
 * refused with their number. Their functions may run any Lua code: the input must not lie where Lua code can
 * free it, which is why callers copy what a channel holds. Map keys are strings,
 * integers, floats or booleans; a key that comes twice, NaN or nil as a key are refused.
 *
 * Errors: 0, or a negative enum es_err with one string pushed, the reason. Nothing else is left on the stack,
 * and the only error raised is Lua's out of memory. ES_ERR_INVAL: it cannot be encoded; ES_ERR_PROTOCOL:
 * malformed; ES_ERR_LIMIT: too deep, too many values; ES_ERR_NOMEM.
 *
 * Decoding believes no length: all elements that are still promised, of this container and those around it,
 * must fit into the bytes left (one byte each) before a table is made. Lua seeds its string hash, which
 * guards tables against flooding with chosen strings; numeric keys are counted (es_flood).
 */
#ifndef ES_LUA_MSGPACK_H
#define ES_LUA_MSGPACK_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include "../base/buf.h"

/* Appends an array of the n values at stack indexes first..first+n-1 (n <= ES_CODEC_MAX_VALUES). After an
 * error `out` is as long as before. */
int es_mp_encode(lua_State *L, int first, int n, struct es_buf *out);

/* The whole input is one array: pushes its *count elements. */
int es_mp_decode(lua_State *L, const uint8_t *p, size_t n, int *count);

/* One value: appends it; pushes it and says how many bytes it took (bytes may follow). */
int es_mp_pack(lua_State *L, int idx, struct es_buf *out);
int es_mp_unpack(lua_State *L, const uint8_t *p, size_t n, size_t *used);

#endif
