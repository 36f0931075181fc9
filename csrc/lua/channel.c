/* Named streams and streaming calls in Lua. */
#include "binding.h"
#include <string.h>
#include "../base/mem.h"
#include "../framing/frame.h"
#include "codec.h"
#include "errors.h"
#include "luaaux.h"

#define CHANNEL_MT "echostream.channel"

struct es_lchannel *es_lchannel_new(lua_State *L, struct es_lloop *lp, struct es_channel *c)
{
    struct es_lchannel **box = es_lua_new(L, CHANNEL_MT, sizeof *box, 0);
    struct es_lchannel *lc = es_calloc(1, sizeof *lc);
    if (!lc)
        luaL_error(L, "out of memory");
    lc->refs = 1;
    lc->loop = es_lloop_ref(lp);
    es_list_init(&lc->node);
    es_list_push(&lp->channels, &lc->node);
    lc->readable_ref = lc->writable_ref = lc->closed_ref = LUA_NOREF;
    lc->c = c;
    if (c) {
        es_channel_set_user(c, lc);
        lc->codec = es_channel_codec(c);
    }
    *box = lc;
    return lc;
}

static void drop(lua_State *L, struct es_lchannel *lc, int *ref)
{
    if (*ref != LUA_NOREF && L && !lc->loop->lua->closing)
        luaL_unref(L, LUA_REGISTRYINDEX, *ref);
    *ref = LUA_NOREF;
}

void es_lchannel_unref(lua_State *L, struct es_lchannel *lc)
{
    if (--lc->refs)
        return;
    es_lchannel_release(lc);
    drop(L, lc, &lc->readable_ref);
    drop(L, lc, &lc->writable_ref);
    drop(L, lc, &lc->closed_ref);
    es_lloop_unref(lc->loop);
    es_free(lc);
}

void es_lchannel_release(struct es_lchannel *lc)
{
    es_list_remove(&lc->node);
    if (lc->c) {
        struct es_channel *c = lc->c;
        lc->c = NULL;
        es_channel_set_user(c, NULL);
        es_channel_release(c);
    }
}

static int channel_gc(lua_State *L)
{
    struct es_lchannel **box = luaL_checkudata(L, 1, CHANNEL_MT);
    struct es_lchannel *lc = *box;
    *box = NULL;
    if (lc) {
        if (!lc->task) /* a handler that dropped its stream still answers it: es_job_end */
            es_lchannel_release(lc);
        es_lchannel_unref(L, lc);
    }
    return 0;
}

static struct es_lchannel *check(lua_State *L)
{
    struct es_lchannel *lc = *(struct es_lchannel **)luaL_checkudata(L, 1, CHANNEL_MT);
    return lc && lc->c ? lc : NULL;
}

static int closed(lua_State *L)
{
    return es_lua_closed(L, "stream");
}

void es_lchannel_event(lua_State *L, struct es_lchannel *lc, unsigned type)
{
    if (type == ES_EV_CHANNEL_WRITABLE || type == ES_EV_CHANNEL_CLOSED) {
        lc->blocked = 0;
        es_lua_list_run(L, lc->loop, &lc->writable_ref);
    }
    if (type == ES_EV_CHANNEL_READABLE || type == ES_EV_CHANNEL_CLOSED)
        es_lua_list_run(L, lc->loop, &lc->readable_ref);
    if (type == ES_EV_CHANNEL_CLOSED)
        es_lua_list_run(L, lc->loop, &lc->closed_ref);
}

/* Pushes the error object of a channel that failed: 1; or nothing: 0. */
static int push_error(lua_State *L, struct es_lchannel *lc)
{
    struct es_failure f;
    if (es_channel_error(lc->c, &f) < 0)
        return 0;
    int top = lua_gettop(L), details = 0;
    if (f.details_len && es_codec_unpack_copy(L, f.codec, f.details, f.details_len) == 0)
        details = top + 1;
    else
        lua_settop(L, top); /* details that cannot be read leave the error without them */
    if (!lc->c || es_channel_error(lc->c, &f) < 0)
        return 0; /* decoding may have run code that closed it */
    es_lua_push_failure(L, f.code, f.code_len, f.message ? f.message : "", f.message_len, f.processed,
                        f.retry_after_ms, details);
    if (details)
        lua_remove(L, details);
    return 1;
}

static int push_failure(lua_State *L, struct es_lchannel *lc)
{
    lua_pushnil(L);
    if (!push_error(L, lc))
        es_lua_push_error(L, "connection_closed", "the stream is closed");
    return 2;
}

