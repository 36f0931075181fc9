/* What the end of a task means for what it served: a call gets its answer, an event its lane back, a stream
 * its end. */
#include "binding.h"
#include <string.h>
#include "../base/mem.h"
#include "../framing/frame.h"
#include "codec.h"
#include "errors.h"
#include "msgpack.h"

/* Text of any value raised by user code, without running into a second error (a bad __tostring). */
static int tostring_body(lua_State *L)
{
    luaL_tolstring(L, 1, NULL);
    return 1;
}

const char *es_lua_error_text(lua_State *L, int idx)
{
    idx = lua_absindex(L, idx);
    if (lua_type(L, idx) == LUA_TSTRING) {
        lua_pushvalue(L, idx);
    } else if (lua_isnil(L, idx)) {
        lua_pushliteral(L, "error(nil)");
    } else {
        lua_pushcfunction(L, tostring_body);
        lua_pushvalue(L, idx);
        if (lua_pcall(L, 1, 1, 0) != LUA_OK || !lua_isstring(L, -1)) {
            lua_pop(L, 1);
            lua_pushfstring(L, "(an error object that is a %s)", luaL_typename(L, idx));
        }
    }
    return lua_tostring(L, -1);
}

/* "chunk:12: text" without its position: paths and lines of this machine are not the peer's business. */
static const char *without_position(const char *s)
{
    const char *line = strchr(s, '\n');

    for (const char *p = s; (p = strchr(p, ':')) != NULL && (line == NULL || p < line); p++) {
        const char *q = p + 1;
        while (*q >= '0' && *q <= '9')
            q++;
        if (q > p + 1 && q[0] == ':' && q[1] == ' ')
            return q + 2;
        if (p - s > 200)
            break;
    }
    return s;
}

/* Bytes of the text before a traceback, which somebody may have made part of it (xpcall with debug.traceback,
 * an error inside echo.wrap). The log has it all. */
static size_t without_traceback(const char *s)
{
    const char *at = strstr(s, "\nstack traceback:");

    return at != NULL ? (size_t)(at - s) : strlen(s);
}

/* What the error object says is not asked: a handler may pass on what somebody else answered it. */
static int processed(const struct es_task *t)
{
    return t->refused ? ES_PROCESSED_NO : ES_PROCESSED_YES;
}

/* Seconds as milliseconds, rounded up: earlier makes no sense. */
static uint64_t milliseconds(double seconds)
{
    double ms = seconds * 1e3;

    if (!(ms > 0))
        return 0;
    if (ms >= 1e15)
        return (uint64_t)1e15;
    return (uint64_t)ms + ((double)(uint64_t)ms < ms);
}

/* Reads the error value at idx. Strings stay on the stack of L until the caller's settop; details go to the
 * scratch buffer. */
static void read_failure(lua_State *L, int idx, struct es_task *t, struct es_failure *f)
{
    struct es_lloop *lp = t->loop;

    memset(f, 0, sizeof *f);
    idx = lua_absindex(L, idx);
    f->processed = processed(t);
    f->unreadable = t->unreadable;
    if (!es_lua_is_error(L, idx)) {
        const char *text = without_position(es_lua_error_text(L, idx));
        f->status = ES_STATUS_UNKNOWN;
        f->message = text;
        f->message_len = without_traceback(text);
        return;
    }
    lua_pushliteral(L, "code");
    lua_rawget(L, idx);
    f->code = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &f->code_len) : "unknown";
    if (f->code_len == 0)
        f->code_len = strlen(f->code);
    f->status = es_status_of_code(f->code, f->code_len);
    lua_pushliteral(L, "message");
    lua_rawget(L, idx);
    if (lua_type(L, -1) == LUA_TSTRING)
        f->message = lua_tolstring(L, -1, &f->message_len);
    lua_pushliteral(L, "retry_after");
    lua_rawget(L, idx);
    if (lua_isnumber(L, -1))
        f->retry_after_ms = milliseconds(lua_tonumber(L, -1));
    lua_pushliteral(L, "details");
    lua_rawget(L, idx);
    if (!lua_isnil(L, -1)) {
        int at = lua_gettop(L);
        es_buf_clear(&lp->scratch);
        if (es_codec_pack(L, ES_CODEC_MSGPACK, at, &lp->scratch) == 0) {
            f->codec = ES_CODEC_MSGPACK;
            f->details = lp->scratch.p;
            f->details_len = lp->scratch.n;
        } else {
            es_lua_log(L, lp->lua, "warn", lua_tostring(L, -1), NULL, "error details");
            lua_pop(L, 1);
        }
    }
}

/* Hands the scratch buffer to the transport when it is worth it. */
int es_lua_give_scratch(struct es_lloop *lp, void (**release)(void *), void **arg)
{
    if (lp->scratch.n < ES_ANCHOR_BYTES)
        return 0;
    *release = es_free;
    *arg = lp->scratch.p;
    memset(&lp->scratch, 0, sizeof lp->scratch);
    return 1;
}

/* Encodes the n results from `first` on into the scratch buffer. 0: *f says why not. */
static int encode_results(lua_State *L, struct es_task *t, int first, int n, struct es_failure *f)
{
    es_buf_clear(&t->loop->scratch);
    if (es_codec_encode(L, t->codec, first, n, &t->loop->scratch) == 0)
        return 1;
    const char *why = lua_pushfstring(L, "the results cannot be sent: %s", lua_tostring(L, -1));
    es_lua_log(L, t->loop->lua, "error", why, NULL, t->method->name);
    memset(f, 0, sizeof *f);
    f->status = ES_STATUS_INTERNAL;
    f->code = "serialization";
    f->code_len = strlen(f->code);
    f->message = why;
    f->message_len = strlen(why);
    f->processed = processed(t);
    return 0;
}

