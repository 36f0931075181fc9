#include <string.h>
#include "binding.h"

/* A head in Lua. It is looked at some fifty times in an exchange, and a class is found by its name only in
 * the strings of Lua and then in the registry: the mark, an address that nobody else has, says the same for a
 * twentieth of the instructions. */
struct slot {
    const char *mark;     /* shared: &class_mark */
    struct et_head *head; /* owned; NULL: not made yet, or gone */
};

static const char class_mark = 0;

static struct slot *slot(lua_State *L, int idx)
{
    struct slot *s = lua_touserdata(L, idx);

    if (s != NULL && lua_rawlen(L, idx) == sizeof *s &&
        s->mark == &class_mark) { /* a light one has no length */
        return s;
    }
    return luaL_checkudata(L, idx, ET_LUA_HEAD); /* says what is there instead */
}

struct et_head *et_lua_check_head(lua_State *L, int idx)
{
    struct slot *s = slot(L, idx);

    if (s->head == NULL) {
        luaL_error(L, "this head is not there any more");
    }
    return s->head;
}

static struct slot *new_slot(lua_State *L)
{
    struct slot *s = lua_newuserdatauv(L, sizeof *s, 0);

    *s = (struct slot){&class_mark, NULL};
    luaL_setmetatable(L, ET_LUA_HEAD);
    return s;
}

static int make_slot(lua_State *L)
{
    new_slot(L);
    return 1;
}

void et_lua_push_head(lua_State *L, struct et_head *h)
{
    lua_pushcfunction(L, make_slot);
    if (lua_pcall(L, 0, 1, 0) != LUA_OK) {
        et_head_del(h);
        lua_error(L);
    }
    et_head_widen(h);
    ((struct slot *)lua_touserdata(L, -1))->head = h;
}

static int gc(lua_State *L)
{
    struct slot *s = slot(L, 1);

    et_head_del(s->head);
    s->head = NULL;
    return 0;
}

/* ---- parts of the line ---- */

static const struct {
    const char *name;
    enum et_head_part part;
} parts[] = {{"path", ET_PATH},
             {"method", ET_METHOD},
             {"authority", ET_AUTHORITY},
             {"scheme", ET_SCHEME},
             {"protocol", ET_PROTOCOL}};

static const char *const kinds[] = {"request", "response", "trailers", NULL};

static int find_part(const char *key)
{
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(parts[i].name, key) == 0) {
            return (int)parts[i].part;
        }
    }
    return -1;
}

static int index_head(lua_State *L)
{
    struct et_head *h = et_lua_check_head(L, 1);
    const char *key;
    int part;

    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) { /* a method */
        return 1;
    }
    if (lua_type(L, 2) != LUA_TSTRING) {
        return 1;
    }
    key = lua_tostring(L, 2);
    part = find_part(key);
    if (part >= 0) {
        struct et_text t = et_head_part(h, (enum et_head_part)part);
        if (t.n == 0) {
            lua_pushnil(L);
        } else {
            lua_pushlstring(L, t.p, t.n);
        }
    } else if (strcmp(key, "kind") == 0) {
        lua_pushstring(L, kinds[et_head_kind(h) - 1]);
    } else if (strcmp(key, "status") == 0 && et_head_kind(h) == ET_HEAD_RESPONSE) {
        lua_pushinteger(L, et_head_status(h));
    } else if (strcmp(key, "length") == 0 && et_head_length(h) >= 0) {
        lua_pushinteger(L, et_head_length(h));
    } else {
        lua_pushnil(L);
    }
    return 1;
}

/* 0, ES_ERR_NOT_FOUND: no such name, or what the setters say. The value is at idx. */
static int assign(lua_State *L, struct et_head *h, const char *key, int idx)
{
    int part = find_part(key);

    if (part >= 0) {
        size_t n = 0;
        const char *p = lua_isnil(L, idx) ? "" : luaL_checklstring(L, idx, &n);
        return et_head_set_part(h, (enum et_head_part)part, p, n);
    }
    if (strcmp(key, "status") == 0) {
        lua_Integer status = luaL_checkinteger(L, idx);
        return et_head_set_status(h, status >= 0 && status <= 999 ? (int)status : 0);
    }
    return ES_ERR_NOT_FOUND;
}

