/* WebTransport in Lua: what an `h3` host takes, and how sessions are dialled that way. */
#ifndef ES_LUA_WEBTRANSPORT_H
#define ES_LUA_WEBTRANSPORT_H

#include "../http3/webtransport.h"
#include "binding.h"

struct es_lwt { /* of a server; zeroed is none */
    struct es_webtransport core;
    struct es_lhost *host; /* referenced */
    char *path;            /* owned, as all below */
    char **origins;
};

/* The table at idx: { host, path, origins, any_origin, max_sessions }. May raise; what is in `w` then is
 * given back by es_lua_wt_free() all the same. */
void es_lua_wt_read(lua_State *L, int idx, struct es_lwt *w);
void es_lua_wt_free(lua_State *L, struct es_lwt *w); /* L NULL: the state is closing */

/* Field `webtransport` of core.dial's options at idx: { authority, path, origin }. 1: *dial is filled, but
 * for the app; its texts live as long as the table. 0: there is none. */
int es_lua_wt_dial(lua_State *L, int idx, struct es_lloop *lp, struct es_wt_dial *dial);

/* session:door(): name, path, origin, authority; nil of a session that has a connection of its own. */
int es_lua_session_door(lua_State *L);

#endif
