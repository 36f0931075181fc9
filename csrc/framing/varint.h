/* QUIC variable-length integers (RFC 9000 section 16): 62 bits in 1, 2, 4 or 8 bytes. Any length is accepted,
 * the shortest is written. */
#ifndef ES_FRAMING_VARINT_H
#define ES_FRAMING_VARINT_H

#include <stddef.h>
#include <stdint.h>

#define ES_VARINT_MAX ((UINT64_C(1) << 62) - 1)

/* Bytes read (1, 2, 4, 8), or 0 when fewer are there than the first byte asks for. */
size_t es_varint_get(const uint8_t *p, size_t n, uint64_t *out);
size_t es_varint_len(uint64_t v);             /* 1, 2, 4, 8; v <= ES_VARINT_MAX */
size_t es_varint_put(uint8_t *p, uint64_t v); /* p has room for 8; returns the length */

#endif
