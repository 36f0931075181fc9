/* Requests from Lua, and what a handler can ask about the call it serves. */
#include "binding.h"
#include <string.h>
#include "../base/mem.h"
#include "../framing/compress.h"
#include "../framing/frame.h"
#include "codec.h"
#include "errors.h"
#include "luaaux.h"

/* ---- key-value pairs ---- */

void es_lua_push_kv(lua_State *L, const uint8_t *p, size_t n)
{
    struct es_kv kv = {p, n, SIZE_MAX};
    struct es_bytes key, value;
    size_t at = 0;
    lua_newtable(L);
    while (n && es_kv_next(&kv, &at, &key, &value)) {
        lua_pushlstring(L, (const char *)key.p, key.n);
        lua_pushlstring(L, (const char *)value.p, value.n);
        lua_rawset(L, -3);
    }
}

size_t es_lua_read_kv(lua_State *L, int idx, const char *field, struct es_pair_kv *kv, size_t max)
{
    if (lua_isnoneornil(L, idx))
        return 0;
    idx = lua_absindex(L, idx);
    if (!lua_istable(L, idx))
        luaL_error(L, "%s: expected a table of strings, got %s", field, luaL_typename(L, idx));
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1), n++) {
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s: keys and values are strings, got %s = %s", field, luaL_typename(L, -2),
                       luaL_typename(L, -1));
        if (n == max)
            luaL_error(L, "%s: more than %d pairs", field, (int)max);
        kv[n].key = lua_tolstring(L, -2, &kv[n].key_len); /* both are held by the table */
        kv[n].value = lua_tolstring(L, -1, &kv[n].value_len);
    }
    return n;
}

/* ---- requests ---- */

static const char elsewhere_key = 0; /* its address is the registry's key */

int es_lua_read_codec(lua_State *L, int idx)
{
    const char *name;
    if (!es_lua_opt_string(L, idx, "codec", &name, NULL))
        return ES_CODEC_MSGPACK;
    int codec = es_codec_find(L, name);
    if (codec < 0)
        luaL_error(L, "codec: no codec of the name '%s' is registered", name);
    return codec;
}

int es_lua_read_packing(lua_State *L, int idx, struct es_packing *p)
{
    int said = 0, flag = 0;
    lua_Integer v;
    int type = lua_getfield(L, idx, "compress");
    if (type == LUA_TBOOLEAN || type == LUA_TTABLE) {
        int on = type == LUA_TTABLE || lua_toboolean(L, -1);
        said = 1;
        p->compress = on ? ES_COMPRESS_ON : ES_COMPRESS_NEVER;
        p->level = 0;
        p->threshold = ES_ZSTD_THRESHOLD;
        if (type == LUA_TTABLE) {
            int at = lua_gettop(L);
            if (es_lua_opt_integer(L, at, "threshold", 0, INT32_MAX, &v))
                p->threshold = (uint32_t)v;
            if (es_lua_opt_integer(L, at, "level", ES_ZSTD_LEVEL_MIN, ES_ZSTD_LEVEL_MAX, &v))
                p->level = (uint8_t)v;
        }
    } else if (type != LUA_TNIL) {
        es_lua_opt_error(L, "compress", "a boolean or a table", -1);
    }
    lua_pop(L, 1);
    if (es_lua_opt_boolean(L, idx, "secret", &flag) && flag) {
        said = 1; /* the length of what is compressed tells of what is in it */
        p->compress = ES_COMPRESS_NEVER;
    }
    if (es_lua_opt_boolean(L, idx, "checksum", &flag)) {
        said = 1;
        p->checksum = (uint8_t)flag;
    }
    return said;
}

int es_lua_codec_unknown(lua_State *L, const char *what, int codec)
{
    lua_pushnil(L);
    es_lua_push_error(L, "invalid_argument", "%s: the peer does not know the codec \"%s\"", what,
                      es_codec_name(L, codec));
    return 2;
}

