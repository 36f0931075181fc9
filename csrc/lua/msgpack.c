#include "msgpack.h"

#include <string.h>
#include "../base/err.h"
#include "ext.h"
#include "value.h"

/* ---- encoding ---- */

struct encoder {
    lua_State *L;
    struct es_buf *out; /* borrowed */
    int argument;       /* for the error text; 0: a single value */
};

static size_t put_be(uint8_t *p, uint8_t tag, uint64_t v, unsigned bytes)
{
    p[0] = tag;
    for (unsigned i = bytes; i > 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
    return bytes + 1;
}

/* Both leave the reason on top of the stack, at once: the path lies in C frames that are about to go. */
static int refuse(struct encoder *e, const struct es_path *path, int err, const char *why)
{
    es_value_push_path_error(e->L, e->argument, path, why);
    return err;
}

static int no_memory(struct encoder *e)
{
    return refuse(e, NULL, ES_ERR_NOMEM, "out of memory");
}

static int put_integer(struct encoder *e, lua_Integer v)
{
    if (es_buf_reserve(e->out, 9) != 0)
        return no_memory(e);
    uint8_t *p = e->out->p + e->out->n;
    size_t n;
    uint64_t u = (uint64_t)v;
    if (v >= -32 && v < 128) {
        p[0] = (uint8_t)v;
        n = 1;
    } else if (v >= 0) {
        n = u <= 0xff         ? put_be(p, 0xcc, u, 1)
            : u <= 0xffff     ? put_be(p, 0xcd, u, 2)
            : u <= 0xffffffff ? put_be(p, 0xce, u, 4)
                              : put_be(p, 0xcf, u, 8);
    } else {
        n = v >= INT8_MIN    ? put_be(p, 0xd0, u, 1)
            : v >= INT16_MIN ? put_be(p, 0xd1, u, 2)
            : v >= INT32_MIN ? put_be(p, 0xd2, u, 4)
                             : put_be(p, 0xd3, u, 8);
    }
    e->out->n += n;
    return 0;
}

static int put_float(struct encoder *e, double v)
{
    uint64_t u;
    if (es_buf_reserve(e->out, 9) != 0)
        return no_memory(e);
    memcpy(&u, &v, sizeof u);
    e->out->n += put_be(e->out->p + e->out->n, 0xcb, u, 8);
    return 0;
}

static int put_byte(struct encoder *e, uint8_t b)
{
    if (es_buf_reserve(e->out, 1) != 0)
        return no_memory(e);
    e->out->p[e->out->n++] = b;
    return 0;
}

static int put_string(struct encoder *e, const struct es_path *path, int idx)
{
    size_t n;
    const char *s = lua_tolstring(e->L, idx, &n);
    if (n > UINT32_MAX)
        return refuse(e, path, ES_ERR_INVAL, "a string of 4 GiB or more cannot be sent");
    if (es_buf_reserve(e->out, n + 5) != 0)
        return no_memory(e);
    uint8_t *p = e->out->p + e->out->n;
    size_t head = 1;
    if (n < 32)
        p[0] = (uint8_t)(0xa0 | n);
    else
        head = n <= 0xff     ? put_be(p, 0xd9, n, 1)
               : n <= 0xffff ? put_be(p, 0xda, n, 2)
                             : put_be(p, 0xdb, n, 4);
    memcpy(p + head, s, n);
    e->out->n += head + n;
    return 0;
}

static int put_table(struct encoder *e, const struct es_path *path, int idx, int depth);

/* A value of an extension type: its own functions run, and may use the buffer meanwhile. */
static int put_ext(struct encoder *e, const struct es_path *path, int idx, int type)
{
    int rc = es_ext_pack(e->L, idx, type, e->out);
    return rc == 0 ? 0 : refuse(e, path, rc, lua_tostring(e->L, -1));
}

static int put_value(struct encoder *e, const struct es_path *path, int idx, int depth)
{
    lua_State *L = e->L;
    int type;
    switch (lua_type(L, idx)) {
    case LUA_TSTRING:
        return put_string(e, path, idx);
    case LUA_TNUMBER:
        return lua_isinteger(L, idx) ? put_integer(e, lua_tointeger(L, idx))
                                     : put_float(e, lua_tonumber(L, idx));
    case LUA_TBOOLEAN:
        return put_byte(e, lua_toboolean(L, idx) ? 0xc3 : 0xc2);
    case LUA_TNIL:
        return put_byte(e, 0xc0);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, idx) == NULL)
            return put_byte(e, 0xc0);
        break;
    case LUA_TTABLE:
        return put_table(e, path, idx, depth);
    case LUA_TUSERDATA:
        if (lua_checkstack(L, 4) && es_ext_of(L, idx, &type))
            return put_ext(e, path, idx, type);
        break;
    default:
        break;
    }
    return refuse(e, path, ES_ERR_INVAL, es_value_refusal(L, idx));
}

