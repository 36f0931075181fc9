#include "varint.h"
#include <assert.h>

size_t es_varint_get_long(const uint8_t *p, size_t n, uint64_t *out)
{
    size_t len;
    uint64_t v;

    if (n == 0) {
        return 0;
    }
    len = (size_t)1 << (p[0] >> 6);
    if (n < len) {
        return 0;
    }
    if (len == 2) { /* most of them */
        *out = (uint64_t)(p[0] & 0x3f) << 8 | p[1];
        return 2;
    }
    v = p[0] & 0x3f;
    for (size_t i = 1; i < len; i++) {
        v = v << 8 | p[i];
    }
    *out = v;
    return len;
}

size_t es_varint_put_long(uint8_t *p, uint64_t v)
{
    size_t len = es_varint_len(v);

    assert(v <= ES_VARINT_MAX);
    for (size_t i = len; i-- > 0; v >>= 8) {
        p[i] = (uint8_t)v;
    }
    /* The two high bits of the first byte are log2 of the length. */
    p[0] |= (uint8_t)((len == 1 ? 0 : len == 2 ? 1 : len == 4 ? 2 : 3) << 6);
    return len;
}