void es_lua_call_opts(lua_State *L, int idx, struct es_lsession *ls, struct es_lcall_opts *out)
{
    struct es_lloop *lp = ls->loop;
    struct es_call_opts *o = &out->o;
    es_poller_now(
        lp->poller); /* a script may have computed for long since the last step: deadlines count from now */
    es_call_opts_default(o);
    o->codec = ES_CODEC_MSGPACK;
    if (!lua_isnoneornil(L, idx)) {
        luaL_checktype(L, idx, LUA_TTABLE);
        uint64_t ns;
        lua_Integer v;
        int flag = 0;
        if (lua_getfield(L, idx, "timeout") == LUA_TBOOLEAN && !lua_toboolean(L, -1))
            o->deadline = ES_NEVER;
        else if (es_lua_opt_seconds(L, idx, "timeout", &ns))
            o->deadline = es_poller_timers(lp->poller)->now + ns;
        lua_pop(L, 1);
        if (es_lua_opt_integer(L, idx, "priority", 0, 7, &v))
            o->priority = (uint8_t)v;
        if (es_lua_opt_boolean(L, idx, "idempotent", &flag))
            o->idempotent = (uint8_t)flag;
        o->codec = (uint8_t)es_lua_read_codec(L, idx);
        out->packing = ls->host->packing;
        if (es_lua_read_packing(L, idx, &out->packing))
            o->packing = &out->packing;
        lua_getfield(L, idx, "metadata");
        o->metadata = out->kv;
        o->n_metadata = es_lua_read_kv(L, -1, "metadata", out->kv, ES_MAX_META_PAIRS);
        lua_pop(L, 1);
        /* Of retry.lua, by position because that costs next to nothing where they are not: the id that every
         * attempt of a request has, the number of this one, and whether an earlier one may have run. */
        if (lua_rawgeti(L, idx, 1) != LUA_TNIL) {
            o->request_id = (uint64_t)lua_tointeger(L, -1);
            lua_rawgeti(L, idx, 3);
            o->retry = (uint8_t)lua_toboolean(L, -1);
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    /* A handler's own deadline bounds the calls it makes: they get what is left. */
    uint64_t bound = es_lua_handler_deadline(L);
    if (bound == ES_NEVER)
        return;
    if (o->deadline == ES_DEADLINE_DEFAULT) {
        if (bound < es_poller_timers(lp->poller)->now + 30 * ES_SECOND)
            o->deadline = bound;
    } else if (bound < o->deadline) {
        o->deadline = bound;
    }
}

uint64_t es_lua_handler_deadline(lua_State *L)
{
    struct es_task *t = es_task_current(L);
    if (t && t->job == ES_JOB_CALL && t->call) {
        /* Its caller is lost and it was kept: whoever comes back has a deadline of its own. */
        if (t->keep_ref != LUA_NOREF && es_call_cancelled(t->call))
            return ES_NEVER;
        return es_call_deadline(t->call);
    }
    if (t && t->job == ES_JOB_CHANNEL && t->channel->c)
        return es_channel_deadline(t->channel->c);
    return ES_NEVER;
}

struct prepared { /* a request that is encoded and ready to go */
    struct es_lcall_opts opts;
    const char *method;
    size_t len;
};

static const char *method_name(lua_State *L, int at, size_t *len)
{
    const char *name = es_lua_users_text(L, at, "request", "name", len);
    if (!es_name_valid(name, *len))
        es_lua_wrong_name(L, "request", "a method name", name, *len);
    return name;
}

/* method, options, arguments... from index `at` on; the payload goes to the scratch buffer. Raises on misuse.
 */
static void prepare(lua_State *L, struct es_lsession *ls, int at, struct prepared *p)
{
    struct es_lloop *lp = ls->loop;
    p->method = method_name(L, at, &p->len);
    es_lua_call_opts(L, at + 1, ls, &p->opts);
    int n = lua_gettop(L) - (at + 1);
    es_buf_clear(&lp->scratch);
    if (es_codec_encode(L, p->opts.o.codec, at + 2, n < 0 ? 0 : n, &lp->scratch) < 0)
        es_lua_misuse(L, "%s", lua_tostring(L, -1));
}

/* 0, or the number of values (nil, err) to return. */
static int send_request(lua_State *L, struct es_lsession *ls, struct prepared *p, struct es_waiter *w)
{
    struct es_lloop *lp = ls->loop;
    void (*release)(void *) = NULL;
    void *arg = NULL;
    const uint8_t *data = lp->scratch.p;
    size_t size = lp->scratch.n;
    es_lua_give_scratch(lp, &release, &arg);
    int rc = es_session_request(ls->s, p->method, p->len, &p->opts.o, data, size, release, arg, w, &w->call);
    if (rc == 0)
        return 0;
    if (release)
        release(arg);
    w->call = NULL;
    if (rc == ES_ERR_INVAL) {
        lua_pushnil(L);
        es_lua_push_error(L, "invalid_argument",
                          "%s: metadata keys are lower case, up to 64 bytes, 64 pairs, 16 KiB in all",
                          p->method);
        return 2;
    }
    if (rc == ES_ERR_CLOSED)
        return es_lsession_closed_error(L);
    if (rc == ES_ERR_UNSUPPORTED)
        return es_lua_codec_unknown(L, p->method, p->opts.o.codec);
    return es_lua_fail(L, rc, p->method);
}

static int elsewhere_ended(lua_State *L, int status, lua_KContext ctx)
{
    return lua_gettop(L);
}

/* Not in a task, or with a callback: what core.set_elsewhere was given does it. Deciding that here and not in
 * Lua is worth 1,700 of the caller's 14,800 instructions a call. */
static int request_elsewhere(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &elsewhere_key) != LUA_TFUNCTION)
        return luaL_error(L, "session:request outside a task");
    size_t len;
    (void)method_name(L, 2, &len); /* here, where it can be told whose line it is */
    lua_insert(L, 1);
    lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, elsewhere_ended);
    return lua_gettop(L);
}