static int newindex_head(lua_State *L)
{
    struct et_head *h = et_lua_check_head(L, 1);
    const char *key = luaL_checkstring(L, 2);
    int rv = assign(L, h, key, 3);

    if (rv == ES_ERR_NOT_FOUND) {
        return luaL_error(L, "a head has no field \"%s\" to be set; use head:set", key);
    }
    if (rv != 0) {
        return luaL_error(L, "%s: %s", key,
                          rv == ES_ERR_INVAL ? "a value that may not be there" : es_strerror(rv));
    }
    return 0;
}

/* ---- fields ---- */

static int is_name(struct et_text t, const char *name)
{
    return t.n == strlen(name) && memcmp(t.p, name, t.n) == 0;
}

/* The name at idx, lowered into buf; one that is no token is found nowhere. */
static struct et_text lowered(lua_State *L, int idx, char buf[256])
{
    size_t n;
    const char *p = luaL_checklstring(L, idx, &n);

    if (n > 255) {
        return (struct et_text){p, n};
    }
    for (size_t i = 0; i < n; i++) {
        buf[i] = p[i] >= 'A' && p[i] <= 'Z' ? (char)(p[i] + 32) : p[i];
    }
    return (struct et_text){buf, n};
}

static int get(lua_State *L)
{
    struct et_head *h = et_lua_check_head(L, 1);
    char buf[256];
    struct et_text name = lowered(L, 2, buf);
    size_t i = et_head_find(h, name.p, name.n, 0), next;
    luaL_Buffer b;

    if (i == SIZE_MAX) {
        lua_pushnil(L);
        return 1;
    }
    next = et_head_find(h, name.p, name.n, i + 1);
    if (next == SIZE_MAX) {
        struct et_text v = et_head_field(h, i).value;
        lua_pushlstring(L, v.p, v.n);
        return 1;
    }
    luaL_buffinit(L, &b);
    for (int first = 1; i != SIZE_MAX; i = et_head_find(h, name.p, name.n, i + 1), first = 0) {
        struct et_text v = et_head_field(h, i).value;
        if (!first) { /* HTTP/2 may have cut a Cookie into pieces (RFC 9113 8.2.3) */
            luaL_addstring(&b, is_name(name, "cookie") ? "; " : ", ");
        }
        luaL_addlstring(&b, v.p, v.n);
    }
    luaL_pushresult(&b);
    return 1;
}

