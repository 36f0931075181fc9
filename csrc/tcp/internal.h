/* What the files of this folder share.
 *
 * Life of a connection: CONNECTING (dialled: TCP's handshake) -> SHAKING (TLS) -> GREETING (HTTP/2's settings
 * are on their way) -> OPEN -> ENDED (what ended it is in `info`; closed() is due and comes from the timer,
 * so from a later step) -> freed, by the next flush. Its socket lives a little longer (linger.c). Nothing is
 * freed inside a library callback, an up-call or a step.
 *
 * What protocols ask for is only noted (want_*, credit) and done in the next flush (write.c). */
#ifndef ES_TCP_INTERNAL_H
#define ES_TCP_INTERNAL_H

#include <gnutls/gnutls.h>
#include <nghttp2/nghttp2.h>
#include "../base/buf.h"
#include "../base/err.h"
#include "../base/list.h"
#include "../base/mem.h"
#include "../base/timer.h"
#include "../transport/driver.h"
#include "../transport/tls_verify.h"
#include "tcp.h"

#define TCP_OUT_MAX    (64 * 1024)       /* framed bytes that wait for the socket; more is not framed */
#define TCP_IN_BYTES   (64 * 1024)       /* of one read */
#define TCP_READS      8                 /* in one step, of one connection */
#define TCP_WRITES     16                /* fills of `out` in one flush, of one connection */
#define TCP_CHUNK      1024              /* room of a small chunk */
#define TCP_DATAGRAM   1200              /* largest datagram: what fits here fits QUIC's packets as well */
#define TCP_DATAGRAMS  256               /* waiting ones */
#define TCP_PARKED_MAX 4096              /* requests that a client may offer at a time, of each kind */
#define TCP_WINDOW_MAX (4 * 1024 * 1024) /* to which a stream's window grows by itself */
#define TCP_ACK_DELAY  (10 * ES_MILLI)   /* how long the end of a stream waits for others to be asked after */
#define TCP_LINGER     (2 * ES_SECOND)

/* Our own settings and frames; every endpoint of HTTP/2 ignores those it does not know. */
enum {
    SETTING_DATAGRAM = 0xe501, /* largest datagram we take; 0: none */
    SETTING_IDLE = 0xe502,     /* milliseconds after which we give up; 0: never */
    SETTING_BIDI = 0xe503,     /* server: streams that the client may open at first */
    SETTING_UNI = 0xe504,
    FRAME_TYPE = 0xec
};

/* The first byte of such a frame. */
enum {
    KIND_RESET = 1, /* of a stream: 8 bytes of code. Its sender writes no more; the end of the half follows */
    KIND_STOP = 2,  /* of a stream: 8 bytes of code. Its sender reads no more */
    KIND_DATAGRAM = 3, /* the rest is the payload */
    KIND_STREAMS = 4,  /* server: a direction (0 both ways, 1 one way) and 8 bytes: so many streams, in all */
    KIND_READY = 5     /* client: its first offers are made */
};

enum tcp_state { TCP_CONNECTING, TCP_SHAKING, TCP_GREETING, TCP_OPEN, TCP_ENDED };

struct tcp_chunk { /* bytes of writes */
    struct es_list node;
    const uint8_t *p; /* borrowed from the writer (release is set), or points at `copy` */
    size_t n, off, cap;
    void (*release)(void *);
    void *arg;
    uint8_t copy[];
};

struct tcp_stream {
    struct es_link_stream s; /* first: what the protocol holds */
    struct es_list all;      /* in conn->streams, ->parked[dir] (not taken yet) or ->dead */
    struct es_list ready;    /* in conn->ready[prio] while there is something to send, or in ->blocked */
    struct es_list ops;      /* in conn->ops while something is due */
    struct es_list unacked;  /* in conn->unacked while the end of our half may be under way */
    struct es_list queue;    /* owned tcp_chunks */
    size_t unsent;
    size_t credit;        /* stream credit to give with the next flush */
    uint64_t window;      /* bytes the peer may be ahead of the consumer, */
    uint64_t window_told; /* and those it knows of */
    uint64_t round, round_at;
    uint64_t reset_code, stop_code;
    uint64_t mark; /* number of the PING that is behind the end of our half */
    int32_t id;    /* HTTP/2's; 0: not submitted yet */
    uint8_t prio, dir;
    unsigned remote : 1; /* the peer opened it */
    unsigned parked : 1; /* an offer that was not taken */
    unsigned known : 1;  /* the protocol has it */
    unsigned head : 1;   /* our HEADERS are submitted, */
    unsigned headed : 1; /* and sent */
    unsigned fin : 1;    /* FIN is queued, */
    unsigned fin_out : 1;
    unsigned shut : 1; /* no more writing */
    unsigned reset : 1, want_reset : 1, stopped : 1, want_stop : 1;
    unsigned want_writable : 1;
    unsigned send_over : 1; /* acknowledged: our direction is history */
    unsigned recv_over : 1; /* FIN or RESET came */
    unsigned over : 1;      /* HTTP/2's stream is closed */
    unsigned done : 1;      /* the peer's allowance was given back */
    unsigned closed : 1;    /* stream_closed() was called */
};

