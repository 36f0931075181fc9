/* One request and its response on a connection of HTTP/1.1 or HTTP/2, from either side: what a codec gives
 * the binding and takes from it. http1/ and http2/ implement it in both roles; the binding (lua/) uses it.
 *
 * The role "visitor": the peer sends the request, we send the response. The role "backend": we send the
 * request. Everything below is symmetric: head, then informational heads (100-199, towards the requester
 * only), body, then the end with or without trailers. After an accepted CONNECT (a 101 or 2xx to a request
 * that has a protocol, or to a plain CONNECT) the body is the bytes of the tunnel, in both directions, and
 * the end is its half-close.
 *
 * Up-calls run inside library callbacks: the user only keeps, marks and counts; nothing is freed before the
 * library has returned, and no Lua runs. Down-calls are allowed in up-calls; they only queue.
 * Flow control: body() bytes count as unread until et_exchange_consume(); a codec stops reading (HTTP/1.1) or
 * withholds WINDOW_UPDATE of the stream (HTTP/2; the connection's window returns at once) when
 * `ET_UNREAD_MAX` are unread. Send queues are not bounded here: look at et_exchange_queued() and wait for
 * room().
 */
#ifndef ET_HTTP_EXCHANGE_H
#define ET_HTTP_EXCHANGE_H

#include <stddef.h>
#include <stdint.h>
#include "../head/head.h"

#define ET_UNREAD_MAX ((size_t)256 * 1024) /* bytes received and not consumed, per exchange */
#define ET_QUEUE_HIGH                                                                                        \
    ((size_t)256 * 1024) /* unsent bytes above this: stop writing; room() comes at half of it */

struct et_exchange;

/* Why an exchange ended early. Codecs map them to their wire (HTTP/2 error codes; HTTP/1.1: the connection
 * ends) and back. */
enum et_reset {
    ET_RESET_CANCEL = 1, /* the peer or we do not want it any more */
    ET_RESET_REFUSED,   /* certainly not processed: may be sent again (REFUSED_STREAM, GOAWAY below it, a kept
                           connection that ended before a byte of the response) */
    ET_RESET_PROTOCOL,  /* malformed */
    ET_RESET_TRUNCATED, /* the connection ended in the middle */
    ET_RESET_TIMEOUT,   /* a time-out of the codec */
    ET_RESET_INTERNAL,  /* an error of ours */
    ET_RESET_ENHANCE_CALM, /* too much of something */
    ET_RESET_NO_ERROR      /* HTTP/2: a final response came early, the rest of the request is not wanted */
};

struct et_exchange_ops {
    /* A request (backend role, once), an informational or the final response (visitor role). `fin`: no body
     * follows. The head is borrowed for the call. ES_ERR_CLOSED after a reset or the end, ES_ERR_NOMEM,
     * ES_ERR_INVAL. */
    int (*head)(struct et_exchange *, const struct et_head *h, int fin);
    int (*body)(struct et_exchange *, const void *p, size_t n, int fin); /* copies; 0 or as above */
    int (*trailers)(struct et_exchange *, const struct et_head *h);      /* the end, with trailers */
    size_t (*queued)(const struct et_exchange *);           /* body bytes not yet with the kernel */
    void (*consume)(struct et_exchange *, size_t n);        /* n bytes of body() were taken */
    void (*reset)(struct et_exchange *, enum et_reset why); /* at once; gone() follows from a later step */
    void (*release)(
        struct et_exchange *); /* the user is through with it and calls nothing more. Unfinished: reset */
    /* Visitor role: an answer that was refused by the parser is sent by the codec itself (400, 413, 414, 431,
     * 408). */
};

struct et_exchange_events {
    /* The request (visitor), or an informational or the final response (backend). The callee owns h. */
    void (*head)(void *user, struct et_head *h, int fin);
    void (*body)(void *user, const uint8_t *p, size_t n); /* borrowed */
    void (*end)(void *user, struct et_head *trailers);    /* NULL: none; the callee owns it */
    void (*room)(void *user); /* the queue fell to half of ET_QUEUE_HIGH after it was above it */
    /* It ended early, by the peer, the connection or the codec. Nothing else comes but gone(). `text`: for
     * logs. */
    void (*reset)(void *user, enum et_reset why, const char *text);
    /* Both directions are over and everything is with the kernel, or it was reset. Last word: x is over
     * for the user, who calls release() in it, the only call that is allowed then. */
    void (*gone)(void *user);
};

struct et_exchange {                         /* embedded first by the codec's object, which owns it */
    const struct et_exchange_ops *ops;       /* borrowed, static */
    const struct et_exchange_events *events; /* borrowed, static; set by the user in opened() or at request */
    void *user;                              /* borrowed */
    struct et_http *http;                    /* the connection; borrowed */
    uint64_t unread;                         /* kept by the codec */
};

/* A connection that carries exchanges: a codec on top of a struct et_sock (net/sock.h). */
struct et_http;

enum et_http_role { ET_HTTP_VISITOR, ET_HTTP_BACKEND };

struct et_http_events {
    /* Visitor role: the peer began a request; head() follows at once, in the same step. Set x->events and
     * x->user. 0, or an es_err: it is refused (503 or REFUSED_STREAM) and x is gone. */
    int (*opened)(void *user, struct et_exchange *x);
    /* Backend role: whether (and how many) requests may be begun now has changed: see et_http_room(). */
    void (*ready)(void *user);
    /* No new exchanges any more (GOAWAY, "Connection: close"), those there go on. */
    void (*draining)(void *user);
    /* Last word; every exchange was told gone() before. err: 0 for a clean end. `text`: for logs. */
    void (*closed)(void *user, int err, const char *text);
    /* Visitor role: a malformed request, or one over a limit, that never became an exchange: the codec
     * answers it itself. status: 400, 408, 413, 414, 431, 505; HTTP/2 connection errors: 400. May be NULL. */
    void (*refused)(void *user, int status, const char *why);
};

struct et_http_limits {     /* zero: the default */
    size_t head_bytes;      /* 64 KiB; 431 */
    size_t head_fields;     /* 100; 431 */
    size_t target_bytes;    /* 16 KiB; 414 */
    uint64_t head_timeout;  /* ns, 10 s: from the first byte of a head (or the connection's beginning) to its
                               end; 408 */
    uint64_t idle_timeout;  /* ns, 60 s: between requests */
    uint64_t body_timeout;  /* ns, 30 s: without a byte of a body that we want to read, or that the peer does
                               not take */
    uint64_t min_body_rate; /* bytes/s, 0: none: a request's body slower than this over 10 s ends with 408 */
    uint32_t max_streams;   /* HTTP/2: exchanges at once, 128 */
    uint32_t max_requests;  /* per connection, 0: any number; then it drains */
    uint64_t ping_interval; /* ns, HTTP/2 backend: PING after so long idle; 0: none */
    uint64_t ping_timeout;  /* ns, 10 s */
};

#endif
