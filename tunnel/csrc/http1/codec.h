/* What both roles of the codec share: a connection, its one exchange, and who may close what. Inside the room
 * only. */
#ifndef ET_HTTP1_CODEC_H
#define ET_HTTP1_CODEC_H

#include "../http/http.h"
#include "../net/sock.h"
#include "emit.h"
#include "http1.h"
#include "parse.h"
#include "websocket.h"

struct et_h1;

struct et_h1_x { /* one exchange; lives until it is gone and released */
    struct et_exchange x;
    struct et_h1 *c; /* borrowed; NULL: gone */
    enum et_framing framing;
    int64_t left;                 /* of a body whose length was announced; -1: it was not */
    struct es_buf token;          /* of an upgrade */
    struct es_buf held;           /* backend: bytes of a tunnel that is not there yet */
    char ws[ET_WEBSOCKET_ACCEPT]; /* Sec-WebSocket-Accept, sent or expected */
    unsigned informational;       /* heads that came */
    unsigned in_over : 1;         /* what comes to us is at its end */
    unsigned out_over : 1;        /* what we send is */
    unsigned sent : 1;            /* our head (the final one) */
    unsigned begun : 1;           /* backend: a byte of the response came */
    unsigned old : 1;             /* visitor: HTTP/1.0 */
    unsigned wants_close : 1;     /* visitor: the request said so */
    unsigned is_head : 1;         /* HEAD */
    unsigned repeatable : 1;      /* backend: an idempotent method */
    unsigned asks : 1;            /* asks for a tunnel: an upgrade or CONNECT, not answered yet */
    unsigned websocket : 1;
    unsigned tunnel : 1;   /* it was granted */
    unsigned fin_late : 1; /* backend: our end came before the tunnel was granted */
    unsigned end_owed : 1; /* visitor: end() is to be told: the tunnel was refused */
    unsigned deaf : 1;     /* nothing but gone() is told */
    unsigned released : 1; /* not even that */
    unsigned was_full : 1; /* room() is owed */
};

enum et_h1_phase { ET_PHASE_NONE, ET_PHASE_HEAD, ET_PHASE_IDLE, ET_PHASE_BODY, ET_PHASE_EOF };
enum { ET_PAUSE_UNREAD = 1, ET_PAUSE_HELD = 2 };

struct et_h1 {
    struct et_http http;
    enum et_http_role role;
    struct et_http_limits limits;
    struct et_parse parse;
    struct et_h1_x *x; /* the current one */
    struct es_buf in;  /* bytes that wait: of the next request, or of a tunnel not granted yet */
    uint64_t done;     /* exchanges that are over */
    enum et_h1_phase phase;
    uint64_t received, sent;          /* of the socket, at the last tick */
    uint64_t stalled_in, stalled_out; /* ns without progress */
    uint64_t window, window_bytes;    /* of min_body_rate */
    unsigned paused;                  /* ET_PAUSE_* */
    unsigned eof : 1;                 /* the peer ended its direction */
    unsigned last : 1;                /* no exchange after this one */
    unsigned drained : 1;             /* draining() was told */
    unsigned closing : 1;             /* et_sock_close() was called: what comes is ignored */
};

/* codec.c */
struct et_h1_x *et_h1_x_new(struct et_h1 *c);
void et_h1_x_del(struct et_h1_x *x);
void et_h1_pause(struct et_h1 *c, unsigned why);
void et_h1_resume(struct et_h1 *c, unsigned why);
void et_h1_phase(struct et_h1 *c, enum et_h1_phase phase);
/* Nothing after this exchange; told once. */
void et_h1_last(struct et_h1 *c);
/* Ends the connection: graceful sends what is queued first. */
void et_h1_close(struct et_h1 *c, int graceful);
/* Tells the exchange that it ended early, once; the connection is the caller's business. */
void et_h1_tell_reset(struct et_h1_x *x, enum et_reset why, const char *text);
/* Both directions may be over: then gone() follows from a later step. */
void et_h1_check_over(struct et_h1_x *x);
/* Bytes of the tunnel, and its end. */
void et_h1_tunnel_in(struct et_h1_x *x, const uint8_t *p, size_t n);
void et_h1_body_in(void *user, const uint8_t *p, size_t n);
void et_h1_end_in(void *user, struct et_head *trailers);
/* Bytes that came, whether now or earlier. */
void et_h1_take(struct et_h1 *c, const uint8_t *p, size_t n);

/* send.c: struct et_exchange_ops but head, in both roles */
int et_h1_body(struct et_exchange *e, const void *p, size_t n, int fin);
int et_h1_trailers(struct et_exchange *e, const struct et_head *h);
size_t et_h1_queued(const struct et_exchange *e);
void et_h1_consume(struct et_exchange *e, size_t n);
void et_h1_reset(struct et_exchange *e, enum et_reset why);
void et_h1_release(struct et_exchange *e);
/* The end of what we send; trailers may be NULL. */
int et_h1_finish(struct et_h1_x *x, const struct et_head *trailers);
int et_h1_may_send(struct et_h1_x *x); /* 0, or ES_ERR_CLOSED */

/* visitor.c and backend.c */
extern const struct et_exchange_ops et_h1_visitor_exchange, et_h1_backend_exchange;
extern const struct et_parse_events et_h1_visitor_parse, et_h1_backend_parse;
/* The parser refused what came. */
void et_h1_visitor_refused(struct et_h1 *c, int rc);
void et_h1_backend_refused(struct et_h1 *c, int rc);
/* Answers by ourselves and closes. */
void et_h1_visitor_answer(struct et_h1 *c, int status, const char *why);
/* The peer ended its direction; the codec is not in a tunnel. */
void et_h1_visitor_eof(struct et_h1 *c);
void et_h1_backend_eof(struct et_h1 *c);
/* A time-out of the phase. */
void et_h1_visitor_timeout(struct et_h1 *c, const char *why);
/* What was put off while the user's call was under way. */
void et_h1_visitor_flush(struct et_h1 *c);
int et_h1_backend_begin(struct et_http *h, const struct et_exchange_events *ev, void *user,
                        struct et_exchange **out);
enum et_reset et_h1_backend_loss(const struct et_h1_x *x); /* the connection was lost: why */

#endif
