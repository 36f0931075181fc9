/* The inside of http2/: a connection, its exchanges, and who does what.
 *
 *   session.c   life of a connection: settings, bytes in and out, the end
 *   receive.c   what the library tells of the peer's frames
 *   send.c      what the user sends: the operations of an exchange, the data provider
 *   fields.c    heads from and to fields of HTTP/2
 *   times.c     time-outs, pings, and the account of useless frames
 *
 * The library's callbacks only mark, keep and tell; an exchange that is over is told gone() and freed when
 * the library has returned (h2_sweep).
 */
#ifndef ET_HTTP2_SESSION_H
#define ET_HTTP2_SESSION_H

#include "compat.h"
#include "http2.h"
#include "../../../csrc/base/clock.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/glitch.h"
#include "../../../csrc/base/list.h"
#include "../../../csrc/base/mem.h"
#include "../../../csrc/base/timer.h"

#define H2_WINDOW_MAX      ((int32_t)1 << 20)   /* a stream's window may grow to this ... */
#define H2_WINDOWS_GROWN   ((int64_t)8 << 20)   /* ... as long as all of a connection have grown by no more */
#define H2_WINDOW_CONN     ((int32_t)16 << 20)  /* returned on receipt: only what is on its way counts */
#define H2_OUT_HIGH        ((size_t)256 * 1024) /* no more is taken from the library above this */
#define H2_MAX_QUEUED      2000            /* frames of control that wait for a peer that does not read */
#define H2_GLITCHES        16384           /* points, of which 1024 come back each second */
#define H2_RAPID           (10 * ES_MILLI) /* a request that is given up so soon */
#define H2_MAX_INFORMATION 32              /* informational heads of one response */
#define H2_PRIORITIES      8               /* PRIORITY_UPDATE frames that came before their request */

struct h2_exchange {
    struct et_exchange x;
    struct h2_conn *c;       /* borrowed */
    struct es_list link;     /* in c->exchanges, or c->over when the stream is gone */
    struct es_list starting; /* in c->waiting: a request that waits for the peer's settings */
    int32_t id;              /* of the stream; 0: not submitted, -1: closed */

    /* Receiving. */
    struct et_head *in;   /* owned: the head or trailers that are coming */
    struct es_buf cookie; /* crumbs, joined */
    struct es_buf host;   /* the Host field of a request */
    size_t in_bytes, in_fields;
    uint64_t begun;    /* ns */
    uint64_t in_tick;  /* ns: a byte of body came */
    uint64_t rate_at;  /* ns: min_body_rate is counted from here */
    uint64_t rate_n;   /* bytes since then */
    int32_t window;    /* of our side */
    uint64_t in_grown; /* bytes since the window grew */
    unsigned informational;

    /* Sending. */
    struct es_buf out; /* from `off` on: body not yet taken by the library */
    size_t off;
    struct et_head *trailers; /* owned: to be sent at the end */
    struct et_head *request;  /* owned: while it waits for settings */
    int64_t left;             /* of the declared length; -1: none was declared */
    uint64_t out_tick;        /* ns: the peer took something, or the queue was empty */

    int refuse;        /* status of the answer that we make ourselves */
    enum et_reset why; /* of h2_fail(); 0: not failed */
    const char *text;  /* static */

    unsigned opened : 1;     /* the user knows it */
    unsigned released : 1;   /* and wants to hear no more */
    unsigned told_reset : 1; /* reset() was told, or the user did it */
    unsigned head_in : 1;    /* the final head (or the request) came */
    unsigned end_in : 1;
    unsigned head_out : 1;
    unsigned fin_out : 1; /* the user ended */
    unsigned sent : 1;    /* its first HEADERS left */
    unsigned end_out : 1; /* END_STREAM was sent */
    unsigned connect : 1;
    unsigned tunnel : 1; /* an accepted CONNECT */
    unsigned head_method : 1;
    unsigned no_body : 1;    /* nothing may follow our head */
    unsigned grpc : 1;       /* its silence is its own affair */
    unsigned deferred : 1;   /* the library waits for h2 resume */
    unsigned full : 1;       /* room() is owed */
    unsigned bad : 1;        /* the head was malformed, what comes of it is not looked at */
    unsigned stop_after : 1; /* RST_STREAM NO_ERROR when our end is sent */
};

struct h2_priority {
    int32_t id;
    size_t n;
    char text[32];
};

