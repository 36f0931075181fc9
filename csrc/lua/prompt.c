/* Life between the lines of a bare `lua5.4` prompt.
 *
 * Debian's interpreter links readline, which calls the function in its variable rl_event_hook about every
 * tenth of a second while it waits for a key. Nothing here links readline: its symbols are looked up in the
 * running process, and when they are absent (a script host, an interpreter without readline) nothing happens.
 */
#include "binding.h"
#include <dlfcn.h>

static struct { /* the process has one prompt */
    lua_State *L;
    int ref;
    int running;
} hook = {NULL, LUA_NOREF, 0};

static const char sentinel_key; /* registry: a userdata whose __gc takes the hook out before its state dies */

static int on_idle(void)
{
    lua_State *L = hook.L;
    if (!L || hook.running || !lua_checkstack(L, 4))
        return 0;
    hook.running = 1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, hook.ref);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK)
        lua_pop(L, 1); /* the function logs by itself; a prompt is no place for a second report */
    hook.running = 0;
    return 0;
}

static int sentinel_gc(lua_State *L)
{
    int (**event_hook)(void) = dlsym(RTLD_DEFAULT, "rl_event_hook");
    if (hook.L && event_hook && *event_hook == on_idle)
        *event_hook = NULL;
    hook.L = NULL;
    (void)L;
    return 0;
}

static int core_set_idle_hook(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    int (**event_hook)(void) = dlsym(RTLD_DEFAULT, "rl_event_hook");
    int (*set_timeout)(int) = (int (*)(int))dlsym(RTLD_DEFAULT, "rl_set_keyboard_input_timeout");
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    lua_State *main_thread = lua_tothread(L, -1);
    if (!event_hook || (hook.L && hook.L != main_thread)) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (!hook.L) {
        lua_newuserdatauv(L, 1, 0);
        lua_createtable(L, 0, 1);
        lua_pushcfunction(L, sentinel_gc);
        lua_setfield(L, -2, "__gc");
        lua_setmetatable(L, -2);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &sentinel_key);
    } else {
        luaL_unref(L, LUA_REGISTRYINDEX, hook.ref);
    }
    lua_pushvalue(L, 1);
    hook.ref = luaL_ref(L, LUA_REGISTRYINDEX);
    hook.L = main_thread;
    *event_hook = on_idle;
    if (set_timeout)
        set_timeout(20000); /* microseconds: a server at the prompt answers within 20 ms */
    lua_pushboolean(L, 1);
    return 1;
}

void es_lua_open_prompt(lua_State *L, int core)
{
    lua_pushcfunction(L, core_set_idle_hook);
    lua_setfield(L, core, "set_idle_hook");
}