struct tcp_datagram {
    struct es_list node;
    size_t n;
    uint8_t data[];
};

struct tcp_conn {
    struct es_link link; /* first: the base */
    struct es_poll_source source;
    struct es_poll_work work;
    struct es_tcp *t; /* borrowed */
    struct es_list node;
    struct es_list half; /* in t->half while it is accepted and not open */
    enum tcp_state state;
    struct es_transport_config cfg;
    struct es_timer timer;
    struct es_close_info info;
    struct es_app *app; /* borrowed; server: NULL until TLS has agreed on one */
    union es_addr remote;
    char alpn[8][64]; /* offered */

    int fd;               /* owned; -1: gone */
    uint32_t watched;     /* events */
    gnutls_session_t tls; /* owned */
    struct es_tls_peer peer;
    nghttp2_session *h2; /* owned */
    const uint8_t *in;   /* borrowed, in a step: what was read and TLS has not taken */
    size_t in_n;
    struct es_buf out; /* framed bytes; the first out_off are gone */
    size_t out_off;
    struct es_buf ext; /* a frame of ours that is coming in */

    struct es_list streams, dead, ops, blocked, unacked, released, datagrams;
    struct es_list parked[2];
    size_t n_parked[2], park[2]; /* offers there are; how many the client wants there to be */
    uint64_t left[2];            /* client: streams we may still open. Server: offers are counted instead */
    uint64_t granted[2];         /* client: by the server in all; server: by us in all */
    uint64_t opened[2];          /* server: by the client */
    uint64_t give[2];            /* allowances to give back with the next flush */
    uint64_t may_park[2];        /* client: offers that may be made beyond those there are */
    struct es_list ready[ES_PRIO_LAST + 1];
    struct tcp_stream *turn; /* borrowed: whose bytes HTTP/2 may ask for now */
    uint64_t conn_credit;
    size_t n_datagrams, n_streams;
    uint32_t peer_datagram;
    uint64_t idle; /* ns, negotiated; 0: none */

    uint64_t pings, pinged, acked; /* PINGs sent; the one under way (0: none); the last answered */
    uint64_t ping_at, ask_at;      /* ns: when it was sent; when one is due for `unacked`; 0: none */
    uint64_t started, established_at, heard_at, moved_at; /* ns */
    uint64_t rtt_latest, rtt_min, rtt_smoothed;
    uint64_t bytes_in, bytes_out, reads, writes;
    uint64_t linger_until;

    unsigned close_asked : 1, close_framed : 1;
    unsigned told : 1; /* closed() was delivered */
    unsigned established : 1;
    unsigned attached : 1;
    unsigned greeted : 1;   /* the peer's SETTINGS are here */
    unsigned ready_out : 1; /* client: KIND_READY is framed */
    int kind;               /* of the head that is coming in: what its :path or :status says; -1: nothing */
    int liberr;             /* the last complaint of nghttp2 */
    unsigned flushing : 1;
    unsigned again : 1;   /* TLS wants the bytes of the last write again */
    unsigned no_room : 1; /* the socket is full */
    unsigned half_closed : 1;
    unsigned keep_alive_on : 1;
    unsigned want_hold_low : 1;
    unsigned credit_due : 2; /* bit dir: stream_credit() is owed */
    unsigned short_of : 2;   /* bit dir: open() said no */
};

struct es_tcp {
    struct es_poller *p;          /* borrowed */
    struct es_poll_source source; /* of the listener */
    struct es_timer rest;         /* the listener is not watched: no descriptors are left */
    int fd;                       /* owned; -1: none */
    union es_addr addr;
    struct es_tls *tls;     /* shared */
    struct es_app *apps[8]; /* borrowed */
    size_t n_apps;
    struct es_transport_config transport;
    size_t max_half_open, max_half_open_each;
    struct es_list conns, half;
    size_t n_half;
    int refusing, deleting;
    uint8_t *rx; /* owned: TCP_IN_BYTES */
    struct es_tcp_stats stats;
};

static inline struct tcp_conn *tcp_of(struct es_link *l)
{
    return (struct tcp_conn *)l;
}

static inline struct tcp_stream *tcp_stream_of(const struct es_link_stream *s)
{
    return (struct tcp_stream *)(uintptr_t)s;
}

static inline uint64_t tcp_now(const struct tcp_conn *c)
{
    return c->t->p->timers.now;
}

static inline void tcp_mark(struct tcp_conn *c)
{
    es_poller_work(c->t->p, &c->work);
}