/* What a handler or a middleware said goes with the answer. In a protected call: the table is the user's. */
static int trailers_body(lua_State *L)
{
    struct es_task *t = lua_touserdata(L, 1);
    struct es_pair_kv kv[ES_MAX_META_PAIRS];
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->trailers_ref);
    size_t n = es_lua_read_kv(L, 2, "trailers", kv, ES_MAX_META_PAIRS);
    int rc = ES_OK;
    if (t->job == ES_JOB_CALL)
        rc = es_call_set_trailers(t->call, kv, n);
    else if (t->channel->c)
        rc = es_channel_set_trailers(t->channel->c, kv, n);
    if (rc == ES_ERR_METADATA)
        return luaL_error(L, "trailers: %s", es_strerror(rc));
    if (rc < 0)
        return luaL_error(L, "trailers: keys are lower case, up to 64 bytes, 64 pairs, 16 KiB in all");
    return 0;
}

/* 0: they cannot be sent; *f says so, and stands for what the handler gave. */
static int add_trailers(lua_State *L, struct es_task *t, struct es_failure *f)
{
    lua_pushcfunction(L, trailers_body);
    lua_pushlightuserdata(L, t);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK)
        return 1;
    const char *why = es_lua_error_text(L, -1);
    es_lua_log(L, t->loop->lua, "error", why, NULL, t->method->name);
    memset(f, 0, sizeof *f);
    f->status = ES_STATUS_INTERNAL;
    f->message = "the answer's metadata cannot be sent";
    f->message_len = strlen(f->message);
    f->processed = processed(t);
    return 0;
}

static int is_failure(lua_State *L, int first, int n)
{
    return n >= 2 && lua_isnil(L, first) && es_lua_is_error(L, first + 1);
}

static void answer(lua_State *L, struct es_task *t, int first, int n)
{
    struct es_lloop *lp = t->loop;
    struct es_failure f;
    if (t->trailers_ref != LUA_NOREF && !add_trailers(L, t, &f)) {
        es_call_fail(t->call, &f);
        return;
    }
    if (is_failure(L, first, n)) {
        read_failure(L, first + 1, t, &f);
        es_call_fail(t->call, &f);
        return;
    }
    if (!encode_results(L, t, first, n, &f)) {
        es_call_fail(t->call, &f);
        return;
    }
    void (*release)(void *) = NULL;
    void *arg = NULL;
    const uint8_t *p = lp->scratch.p;
    size_t len = lp->scratch.n;
    es_lua_give_scratch(lp, &release, &arg);
    if (es_call_respond(t->call, t->codec, p, len, release, arg) < 0 && release)
        release(arg);
}

/* The handler of a stream: only a streaming call has results. */
static void end_channel(lua_State *L, struct es_task *t, struct es_channel *c, int ok, int first, int n)
{
    struct es_lloop *lp = t->loop;
    struct es_failure f;
    if (t->trailers_ref != LUA_NOREF && !add_trailers(L, t, &f)) {
        es_channel_end(c, &f);
        return;
    }
    if (!ok || is_failure(L, first, n)) {
        read_failure(L, ok ? first + 1 : first, t, &f);
        es_channel_end(c, &f);
        return;
    }
    if (!es_channel_is_call(c) || (n == 0 && t->codec == ES_CODEC_RAW)) {
        es_channel_end(c, NULL);
        return;
    }
    if (!encode_results(L, t, first, n, &f)) {
        es_channel_end(c, &f);
        return;
    }
    void (*release)(void *) = NULL;
    void *arg = NULL;
    const uint8_t *p = lp->scratch.p;
    size_t len = lp->scratch.n;
    es_lua_give_scratch(lp, &release, &arg);
    if (es_channel_respond(c, t->codec, p, len, release, arg) < 0 && release)
        release(arg);
}

void es_job_end(lua_State *L, struct es_task *t, int ok, int n)
{
    int first = lua_gettop(L) - n + 1;
    struct es_failure f;
    switch (t->job) {
    case ES_JOB_CALL:
        if (ok) {
            answer(L, t, first, n);
        } else if (t->trailers_ref != LUA_NOREF && !add_trailers(L, t, &f)) {
            es_call_fail(t->call, &f);
        } else {
            read_failure(L, first, t, &f);
            es_call_fail(t->call, &f);
        }
        t->call = NULL;
        break;
    case ES_JOB_EVENT:
        es_session_event_done(t->session, t->lane, t->method);
        break;
    case ES_JOB_CHANNEL: {
        struct es_lchannel *lc = t->channel;
        if (lc->c)
            end_channel(L, t, lc->c, ok, first, n);
        t->channel = NULL;
        lc->task = NULL; /* only now: until here the collector must not release it */
        es_lchannel_release(lc);
        es_lchannel_unref(L, lc);
        break;
    }
    default:
        break;
    }
}

void es_job_abandon(struct es_task *t)
{
    static const struct es_failure gone = {.status = ES_STATUS_UNAVAILABLE, .processed = ES_PROCESSED_MAYBE};
    if (t->job == ES_JOB_CALL && t->call) {
        es_call_fail(t->call, &gone);
        t->call = NULL;
    } else if (t->job == ES_JOB_EVENT && t->method) {
        es_session_event_done(t->session, t->lane, t->method);
        t->method = NULL;
    } else if (t->job == ES_JOB_CHANNEL && t->channel && t->channel->c) {
        es_channel_end(t->channel->c, &gone);
    }
}
