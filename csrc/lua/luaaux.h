/* Small helpers of the binding: option tables whose errors name the field, seconds and nanoseconds, classes,
 * weak tables.
 *
 * Option readers: `idx` is the option table (or nil / none, which reads as empty), `name` the field. They
 * return 1 when the field is there and *out was set, 0 when it is nil (*out is left as it was, so put the
 * default there first), and raise "name: expected ..., got ..." otherwise. Fields are read with metamethods,
 * like any Lua code would. Strings stay valid while the table holds them.
 */
#ifndef ES_LUA_LUAAUX_H
#define ES_LUA_LUAAUX_H

#include <lauxlib.h>
#include <lua.h>
#include <stddef.h>
#include <stdint.h>

/* ---- option tables ---- */
/* Raises unless idx is a table, nil or none. */
void es_lua_check_options(lua_State *L, int idx, const char *what);
/* Raises "unknown option 'x'" for a key that is not in the NULL-terminated list. */
void es_lua_check_fields(lua_State *L, int idx, const char *const *names);

int es_lua_opt_seconds(lua_State *L, int idx, const char *name, uint64_t *ns); /* a number >= 0 */
int es_lua_opt_integer(lua_State *L, int idx, const char *name, lua_Integer lo, lua_Integer hi,
                       lua_Integer *out);
int es_lua_opt_number(lua_State *L, int idx, const char *name, double lo, double hi, double *out);
int es_lua_opt_boolean(lua_State *L, int idx, const char *name, int *out);
int es_lua_opt_string(lua_State *L, int idx, const char *name, const char **out,
                      size_t *len); /* len may be NULL */
/* As luaL_checklstring, but a number is no string: 5 is no name. */
const char *es_lua_check_text(lua_State *L, int arg, size_t *len);
/* Raises for misuse, and blames the line of the user that called us instead of one of ours: the first Lua
 * function on the stack that does not lie in the folder given to es_lua_set_home. Without any (a task of
 * ours) no line is blamed. */
int es_lua_misuse(lua_State *L, const char *fmt, ...);
/* What chunk names of our own files begin with ("@/usr/share/lua/5.4/echostream/"): the string at idx. */
void es_lua_set_home(lua_State *L, int idx);
/* As es_lua_check_text, for the arguments of users: "WHERE: WHAT wants a string, got nil". */
const char *es_lua_users_text(lua_State *L, int arg, const char *where, const char *what, size_t *len);
/* Misuse: "WHERE: WHAT is 1 to 256 bytes of ..., got 'NAME'", of which only so much is shown as is of use. */
int es_lua_wrong_name(lua_State *L, const char *where, const char *what, const char *name, size_t len);
/* The index of the string in the NULL-terminated list. */
int es_lua_opt_choice(lua_State *L, int idx, const char *name, const char *const *choices, int *out);
/* Pushes the field (1) when it has the type LUA_T..., pushes nothing (0) when it is nil. */
int es_lua_opt_push(lua_State *L, int idx, const char *name, int type);
/* Raises "name: expected WANT, got TYPE" for the value at idx. */
int es_lua_opt_error(lua_State *L, const char *name, const char *want, int idx);

/* Reads t[name] without metamethods when that is what is needed on hot paths: pushes it, returns its type. */
int es_lua_rawfield(lua_State *L, int idx, const char *name);

/* ---- time ---- */
/* Seconds to ns, clamped to [0, ES_NEVER - 1]; NaN reads 0. */
uint64_t es_lua_to_ns(lua_Number seconds);
uint64_t es_lua_check_seconds(lua_State *L, int arg, const char *what); /* a number >= 0, or raises */
void es_lua_push_seconds(lua_State *L, uint64_t ns);

/* ---- userdata ---- */
/* Makes the metatable `name` once: methods in a table of their own under __index, metamethods beside it,
 * __name, and __metatable = name so that Lua code cannot take the metatable and call __gc on something else.
 * Either list may be NULL. Pushes nothing. */
void es_lua_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *metamethods);
/* A zeroed userdata of that class: "created closed", so the metatable is set before any resource is acquired.
 * Pushes it. */
void *es_lua_new(lua_State *L, const char *name, size_t size, int user_values);
/* The method notify(fn) of such a userdata at 1: fn, a function or nothing, becomes its user value 1. */
int es_lua_set_notify(lua_State *L);
/* `nil, err` with code connection_closed and "the <what> is closed"; returns 2. */
int es_lua_closed(lua_State *L, const char *what);

/* ---- anchors ---- */
/* Pushes registry[key] (a light userdata key); makes a table with that __mode ("k", "v", "kv"; NULL: strong)
 * when there is none. */
void es_lua_registry_table(lua_State *L, const void *key, const char *mode);

#endif
