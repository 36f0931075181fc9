/* The inside of http3/: not for anybody above. */
#ifndef ES_HTTP3_INTERNAL_H
#define ES_HTTP3_INTERNAL_H

#include "../base/buf.h"
#include "../base/list.h"
#include "../base/map.h"
#include "compat.h"
#include "h3.h"

/* What a link's stream has as its `user`: it begins with this. NULL: our own one-way streams. */
enum h3_kind {
    H3_EXCHANGE = 1,
    H3_ONEWAY,    /* the peer's, of nghttp3 or not known yet */
    H3_FRESH,     /* two-way of a server, not known yet */
    H3_WT_STREAM, /* of a WebTransport session */
    H3_DEAD       /* given up: whatever comes on it is dropped */
};
struct h3_any {
    uint8_t kind;
};

/* The first integers of a peer's stream, while they are not all there. */
struct es_h3_prefix {
    uint8_t n, b[16];
};

struct h3_fresh {
    struct h3_any any; /* first */
    struct es_list all;
    struct es_h3_prefix prefix;
};

/* What the peer's SETTINGS say that nghttp3 does not tell. */
struct es_h3_settings {
    unsigned seen : 1; /* they came */
    unsigned datagram : 1, webtransport : 1, connect : 1;
};

struct es_h3_head {
    struct es_list node;
    struct es_buf bytes; /* each field: two uint32_t, name, NUL, value, NUL; a pseudo field has no name */
    uint64_t size;       /* as RFC 9114 4.2.2 counts */
    size_t n;            /* fields in bytes */
    size_t seen;         /* fields that came, pseudo and dropped ones too */
    struct {
        uint32_t at, len; /* of the value, in bytes */
        int there;
    } pseudo[ES_H3_N_PSEUDO];
    int status;
};

enum { H3_CONTROL, H3_ENCODER, H3_DECODER, H3_OUT };

/* A one-way stream of the peer (oneway.c); its link stream's user. */
struct es_h3_oneway {
    struct h3_any any; /* first */
    struct es_list all;
    uint64_t kind;
    uint8_t head[16]; /* the bytes of the kind; then those of a session's number */
    uint8_t head_n, known;
};

/* Where in the peer's control stream we are. */
struct es_h3_control {
    struct es_buf frame; /* as much of the one under way as came */
    size_t head;         /* bytes of its type and length; 0: not whole */
    uint64_t type, left;
    uint64_t max_push;
    uint8_t skip, settings; /* its payload is not kept; SETTINGS came */
};

struct es_h3 {
    size_t refs;
    const struct es_h3_config *config; /* borrowed */
    struct es_link *link;              /* borrowed; NULL after closed() */
    nghttp3_conn *nc;                  /* owned; NULL after closed() */
    void *user;                        /* borrowed */
    struct es_link_stream *out[H3_OUT];
    int64_t out_id[H3_OUT];       /* as the library knows them */
    struct es_h3_control control; /* the peer's */
    struct es_list oneways;       /* owned: the peer's one-way streams */
    struct es_list fresh;         /* owned: h3_fresh.all */
    struct es_idmap by_id;        /* exchanges whose stream lives */
    struct es_list exchanges;     /* the same, in the order of their beginning */
    struct es_list headless;      /* the peer's, without a whole head, the oldest first */
    struct es_list chores;        /* exchanges with something to do once nghttp3 has returned */
    struct es_list waiting;       /* early requests that are not safe, until the handshake is over */
    struct es_timer head_timer;
    struct es_timer patience; /* patience.c */
    struct es_list sessions;  /* of WebTransport: es_wt.node */
    struct es_list wt_due;    /* es_wt.due */
    struct es_list strays;    /* streams of sessions that are not there, the oldest first */
    struct es_timer stray_timer;
    size_t n_strays, stray_bytes;
    int64_t gone[4]; /* sessions that were here, the number + 1 */
    unsigned gone_at;
    struct es_h3_settings peer;
    struct es_h3_config own; /* of a client's connection for one session */
    struct es_close_info info;
    size_t in_flight;
    int64_t peer_streams; /* that the peer may open, as we told nghttp3 */
    int64_t newest;       /* of its two-way streams; -1: none */
    int server;
    unsigned bits;
    unsigned queued : 1; /* a record is in the queue */
    unsigned bound : 1;  /* our three streams are there */
    unsigned failed : 1; /* being closed: nothing goes to nghttp3 any more */
    unsigned closed : 1;
    unsigned peer_goaway : 1;
    unsigned goaway : 2; /* what we sent: 1 the warning, 2 the last word */
    unsigned wants_credit : 1;
    unsigned wt : 1;       /* WebTransport may happen on it */
    unsigned extended : 1; /* our SETTINGS are written */
    unsigned pumping : 1;
    unsigned early : 1;       /* between the link's early() and established() */
    unsigned established : 1; /* the handshake is over */
    unsigned poisoned : 1; /* the library ran out of memory: 0.8 would free twice what it could not finish, so
                              what it holds is left alone */
};

