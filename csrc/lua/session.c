/* Sessions in Lua: making the object with the open hook, requests, events, closing. */
#include "binding.h"
#include <string.h>
#include "../base/mem.h"
#include "../framing/frame.h"
#include "codec.h"
#include "errors.h"
#include "luaaux.h"
#include "webtransport.h"

#define SESSION_MT "echostream.session"

/* Returns NULL when it is closed: the caller then returns es_lua_closed(). */
struct es_lsession *es_lsession_check(lua_State *L)
{
    struct es_lsession *ls = *(struct es_lsession **)luaL_checkudata(L, 1, SESSION_MT);
    return ls && ls->s ? ls : NULL;
}

int es_lsession_closed_error(lua_State *L)
{
    struct es_lsession *ls = *(struct es_lsession **)luaL_checkudata(L, 1, SESSION_MT);
    const struct es_close_info *info = ls && ls->s ? es_session_closed_by(ls->s) : NULL;
    const char *message;
    size_t n;
    if (info && (es_session_refusal(info, &n, &message) ||
                 es_close_is_certificate(info))) { /* its CLOSED is still in the queue */
        lua_pushnil(L);
        es_lua_push_close_err(L, info);
        return 2;
    }
    if (!ls || ls->refusal_ref == LUA_NOREF)
        return es_lua_closed(L, "session");
    lua_pushnil(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->refusal_ref);
    return 2;
}

struct es_link *es_lsession_connection(struct es_lsession *ls)
{
    struct es_link *link = es_session_link(ls->s);

    return link != NULL ? link->base : NULL;
}

static void drop(lua_State *L, int *ref)
{
    if (*ref != LUA_NOREF) {
        luaL_unref(L, LUA_REGISTRYINDEX, *ref);
        *ref = LUA_NOREF;
    }
}

void es_lua_list_add(lua_State *L, int *ref, int idx)
{
    idx = lua_absindex(L, idx);
    if (*ref == LUA_NOREF) {
        lua_createtable(L, 1, 0);
        *ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, *ref);
    lua_pushvalue(L, idx);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pop(L, 1);
}

void es_lua_list_run(lua_State *L, struct es_lloop *lp, int *ref)
{
    if (*ref == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, *ref);
    drop(L, ref);
    int list = lua_gettop(L);
    lua_Integer n = (lua_Integer)lua_rawlen(L, list);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, list, i);
        es_task_call(L, lp, 0);
    }
    lua_settop(L, list - 1);
}

/* ---- life ---- */

/* What make_body works on, as a light userdata: it runs in a protected call. */
struct make {
    struct es_lhost *h;
    struct es_lsession *ls;
    int incoming;
};

static int make_body(lua_State *L)
{
    struct make *m = lua_touserdata(L, 1);
    struct es_lsession **box = es_lua_new(L, SESSION_MT, sizeof *box, 0);
    struct es_lsession *ls = es_calloc(1, sizeof *ls);
    if (!ls)
        return luaL_error(L, "out of memory");
    ls->refs = 1;
    ls->loop = es_lloop_ref(m->h->loop);
    ls->host = es_lhost_ref(m->h);
    ls->obj_ref = ls->ud_ref = ls->done_ref = ls->flush_ref = ls->writable_ref = ls->refusal_ref = LUA_NOREF;
    ls->migrate_ref = LUA_NOREF;
    ls->incoming = m->incoming;
    es_list_init(&ls->flush_node);
    *box = ls;
    ls->ud_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    m->ls = ls;
    return 0;
}

/* The open hook makes the Lua object; ls->s is there. */
static int hook_body(lua_State *L)
{
    struct es_lsession *ls = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->host->open_ref);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->ud_ref);
    lua_pushboolean(L, ls->incoming);
    size_t len = 0;
    const uint8_t *kv = ls->incoming ? es_session_credentials(ls->s, &len) : NULL;
    if (kv)
        es_lua_push_kv(L, kv, len);
    else
        lua_pushnil(L);
    lua_call(L, 3, 1);
    if (!lua_istable(L, -1))
        return luaL_error(L, "the open hook must return a table");
    ls->obj_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static struct es_lsession *make(lua_State *L, struct es_lhost *h, int incoming)
{
    struct make m = {h, NULL, incoming};
    lua_pushcfunction(L, make_body);
    lua_pushlightuserdata(L, &m);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK)
        return m.ls;
    es_lua_log(L, h->loop->lua, "error", es_lua_error_text(L, -1), NULL, "session");
    lua_pop(L, 2);
    return NULL;
}