static int core_set_elsewhere(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 2, LUA_TSTRING);
    es_lua_set_home(L, 2);
    lua_settop(L, 1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &elsewhere_key);
    return 0;
}

int es_lsession_request(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_task *t = es_task_current(L);
    if (!t || lua_type(L, -1) == LUA_TFUNCTION)
        return request_elsewhere(L);
    if (!ls)
        return es_lsession_closed_error(L);
    if (t->cancelled) {
        lua_pushnil(L);
        es_lua_push_error(L, "cancelled", "the task was cancelled");
        return 2;
    }
    if (!lua_isyieldable(L))
        return luaL_error(
            L, "a request waits for its answer, which cannot be done inside a callback of a C function "
               "(string.gsub, table.sort, a metamethod called from C); use echo.wrap, or call it before or "
               "after");
    struct prepared p;
    prepare(L, ls, 2, &p);
    if (t->came_ref != LUA_NOREF) {
        luaL_unref(L, LUA_REGISTRYINDEX, t->came_ref);
        t->came_ref = LUA_NOREF;
    }
    int n = send_request(L, ls, &p, &t->waiter);
    if (n)
        return n;
    t->parking = 1;
    return lua_yield(L, 0);
}

int es_lsession_request_cb(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (!ls)
        return es_lsession_closed_error(L);
    struct es_lloop *lp = ls->loop;
    struct prepared p;
    prepare(L, ls, 3, &p);
    lua_pushvalue(L, 2);
    int done_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    struct es_lcallback *cb = es_calloc(1, sizeof *cb);
    int n = 0;
    if (cb) {
        cb->waiter.kind = ES_WAITER_CALLBACK;
        cb->loop = lp;
        cb->handle = ++lp->next_handle;
        cb->done_ref = done_ref;
    }
    if (!cb || es_idmap_put(&lp->callbacks, cb->handle, cb) < 0)
        n = es_lua_fail(L, ES_ERR_NOMEM, NULL);
    else if ((n = send_request(L, ls, &p, &cb->waiter)) != 0)
        es_idmap_remove(&lp->callbacks, cb->handle);
    if (n) {
        luaL_unref(L, LUA_REGISTRYINDEX, done_ref);
        es_free(cb);
        return n;
    }
    lua_pushinteger(L, (lua_Integer)cb->handle);
    return 1;
}

