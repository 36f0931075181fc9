/* The inside of the in-memory pair, shared by pair.c (rounds, life) and pair_ops.c (the link functions). */
#ifndef ES_LINK_PAIR_STATE_H
#define ES_LINK_PAIR_STATE_H

#include "../base/list.h"
#include "pair.h"

#define PAIR_MAX_DATAGRAMS 256

struct pair_chunk { /* bytes of one write */
    struct es_list node;
    const uint8_t *p; /* borrowed from the writer (release is set), or points at `copy` */
    size_t n, off;    /* bytes, and how many were delivered */
    void (*release)(void *);
    void *arg;
    uint8_t copy[];
};

struct pair_stream;

struct pair_end {
    struct es_link_stream base; /* first: what the protocol holds */
    struct pair_stream *stream; /* borrowed */
    struct es_list queue;       /* owned pair_chunks */
    size_t queued;              /* bytes in `queue` */
    size_t window;              /* bytes the other side lets us send on this stream */
    uint64_t received, credited;
    uint64_t reset_code, stop_code;
    unsigned known : 1;    /* our protocol has this stream: it opened it, or stream_opened() was called */
    unsigned can_send : 1; /* a direction of ours exists */
    unsigned can_recv : 1;
    unsigned fin : 1;     /* FIN was written */
    unsigned fin_out : 1; /* FIN was delivered */
    unsigned reset : 1;   /* RESET_STREAM waits or is out */
    unsigned reset_out : 1;
    unsigned send_over : 1;    /* acknowledged: our sending direction is history */
    unsigned recv_over : 1;    /* FIN or RESET_STREAM came */
    unsigned stopped : 1;      /* we sent STOP_SENDING: nothing more is handed up */
    unsigned stop_pending : 1; /* and it has not been delivered */
    unsigned done : 1;         /* the opener's allowance was given back */
    unsigned closed : 1;       /* stream_closed() was called */
};

struct pair_stream {
    struct es_list node;
    struct pair_end end[2]; /* [0] the dialling side, [1] the accepting side */
    int dir, opener;
};

struct pair_datagram {
    struct es_list node;
    size_t n;
    uint8_t data[];
};

struct pair_side {
    struct es_link link;  /* first: what the protocol holds */
    struct es_pair *pair; /* borrowed */
    int64_t next[2];      /* number of the next stream we open */
    size_t left[2];       /* streams we may still open */
    unsigned credit_due;  /* bit dir: stream_credit() is owed */
    uint64_t window;      /* bytes the other side lets us send on the connection */
    uint64_t withheld;    /* connection credit we owe the other side, kept back while held is over the cap */
    uint64_t low_mark;    /* held at the last look, for hold_low() */
    int was_high;
    struct es_list datagrams; /* owned, from us to the other side */
    size_t n_datagrams;
    uint64_t bytes_out, bytes_in;
    int closing, closed; /* es_link_close() was called; closed() was delivered */
    char peer[64];       /* address */
    struct es_close_info info;
};

struct es_pair {
    struct pair_side side[2];
    struct es_list streams;  /* owned */
    struct es_list released; /* owned pair_chunks whose release() is due at the end of the round */
    struct es_list dead;     /* owned pair_streams to free then */
    size_t stream_window, datagram;
    int established, cut, busy;
    void (*notify)(void *); /* may be NULL */
    void *notify_user;      /* borrowed */
};

static inline struct pair_side *side_of(struct es_link *l)
{
    return (struct pair_side *)l;
}

static inline int index_of(const struct pair_side *side)
{
    return (int)(side - side->pair->side);
}

static inline struct pair_end *end_of(const struct es_link_stream *s)
{
    return (struct pair_end *)s;
}

static inline struct pair_end *other_end(struct pair_end *e)
{
    return e == &e->stream->end[0] ? &e->stream->end[1] : &e->stream->end[0];
}

/* One of the links was used. */
static inline void touch(const struct pair_side *side)
{
    if (side->pair->notify)
        side->pair->notify(side->pair->notify_user);
}

extern const struct es_link_ops es_pair_ops;

/* Held bytes of a side rise or fall. */
void es_pair_side_hold(struct pair_side *side, int64_t delta);
/* A chunk is acknowledged or given up: its release() is due at the end of the round. */
void es_pair_chunk_done(struct pair_end *e, struct pair_chunk *c);
void es_pair_drop_queue(struct pair_end *e);

#endif
