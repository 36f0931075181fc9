/* Raw QUIC streams in Lua: the receive buffer, reads that return credit, writes that stop at a high mark. */
#include "quic_internal.h"
#include <string.h>
#include "../base/mem.h"
#include "errors.h"
#include "luaaux.h"

#define STREAM_MT  "echostream.qstream"
#define READ_BYTES 65536
#define MAX_CODE   ((lua_Integer)1 << 62)

static const char *const names[] = {"readable", "writable", "closed"};

/* ---- life ---- */

struct es_lqstream *es_lqstream_new(struct es_lconn *c, int uni, int remote)
{
    struct es_lqstream *s = es_calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->refs = 1;
    s->conn = es_lconn_ref(c);
    s->uni = (uint8_t)uni;
    s->remote = (uint8_t)remote;
    s->id = -1;
    es_list_init(&s->node);
    es_list_init(&s->all);
    return s;
}

void es_lqstream_unref(struct es_lqstream *s)
{
    if (--s->refs != 0)
        return;
    es_buf_free(&s->rx);
    es_lconn_unref(s->conn);
    es_free(s);
}

/* The bytes of the buffer are no longer held against the connection's cap. */
static void drop_rx(struct es_lqstream *s)
{
    size_t left = s->rx.n - s->rx_at;
    if (left > 0 && s->conn->link != NULL)
        es_link_hold(s->conn->link, -(int64_t)left);
    es_buf_free(&s->rx);
    s->rx_at = 0;
}

void es_lqstream_tell(struct es_lqstream *s, unsigned bits)
{
    s->bits |= bits;
    if (s->queued || s->conn->loop->events == NULL)
        return;
    if (es_evq_push(s->conn->loop->events, ES_QUIC_EVENT_STREAM, s, sizeof(struct es_event)) == NULL) {
        if (s->conn->link != NULL) /* somebody would wait for ever */
            es_link_close(s->conn->link, 1, ES_APP_INTERNAL, "out of memory");
        return;
    }
    s->queued = 1;
    s->refs++;
}

/* What was received stays readable. */
void es_lqstream_detach(struct es_lqstream *s)
{
    if (s->s == NULL)
        return;
    s->s->user = NULL;
    s->s = NULL;
    es_list_remove(&s->all);
    es_lqstream_tell(s, ES_QS_READABLE | ES_QS_WRITABLE | ES_QS_CLOSED);
    es_lqstream_unref(s);
}

void es_lqstream_give_up(struct es_lqstream *s)
{
    if (!s->rx_given_up) {
        s->rx_given_up = 1;
        if (s->s != NULL && !(s->uni && !s->remote) && !s->rx_fin && !s->rx_reset)
            es_link_stop(s->s, ES_APP_CANCELLED);
        drop_rx(s);
    }
    if (s->s != NULL && !(s->uni && s->remote) && !s->tx_fin && !s->tx_reset)
        es_link_reset(s->s, ES_APP_CANCELLED);
    s->tx_reset = !s->tx_fin;
    if (s->s != NULL && s->remote)
        es_link_stream_done(s->s);
}

/* ---- what the link says ---- */

void es_lqstream_on_data(struct es_lqstream *s, const uint8_t *p, size_t n, int fin)
{
    s->rx_fin |= fin != 0;
    if (s->rx_given_up) {
        if (n > 0)
            es_link_credit(s->s, n); /* the peer may have been cut short by its credit before our stop */
        return;
    }
    if (s->rx_at > 0 && s->rx_at >= s->rx.n / 2) { /* half of it was read: moving the rest is cheap by now */
        es_buf_drop(&s->rx, s->rx_at);
        s->rx_at = 0;
    }
    if (es_buf_put(&s->rx, p, n) != 0) {
        es_link_close(s->conn->link, 1, ES_APP_INTERNAL, "out of memory");
        return;
    }
    es_link_hold(s->conn->link, (int64_t)n);
    es_lqstream_tell(s, ES_QS_READABLE);
}

void es_lqstream_on_reset(struct es_lqstream *s, uint64_t code)
{
    s->rx_reset = 1;
    s->reset_code = code;
    drop_rx(s); /* QUIC: what was not read by now need not be delivered */
    es_lqstream_tell(s, ES_QS_READABLE);
}

void es_lqstream_on_stopped(struct es_lqstream *s, uint64_t code)
{
    s->stopped = 1;
    s->stop_code = code;
    es_lqstream_tell(s, ES_QS_WRITABLE);
}

void es_lqstream_event(lua_State *L, struct es_lqstream *s)
{
    unsigned bits = s->bits;
    s->bits = 0;
    es_quic_notify(L, s->conn->loop, s, bits, names);
}