void es_lua_waiter_end(lua_State *L, struct es_waiter *w, int n)
{
    if (w->kind == ES_WAITER_TASK) {
        struct es_task *t = (struct es_task *)w;
        if (!lua_checkstack(t->co, n))
            lua_settop(L, lua_gettop(L) - n), n = 0;
        lua_xmove(L, t->co, n);
        es_task_run(L, t, n);
        return;
    }
    struct es_lcallback *cb = (struct es_lcallback *)w;
    lua_rawgeti(L, LUA_REGISTRYINDEX, cb->done_ref);
    lua_insert(L, -n - 1);
    luaL_unref(L, LUA_REGISTRYINDEX, cb->done_ref);
    es_idmap_remove(&cb->loop->callbacks, cb->handle);
    es_task_call(L, cb->loop, n);
    es_free(cb);
}

int es_lsession_cancel(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    lua_Integer handle = luaL_checkinteger(L, 2);
    struct es_lcallback *cb = ls ? es_idmap_get(&ls->loop->callbacks, (uint64_t)handle) : NULL;
    if (cb && cb->waiter.call) {
        struct es_call *c = cb->waiter.call;
        cb->waiter.call = NULL;
        es_call_cancel(c, ES_APP_CANCELLED);
        lua_pushnil(L);
        es_lua_push_error(L, "cancelled", "the call was cancelled");
        es_lua_waiter_end(L, &cb->waiter, 2);
        lua_pushboolean(L, 1);
    } else {
        lua_pushboolean(L, 0);
    }
    return 1;
}

/* ---- the call a handler serves ---- */

static struct es_task *serving(lua_State *L)
{
    struct es_task *t = es_task_current(L);
    return t && (t->job == ES_JOB_CALL || t->job == ES_JOB_CHANNEL || t->job == ES_JOB_EVENT) ? t : NULL;
}

static int core_call_info(lua_State *L)
{
    struct es_task *t = serving(L);
    if (!t)
        return 0;
    static const char *const kinds[] = {
        [ES_JOB_CALL] = "rpc", [ES_JOB_EVENT] = "event", [ES_JOB_CHANNEL] = "stream"};
    size_t n = 0;
    const uint8_t *kv = NULL;
    lua_createtable(L, 0, 6);
    lua_pushstring(L, kinds[t->job]);
    lua_setfield(L, -2, "kind");
    lua_pushlstring(L, t->method->name, t->method->name_len);
    lua_setfield(L, -2, "name");
    struct es_lsession *ls = t->session ? es_session_user(t->session) : NULL;
    if (ls && ls->obj_ref != LUA_NOREF) { /* nil once the session is over */
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
        lua_setfield(L, -2, "session");
    }
    lua_Integer attempt = 1, id = 0;
    if (t->job == ES_JOB_CALL) {
        kv = es_call_metadata(t->call, &n);
        id = (lua_Integer)es_call_request_id(t->call);
        attempt = es_call_attempt(t->call);
    } else if (t->job == ES_JOB_CHANNEL && t->channel->c) {
        kv = es_channel_metadata(t->channel->c, &n);
        id = (lua_Integer)es_channel_id(t->channel->c);
    }
    if (es_lua_handler_deadline(L) != ES_NEVER) {
        lua_pushnumber(L, (double)es_lua_handler_deadline(L) / 1e9);
        lua_setfield(L, -2, "deadline");
    }
    if (t->meta_ref != LUA_NOREF)
        lua_rawgeti(L, LUA_REGISTRYINDEX, t->meta_ref);
    else
        es_lua_push_kv(L, kv, n);
    lua_setfield(L, -2, "metadata");
    if (t->job == ES_JOB_EVENT) {
        lua_pushinteger(L, (lua_Integer)t->event_seq);
        lua_setfield(L, -2, "seq");
        lua_pushinteger(L, (lua_Integer)t->event_gap);
        lua_setfield(L, -2, "gap");
    }
    lua_pushinteger(L, id);
    lua_setfield(L, -2, "id");
    lua_pushinteger(L, attempt);
    lua_setfield(L, -2, "attempt");
    return 1;
}

