/* Exchanges in Lua: one request with its answer, whoever asked. A userdata that nobody holds any more
 * releases its exchange, which cancels what is not over. */
#include <string.h>
#include "../base/mem.h"
#include "errors.h"
#include "http3_internal.h"
#include "luaaux.h"
#include "quic.h"

#define EXCHANGE_MT "echostream.exchange"
#define READ_BYTES  65536

/* ---- userdata ---- */

struct es_lexchange *es_lua_exchange_box(lua_State *L, struct es_lh3 *c)
{
    struct es_lexchange *box = es_lua_new(L, EXCHANGE_MT, sizeof *box, 1);

    box->c = es_lh3_ref(c);
    return box;
}

/* Linking may raise; so the exchange, which has an owner from here on, is the userdata's first. */
void es_lua_exchange_fill(lua_State *L, struct es_lexchange *box, struct es_exchange *x)
{
    box->x = x;
    es_quic_link_userdata(L, x);
}

struct es_lexchange *es_lua_push_exchange(lua_State *L, struct es_lh3 *c, struct es_exchange *x)
{
    struct es_lexchange *box = es_lua_exchange_box(L, c);

    es_quic_link_userdata(L, x);
    box->x = x;
    return box;
}

struct es_lexchange *es_lua_exchange_find(lua_State *L, struct es_exchange *x)
{
    struct es_lexchange *box = NULL;

    if (es_quic_push(L, x))
        box = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return box;
}

static const char class_key; /* the registry's key of the class: quicker to look up than its name */

static struct es_lexchange *check(lua_State *L)
{
    if (lua_getmetatable(L, 1)) {
        int same;

        lua_rawgetp(L, LUA_REGISTRYINDEX, &class_key);
        same = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
        if (same)
            return lua_touserdata(L, 1);
    }
    return luaL_checkudata(L, 1, EXCHANGE_MT);
}

static void wake(struct es_lexchange *b)
{
    if (es_h3_link(es_exchange_h3(b->x)) != NULL)
        es_lloop_wake(b->c->app->loop);
}

static int ok(lua_State *L)
{
    lua_pushboolean(L, 1);
    return 1;
}

static int again(lua_State *L)
{
    lua_pushnil(L);
    lua_pushliteral(L, "again");
    return 2;
}

/* nil and why it is over */
static int over(lua_State *L, struct es_lexchange *b)
{
    struct es_exchange_error e;

    if (b->x == NULL)
        return es_lua_closed(L, "request");
    if (es_exchange_error(b->x, &e) != 0)
        return es_h3_closed_by(es_exchange_h3(b->x)) != NULL ? es_lua_h3_closed(L, b->c)
                                                             : es_lua_closed(L, "request");
    lua_pushnil(L);
    const char *code = e.err == ES_ERR_TIMEOUT             ? "timeout"
                       : e.code == ES_H3_REQUEST_CANCELLED ? "cancelled"
                       : e.code == ES_H3_REQUEST_REJECTED  ? "unavailable"
                       : e.code == ES_H3_EXCESSIVE_LOAD    ? "resource_exhausted"
                       : e.code == ES_H3_INTERNAL_ERROR    ? "internal"
                                                           : es_err_code(e.err);
    es_lua_push_error(L, code, "%s gave the request up (HTTP/3 code %I)", e.peer ? "the peer" : "this side",
                      (LUAI_UACINT)e.code);
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, (lua_Integer)e.code);
    lua_setfield(L, -2, "http3");
    lua_pushboolean(L, e.unprocessed);
    lua_setfield(L, -2, "unprocessed");
    lua_setfield(L, -2, "details");
    return 2;
}

