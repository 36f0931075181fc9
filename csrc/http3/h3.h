/* HTTP/3 (RFC 9114) over any link: requests and their answers, for both roles.
 *
 * Down: link/link.h. Up: records in an es_evq, listed below. Nothing here knows Lua or QUIC; nghttp3 does the
 * framing, QPACK and most of the validation, and is seen by this folder alone.
 *
 * One struct es_h3 per connection, one struct es_exchange per request with its answer, whoever asked.
 *
 * Events. An object that has something to say is in the queue once, and says it in bits, so that no peer can
 * make the queue longer than there are objects:
 *
 *   while ((ev = es_evq_peek(q)) != NULL) {
 *       unsigned bits = es_h3_take(ev);            // what happened since it was taken last
 *       if (ev->type == ES_H3_EVENT_EXCHANGE)
 *           run(ev->owner, bits);                  // struct es_exchange, ES_EX_...
 *       else
 *           conn(ev->owner, bits);                 // struct es_h3, ES_H3_...
 *       es_h3_pop(q);                              // not es_evq_pop: it gives a reference back
 *   }
 *
 * Life of a peer's request (server): ES_EX_REQUEST -> es_exchange_inform()* -> es_exchange_respond() ->
 * es_exchange_write()* -> es_exchange_finish() -> es_exchange_release(), exactly once, at any time and
 * however late. Whoever took ES_EX_REQUEST owns a reference until then. ES_EX_ABORTED comes at most once:
 * nobody waits for the answer any more.
 *
 * Life of a request of ours: es_h3_request() -> es_exchange_write()* -> es_exchange_finish() ->
 * ES_EX_INFORMED*
 * -> ES_EX_RESPONSE -> es_exchange_read()* -> es_exchange_release(), which cancels it when it is not over.
 *
 * Flow control. What came and was not consumed is held for the link (es_link_hold), and the peer gets credit
 * for it from es_exchange_consume(). es_exchange_write() takes all or nothing: ES_ERR_AGAIN, and
 * ES_EX_WRITABLE follows.
 */
#ifndef ES_HTTP3_H3_H
#define ES_HTTP3_H3_H

#include <stddef.h>
#include <stdint.h>
#include "../base/err.h"
#include "../base/event.h"
#include "../base/timer.h"
#include "../link/link.h"

struct es_h3;
struct es_exchange;
struct es_webtransport; /* webtransport.h */

#define ES_H3_ALPN "h3"

/* Error codes of RFC 9114 8.1 and RFC 9204 6. */
enum es_h3_code {
    ES_H3_NO_ERROR = 0x100,
    ES_H3_GENERAL_PROTOCOL_ERROR = 0x101,
    ES_H3_INTERNAL_ERROR = 0x102,
    ES_H3_STREAM_CREATION_ERROR = 0x103,
    ES_H3_CLOSED_CRITICAL_STREAM = 0x104,
    ES_H3_FRAME_UNEXPECTED = 0x105,
    ES_H3_FRAME_ERROR = 0x106,
    ES_H3_EXCESSIVE_LOAD = 0x107,
    ES_H3_ID_ERROR = 0x108,
    ES_H3_SETTINGS_ERROR = 0x109,
    ES_H3_MISSING_SETTINGS = 0x10a,
    ES_H3_REQUEST_REJECTED = 0x10b, /* nothing was done with it: it may be sent again */
    ES_H3_REQUEST_CANCELLED = 0x10c,
    ES_H3_REQUEST_INCOMPLETE = 0x10d,
    ES_H3_MESSAGE_ERROR = 0x10e,
    ES_H3_CONNECT_ERROR = 0x10f,
    ES_H3_VERSION_FALLBACK = 0x110,
    ES_H3_QPACK_DECOMPRESSION_FAILED = 0x200,
    ES_H3_QPACK_ENCODER_STREAM_ERROR = 0x201,
    ES_H3_QPACK_DECODER_STREAM_ERROR = 0x202
};

