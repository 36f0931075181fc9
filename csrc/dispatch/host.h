/* The inside of a host: shared by dispatch/ and session/, opaque above them. */
#ifndef ES_DISPATCH_HOST_H
#define ES_DISPATCH_HOST_H

#include "../base/buf.h"
#include "../base/map.h"
#include "../framing/compress.h"
#include "dispatcher.h"

#define ES_HOST_SPARES    16             /* receive buffers kept for the next long message */
#define ES_HOST_SPARE_MIN ((size_t)4096) /* smaller and larger ones go back to malloc */
#define ES_HOST_SPARE_MAX ((size_t)2 * 1024 * 1024)

struct es_host {
    unsigned refs;
    struct es_host_config cfg;
    struct es_map methods[ES_KINDS];    /* name -> struct es_method, owned */
    struct es_method *recent[ES_KINDS]; /* borrowed: found last; calls in a row are often of one method */
    struct es_map unhandled;            /* names of events that nobody handled: said once each */
    struct es_host_stats stats;
    struct es_map meters[2];             /* name -> struct es_meter, owned: calls and streams that go out */
    struct es_meter *recent_meter[2];    /* borrowed: found last */
    struct es_meter *other_meter[2];     /* owned: of the names beyond ES_METERS_OUT */
    struct es_list sessions;             /* of session/: all that have a connection */
    struct es_histogram handshakes;      /* ns each took */
    struct es_link_totals closed_totals; /* of connections that are over */
    struct es_tally unsent;              /* of every session's link */
    uint8_t crowded;                     /* it is above its high mark, or was and is not below the low one */
    struct es_wheel wheel;               /* of every session's deadlines */
    /* What the wheel calls; set by session/ before the first deadline is added. */
    void (*on_deadline)(struct es_deadline *d);
    /* Objects of session/, which gives them their size (0 until then). */
    struct es_pool calls, channels, blocks;
    struct es_buf scratch;               /* a frame being encoded; never kept across calls */
    struct es_buf scratch_kv;            /* metadata being encoded */
    struct es_zstd zstd;                 /* owned */
    struct es_buf packed;                /* a payload being compressed; never kept across calls */
    struct es_buf plain;                 /* what es_session_plain() gave out last */
    struct es_buf spare[ES_HOST_SPARES]; /* owned */
    size_t n_spare;
    uint64_t next_request_id;  /* of dialled sessions that share one instance */
    struct es_list unreported; /* sessions whose last events found no memory */
};

/* Every record in the queue and every call that points to a method uses it. */
static inline void es_method_use(struct es_method *m)
{
    m->uses++;
}
void es_method_unuse(struct es_method *m); /* frees a removed one with its last use */

/* An event of that name came and nobody handles it. 1: that is news. The number of names that are told apart
 * is bounded, because peers choose them: *last is 1 with the last one. */
#define ES_HOST_UNHANDLED 64
int es_host_unhandled(struct es_host *h, const char *name, size_t len, int *last);

/* A buffer that was used before, or an empty one. es_host_give_buf takes its memory; *b is empty after. */
void es_host_take_buf(struct es_host *h, struct es_buf *b);
void es_host_give_buf(struct es_host *h, struct es_buf *b);

#endif
