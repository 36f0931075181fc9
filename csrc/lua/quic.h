/* Raw QUIC in Lua: connections and streams of any ALPN, for prototyping other protocols (core.quic_dial, and
 * `raw` apps of endpoints). */
#ifndef ES_LUA_QUIC_H
#define ES_LUA_QUIC_H

#include "binding.h"

/* An app whose connections go, once established, to the function at fn_index (as a connection userdata, in a
 * task of its own). Freed with es_lua_raw_app_del after its endpoint is gone; connections that live longer
 * keep what they need. NULL: out of memory. */
struct es_app *es_lua_raw_app_new(lua_State *L, struct es_lloop *lp, const char *alpn, int fn_index);
void es_lua_raw_app_del(lua_State *L, struct es_app *app);

/* One record of types 0x200 to 0x2ff from the loop's queue; the caller pops it. May raise only Lua's out of
 * memory. */
void es_lua_quic_event(lua_State *L, struct es_event *ev);
/* The loop closes: lets go of what the record holds, without running Lua code. */
void es_lua_quic_drop(struct es_event *ev);

void es_lua_open_quic(lua_State *L, int core);

/* ---- what objects with a notify function share (http3.c too) ---- */
/* Calls fn(what) for every bit; the userdata of `object` keeps fn as its user value 1. */
void es_quic_notify(lua_State *L, struct es_lloop *lp, void *object, unsigned bits, const char *const *names);
/* Links userdata and object both ways: the userdata on top of the stack is what es_quic_push(object) finds
 * while it lives. */
void es_quic_link_userdata(lua_State *L, void *object);
int es_quic_push(lua_State *L, void *object); /* pushes it or nil; 1 when it lives */

/* Keeps the Lua string at idx alive until es_lua_anchor_release(), which may run at any time. NULL: out of
 * memory; may raise Lua's. */
void *es_lua_anchor(lua_State *L, struct es_lua *lua, int idx);
void es_lua_anchor_release(void *anchor);

#endif