/* What has to wait for nghttp3's return. */
enum { CHORE_ABORT = 1, CHORE_REFUSE = 2 };

/* Where in a request's bytes we are, and how many field lines came (lines.c). */
struct es_h3_lines {
    uint64_t v, type, payload,
        text;      /* an integer under way; of the frame; bytes left of it, of a name or value */
    uint32_t n[2]; /* lines of the head, of the trailers */
    uint8_t state, then, left, shift, sections, headers;
    uint8_t begun; /* a frame came of a kind that is known */
};

struct es_exchange {
    struct h3_any any; /* first */
    size_t refs;       /* the stream's, the binding's, the record's */
    struct es_h3 *h;
    struct es_link_stream *s; /* borrowed; NULL: it is over */
    int64_t id;
    void *user;
    struct es_wt *wt; /* borrowed: the session that it opens, which is told of it instead of the binding */
    struct es_h3_prefix prefix;
    struct es_list all, headless, chore, waiting;
    uint64_t head_deadline;

    struct es_h3_head *coming; /* owned: the head under way */
    struct es_h3_head *head, *trailers;
    struct es_h3_lines lines;
    struct es_list informs; /* owned */
    size_t n_informs;
    struct es_h3_head *inform; /* owned: the one that was seen last */

    struct es_buf rx;
    size_t rx_at; /* bytes of rx that were consumed */

    const uint8_t *tx; /* borrowed for the time of a write */
    size_t tx_n;
    nghttp3_nv *tx_trailers; /* borrowed for the time of finish */
    size_t tx_n_trailers;
    void (*tx_release)(void *);
    void *tx_arg;
    uint64_t tx_left; /* of the content-length; UINT64_MAX: none was said */

    struct es_exchange_error error;
    uint64_t chore_code;
    uint64_t body_timeout;       /* patience.c, from here on; 0: none */
    uint64_t answer_by;          /* ES_NEVER: no matter when */
    uint64_t rx_since, rx_by;    /* the handler waits for the body, from when to when; 0: it does not */
    uint64_t rx_waited, rx_came; /* ns, bytes */
    uint64_t tx_since, tx_mark;  /* since when there was always something to send; what was taken then */
    uint64_t tx_total;           /* bytes handed to the link */
    uint64_t rest_at, rest_by,
        rest_left; /* resting: when something came last; until when, how much more may */
    int refuse;    /* status to answer with, without asking anybody */
    int chores;
    unsigned bits;
    int8_t urgency;       /* -1: the peer's wish */
    uint8_t prio;         /* class of the link */
    unsigned rx_late : 1; /* the rest of the body did not come in time */
    unsigned stalled : 1; /* the peer did not take what it asked for */
    unsigned is_connect : 1;
    unsigned queued : 1;
    unsigned ours : 1;     /* we asked */
    unsigned early : 1;    /* before the end of the handshake */
    unsigned deferred : 1; /* its head is there, but it may not begin before the end of the handshake */
    unsigned told : 1;     /* the binding was told of it, and has a reference */
    unsigned released : 1; /* by the binding */
    unsigned kept : 1;     /* the peer's allowance returns at the release */
    unsigned is_head : 1;  /* the method is HEAD */
    unsigned responded : 1;
    unsigned no_body : 1; /* 204, 304 */
    unsigned sorted : 1;  /* its first bytes say that it is a request */
    unsigned resting : 1; /* answered; what is left of the body is let come (patience.c) */
    unsigned rx_fin : 1, rx_stopped : 1;
    unsigned ended : 1; /* the peer's side of the stream is over, whether or not that was read */
    unsigned tx_fin : 1, tx_stopped : 1, tx_end : 1; /* tx_end: the write under way is the last */
    unsigned tx_blocked : 1;                         /* WRITABLE is owed */
    unsigned rx_waiting : 1;                         /* READABLE is owed */
    unsigned aborted : 1;
};

