#include "codec.h"

#include <jansson.h>
#include <lauxlib.h>
#include <string.h>
#include "../base/err.h"
#include "../base/mem.h"
#include "../framing/frame.h"
#include "../session/session.h"
#include "codec_custom.h"
#include "errors.h"
#include "ext.h"
#include "json.h"
#include "luaaux.h"
#include "msgpack.h"
#include "value.h"

static int raw_pack(lua_State *L, int idx, struct es_buf *out)
{
    size_t n;
    if (lua_type(L, idx) != LUA_TSTRING) {
        lua_pushfstring(L, "the raw codec carries a string, not a %s", luaL_typename(L, idx));
        return ES_ERR_INVAL;
    }
    const char *s = lua_tolstring(L, idx, &n);
    if (es_buf_put(out, s, n) == 0)
        return 0;
    lua_pushliteral(L, "out of memory");
    return ES_ERR_NOMEM;
}

static int raw_encode(lua_State *L, int first, int n, struct es_buf *out)
{
    if (n == 1)
        return raw_pack(L, first, out);
    lua_pushfstring(L, "the raw codec carries exactly one string, not %d values", n);
    return ES_ERR_INVAL;
}

static int raw_decode(lua_State *L, const uint8_t *p, size_t n, int *count)
{
    lua_pushlstring(L, n > 0 ? (const char *)p : "", n);
    *count = 1;
    return 0;
}

static int raw_unpack(lua_State *L, const uint8_t *p, size_t n, size_t *used)
{
    lua_pushlstring(L, n > 0 ? (const char *)p : "", n);
    *used = n;
    return 0;
}

struct codec {
    const char *name;
    int (*encode)(lua_State *, int first, int n, struct es_buf *out);
    int (*decode)(lua_State *, const uint8_t *p, size_t n, int *count);
    int (*pack)(lua_State *, int idx, struct es_buf *out);
    int (*unpack)(lua_State *, const uint8_t *p, size_t n, size_t *used);
};

static const struct codec codecs[] = {
    [ES_CODEC_RAW] = {"raw", raw_encode, raw_decode, raw_pack, raw_unpack},
    [ES_CODEC_MSGPACK] = {"msgpack", es_mp_encode, es_mp_decode, es_mp_pack, es_mp_unpack},
    [ES_CODEC_JSON] = {"json", es_json_encode, es_json_decode, es_json_pack, es_json_unpack},
};
enum { N_CODECS = sizeof codecs / sizeof codecs[0] };

static int unknown(lua_State *L, int codec_id)
{
    lua_pushfstring(L, "codec %d is not known here", codec_id);
    return ES_ERR_UNSUPPORTED;
}

static int is_builtin(int codec_id)
{
    return codec_id >= 0 && codec_id < N_CODECS;
}

int es_codec_encode(lua_State *L, int codec_id, int first, int n, struct es_buf *out)
{
    if (codec_id == ES_CODEC_MSGPACK) /* nearly always: spare the table */
        return es_mp_encode(L, first, n, out);
    if (is_builtin(codec_id))
        return codecs[codec_id].encode(L, first, n, out);
    return es_custom_name(L, codec_id) != NULL ? es_custom_encode(L, codec_id, first, n, out)
                                               : unknown(L, codec_id);
}

int es_codec_decode(lua_State *L, int codec_id, const uint8_t *p, size_t n, int *count)
{
    if (codec_id == ES_CODEC_MSGPACK)
        return es_mp_decode(L, p, n, count);
    *count = 0;
    if (is_builtin(codec_id))
        return codecs[codec_id].decode(L, p, n, count);
    return es_custom_name(L, codec_id) != NULL ? es_custom_decode(L, codec_id, p, n, count)
                                               : unknown(L, codec_id);
}

int es_codec_pack(lua_State *L, int codec_id, int idx, struct es_buf *out)
{
    if (is_builtin(codec_id))
        return codecs[codec_id].pack(L, idx, out);
    return es_codec_encode(L, codec_id, lua_absindex(L, idx), 1, out);
}