static int result(lua_State *L, struct es_lexchange *b, int rc)
{
    switch (rc) {
    case 0:
        wake(b);
        return ok(L);
    case ES_ERR_AGAIN:
        return again(L);
    case ES_ERR_CLOSED:
        return over(L, b);
    case ES_ERR_INVAL:
    case ES_ERR_EXISTS:
    case ES_ERR_TOO_LARGE:
        lua_pushnil(L);
        es_lua_push_error(L, rc == ES_ERR_INVAL ? "invalid_argument" : "failed_precondition",
                          rc == ES_ERR_INVAL    ? "a status, field or body that may not be sent"
                          : rc == ES_ERR_EXISTS ? "the request was answered before"
                                                : "more than the content-length that was said");
        return 2;
    default:
        return es_lua_fail(L, rc, "request");
    }
}

/* ---- heads ---- */

const struct es_h3_field *es_lua_h3_fields(lua_State *L, int idx, struct es_h3_field few[ES_LH3_FEW],
                                           size_t *n)
{
    *n = 0;
    if (lua_isnoneornil(L, idx))
        return NULL;
    luaL_checktype(L, idx, LUA_TTABLE);
    idx = lua_absindex(L, idx);
    size_t count = lua_rawlen(L, idx) / 2;
    luaL_argcheck(L, count <= 4096, idx, "at most 4096 fields");
    struct es_h3_field *f = count <= ES_LH3_FEW ? few : lua_newuserdatauv(L, count * sizeof *f, 0);
    memset(f, 0, count * sizeof *f);
    for (size_t i = 0; i < count; i++) {
        for (int part = 0; part < 2; part++) {
            if (lua_rawgeti(L, idx, (lua_Integer)(2 * i) + 1 + part) != LUA_TSTRING)
                luaL_error(L, "fields: names and values are strings");
            if (part == 0)
                f[i].name = lua_tolstring(L, -1, &f[i].name_len);
            else
                f[i].value = lua_tolstring(L, -1, &f[i].value_len);
            lua_pop(L, 1); /* the list keeps it */
        }
    }
    *n = count;
    return f;
}

static void push_fields(lua_State *L, const struct es_h3_head *head)
{
    struct es_h3_field f;
    size_t at = 0;
    lua_Integer i = 0;

    lua_createtable(L, (int)es_h3_head_count(head) * 2, 0);
    while (es_h3_head_next(head, &at, &f)) {
        lua_pushlstring(L, f.name, f.name_len);
        lua_rawseti(L, -2, ++i);
        lua_pushlstring(L, f.value, f.value_len);
        lua_rawseti(L, -2, ++i);
    }
}

/* target(): method, path, authority, scheme, protocol of a peer's request, nil for what is not there; nil,
 * err: not come */
static int x_target(lua_State *L)
{
    static const enum es_h3_pseudo which[] = {ES_H3_METHOD, ES_H3_PATH, ES_H3_AUTHORITY, ES_H3_SCHEME,
                                              ES_H3_PROTOCOL};
    struct es_lexchange *b = check(L);
    const struct es_h3_head *head = b->x != NULL ? es_exchange_head(b->x) : NULL;
    struct es_exchange_error e;

    if (head == NULL || es_exchange_error(b->x, &e) == 0)
        return over(L, b);
    for (int i = 0; i < 5; i++) {
        size_t n;
        const char *s = es_h3_head_pseudo(head, which[i], &n);
        if (s != NULL)
            lua_pushlstring(L, s, n);
        else
            lua_pushnil(L);
    }
    return 5;
}

/* header(name): the value of its first line in the head, or nil; without a table of all of them */
static int x_header(lua_State *L)
{
    struct es_lexchange *b = check(L);
    const struct es_h3_head *head = b->x != NULL ? es_exchange_head(b->x) : NULL;
    struct es_h3_field f;
    size_t at = 0, n;
    const char *name = luaL_checklstring(L, 2, &n);

    while (head != NULL && es_h3_head_next(head, &at, &f)) {
        if (f.name_len == n && memcmp(f.name, name, n) == 0) {
            lua_pushlstring(L, f.value, f.value_len);
            return 1;
        }
    }
    lua_pushnil(L);
    return 1;
}

