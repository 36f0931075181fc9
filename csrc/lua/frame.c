#include "frame.h"

#include <lauxlib.h>
#include <string.h>
#include "../base/err.h"
#include "codec.h"
#include "errors.h"
#include "frame_fields.h"
#include "luaaux.h"

#define READER            "echostream.frame_reader"
#define DEFAULT_MAX_FRAME ((uint64_t)4 * 1024 * 1024)

/* ---- frame -> Lua table ---- */

static int decode_any(union es_any_frame *a, uint64_t type, const uint8_t *p, size_t n, const char **why)
{
    switch ((enum es_frame_type)type) {
    case ES_FRAME_HELLO:
        return es_hello_decode(&a->hello, p, n, why);
    case ES_FRAME_REQUEST:
        return es_request_decode(&a->request, p, n, 0, why);
    case ES_FRAME_RESPONSE:
        return es_response_decode(&a->response, p, n, 0, why);
    case ES_FRAME_HEAD:
        return es_head_decode(&a->head, p, n, why);
    case ES_FRAME_DATA:
        return es_data_decode(&a->data, p, n, 0, why);
    case ES_FRAME_CANCEL:
        return es_cancel_decode(&a->cancel, p, n, why);
    case ES_FRAME_EVENT:
        return es_event_decode(&a->event, p, n, 0, why);
    case ES_FRAME_GOAWAY:
        return es_goaway_decode(&a->goaway, p, n, why);
    case ES_FRAME_PING:
        return es_ping_decode(&a->ping, p, n, 0, why);
    case ES_FRAME_PONG:
        return es_ping_decode(&a->ping, p, n, 1, why);
    }
    *why = "unknown frame type";
    return ES_ERR_PROTOCOL;
}

static void push_bytes(lua_State *L, const struct es_bytes *b)
{
    lua_pushlstring(L, b->n > 0 ? (const char *)b->p : "", b->n);
}

static void push_kv(lua_State *L, const struct es_kv *kv)
{
    struct es_bytes key, value;
    size_t at = 0;
    lua_createtable(L, 0, (int)kv->count);
    while (es_kv_next(kv, &at, &key, &value)) {
        push_bytes(L, &key);
        push_bytes(L, &value);
        lua_rawset(L, -3);
    }
}

static void push_codec(lua_State *L, uint64_t id)
{
    const char *name = id <= 0xffff ? es_codec_name(L, (int)id) : NULL;
    if (name != NULL)
        lua_pushstring(L, name);
    else
        lua_pushinteger(L, (lua_Integer)id);
}

/* Pushes the field's value; 0: it is not there. */
static int push_field(lua_State *L, const struct es_field *f, const union es_any_frame *any)
{
    static const char *const processed[] = {"no", "maybe", "yes"};
    const void *at = (const char *)any + f->offset;
    const uint64_t *v = at; /* only where the kind says that it is a number */

    switch ((enum es_field_kind)f->kind) {
    case ES_FIELD_PARAM:
        if ((any->hello.has & 1u << f->arg) == 0)
            return 0;
        lua_pushinteger(L, (lua_Integer)*v);
        return 1;
    case ES_FIELD_OPTIONAL:
        if ((any->flags & f->arg) == 0)
            return 0;
        lua_pushinteger(L, (lua_Integer)*v);
        return 1;
    case ES_FIELD_U64:
        lua_pushinteger(L, (lua_Integer)*v);
        return 1;
    case ES_FIELD_PARAM_BYTES:
        if ((any->hello.has & 1u << f->arg) == 0)
            return 0;
        push_bytes(L, at);
        return 1;
    case ES_FIELD_BYTES:
        push_bytes(L, at);
        return 1;
    case ES_FIELD_PARAM_KV:
        if ((any->hello.has & 1u << f->arg) == 0)
            return 0;
        push_kv(L, at);
        return 1;
    case ES_FIELD_KV:
        push_kv(L, at);
        return 1;
    case ES_FIELD_CODEC:
        push_codec(L, *v);
        return 1;
    case ES_FIELD_PROCESSED:
        lua_pushstring(L, *v <= 2 ? processed[*v] : "maybe");
        return 1;
    case ES_FIELD_FLAG:
        lua_pushboolean(L, 1);
        return (any->flags & f->arg) != 0 ? 1 : (lua_pop(L, 1), 0);
    case ES_FIELD_INSTANCE:
        lua_pushlstring(L, (const char *)any->hello.instance, sizeof any->hello.instance);
        return 1;
    }
    return 0;
}