/* ---- events ---- */

enum es_h3_event { ES_H3_EVENT_CONN = 0x480, ES_H3_EVENT_EXCHANGE };

enum es_h3_bits {
    ES_H3_OPEN = 1,   /* requests may be sent */
    ES_H3_GOAWAY = 2, /* the peer takes no new requests */
    ES_H3_CREDIT = 4, /* es_h3_request said LIMIT before and may not now */
    ES_H3_IDLE =
        8, /* after our es_h3_goaway(1): no exchange is under way any more, and all was acknowledged */
    ES_H3_CLOSED = 16, /* last; es_h3_closed_by() */
    ES_H3_EARLY = 32   /* before OPEN: requests that are safe may be sent already (0-RTT) */
};

enum es_exchange_bits {
    ES_EX_REQUEST = 1,  /* a request's head came: run the handler */
    ES_EX_INFORMED = 2, /* one or more 1xx answers: es_exchange_informed() */
    ES_EX_RESPONSE = 4, /* the answer's head came */
    ES_EX_READABLE =
        8, /* es_exchange_read() said AGAIN, and would not now; comes also without asking first */
    ES_EX_WRITABLE = 16, /* es_exchange_write() said AGAIN, and would not now */
    ES_EX_ABORTED = 32,  /* it failed, es_exchange_error(): the last bit but one */
    ES_EX_LATE = 64      /* a request: it should have been answered by now */
};

/* The bits of a record, and forgets them. May be 0: something else took them, or the exchange was released.
 */
unsigned es_h3_take(struct es_event *ev);
/* Pops the record at the front. */
void es_h3_pop(struct es_evq *q);
/* For a queue that is given up: takes the bits of a record and does what the binding would have had to. The
 * caller pops it with es_h3_pop(). */
void es_h3_drop(struct es_event *ev);

/* ---- connections ---- */

struct es_h3_limits {
    uint64_t max_header;   /* bytes of a head or trailer, each field counting its name, its value and 32 (RFC
                              9114   4.2.2). What is over it is answered with 431, and never told */
    size_t max_fields;     /* of a head or trailer; over it: 431 */
    size_t max_target;     /* bytes of :path; over it: 414 */
    size_t max_informs;    /* 1xx answers to one request that are not read */
    uint64_t head_timeout; /* ns from the first byte of a request to the end of its head; 0: none */
    uint64_t body_timeout; /* ns that nothing of a body comes, or is taken; 0: none (patience.c has the rules)
                            */
    uint64_t answer_timeout; /* ns until ES_EX_LATE; 0: never */
    size_t qpack_table;      /* bytes of dynamic table that the peer may use */
    size_t qpack_blocked;    /* streams that may wait for its entries */
};
void es_h3_limits_default(struct es_h3_limits *l); /* 64 KiB, 100, 16 KiB, 16, 10 s, 30 s, 30 s, 4096, 16 */

struct es_h3_config {
    struct es_evq *events;    /* borrowed; outlives every es_h3; NULL: nobody is told of connections */
    struct es_timers *timers; /* borrowed; the same */
    struct es_h3_limits limits;
    int connect;                                /* server: takes extended CONNECT (RFC 9220) */
    const struct es_webtransport *webtransport; /* server: borrowed; takes such sessions. NULL: it does not */
    void *user; /* borrowed: es_h3_user() of what is accepted, until es_h3_set_user() */
    /* An es_h3 is no more; `user` is what es_h3_user() said last. NULL: nobody wants to know. */
    void (*gone)(void *user);
};

/* A user of links with the ALPN "h3". attach's arg is NULL for an accepted connection; a client gives a
 * struct es_h3_dial. `config` is borrowed and outlives the app's connections. */
void es_h3_app_init(struct es_app *app, const struct es_h3_config *config);

struct es_h3_dial {
    void *user;
    struct es_h3 *h3; /* out: with a reference for the caller */
};