/* ---- Lua ---- */

void es_lqstream_push(lua_State *L, struct es_lqstream *s)
{
    struct es_lqstream **box = es_lua_new(L, STREAM_MT, sizeof *box, 1);
    es_quic_link_userdata(L, s);
    *box = s;
    s->refs++;
}

/* The stream, or NULL after close(). */
static struct es_lqstream *check(lua_State *L)
{
    return *(struct es_lqstream **)luaL_checkudata(L, 1, STREAM_MT);
}

static int closed(lua_State *L)
{
    return es_lua_closed(L, "stream");
}

static int again(lua_State *L)
{
    lua_pushnil(L);
    lua_pushliteral(L, "again");
    return 2;
}

static int ok(lua_State *L)
{
    lua_pushboolean(L, 1);
    return 1;
}

/* nil and a "cancelled" error with details = { field = code }. */
static int cancelled(lua_State *L, const char *text, const char *field, uint64_t code)
{
    lua_pushnil(L);
    es_lua_push_error(L, "cancelled", "%s (code %I)", text, (LUAI_UACINT)code);
    lua_createtable(L, 0, 1);
    lua_pushinteger(L, (lua_Integer)code);
    lua_setfield(L, -2, field);
    lua_setfield(L, -2, "details");
    return 2;
}

static int stream_id(lua_State *L)
{
    struct es_lqstream *s = check(L);
    if (s == NULL)
        return closed(L);
    if (s->s != NULL)
        s->id = s->s->id;
    lua_pushinteger(L, (lua_Integer)s->id);
    return 1;
}

/* ---- writing ---- */

/* A Lua string kept alive until the transport has no more use for its bytes. */
struct anchor {
    struct es_lua *lua; /* referenced */
    int ref;
};

void es_lua_anchor_release(void *arg)
{
    struct anchor *a = arg;
    if (!a->lua->closing && lua_checkstack(a->lua->main, 4))
        luaL_unref(a->lua->main, LUA_REGISTRYINDEX, a->ref);
    es_lua_unref(a->lua);
    es_free(a);
}

void *es_lua_anchor(lua_State *L, struct es_lua *lua, int idx)
{
    lua_pushvalue(L, idx);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX); /* may raise, so before anything is allocated */
    struct anchor *a = es_malloc(sizeof *a);
    if (a == NULL) {
        luaL_unref(L, LUA_REGISTRYINDEX, ref);
        return NULL;
    }
    a->lua = lua;
    a->lua->refs++;
    a->ref = ref;
    return a;
}

static int write_anchored(lua_State *L, struct es_lqstream *s, const char *data, size_t n, int fin)
{
    void *a = es_lua_anchor(L, s->conn->loop->lua, 2);
    int rc = a != NULL ? es_link_write_ref(s->s, data, n, fin, es_lua_anchor_release, a) : ES_ERR_NOMEM;
    if (rc != 0 && a != NULL)
        es_lua_anchor_release(a);
    return rc;
}

static int stream_write(lua_State *L)
{
    struct es_lqstream *s = check(L);
    luaL_checktype(L, 2, LUA_TSTRING);
    size_t n;
    const char *data = lua_tolstring(L, 2, &n);
    int fin = lua_toboolean(L, 3);

    if (s == NULL)
        return closed(L);
    if (s->uni && s->remote)
        return luaL_error(L, "write: the peer opened this one-way stream; it can only be read");
    if (s->tx_fin || s->tx_reset) {
        lua_pushnil(L);
        es_lua_push_error(L, "failed_precondition", "the stream was %s here",
                          s->tx_fin ? "finished" : "reset");
        return 2;
    }
    if (s->stopped)
        return cancelled(L, "the peer wants no more", "stop", s->stop_code);
    if (s->s == NULL)
        return s->conn->link == NULL ? es_lconn_push_closed(L, s->conn) : closed(L);
    if (n > 0 && es_link_queued(s->s) > ES_LINK_HIGH)
        return again(L);
    int rc = n >= ES_ANCHOR_BYTES ? write_anchored(L, s, data, n, fin) : es_link_write(s->s, data, n, fin);
    if (rc == ES_ERR_CLOSED) /* the event that tells it still waits its turn; before we had the stream: no
                                code was kept */
        return cancelled(L, "the peer wants no more", "stop", s->s->stop_code);
    if (rc != 0)
        return es_lua_fail(L, rc, "stream");
    if (fin) {
        s->tx_fin = 1;
        if (s->remote)
            es_link_stream_done(s->s);
    }
    es_lloop_wake(s->conn->loop);
    return ok(L);
}