/* The rule of transport/internal.h's es_conn_may_credit. */
static inline int tcp_may_credit(const struct tcp_conn *c)
{
    return c->link.held < c->link.hold_cap + c->link.unsent;
}

/* Up-calls can be made: the protocol is there and has not been told of the end, nor asked for it. */
static inline int tcp_listens(const struct tcp_conn *c)
{
    return c->attached && !c->told && !c->close_asked && c->state < TCP_ENDED;
}

/* An up-call is made in a flush: its events are drained after a further step. */
static inline void tcp_up(struct tcp_conn *c)
{
    if (c->flushing) {
        c->t->p->again = 1;
    }
}

static inline void tcp_put64(uint8_t *p, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8) {
        p[i] = (uint8_t)v;
    }
}

static inline uint64_t tcp_get64(const uint8_t *p)
{
    uint64_t v = 0;

    for (int i = 0; i < 8; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

/* conn.c */
/* Takes fd over, also when it fails. */
int tcp_conn_new(struct es_tcp *t, int is_server, struct es_tls *tls, const struct es_transport_config *cfg,
                 int fd, const union es_addr *remote, struct tcp_conn **out);
void tcp_conn_del(struct tcp_conn *c); /* no word to anybody */
void tcp_conn_ready(struct es_poll_source *s, uint32_t events);
void tcp_set_info(struct tcp_conn *c, enum es_close_cause cause, int err, int app, uint64_t code,
                  const char *reason);
/* It is over, as the arguments say; what can still be said to the peer is said in the flush. */
void tcp_end(struct tcp_conn *c, enum es_close_cause cause, int err, int app, uint64_t code,
             const char *reason);
/* The peer broke the rules. */
void tcp_fail(struct tcp_conn *c, const char *reason);
void tcp_finish(struct tcp_conn *c); /* delivers closed() now */
void tcp_arm(struct tcp_conn *c);
void tcp_established(struct tcp_conn *c);
void tcp_watch(struct tcp_conn *c);

/* tls.c */
int tcp_tls_start(struct tcp_conn *c);
void tcp_tls_shake(struct tcp_conn *c);          /* goes on with the handshake */
void tcp_tls_read(struct tcp_conn *c, size_t n); /* n bytes in t->rx came */
/* Sends n framed bytes, at most; > 0: so many are gone, 0: the socket is full, < 0: it is over. */
ssize_t tcp_tls_write(struct tcp_conn *c, const uint8_t *p, size_t n);
void tcp_tls_bye(struct tcp_conn *c);

/* h2.c */
int tcp_h2_start(struct tcp_conn *c);
void tcp_h2_read(struct tcp_conn *c, const uint8_t *p, size_t n);
int tcp_h2_submit(struct tcp_conn *c, struct tcp_stream *s); /* our HEADERS of s. 0 or an es_err */
int tcp_h2_ping(struct tcp_conn *c);

/* stream.c */
struct tcp_stream *tcp_stream_new(struct tcp_conn *c, int dir, int remote);
void tcp_stream_number(struct tcp_stream *s, int32_t id, int by_server); /* gives it its ids */
void tcp_stream_op(struct tcp_stream *s);
void tcp_stream_make_ready(struct tcp_stream *s);
int tcp_stream_put(struct tcp_stream *s, const void *data, size_t n, int fin, int copy,
                   void (*release)(void *), void *arg);
size_t tcp_stream_take(struct tcp_stream *s, uint8_t *to, size_t n); /* moves queued bytes out */
void tcp_stream_drop(struct tcp_stream *s);                          /* what is queued */
void tcp_stream_ended(struct tcp_stream *s);                         /* the end of our half is framed */
void tcp_stream_known(struct tcp_stream *s);                         /* stream_opened(), if it is due */
void tcp_stream_got_fin(struct tcp_stream *s);
void tcp_stream_got_reset(struct tcp_stream *s, uint64_t code);
void tcp_stream_got_stop(struct tcp_stream *s, uint64_t code);
void tcp_stream_maybe_close(struct tcp_stream *s);
void tcp_stream_retire(struct tcp_stream *s);
void tcp_stream_sweep(struct tcp_conn *c);
void tcp_acked(struct tcp_conn *c, uint64_t ping);
void tcp_held(struct tcp_conn *c, int64_t delta);
void tcp_run_releases(struct tcp_conn *c);

/* write.c */
void tcp_flush(struct es_poll_work *w);
void tcp_unblock(struct tcp_conn *c, struct tcp_stream *s); /* NULL: all */
int tcp_frame(struct tcp_conn *c, uint8_t type, int32_t id, const void *a, size_t an, const void *b,
              size_t bn);

/* link_ops.c */
extern const struct es_link_ops tcp_link_ops;
void tcp_give_back(struct tcp_conn *c, int dir);

/* linger.c: takes fd over, reads what comes until the peer has closed too, and closes it. */
void tcp_linger(struct es_poller *p, int fd);

#endif
