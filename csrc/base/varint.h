/* QUIC variable-length integers (RFC 9000 section 16): 62 bits in 1, 2, 4 or 8 bytes. Any length is accepted,
 * the shortest is written. The one-byte cases, by far the most frequent, are inline.
 */
#ifndef ES_BASE_VARINT_H
#define ES_BASE_VARINT_H

#include <stddef.h>
#include <stdint.h>

#define ES_VARINT_MAX ((UINT64_C(1) << 62) - 1)

/* The general cases of the two below. */
size_t es_varint_get_long(const uint8_t *p, size_t n, uint64_t *out);
size_t es_varint_put_long(uint8_t *p, uint64_t v);

/* Bytes read (1, 2, 4, 8), or 0 when fewer are there than the first byte asks for. */
static inline size_t es_varint_get(const uint8_t *p, size_t n, uint64_t *out)
{
    if (n != 0 && p[0] < 0x40) {
        *out = p[0];
        return 1;
    }
    return es_varint_get_long(p, n, out);
}

/* 1, 2, 4, 8; v <= ES_VARINT_MAX */
static inline size_t es_varint_len(uint64_t v)
{
    return v < 0x40 ? 1 : v < 0x4000 ? 2 : v < 0x40000000 ? 4 : 8;
}

/* p has room for es_varint_len(v) bytes, which is returned; v <= ES_VARINT_MAX */
static inline size_t es_varint_put(uint8_t *p, uint64_t v)
{
    if (v < 0x40) {
        p[0] = (uint8_t)v;
        return 1;
    }
    return es_varint_put_long(p, v);
}

#endif