/* call_bytes() -> in, out: payloads of the incoming call that the running task serves, as they are on the
 * wire; of a stream's messages until now. What a call or event answers is not known yet: nil. */
static int core_call_bytes(lua_State *L)
{
    struct es_task *t = serving(L);
    struct es_channel_stats st;
    if (!t || (t->job == ES_JOB_CHANNEL && !t->channel->c))
        return 0;
    if (t->job != ES_JOB_CHANNEL) {
        lua_pushinteger(L, (lua_Integer)t->payload_len);
        return 1;
    }
    es_channel_stats_get(t->channel->c, &st);
    lua_pushinteger(L, (lua_Integer)st.bytes_in);
    lua_pushinteger(L, (lua_Integer)st.bytes_out);
    return 2;
}

/* What middleware made of the metadata: call_info shows it from now on. */
static int core_set_call_metadata(lua_State *L)
{
    struct es_task *t = serving(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!t)
        return 0;
    luaL_unref(L, LUA_REGISTRYINDEX, t->meta_ref);
    lua_pushvalue(L, 1);
    t->meta_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* Metadata of the answer to the running handler's call: this very table is read when it is sent. False:
 * nothing is answered here (an event, no handler). */
static int core_set_call_trailers(lua_State *L)
{
    struct es_task *t = serving(L);
    struct es_pair_kv kv[ES_MAX_META_PAIRS];
    luaL_checktype(L, 1, LUA_TTABLE);
    es_lua_read_kv(L, 1, "trailers", kv, ES_MAX_META_PAIRS);
    if (!t || t->job == ES_JOB_EVENT) {
        lua_pushboolean(L, 0);
        return 1;
    }
    luaL_unref(L, LUA_REGISTRYINDEX, t->trailers_ref);
    lua_pushvalue(L, 1);
    t->trailers_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushboolean(L, 1);
    return 1;
}

static int core_call_trailers(lua_State *L)
{
    struct es_task *t = serving(L);
    if (!t || t->trailers_ref == LUA_NOREF)
        return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->trailers_ref);
    return 1;
}

/* What came with the answer to the running task's last request; nil when nothing did, or it was taken. */
static int core_take_trailers(lua_State *L)
{
    struct es_task *t = es_task_current(L);
    if (!t || t->came_ref == LUA_NOREF)
        return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->came_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, t->came_ref);
    t->came_ref = LUA_NOREF;
    return 1;
}

static int core_call_cancelled(lua_State *L)
{
    struct es_task *t = serving(L);
    if (!t)
        return 0;
    int given_up = (t->job == ES_JOB_CALL && t->keep_ref == LUA_NOREF && es_call_cancelled(t->call)) ||
                   (t->job == ES_JOB_CHANNEL && t->channel->c && es_channel_cancelled(t->channel->c, NULL));
    lua_pushboolean(L, t->cancelled || given_up);
    return 1;
}

static int core_call_on_cancel(lua_State *L)
{
    struct es_task *t = serving(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    if (!t)
        return luaL_error(L, "call_on_cancel outside a handler");
    if (t->cancelled) {
        lua_pushvalue(L, 1);
        lua_pushinteger(L, ES_APP_CANCELLED);
        es_task_call(L, t->loop, 1);
    } else {
        es_lua_list_add(L, &t->cancel_fns_ref, 1);
    }
    return 0;
}

void es_lua_open_request(lua_State *L, int core)
{
    static const luaL_Reg functions[] = {{"call_info", core_call_info},
                                         {"call_bytes", core_call_bytes},
                                         {"set_call_metadata", core_set_call_metadata},
                                         {"call_cancelled", core_call_cancelled},
                                         {"set_elsewhere", core_set_elsewhere},
                                         {"call_on_cancel", core_call_on_cancel},
                                         {"set_call_trailers", core_set_call_trailers},
                                         {"call_trailers", core_call_trailers},
                                         {"take_trailers", core_take_trailers},
                                         {NULL, NULL}};
    lua_pushvalue(L, core);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