void es_h3_ref(struct es_h3 *h);
void es_h3_unref(struct es_h3 *h);
void *es_h3_user(const struct es_h3 *h);
void es_h3_set_user(struct es_h3 *h, void *user);
struct es_link *es_h3_link(const struct es_h3 *h); /* NULL after CLOSED */
int es_h3_is_server(const struct es_h3 *h);
const struct es_close_info *es_h3_closed_by(const struct es_h3 *h); /* NULL: it lives */
size_t es_h3_in_flight(const struct es_h3 *h);                      /* exchanges that were not released */
int es_h3_is_idle(const struct es_h3 *h); /* nor is there one of which something was not acknowledged */

/* GOAWAY. final 0: a warning, requests that are on their way are still taken (servers only); 1: later ones
 * are refused with ES_H3_REQUEST_REJECTED; ES_H3_IDLE follows when those before are over. Harmless twice. */
int es_h3_goaway(struct es_h3 *h, int final);
/* CONNECTION_CLOSE; ES_H3_CLOSED follows. Harmless twice. */
void es_h3_close(struct es_h3 *h, uint64_t code, const char *reason);

/* ---- heads: pseudo-header fields, and fields in order ---- */

struct es_h3_field {
    const char *name, *value; /* borrowed */
    size_t name_len, value_len;
    int secret; /* out only: never kept in a table for compression (authorization and the like always are not)
                 */
};

enum es_h3_pseudo {
    ES_H3_METHOD,
    ES_H3_SCHEME,
    ES_H3_AUTHORITY, /* of `host` when only that came */
    ES_H3_PATH,
    ES_H3_PROTOCOL,
    ES_H3_STATUS,
    ES_H3_N_PSEUDO
};

struct es_h3_head; /* received; lives as long as its exchange, or es_exchange_informed()'s next call */

/* NULL: not there. NUL-terminated too. */
const char *es_h3_head_pseudo(const struct es_h3_head *head, enum es_h3_pseudo which, size_t *len);
int es_h3_head_status(const struct es_h3_head *head); /* 0: a request's, or trailers */
size_t es_h3_head_count(const struct es_h3_head *head);
/* *at starts at 0. 1 and the next field, 0 at the end. */
int es_h3_head_next(const struct es_h3_head *head, size_t *at, struct es_h3_field *out);

/* ---- requests of ours ---- */

struct es_h3_target {
    const char *method, *scheme, *authority,
        *path;            /* NUL-terminated; scheme and path NULL for a plain CONNECT */
    const char *protocol; /* extended CONNECT; else NULL */
};

/* fin 1: no body follows. *out is the caller's until es_exchange_release(). ES_ERR_AGAIN: before ES_H3_OPEN
 * (and before ES_H3_EARLY, when the method is safe: early data may be replayed, RFC 8470); ES_ERR_LIMIT: the
 * peer takes no more now, ES_H3_CREDIT follows; ES_ERR_CLOSED: it is closed or draining; ES_ERR_INVAL: fields
 * that may not be sent; ES_ERR_UNSUPPORTED: a server's connection; ES_ERR_NOMEM. */
int es_h3_request(struct es_h3 *h, const struct es_h3_target *t, const struct es_h3_field *fields, size_t n,
                  int fin, void *user, struct es_exchange **out);

/* ---- exchanges ---- */

struct es_h3 *es_exchange_h3(const struct es_exchange *x);
/* A peer's request that came, or ours that went, before the end of the handshake. */
int es_exchange_is_early(const struct es_exchange *x);
int64_t es_exchange_id(const struct es_exchange *x); /* of its stream */
void *es_exchange_user(const struct es_exchange *x);
void es_exchange_set_user(struct es_exchange *x, void *user);
const struct es_h3_head *es_exchange_head(const struct es_exchange *x);     /* the peer's; NULL: not come */
const struct es_h3_head *es_exchange_trailers(const struct es_exchange *x); /* NULL: none (yet) */
/* The next 1xx answer that was not seen; NULL: no more. */
const struct es_h3_head *es_exchange_informed(struct es_exchange *x);