/* fields(): the head's; fields(true): the trailers'. nil: not there */
static int x_fields(lua_State *L)
{
    struct es_lexchange *b = check(L);
    const struct es_h3_head *head = b->x == NULL          ? NULL
                                    : lua_toboolean(L, 2) ? es_exchange_trailers(b->x)
                                                          : es_exchange_head(b->x);

    if (head == NULL)
        lua_pushnil(L);
    else
        push_fields(L, head);
    return 1;
}

/* status(): of the answer; nil, "again": not come; nil, err */
static int x_status(lua_State *L)
{
    struct es_lexchange *b = check(L);
    struct es_exchange_error e;
    const struct es_h3_head *head = b->x != NULL ? es_exchange_head(b->x) : NULL;

    if (head != NULL) {
        lua_pushinteger(L, es_h3_head_status(head));
        return 1;
    }
    return b->x == NULL || es_exchange_error(b->x, &e) == 0 ? over(L, b) : again(L);
}

/* informed(): status and fields of the next 1xx answer; nothing: no more */
static int x_informed(lua_State *L)
{
    struct es_lexchange *b = check(L);
    const struct es_h3_head *head = b->x != NULL ? es_exchange_informed(b->x) : NULL;

    if (head == NULL)
        return 0;
    lua_pushinteger(L, es_h3_head_status(head));
    push_fields(L, head);
    return 2;
}

/* ---- bodies ---- */

/* read(max): bytes; nil: the end; nil, "again"; nil, err */
static int x_read(lua_State *L)
{
    struct es_lexchange *b = check(L);
    lua_Integer max = luaL_optinteger(L, 2, READ_BYTES);
    const uint8_t *p;
    size_t n;

    luaL_argcheck(L, max > 0, 2, "expected a number of bytes above 0");
    if (b->x == NULL)
        return es_lua_closed(L, "request");
    int rc = es_exchange_read(b->x, &p, &n);
    if (rc == ES_ERR_NOT_FOUND) {
        lua_pushnil(L);
        return 1;
    }
    if (rc == ES_ERR_TIMEOUT) {
        lua_pushnil(L);
        es_lua_push_error(L, "timeout", "the body did not come in time");
        lua_pushinteger(L, 408);
        lua_setfield(L, -2, "http_status");
        return 2;
    }
    if (rc != 0)
        return rc == ES_ERR_AGAIN ? again(L) : over(L, b);
    n = n < (lua_Unsigned)max ? n : (size_t)max;
    lua_pushlstring(L, (const char *)p, n);
    es_exchange_consume(b->x, n);
    wake(b);
    return 1;
}

static int x_inform(lua_State *L)
{
    struct es_lexchange *b = check(L);
    lua_Integer status = luaL_checkinteger(L, 2);
    size_t n;
    struct es_h3_field few[ES_LH3_FEW];
    const struct es_h3_field *f = es_lua_h3_fields(L, 3, few, &n);

    if (b->x == NULL)
        return es_lua_closed(L, "request");
    return result(L, b, es_exchange_inform(b->x, status < 0 || status > 999 ? 0 : (int)status, f, n));
}

/* respond(status, fields, fin) */
static int x_respond(lua_State *L)
{
    struct es_lexchange *b = check(L);
    lua_Integer status = luaL_checkinteger(L, 2);
    size_t n;
    int fin = lua_toboolean(L, 4);
    struct es_h3_field few[ES_LH3_FEW];
    const struct es_h3_field *f = es_lua_h3_fields(L, 3, few, &n);

    if (b->x == NULL)
        return es_lua_closed(L, "request");
    return result(L, b, es_exchange_respond(b->x, status < 0 || status > 999 ? 0 : (int)status, f, n, fin));
}

