/* The two ends of every chain of middleware: what makes the call object and runs the outermost one, and the
 * innermost `next`, which runs the handler or sends. lua/echostream/middleware.lua is the whole of it; this
 * is the part that every call passes through, in C because it costs half the instructions here. Whatever is
 * not the common case (arguments, metadata or a deadline that were touched, streams, failures) is handed to
 * the functions of that file.
 */
#include "binding.h"
#include "errors.h"

/* A call is a userdata of nothing but user values: one allocation, where a table needs two. These, then the
 * arguments; with one it fits into the largest block that malloc has a fast list for. STATE is nil, true once
 * the handler (or what sends) was begun, then the last response, until the call is opened up: then it is a
 * table of middleware.lua, which knows the same order, and everything is left to it. There `_began` is the
 * same as the true: without it the call certainly went no further, and may be sent again.
 */
enum { CALL_FN = 1, CALL_OWNER, CALL_NAME, CALL_STATE, CALL_FIRST };
#define MANY_ARGUMENTS 200 /* from here on they are in a table at once */

/* What middleware.lua gives us, and its place in the table that is the first upvalue of everything here. */
enum helper {
    H_RESPONSE = 1, /* metatable of responses */
    H_RPC_IN,       /* metatables of calls */
    H_EVENT_IN,
    H_RPC_OUT,
    H_EVENT_OUT,
    H_STREAM_OUT,
    H_OPEN_OUT, /* open_out(owner, kind, final, name, options, ...) -> call */
    H_KEEP,     /* keep_response(call, response) */
    H_CAME,     /* came(call, trailers) */
    H_OPEN,     /* open(kind, session, name, metadata, handler, ...) -> call: incoming, the uncommon ones */
    H_HANDLE,   /* handle(call) -> response: the innermost of incoming calls, whatever was touched */
    H_SEND,     /* send(call) -> response: of outgoing ones */
    H_TRACED,   /* message handler */
    H_RAISED,   /* raised(call, what) -> response: of user code that raised */
    H_MISUSED,  /* misused(call, what) -> response: the sender raised */
    H_FAILED,   /* failed(call, err) -> response */
    H_SETTLE,   /* settle(call, true, ...) -> response: what a middleware returned */
    H_RESULTS,  /* results(response) -> ... */
    H_FINISH,   /* finish(call, response) -> ...: the same of outgoing calls */
    H_EITHER,   /* either(chain, ...): with a callback */
    H_UD,       /* "_ud": the field of a session or client that has the core's session */
    H_LAST
};
static const char *const helper_names[] = {
    [H_RESPONSE] = "response",  [H_RPC_IN] = "rpc_in",       [H_EVENT_IN] = "event_in",
    [H_RPC_OUT] = "rpc_out",    [H_EVENT_OUT] = "event_out", [H_STREAM_OUT] = "stream_out",
    [H_OPEN] = "open",          [H_HANDLE] = "handle",       [H_SEND] = "send",
    [H_TRACED] = "traced",      [H_RAISED] = "raised",       [H_MISUSED] = "misused",
    [H_FAILED] = "failed",      [H_SETTLE] = "settle",       [H_RESULTS] = "results",
    [H_FINISH] = "finish_out",  [H_EITHER] = "either",       [H_OPEN_OUT] = "open_out",
    [H_KEEP] = "keep_response", [H_CAME] = "came",           [H_UD] = "ud",
};

#define UP_HELPERS lua_upvalueindex(1)
#define UP_FN      lua_upvalueindex(2) /* the outermost middleware */
#define UP_STEP    lua_upvalueindex(3) /* its `next` */

static void push_helper(lua_State *L, enum helper h)
{
    lua_rawgeti(L, UP_HELPERS, h);
}

/* Calls a helper with everything from index `first` on; its results take their place. */
static void run_helper(lua_State *L, enum helper h, int first, int nresults)
{
    int n = lua_gettop(L) - first + 1;

    push_helper(L, h);
    lua_insert(L, first);
    lua_call(L, n, nresults);
}

