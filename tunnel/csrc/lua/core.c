/* The module echostream.tunnel.core. */
#include "binding.h"
#include "digest.h"
#include "hmac.h"
#include "regex.h"

int et_lua_new_engine(lua_State *L);
int luaopen_echostream_tunnel_core(lua_State *L);

int luaopen_echostream_tunnel_core(lua_State *L)
{
    static const luaL_Reg functions[] = {{"engine", et_lua_new_engine},
                                         {"tls_server", et_lua_new_tls_server},
                                         {"tls_client", et_lua_new_tls_client},
                                         {"head", et_lua_new_head},
                                         {"parts", et_lua_parts},
                                         {"split", et_lua_split},
                                         {"part", et_lua_part},
                                         {"hmac_sha256", et_lua_hmac_sha256},
                                         {NULL, NULL}};

    luaL_checkversion(L);
    et_lua_open_errors(L);
    et_lua_open_engine(L);
    et_lua_open_listener(L);
    et_lua_open_connection(L);
    et_lua_open_exchange(L);
    et_lua_open_socket(L);
    et_lua_open_tls(L);
    et_lua_open_head(L);
    luaL_newlib(L, functions);
    et_lua_open_regex(L);
    et_lua_open_digest(L);
    lua_pushfstring(L, "GnuTLS %s", et_tls_version());
    lua_setfield(L, -2, "version");
    return 1;
}
