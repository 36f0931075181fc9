/* What the codecs have in common: null, the array and map marks, the shape of a table, the path in an error.
 *
 * Rules for every codec that has structure (MessagePack, JSON):
 *  - Tables are read raw: no metamethod runs. A table whose keys are exactly 1..n (n > 0) is an array; every
 *    other one is a map, the empty one too. echo.array{} makes the empty table an array and fills holes with
 *    null; echo.map{} makes a sequence a map. A mark is a hint: an array mark on a table with other keys than
 *    positive integers (or far too many holes) has no effect.
 *  - nil and echo.null are the codec's null. Decoded, null is nil as a top-level value and echo.null inside
 *    tables, so that arrays keep their length and maps their keys. Decoded empty arrays, and maps that look
 * like sequences, carry the mark, so that a value that is passed on stays what it was.
 *  - At most ES_CODEC_MAX_VALUES top-level values; tables nest at most ES_CODEC_MAX_DEPTH deep in each of
 * them.
 */
#ifndef ES_LUA_VALUE_H
#define ES_LUA_VALUE_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#define ES_CODEC_MAX_VALUES 250 /* what a Lua call passes without trouble */
#define ES_CODEC_MAX_DEPTH  64  /* docs/PROTOCOL.md */

enum es_shape { ES_SHAPE_MAP = 0, ES_SHAPE_ARRAY = 1 };

/* The shape of the table at idx; *n is an array's length. Needs three free stack slots. */
enum es_shape es_value_shape(lua_State *L, int idx, lua_Integer *n);

/* Sets the mark on the table on top of the stack. */
void es_value_mark(lua_State *L, enum es_shape shape);

static inline void es_value_push_null(lua_State *L)
{
    lua_pushlightuserdata(L, NULL);
}

/* Where the encoder is: one per table it is inside, on the C stack. */
struct es_path {
    const struct es_path *up; /* borrowed: the enclosing table; NULL: a top-level value */
    const char *key;          /* borrowed: NULL: an array element */
    size_t key_len;
    lua_Integer index;
};

/* Pushes "argument 2 .user.tags[3]: why" (argument > 0) or "value .user.tags[3]: why". */
void es_value_push_path_error(lua_State *L, int argument, const struct es_path *path, const char *why);
/* Text for a value of a type that cannot be encoded ("a function cannot be sent"); static. */
const char *es_value_refusal(lua_State *L, int idx);

/* Lua's hash of strings has a secret seed, that of numbers has none: numeric keys can be chosen so that they
 * all fall on one place of a table, and building it takes quadratic time (300 KB: two seconds). So a decoder
 * that takes such keys from a peer counts how they fall, and gives up on a message whose maps cost far more
 * than maps of its size do. */
struct es_flood {
    uint64_t budget; /* steps along colliding keys that this message may still cost */
};
/* Of one map. */
struct es_flood_map {
    uint8_t *seen; /* per place of the table, for each size it will have; a Lua userdata below the table on
                      the stack */
    size_t n;      /* keys the map will have */
};
#define ES_FLOOD_SMALL    64    /* maps up to here need no counting */
#define ES_FLOOD_PRESIZED 65536 /* what the decoder makes room for in advance, at most */

static inline void es_flood_init(struct es_flood *f, size_t bytes)
{
    f->budget = 32768 + 2 * (uint64_t)bytes; /* honest keys that were tried cost a tenth of it */
}

/* Counts the numeric key on top of the stack, above the table it will be put into; n keys > ES_FLOOD_SMALL.
 * 0: too many fell together. Puts m->seen below the table when it is first called. */
int es_flood_key(lua_State *L, struct es_flood *f, struct es_flood_map *m);

/* Adds null, array, map to the module table at core_index; makes the marks. Before any other function here.
 */
void es_lua_open_value(lua_State *L, int core_index);

#endif
