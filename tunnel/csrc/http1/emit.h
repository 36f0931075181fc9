/* Heads, chunks and trailers as bytes of HTTP/1.1. Pure: appends to a buffer; on an error it is as it was.
 *
 * Whatever the head says, what is written is one message: names are tokens, values and the first line hold no
 * byte that could end a line, fields that frame a message or belong to a connection come from `how` alone.
 */
#ifndef ET_HTTP1_EMIT_H
#define ET_HTTP1_EMIT_H

#include "../../../csrc/base/buf.h"
#include "../head/head.h"

enum et_framing {
    ET_FRAMING_NONE,    /* no body */
    ET_FRAMING_LENGTH,  /* Content-Length, as the head says; 0 without one */
    ET_FRAMING_CHUNKED, /* Transfer-Encoding: chunked */
    ET_FRAMING_CLOSE,   /* responses: until the connection ends */
    ET_FRAMING_TUNNEL   /* what follows is another protocol's */
};

struct et_emit {
    enum et_framing framing;
    const char *connection;   /* NULL: none; "close", "keep-alive" */
    struct et_text upgrade;   /* the protocol asked for or switched to; n = 0: none */
    struct et_text ws_key;    /* requests: Sec-WebSocket-Key */
    struct et_text ws_accept; /* responses: Sec-WebSocket-Accept */
};

/* ES_ERR_INVAL: the head cannot be a message of HTTP/1.1 (no method, a byte that may not be there);
 * ES_ERR_NOMEM. */
int et_emit_request(const struct et_head *h, const struct et_emit *how, struct es_buf *out);
/* `status`: instead of the head's, or 0. */
int et_emit_response(const struct et_head *h, int status, const struct et_emit *how, struct es_buf *out);
/* A chunk of n > 0 bytes; or the last one, with the trailers (may be NULL). */
int et_emit_chunk(const void *p, size_t n, struct es_buf *out);
int et_emit_last(const struct et_head *trailers, struct es_buf *out);

/* "Not Found"; "Unknown" for numbers that nobody registered. */
const char *et_emit_reason(int status);

#endif