/* head.c */
struct es_h3_head *es_h3_head_new(void);
void es_h3_head_del(struct es_h3_head *head); /* NULL is fine */
int es_h3_head_add(struct es_h3_head *head, int32_t token, nghttp3_vec name, nghttp3_vec value);
/* A request's head is whole. 0, or ES_ERR_PROTOCOL: it is malformed in a way that nghttp3 lets pass. */
int es_h3_head_check_request(struct es_h3_head *head);
/* Fields to be sent: 0 or ES_ERR_INVAL. `nv` has room for n. */
int es_h3_fields_out(nghttp3_nv *nv, const struct es_h3_field *f, size_t n);
/* The value of content-length among them; UINT64_MAX: none. ES_ERR_INVAL: no number. */
int es_h3_content_length(const struct es_h3_field *f, size_t n, uint64_t *out);
void es_h3_nv(nghttp3_nv *nv, const char *name, const char *value, size_t value_len);

/* Fields on their way to nghttp3: pseudo fields at the front, then the others. */
struct es_h3_out {
    nghttp3_nv few[48], *nv;
    size_t n;
};
int es_h3_out_begin(struct es_h3_out *o, size_t room); /* 0 or ES_ERR_NOMEM; then es_h3_out_end() */
void es_h3_out_end(struct es_h3_out *o);

/* oneway.c */
int es_h3_oneway_opened(struct es_h3 *h, struct es_link_stream *s); /* 0 or ES_ERR_NOMEM */
void es_h3_oneway_data(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n, int fin);
void es_h3_oneway_closed(struct es_h3_oneway *w); /* NULL is fine */
static inline int es_h3_is(const struct es_link_stream *s, enum h3_kind kind)
{
    const struct h3_any *any = s->user;

    return any != NULL && any->kind == kind;
}
/* An exchange, or NULL for any other stream. */
static inline struct es_exchange *es_exchange_of(const struct es_link_stream *s)
{
    return es_h3_is(s, H3_EXCHANGE) ? s->user : NULL;
}

/* lines.c */
void es_h3_lines_feed(struct es_h3_lines *l, const uint8_t *p, size_t n);
int es_h3_lines_nothing(const struct es_h3_lines *l); /* so far, nothing but whole frames of unknown kinds */

/* A number or a length that QPACK cannot mean; the library has errors for it, but no code of HTTP/3. */
static inline int es_h3_beyond_measure(nghttp3_ssize rc)
{
    return rc == NGHTTP3_ERR_QPACK_FATAL || rc == NGHTTP3_ERR_QPACK_HEADER_TOO_LARGE;
}

/* early.c */
/* RFC 9110 9.2.1: GET, HEAD, OPTIONS and TRACE change nothing. */
int es_h3_is_safe(const char *method);
/* The handshake is over, and there was early data: what waited for that begins. 0: the connection is being
 * closed, requests of ours may be sent again on another. */
int es_h3_early_settled(struct es_h3 *h);

/* priority.c */
void es_exchange_prioritize(struct es_exchange *x);

/* patience.c */
void es_exchange_begun(struct es_exchange *x);  /* a handler is about to run */
void es_exchange_waits(struct es_exchange *x);  /* it waits for the body */
void es_exchange_waited(struct es_exchange *x); /* something of the body came */
/* It was answered, and nobody reads its body any more. 1: what is left of it may come; 0: it has to be
 * stopped. */
int es_exchange_rest(struct es_exchange *x);
void es_exchange_rested(struct es_exchange *x, size_t n); /* so much of it came */
void es_h3_stop_resting(struct es_h3 *h);                 /* there is no more time for that */
void es_exchange_wrote(struct es_exchange *x);
void es_h3_on_patience(struct es_timer *t);

/* up.c */
#define ES_H3_STREAMS_AHEAD 1024 /* of the peer's that nghttp3 is told of before they are opened */
extern const struct es_link_events es_h3_link_events;
void es_h3_head_timer(struct es_timer *t); /* requests whose heads do not come */

/* h3.c, pump.c */
void es_h3_delete_library(struct es_h3 *h);
void es_h3_tell(struct es_h3 *h, unsigned bits);
void es_h3_fail(struct es_h3 *h, int liberr); /* closes for an error of nghttp3's */
void es_h3_pump(struct es_h3 *h); /* hands what nghttp3 has to say to the link, and does the chores */
int es_h3_usable(const struct es_h3 *h);
struct es_exchange *es_h3_find(const struct es_h3 *h, int64_t id);
void es_h3_check_idle(struct es_h3 *h);
/* What es_h3_goaway() wants said, once there is a control stream: the library ends the process without one,
 * and a peer may take its time to allow it. 0 or ES_ERR_NOMEM. */