/* The values of a call object: `from` says where they are on the stack. */
struct places {
    int fn, owner, name;
    int first; /* of the arguments, which go up to the top */
};

/* Pushes the call object. */
static void push_call(lua_State *L, enum helper mt, const struct places *from)
{
    int n = lua_gettop(L) - from->first + 1, call;

    if (n > LUA_MINSTACK / 2)
        luaL_checkstack(L, LUA_MINSTACK, "a call");
    lua_newuserdatauv(L, 0, CALL_FIRST - 1 + n);
    call = lua_gettop(L);
    for (int i = 0; i < n; i++) {
        lua_pushvalue(L, from->first + i);
        lua_setiuservalue(L, call, CALL_FIRST + i);
    }
    lua_pushvalue(L, from->fn);
    lua_setiuservalue(L, call, CALL_FN);
    lua_pushvalue(L, from->owner);
    lua_setiuservalue(L, call, CALL_OWNER);
    lua_pushvalue(L, from->name);
    lua_setiuservalue(L, call, CALL_NAME);
    push_helper(L, mt);
    lua_setmetatable(L, call);
}

/* Has the value at idx the metatable of responses? */
static int is_response(lua_State *L, int idx)
{
    int same;

    if (!lua_getmetatable(L, idx))
        return 0;
    push_helper(L, H_RESPONSE);
    same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

/* Is the STATE at idx a table of middleware.lua? */
static int is_open(lua_State *L, int idx)
{
    return lua_istable(L, idx) && !is_response(L, idx);
}

/* Is the value at idx what the call at index 1, which nobody opened up, got last from `next`, reply or
 * reject?
 */
static int is_last_response(lua_State *L, int idx)
{
    int same;

    if (!lua_istable(L, idx))
        return 0;
    lua_getiuservalue(L, 1, CALL_STATE);
    same = lua_rawequal(L, -1, idx);
    lua_pop(L, 1);
    return same;
}

/* Pushes the one result of the response at idx; 0: it is something else than one result nobody touched. */
static int push_single_result(lua_State *L, int idx)
{
    if (lua_rawgeti(L, idx, 1) != LUA_TNIL) {
        lua_pushinteger(L, 1);
        if (!lua_next(L, idx))
            return 1;
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
    return 0;
}

/* The response made of the values from `first` on, which is the last of the call at index 1; pushes it. */
static int gather(lua_State *L, int first)
{
    int n = lua_gettop(L) - first + 1, holes = 0;

    if (n > LUA_MINSTACK / 2)
        luaL_checkstack(L, LUA_MINSTACK, "a response");
    if (n >= 2 && lua_isnil(L, first) && es_lua_is_error(L, first + 1)) {
        push_helper(L, H_FAILED);
        lua_pushvalue(L, 1);
        lua_pushvalue(L, first + 1);
        lua_call(L, 2, 1);
        return 1;
    }
    lua_createtable(L, n, 0);
    lua_insert(L, first);
    for (int i = n; i > 0; i--) {
        holes |= lua_isnil(L, -1);
        lua_rawseti(L, first, i);
    }
    if (holes) {
        lua_pushinteger(L, n);
        lua_setfield(L, first, "n");
    }
    push_helper(L, H_RESPONSE);
    lua_setmetatable(L, first);
    lua_getiuservalue(L, 1, CALL_STATE);
    if (!is_open(L, -1)) {
        lua_pushvalue(L, first);
        lua_setiuservalue(L, 1, CALL_STATE);
    } else {
        push_helper(L, H_KEEP);
        lua_pushvalue(L, 1);
        lua_pushvalue(L, first);
        lua_call(L, 2, 0);
    }
    lua_settop(L, first);
    return 1;
}

/* ---- the innermost ---- */

/* Is the value at index 1 a call of one of these kinds that nobody opened up? *is_rpc: of the first. Then it
 * is begun from now on. Leaves nothing else on the stack. */
static int begin_untouched(lua_State *L, enum helper rpc, enum helper other, int *is_rpc)
{
    int yes;

    if (lua_type(L, 1) != LUA_TUSERDATA || !lua_getmetatable(L, 1))
        return 0;
    push_helper(L, rpc);
    *is_rpc = yes = lua_rawequal(L, -1, -2);
    if (!yes) {
        push_helper(L, other);
        yes = lua_rawequal(L, -1, -3);
    }
    if (yes) {
        lua_getiuservalue(L, 1, CALL_STATE);
        yes = !is_open(L, -1);
    }
    if (yes) {
        lua_pushboolean(L, 1);
        lua_setiuservalue(L, 1, CALL_STATE);
    }
    lua_settop(L, 1);
    return yes;
}

/* Pushes the arguments; returns how many. */
static int push_arguments(lua_State *L)
{
    int n = 0;

    while (lua_getiuservalue(L, 1, CALL_FIRST + n) != LUA_TNONE)
        if (++n % 8 == 0)
            luaL_checkstack(L, LUA_MINSTACK, "too many arguments");
    lua_pop(L, 1);
    return n;
}

static int pass_results(lua_State *L, int status, lua_KContext before)
{
    return lua_gettop(L) - (int)before;
}

/* The Lua function that does the same for every kind of call. */
static int run_slowly(lua_State *L, enum helper h)
{
    lua_settop(L, 1);
    push_helper(L, h);
    lua_insert(L, 1);
    lua_callk(L, 1, LUA_MULTRET, 0, pass_results);
    return pass_results(L, LUA_OK, 0);
}

/* An error is on top: what h makes of it for the call at index 1. */
static int failed(lua_State *L, enum helper h)
{
    push_helper(L, h);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, -3);
    lua_call(L, 2, 1);
    return 1;
}

static int handled(lua_State *L, int status, lua_KContext ctx)
{
    return status == LUA_OK || status == LUA_YIELD ? gather(L, 3) : failed(L, H_RAISED);
}

/* next(call) -> response: runs the handler. */
static int next_in(lua_State *L)
{
    int is_rpc, n;

    if (!begin_untouched(L, H_RPC_IN, H_EVENT_IN, &is_rpc))
        return run_slowly(L, H_HANDLE);
    push_helper(L, H_TRACED);
    lua_getiuservalue(L, 1, CALL_FN);
    lua_getiuservalue(L, 1, CALL_OWNER);
    n = push_arguments(L);
    return handled(L, lua_pcallk(L, n + 1, LUA_MULTRET, 2, 0, handled), 0);
}

/* What came with the answer is the task's until its next request. */
static void keep_trailers(lua_State *L, struct es_task *t)
{
    if (t->came_ref == LUA_NOREF) {
        int earlier;

        lua_getiuservalue(L, 1, CALL_STATE);
        earlier = is_open(L, -1); /* they are to be forgotten */
        lua_pop(L, 1);
        if (!earlier)
            return;
    }
    push_helper(L, H_CAME);
    lua_pushvalue(L, 1);
    if (t->came_ref == LUA_NOREF)
        lua_pushnil(L);
    else
        lua_rawgeti(L, LUA_REGISTRYINDEX, t->came_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, t->came_ref);
    t->came_ref = LUA_NOREF;
    lua_call(L, 2, 0);
}

/* task: the caller's when the core sent a request, else 0. */
static int sent(lua_State *L, int status, lua_KContext task)
{
    if (status == LUA_OK || status == LUA_YIELD) {
        if (task)
            keep_trailers(L, (struct es_task *)task);
        return gather(L, 2);
    }
    return failed(L, H_MISUSED);
}

/* Pushes what sends the request at index 1, and what stands before its arguments; 0 and nothing pushed:
 * nobody is connected, which the general way says. */
static int push_request(lua_State *L)
{
    lua_pushcfunction(L, es_lsession_request);
    lua_getiuservalue(L, 1, CALL_OWNER);
    push_helper(L, H_UD);
    lua_rawget(L, -2);
    if (!lua_isuserdata(L, -1)) {
        lua_settop(L, 1);
        return 0;
    }
    lua_replace(L, -2);
    lua_getiuservalue(L, 1, CALL_NAME);
    lua_pushnil(L); /* a call with options is open from the beginning */
    return 1;
}

/* next(call) -> response: sends. Requests of tasks go straight to the core's session. */
static int next_out(lua_State *L)
{
    struct es_task *t = NULL;
    int is_rpc;

    if (!begin_untouched(L, H_RPC_OUT, H_EVENT_OUT, &is_rpc))
        return run_slowly(L, H_SEND);
    if (is_rpc)
        t = es_task_current(L);
    if (!t || !push_request(L)) {
        t = NULL;
        lua_getiuservalue(L, 1, CALL_FN);
        lua_pushvalue(L, 1);
    }
    push_arguments(L);
    return sent(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, (lua_KContext)t, sent), (lua_KContext)t);
}

