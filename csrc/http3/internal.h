/* The inside of http3/: not for anybody above. */
#ifndef ES_HTTP3_INTERNAL_H
#define ES_HTTP3_INTERNAL_H

#include "../base/buf.h"
#include "../base/list.h"
#include "../base/map.h"
#include "compat.h"
#include "h3.h"

struct es_h3_head {
    struct es_list node;
    struct es_buf bytes; /* each field: two uint32_t, name, NUL, value, NUL */
    uint64_t size;       /* as RFC 9114 4.2.2 counts */
    size_t n;            /* fields in bytes */
    size_t seen;         /* fields that came, pseudo and dropped ones too */
    struct {
        struct es_buf text; /* NUL-terminated */
        int there;
    } pseudo[ES_H3_N_PSEUDO];
    int status;
};

enum { H3_CONTROL, H3_ENCODER, H3_DECODER, H3_OUT };

/* A one-way stream of the peer (oneway.c); its link stream's user. */
struct es_h3_oneway {
    struct es_list all;
    uint64_t kind;
    uint8_t head[8]; /* the bytes of the kind */
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
    struct es_idmap by_id;        /* exchanges whose stream lives */
    struct es_list exchanges;     /* the same, in the order of their beginning */
    struct es_list headless;      /* the peer's, without a whole head, the oldest first */
    struct es_list chores;        /* exchanges with something to do once nghttp3 has returned */
    struct es_list waiting;       /* early requests that are not safe, until the handshake is over */
    struct es_timer head_timer;
    struct es_close_info info;
    size_t in_flight;
    int64_t peer_streams; /* that the peer may open, as we told nghttp3 */
    int server;
    unsigned bits;
    unsigned queued : 1; /* a record is in the queue */
    unsigned bound : 1;  /* our three streams are there */
    unsigned failed : 1; /* being closed: nothing goes to nghttp3 any more */
    unsigned closed : 1;
    unsigned peer_goaway : 1;
    unsigned goaway : 2; /* what we sent: 1 the warning, 2 the last word */
    unsigned wants_credit : 1;
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
    size_t refs; /* the stream's, the binding's, the record's */
    struct es_h3 *h;
    struct es_link_stream *s; /* borrowed; NULL: it is over */
    int64_t id;
    void *user;
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
    int refuse; /* status to answer with, without asking anybody */
    int chores;
    unsigned bits;
    int8_t urgency; /* -1: the peer's wish */
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
    unsigned rx_fin : 1, rx_stopped : 1;
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
/* An exchange, or NULL for a one-way stream. */
static inline struct es_exchange *es_exchange_of(const struct es_link_stream *s)
{
    return (s->id & 2) == 0 ? s->user : NULL;
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

/* h3.c */
void es_h3_tell(struct es_h3 *h, unsigned bits);
void es_h3_fail(struct es_h3 *h, int liberr); /* closes for an error of nghttp3's */
void es_h3_pump(struct es_h3 *h); /* hands what nghttp3 has to say to the link, and does the chores */
int es_h3_usable(const struct es_h3 *h);
struct es_exchange *es_h3_find(const struct es_h3 *h, int64_t id);
void es_h3_check_idle(struct es_h3 *h);

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