/* What there is of the body. 0: *p, *n, valid until any other call on it; n > 0. ES_ERR_AGAIN: nothing yet,
 * ES_EX_READABLE follows; ES_ERR_NOT_FOUND: the end, trailers are there; ES_ERR_TIMEOUT: the
 * client took too long; ES_ERR_CLOSED: it was aborted. */
int es_exchange_read(struct es_exchange *x, const uint8_t **p, size_t *n);
void es_exchange_consume(struct es_exchange *x, size_t n); /* of what read() gave, at most all */

/* Other limits than the connection's, from now on; ns, 0: none. */
void es_exchange_set_timeouts(struct es_exchange *x, uint64_t answer, uint64_t body);

/* 1xx (100 to 199 without 101), before respond(). Errors as of respond(). */
int es_exchange_inform(struct es_exchange *x, int status, const struct es_h3_field *fields, size_t n);
/* The answer's head. fin 1: no body. The answer to HEAD, and 204 and 304, have none: they end here.
 * ES_ERR_INVAL: a status or fields that may not be sent, nothing was; ES_ERR_EXISTS: answered before;
 * ES_ERR_CLOSED: aborted; ES_ERR_NOMEM. */
int es_exchange_respond(struct es_exchange *x, int status, const struct es_h3_field *fields, size_t n,
                        int fin);
/* Body. All of it or nothing. release NULL: copied; else as es_link_write_ref(); on errors it is not called.
 * ES_ERR_AGAIN: the queue is above its mark; ES_ERR_TOO_LARGE: more than the content-length that was said;
 * ES_ERR_CLOSED: aborted, finished, or the peer wants no more; ES_ERR_INVAL: before the head, or with 204 and
 * 304. The answer to HEAD takes and drops it. */
int es_exchange_write(struct es_exchange *x, const void *data, size_t n, void (*release)(void *), void *arg);
/* Head, body and end in one: what most answers are. Errors as of respond() and write(), but never AGAIN; when
 * it fails nothing was sent, or the answer was cut off. */
int es_exchange_answer(struct es_exchange *x, int status, const struct es_h3_field *fields, size_t n,
                       const void *data, size_t n_data, void (*release)(void *), void *arg);
/* The end of our side, with trailers when n > 0. ES_ERR_INVAL: fields that may not be sent (nothing was), or
 * less than the content-length that was said (the stream is reset). Harmless twice. */
int es_exchange_finish(struct es_exchange *x, const struct es_h3_field *trailers, size_t n);
size_t es_exchange_queued(const struct es_exchange *x); /* bytes not yet in a packet */
/* RFC 9218 urgency of what we send, 0 (first) to 7; else it is what the peer asked for. */
void es_exchange_priority(struct es_exchange *x, int urgency);
/* Gives up both directions. No ES_EX_ABORTED comes; it still has to be released. */
void es_exchange_reset(struct es_exchange *x, uint64_t code);
/* The last word; the pointer is dead after. What is not over is cancelled (by the server:
 * ES_H3_INTERNAL_ERROR if the answer has no end; the rest of a body that nobody reads any more
 * is let come for a while, see patience.c, then stopped with ES_H3_NO_ERROR). */
void es_exchange_release(struct es_exchange *x);

struct es_exchange_error {
    int err;         /* enum es_err: ES_ERR_CLOSED, ES_ERR_PROTOCOL, ES_ERR_TIMEOUT, ... */
    uint64_t code;   /* enum es_h3_code, of the peer or ours */
    int peer;        /* the peer gave it up */
    int unprocessed; /* our request: the peer did nothing with it, it may be sent again whatever it is */
};
/* ES_ERR_NOT_FOUND: it did not fail. */
int es_exchange_error(const struct es_exchange *x, struct es_exchange_error *out);

#endif
