/* The path of a connection in Lua: its figures, moving to another local address, and news of moves. */
#include "binding.h"
#include <string.h>
#include "errors.h"
#include "luaaux.h"

void es_lua_push_link_stats(lua_State *L, struct es_link *link)
{
    static const char *const ecn[] = {"testing", "capable", "failed"};
    static const char *const early[] = {"none", "accepted", "rejected"};
    struct es_link_stats st;
    memset(&st, 0, sizeof st);
    es_link_stats_get(link, &st);
    lua_createtable(L, 0, 32);
#define SECONDS(name) (es_lua_push_seconds(L, st.name), lua_setfield(L, -2, #name))
#define NUMBER(name)  (lua_pushinteger(L, (lua_Integer)st.name), lua_setfield(L, -2, #name))
    SECONDS(rtt_latest);
    SECONDS(rtt_min);
    SECONDS(rtt_smoothed);
    SECONDS(handshake_time);
    SECONDS(idle_timeout);
    NUMBER(cwnd);
    NUMBER(bytes_in_flight);
    NUMBER(bytes_sent);
    NUMBER(bytes_received);
    NUMBER(packets_sent);
    NUMBER(packets_received);
    NUMBER(packets_lost);
    NUMBER(ecn_sent);
    NUMBER(ecn_acked);
    NUMBER(ecn_ce_acked);
    NUMBER(ecn_received);
    NUMBER(ecn_ce_received);
    NUMBER(migrations);
    NUMBER(mtu_reductions);
    NUMBER(held);
    st.credit = st.credit <= INT64_MAX ? st.credit : INT64_MAX;
    NUMBER(credit);
    NUMBER(path_mtu);
    NUMBER(max_datagram);
    NUMBER(streams_bidi_left);
    NUMBER(streams_uni_left);
    NUMBER(key_updates);
    NUMBER(quic_version);
#undef SECONDS
#undef NUMBER
    lua_pushstring(L, ecn[st.ecn]);
    lua_setfield(L, -2, "ecn");
    lua_pushstring(L, early[st.early_data]);
    lua_setfield(L, -2, "early_data");
    lua_pushboolean(L, st.resumed);
    lua_setfield(L, -2, "resumed");
}

int es_lua_migrate(lua_State *L, struct es_link *link)
{
    const char *text = luaL_checkstring(L, 2);
    union es_addr addr;
    char err[256] = "";
    if (es_addr_parse(&addr, text) < 0)
        return luaL_error(L, "migrate: expected a numeric address such as 127.0.0.1:0, got %s", text);
    int rc = es_link_migrate(link, &addr, err, sizeof err);
    if (rc == 0)
        return 0;
    lua_pushnil(L);
    es_lua_push_error(L, es_err_code(rc), "migrate: %s", err[0] != '\0' ? err : es_strerror(rc));
    return 2;
}

int es_lua_push_move(lua_State *L, const struct es_link_move *m)
{
    if (m->err == 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushnil(L);
    es_lua_push_error(L, es_err_code(m->err), "migrate: %s", m->reason);
    return 2;
}

int es_lsession_migrate(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    luaL_checkstring(L, 2);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    struct es_link *link = ls ? es_lsession_connection(ls) : NULL;
    if (!link)
        return es_lsession_closed_error(L);
    int n = es_lua_migrate(L, link);
    if (n != 0)
        return n;
    luaL_unref(L, LUA_REGISTRYINDEX, ls->migrate_ref);
    lua_pushvalue(L, 3);
    ls->migrate_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    es_lloop_wake(ls->loop);
    lua_pushboolean(L, 1);
    return 1;
}

void es_lsession_moved(lua_State *L, struct es_lsession *ls, const struct es_link_move *m)
{
    if (m->err == 0 && ls->host->moved_ref != LUA_NOREF && ls->obj_ref != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->host->moved_ref);
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->obj_ref);
        lua_pushstring(L, m->from);
        lua_pushstring(L, m->to);
        lua_pushboolean(L, m->peer);
        es_task_call(L, ls->loop, 4);
    }
    if (!m->peer && ls->migrate_ref != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, ls->migrate_ref);
        luaL_unref(L, LUA_REGISTRYINDEX, ls->migrate_ref);
        ls->migrate_ref = LUA_NOREF;
        es_task_call(L, ls->loop, es_lua_push_move(L, m));
    }
}