static int put_array(struct encoder *e, const struct es_path *up, int idx, lua_Integer n, int depth)
{
    struct es_path here = {.up = up};
    int rc = 0;

    if (n > UINT32_MAX)
        return refuse(e, up, ES_ERR_INVAL, "an array of 2^32 elements or more cannot be sent");
    if (es_buf_reserve(e->out, 5 + (size_t)n) != 0) /* at least a byte each */
        return no_memory(e);
    uint8_t *p = e->out->p + e->out->n;
    e->out->n += n < 16        ? put_be(p, (uint8_t)(0x90 | n), 0, 0)
                 : n <= 0xffff ? put_be(p, 0xdc, (uint64_t)n, 2)
                               : put_be(p, 0xdd, (uint64_t)n, 4);
    for (lua_Integer i = 1; i <= n && rc == 0; i++) {
        here.index = i;
        lua_rawgeti(e->L, idx, i);
        rc = put_value(e, &here, lua_gettop(e->L), depth);
        if (rc == 0)
            lua_pop(e->L, 1);
    }
    return rc;
}

static int put_key(struct encoder *e, const struct es_path *up, struct es_path *here, int key)
{
    switch (lua_type(e->L, key)) {
    case LUA_TSTRING:
        here->key = lua_tolstring(e->L, key, &here->key_len);
        break;
    case LUA_TNUMBER:
        here->key = lua_isinteger(e->L, key) ? NULL : "a float";
        here->key_len = 7;
        here->index = lua_isinteger(e->L, key) ? lua_tointeger(e->L, key) : 0;
        break;
    case LUA_TBOOLEAN:
        here->key = lua_toboolean(e->L, key) ? "true" : "false";
        here->key_len = strlen(here->key);
        break;
    case LUA_TTABLE:
        return refuse(e, up, ES_ERR_INVAL, "a table cannot be a key");
    default: /* null as a key would be read as nil */
        return refuse(e, up, ES_ERR_INVAL, "a key that is not a string, number or boolean cannot be sent");
    }
    return put_value(e, here, key, 0);
}

/* How many pairs there are is known at the end, so the header is written for fewer than 16 and widened then.
 */
static int put_map(struct encoder *e, const struct es_path *up, int idx, int depth)
{
    lua_State *L = e->L;
    struct es_path here = {.up = up};
    size_t mark = e->out->n;
    uint64_t count = 0;
    int rc = put_byte(e, 0x80);

    lua_pushnil(L);
    while (rc == 0 && lua_next(L, idx) != 0) {
        int value = lua_gettop(L);
        rc = put_key(e, up, &here, value - 1);
        if (rc == 0)
            rc = put_value(e, &here, value, depth);
        if (rc == 0)
            lua_pop(L, 1);
        count++;
    }
    if (rc != 0)
        return rc;
    if (count < 16) {
        e->out->p[mark] = (uint8_t)(0x80 | count);
        return 0;
    }
    if (count > UINT32_MAX)
        return refuse(e, up, ES_ERR_INVAL, "a map of 2^32 pairs or more cannot be sent");
    unsigned more = count <= 0xffff ? 2 : 4;
    if (es_buf_reserve(e->out, more) != 0)
        return no_memory(e);
    uint8_t *p = e->out->p + mark;
    memmove(p + 1 + more, p + 1, e->out->n - mark - 1);
    put_be(p, more == 2 ? 0xde : 0xdf, count, more);
    e->out->n += more;
    return 0;
}

static int put_table(struct encoder *e, const struct es_path *path, int idx, int depth)
{
    lua_Integer n = 0;
    int rc, type;

    if (!lua_checkstack(e->L, 6))
        rc = no_memory(e);
    else if (es_ext_of(e->L, idx, &type)) /* no container on the wire, so it may stand at the deepest place */
        rc = put_ext(e, path, idx, type);
    else if (depth >= ES_CODEC_MAX_DEPTH)
        rc = refuse(e, path, ES_ERR_LIMIT, "tables nest more than 64 deep (or contain themselves)");
    else if (es_value_shape(e->L, idx, &n) == ES_SHAPE_ARRAY)
        rc = put_array(e, path, idx, n, depth + 1);
    else
        rc = put_map(e, path, idx, depth + 1);
    return rc;
}

