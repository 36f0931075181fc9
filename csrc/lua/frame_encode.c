#include "frame_fields.h"

#include <lauxlib.h>
#include <string.h>
#include "../base/buf.h"
#include "../base/err.h"
#include "codec.h"
#include "errors.h"
#include "luaaux.h"

#define WORK               "echostream.frame_work"
#define U64_AT(any, field) ((uint64_t *)((char *)(any) + (field)->offset))

/* ---- Lua table -> frame ---- */

/* Buffers of one encode call, in a userdata so that a raised error frees them. */
struct work {
    struct es_buf out; /* owned */
    struct es_buf kv;  /* owned: the pairs of metadata; a frame has one set */
};

static int work_gc(lua_State *L)
{
    struct work *w = luaL_checkudata(L, 1, WORK);
    es_buf_free(&w->out);
    es_buf_free(&w->kv);
    return 0;
}

static int no_memory(lua_State *L)
{
    return luaL_error(L, "not enough memory");
}

static void put_s(lua_State *L, struct es_buf *b, const struct es_bytes *s)
{
    if (es_buf_reserve(b, 8 + s->n) != 0)
        no_memory(L);
    b->n += es_varint_put(b->p + b->n, s->n);
    memcpy(b->p + b->n, s->p, s->n);
    b->n += s->n;
}

static int before(const struct es_bytes *a, const struct es_bytes *b)
{
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c != 0 ? c < 0 : a->n < b->n;
}

/* Reads the table on top of the stack into kv, sorted by key: the same metadata always give the same bytes.
 */
static void read_kv(lua_State *L, struct work *w, const char *name, struct es_kv *kv)
{
    struct es_bytes pair[ES_MAX_META_PAIRS][2];
    size_t n = 0;

    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s: expected strings as keys and values, got %s = %s", name, luaL_typename(L, -2),
                       luaL_typename(L, -1));
        if (n == ES_MAX_META_PAIRS)
            luaL_error(L, "%s: more than %d pairs", name, ES_MAX_META_PAIRS);
        struct es_bytes key, value;
        key.p = (const uint8_t *)lua_tolstring(L, -2, &key.n);
        value.p = (const uint8_t *)lua_tolstring(L, -1, &value.n);
        size_t at = n++;
        for (; at > 0 && before(&key, &pair[at - 1][0]); at--)
            memcpy(pair[at], pair[at - 1], sizeof pair[at]);
        pair[at][0] = key;
        pair[at][1] = value;
    }
    if (es_buf_reserve(&w->kv, 8) != 0)
        no_memory(L);
    w->kv.n = es_varint_put(w->kv.p, n);
    for (size_t i = 0; i < n; i++) {
        put_s(L, &w->kv, &pair[i][0]);
        put_s(L, &w->kv, &pair[i][1]);
    }
    /* the decoder knows what the wire allows */
    const char *why = "malformed";
    size_t used;
    if (es_kv_decode(kv, w->kv.p, w->kv.n, &used, &why) != 0)
        luaL_error(L, "%s: %s", name, why);
}

static uint64_t read_codec(lua_State *L, const struct es_field *f)
{
    uint64_t id = f->arg;
    int type = lua_getfield(L, 1, f->name);
    int is_int = 0;
    if (type == LUA_TSTRING) {
        int found = es_codec_find(L, lua_tostring(L, -1));
        if (found < 0)
            luaL_error(L, "codec: expected raw, msgpack, json or a number, got '%s'", lua_tostring(L, -1));
        id = (uint64_t)found;
    } else if (type != LUA_TNIL) {
        lua_Integer v = type == LUA_TNUMBER ? lua_tointegerx(L, -1, &is_int) : 0;
        if (!is_int || v < 0 || (uint64_t)v > ES_VARINT_MAX)
            es_lua_opt_error(L, "codec", "raw, msgpack, json or a number", -1);
        id = (uint64_t)v;
    }
    lua_pop(L, 1);
    return id;
}

/* Reads an integer of the wire's range; 0 when the field is not there. */
static int read_u64(lua_State *L, const struct es_field *f, uint64_t *out)
{
    lua_Integer v;
    if (!es_lua_opt_integer(L, 1, f->name, 0, (lua_Integer)ES_VARINT_MAX, &v))
        return 0;
    *out = (uint64_t)v;
    return 1;
}

static int read_bytes(lua_State *L, const struct es_field *f, void *any)
{
    struct es_bytes *b = (struct es_bytes *)((char *)any + f->offset);
    const char *s;
    size_t n;
    if (!es_lua_opt_string(L, 1, f->name, &s, &n))
        return 0;
    b->p = (const uint8_t *)s;
    b->n = n;
    return 1;
}

static int read_kv_field(lua_State *L, const struct es_field *f, struct work *w, void *any)
{
    if (!es_lua_opt_push(L, 1, f->name, LUA_TTABLE))
        return 0;
    read_kv(L, w, f->name, (struct es_kv *)((char *)any + f->offset));
    lua_pop(L, 1);
    return 1;
}