int es_h3_say_goaway(struct es_h3 *h);

/* An es_h3 of a client without a binding: nobody is told of anything. Its reference is the link's. */
int es_h3_attach_client(struct es_link *link, struct es_timers *timers, struct es_h3 **out);

/* sort.c */
enum h3_sorted {
    H3_MORE, /* not known yet: what came was taken */
    H3_OURS, /* nghttp3's: the bytes of `kept` first, then what is left */
    H3_TAKEN /* of a session: what is left is es_wt_data()'s */
};
/* The first bytes of a two-way stream of the peer's. */
enum h3_sorted es_h3_sort(struct es_h3 *h, struct es_link_stream *s, const uint8_t **p, size_t *n, int fin,
                          struct es_h3_prefix *kept);
int es_h3_fresh(struct es_h3 *h, struct es_link_stream *s); /* of a server; 0 or ES_ERR_NOMEM */
void es_h3_fresh_del(struct h3_fresh *f);

/* settings.c */
/* `in`: what nghttp3 writes at the beginning of our control stream. out: the same, with the settings of
 * WebTransport; sessions: how many at once, 0 of a client. ES_ERR_NOMEM; ES_ERR_INVAL: it is no SETTINGS. */
int es_h3_settings_extend(const uint8_t *in, size_t n, uint64_t sessions, struct es_buf *out);
void es_h3_settings_note(struct es_h3_settings *s, uint64_t id, uint64_t value); /* one of the peer's */

/* webtransport.c, wt_streams.c: what the others tell them */
#define ES_H3_DATAGRAM_ERROR UINT64_C(0x33)
#define ES_WT_DATAGRAM_MAX   4000             /* bytes of one that we send */
int es_wt_wants(const struct es_exchange *x); /* a request that opens a session */
void es_wt_offered(struct es_exchange *x);
void es_wt_tell(struct es_wt *w, unsigned bits);
void es_wt_flushed(struct es_wt *w); /* our end of the CONNECT stream was acknowledged */
void es_wt_run_next(struct es_h3 *h);
void es_wt_mark_all(struct es_h3 *h);
int es_wt_is_gone(const struct es_h3 *h, int64_t id);
void es_wt_closed(struct es_h3 *h, const struct es_close_info *info);
void es_wt_moved(struct es_h3 *h, const struct es_link_move *move);
void es_wt_credit(struct es_h3 *h, int dir);
void es_wt_hold_low(struct es_h3 *h);
void es_wt_op_close(struct es_link *l, int app, uint64_t code, const char *reason);
void es_wt_stream_came(struct es_h3 *h, struct es_link_stream *s, uint64_t session);
void es_wt_data(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n, int fin);
void es_wt_stream_reset(struct es_link_stream *s, uint64_t code);
void es_wt_stream_stopped(struct es_link_stream *s, uint64_t code);
void es_wt_writable(struct es_link_stream *s);
void es_wt_sent(struct es_link_stream *s);
void es_wt_stream_closed(struct es_h3 *h, struct es_link_stream *s);
void es_wt_datagram(struct es_h3 *h, const uint8_t *p, size_t n);
void es_wt_stray_timer(struct es_timer *t);

/* callbacks.c */
extern const nghttp3_callbacks es_h3_callbacks;
extern const nghttp3_data_reader es_h3_reader;
const nghttp3_mem *es_h3_mem(void);

/* exchange.c */
void es_exchange_begin(struct es_exchange *x); /* a peer's request: the binding hears of it */
struct es_exchange *es_exchange_new(struct es_h3 *h, int ours);
void es_exchange_unref(struct es_exchange *x);
void es_exchange_ended(struct es_exchange *x); /* our side said all */
void es_exchange_tell(struct es_exchange *x, unsigned bits);
/* Later, when nghttp3 has returned: gives up the stream with code, and tells the binding if it knows of it.
 */
void es_exchange_later(struct es_exchange *x, int chore, uint64_t code);
void es_exchange_chores(struct es_exchange *x);
/* It failed; the streams are dealt with by the caller. */
void es_exchange_abort(struct es_exchange *x, int err, uint64_t code, int peer, int unprocessed);
void es_exchange_give_up(struct es_exchange *x, uint64_t stop_code, uint64_t reset_code);
void es_exchange_detach(struct es_exchange *x); /* its stream is over */
int es_exchange_received(struct es_exchange *x, const uint8_t *p, size_t n);

#endif
