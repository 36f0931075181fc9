/* What http3.c (hosts, connections, events) and http3_exchange.c share. Nobody else includes it. */
#ifndef ES_LUA_HTTP3_INTERNAL_H
#define ES_LUA_HTTP3_INTERNAL_H

#include "../base/list.h"
#include "http3.h"
#include "webtransport.h"

struct es_lh3_app {
    unsigned refs;
    struct es_lloop *loop;   /* referenced */
    struct es_h3_config cfg; /* borrowed by the connections */
    struct es_app core, app; /* the core's, and ours around it */
    struct es_list conns;    /* es_lh3.node, until they are over */
    struct es_lwt wt;        /* of a server that takes WebTransport */
    int fn_ref;              /* what gets the requests; LUA_NOREF: a dialled one */
    int idle_ref;            /* what hears that a connection may be idle; LUA_NOREF: nobody wants to */
};

struct es_lh3 {
    unsigned refs;
    struct es_lh3_app *app;    /* referenced */
    struct es_h3 *h;           /* borrowed; NULL once it is gone */
    struct es_close_info info; /* once it is over */
    int over;
    uint64_t number; /* unlike that of any other connection of the process */
    struct es_list node;
    int ud_ref; /* the anchored userdata of a dialled one; LUA_NOREF */
};

struct es_lexchange {      /* userdata; user value 1: the notify function */
    struct es_exchange *x; /* the binding's reference; NULL after release() */
    struct es_lh3 *c;      /* referenced */
    int late;              /* its handler took too long, and was answered for */
    struct es_task *task;  /* borrowed: of its handler, NULL once that ended (es_task.holder) */
};

/* http3.c */
struct es_lh3 *es_lh3_ref(struct es_lh3 *c);
void es_lh3_unref(struct es_lh3 *c);
int es_lua_h3_closed(lua_State *L, const struct es_lh3 *c); /* nil and why; 2 */

/* http3_exchange.c */
/* The userdata, pushed; may raise. */
struct es_lexchange *es_lua_push_exchange(lua_State *L, struct es_lh3 *c, struct es_exchange *x);
/* Its userdata while it lives; NULL. */
struct es_lexchange *es_lua_exchange_find(lua_State *L, struct es_exchange *x);
struct es_lexchange *es_lua_exchange_box(lua_State *L, struct es_lh3 *c); /* pushed, empty; may raise */
void es_lua_exchange_fill(lua_State *L, struct es_lexchange *box, struct es_exchange *x); /* on top of L */
#define ES_LH3_FEW 16
/* The list { name, value, name, value, … } at idx, nil: none; in `few`, or valid while L's stack keeps what
 * this pushes. */
const struct es_h3_field *es_lua_h3_fields(lua_State *L, int idx, struct es_h3_field few[ES_LH3_FEW],
                                           size_t *n);
void es_lua_open_exchange(lua_State *L);

#endif
