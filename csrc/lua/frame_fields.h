/* The fields of every frame type, one table for both directions: what frame_encode.c walks to read a frame
 * from a Lua table, and frame.c to make a Lua table of a decoded one. Nobody else includes this. */
#ifndef ES_LUA_FRAME_FIELDS_H
#define ES_LUA_FRAME_FIELDS_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include "../framing/frame.h"

union es_any_frame {
    uint64_t flags; /* the first member of request, response, head, data and event */
    struct es_hello hello;
    struct es_request request;
    struct es_response response;
    struct es_head head;
    struct es_data data;
    struct es_cancel cancel;
    struct es_wire_event event;
    struct es_goaway goaway;
    struct es_ping ping;
};

enum es_field_kind {
    ES_FIELD_U64,       /* arg: the default */
    ES_FIELD_BYTES,     /* a string; default "" */
    ES_FIELD_KV,        /* a table of strings */
    ES_FIELD_CODEC,     /* "raw", "msgpack", "json" or a number; arg: the default */
    ES_FIELD_PROCESSED, /* "no", "maybe", "yes" */
    ES_FIELD_FLAG,      /* a boolean; arg: the bit of flags */
    ES_FIELD_OPTIONAL,  /* a number whose presence is the bit arg of flags */
    ES_FIELD_INSTANCE,  /* 16 bytes */
    ES_FIELD_PARAM,     /* HELLO: a number; arg: the parameter */
    ES_FIELD_PARAM_BYTES,
    ES_FIELD_PARAM_KV
};

struct es_field {
    const char *name;
    uint8_t kind;
    uint16_t offset; /* in the type's struct */
    uint16_t arg;
    uint8_t failed; /* RESPONSE: 1: only with status 0, 2: only with another status, 0: always */
};

struct es_frame_spec {
    const char *name; /* field `type` */
    uint64_t type;
    const struct es_field *fields; /* borrowed, static; ends with name NULL */
};

/* NULL: no such type. */
const struct es_frame_spec *es_frame_spec_by_name(const char *name);
const struct es_frame_spec *es_frame_spec_by_type(uint64_t type);

/* core.frame.encode, and what it needs registered. */
int es_lua_frame_encode(lua_State *L);
void es_lua_open_frame_encode(lua_State *L);

#endif