/* Pushes the frame's table, or an error object (and returns its es_err). */
static int push_frame(lua_State *L, uint64_t type, const uint8_t *body, size_t n)
{
    union es_any_frame any;
    const char *why = "malformed";
    const struct es_frame_spec *spec = es_frame_spec_by_type(type);

    memset(&any, 0, sizeof any);
    int rc = decode_any(&any, type, body, n, &why);
    luaL_checkstack(L, 8, NULL);
    if (rc != 0) {
        es_lua_push_error(L, es_err_code(rc), "%s: %s", spec != NULL ? spec->name : "frame", why);
        return rc;
    }
    int failed = type == ES_FRAME_RESPONSE && any.response.status != 0;
    lua_createtable(L, 0, 10);
    lua_pushstring(L, spec->name);
    lua_setfield(L, -2, "type");
    for (const struct es_field *f = spec->fields; f->name != NULL; f++) {
        if ((f->failed == 0 || f->failed == failed + 1) && push_field(L, f, &any))
            lua_setfield(L, -2, f->name);
    }
    return 0;
}

/* nil and the error object on top. */
static int fail(lua_State *L)
{
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}

static int again(lua_State *L)
{
    lua_pushnil(L);
    lua_pushliteral(L, "again");
    return 2;
}

/* data and the position to start from, counted from 1. */
static const uint8_t *check_data(lua_State *L, size_t *n, size_t *from)
{
    const char *s = luaL_checklstring(L, 1, n);
    lua_Integer at = luaL_optinteger(L, 2, 1);
    luaL_argcheck(L, at >= 1 && (lua_Unsigned)at <= *n + 1, 2, "position out of the data");
    *from = (size_t)at - 1;
    *n -= *from;
    return (const uint8_t *)s + *from;
}

static int frame_decode(lua_State *L)
{
    size_t left, from;
    uint64_t type, len;
    const uint8_t *p = check_data(L, &left, &from);

    /* unknown odd types are skipped, as everywhere */
    for (;;) {
        size_t a = es_varint_get(p, left, &type);
        size_t b = a == 0 ? 0 : es_varint_get(p + a, left - a, &len);
        if (b == 0 || len > left - a - b)
            return again(L);
        p += a + b;
        from += a + b;
        left -= a + b;
        if (es_frame_spec_by_type(type) != NULL || type % 2 == 0)
            break;
        p += len;
        from += len;
        left -= len;
    }
    if (push_frame(L, type, p, (size_t)len) != 0)
        return fail(L);
    lua_pushinteger(L, (lua_Integer)(from + len) + 1);
    return 2;
}

static int frame_decode_datagram(lua_State *L)
{
    size_t n;
    uint64_t type;
    const uint8_t *p = (const uint8_t *)luaL_checklstring(L, 1, &n);
    size_t used = es_varint_get(p, n, &type);
    if (used == 0 || type != ES_FRAME_EVENT) {
        es_lua_push_error(L, "protocol", "a datagram carries one event");
        return fail(L);
    }
    if (push_frame(L, type, p + used, n - used) != 0)
        return fail(L);
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "datagram");
    return 1;
}

static int frame_varint(lua_State *L)
{
    uint8_t p[8];
    lua_Integer v = luaL_checkinteger(L, 1);
    luaL_argcheck(L, v >= 0 && (uint64_t)v <= ES_VARINT_MAX, 1, "expected 0 to 2^62 - 1");
    lua_pushlstring(L, (const char *)p, es_varint_put(p, (uint64_t)v));
    return 1;
}

