/* zstd, one shot per payload. */
// libs: -lzstd
#define ZSTD_STATIC_LINKING_ONLY /* for ZSTD_customMem: memory of the core comes from base/mem.h */
#include "compress.h"

#include <zstd.h>
#include <zstd_errors.h>
#include "../base/mem.h"
#include "cursor.h"

/* A context that grew beyond this (high levels, long messages) does not stay. */
#define KEEP_CONTEXT ((size_t)4 * 1024 * 1024)
#define WINDOW_LOG   22

static const ZSTD_customMem counted = {es_mem_take, es_mem_give, NULL};

void es_zstd_free(struct es_zstd *z)
{
    (void)ZSTD_freeCCtx(z->cctx);
    (void)ZSTD_freeDCtx(z->dctx);
    z->cctx = z->dctx = NULL;
}

static int compress_into(ZSTD_CCtx *c, struct es_buf *out, size_t room, int level, const uint8_t *p, size_t n)
{
    size_t rc = ZSTD_CCtx_reset(c, ZSTD_reset_session_and_parameters); /* one that failed is still open */

    if (!ZSTD_isError(rc)) {
        rc = ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level);
    }
    if (!ZSTD_isError(rc) && level > 9) { /* the high levels take more window than any message has */
        rc = ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, WINDOW_LOG);
    }
    if (!ZSTD_isError(rc)) {
        rc = ZSTD_compress2(c, out->p + out->n, room, p, n);
    }
    if (!ZSTD_isError(rc)) {
        out->n += rc;
        return ES_OK;
    }
    return ZSTD_getErrorCode(rc) == ZSTD_error_memory_allocation ? ES_ERR_NOMEM : ES_ERR_LIMIT;
}

int es_zstd_pack(struct es_zstd *z, struct es_buf *out, int level, const uint8_t *p, size_t n)
{
    size_t keep = out->n, head, room;
    int rc;

    if (n < 2 || n > ES_VARINT_MAX) {
        return ES_ERR_LIMIT;
    }
    if (z->cctx == NULL && (z->cctx = ZSTD_createCCtx_advanced(counted)) == NULL) {
        return ES_ERR_NOMEM;
    }
    head = es_varint_len(n);
    /* No room for what would not be shorter: the library then gives up early by itself. */
    if (n <= head + 1) {
        return ES_ERR_LIMIT;
    }
    room = n - head - 1;
    rc = es_buf_reserve(out, n);
    if (rc != ES_OK) {
        return rc;
    }
    out->n += es_varint_put(out->p + out->n, n);
    rc = compress_into(z->cctx, out, room, level, p, n);
    if (rc != ES_OK) {
        out->n = keep;
    }
    if (ZSTD_sizeof_CCtx(z->cctx) > KEEP_CONTEXT) {
        (void)ZSTD_freeCCtx(z->cctx);
        z->cctx = NULL;
    }
    return rc;
}

int es_packed_check(uint64_t flags, struct es_bytes *payload, uint64_t max_message, uint64_t *plain,
                    const char **why)
{
    struct es_cursor c;
    uint64_t size, most;

    if ((flags & ES_FLAG_CRC) != 0) {
        if (payload->n < ES_CHECKSUM_BYTES) {
            *why = "too short for its checksum or its plain size";
            return ES_ERR_PROTOCOL;
        }
        payload->n -= ES_CHECKSUM_BYTES;
    }
    if ((flags & ES_FLAG_ZSTD) == 0) {
        return ES_OK;
    }
    es_cursor_init(&c, payload->p, payload->n);
    if (es_cursor_varint(&c, &size) != ES_OK || size == 0 || es_cursor_left(&c) == 0) {
        *why = "compressed, but without a plain size or bytes";
        return ES_ERR_PROTOCOL;
    }
    most = (uint64_t)es_cursor_left(&c) * ES_ZSTD_RATIO;
    if (most < ES_ZSTD_RATIO_MIN) {
        most = ES_ZSTD_RATIO_MIN;
    }
    if (size > max_message) {
        *why = "a compressed message is larger than max_message";
        return ES_ERR_TOO_LARGE;
    }
    if (size > most) {
        *why = "a compressed message is more than 1000 times its bytes";
        return ES_ERR_TOO_LARGE;
    }
    if (plain != NULL) {
        *plain = size;
    }
    return ES_OK;
}

int es_zstd_unpack(struct es_zstd *z, struct es_buf *out, const struct es_bytes *payload)
{
    struct es_cursor c;
    uint64_t plain;
    size_t n;
    int rc;

    es_cursor_init(&c, payload->p, payload->n);
    if (es_cursor_varint(&c, &plain) != ES_OK || plain > SIZE_MAX / 2) {
        return ES_ERR_PROTOCOL;
    }
    /* One frame and nothing behind it: its blocks' heads are walked, no byte is written. And it says the same
     * size as the protocol when it says one. */
    n = ZSTD_findFrameCompressedSize(c.p, es_cursor_left(&c));
    if (ZSTD_isError(n) || n != es_cursor_left(&c)) {
        return ES_ERR_PROTOCOL;
    }
    if (ZSTD_getFrameContentSize(c.p, n) != plain &&
        ZSTD_getFrameContentSize(c.p, n) != ZSTD_CONTENTSIZE_UNKNOWN) {
        return ES_ERR_PROTOCOL;
    }
    if (z->dctx == NULL && (z->dctx = ZSTD_createDCtx_advanced(counted)) == NULL) {
        return ES_ERR_NOMEM;
    }
    rc = es_buf_reserve(out, (size_t)plain);
    if (rc != ES_OK) {
        return rc;
    }
    n = ZSTD_decompressDCtx(z->dctx, out->p + out->n, (size_t)plain, c.p, es_cursor_left(&c));
    if (ZSTD_isError(n)) {
        return ZSTD_getErrorCode(n) == ZSTD_error_memory_allocation ? ES_ERR_NOMEM : ES_ERR_PROTOCOL;
    }
    if (n != plain) {
        return ES_ERR_PROTOCOL;
    }
    out->n += n;
    return ES_OK;
}
