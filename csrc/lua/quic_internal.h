/* What quic.c (connections, apps, events) and quic_stream.c (streams) share. Nobody else includes it.
 *
 * Both kinds of object are malloc'd and counted: the link holds one reference to each until its last word
 * (closed(), stream_closed()), every record in the event queue one, the userdata one, each stream one to its
 * connection. So each side may go first, at lua_close() too.
 *
 * Link callbacks only fill buffers and set bits; one record per object stands in the queue, and when it is
 * drained the bits become calls of the Lua notify function.
 *
 * The userdata of an open connection is anchored in the registry: it lives until the connection is closed.
 * That of a stream is not: a stream nobody holds any more is given up by its finalizer.
 */
#ifndef ES_LUA_QUIC_INTERNAL_H
#define ES_LUA_QUIC_INTERNAL_H

#include "binding.h"
#include "../base/list.h"
#include "quic.h"

#define ES_QUIC_EVENT_CONN   0x200 /* owner: struct es_lconn */
#define ES_QUIC_EVENT_STREAM 0x201 /* owner: struct es_lqstream */

/* What notify functions hear; bit i is name i of the tables in quic.c and quic_stream.c. */
enum {
    ES_QC_OPEN = 1,
    ES_QC_BIDI = 2,
    ES_QC_UNI = 4,
    ES_QC_DATAGRAM = 8,
    ES_QC_CREDIT = 16,
    ES_QC_CLOSED = 32,
    ES_QC_MOVED = 64
};
enum { ES_QS_READABLE = 1, ES_QS_WRITABLE = 2, ES_QS_CLOSED = 4 };

#define ES_QUIC_ACCEPT_MAX   1024 /* streams that wait for accept(); more are refused */
#define ES_QUIC_DATAGRAM_MAX 256  /* datagrams that wait for recv_datagram(); the oldest goes */

struct es_raw_app {
    unsigned refs;
    struct es_app app;     /* app.user is this struct */
    struct es_lloop *loop; /* referenced */
    int fn_ref;            /* what gets the connections; LUA_NOREF: a dialled one, with a private app */
    char alpn[256];
};

enum es_lconn_state { ES_LCONN_CONNECTING, ES_LCONN_OPEN, ES_LCONN_CLOSED };

struct es_lconn {
    unsigned refs;
    struct es_lloop *loop;  /* referenced */
    struct es_raw_app *app; /* referenced */
    struct es_link *link;   /* borrowed; NULL after closed() */
    enum es_lconn_state state;
    struct es_close_info info;
    struct es_list waiting[2]; /* es_lqstream.node by direction: not accepted yet, each with a reference */
    size_t n_waiting[2];
    struct es_list streams;   /* es_lqstream.all: those that the link still has */
    struct es_list datagrams; /* of struct es_lqdatagram */
    size_t n_datagrams;
    unsigned bits;                /* ES_QC_* to be told */
    struct es_link_move moves[2]; /* the last of ours, of the peer's, to be told; from[0] 0: none */
    uint8_t queued;               /* a record is in the queue */
    uint8_t unclaimed;            /* incoming: the function has not got it yet */
    uint8_t closing;              /* close() was called */
    int ud_ref;                   /* the anchored userdata; LUA_NOREF */
};

struct es_lqdatagram {
    struct es_list node;
    size_t n;
    uint8_t data[];
};

struct es_lqstream {
    unsigned refs;
    struct es_lconn *conn;    /* referenced */
    struct es_link_stream *s; /* borrowed; NULL after stream_closed() or closed() */
    struct es_list node;      /* in conn->waiting */
    struct es_list all;       /* in conn->streams */
    int64_t id;
    struct es_buf rx; /* owned: received, not read; rx.p[rx_at] is the next byte */
    size_t rx_at;
    uint64_t reset_code, stop_code;
    unsigned bits; /* ES_QS_* to be told */
    uint8_t queued;
    uint8_t remote, uni;
    uint8_t rx_fin, rx_reset;          /* the peer ended it */
    uint8_t tx_fin, tx_reset, stopped; /* we ended it, we gave it up, the peer wants no more */
    uint8_t rx_given_up;               /* stop() was sent: what arrives is dropped */
};

/* quic_link.c */
struct es_raw_app *es_raw_app_new(struct es_lloop *lp, const char *alpn); /* NULL: out of memory */
void es_raw_app_unref(struct es_raw_app *a);
struct es_lconn *es_lconn_new(struct es_raw_app *app, int incoming); /* NULL: out of memory */
struct es_lconn *es_lconn_ref(struct es_lconn *c);
void es_lconn_unref(struct es_lconn *c);
void es_lconn_tell(struct es_lconn *c, unsigned bits);
void es_lconn_drop_waiting(struct es_lconn *c); /* streams that nobody will accept any more */
void es_lconn_unanchor(struct es_lconn *c);     /* its userdata may be collected from now on */

/* quic.c */
/* nil and why the connection ended (or that it is being closed). */
int es_lconn_push_closed(lua_State *L, const struct es_lconn *c);

/* quic_stream.c */
struct es_lqstream *es_lqstream_new(struct es_lconn *c, int uni, int remote); /* NULL: out of memory */
void es_lqstream_unref(struct es_lqstream *s);
void es_lqstream_push(lua_State *L,
                      struct es_lqstream *s); /* its userdata, a new one with a reference; may raise */
void es_lqstream_event(lua_State *L, struct es_lqstream *s);
void es_lqstream_detach(struct es_lqstream *s); /* the link's last word about it */
void es_lqstream_on_data(struct es_lqstream *s, const uint8_t *p, size_t n, int fin);
void es_lqstream_on_reset(struct es_lqstream *s, uint64_t code);
void es_lqstream_on_stopped(struct es_lqstream *s, uint64_t code);
void es_lqstream_tell(struct es_lqstream *s, unsigned bits);
void es_lqstream_give_up(struct es_lqstream *s); /* both directions, as far as they are open */
void es_lua_open_qstream(lua_State *L);

#endif