/* One value of a user's codec: the first that it decodes, nil when there is none. */
static int custom_unpack(lua_State *L, int codec_id, const uint8_t *p, size_t n, size_t *used)
{
    int base = lua_gettop(L), count = 0;
    int rc = es_codec_decode(L, codec_id, p, n, &count);
    if (rc == 0)
        lua_settop(L, base + 1);
    *used = n;
    return rc;
}

static int unpack_some(lua_State *L, int codec_id, const uint8_t *p, size_t n, size_t *used)
{
    return is_builtin(codec_id) ? codecs[codec_id].unpack(L, p, n, used)
                                : custom_unpack(L, codec_id, p, n, used);
}

int es_codec_unpack(lua_State *L, int codec_id, const uint8_t *p, size_t n)
{
    size_t used;
    int rc = unpack_some(L, codec_id, p, n, &used);
    /* JSON may end in white space, which is no value */
    while (rc == 0 && codec_id == ES_CODEC_JSON && used < n && strchr(" \t\r\n", p[used]) != NULL &&
           p[used] != 0)
        used++;
    if (rc == 0 && used != n) {
        lua_pop(L, 1);
        lua_pushfstring(L, "byte %I: bytes follow the value", (LUAI_UACINT)used);
        return ES_ERR_PROTOCOL;
    }
    return rc;
}

int es_codec_decode_copy(lua_State *L, int codec_id, const uint8_t *p, size_t n, int *count)
{
    const char *copy = lua_pushlstring(L, (const char *)p, n);
    int at = lua_gettop(L), rc = es_codec_decode(L, codec_id, (const uint8_t *)copy, n, count);
    lua_remove(L, at);
    return rc;
}

int es_codec_unpack_copy(lua_State *L, int codec_id, const uint8_t *p, size_t n)
{
    const char *copy = lua_pushlstring(L, (const char *)p, n);
    int at = lua_gettop(L), rc = es_codec_unpack(L, codec_id, (const uint8_t *)copy, n);
    lua_remove(L, at);
    return rc;
}

const char *es_codec_name(lua_State *L, int codec_id)
{
    return is_builtin(codec_id) ? codecs[codec_id].name : es_custom_name(L, codec_id);
}

int es_codec_find(lua_State *L, const char *name)
{
    for (int i = 0; i < N_CODECS; i++) {
        if (strcmp(codecs[i].name, name) == 0)
            return i;
    }
    return es_custom_find(L, name);
}

void es_codec_wrap_error(lua_State *L, int err)
{
    es_lua_push_error(L, err == ES_ERR_NOMEM ? "resource_exhausted" : "serialization", "%s",
                      lua_tostring(L, -1));
    lua_remove(L, -2);
}

/* ---- core.codec ---- */

struct scratch {
    struct es_buf buf; /* owned */
};

static int scratch_gc(lua_State *L)
{
    struct scratch *s = luaL_checkudata(L, 1, "echostream.scratch");
    es_buf_free(&s->buf);
    return 0;
}

/* The buffer that the functions below encode into; upvalue 2 keeps it alive. */
static struct es_buf *scratch(lua_State *L)
{
    struct scratch *s = lua_touserdata(L, lua_upvalueindex(2));
    es_buf_clear(&s->buf);
    return &s->buf;
}

static int self(lua_State *L) /* the number of the codec whose function runs */
{
    return (int)lua_tointeger(L, lua_upvalueindex(1));
}

static int fail(lua_State *L, int err)
{
    es_codec_wrap_error(L, err);
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}

static int push_bytes(lua_State *L, struct es_buf *b)
{
    lua_pushlstring(L, b->n > 0 ? (const char *)b->p : "", b->n);
    es_buf_shrink(b, 65536); /* one large value does not stay for ever */
    return 1;
}

static int codec_encode(lua_State *L)
{
    struct es_buf *b = scratch(L);
    int rc = es_codec_encode(L, self(L), 1, lua_gettop(L), b);
    return rc == 0 ? push_bytes(L, b) : fail(L, rc);
}

static int codec_pack(lua_State *L)
{
    struct es_buf *b = scratch(L);
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    int rc = es_codec_pack(L, self(L), 1, b);
    return rc == 0 ? push_bytes(L, b) : fail(L, rc);
}

