/* HTTP/3 in Lua: `h3` apps of endpoints, and core.h3_dial. */
#ifndef ES_LUA_HTTP3_H
#define ES_LUA_HTTP3_H

#include "binding.h"
#include "../http3/h3.h"

/* core.h3_host(loop, fn): each request of a peer goes, as an exchange userdata, to fn in a task of its own.
 * The userdata at idx, or raises. It is what `apps` of an endpoint takes in the field `h3`. */
struct es_lh3_app;
struct es_lh3_app *es_lua_check_h3_host(lua_State *L, int idx);
struct es_app *es_lh3_app_of(struct es_lh3_app *a);
struct es_lh3_app *es_lh3_app_ref(struct es_lh3_app *a);
void es_lh3_app_unref(struct es_lh3_app *a);

/* One record of types ES_H3_EVENT_... from the loop's queue; the caller pops it with es_h3_pop(). May raise
 * only Lua's out of memory. */
void es_lua_h3_event(lua_State *L, struct es_event *ev);
/* The loop closes: lets go of what the record holds, without running Lua code. */
void es_lua_h3_drop(struct es_event *ev);

void es_lua_open_http3(lua_State *L, int core);

#endif