/* ---- the outermost ---- */

/* A call that ends without having reached its handler was certainly not processed, which the answer says. */
static void note_refusal(lua_State *L)
{
    lua_getiuservalue(L, 1, CALL_STATE);
    if (is_open(L, -1)) {
        lua_getfield(L, -1, "_began");
        if (!lua_toboolean(L, -1)) {
            struct es_task *t = es_task_current(L);
            if (t)
                t->refused = 1;
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* The stack: the call, the message handler, what the outermost middleware returned or raised. */
static int incoming_over(lua_State *L, int status, lua_KContext ctx)
{
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_replace(L, 2);
        lua_settop(L, 2);
        lua_pushvalue(L, 1);
        lua_insert(L, 2);
        run_helper(L, H_RAISED, 2, 1);
        note_refusal(L);
    } else if (lua_gettop(L) >= 3 && is_last_response(L, 3)) {
        lua_settop(L, 3);
        if (push_single_result(L, 3))
            return 1;
        lua_replace(L, 2);
    } else {
        lua_pushvalue(L, 1);
        lua_replace(L, 2);
        lua_pushboolean(L, 1);
        lua_insert(L, 3);
        run_helper(L, H_SETTLE, 2, 1);
        note_refusal(L);
    }
    run_helper(L, H_RESULTS, 2, LUA_MULTRET);
    return lua_gettop(L) - 1;
}

/* fn(job, session, name, metadata, handler, ...): what the core runs instead of every handler. */
static int incoming(lua_State *L)
{
    lua_Integer kind = lua_tointeger(L, 1);

    if (kind == ES_JOB_CHANNEL || !lua_isnil(L, 4) || lua_gettop(L) > MANY_ARGUMENTS) {
        lua_pushstring(L, kind == ES_JOB_CHANNEL ? "stream" : kind == ES_JOB_CALL ? "rpc" : "event");
        lua_replace(L, 1);
        run_helper(L, H_OPEN, 1, 1);
    } else {
        static const struct places from = {.fn = 5, .owner = 2, .name = 3, .first = 6};
        push_call(L, kind == ES_JOB_CALL ? H_RPC_IN : H_EVENT_IN, &from);
        lua_replace(L, 1);
    }
    lua_settop(L, 1);
    push_helper(L, H_TRACED);
    lua_pushvalue(L, UP_FN);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, UP_STEP);
    return incoming_over(L, lua_pcallk(L, 2, LUA_MULTRET, 2, 0, incoming_over), 0);
}

static int outgoing_over(lua_State *L, int status, lua_KContext ctx)
{
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_insert(L, 2);
        lua_settop(L, 2);
        lua_pushvalue(L, 1);
        lua_insert(L, 2);
        run_helper(L, H_RAISED, 2, 1);
    } else if (lua_gettop(L) >= 3 && is_last_response(L, 3)) {
        lua_settop(L, 3);
        if (push_single_result(L, 3))
            return 1;
        lua_replace(L, 2);
    } else {
        lua_pushvalue(L, 1);
        lua_replace(L, 2);
        lua_pushboolean(L, 1);
        lua_insert(L, 3);
        run_helper(L, H_SETTLE, 2, 1);
    }
    lua_pushvalue(L, 1);
    lua_insert(L, 2);
    run_helper(L, H_FINISH, 2, LUA_MULTRET);
    return lua_gettop(L) - 1;
}