/* data and the position to start from, counted from 1; behind the last byte is allowed (nothing is there). */
static const uint8_t *check_data(lua_State *L, size_t *n, size_t *from)
{
    const char *s = luaL_checklstring(L, 1, n);
    lua_Integer at = luaL_optinteger(L, 2, 1);
    luaL_argcheck(L, at >= 1 && (lua_Unsigned)at <= *n + 1, 2, "position out of the data");
    *from = (size_t)at - 1;
    *n -= *from;
    return (const uint8_t *)s + *from;
}

static int codec_decode(lua_State *L)
{
    size_t n, from;
    int count;
    const uint8_t *p = check_data(L, &n, &from);
    int rc = es_codec_decode(L, self(L), p, n, &count);
    return rc == 0 ? count : fail(L, rc);
}

static int codec_unpack(lua_State *L)
{
    size_t n, from, used;
    const uint8_t *p = check_data(L, &n, &from);
    int rc = unpack_some(L, self(L), p, n, &used);
    if (rc != 0)
        return fail(L, rc);
    lua_pushinteger(L, (lua_Integer)(from + used) + 1);
    return 2;
}

/* Pushes the table of a codec's functions. buffer: the index of the scratch buffer. */
static void push_functions(lua_State *L, int codec_id, int buffer)
{
    static const luaL_Reg functions[] = {{"encode", codec_encode},
                                         {"decode", codec_decode},
                                         {"pack", codec_pack},
                                         {"unpack", codec_unpack},
                                         {NULL, NULL}};
    lua_createtable(L, 0, 6);
    lua_pushinteger(L, codec_id);
    lua_pushvalue(L, buffer);
    luaL_setfuncs(L, functions, 2);
    lua_pushinteger(L, codec_id);
    lua_setfield(L, -2, "id");
    lua_pushstring(L, es_codec_name(L, codec_id));
    lua_setfield(L, -2, "name");
}

/* codec_register(name, encode, decode): the table that stands in core.codec then; upvalue 1: that table, 2:
 * the scratch buffer. The caller has looked whether the name is free. */
static int codec_register(lua_State *L)
{
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len);

    luaL_checktype(L, 2, LUA_TFUNCTION);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    lua_settop(L, 3);
    luaL_argcheck(L, es_name_valid(name, len) && len <= ES_MAX_CODEC_NAME, 1,
                  "a codec name is 1 to 63 bytes of A-Z a-z 0-9 . _ / : -");
    for (int i = 0; i < N_CODECS; i++)
        luaL_argcheck(L, strcmp(codecs[i].name, name) != 0, 1, "the built-in codecs stay as they are");
    int id = es_custom_add(L, name, len, 2, 3);
    if (id < 0)
        return luaL_error(L, "codec %s: %s", name,
                          id == ES_ERR_LIMIT ? "48 codecs are registered already" : es_strerror(id));
    if (lua_getfield(L, lua_upvalueindex(1), name) == LUA_TTABLE)
        return 1; /* the functions of the name changed behind it */
    push_functions(L, id, lua_upvalueindex(2));
    lua_pushvalue(L, -1);
    lua_setfield(L, lua_upvalueindex(1), name);
    return 1;
}

void es_lua_open_codec(lua_State *L, int core_index)
{
    static const luaL_Reg meta[] = {{"__gc", scratch_gc}, {NULL, NULL}};

    /* Jansson allocates through the counted functions too. They are malloc underneath, so a tree that another
     * user of the library made before may be freed through them. */
    json_set_alloc_funcs(es_malloc, es_free);
    es_lua_open_value(L, core_index);
    es_lua_open_json(L);
    es_lua_open_ext(L, core_index);
    es_lua_class(L, "echostream.scratch", NULL, meta);

    luaL_checkstack(L, 8, NULL);
    es_lua_new(L, "echostream.scratch", sizeof(struct scratch), 0);
    int buffer = lua_gettop(L);
    lua_createtable(L, 0, N_CODECS);
    for (int i = 0; i < N_CODECS; i++) {
        push_functions(L, i, buffer);
        lua_setfield(L, -2, codecs[i].name);
    }
    lua_pushvalue(L, -1);
    lua_pushvalue(L, buffer);
    lua_pushcclosure(L, codec_register, 2);
    lua_setfield(L, core_index, "codec_register");
    lua_setfield(L, core_index, "codec");
    lua_settop(L, buffer - 1);
}
