/* The codecs by number, for whoever sends and receives payloads, and core.codec. */
#ifndef ES_LUA_CODEC_H
#define ES_LUA_CODEC_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include "../base/buf.h"

/* codec_id: enum es_codec (session/session.h). Contracts as in msgpack.h: 0, or a negative enum es_err with
 * one string pushed, the reason. An unknown codec is ES_ERR_UNSUPPORTED. The raw codec carries exactly one
 * string. */
int es_codec_encode(lua_State *L, int codec_id, int first, int n, struct es_buf *out);
int es_codec_decode(lua_State *L, int codec_id, const uint8_t *p, size_t n, int *count);
/* One value: DATA messages and error details. Decoding takes all of the input. */
int es_codec_pack(lua_State *L, int codec_id, int idx, struct es_buf *out);
int es_codec_unpack(lua_State *L, int codec_id, const uint8_t *p, size_t n);

/* The same of bytes that Lua code could free while it decodes (see ext.h): a copy is decoded. */
int es_codec_decode_copy(lua_State *L, int codec_id, const uint8_t *p, size_t n, int *count);
int es_codec_unpack_copy(lua_State *L, int codec_id, const uint8_t *p, size_t n);

const char *es_codec_name(lua_State *L, int codec_id); /* "raw", "msgpack", "json", ...; NULL: unknown */
int es_codec_find(lua_State *L, const char *name);     /* its number here, or ES_ERR_NOT_FOUND */

/* Turns the reason on top of the stack into an error object with code "serialization" (resource_exhausted for
 * ES_ERR_NOMEM). */
void es_codec_wrap_error(lua_State *L, int err);

/* Adds codec, codec_register, codec_extend, timestamp_mt, null, array and map to the module table at
 * core_index. Run es_lua_open_errors first. */
void es_lua_open_codec(lua_State *L, int core_index);

#endif
