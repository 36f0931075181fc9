#include "json.h"

#include <jansson.h>
#include <lauxlib.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../base/utf8.h"
#include "../base/err.h"
#include "luaaux.h"
#include "value.h"

/* ---- encoding ---- */

struct encoder {
    lua_State *L;
    struct es_buf *out; /* borrowed */
    int argument;       /* for the error text; 0: a single value */
};

static int refuse(struct encoder *e, const struct es_path *path, int err, const char *why)
{
    es_value_push_path_error(e->L, e->argument, path, why);
    return err;
}

static int no_memory(struct encoder *e)
{
    return refuse(e, NULL, ES_ERR_NOMEM, "out of memory");
}

static int put(struct encoder *e, const char *s, size_t n)
{
    return es_buf_put(e->out, s, n) == 0 ? 0 : no_memory(e);
}

static size_t put_escape(uint8_t *out, unsigned char c)
{
    static const char short_form[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i + 1 < sizeof short_form; i += 2) {
        if ((unsigned char)short_form[i] == c) {
            out[0] = '\\';
            out[1] = (uint8_t)short_form[i + 1];
            return 2;
        }
    }
    memcpy(out, "\\u00", 4);
    out[4] = (uint8_t)hex[c >> 4];
    out[5] = (uint8_t)hex[c & 15];
    return 6;
}

static int put_string(struct encoder *e, const struct es_path *path, int idx)
{
    size_t n;
    const unsigned char *s = (const unsigned char *)lua_tolstring(e->L, idx, &n);

    if (n > SIZE_MAX / 6 - 2 || es_buf_reserve(e->out, n + 2) != 0)
        return no_memory(e);
    e->out->p[e->out->n++] = '"';
    for (size_t i = 0; i < n;) {
        size_t len = es_utf8_len(s + i, n - i);
        if (len == 0)
            return refuse(e, path, ES_ERR_INVAL, "a string that is not UTF-8 cannot be sent as JSON");
        /* what is left, its closing quote, and room for one escape */
        if (es_buf_reserve(e->out, n - i + 8) != 0)
            return no_memory(e);
        uint8_t *p = e->out->p + e->out->n;
        if (s[i] < 0x20 || s[i] == '"' || s[i] == '\\') {
            e->out->n += put_escape(p, s[i]);
        } else {
            memcpy(p, s + i, len);
            e->out->n += len;
        }
        i += len;
    }
    return put(e, "\"", 1);
}

/* The shortest text that reads back as the same number, with a point or an exponent. */
static int put_float(struct encoder *e, const struct es_path *path, double v)
{
    char text[40];

    if (!isfinite(v))
        return refuse(e, path, ES_ERR_INVAL, "NaN and infinity cannot be sent as JSON");
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    /* the host program may have set a locale whose decimal point is something else */
    char *point = strstr(text, localeconv()->decimal_point);
    if (point != NULL) {
        size_t len = strlen(localeconv()->decimal_point);
        *point = '.';
        memmove(point + 1, point + len, strlen(point + len) + 1);
    }
    if (strpbrk(text, ".e") == NULL)
        strcat(text, ".0");
    return put(e, text, strlen(text));
}

static int put_table(struct encoder *e, const struct es_path *path, int idx, int depth);

static int put_value(struct encoder *e, const struct es_path *path, int idx, int depth)
{
    lua_State *L = e->L;
    char text[32];
    switch (lua_type(L, idx)) {
    case LUA_TSTRING:
        return put_string(e, path, idx);
    case LUA_TNUMBER:
        if (!lua_isinteger(L, idx))
            return put_float(e, path, lua_tonumber(L, idx));
        return put(e, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)lua_tointeger(L, idx)));
    case LUA_TBOOLEAN:
        return lua_toboolean(L, idx) ? put(e, "true", 4) : put(e, "false", 5);
    case LUA_TNIL:
        return put(e, "null", 4);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, idx) == NULL)
            return put(e, "null", 4);
        break;
    case LUA_TTABLE:
        return put_table(e, path, idx, depth);
    default:
        break;
    }
    return refuse(e, path, ES_ERR_INVAL, es_value_refusal(L, idx));
}

static int put_array(struct encoder *e, const struct es_path *up, int idx, lua_Integer n, int depth)
{
    struct es_path here = {.up = up};
    int rc = put(e, "[", 1);
    for (lua_Integer i = 1; i <= n && rc == 0; i++) {
        if (i > 1 && (rc = put(e, ",", 1)) != 0)
            break;
        here.index = i;
        lua_rawgeti(e->L, idx, i);
        rc = put_value(e, &here, lua_gettop(e->L), depth);
        if (rc == 0)
            lua_pop(e->L, 1);
    }
    return rc == 0 ? put(e, "]", 1) : rc;
}