/* The reason on top becomes the only thing above `base`, and `out` what it was. */
static int give_up(struct encoder *e, int base, size_t mark, int rc)
{
    lua_rotate(e->L, base + 1, 1);
    lua_settop(e->L, base + 1);
    e->out->n = mark;
    return rc;
}

int es_mp_encode(lua_State *L, int first, int n, struct es_buf *out)
{
    struct encoder e = {.L = L, .out = out};
    size_t mark = out->n;
    int base = lua_gettop(L), rc = 0;

    if (n > ES_CODEC_MAX_VALUES) {
        lua_pushfstring(L, "%d values, but at most %d can be sent", n, ES_CODEC_MAX_VALUES);
        return ES_ERR_LIMIT;
    }
    if (es_buf_reserve(out, 64) != 0) {
        rc = no_memory(&e);
        return give_up(&e, base, mark, rc);
    }
    out->n += n < 16 ? put_be(out->p + out->n, (uint8_t)(0x90 | n), 0, 0)
                     : put_be(out->p + out->n, 0xdc, (uint64_t)n, 2);
    for (int i = 0; i < n; i++) {
        e.argument = i + 1;
        rc = put_value(&e, NULL, first + i, 0);
        if (rc != 0)
            return give_up(&e, base, mark, rc);
    }
    return 0;
}

int es_mp_pack(lua_State *L, int idx, struct es_buf *out)
{
    struct encoder e = {.L = L, .out = out};
    size_t mark = out->n;
    int base = lua_gettop(L);
    int rc = put_value(&e, NULL, lua_absindex(L, idx), 0);
    return rc == 0 ? 0 : give_up(&e, base, mark, rc);
}

/* ---- decoding ---- */

struct decoder {
    lua_State *L;
    const uint8_t *start, *p, *end; /* borrowed */
    uint64_t promised;              /* elements that the containers around the current one still promise */
    struct es_flood flood;
};

static int malformed(struct decoder *d, int err, const char *why)
{
    lua_checkstack(d->L, 2);
    lua_pushfstring(d->L, "byte %I: %s", (LUAI_UACINT)(d->p - d->start), why);
    return err;
}

static uint64_t get_be(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    while (n-- > 0)
        v = v << 8 | *p++;
    return v;
}

static int truncated(struct decoder *d)
{
    return malformed(d, ES_ERR_PROTOCOL, "the data end inside a value");
}

static int get_value(struct decoder *d, int depth);

/* head: bytes of the tag and the length. */
static int get_string(struct decoder *d, size_t head, uint64_t n)
{
    if (n > (size_t)(d->end - d->p) - head)
        return malformed(d, ES_ERR_PROTOCOL, "a string is longer than the data");
    lua_pushlstring(d->L, (const char *)d->p + head, (size_t)n);
    d->p += head + n;
    return 0;
}

/* Takes the tag and length; on success `per * n` elements (one for an array's, two for a map's) are promised
 * and there are bytes for them. */
static int open_container(struct decoder *d, size_t head, uint64_t n, unsigned per, int depth)
{
    if (depth >= ES_CODEC_MAX_DEPTH)
        return malformed(d, ES_ERR_LIMIT, "containers nest more than 64 deep");
    if (n * per > (uint64_t)(d->end - d->p) - head ||
        d->promised > (uint64_t)(d->end - d->p) - head - n * per)
        return malformed(d, ES_ERR_PROTOCOL, "a container has more elements than the data can hold");
    if (!lua_checkstack(d->L, 8))
        return malformed(d, ES_ERR_NOMEM, "out of memory");
    d->promised += n * per;
    d->p += head;
    return 0;
}

static void null_inside(lua_State *L)
{
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        es_value_push_null(L);
    }
}

static int get_array(struct decoder *d, size_t head, uint64_t n, int depth)
{
    lua_State *L = d->L;
    int rc = open_container(d, head, n, 1, depth);
    if (rc != 0)
        return rc;
    lua_createtable(L, n < 65536 ? (int)n : 65536, 0);
    for (uint64_t i = 1; i <= n; i++) {
        d->promised--;
        rc = get_value(d, depth + 1);
        if (rc != 0)
            return rc;
        null_inside(L);
        lua_rawseti(L, -2, (lua_Integer)i);
    }
    if (n == 0)
        es_value_mark(L, ES_SHAPE_ARRAY);
    return 0;
}