int es_lsession_run_open_hook(lua_State *L, struct es_lsession *ls)
{
    lua_pushcfunction(L, hook_body);
    lua_pushlightuserdata(L, ls);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK)
        return 0;
    es_lua_log(L, ls->loop->lua, "error", es_lua_error_text(L, -1), NULL, "open hook");
    lua_pop(L, 2);
    es_session_close(ls->s, ES_APP_INTERNAL, "internal error");
    es_lsession_forget(L, ls);
    return ES_ERR_INVAL;
}

struct es_lsession *es_lsession_new(lua_State *L, struct es_lhost *h, int done)
{
    done = lua_absindex(L, done);
    struct es_lsession *ls = make(L, h, 0);
    if (ls) {
        lua_pushvalue(L, done);
        ls->done_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    return ls;
}

struct es_lsession *es_lsession_accept(lua_State *L, struct es_lhost *h, struct es_session *s)
{
    struct es_lsession *ls = make(L, h, 1);
    if (!ls) {
        es_session_close(s, ES_APP_INTERNAL, "out of memory");
        return NULL;
    }
    ls->s = s;
    es_session_ref(s);
    es_session_set_user(s, ls);
    return es_lsession_run_open_hook(L, ls) == 0 ? ls : NULL;
}

void es_lsession_unref(lua_State *L, struct es_lsession *ls)
{
    if (--ls->refs)
        return;
    es_lhost_unref(L, ls->host);
    es_lloop_unref(ls->loop);
    es_free(ls);
}

/* Cuts the session room off; the userdata stays as a closed one. */
void es_lsession_forget(lua_State *L, struct es_lsession *ls)
{
    es_list_remove(&ls->flush_node);
    if (ls->s) {
        es_session_set_user(ls->s, NULL);
        es_session_unref(ls->s);
        ls->s = NULL;
    }
    if (!ls->loop->lua->closing) {
        int *const refs[] = {&ls->obj_ref,   &ls->ud_ref,       &ls->done_ref,
                             &ls->flush_ref, &ls->writable_ref, &ls->migrate_ref};
        for (size_t i = 0; i < sizeof refs / sizeof *refs; i++)
            drop(L, refs[i]);
    }
}

static int session_gc(lua_State *L)
{
    struct es_lsession **box = luaL_checkudata(L, 1, SESSION_MT);
    struct es_lsession *ls = *box;
    *box = NULL;
    if (ls) {
        es_lsession_forget(L, ls);
        if (!ls->loop->lua->closing)
            drop(L, &ls->refusal_ref);
        es_lsession_unref(L, ls);
    }
    return 0;
}

void es_lsession_opened(lua_State *L, struct es_lsession *ls)
{
    ls->opened = 1;
    if (ls->done_ref != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->done_ref);
        drop(L, &ls->done_ref);
        lua_pushboolean(L, 1);
        es_task_call(L, ls->loop, 1);
    }
    if (ls->incoming && ls->host->accept_ref != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->host->accept_ref);
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
        es_task_call(L, ls->loop, 1);
    }
}

void es_lsession_closed(lua_State *L, struct es_lsession *ls, const struct es_ev_closed *ev)
{
    const char *message;
    size_t n;
    es_lua_push_close_err(L, &ev->info);
    int err = lua_gettop(L);
    if (es_session_refusal(&ev->info, &n, &message) || es_close_is_certificate(&ev->info)) {
        lua_pushvalue(L, err);
        ls->refusal_ref = luaL_ref(L, LUA_REGISTRYINDEX); /* what later calls are told, too */
    }
    if (ls->done_ref != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->done_ref);
        lua_pushnil(L);
        lua_pushvalue(L, err);
        es_task_call(L, ls->loop, 2);
    }
    es_lua_list_run(L, ls->loop, &ls->flush_ref);
    es_lua_list_run(L, ls->loop, &ls->writable_ref);
    if (ls->host->closed_ref != LUA_NOREF && ls->obj_ref != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->host->closed_ref);
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
        lua_pushvalue(L, err);
        lua_pushboolean(L, ls->opened);
        es_task_call(L, ls->loop, 3);
    }
    es_lsession_forget(L, ls);
}

