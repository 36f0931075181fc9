/* bench_heap, a Lua module of one function: in_use() -> bytes of this process's heap that are allocated, by
 * mallinfo2. The resident set alone would hide memory that was allocated and never touched, and count free
 * lists. */
#include <lauxlib.h>
#include <lua.h>
#include <malloc.h>

static int in_use(lua_State *L)
{
    struct mallinfo2 m = mallinfo2();
    lua_pushinteger(L, (lua_Integer)(m.uordblks + m.hblkhd));
    return 1;
}

int luaopen_bench_heap(lua_State *L)
{
    static const luaL_Reg functions[] = {{"in_use", in_use}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