static int x_write(lua_State *L)
{
    struct es_lexchange *b = check(L);
    size_t n;
    int rc;

    luaL_checktype(L, 2, LUA_TSTRING);
    const char *data = lua_tolstring(L, 2, &n);
    if (b->x == NULL)
        return es_lua_closed(L, "request");
    if (n < ES_ANCHOR_BYTES) {
        rc = es_exchange_write(b->x, data, n, NULL, NULL);
    } else {
        void *anchor = es_lua_anchor(L, b->c->app->loop->lua, 2);
        if (anchor == NULL)
            return es_lua_fail(L, ES_ERR_NOMEM, "request");
        rc = es_exchange_write(b->x, data, n, es_lua_anchor_release, anchor);
        if (rc != 0)
            es_lua_anchor_release(anchor);
    }
    return result(L, b, rc);
}

static int x_finish(lua_State *L)
{
    struct es_lexchange *b = check(L);
    size_t n;
    struct es_h3_field few[ES_LH3_FEW];
    const struct es_h3_field *f = es_lua_h3_fields(L, 2, few, &n);

    if (b->x == NULL)
        return es_lua_closed(L, "request");
    return result(L, b, es_exchange_finish(b->x, f, n));
}

/* answer(status, fields, body): head, body and end in one */
static int x_answer(lua_State *L)
{
    struct es_lexchange *b = check(L);
    lua_Integer status = luaL_checkinteger(L, 2);
    size_t n_fields, n;
    void *anchor = NULL;

    luaL_checktype(L, 4, LUA_TSTRING);
    const char *data = lua_tolstring(L, 4, &n);
    struct es_h3_field few[ES_LH3_FEW];
    const struct es_h3_field *f = es_lua_h3_fields(L, 3, few, &n_fields);
    if (b->x == NULL)
        return es_lua_closed(L, "request");
    if (n >= ES_ANCHOR_BYTES && (anchor = es_lua_anchor(L, b->c->app->loop->lua, 4)) == NULL)
        return es_lua_fail(L, ES_ERR_NOMEM, "request");
    int rc = es_exchange_answer(b->x, status < 0 || status > 999 ? 0 : (int)status, f, n_fields, data, n,
                                anchor != NULL ? es_lua_anchor_release : NULL, anchor);
    if (rc != 0 && anchor != NULL)
        es_lua_anchor_release(anchor);
    return result(L, b, rc);
}

/* ---- the rest ---- */

/* error(): nil, or why it failed */
static int x_error(lua_State *L)
{
    struct es_lexchange *b = check(L);
    struct es_exchange_error e;

    if (b->x != NULL && es_exchange_error(b->x, &e) != 0)
        return 0;
    (void)over(L, b);
    return 1;
}

/* late(): it was answered for the handler, which took too long */
static int x_late(lua_State *L)
{
    lua_pushboolean(L, check(L)->late);
    return 1;
}

static int x_peer_cert(lua_State *L)
{
    struct es_lexchange *b = check(L);
    struct es_link *link = b->x != NULL ? es_h3_link(es_exchange_h3(b->x)) : NULL;

    return link != NULL ? es_lua_push_peer_cert(L, link) : over(L, b);
}

static int x_reset(lua_State *L)
{
    struct es_lexchange *b = check(L);
    lua_Integer code = luaL_optinteger(L, 2, ES_H3_REQUEST_CANCELLED);

    luaL_argcheck(L, code >= 0 && code < (lua_Integer)1 << 62, 2, "a code is 0 to 2^62 - 1");
    if (b->x != NULL) {
        es_exchange_reset(b->x, (uint64_t)code);
        wake(b);
    }
    return ok(L);
}

/* timeouts(answer, body): seconds, from now on; 0: none */
static int x_timeouts(lua_State *L)
{
    struct es_lexchange *b = check(L);
    lua_Number answer = luaL_checknumber(L, 2), body = luaL_checknumber(L, 3);

    luaL_argcheck(L, answer >= 0 && answer < 1e9, 2, "expected seconds");
    luaL_argcheck(L, body >= 0 && body < 1e9, 3, "expected seconds");
    if (b->x != NULL)
        es_exchange_set_timeouts(b->x, (uint64_t)(answer * 1e9), (uint64_t)(body * 1e9));
    return 0;
}