void es_lsession_check_flushed(lua_State *L, struct es_lloop *lp)
{
    es_list_foreach(it, &lp->flush_waiters)
    {
        struct es_lsession *ls = es_container_of(it, struct es_lsession, flush_node);
        if (!ls->s || es_session_flushed(ls->s)) {
            es_list_remove(&ls->flush_node);
            es_lua_list_run(L, lp, &ls->flush_ref);
        }
    }
}

static int core_dial(lua_State *L)
{
    struct es_lendpoint *le = es_lua_check_endpoint(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    if (!le->ep)
        return es_lua_closed(L, "endpoint");
    struct es_connect_config cc;
    memset(&cc, 0, sizeof cc);
    union es_addr remote;
    const char *text = NULL;
    if (!es_lua_opt_string(L, 2, "remote", &text, NULL) || es_addr_parse(&remote, text) < 0)
        return luaL_error(L, "remote: expected a numeric address, got %s", text ? text : "nothing");
    cc.remote = &remote;
    int tcp = 0;
    es_lua_opt_boolean(L, 2, "tcp", &tcp);
    lua_getfield(L, 2, "tls");
    cc.tls = es_lua_check_tls(L, -1);
    lua_getfield(L, 2, "host");
    struct es_lhost *h = es_lua_check_host(L, -1);
    lua_getfield(L, 2, "transport");
    es_transport_config_default(&cc.transport, 0);
    es_lua_transport_config(L, -1, &cc.transport);
    lua_getfield(L, 2, "done");
    luaL_checktype(L, -1, LUA_TFUNCTION);
    int done = lua_gettop(L);
    struct es_pair_kv kv[ES_MAX_META_PAIRS];
    struct es_session_dial dial;
    memset(&dial, 0, sizeof dial);
    lua_getfield(L, 2, "credentials");
    dial.credentials = kv;
    dial.n_credentials = es_lua_read_kv(L, -1, "credentials", kv, ES_MAX_META_PAIRS);
    size_t len = 0;
    const char *instance = NULL;
    if (es_lua_opt_string(L, 2, "instance", &instance, &len)) {
        if (len != 16)
            return luaL_error(L, "instance: expected 16 bytes");
        dial.instance = (const uint8_t *)instance;
    }
    struct es_wt_dial wt;
    int over = es_lua_wt_dial(L, 2, le->loop, &wt);
    struct es_lsession *ls = es_lsession_new(L, h, done);
    if (!ls)
        return es_lua_fail(L, ES_ERR_NOMEM, "session");
    dial.user = ls;
    cc.app = &h->app;
    cc.app_arg = &dial;
    if (over) {
        wt.app = &h->app;
        wt.app_arg = &dial;
        cc.app = es_wt_client_app();
        cc.app_arg = &wt;
    }
    struct es_link *link;
    char err[256] = "";
    int rc = es_lua_ticket_options(L, 2, le->loop, &cc);
    if (rc == 0)
        rc = es_lendpoint_dial(le, tcp, &cc, &link, err, sizeof err);
    if (rc < 0 && cc.ticket_free)
        cc.ticket_free(cc.ticket_user);
    if (rc < 0) {
        if (dial.session)
            es_session_unref(dial.session);
        es_lsession_forget(L, ls);
        return es_lua_fail(L, rc, err[0] ? err : text);
    }
    ls->s = dial.session; /* with its reference */
    if (es_lsession_run_open_hook(L, ls) < 0)
        return es_lua_fail(L, ES_ERR_INVAL, "the open hook failed");
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->ud_ref);
    return 1;
}

/* ---- events ---- */