static void read_field(lua_State *L, const struct es_field *f, struct work *w, union es_any_frame *any)
{
    static const char *const processed[] = {"no", "maybe", "yes", NULL};
    const char *s;
    size_t n;
    int i = 0;

    switch ((enum es_field_kind)f->kind) {
    case ES_FIELD_U64:
        *U64_AT(any, f) = f->arg;
        read_u64(L, f, U64_AT(any, f));
        break;
    case ES_FIELD_BYTES:
        read_bytes(L, f, any);
        break;
    case ES_FIELD_KV:
        read_kv_field(L, f, w, any);
        break;
    case ES_FIELD_CODEC:
        *U64_AT(any, f) = read_codec(L, f);
        break;
    case ES_FIELD_PROCESSED:
        es_lua_opt_choice(L, 1, f->name, processed, &i);
        *U64_AT(any, f) = (uint64_t)i;
        break;
    case ES_FIELD_FLAG:
        es_lua_opt_boolean(L, 1, f->name, &i);
        any->flags |= i ? f->arg : 0;
        break;
    case ES_FIELD_OPTIONAL:
        any->flags |= read_u64(L, f, U64_AT(any, f)) ? f->arg : 0;
        break;
    case ES_FIELD_INSTANCE:
        if (!es_lua_opt_string(L, 1, f->name, &s, &n) || n != sizeof any->hello.instance)
            luaL_error(L, "instance: expected 16 bytes");
        memcpy(any->hello.instance, s, sizeof any->hello.instance);
        break;
    case ES_FIELD_PARAM:
        any->hello.has |= read_u64(L, f, U64_AT(any, f)) ? 1u << f->arg : 0;
        break;
    case ES_FIELD_PARAM_BYTES:
        any->hello.has |= read_bytes(L, f, any) ? 1u << f->arg : 0;
        break;
    case ES_FIELD_PARAM_KV:
        any->hello.has |= read_kv_field(L, f, w, any) ? 1u << f->arg : 0;
        break;
    }
}

/* A failure may be written with its code alone. */
static void complete_response(struct es_response *r)
{
    if (r->status == 0 && r->code.n > 0)
        r->status = (uint64_t)es_status_of_code((const char *)r->code.p, r->code.n);
    if (r->status != 0 && r->code.n == 0) {
        r->code.p = (const uint8_t *)es_status_code((int)(r->status <= 16 ? r->status : 2));
        r->code.n = strlen((const char *)r->code.p);
    }
}

static int encode_any(struct es_buf *out, uint64_t type, const union es_any_frame *a, int datagram,
                      struct es_bytes *payload)
{
    switch ((enum es_frame_type)type) {
    case ES_FRAME_HELLO:
        return es_hello_encode(out, &a->hello);
    case ES_FRAME_REQUEST:
        *payload = a->request.payload;
        return es_request_encode_head(out, &a->request, payload->n);
    case ES_FRAME_RESPONSE:
        *payload = a->response.payload;
        return es_response_encode_head(out, &a->response, payload->n);
    case ES_FRAME_HEAD:
        return es_head_encode(out, &a->head);
    case ES_FRAME_DATA:
        *payload = a->data.payload;
        return es_data_encode_head(out, &a->data, payload->n);
    case ES_FRAME_CANCEL:
        return es_cancel_encode(out, &a->cancel);
    case ES_FRAME_EVENT:
        *payload = a->event.payload;
        return es_event_encode_head(out, &a->event, payload->n, datagram);
    case ES_FRAME_GOAWAY:
        return es_goaway_encode(out, &a->goaway);
    case ES_FRAME_PING:
        return es_ping_encode(out, &a->ping, 0);
    case ES_FRAME_PONG:
        return es_ping_encode(out, &a->ping, 1);
    }
    return ES_ERR_INVAL;
}

/* Raises for a key that this type of frame does not have: a misspelt field would be lost silently. */
static void check_names(lua_State *L, const struct es_frame_spec *spec)
{
    const char *names[16];
    size_t n = 0;
    names[n++] = "type";
    if (spec->type == ES_FRAME_EVENT)
        names[n++] = "datagram";
    for (const struct es_field *f = spec->fields; f->name != NULL; f++)
        names[n++] = f->name;
    names[n] = NULL;
    es_lua_check_fields(L, 1, names);
}

int es_lua_frame_encode(lua_State *L)
{
    union es_any_frame any;
    struct es_bytes payload = {0};
    const char *type;
    int datagram = 0;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (!es_lua_opt_string(L, 1, "type", &type, NULL))
        return luaL_error(L, "type: expected the name of a frame type, got nil");
    const struct es_frame_spec *spec = es_frame_spec_by_name(type);
    if (spec == NULL)
        return luaL_error(L, "type: there is no frame type '%s'", type);
    check_names(L, spec);

    struct work *w = es_lua_new(L, WORK, sizeof *w, 0);
    memset(&any, 0, sizeof any);
    for (const struct es_field *f = spec->fields; f->name != NULL; f++)
        read_field(L, f, w, &any);
    if (spec->type == ES_FRAME_RESPONSE)
        complete_response(&any.response);
    es_lua_opt_boolean(L, 1, "datagram", &datagram);

    int rc = encode_any(&w->out, spec->type, &any, datagram, &payload);
    if (rc == 0)
        rc = es_buf_put(&w->out, payload.p, payload.n);
    if (rc == ES_ERR_NOMEM)
        return no_memory(L);
    if (rc != 0) {
        lua_pushnil(L);
        es_lua_push_error(L, es_err_code(rc), "%s: a name, a key or a length is not allowed on the wire",
                          type);
        return 2;
    }
    lua_pushlstring(L, (const char *)w->out.p, w->out.n);
    es_buf_free(&w->out);
    es_buf_free(&w->kv);
    return 1;
}

void es_lua_open_frame_encode(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", work_gc}, {NULL, NULL}};
    es_lua_class(L, WORK, NULL, meta);
}