static int all(lua_State *L)
{
    struct et_head *h = et_lua_check_head(L, 1);
    char buf[256];
    struct et_text name = lowered(L, 2, buf);
    lua_Integer n = 0;

    lua_newtable(L);
    for (size_t i = 0; (i = et_head_find(h, name.p, name.n, i)) != SIZE_MAX; i++) {
        struct et_text v = et_head_field(h, i).value;
        lua_pushlstring(L, v.p, v.n);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

/* What et_head_decode() would refuse on the other side is refused here. */
static const char *forbidden(const struct et_head *h, struct et_text name, const char *value, size_t n)
{
    if (et_head_is_hop(name.p, name.n)) {
        return "is about one connection and is made by who sends the message";
    }
    if (is_name(name, "te") && !(n == 8 && memcmp(value, "trailers", 8) == 0)) {
        return "may only be \"trailers\"";
    }
    if (is_name(name, "content-length")) {
        size_t i = 0;
        for (; i < n && value[i] >= '0' && value[i] <= '9'; i++)
            ;
        if (n == 0 || n > 18 || i < n || et_head_kind(h) == ET_HEAD_TRAILERS) {
            return "is not a length";
        }
    }
    return NULL;
}

static int put(lua_State *L, int (*how)(struct et_head *, const char *, size_t, const char *, size_t))
{
    struct et_head *h = et_lua_check_head(L, 1);
    char buf[256];
    struct et_text name = lowered(L, 2, buf);
    size_t n;
    const char *value = luaL_checklstring(L, 3, &n), *why = forbidden(h, name, value, n);
    int rv = why != NULL ? ES_ERR_INVAL : how(h, name.p, name.n, value, n);

    if (rv != 0) {
        lua_pushnil(L);
        et_lua_push_error(L, rv == ES_ERR_INVAL ? "invalid_argument" : "resource_exhausted",
                          "the field %s %s", lua_tostring(L, 2),
                          why != NULL          ? why
                          : rv == ES_ERR_INVAL ? "has a name or a value that may not be"
                                               : "makes the head too large");
        return 2;
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int set(lua_State *L)
{
    return put(L, et_head_set);
}

static int add(lua_State *L)
{
    return put(L, et_head_add);
}

static int remove_field(lua_State *L)
{
    struct et_head *h = et_lua_check_head(L, 1);
    size_t n;
    const char *name = luaL_checklstring(L, 2, &n);

    lua_pushinteger(L, (lua_Integer)et_head_remove(h, name, n));
    return 1;
}

static int next_field(lua_State *L)
{
    struct et_head *h = et_lua_check_head(L, lua_upvalueindex(1));
    size_t i = (size_t)lua_tointeger(L, lua_upvalueindex(2));
    struct et_field f;

    if (i >= et_head_count(h)) {
        return 0;
    }
    f = et_head_field(h, i);
    lua_pushinteger(L, (lua_Integer)i + 1);
    lua_replace(L, lua_upvalueindex(2));
    lua_pushlstring(L, f.name.p, f.name.n);
    lua_pushlstring(L, f.value.p, f.value.n);
    return 2;
}

static int each(lua_State *L)
{
    et_lua_check_head(L, 1);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, next_field, 2);
    return 1;
}

static int copy(lua_State *L)
{
    struct et_head *h = et_head_copy(et_lua_check_head(L, 1));

    if (h == NULL) {
        return luaL_error(L, "out of memory");
    }
    et_lua_push_head(L, h);
    return 1;
}

static int to_string(lua_State *L)
{
    struct et_head *h = et_lua_check_head(L, 1);
    struct et_text a = et_head_part(h, ET_METHOD), b = et_head_part(h, ET_PATH);

    if (et_head_kind(h) == ET_HEAD_REQUEST) {
        lua_pushlstring(L, a.p, a.n);
        lua_pushliteral(L, " ");
        lua_pushlstring(L, b.p, b.n);
        lua_concat(L, 3);
    } else if (et_head_kind(h) == ET_HEAD_RESPONSE) {
        lua_pushfstring(L, "%d", et_head_status(h));
    } else {
        lua_pushliteral(L, "trailers");
    }
    return 1;
}

/* ---- making one ---- */

static int fill(lua_State *L, struct et_head *h)
{
    for (lua_Integer i = 1; lua_rawgeti(L, 2, i) != LUA_TNIL; i++) {
        char buf[256];
        size_t n;
        const char *value;
        struct et_text name;
        int rv;
        luaL_checktype(L, -1, LUA_TTABLE);
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        name = lowered(L, -2, buf);
        value = luaL_checklstring(L, -1, &n);
        rv = forbidden(h, name, value, n) != NULL ? ES_ERR_INVAL : et_head_add(h, name.p, name.n, value, n);
        if (rv != 0) {
            return rv;
        }
        lua_pop(L, 3);
    }
    lua_pop(L, 1);
    for (lua_pushnil(L); lua_next(L, 2) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) == LUA_TSTRING) {
            int rv = assign(L, h, lua_tostring(L, -2), lua_absindex(L, -1));
            if (rv == ES_ERR_NOT_FOUND) {
                return luaL_error(L, "core.head: a head has no field \"%s\"", lua_tostring(L, -2));
            }
            if (rv != 0) {
                return rv;
            }
        }
    }
    return 0;
}

int et_lua_new_head(lua_State *L)
{
    int kind = luaL_checkoption(L, 1, NULL, kinds), rv = 0;
    struct slot *s;

    lua_settop(L, 2);
    s = new_slot(L);
    s->head = et_head_new((enum et_head_kind)(kind + 1));
    if (s->head == NULL) {
        return luaL_error(L, "out of memory");
    }
    et_head_widen(s->head);
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        rv = fill(L, s->head);
    }
    if (rv != 0) {
        return et_lua_fail(L, rv,
                           rv == ES_ERR_INVAL ? "the head has something that may not be in one" : NULL);
    }
    lua_settop(L, 3);
    return 1;
}

int et_lua_head_part(lua_State *L); /* parts.c */

void et_lua_open_head(lua_State *L)
{
    static const luaL_Reg methods[] = {{"get", get},   {"all", all},
                                       {"set", set},   {"add", add},
                                       {"each", each}, {"remove", remove_field},
                                       {"copy", copy}, {"part", et_lua_head_part},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", gc}, {"__newindex", newindex_head}, {"__tostring", to_string}, {NULL, NULL}};

    et_lua_class(L, ET_LUA_HEAD, methods, meta);
    luaL_getmetatable(L, ET_LUA_HEAD);
    lua_getfield(L, -1, "__index");
    lua_pushcclosure(L, index_head, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