static int session_emit(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    size_t len;
    const char *name = es_lua_users_text(L, 2, "emit", "name", &len);
    if (!ls)
        return es_lsession_closed_error(L);
    struct es_pair_kv kv[ES_MAX_META_PAIRS];
    size_t n_kv = 0;
    lua_Integer lane = 0;
    int unreliable = 0, codec = ES_CODEC_MSGPACK;
    struct es_packing packing = ls->host->packing;
    double wall = 0;
    if (!lua_isnoneornil(L, 3)) {
        luaL_checktype(L, 3, LUA_TTABLE);
        es_lua_opt_integer(L, 3, "lane", 0, 7, &lane);
        es_lua_opt_boolean(L, 3, "unreliable", &unreliable);
        es_lua_opt_number(L, 3, "wall_time", 0, 1e12, &wall);
        codec = es_lua_read_codec(L, 3);
        (void)es_lua_read_packing(L, 3, &packing);
        lua_getfield(L, 3, "metadata");
        n_kv = es_lua_read_kv(L, -1, "metadata", kv, ES_MAX_META_PAIRS);
        lua_pop(L, 1);
    }
    struct es_lloop *lp = ls->loop;
    int n = lua_gettop(L) - 3;
    es_buf_clear(&lp->scratch);
    if (es_codec_encode(L, codec, 4, n < 0 ? 0 : n, &lp->scratch) < 0)
        return es_lua_misuse(L, "%s", lua_tostring(L, -1));
    int rc = es_session_emit_packed(ls->s, &packing, name, len, unreliable ? ES_LANE_DATAGRAM : (int)lane,
                                    codec, kv, n_kv, (uint64_t)(wall * 1e6), lp->scratch.p, lp->scratch.n);
    if (rc == 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    if (rc == ES_ERR_AGAIN) {
        lua_pushnil(L);
        lua_pushliteral(L, "again");
        return 2;
    }
    if (rc == ES_ERR_INVAL)
        return es_name_valid(name, len)
                   ? es_lua_misuse(
                         L, "emit: metadata keys are lower case, up to 64 bytes, 64 pairs, 16 KiB in all")
                   : es_lua_wrong_name(L, "emit", "an event name", name, len);
    if (rc == ES_ERR_CLOSED)
        return es_lsession_closed_error(L);
    if (rc == ES_ERR_UNSUPPORTED && es_session_takes_codec(ls->s, codec) != 1)
        return es_lua_codec_unknown(L, name, codec);
    if (rc == ES_ERR_TOO_LARGE && unreliable) {
        struct es_link_stats st;
        es_link_stats_get(es_session_link(ls->s), &st);
        lua_pushnil(L);
        es_lua_push_error(
            L, "resource_exhausted",
            "%s: an unreliable event must fit one datagram: %d bytes now, with its name and head", name,
            (int)st.max_datagram);
        return 2;
    }
    return es_lua_fail(L, rc, name);
}

static int session_on_writable(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (ls) {
        es_lua_list_add(L, &ls->writable_ref, 2);
        return 0;
    }
    struct es_lsession *dead = *(struct es_lsession **)luaL_checkudata(L, 1, SESSION_MT);
    lua_pushvalue(L, 2);
    if (dead)
        es_task_call(L, dead->loop, 0);
    return 0;
}

/* ---- the rest ---- */

static int session_info(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link = ls ? es_session_link(ls->s) : NULL;
    if (!link)
        return es_lsession_closed_error(L);
    char addr[80] = "";
    es_link_peer_addr(link, addr, sizeof addr);
    lua_pushinteger(L, (lua_Integer)es_session_id(ls->s));
    lua_pushstring(L, addr);
    lua_pushnumber(L, (double)es_session_created(ls->s) / 1e9);
    lua_pushstring(L, es_session_agent(ls->s));
    lua_pushstring(L, link->door ? link->door->name : "native");
    return 5;
}

static int session_is_open(lua_State *L)
{
    const struct es_lsession *ls = es_lsession_check(L);
    lua_pushboolean(L, ls && es_session_is_open(ls->s));
    return 1;
}

static int result(lua_State *L, int rc, const char *what)
{
    if (rc < 0)
        return rc == ES_ERR_CLOSED ? es_lsession_closed_error(L) : es_lua_fail(L, rc, what);
    lua_pushboolean(L, 1);
    return 1;
}

static int session_accept(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    return ls ? result(L, es_session_accept(ls->s), "accept") : es_lsession_closed_error(L);
}

static int session_close(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    lua_Integer code = luaL_optinteger(L, 2, ES_APP_SESSION_CLOSED);
    const char *reason = luaL_optstring(L, 3, "");
    if (!ls)
        return es_lsession_closed_error(L);
    es_session_close(ls->s, (uint64_t)code, reason);
    lua_pushboolean(L, 1);
    return 1;
}

static int session_goaway(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    lua_Number grace = luaL_optnumber(L, 2, 0), retry = luaL_optnumber(L, 3, 0);
    const char *reason = luaL_optstring(L, 4, "");
    if (!ls)
        return es_lsession_closed_error(L);
    return result(
        L, es_session_goaway(ls->s, es_lua_to_ns(grace) / ES_MILLI, es_lua_to_ns(retry) / ES_MILLI, reason),
        "goaway");
}

/* Seconds since 1970, as the clock of this side has them. */
static int session_wall(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    if (!ls)
        return es_lsession_closed_error(L);
    lua_pushnumber(L, (double)es_lhost_wall(ls->host) / 1e9);
    return 1;
}

/* The id that the `pong` hook gets; nil, err: "again" while the peer's HELLO has not come. */
static int session_ping(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    uint64_t id;
    if (!ls)
        return es_lsession_closed_error(L);
    es_poller_now(ls->loop->poller); /* the round trip is counted from now */
    int rc = es_session_ping(ls->s, &id);
    if (rc == 0) {
        lua_pushinteger(L, (lua_Integer)id);
        return 1;
    }
    if (rc == ES_ERR_CLOSED)
        return es_lsession_closed_error(L);
    lua_pushnil(L);
    if (rc == ES_ERR_AGAIN)
        lua_pushliteral(L, "again");
    else if (rc == ES_ERR_UNSUPPORTED)
        es_lua_push_error(L, "failed_precondition", "ping: the peer does not answer pings");
    else if (rc == ES_ERR_LIMIT)
        es_lua_push_error(L, "resource_exhausted", "ping: %d of them are not answered yet", ES_MAX_PINGS);
    else
        return lua_pop(L, 1), es_lua_fail(L, rc, "ping");
    return 2;
}

static int session_in_flight(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    lua_pushinteger(L, ls ? (lua_Integer)es_session_in_flight(ls->s) : 0);
    return 1;
}

static int session_flushed(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    lua_pushboolean(L, !ls || es_session_flushed(ls->s));
    return 1;
}

static int session_on_flushed(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (!ls || es_session_flushed(ls->s)) {
        struct es_lsession *any = *(struct es_lsession **)luaL_checkudata(L, 1, SESSION_MT);
        lua_pushvalue(L, 2);
        if (any)
            es_task_call(L, any->loop, 0);
        return 0;
    }
    es_lua_list_add(L, &ls->flush_ref, 2);
    if (es_list_empty(&ls->flush_node))
        es_list_push(&ls->loop->flush_waiters, &ls->flush_node);
    return 0;
}

static int session_stats(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link = ls ? es_session_link(ls->s) : NULL;
    if (!link)
        return es_lsession_closed_error(L);
    es_lua_push_link_stats(L, link);
    struct es_session_flow flow;
    es_session_flow(ls->s, &flow);
    lua_pushinteger(L, (lua_Integer)flow.queued);
    lua_setfield(L, -2, "queued");
    lua_pushinteger(L, (lua_Integer)flow.send_waits);
    lua_setfield(L, -2, "send_waits");
    lua_pushinteger(L, (lua_Integer)flow.events_missing);
    lua_setfield(L, -2, "events_missing");
    lua_pushinteger(L, (lua_Integer)flow.events_duplicated);
    lua_setfield(L, -2, "events_duplicated");
    lua_pushinteger(L, (lua_Integer)flow.events_late);
    lua_setfield(L, -2, "events_late");
    lua_pushnumber(L, (double)flow.send_waited / 1e9);
    lua_setfield(L, -2, "send_waited");
    return 1;
}

/* session:skip_events(lane or nil for datagrams, n) */
static int session_skip_events(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    lua_Integer n = luaL_checkinteger(L, 3);
    if (ls && n > 0)
        es_session_skip_events(ls->s, (int)luaL_optinteger(L, 2, ES_LANE_DATAGRAM), (uint64_t)n);
    return 0;
}

static int session_peer_cert(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link = ls ? es_lsession_connection(ls) : NULL;
    return link ? es_lua_push_peer_cert(L, link) : es_lsession_closed_error(L);
}

static int session_update_key(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link = ls ? es_lsession_connection(ls) : NULL;
    return link ? es_lua_update_key(L, link, ls->loop) : es_lsession_closed_error(L);
}

static int session_set_hold_cap(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link = ls ? es_session_link(ls->s) : NULL;
    if (link)
        link->base->hold_cap = (uint64_t)luaL_checkinteger(L, 2);
    return lua_pushboolean(L, link != NULL), 1;
}

static int session_keep_alive(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link = ls ? es_lsession_connection(ls) : NULL;
    if (!link)
        return es_lsession_closed_error(L);
    es_link_keep_alive(link, lua_toboolean(L, 2));
    lua_pushboolean(L, 1);
    return 1;
}

static int session_open_channel(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    size_t len;
    const char *name = es_lua_check_text(L, 2, &len);
    if (!ls)
        return es_lsession_closed_error(L);
    struct es_lcall_opts opts;
    es_lua_call_opts(L, 3, ls, &opts);
    if (lua_isnoneornil(L, 3) || lua_getfield(L, 3, "codec") == LUA_TNIL)
        opts.o.codec = ES_CODEC_RAW;
    if (lua_isnoneornil(L, 3) || lua_getfield(L, 3, "timeout") == LUA_TNIL)
        opts.o.deadline = ES_NEVER; /* a stream lives as long as it is wanted */
    struct es_lchannel *lc = es_lchannel_new(L, ls->loop, NULL);
    int rc = es_channel_open(ls->s, name, len, &opts.o, lc, &lc->c);
    if (rc == 0) {
        lc->codec = opts.o.codec;
        return 1;
    }
    if (rc == ES_ERR_INVAL)
        return es_name_valid(name, len)
                   ? es_lua_misuse(
                         L, "create_stream: metadata keys are lower case, up to 64 bytes, 64 pairs, 16 KiB")
                   : es_lua_wrong_name(L, "create_stream", "a stream name", name, len);
    if (rc == ES_ERR_AGAIN) {
        lua_pushnil(L);
        lua_pushliteral(L, "again");
        return 2;
    }
    if (rc == ES_ERR_UNSUPPORTED)
        return es_lua_codec_unknown(L, name, opts.o.codec);
    return rc == ES_ERR_CLOSED ? es_lsession_closed_error(L) : es_lua_fail(L, rc, name);
}

void es_lua_open_session(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"info", session_info},
                                       {"is_open", session_is_open},
                                       {"accept", session_accept},
                                       {"close", session_close},
                                       {"goaway", session_goaway},
                                       {"ping", session_ping},
                                       {"wall", session_wall},
                                       {"in_flight", session_in_flight},
                                       {"flushed", session_flushed},
                                       {"on_flushed", session_on_flushed},
                                       {"stats", session_stats},
                                       {"skip_events", session_skip_events},
                                       {"peer_pin", es_lsession_peer_pin},
                                       {"peer_cert", session_peer_cert},
                                       {"update_key", session_update_key},
                                       {"export_key", es_lsession_export_key},
                                       {"set_hold_cap", session_set_hold_cap},
                                       {"keep_alive", session_keep_alive},
                                       {"migrate", es_lsession_migrate},
                                       {"request", es_lsession_request},
                                       {"request_cb", es_lsession_request_cb},
                                       {"request_id", es_lsession_request_id},
                                       {"cancel", es_lsession_cancel},
                                       {"emit", session_emit},
                                       {"emit_encoded", es_lsession_emit_encoded},
                                       {"on_writable", session_on_writable},
                                       {"open_channel", session_open_channel},
                                       {"door", es_lua_session_door},
                                       {"open_call", es_lsession_open_call},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", session_gc}, {NULL, NULL}};
    es_lua_class(L, SESSION_MT, methods, meta);
    lua_pushcfunction(L, core_dial);
    lua_setfield(L, core, "dial");
}