/* fn(owner, kind, final, name, options, ...): sends a call through the chain. `final(call, ...)` does the
 * sending of everything but requests; with a function as last argument (the callback) all runs in a task. */
static int outgoing(lua_State *L)
{
    static const struct places from = {.fn = 3, .owner = 1, .name = 4, .first = 6};
    const char *kind = luaL_checkstring(L, 2);

    if (lua_gettop(L) > 5 && lua_isfunction(L, -1)) {
        lua_pushvalue(L, UP_HELPERS);
        lua_pushvalue(L, UP_FN);
        lua_pushvalue(L, UP_STEP);
        lua_pushcclosure(L, outgoing, 3);
        lua_insert(L, 1);
        run_helper(L, H_EITHER, 1, LUA_MULTRET);
        return lua_gettop(L);
    }
    if (lua_gettop(L) < 5)
        lua_settop(L, 5);
    if (lua_toboolean(L, 5) || lua_gettop(L) > MANY_ARGUMENTS) {
        run_helper(L, H_OPEN_OUT, 1, 1);
    } else {
        push_call(L, kind[0] == 'r' ? H_RPC_OUT : kind[0] == 'e' ? H_EVENT_OUT : H_STREAM_OUT, &from);
        lua_replace(L, 1);
    }
    lua_settop(L, 1);
    push_helper(L, H_TRACED);
    lua_pushvalue(L, UP_FN);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, UP_STEP);
    return outgoing_over(L, lua_pcallk(L, 2, LUA_MULTRET, 2, 0, outgoing_over), 0);
}