static int x_priority(lua_State *L)
{
    struct es_lexchange *b = check(L);
    lua_Integer urgency = luaL_checkinteger(L, 2);

    luaL_argcheck(L, urgency >= 0 && urgency <= 7, 2, "an urgency is 0 to 7");
    if (b->x != NULL)
        es_exchange_priority(b->x, (int)urgency);
    return 0;
}

static int x_id(lua_State *L)
{
    struct es_lexchange *b = check(L);

    if (b->x == NULL)
        return 0;
    lua_pushinteger(L, (lua_Integer)es_exchange_id(b->x));
    return 1;
}

static int x_peer_addr(lua_State *L)
{
    struct es_lexchange *b = check(L);
    struct es_link *link = b->x != NULL ? es_h3_link(es_exchange_h3(b->x)) : NULL;
    char buf[80] = "";

    if (link == NULL)
        return over(L, b);
    es_link_peer_addr(link, buf, sizeof buf);
    lua_pushstring(L, buf);
    return 1;
}

/* connection() -> its number, unlike that of any other; whether it lives. Also after release(). */
static int x_connection(lua_State *L)
{
    struct es_lexchange *b = check(L);

    if (b->c == NULL)
        return 0;
    lua_pushinteger(L, (lua_Integer)b->c->number);
    lua_pushboolean(L, !b->c->over);
    return 2;
}

/* early(): whether it came, or went, before the end of the handshake */
static int x_early(lua_State *L)
{
    struct es_lexchange *b = check(L);

    lua_pushboolean(L, b->x != NULL && es_exchange_is_early(b->x));
    return 1;
}

static int x_notify(lua_State *L)
{
    (void)check(L);
    return es_lua_set_notify(L);
}

/* Idempotent; also __gc and __close. */
static int x_release(lua_State *L)
{
    struct es_lexchange *b = check(L);
    struct es_exchange *x = b->x;
    struct es_lh3 *c = b->c;

    b->x = NULL;
    if (x != NULL) {
        struct es_h3 *h = es_exchange_h3(x);
        int alive = es_h3_link(h) != NULL;
        es_exchange_release(x);
        if (alive)
            es_lloop_wake(c->app->loop);
    }
    return 0;
}

static int x_gc(lua_State *L)
{
    struct es_lexchange *b = check(L);

    (void)x_release(L);
    if (b->task != NULL) {
        b->task->holder = NULL;
        b->task = NULL;
    }
    if (b->c != NULL) {
        es_lh3_unref(b->c);
        b->c = NULL;
    }
    return 0;
}

void es_lua_open_exchange(lua_State *L)
{
    static const luaL_Reg methods[] = {{"target", x_target},
                                       {"header", x_header},
                                       {"answer", x_answer},
                                       {"error", x_error},
                                       {"peer_cert", x_peer_cert},
                                       {"fields", x_fields},
                                       {"status", x_status},
                                       {"informed", x_informed},
                                       {"read", x_read},
                                       {"inform", x_inform},
                                       {"respond", x_respond},
                                       {"write", x_write},
                                       {"finish", x_finish},
                                       {"reset", x_reset},
                                       {"priority", x_priority},
                                       {"timeouts", x_timeouts},
                                       {"id", x_id},
                                       {"notify", x_notify},
                                       {"peer_addr", x_peer_addr},
                                       {"connection", x_connection},
                                       {"release", x_release},
                                       {"early", x_early},
                                       {"late", x_late},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", x_gc}, {"__close", x_release}, {NULL, NULL}};

    es_lua_class(L, EXCHANGE_MT, methods, meta);
    luaL_getmetatable(L, EXCHANGE_MT);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &class_key);
}
