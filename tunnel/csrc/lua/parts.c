/* Messages of data streams in Lua. */
#include <string.h>
#include "../head/parts.h"
#include "binding.h"

static const char *const names[] = {"",        "cancel",   "refused",      "protocol", "truncated",
                                    "timeout", "internal", "enhance_calm", "no_error"};

const char *et_reset_name(unsigned why)
{
    return why >= 1 && why < sizeof names / sizeof *names ? names[why] : names[ET_RESET_INTERNAL];
}

unsigned et_reset_number(const char *name)
{
    for (unsigned i = 1; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return 0;
}

/* What is built may not be lost when Lua raises: a buffer of one's own under the collector. */
static int gc_buffer(lua_State *L)
{
    es_buf_free(luaL_checkudata(L, 1, "echostream.tunnel.buffer"));
    return 0;
}

static struct es_buf *new_buffer(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}}, meta[] = {{"__gc", gc_buffer}, {NULL, NULL}};
    struct es_buf *b = lua_newuserdatauv(L, sizeof *b, 0);

    memset(b, 0, sizeof *b);
    et_lua_class(L, "echostream.tunnel.buffer", none, meta);
    luaL_setmetatable(L, "echostream.tunnel.buffer");
    return b;
}

static int finish(lua_State *L, struct es_buf *b, int rv)
{
    if (rv != 0) {
        return luaL_error(L, "out of memory");
    }
    lua_pushlstring(L, (const char *)b->p, b->n);
    es_buf_free(b);
    return 1;
}

int et_lua_head_part(lua_State *L)
{
    struct et_head *h = et_lua_check_head(L, 1);
    int fin = lua_toboolean(L, 2), rv;
    struct es_buf *b = new_buffer(L);

    rv = et_part_put_head(b, h);
    if (rv == 0 && fin && et_head_kind(h) != ET_HEAD_TRAILERS) {
        rv = et_part_put(b, ET_PART_END, NULL, 0);
    }
    return finish(L, b, rv);
}

static int put_reset(lua_State *L, struct es_buf *b)
{
    const char *why = "cancel", *text = "";
    size_t n = 0;
    unsigned number;

    if (lua_type(L, 2) == LUA_TTABLE) {
        if (lua_rawgeti(L, 2, 1) == LUA_TNIL) {
            lua_getfield(L, 2, "why");
            lua_getfield(L, 2, "text");
        } else {
            lua_rawgeti(L, 2, 2);
        }
        why = luaL_optstring(L, -2, why);
        text = luaL_optlstring(L, -1, text, &n);
    } else {
        why = luaL_optstring(L, 2, why);
    }
    number = et_reset_number(why);
    luaL_argcheck(L, number != 0, 2, "why: \"cancel\", \"refused\", …");
    return et_part_put_reset(b, number, text, n);
}

int et_lua_part(lua_State *L)
{
    static const char *const kinds[] = {"body", "end", "reset", "note", NULL};
    int kind = luaL_checkoption(L, 1, NULL, kinds), rv;
    struct es_buf *b;
    const char *p;
    size_t n = 0;

    lua_settop(L, 2);
    p = kind == 0 || kind == 3 ? luaL_checklstring(L, 2, &n) : "";
    b = new_buffer(L);
    switch (kind) {
    case 0:
        rv = et_part_put_body(b, p, n);
        break;
    case 1:
        rv = et_part_put(b, ET_PART_END, NULL, 0);
        break;
    case 2:
        rv = put_reset(L, b);
        break;
    default:
        rv = et_part_put(b, ET_PART_NOTE, p, n);
        break;
    }
    return finish(L, b, rv);
}

static int malformed(lua_State *L, int rv)
{
    return et_lua_fail(L, rv, rv == ES_ERR_PROTOCOL ? "a malformed message of a data stream" : NULL);
}

/* Pushes kind and value of a part: 0, or an es_err and nothing pushed. */
static int push_part(lua_State *L, const struct et_part *part)
{
    static const char *const kinds[] = {"",         "head", "informational", "body",
                                        "trailers", "end",  "reset",         "note"};
    struct et_head *h;
    uint64_t why;
    struct et_text text;
    int rv;

    switch (part->type) {
    case ET_PART_HEAD:
    case ET_PART_INFORMATIONAL:
    case ET_PART_TRAILERS:
        rv = et_part_head(part, &h);
        if (rv != 0) {
            return rv;
        }
        lua_pushstring(L, kinds[part->type]);
        et_lua_push_head(L, h);
        return 0;
    case ET_PART_RESET:
        rv = et_part_reset(part, &why, &text);
        if (rv != 0) {
            return rv;
        }
        lua_pushstring(L, kinds[part->type]);
        lua_createtable(L, 2, 0);
        lua_pushstring(L, et_reset_name(why < 256 ? (unsigned)why : 0));
        lua_rawseti(L, -2, 1);
        lua_pushlstring(L, text.p, text.n);
        lua_rawseti(L, -2, 2);
        return 0;
    case ET_PART_END:
        lua_pushstring(L, kinds[part->type]);
        lua_pushboolean(L, 1);
        return 0;
    case ET_PART_BODY:
    case ET_PART_NOTE:
        break;
    }
    lua_pushstring(L, kinds[part->type]);
    lua_pushlstring(L, (const char *)part->p, part->n);
    return 0;
}

static int next_part(lua_State *L)
{
    lua_Integer i = lua_tointeger(L, lua_upvalueindex(2));

    lua_pushinteger(L, i + 2);
    lua_replace(L, lua_upvalueindex(2));
    lua_rawgeti(L, lua_upvalueindex(1), i);
    lua_rawgeti(L, lua_upvalueindex(1), i + 1);
    return 2;
}

int et_lua_parts(lua_State *L)
{
    size_t n;
    const uint8_t *p = (const uint8_t *)luaL_checklstring(L, 1, &n);
    struct et_part part;
    lua_Integer count = 0;
    int rv = n == 0 ? ES_ERR_PROTOCOL : 0;

    lua_settop(L, 1); /* what take() returns may be given whole */
    lua_newtable(L);
    while (rv == 0 && (rv = et_part_next(&p, &n, &part)) > 0) {
        luaL_checkstack(L, 4, NULL);
        rv = push_part(L, &part);
        if (rv == 0) {
            lua_rawseti(L, 2, count + 2);
            lua_rawseti(L, 2, count + 1);
            count += 2;
        }
    }
    if (rv < 0) {
        return malformed(L, rv);
    }
    lua_pushinteger(L, 1);
    lua_pushcclosure(L, next_part, 2);
    return 1;
}

int et_lua_split(lua_State *L)
{
    size_t n, notes = 0;
    const uint8_t *p = (const uint8_t *)luaL_checklstring(L, 1, &n), *note = NULL;
    struct et_part part;
    struct et_head *h;
    int rv = et_part_check(p, n), more = 0;

    while (rv == 0 && (more = et_part_next(&p, &n, &part)) > 0 && part.type == ET_PART_NOTE) {
        note = part.p;
        notes = part.n;
    }
    if (rv == 0 && more > 0) {
        rv = part.type == ET_PART_HEAD || part.type == ET_PART_INFORMATIONAL ? et_part_head(&part, &h)
                                                                             : ES_ERR_PROTOCOL;
    }
    if (rv != 0) {
        return malformed(L, rv);
    }
    if (more > 0) {
        et_lua_push_head(L, h);
    } else {
        lua_pushnil(L); /* NOTEs alone */
    }
    lua_pushlstring(L, (const char *)p, n);
    if (note == NULL) {
        return 2;
    }
    lua_pushlstring(L, (const char *)note, notes);
    return 3;
}