/* ---- reading ---- */

static int stream_read(lua_State *L)
{
    struct es_lqstream *s = check(L);
    lua_Integer max = luaL_optinteger(L, 2, READ_BYTES);
    luaL_argcheck(L, max > 0, 2, "expected a number of bytes above 0");

    if (s == NULL)
        return closed(L);
    if (s->uni && !s->remote)
        return luaL_error(L, "read: we opened this one-way stream; it can only be written");
    size_t left = s->rx.n - s->rx_at;
    if (left > 0) {
        size_t n = left < (lua_Unsigned)max ? left : (size_t)max;
        lua_pushlstring(L, (const char *)s->rx.p + s->rx_at, n);
        s->rx_at += n;
        if (s->rx_at == s->rx.n) {
            es_buf_clear(&s->rx);
            es_buf_shrink(&s->rx, READ_BYTES);
            s->rx_at = 0;
        }
        if (s->conn->link != NULL)
            es_link_hold(s->conn->link, -(int64_t)n);
        if (s->s != NULL && !s->rx_fin) {
            es_link_credit(s->s, n);
            es_lloop_wake(s->conn->loop);
        }
        return 1;
    }
    if (s->rx_reset)
        return cancelled(L, "the peer reset the stream", "reset", s->reset_code);
    if (s->rx_given_up) {
        lua_pushnil(L);
        es_lua_push_error(L, "failed_precondition", "reading was stopped here");
        return 2;
    }
    if (s->rx_fin) {
        if (s->s != NULL && s->remote && s->uni)
            es_link_stream_done(s->s);
        lua_pushnil(L);
        return 1;
    }
    if (s->conn->link == NULL)
        return es_lconn_push_closed(L, s->conn);
    return s->s != NULL ? again(L) : closed(L);
}

/* ---- giving up ---- */

static uint64_t check_code(lua_State *L, int arg)
{
    lua_Integer code = luaL_optinteger(L, arg, 0);
    luaL_argcheck(L, code >= 0 && code < MAX_CODE, arg, "a code is 0 to 2^62 - 1");
    return (uint64_t)code;
}

static int stream_reset(lua_State *L)
{
    struct es_lqstream *s = check(L);
    uint64_t code = check_code(L, 2);
    if (s == NULL)
        return closed(L);
    if (s->uni && s->remote)
        return luaL_error(L, "reset: the peer opened this one-way stream; use stop");
    if (s->s != NULL && !s->tx_reset) {
        es_link_reset(s->s, code);
        if (s->remote)
            es_link_stream_done(s->s);
        es_lqstream_tell(s, ES_QS_WRITABLE);
        es_lloop_wake(s->conn->loop);
    }
    s->tx_reset = 1;
    s->tx_fin = 0;
    return ok(L);
}

static int stream_stop(lua_State *L)
{
    struct es_lqstream *s = check(L);
    uint64_t code = check_code(L, 2);
    if (s == NULL)
        return closed(L);
    if (s->uni && !s->remote)
        return luaL_error(L, "stop: we opened this one-way stream; use reset");
    if (!s->rx_given_up) {
        s->rx_given_up = 1;
        if (s->s != NULL && !s->rx_fin && !s->rx_reset)
            es_link_stop(s->s, code);
        drop_rx(s);
        if (s->s != NULL && s->remote && s->uni)
            es_link_stream_done(s->s);
        es_lqstream_tell(s, ES_QS_READABLE);
        es_lloop_wake(s->conn->loop);
    }
    return ok(L);
}

static int stream_notify(lua_State *L)
{
    luaL_checkudata(L, 1, STREAM_MT);
    return es_lua_set_notify(L);
}

/* Idempotent; also __gc and __close. */
static int stream_close(lua_State *L)
{
    struct es_lqstream **box = luaL_checkudata(L, 1, STREAM_MT);
    struct es_lqstream *s = *box;
    if (s == NULL)
        return 0;
    *box = NULL;
    es_lqstream_give_up(s);
    if (s->conn->link != NULL)
        es_lloop_wake(s->conn->loop);
    es_lqstream_tell(s, ES_QS_READABLE | ES_QS_WRITABLE); /* tasks that wait find it closed */
    es_lqstream_unref(s);
    return 0;
}

void es_lua_open_qstream(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"id", stream_id},     {"write", stream_write},   {"read", stream_read},   {"reset", stream_reset},
        {"stop", stream_stop}, {"notify", stream_notify}, {"close", stream_close}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", stream_close}, {"__close", stream_close}, {NULL, NULL}};
    es_lua_class(L, STREAM_MT, methods, meta);
}