/* Why a message cannot be sent (any more). */
static int push_send_failure(lua_State *L, struct es_lchannel *lc, int rc)
{
    lua_pushnil(L);
    if (rc == ES_ERR_UNSUPPORTED)
        es_lua_push_error(L, "failed_precondition", "%s",
                          lc->incoming ? "a client-streaming method sends nothing but its results"
                                       : "no messages were announced for this stream");
    else if (push_error(L, lc))
        return 2;
    else if (lc->finished)
        es_lua_push_error(L, "failed_precondition", "this side of the stream is finished");
    else
        es_lua_push_error(L, "cancelled", "the other side takes no more messages");
    return 2;
}

static int again(lua_State *L)
{
    lua_pushnil(L);
    lua_pushliteral(L, "again");
    return 2;
}

/* A Lua string kept alive until the transport has no more use for its bytes. */
struct anchor {
    struct es_lua *lua; /* referenced */
    int ref;
};

static void anchor_release(void *arg)
{
    struct anchor *a = arg;
    if (!a->lua->closing && lua_checkstack(a->lua->main, 4))
        luaL_unref(a->lua->main, LUA_REGISTRYINDEX, a->ref);
    es_lua_unref(a->lua);
    es_free(a);
}

static int channel_send(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    struct es_msg_out m;
    memset(&m, 0, sizeof m);
    luaL_checktype(L, 2, LUA_TSTRING);
    m.data = (const uint8_t *)lua_tolstring(L, 2, &m.len);
    if (!lua_isnoneornil(L, 3)) {
        lua_Integer seq = luaL_checkinteger(L, 3);
        luaL_argcheck(L, seq >= 0 && seq < (INT64_C(1) << 62), 3, "a sequence number is 0 to 2^62 - 1");
        m.seq = (uint64_t)seq;
        m.has_seq = 1;
    }
    if (!lua_isnoneornil(L, 4)) {
        lua_Number wall = luaL_checknumber(L, 4);
        luaL_argcheck(L, wall >= 0 && wall < 4e12, 4, "a wall time is seconds since 1970");
        m.wall_time_us = (uint64_t)(wall * 1e6 + 0.5);
        m.has_wall = 1;
    }
    if (!lc)
        return closed(L);
    m.codec = (uint8_t)lc->codec;
    struct anchor *a = NULL;
    if (m.len >= ES_ANCHOR_BYTES) {
        a = es_malloc(sizeof *a);
        if (!a)
            return es_lua_fail(L, ES_ERR_NOMEM, NULL);
        a->lua = lc->loop->lua;
        a->lua->refs++;
        lua_pushvalue(L, 2);
        a->ref = luaL_ref(L, LUA_REGISTRYINDEX);
        m.release = anchor_release;
        m.arg = a;
    }
    int rc = es_channel_send(lc->c, &m);
    if (rc == 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    if (a)
        anchor_release(a);
    if (rc == ES_ERR_AGAIN) {
        lc->blocked = 1;
        return again(L);
    }
    if (rc == ES_ERR_CLOSED || rc == ES_ERR_UNSUPPORTED)
        return push_send_failure(L, lc, rc);
    return es_lua_fail(L, rc, "stream");
}

static int channel_recv(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return closed(L);
    struct es_msg_in m;
    switch (es_channel_recv(lc->c, &m)) {
    case ES_OK:
        lua_pushlstring(L, (const char *)m.data, m.len);
        es_channel_consume(lc->c);
        if (m.has_seq)
            lua_pushinteger(L, (lua_Integer)m.seq);
        else
            lua_pushnil(L);
        if (m.has_wall)
            lua_pushnumber(L, (double)m.wall_time_us / 1e6);
        else
            lua_pushnil(L);
        lua_pushinteger(L, m.codec);
        return 4;
    case ES_ERR_AGAIN:
        return again(L);
    case ES_ERR_NOT_FOUND:
        lua_pushnil(L);
        return 1;
    default:
        return push_failure(L, lc);
    }
}

static int on_ready(lua_State *L, int writing)
{
    struct es_lchannel *lc = check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    struct es_lchannel *any = *(struct es_lchannel **)luaL_checkudata(L, 1, CHANNEL_MT);
    int now = !lc;
    if (lc && !writing)
        now = es_channel_readable(lc->c);
    if (lc && writing)
        now = !lc->blocked;
    if (now && any) {
        lua_pushvalue(L, 2);
        es_task_call(L, any->loop, 0);
    } else if (!now) {
        es_lua_list_add(L, writing ? &lc->writable_ref : &lc->readable_ref, 2);
    }
    return 0;
}

static int channel_on_readable(lua_State *L)
{
    return on_ready(L, 0);
}

static int channel_on_writable(lua_State *L)
{
    return on_ready(L, 1);
}

/* Nothing more can be sent or received, in fact or for this side. */
static int is_over(struct es_lchannel *lc)
{
    struct es_channel_stats st;
    if (!lc)
        return 1;
    es_channel_stats_get(lc->c, &st);
    return !st.open;
}

static int channel_on_closed(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    struct es_lchannel *any = *(struct es_lchannel **)luaL_checkudata(L, 1, CHANNEL_MT);
    if (!is_over(lc)) {
        es_lua_list_add(L, &lc->closed_ref, 2);
    } else if (any) {
        lua_pushvalue(L, 2);
        es_task_call(L, any->loop, 0);
    }
    return 0;
}

static int channel_error(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (lc)
        return push_error(L, lc);
    closed(L);
    return 1;
}

static int channel_result(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return closed(L);
    struct es_msg_in m;
    int n = 0;
    switch (es_channel_result(lc->c, &m)) {
    case ES_OK:
        break;
    case ES_ERR_AGAIN:
        return again(L);
    default:
        return push_failure(L, lc);
    }
    if (m.len && es_codec_decode_copy(L, m.codec, m.data, m.len, &n) < 0) {
        const char *why = lua_tostring(L, -1);
        lua_pushnil(L);
        es_lua_push_failure(L, "serialization", 13, why, strlen(why), ES_PROCESSED_YES, 0, 0);
        return 2;
    }
    if (n > 0)
        return n;
    lua_pushboolean(L, 1);
    return 1;
}

static int channel_is_call(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    lua_pushboolean(L, lc && es_channel_is_call(lc->c));
    return 1;
}

/* The codec of the messages that are sent; with a name, sets it. */
static int channel_codec(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return closed(L);
    if (!lua_isnoneornil(L, 2)) {
        int codec = es_codec_find(L, es_lua_check_text(L, 2, NULL));
        luaL_argcheck(L, codec >= 0, 2, "no codec of that name");
        lc->codec = codec;
    }
    lua_pushstring(L, es_codec_name(L, lc->codec));
    return 1;
}

static int channel_finish(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return closed(L);
    lc->finished = 1;
    if (es_channel_finish(lc->c) < 0)
        return push_failure(L, lc);
    lua_pushboolean(L, 1);
    return 1;
}

static int channel_reset(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    lua_Integer code = luaL_optinteger(L, 2, -1);
    luaL_argcheck(L, lua_isnoneornil(L, 2) || (code >= 0 && code < (INT64_C(1) << 61)), 2,
                  "a code is 0 or more");
    if (!lc)
        return closed(L);
    es_channel_reset(lc->c, code < 0 ? ES_APP_CANCELLED : ES_APP_USER + (uint64_t)code);
    lua_pushboolean(L, 1);
    return 1;
}

static int channel_close(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return 0;
    int call = es_channel_is_call(lc->c);
    lc->finished = 1;
    if (lc->incoming && call) {
        es_channel_shut(lc->c); /* the handler's results are still to come */
    } else {
        if (lc->incoming)
            es_channel_end(lc->c, NULL);
        else if (!call) /* a call that was not answered is given up */
            es_channel_finish(lc->c);
        es_lchannel_release(lc);
    }
    es_lua_list_run(L, lc->loop, &lc->readable_ref);
    es_lua_list_run(L, lc->loop, &lc->writable_ref);
    es_lua_list_run(L, lc->loop, &lc->closed_ref);
    lua_pushboolean(L, 1);
    return 1;
}

static int channel_id(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return closed(L);
    lua_pushinteger(L, (lua_Integer)es_channel_id(lc->c));
    return 1;
}

static int channel_metadata(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return closed(L);
    size_t n = 0;
    const uint8_t *kv = es_channel_metadata(lc->c, &n);
    es_lua_push_kv(L, kv, n);
    return 1;
}

static int channel_trailers(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return closed(L);
    size_t n = 0;
    const uint8_t *kv = es_channel_trailers(lc->c, &n);
    es_lua_push_kv(L, kv, n);
    return 1;
}

static int channel_stats(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    if (!lc)
        return closed(L);
    struct es_channel_stats st;
    es_channel_stats_get(lc->c, &st);
    lua_createtable(L, 0, 21);
    if (st.credit <= INT64_MAX) {
        lua_pushinteger(L, (lua_Integer)st.credit);
        lua_setfield(L, -2, "credit");
    }
#define NUMBER(name) (lua_pushinteger(L, (lua_Integer)st.name), lua_setfield(L, -2, #name))
#define FLAG(name)   (lua_pushboolean(L, st.name), lua_setfield(L, -2, #name))
    NUMBER(messages_in);
    NUMBER(messages_out);
    NUMBER(bytes_in);
    NUMBER(bytes_out);
    NUMBER(queued);
    NUMBER(unread);
    FLAG(finished);
    FLAG(peer_finished);
    FLAG(open);
    FLAG(failed);
    FLAG(full);
    NUMBER(waits);
    NUMBER(high);
    NUMBER(low);
#undef NUMBER
#undef FLAG
    lua_pushnumber(L, (double)st.idle / 1e9);
    lua_setfield(L, -2, "idle");
    lua_pushnumber(L, (double)st.waited / 1e9);
    lua_setfield(L, -2, "waited");
    return 1;
}

/* channel:queue(high, low): marks of its send queue. */
static int channel_queue(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    lua_Integer high = luaL_checkinteger(L, 2), low = luaL_checkinteger(L, 3);
    luaL_argcheck(L, high > 0 && low >= 0 && low <= high, 2, "marks are above 0, low not above high");
    if (lc)
        es_channel_set_queue(lc->c, (size_t)high, (size_t)low);
    return 0;
}

/* channel:idle_timeout(seconds); 0: none. */
static int channel_idle_timeout(lua_State *L)
{
    struct es_lchannel *lc = check(L);
    lua_Number s = luaL_checknumber(L, 2);
    luaL_argcheck(L, s >= 0 && s <= 1e9, 2, "seconds");
    if (lc && es_channel_set_idle_timeout(lc->c, (uint64_t)(s * 1e9)) != 0)
        return es_lua_fail(L, ES_ERR_NOMEM, "stream");
    return 0;
}

static int open_failure(lua_State *L, int rc, const char *name, int codec)
{
    if (rc == ES_ERR_AGAIN)
        return again(L);
    if (rc == ES_ERR_CLOSED)
        return es_lsession_closed_error(L);
    if (rc == ES_ERR_UNSUPPORTED)
        return es_lua_codec_unknown(L, name, codec);
    if (rc != ES_ERR_INVAL)
        return es_lua_fail(L, rc, name);
    lua_pushnil(L);
    es_lua_push_error(L, "invalid_argument",
                      "%s: metadata keys are lower case, up to 64 bytes, 64 pairs, 16 KiB in all", name);
    return 2;
}

int es_lsession_open_call(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    size_t len;
    const char *name = es_lua_users_text(L, 2, "stream", "name", &len);
    if (!es_name_valid(name, len))
        return es_lua_wrong_name(L, "stream", "a method name", name, len);
    if (!ls)
        return es_lsession_closed_error(L);
    struct es_lloop *lp = ls->loop;
    struct es_lcall_opts opts;
    es_lua_call_opts(L, 3, ls, &opts);
    int n = lua_gettop(L) - 3;
    if (lua_isnoneornil(L, 3) || es_lua_rawfield(L, 3, "timeout") == LUA_TNIL)
        opts.o.deadline = es_lua_handler_deadline(L); /* else a stream lives as long as it is wanted */
    es_buf_clear(&lp->scratch);
    if (n > 0 && es_codec_encode(L, opts.o.codec, 4, n, &lp->scratch) < 0)
        return es_lua_misuse(L, "%s", lua_tostring(L, -1));
    struct es_lchannel *lc = es_lchannel_new(L, lp, NULL);
    lc->codec = opts.o.codec;
    int rc = es_channel_call(ls->s, name, len, &opts.o, ES_CHANNEL_IN | ES_CHANNEL_OUT, lp->scratch.p,
                             lp->scratch.n, lc, &lc->c);
    return rc == 0 ? 1 : open_failure(L, rc, name, opts.o.codec);
}

void es_lua_open_channel(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"id", channel_id},
                                       {"send", channel_send},
                                       {"recv", channel_recv},
                                       {"on_readable", channel_on_readable},
                                       {"on_writable", channel_on_writable},
                                       {"on_closed", channel_on_closed},
                                       {"error", channel_error},
                                       {"result", channel_result},
                                       {"is_call", channel_is_call},
                                       {"codec", channel_codec},
                                       {"finish", channel_finish},
                                       {"reset", channel_reset},
                                       {"close", channel_close},
                                       {"stats", channel_stats},
                                       {"queue", channel_queue},
                                       {"idle_timeout", channel_idle_timeout},
                                       {"metadata", channel_metadata},
                                       {"trailers", channel_trailers},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", channel_gc}, {"__close", channel_close}, {NULL, NULL}};
    (void)core;
    es_lua_class(L, CHANNEL_MT, methods, meta);
}