struct h2_conn {
    struct et_http h;
    nghttp2_session *session; /* owned */
    enum et_http_role role;
    const char *scheme; /* "http" or "https" */
    struct et_http_limits limits;
    struct es_list exchanges, over, waiting;
    struct es_list blocks; /* the library's memory */
    unsigned n_exchanges;
    unsigned depth; /* calls into the library under way */
    uint64_t requests;
    int64_t grown;
    uint64_t now; /* ns, of the call under way */

    uint64_t started, last_in; /* ns: bytes came */
    uint64_t idle_since;       /* ns: the last exchange ended */
    uint64_t head_since;       /* ns: a head is coming; 0: none */
    uint64_t ping_at;          /* ns: a PING of ours is out; 0: none */
    uint64_t drain_at;         /* ns: when the second GOAWAY is due; 0: not */
    uint64_t timer_at;         /* ns: what the socket's timer is set to; 0: not */
    uint64_t close_at;         /* ns: when waiting for the last bytes ends; 0: not closing */
    struct es_glitch glitch;   /* frames of no use */
    struct es_glitch echoes;   /* WINDOW_UPDATE and PING, which come with what we send */
    struct h2_priority priority[H2_PRIORITIES];
    unsigned priority_next;

    unsigned settings_in : 1; /* the peer's first SETTINGS came */
    unsigned goaway_in : 1;
    unsigned draining : 1; /* by us */
    unsigned told_draining : 1;
    unsigned ready : 1;   /* ready() is owed */
    unsigned full : 1;    /* the socket's queue is over the mark: room() will come */
    unsigned closing : 1; /* close() was called */
    unsigned sock_closing : 1;
    unsigned told_refused : 1; /* once at least */
    unsigned failed : 1;       /* the library, or memory */
    int err;
    char why[128];           /* for closed() */
    char hint[128];          /* what the library said last */
    size_t queued, out_from; /* while frames are written: bytes that waited before, and where in the queue new
                                ones begin */
};

/* session.c */
void h2_dirty(struct h2_conn *c);
void h2_because(struct h2_conn *c, int err, const char *text); /* the first reason is kept */
void h2_terminate(struct h2_conn *c, uint32_t code, const char *text);
/* At once: every exchange is over, the socket closes. Not inside the library. */
void h2_kill(struct h2_conn *c, int err, const char *text, int graceful);
void h2_sweep(struct h2_conn *c); /* tells and frees what is over; not inside the library */
void h2_drain(struct h2_conn *c);
unsigned h2_room(const struct h2_conn *c);
struct h2_exchange *h2_exchange_new(struct h2_conn *c);
/* The stream is gone (or there never was one): told in h2_sweep(). `why` 0: in order. */
void h2_over(struct h2_exchange *e, enum et_reset why, const char *text);

/* receive.c */
int h2_callbacks(nghttp2_session_callbacks **out);

/* send.c */
extern const struct et_exchange_ops h2_exchange_ops;
int h2_send_data(nghttp2_session *s, nghttp2_frame *frame, const uint8_t *head, size_t length,
                 nghttp2_data_source *source, void *user);
void h2_reset(struct h2_exchange *e, uint32_t code); /* RST_STREAM; the user is told when it is closed */
/* We answer (408, 431 ...) and want no more of the request; the user of an open exchange is told reset(). */
void h2_answer(struct h2_exchange *e, int status, enum et_reset why, const char *text);
void h2_fail(struct h2_exchange *e, enum et_reset why, const char *text); /* resets, and tells this reason */
void h2_start_waiting(struct h2_conn *c);                                 /* the peer's settings came */
uint32_t h2_code_of(enum et_reset why);
enum et_reset h2_reset_of(uint32_t code);

/* fields.c */
/* One field of the head that comes. 0; a status (400, 414, 431) that it is refused with; ES_ERR_NOMEM. */
int h2_field_in(struct h2_exchange *e, const uint8_t *name, size_t nn, const uint8_t *value, size_t nv);
int h2_fields_end(struct h2_exchange *e); /* all came: likewise */
/* The fields of a head to be sent, to be freed with es_free(). */
int h2_fields_out(const struct et_head *h, const char *scheme, int without_length, nghttp2_nv **out,
                  size_t *n);

/* times.c */
void h2_timer(struct h2_conn *c);            /* the socket's timer fired */
void h2_arm(struct h2_conn *c, uint64_t at); /* the timer fires at `at` at the latest */
void h2_charge(struct h2_conn *c, struct es_glitch *account, uint64_t points);
void h2_close_soon(struct h2_conn *c);
void h2_refused(struct h2_conn *c, int status, const char *why); /* tells */

#endif