/* ---- for middleware.lua ---- */

static int chain_end(lua_State *L, lua_CFunction end)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_pushvalue(L, UP_HELPERS);
    lua_insert(L, 1);
    lua_pushcclosure(L, end, 3);
    return 1;
}

static int make_incoming(lua_State *L)
{
    return chain_end(L, incoming);
}

static int make_outgoing(lua_State *L)
{
    return chain_end(L, outgoing);
}

/* new(metatable, fn, owner, name, body): a call object that is open from the beginning. */
static int new_call(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 5, LUA_TTABLE);
    lua_settop(L, 5);
    lua_newuserdatauv(L, 0, CALL_STATE);
    for (int i = CALL_FN; i <= CALL_STATE; i++) {
        lua_pushvalue(L, 1 + i);
        lua_setiuservalue(L, 6, i);
    }
    lua_pushvalue(L, 1);
    lua_setmetatable(L, 6);
    return 1;
}

/* core.middleware(helpers) -> { new, handle, send, incoming(fn, next), outgoing(fn, next) } */
static int core_middleware(lua_State *L)
{
    static const luaL_Reg functions[] = {{"handle", next_in},         {"send", next_out},
                                         {"incoming", make_incoming}, {"outgoing", make_outgoing},
                                         {"new", new_call},           {NULL, NULL}};
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_newtable(L);
    lua_createtable(L, H_LAST - 1, 0);
    for (int i = 1; i < H_LAST; i++) {
        if (lua_getfield(L, 1, helper_names[i]) == LUA_TNIL)
            return luaL_error(L, "core.middleware: no %s", helper_names[i]);
        lua_rawseti(L, 3, i);
    }
    luaL_setfuncs(L, functions, 1);
    return 1;
}

void es_lua_open_middleware(lua_State *L, int core)
{
    lua_pushcfunction(L, core_middleware);
    lua_setfield(L, core, "middleware");
}