static int frame_read_varint(lua_State *L)
{
    size_t n, from;
    uint64_t v;
    const uint8_t *p = check_data(L, &n, &from);
    size_t used = es_varint_get(p, n, &v);
    if (used == 0)
        return again(L);
    lua_pushinteger(L, (lua_Integer)v);
    lua_pushinteger(L, (lua_Integer)(from + used) + 1);
    return 2;
}

/* ---- incremental reading ---- */

struct reader {
    struct es_reader r; /* owned */
    int ready;          /* es_reader_init ran */
    int failed;         /* the error is user value 1 */
};

static int reader_gc(lua_State *L)
{
    struct reader *rd = luaL_checkudata(L, 1, READER);
    if (rd->ready)
        es_reader_free(&rd->r);
    rd->ready = 0;
    return 0;
}

static int frame_reader(lua_State *L)
{
    lua_Integer max = luaL_optinteger(L, 1, (lua_Integer)DEFAULT_MAX_FRAME);
    luaL_argcheck(L, max >= 0, 1, "expected a number of bytes");
    struct reader *rd = es_lua_new(L, READER, sizeof *rd, 1);
    es_reader_init(&rd->r, (uint64_t)max);
    rd->ready = 1;
    return 1;
}

/* Upvalues: the list of what this feed gave, the place in it. */
static int next_frame(lua_State *L)
{
    lua_Integer i = lua_tointeger(L, lua_upvalueindex(2)) + 1;
    lua_pushinteger(L, i);
    lua_replace(L, lua_upvalueindex(2));
    if (lua_rawgeti(L, lua_upvalueindex(1), i) == LUA_TNIL)
        return 1;
    if (!es_lua_is_error(L, -1))
        return 1;
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
}

/* feed(bytes): all frames that are whole now, as an iterator. An error comes last, as false, err; and again
 * from every later feed. */
static int reader_feed(lua_State *L)
{
    struct reader *rd = luaL_checkudata(L, 1, READER);
    size_t n;
    const uint8_t *p = (const uint8_t *)luaL_checklstring(L, 2, &n);
    struct es_raw_frame raw;
    lua_Integer count = 0;
    int rc = 1;

    luaL_argcheck(L, rd->ready, 1, "the reader is closed");
    lua_settop(L, 2);
    lua_newtable(L);
    while (!rd->failed && (rc = es_reader_feed(&rd->r, &p, &n, &raw)) == 1) {
        rd->failed = push_frame(L, raw.type, raw.body, raw.len) != 0;
        if (rd->failed) {
            lua_pushvalue(L, -1);
            lua_setiuservalue(L, 1, 1);
        }
        lua_rawseti(L, 3, ++count);
    }
    if (rc < 0) {
        es_lua_push_error(L, es_err_code(rc), "%s", rd->r.why != NULL ? rd->r.why : es_strerror(rc));
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, 1);
        lua_rawseti(L, 3, ++count);
        rd->failed = 1;
    } else if (rd->failed && count == 0) {
        lua_getiuservalue(L, 1, 1);
        lua_rawseti(L, 3, 1);
    }
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, next_frame, 2);
    return 1;
}

static int reader_missing(lua_State *L)
{
    struct reader *rd = luaL_checkudata(L, 1, READER);
    lua_pushinteger(L, rd->ready ? (lua_Integer)es_reader_missing(&rd->r) : 0);
    lua_pushinteger(L, rd->ready ? (lua_Integer)es_reader_buffered(&rd->r) : 0);
    return 2;
}

void es_lua_open_frame(lua_State *L, int core_index)
{
    static const luaL_Reg functions[] = {{"encode", es_lua_frame_encode},
                                         {"decode", frame_decode},
                                         {"decode_datagram", frame_decode_datagram},
                                         {"varint", frame_varint},
                                         {"read_varint", frame_read_varint},
                                         {"reader", frame_reader},
                                         {NULL, NULL}};
    static const luaL_Reg methods[] = {{"feed", reader_feed}, {"missing", reader_missing}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", reader_gc}, {NULL, NULL}};

    es_lua_class(L, READER, methods, meta);
    es_lua_open_frame_encode(L);
    luaL_newlib(L, functions);
    lua_setfield(L, core_index, "frame");
}
