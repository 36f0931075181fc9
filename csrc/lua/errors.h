/* Error objects: what `nil, err` carries in Lua, and how the core's numbers become them.
 *
 * An error object is a table { code = "timeout", message = "...", processed = "no"|"maybe"|"yes",
 * retry_after = seconds or nil, details = any or nil } with the metatable registered as ES_LUA_ERROR, which
 * Lua sees as core.error_mt. tostring(err) is "code: message".
 *
 * The codes of `enum es_err`:
 *   NOMEM, TOO_LARGE, LIMIT  resource_exhausted      INVAL        invalid_argument
 *   AGAIN, TLS               unavailable             CLOSED       connection_closed
 *   IO                       io                      PROTOCOL     protocol
 *   TIMEOUT                  timeout                 NOT_FOUND    not_found
 *   EXISTS                   already_exists          UNSUPPORTED  failed_precondition
 *   anything else            internal
 *
 * Every function here may raise Lua's out-of-memory error, and nothing else.
 */
#ifndef ES_LUA_ERRORS_H
#define ES_LUA_ERRORS_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include "../base/err.h"
#include "../link/link.h"

#define ES_LUA_ERROR "echostream.error"

/* Pushes an error object with processed "no". fmt_message is lua_pushfstring's dialect (%s %d %I %f %c %p
 * %%). */
void es_lua_push_error(lua_State *L, const char *code, const char *fmt_message, ...);

/* Pushes an error object from what the wire or the session said. processed: enum es_processed (any other
 * number reads "maybe"); retry_after_ms 0: none; details_index: absolute stack index of the details, 0 for
 * none. */
void es_lua_push_failure(lua_State *L, const char *code, size_t code_len, const char *message,
                         size_t message_len, int processed, uint64_t retry_after_ms, int details_index);

/* Pushes the error object of an `enum es_err`. The message is "what: text" or just the text when what is
 * NULL. */
void es_lua_push_es_err(lua_State *L, int err, const char *what);

/* Pushes the error object that says why a connection ended. details = { cause, app, code } with cause as in
 * es_lua_close_cause(). */
void es_lua_push_close_err(lua_State *L, const struct es_close_info *info);
const char *es_lua_close_cause(int cause); /* "local" "peer" "idle" "reset" "handshake" "error" */

/* `return es_lua_fail(...)` of a lua_CFunction: nil and the error object; returns 2. */
int es_lua_fail(lua_State *L, int err, const char *what);

/* 1 when the value at idx is an error object. */
int es_lua_is_error(lua_State *L, int idx);

/* Registers the metatable and sets field error_mt of the module table at core_index (absolute). */
void es_lua_open_errors(lua_State *L, int core_index);

#endif