static int put_map(struct encoder *e, const struct es_path *up, int idx, int depth)
{
    lua_State *L = e->L;
    struct es_path here = {.up = up};
    int first = 1;
    int rc = put(e, "{", 1);

    lua_pushnil(L);
    while (rc == 0 && lua_next(L, idx) != 0) {
        int value = lua_gettop(L);
        if (lua_type(L, value - 1) != LUA_TSTRING)
            return refuse(e, up, ES_ERR_INVAL, "a key that is not a string cannot be sent as JSON");
        here.key = lua_tolstring(L, value - 1, &here.key_len);
        rc = first ? 0 : put(e, ",", 1);
        first = 0;
        if (rc == 0)
            rc = put_string(e, &here, value - 1);
        if (rc == 0)
            rc = put(e, ":", 1);
        if (rc == 0)
            rc = put_value(e, &here, value, depth);
        if (rc == 0)
            lua_pop(L, 1);
    }
    return rc == 0 ? put(e, "}", 1) : rc;
}

static int put_table(struct encoder *e, const struct es_path *path, int idx, int depth)
{
    lua_Integer n = 0;
    if (depth >= ES_CODEC_MAX_DEPTH)
        return refuse(e, path, ES_ERR_LIMIT, "tables nest more than 64 deep (or contain themselves)");
    if (!lua_checkstack(e->L, 6))
        return no_memory(e);
    if (es_value_shape(e->L, idx, &n) == ES_SHAPE_ARRAY)
        return put_array(e, path, idx, n, depth + 1);
    return put_map(e, path, idx, depth + 1);
}

/* The reason on top becomes the only thing above `base`. */
static int drop_parts(lua_State *L, int base, int rc)
{
    lua_rotate(L, base + 1, 1);
    lua_settop(L, base + 1);
    return rc;
}

int es_json_encode(lua_State *L, int first, int n, struct es_buf *out)
{
    struct encoder e = {.L = L, .out = out};
    size_t mark = out->n;
    int base = lua_gettop(L);

    if (n > ES_CODEC_MAX_VALUES) {
        lua_pushfstring(L, "%d values, but at most %d can be sent", n, ES_CODEC_MAX_VALUES);
        return ES_ERR_LIMIT;
    }
    int rc = put(&e, "[", 1);
    for (int i = 0; i < n && rc == 0; i++) {
        e.argument = i + 1;
        rc = i > 0 ? put(&e, ",", 1) : 0;
        if (rc == 0)
            rc = put_value(&e, NULL, first + i, 0);
    }
    if (rc == 0)
        rc = put(&e, "]", 1);
    if (rc == 0)
        return 0;
    out->n = mark;
    return drop_parts(L, base, rc);
}

int es_json_pack(lua_State *L, int idx, struct es_buf *out)
{
    struct encoder e = {.L = L, .out = out};
    size_t mark = out->n;
    int base = lua_gettop(L);
    int rc = put_value(&e, NULL, lua_absindex(L, idx), 0);
    if (rc == 0)
        return 0;
    out->n = mark;
    return drop_parts(L, base, rc);
}

/* ---- decoding ---- */

#define BOX "echostream.json"

/* Pushing Lua values can raise out of memory; the tree is freed then, because this userdata holds it. */
struct box {
    json_t *tree; /* owned */
};

static int box_gc(lua_State *L)
{
    struct box *b = luaL_checkudata(L, 1, BOX);
    json_decref(b->tree); /* NULL is fine */
    b->tree = NULL;
    return 0;
}

void es_lua_open_json(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", box_gc}, {NULL, NULL}};
    es_lua_class(L, BOX, NULL, meta);
}

static int push_value(lua_State *L, const json_t *v, int depth);

