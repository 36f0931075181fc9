/* What the flags ZSTD and CRC of a frame do to its bytes (docs/PROTOCOL.md section 11): zstd one shot per
 * payload, and CRC-32C of a body. Pure functions on bytes; memory only in es_zstd and in the es_buf that is
 * filled.
 *
 * A compressed payload is `v plain size` and exactly one zstd frame (RFC 8878) without a dictionary. Checking
 * comes before undoing: es_packed_check() believes nothing and allocates nothing, so a bomb costs no more
 * than its bytes. Undoing can wait until somebody wants the plain bytes; then they are bounded by the plain
 * size that was checked.
 */
#ifndef ES_FRAMING_COMPRESS_H
#define ES_FRAMING_COMPRESS_H

#include <stddef.h>
#include <stdint.h>
#include "../base/buf.h"
#include "frame.h"

#define ES_CHECKSUM_BYTES 4
#define ES_ZSTD_RATIO     1000  /* plain bytes for each compressed one, ... */
#define ES_ZSTD_RATIO_MIN 65536 /* ... and this many in any case */
#define ES_ZSTD_LEVEL_MIN 1
#define ES_ZSTD_LEVEL_MAX 19
#define ES_ZSTD_LEVEL     3    /* what is used unless told otherwise */
#define ES_ZSTD_THRESHOLD 1024 /* smaller payloads are not worth the time */

/* CRC-32C (Castagnoli, RFC 3720 appendix B.4) of n bytes that follow those whose checksum is `crc`; 0 to
 * begin. Uses the processor's instruction where there is one. */
uint32_t es_crc32c(uint32_t crc, const uint8_t *p, size_t n);
/* The same with tables, for comparison. */
uint32_t es_crc32c_portable(uint32_t crc, const uint8_t *p, size_t n);

/* The flags of a body, read without decoding the rest. 0 when it is too short to have any. */
uint64_t es_body_flags(const uint8_t *body, size_t len);
/* 1: the last four bytes of the body are the checksum of those before them. */
int es_checksum_right(const uint8_t *body, size_t len);
void es_checksum_put(uint8_t out[ES_CHECKSUM_BYTES], uint32_t crc);

/* A payload as a decoder leaves it, of a frame with these flags. Cuts the checksum off (which was compared
 * before), and checks a compressed payload's plain size, which may be NULL, and gives it out.
 * ES_ERR_TOO_LARGE: over max_message or over the ratio; ES_ERR_PROTOCOL: no plain size, or nothing was
 * compressed. *why as everywhere. */
int es_packed_check(uint64_t flags, struct es_bytes *payload, uint64_t max_message, uint64_t *plain,
                    const char **why);

/* Contexts of the library, reused so that a message allocates nothing in a steady state. Zeroed is valid. */
struct es_zstd {
    void *cctx, *dctx; /* owned; made at the first use */
};
void es_zstd_free(struct es_zstd *z);
/* Appends `v plain size` and the compressed bytes to `out`. ES_ERR_LIMIT: that would not be shorter, `out` is
 * as before; ES_ERR_NOMEM. level: ES_ZSTD_LEVEL_MIN to ES_ZSTD_LEVEL_MAX. */
int es_zstd_pack(struct es_zstd *z, struct es_buf *out, int level, const uint8_t *p, size_t n);
/* Appends the plain bytes of a payload that es_packed_check() let through. ES_ERR_PROTOCOL: malformed, or of
 * another size than was said; ES_ERR_NOMEM. */
int es_zstd_unpack(struct es_zstd *z, struct es_buf *out, const struct es_bytes *payload);

#endif
