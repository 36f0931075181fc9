/* WebTransport in Lua. */
#include "webtransport.h"
#include <string.h>
#include "../base/mem.h"
#include "luaaux.h"

static char *copy(lua_State *L, const char *s, size_t n)
{
    char *out = es_malloc(n + 1);

    if (out == NULL)
        luaL_error(L, "out of memory");
    memcpy(out, s, n);
    out[n] = '\0';
    return out;
}

static void read_origins(lua_State *L, int list, struct es_lwt *w)
{
    size_t n = lua_rawlen(L, list);

    w->origins = es_calloc(n > 0 ? n : 1, sizeof *w->origins);
    if (w->origins == NULL)
        luaL_error(L, "out of memory");
    for (size_t i = 0; i < n; i++) {
        size_t len;
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        const char *s = luaL_checklstring(L, -1, &len);
        w->origins[i] = copy(L, s, len);
        w->core.n_origins = i + 1;
        lua_pop(L, 1);
    }
    w->core.origins = (const char *const *)w->origins;
}

void es_lua_wt_read(lua_State *L, int idx, struct es_lwt *w)
{
    static const char *const fields[] = {"host", "path", "origins", "any_origin", "max_sessions", NULL};
    const char *path = NULL;
    size_t len = 0;
    lua_Integer sessions = 1;

    es_lua_check_fields(L, idx, fields);
    lua_getfield(L, idx, "host");
    w->host = es_lhost_ref(es_lua_check_host(L, -1));
    w->core.app = &w->host->app;
    if (es_lua_opt_string(L, idx, "path", &path, &len))
        w->core.path = w->path = copy(L, path, len);
    if (es_lua_opt_push(L, idx, "origins", LUA_TTABLE))
        read_origins(L, lua_gettop(L), w);
    es_lua_opt_boolean(L, idx, "any_origin", &w->core.any_origin);
    es_lua_opt_integer(L, idx, "max_sessions", 1, 1024, &sessions);
    w->core.max_sessions = (size_t)sessions;
}

void es_lua_wt_free(lua_State *L, struct es_lwt *w)
{
    if (w->host != NULL)
        es_lhost_unref(L, w->host);
    for (size_t i = 0; i < w->core.n_origins; i++)
        es_free(w->origins[i]);
    es_free(w->origins);
    es_free(w->path);
    memset(w, 0, sizeof *w);
}

int es_lua_wt_dial(lua_State *L, int idx, struct es_lloop *lp, struct es_wt_dial *dial)
{
    static const char *const fields[] = {"authority", "path", "origin", NULL};

    if (!es_lua_opt_push(L, idx, "webtransport", LUA_TTABLE))
        return 0;
    int at = lua_gettop(L);
    es_lua_check_fields(L, at, fields);
    memset(dial, 0, sizeof *dial);
    es_lua_opt_string(L, at, "authority", &dial->authority, NULL);
    es_lua_opt_string(L, at, "path", &dial->path, NULL);
    es_lua_opt_string(L, at, "origin", &dial->origin, NULL);
    if (dial->authority == NULL || dial->path == NULL)
        luaL_error(L, "webtransport: authority and path are needed");
    dial->timers = es_poller_timers(lp->poller);
    return 1;
}

int es_lua_session_door(lua_State *L)
{
    struct es_lsession *ls = es_lsession_check(L);
    struct es_link *link = ls ? es_session_link(ls->s) : NULL;

    if (link == NULL || link->door == NULL)
        return 0;
    lua_pushstring(L, link->door->name);
    lua_pushstring(L, link->door->path);
    lua_pushstring(L, link->door->origin);
    lua_pushstring(L, link->door->authority);
    return 4;
}
