/* Messages of HTTP/1.1 out of bytes: the scan of each head (scan.h), then llhttp in its strict mode, then a
 * check that both read the same. Bytes may come in any pieces; heads, trailers and the lines of chunks are
 * handed to llhttp whole, so that nothing of a malformed line is ever told.
 *
 * One message at a time: feeding stops at its end, what follows stays with the caller until
 * et_parse_next(). No I/O; the events may not call back.
 */
#ifndef ET_HTTP1_PARSE_H
#define ET_HTTP1_PARSE_H

#include <llhttp.h>
#include "../../../csrc/base/buf.h"
#include "../head/head.h"
#include "scan.h"

enum et_parse_state {
    ET_PARSE_HEAD,       /* a head, or nothing yet */
    ET_PARSE_LENGTH,     /* a body whose length is known */
    ET_PARSE_EOF,        /* a body until the connection ends */
    ET_PARSE_CHUNK_LINE, /* the size of a chunk */
    ET_PARSE_CHUNK,      /* its bytes */
    ET_PARSE_TRAILERS,
    ET_PARSE_OVER,   /* the message's end; for 1xx too */
    ET_PARSE_TUNNEL, /* after a CONNECT, an upgrade or a 101: what follows is not HTTP */
    ET_PARSE_FAILED
};

struct et_parse_events {
    /* The scan's spans are places in `block`. The callee owns h. Nothing was told yet of what follows. */
    void (*head)(void *user, struct et_head *h, const struct et_scan *s, const uint8_t *block);
    void (*body)(void *user, const uint8_t *p, size_t n); /* borrowed */
    void (*end)(void *user, struct et_head *trailers);    /* NULL: none; the callee owns them */
};

struct et_parse {
    llhttp_t llhttp; /* its `data` is this */
    struct et_scan scan;
    struct et_scan_limits limits;
    const struct et_parse_events *events; /* borrowed, static */
    void *user;                           /* borrowed */
    const char *scheme;                   /* borrowed; of requests */
    struct es_buf part;                   /* a head, a chunk's line or trailers, not whole yet */
    uint64_t chunk;                       /* bytes of a chunk that are missing, with its CRLF */
    enum et_parse_state state;
    int status;      /* after a failure: to be answered with */
    const char *why; /* likewise */
    /* While llhttp reads one block: */
    struct et_head *head; /* owned until told */
    struct et_text url, name, value;
    const uint8_t *block;
    size_t fields; /* that it told */
    int complete;  /* it saw the message's end */
    int fault;     /* an es_err of ours */
    /* Responses: what the request was. Set by the user before the head comes. */
    int no_body;    /* HEAD */
    int may_switch; /* 101 is an answer to it (an upgrade), or 2xx makes a tunnel (CONNECT) */
    int connect;
};

void et_parse_init(struct et_parse *p, enum et_scan_kind kind, const char *scheme,
                   const struct et_scan_limits *limits, const struct et_parse_events *ev, void *user);
void et_parse_free(struct et_parse *p);

/* Takes bytes until the message is over or they are; *used: how many. ES_ERR_PROTOCOL (see status and why),
 * ES_ERR_NOMEM; then the state is FAILED. */
int et_parse_feed(struct et_parse *p, const uint8_t *in, size_t n, size_t *used);
/* The connection's end. ES_OK: it was the end of the body; ES_ERR_CLOSED: in the middle of something. */
int et_parse_finish(struct et_parse *p);
/* The next message may come. */
void et_parse_next(struct et_parse *p);
/* Has a byte of a head come? */
int et_parse_begun(const struct et_parse *p);

#endif
