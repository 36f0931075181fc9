/* Reading a body field by field; private to framing/. Nothing here allocates or reads past the end. */
#ifndef ES_FRAMING_CURSOR_H
#define ES_FRAMING_CURSOR_H

#include <string.h>
#include "frame.h"

struct es_cursor {
    const uint8_t *p, *end; /* borrowed */
    const char *why;        /* static text of the first failure */
};

static inline void es_cursor_init(struct es_cursor *c, const uint8_t *p, size_t n)
{
    c->p = p;
    c->end = n != 0 ? p + n : p; /* p may be NULL then */
    c->why = "the frame ends too early";
}

static inline size_t es_cursor_left(const struct es_cursor *c)
{
    return (size_t)(c->end - c->p);
}

static inline int es_cursor_fail(struct es_cursor *c, int err, const char *why)
{
    c->why = why;
    return err;
}

static inline int es_cursor_varint(struct es_cursor *c, uint64_t *out)
{
    size_t used = es_varint_get(c->p, es_cursor_left(c), out);

    if (used == 0) {
        return ES_ERR_PROTOCOL;
    }
    c->p += used;
    return ES_OK;
}

/* A length and that many bytes, which must be there. */
static inline int es_cursor_bytes(struct es_cursor *c, struct es_bytes *out)
{
    uint64_t n;

    if (es_cursor_varint(c, &n) != ES_OK || n > es_cursor_left(c)) {
        return ES_ERR_PROTOCOL;
    }
    out->p = c->p;
    out->n = (size_t)n;
    c->p += n;
    return ES_OK;
}

static inline void es_cursor_rest(struct es_cursor *c, struct es_bytes *out)
{
    out->p = c->p;
    out->n = es_cursor_left(c);
    c->p = c->end;
}

static inline int es_cursor_end(struct es_cursor *c)
{
    return c->p == c->end ? ES_OK : es_cursor_fail(c, ES_ERR_PROTOCOL, "bytes after the end of the frame");
}

/* A name: 1 to ES_MAX_NAME bytes of the name alphabet. */
int es_cursor_name(struct es_cursor *c, struct es_bytes *out);
/* Metadata with its count. The common case, none, is inline. */
int es_cursor_kv_some(struct es_cursor *c, struct es_kv *out);
static inline int es_cursor_kv(struct es_cursor *c, struct es_kv *out)
{
    if (c->p != c->end && *c->p == 0) {
        c->p++;
        out->p = c->p;
        out->n = out->count = 0;
        return ES_OK;
    }
    return es_cursor_kv_some(c, out);
}

/* Flags defined for each frame. Bits 16 and up may be anything. */
#define ES_FLAGS_REQUEST                                                                                     \
    (ES_FLAG_MORE | ES_FLAG_STREAM | ES_FLAG_IDEMPOTENT | ES_FLAG_RETRY | ES_FLAG_ZSTD | ES_FLAG_CRC)
#define ES_FLAGS_RESPONSE (ES_FLAG_ZSTD | ES_FLAG_CRC | ES_FLAG_METHOD_IDEMPOTENT)
#define ES_FLAGS_HEAD     0
#define ES_FLAGS_DATA     (ES_FLAG_ZSTD | ES_FLAG_CRC | ES_FLAG_SEQ | ES_FLAG_WALL)
#define ES_FLAGS_EVENT    (ES_FLAG_ZSTD | ES_FLAG_CRC | ES_FLAG_WALL)

static inline int es_flags_known(uint64_t flags, unsigned defined)
{
    return (flags & 0xffff & ~(uint64_t)defined) == 0;
}

#endif