static int push_array(lua_State *L, const json_t *v, int depth)
{
    size_t n = json_array_size(v);
    lua_createtable(L, n < 65536 ? (int)n : 65536, 0);
    for (size_t i = 0; i < n; i++) {
        int rc = push_value(L, json_array_get(v, i), depth);
        if (rc != 0)
            return rc;
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    if (n == 0)
        es_value_mark(L, ES_SHAPE_ARRAY);
    return 0;
}

static int push_object(lua_State *L, json_t *v, int depth)
{
    size_t n = json_object_size(v);
    lua_createtable(L, 0, n < 65536 ? (int)n : 65536);
    for (void *it = json_object_iter(v); it != NULL; it = json_object_iter_next(v, it)) {
        lua_pushstring(L, json_object_iter_key(it)); /* the parser refuses keys with a NUL */
        int rc = push_value(L, json_object_iter_value(it), depth);
        if (rc != 0)
            return rc;
        lua_rawset(L, -3);
    }
    return 0;
}

/* Null is pushed as echo.null. */
static int push_value(lua_State *L, const json_t *v, int depth)
{
    switch (json_typeof(v)) {
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(v), json_string_length(v));
        return 0;
    case JSON_INTEGER:
        lua_pushinteger(L, (lua_Integer)json_integer_value(v));
        return 0;
    case JSON_REAL:
        lua_pushnumber(L, json_real_value(v));
        return 0;
    case JSON_TRUE:
    case JSON_FALSE:
        lua_pushboolean(L, json_is_true(v));
        return 0;
    case JSON_NULL:
        es_value_push_null(L);
        return 0;
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    if (depth >= ES_CODEC_MAX_DEPTH) {
        lua_pushliteral(L, "arrays and objects nest more than 64 deep");
        return ES_ERR_LIMIT;
    }
    if (!lua_checkstack(L, 8)) {
        lua_pushliteral(L, "out of memory");
        return ES_ERR_NOMEM;
    }
    return json_is_array(v) ? push_array(L, v, depth + 1) : push_object(L, (json_t *)v, depth + 1);
}

static int push_top_value(lua_State *L, const json_t *v)
{
    if (!json_is_null(v))
        return push_value(L, v, 0);
    lua_pushnil(L);
    return 0;
}

/* Parses into a box, pushed. *used: bytes read. */
static int parse(lua_State *L, const uint8_t *p, size_t n, size_t flags, const json_t **tree, size_t *used)
{
    json_error_t error;
    struct box *b = es_lua_new(L, BOX, sizeof *b, 0);

    flags |= JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    b->tree = json_loadb(n > 0 ? (const char *)p : "", n, flags, &error);
    if (b->tree == NULL) {
        /* the text quotes the peer's bytes; it may end up in a log */
        for (char *c = error.text; *c != '\0'; c++)
            *c = (unsigned char)*c < 32 || *c == 127 ? '?' : *c;
        lua_pushfstring(L, "byte %d: %s", error.position, error.text);
        return json_error_code(&error) == json_error_out_of_memory ? ES_ERR_NOMEM : ES_ERR_PROTOCOL;
    }
    *tree = b->tree;
    *used = (size_t)error.position;
    return 0;
}

int es_json_decode(lua_State *L, const uint8_t *p, size_t n, int *count)
{
    int base = lua_gettop(L);
    const json_t *tree;
    size_t values, used;

    *count = 0;
    luaL_checkstack(L, 8, "json");
    int rc = parse(L, p, n, 0, &tree, &used);
    if (rc != 0)
        return drop_parts(L, base, rc);
    values = json_array_size(tree);
    if (!json_is_array(tree)) {
        lua_pushliteral(L, "an array of values is expected");
        return drop_parts(L, base, ES_ERR_PROTOCOL);
    }
    if (values > ES_CODEC_MAX_VALUES) {
        lua_pushliteral(L, "more than 250 values");
        return drop_parts(L, base, ES_ERR_LIMIT);
    }
    if (!lua_checkstack(L, (int)values + 8)) {
        lua_pushliteral(L, "out of memory");
        return drop_parts(L, base, ES_ERR_NOMEM);
    }
    for (size_t i = 0; i < values; i++) {
        rc = push_top_value(L, json_array_get(tree, i));
        if (rc != 0)
            return drop_parts(L, base, rc);
    }
    struct box *b = lua_touserdata(L, base + 1);
    json_decref(b->tree); /* now, not at some collection */
    b->tree = NULL;
    lua_remove(L, base + 1);
    *count = (int)values;
    return 0;
}

int es_json_unpack(lua_State *L, const uint8_t *p, size_t n, size_t *used)
{
    int base = lua_gettop(L);
    const json_t *tree;

    *used = 0;
    luaL_checkstack(L, 8, "json");
    int rc = parse(L, p, n, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &tree, used);
    if (rc == 0)
        rc = push_top_value(L, tree);
    if (rc != 0) {
        *used = 0;
        return drop_parts(L, base, rc);
    }
    struct box *b = lua_touserdata(L, base + 1);
    json_decref(b->tree);
    b->tree = NULL;
    lua_remove(L, base + 1);
    return 0;
}