static int check_key(struct decoder *d)
{
    lua_State *L = d->L;
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
    case LUA_TBOOLEAN:
        break;
    case LUA_TNUMBER:
        if (lua_isinteger(L, -1) || lua_tonumber(L, -1) == lua_tonumber(L, -1))
            break;
        return malformed(d, ES_ERR_PROTOCOL, "NaN is no key");
    default:
        return malformed(d, ES_ERR_PROTOCOL, "a key that is not a string, number or boolean");
    }
    lua_pushvalue(L, -1);
    int seen = lua_rawget(L, -3) != LUA_TNIL; /* values are never nil, so this finds every earlier one */
    lua_pop(L, 1);
    return seen ? malformed(d, ES_ERR_PROTOCOL, "a key comes twice in a map") : 0;
}

static int get_map(struct decoder *d, size_t head, uint64_t n, int depth)
{
    lua_State *L = d->L;
    struct es_flood_map fm = {.n = (size_t)n};
    int rc = open_container(d, head, n, 2, depth);
    if (rc != 0)
        return rc;
    lua_createtable(L, 0, n < ES_FLOOD_PRESIZED ? (int)n : ES_FLOOD_PRESIZED);
    for (uint64_t i = 0; i < n; i++) {
        d->promised--;
        rc = get_value(d, depth + 1);
        if (rc == 0 && n > ES_FLOOD_SMALL && lua_type(L, -1) == LUA_TNUMBER &&
            !es_flood_key(L, &d->flood, &fm))
            rc = malformed(d, ES_ERR_LIMIT, "the keys of maps fall together as if they were chosen to");
        if (rc == 0)
            rc = check_key(d);
        if (rc != 0)
            return rc;
        d->promised--;
        rc = get_value(d, depth + 1);
        if (rc != 0)
            return rc;
        null_inside(L);
        lua_rawset(L, -3);
    }
    if (fm.seen != NULL)
        lua_remove(L, -2);
    if (n > 0 && lua_rawlen(L, -1) > 0)
        es_value_mark(L, ES_SHAPE_MAP);
    return 0;
}

static int push_unsigned(struct decoder *d, uint64_t v)
{
    if (v > INT64_MAX)
        return malformed(d, ES_ERR_PROTOCOL, "an integer above 2^63 - 1 is out of range");
    lua_pushinteger(d->L, (lua_Integer)v);
    return 0;
}

/* 0xca-0xd3: the argument's bytes follow the tag. */
static int get_number(struct decoder *d, uint8_t tag, unsigned bytes)
{
    uint64_t v = get_be(d->p + 1, bytes);
    int rc = 0;
    float f;
    double g;
    uint32_t u = (uint32_t)v;

    switch (tag) {
    case 0xca:
        memcpy(&f, &u, sizeof f);
        lua_pushnumber(d->L, (lua_Number)f);
        break;
    case 0xcb:
        memcpy(&g, &v, sizeof g);
        lua_pushnumber(d->L, g);
        break;
    case 0xd0:
        lua_pushinteger(d->L, (int8_t)v);
        break;
    case 0xd1:
        lua_pushinteger(d->L, (int16_t)v);
        break;
    case 0xd2:
        lua_pushinteger(d->L, (int32_t)v);
        break;
    case 0xd3:
        lua_pushinteger(d->L, (lua_Integer)v);
        break;
    default:
        rc = push_unsigned(d, v);
        break;
    }
    d->p += rc == 0 ? 1 + bytes : 0;
    return rc;
}

/* An extension type: tag, length unless the tag says it, type, bytes. Its function sees a copy of them. */
static int get_ext(struct decoder *d, uint8_t tag)
{
    unsigned bytes = tag >= 0xd4 ? 0 : 1u << (tag - 0xc7);
    size_t left = (size_t)(d->end - d->p);
    uint64_t n;
    int rc;

    if (left < 2 + bytes)
        return truncated(d);
    n = bytes == 0 ? UINT64_C(1) << (tag - 0xd4) : get_be(d->p + 1, bytes);
    if (n > left - 2 - bytes)
        return malformed(d, ES_ERR_PROTOCOL, "an extension is longer than the data");
    if (d->promised > left - 2 - bytes - n)
        return malformed(d, ES_ERR_PROTOCOL, "a container has more elements than the data can hold");
    rc = es_ext_unpack(d->L, (int8_t)d->p[1 + bytes], d->p + 2 + bytes, (size_t)n);
    if (rc != 0)
        return malformed(d, rc, lua_tostring(d->L, -1));
    d->p += 2 + bytes + n;
    return 0;
}

