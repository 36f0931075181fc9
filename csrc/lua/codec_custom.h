/* Codecs that Lua code registers: number -> functions, per Lua state. Contracts as in codec.h. Their
 * functions run protected; what they raise, or return after nil, is the reason. */
#ifndef ES_LUA_CODEC_CUSTOM_H
#define ES_LUA_CODEC_CUSTOM_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include "../base/buf.h"
#include "../dispatch/dispatcher.h"

/* Where the names are kept from now on: memory of whoever outlives all hosts of the state. Without it nothing
 * can be registered. */
void es_codec_share(lua_State *L, struct es_codec_names *names);

const char *es_custom_name(lua_State *L, int codec_id); /* NULL: unknown */
int es_custom_find(lua_State *L, const char *name);     /* its number, or ES_ERR_NOT_FOUND */
/* encode, decode: stack indexes of functions. The number; one of that name gets other functions. ES_ERR_INVAL
 * (the name), ES_ERR_LIMIT (too many), ES_ERR_UNSUPPORTED. */
int es_custom_add(lua_State *L, const char *name, size_t len, int encode, int decode);

int es_custom_encode(lua_State *L, int codec_id, int first, int n, struct es_buf *out);
int es_custom_decode(lua_State *L, int codec_id, const uint8_t *p, size_t n, int *count);

#endif
