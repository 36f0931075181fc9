/* Doors: sessions of the native protocol whose peer speaks something else. Whatever understands that peer
 * holds the other end in this process and makes the peer's calls there, so that they reach handlers by the
 * one way that there is: the same limits, deadlines, middleware and counters.
 *
 * The two ends are joined in memory (link/pair.h). What one has for the other is moved once in every round of
 * the loop in which anything happened, and never while Lua runs.
 */
#include "binding.h"
#include <string.h>
#include "../base/mem.h"
#include "../framing/frame.h"
#include "../link/pair.h"
#include "errors.h"
#include "luaaux.h"

struct es_ldoor {
    struct es_list node, busy; /* in loop->doors; in loop->busy_doors */
    struct es_lloop *loop;     /* borrowed: a door ends with its loop */
    struct es_pair *pair;      /* owned */
    struct es_lhost *host[2];  /* referenced: of the calling end, of the server's */
};

#define ROUNDS 64 /* of moving, before other things have their turn */

static void on_use(void *user)
{
    struct es_ldoor *d = user;

    if (es_list_empty(&d->busy))
        es_list_push(&d->loop->busy_doors, &d->busy);
}

static void door_del(lua_State *L, struct es_ldoor *d)
{
    es_pair_notify(d->pair, NULL, NULL);
    es_list_remove(&d->busy);
    es_list_remove(&d->node);
    es_pair_del(d->pair);
    for (int i = 0; i < 2; i++)
        es_lhost_unref(L, d->host[i]);
    es_free(d);
}

int es_lua_doors_pump(lua_State *L, struct es_lloop *lp)
{
    struct es_list turn = lp->busy_doors; /* those that stay busy wait for the next round */
    int doors = 0;

    turn.next->prev = &turn;
    turn.prev->next = &turn;
    es_list_init(&lp->busy_doors);
    while (!es_list_empty(&turn)) {
        struct es_ldoor *d = es_container_of(turn.next, struct es_ldoor, busy);
        int n = 0;

        ++doors;
        while (n < ROUNDS && es_pair_pump(d->pair, 0))
            n++;
        es_list_remove(&d->busy);
        if (es_pair_is_over(d->pair))
            door_del(L, d);
        else if (n == ROUNDS)
            es_list_push(&lp->busy_doors, &d->busy);
    }
    return doors;
}

void es_lua_doors_close(lua_State *L, struct es_lloop *lp)
{
    while (!es_list_empty(&lp->doors))
        door_del(L, es_container_of(lp->doors.next, struct es_ldoor, node));
}

static struct es_ldoor *door_new(struct es_lloop *lp, struct es_lhost *caller, struct es_lhost *server)
{
    struct es_ldoor *d = es_calloc(1, sizeof *d);

    if (d == NULL)
        return NULL;
    if (es_pair_new(&d->pair) < 0) {
        es_free(d);
        return NULL;
    }
    d->loop = lp;
    d->host[0] = es_lhost_ref(caller);
    d->host[1] = es_lhost_ref(server);
    es_list_init(&d->busy);
    es_list_init(&d->node);
    es_list_push(&lp->doors, &d->node);
    es_pair_notify(d->pair, on_use, d);
    return d;
}

/* Sessions keep it, so it is ours. */
static const struct es_link_door h3 = {"h3", "", "", ""};

/* Joins both ends. < 0: the sessions that were made are closed by door_del(). */
static int join(struct es_ldoor *d, struct es_session_dial *dial)
{
    struct es_link *near = es_pair_link(d->pair, 0), *far = es_pair_link(d->pair, 1);
    int rc;

    far->door = near->door = &h3;
    rc = d->host[1]->app.attach(&d->host[1]->app, far, NULL);
    if (rc == 0)
        rc = d->host[0]->app.attach(&d->host[0]->app, near, dial);
    return rc;
}

/* core.door(loop, { host =, server =, peer_addr =, local_addr =, credentials =, instance =, done = })
 * -> the session of the calling end, whose open hook of `host` has run; `server` gets the other one, as an
 * incoming session from peer_addr. Or nil, err. */
static int core_door(lua_State *L)
{
    static const char *const fields[] = {"host",        "server",   "door", "peer_addr", "local_addr",
                                         "credentials", "instance", "done", NULL};
    struct es_lloop *lp = es_lua_check_loop(L, 1);
    struct es_session_dial dial;
    struct es_pair_kv kv[ES_MAX_META_PAIRS];
    const char *peer = "", *local = "", *instance = NULL;
    size_t len = 0;

    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    es_lua_check_fields(L, 2, fields);
    memset(&dial, 0, sizeof dial);
    es_lua_opt_string(L, 2, "peer_addr", &peer, NULL);
    es_lua_opt_string(L, 2, "local_addr", &local, NULL);
    if (es_lua_opt_string(L, 2, "instance", &instance, &len)) {
        luaL_argcheck(L, len == 16, 2, "instance: expected 16 bytes");
        dial.instance = (const uint8_t *)instance;
    }
    lua_getfield(L, 2, "host");
    struct es_lhost *caller = es_lua_check_host(L, -1);
    lua_getfield(L, 2, "server");
    struct es_lhost *server = es_lua_check_host(L, -1);
    lua_getfield(L, 2, "credentials");
    dial.credentials = kv;
    dial.n_credentials = es_lua_read_kv(L, -1, "credentials", kv, ES_MAX_META_PAIRS);
    lua_getfield(L, 2, "done");
    luaL_checktype(L, -1, LUA_TFUNCTION);
    luaL_argcheck(L, caller->loop == lp && server->loop == lp, 2, "both hosts are of this loop");
    struct es_lsession *ls = es_lsession_new(L, caller, -1);
    struct es_ldoor *d = ls != NULL ? door_new(lp, caller, server) : NULL;
    if (d == NULL) {
        if (ls != NULL)
            es_lsession_forget(L, ls);
        return es_lua_fail(L, ES_ERR_NOMEM, "session");
    }
    es_pair_address(d->pair, 1, peer);
    es_pair_address(d->pair, 0, local);
    dial.user = ls;
    int rc = join(d, &dial);
    if (rc < 0) {
        door_del(L, d);
        es_lsession_forget(L, ls);
        return es_lua_fail(L, rc, "session");
    }
    ls->s = dial.session; /* with its reference */
    es_pair_establish(d->pair);
    on_use(d);
    if (es_lsession_run_open_hook(L, ls) < 0)
        return es_lua_fail(L, ES_ERR_INVAL, "the open hook failed");
    es_lloop_wake(lp);
    lua_rawgeti(L, LUA_REGISTRYINDEX, ls->ud_ref);
    return 1;
}

void es_lua_open_door(lua_State *L, int core)
{
    lua_pushcfunction(L, core_door);
    lua_setfield(L, core, "door");
}