/* Tags from 0xc0 to 0xdf. */
static int get_tagged(struct decoder *d, uint8_t tag, int depth)
{
    /* bytes that follow the tag: a length or a number; 0xff: an extension type */
    static const uint8_t follow[32] = {0, 0, 0, 0, 1,    2,    4,    0xff, 0xff, 0xff, 4, 8, 1, 2, 4, 8,
                                       1, 2, 4, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 1,    2, 4, 2, 4, 2, 4};
    unsigned bytes = follow[tag - 0xc0];

    if (bytes == 0xff)
        return get_ext(d, tag);
    if ((size_t)(d->end - d->p) < 1 + bytes)
        return truncated(d);
    switch (tag) {
    case 0xc0:
        lua_pushnil(d->L);
        break;
    case 0xc1:
        return malformed(d, ES_ERR_PROTOCOL, "the tag 0xc1 is never used");
    case 0xc2:
    case 0xc3:
        lua_pushboolean(d->L, tag == 0xc3);
        break;
    case 0xc4: /* bin */
    case 0xc5:
    case 0xc6:
    case 0xd9: /* str */
    case 0xda:
    case 0xdb:
        return get_string(d, 1 + bytes, get_be(d->p + 1, bytes));
    case 0xdc:
    case 0xdd:
        return get_array(d, 1 + bytes, get_be(d->p + 1, bytes), depth);
    case 0xde:
    case 0xdf:
        return get_map(d, 1 + bytes, get_be(d->p + 1, bytes), depth);
    default:
        return get_number(d, tag, bytes);
    }
    d->p++;
    return 0;
}

/* Pushes the value at d->p. After an error the stack may hold parts of it below the reason. */
static int get_value(struct decoder *d, int depth)
{
    if (d->p == d->end)
        return truncated(d);
    uint8_t tag = *d->p;
    if (tag < 0x80 || tag >= 0xe0) {
        lua_pushinteger(d->L, (int8_t)tag);
        d->p++;
        return 0;
    }
    if (tag >= 0xa0 && tag < 0xc0)
        return get_string(d, 1, tag & 0x1f);
    if (tag >= 0xc0)
        return get_tagged(d, tag, depth);
    if (tag >= 0x90)
        return get_array(d, 1, tag & 0x0f, depth);
    return get_map(d, 1, tag & 0x0f, depth);
}

static int drop_parts(lua_State *L, int base, int rc)
{
    lua_rotate(L, base + 1, 1);
    lua_settop(L, base + 1);
    return rc;
}

/* The header of the outer array, which is not a value of its own: its elements go to the stack. */
static int get_header(struct decoder *d, uint64_t *n)
{
    size_t left = (size_t)(d->end - d->p), head;
    if (left == 0)
        return malformed(d, ES_ERR_PROTOCOL, "no data where an array of values should be");
    uint8_t tag = *d->p;
    if (tag >= 0x90 && tag <= 0x9f) {
        *n = tag & 0x0f;
        head = 1;
    } else if (tag == 0xdc || tag == 0xdd) {
        head = tag == 0xdc ? 3 : 5;
        if (left < head)
            return truncated(d);
        *n = get_be(d->p + 1, (unsigned)head - 1);
    } else {
        return malformed(d, ES_ERR_PROTOCOL, "an array of values is expected");
    }
    if (*n > left - head)
        return malformed(d, ES_ERR_PROTOCOL, "a container has more elements than the data can hold");
    if (*n > ES_CODEC_MAX_VALUES)
        return malformed(d, ES_ERR_LIMIT, "more than 250 values");
    d->p += head;
    return 0;
}

int es_mp_decode(lua_State *L, const uint8_t *p, size_t n, int *count)
{
    struct decoder d = {.L = L, .start = p, .p = p, .end = p + n};
    int base = lua_gettop(L);
    uint64_t values = 0;

    es_flood_init(&d.flood, n);
    *count = 0;
    int rc = get_header(&d, &values);
    if (rc == 0 && !lua_checkstack(L, (int)values + 8))
        rc = malformed(&d, ES_ERR_NOMEM, "out of memory");
    d.promised = values;
    for (uint64_t i = 0; rc == 0 && i < values; i++) {
        d.promised--;
        rc = get_value(&d, 0);
    }
    if (rc == 0 && d.p != d.end)
        rc = malformed(&d, ES_ERR_PROTOCOL, "bytes follow the last value");
    if (rc != 0)
        return drop_parts(L, base, rc);
    *count = (int)values;
    return 0;
}

int es_mp_unpack(lua_State *L, const uint8_t *p, size_t n, size_t *used)
{
    struct decoder d = {.L = L, .start = p, .p = p, .end = p + n};
    int base = lua_gettop(L);

    es_flood_init(&d.flood, n);
    *used = 0;
    int rc = lua_checkstack(L, 8) ? get_value(&d, 0) : malformed(&d, ES_ERR_NOMEM, "out of memory");
    if (rc != 0)
        return drop_parts(L, base, rc);
    *used = (size_t)(d.p - p);
    return 0;
}
