/* What Lua sees of a connection's TLS: tickets on their way to whoever keeps them, and the peer's
 * certificate. */
#include "binding.h"
#include <string.h>
#include "../base/mem.h"
#include "errors.h"
#include "luaaux.h"

#define ES_LUA_EXPORT_MAX 1024

/* The function that gets a connection's tickets. The connection holds one reference, every event one. */
struct es_lticket {
    unsigned refs;
    struct es_lloop *loop; /* referenced */
    int fn_ref;
};

struct ticket_event {
    struct es_event h; /* owner: the es_lticket */
    size_t n;
    uint8_t block[];
};

static void ticket_unref(struct es_lticket *t)
{
    if (--t->refs != 0)
        return;
    struct es_lua *lua = t->loop->lua;
    if (t->fn_ref != LUA_NOREF && !lua->closing && lua_checkstack(lua->main, 4))
        luaL_unref(lua->main, LUA_REGISTRYINDEX, t->fn_ref);
    es_lloop_unref(t->loop);
    es_free(t);
}

static void ticket_free(void *user)
{
    ticket_unref(user);
}

/* In a library callback: the ticket waits in the queue. Without memory it is lost, which costs a handshake.
 */
static void on_ticket(void *user, const uint8_t *block, size_t n)
{
    struct es_lticket *t = user;
    struct ticket_event *e = es_evq_push(t->loop->events, ES_TICKET_EVENT, t, sizeof *e + n);
    if (!e)
        return;
    t->refs++;
    e->n = n;
    memcpy(e->block, block, n);
}

int es_lua_ticket_options(lua_State *L, int idx, struct es_lloop *lp, struct es_connect_config *cc)
{
    const char *block = NULL;
    size_t n = 0;
    if (es_lua_opt_string(L, idx, "ticket", &block, &n)) {
        cc->ticket = (const uint8_t *)block;
        cc->ticket_len = n;
    }
    if (!es_lua_opt_push(L, idx, "on_ticket", LUA_TFUNCTION))
        return 0;
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    struct es_lticket *t = es_calloc(1, sizeof *t);
    if (!t) {
        luaL_unref(L, LUA_REGISTRYINDEX, ref);
        return ES_ERR_NOMEM;
    }
    t->refs = 1;
    t->loop = es_lloop_ref(lp);
    t->fn_ref = ref;
    cc->on_ticket = on_ticket;
    cc->ticket_free = ticket_free;
    cc->ticket_user = t;
    return 0;
}

void es_lua_ticket_drop(struct es_event *ev)
{
    ticket_unref(ev->owner);
}

static int ticket_body(lua_State *L)
{
    struct ticket_event *e = lua_touserdata(L, 1);
    struct es_lticket *t = e->h.owner;
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->fn_ref);
    lua_pushlstring(L, (const char *)e->block, e->n);
    es_task_call(L, t->loop, 1);
    return 0;
}

void es_lua_ticket_event(lua_State *L, struct es_event *ev)
{
    struct es_lticket *t = ev->owner;
    lua_pushcfunction(L, ticket_body);
    lua_pushlightuserdata(L, ev);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) { /* out of memory */
        es_lua_log(L, t->loop->lua, "error", es_lua_error_text(L, -1), NULL, "ticket");
        lua_pop(L, 1);
    }
    ticket_unref(t);
}

/* ---- certificates ---- */

static void set_text(lua_State *L, const char *field, const char *text)
{
    lua_pushstring(L, text);
    lua_setfield(L, -2, field);
}

void es_lua_push_cert(lua_State *L, const struct es_cert_info *info)
{
    lua_createtable(L, 0, 8);
    lua_pushlstring(L, (const char *)info->spki, 32);
    lua_setfield(L, -2, "spki");
    lua_pushlstring(L, (const char *)info->der, 32);
    lua_setfield(L, -2, "der");
    lua_pushinteger(L, info->not_before);
    lua_setfield(L, -2, "not_before");
    lua_pushinteger(L, info->not_after);
    lua_setfield(L, -2, "not_after");
    set_text(L, "subject", info->subject);
    set_text(L, "issuer", info->issuer);
    set_text(L, "serial", info->serial);
    lua_createtable(L, (int)info->n_names, 0);
    for (size_t i = 0; i < info->n_names; i++) {
        lua_pushstring(L, info->names[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "names");
}

int es_lua_push_peer_cert(lua_State *L, struct es_link *link)
{
    const uint8_t *der;
    size_t n;
    struct es_cert_info *info;
    if (es_link_peer_cert(link, &der, &n) < 0) {
        lua_pushnil(L);
        return 1;
    }
    info = lua_newuserdatauv(L, sizeof *info, 0); /* 5 KiB: too much for a stack that may be a coroutine's */
    if (es_cert_inspect_der(der, n, info) < 0)
        lua_pushnil(L);
    else
        es_lua_push_cert(L, info);
    return 1;
}

int es_lua_export_key(lua_State *L, struct es_link *link)
{
    uint8_t out[ES_LUA_EXPORT_MAX];
    size_t context_n;
    size_t label_n;
    const char *label = luaL_checklstring(L, 2, &label_n);
    lua_Integer n = luaL_checkinteger(L, 3);
    luaL_argcheck(L, strlen(label) == label_n && label_n <= 249, 2, "at most 249 bytes, none of them 0");
    const char *context = luaL_optlstring(L, 4, "", &context_n);
    luaL_argcheck(L, n >= 1 && n <= ES_LUA_EXPORT_MAX, 3, "1 to 1024 bytes");
    int rc = es_link_export_key(link, label, context, context_n, out, (size_t)n);
    if (rc == 0) {
        lua_pushlstring(L, (const char *)out, (size_t)n);
        return 1;
    }
    lua_pushnil(L);
    if (rc == ES_ERR_UNSUPPORTED)
        es_lua_push_error(L, "failed_precondition",
                          "export_key: it shares its TLS connection with others, or has none");
    else if (rc == ES_ERR_AGAIN)
        es_lua_push_error(L, "failed_precondition", "export_key: the handshake is not over");
    else
        return lua_pop(L, 1), es_lua_fail(L, rc, "export_key");
    return 2;
}

int es_lsession_export_key(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link =
        ls ? es_session_link(ls->s) : NULL; /* its own: not of what it shares with others */
    return link ? es_lua_export_key(L, link) : es_lsession_closed_error(L);
}

int es_lua_update_key(lua_State *L, struct es_link *link, struct es_lloop *lp)
{
    int rc = es_link_update_key(link);
    if (rc == 0) {
        es_lloop_wake(lp);
        lua_pushboolean(L, 1);
        return 1;
    }
    if (rc != ES_ERR_AGAIN)
        return es_lua_fail(L, rc, "update_key");
    lua_pushnil(L);
    es_lua_push_error(L, "failed_precondition",
                      "the keys cannot change now: the handshake, or the change before, is too recent");
    return 2;
}

int es_lsession_peer_pin(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link = ls ? es_lsession_connection(ls) : NULL;
    uint8_t spki[32];
    if (!link)
        return es_lsession_closed_error(L);
    if (es_link_peer_pin(link, spki) < 0)
        lua_pushnil(L);
    else
        lua_pushlstring(L, (char *)spki, sizeof spki);
    return 1;
}
