/* Capsules: what is said on the CONNECT stream of a session. One is of use, the others are passed over
 * however long they are. */
#include <string.h>
#include "../base/varint.h"
#include "wt.h"

/* Text of a peer for people: without control characters, cut where a character ends. */
static void copy_reason(char out[256], const uint8_t *p, size_t n)
{
    size_t len = n < 255 ? n : 255;

    while (len < n && len > 0 && (p[len] & 0xc0) == 0x80) {
        len--;
    }
    for (size_t i = 0; i < len; i++) {
        out[i] = (char)(p[i] < ' ' || p[i] == 0x7f ? '?' : p[i]);
    }
    out[len] = '\0';
}

static void close_came(struct wt_capsules *c, const uint8_t *p, size_t n)
{
    c->closed = 1;
    c->code = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    copy_reason(c->reason, p + 4, n - 4);
    es_buf_free(&c->part);
}

/* Type and length are in `part`? Then what is to be done with the rest. */
static int look(struct wt_capsules *c)
{
    uint64_t type, length;
    size_t a = es_varint_get(c->part.p, c->part.n, &type);
    size_t b = a != 0 ? es_varint_get(c->part.p + a, c->part.n - a, &length) : 0;

    if (b == 0) {
        return 0;
    }
    if (type != WT_CLOSE) {
        c->skip = length;
        es_buf_clear(&c->part);
        return 0;
    }
    if (length < 4 || length > 4 + WT_MAX_REASON) {
        return ES_ERR_PROTOCOL;
    }
    if (c->part.n - a - b == length) {
        close_came(c, c->part.p + a + b, (size_t)length);
    }
    return 0;
}

int wt_capsules_feed(struct wt_capsules *c, const uint8_t *p, size_t n)
{
    int rc = 0;

    while (n > 0 && rc == 0) {
        if (c->closed) { /* nothing may follow */
            return ES_ERR_PROTOCOL;
        }
        if (c->skip > 0) {
            size_t k = n < c->skip ? n : (size_t)c->skip;

            c->skip -= k;
            p += k;
            n -= k;
            continue;
        }
        rc = es_buf_put(&c->part, p++, 1); /* a kilobyte at most, once in the life of a session */
        n--;
        if (rc == 0) {
            rc = look(c);
        }
    }
    return rc;
}

int wt_capsules_whole(const struct wt_capsules *c)
{
    return c->skip == 0 && c->part.n == 0;
}

size_t wt_capsule_close(uint8_t out[16 + WT_MAX_REASON], uint32_t code, const char *reason)
{
    size_t len = strlen(reason), n;

    if (len > WT_MAX_REASON) {
        len = WT_MAX_REASON;
        while (len > 0 && ((unsigned char)reason[len] & 0xc0) == 0x80) {
            len--;
        }
    }
    n = es_varint_put(out, WT_CLOSE);
    n += es_varint_put(out + n, 4 + len);
    for (int shift = 24; shift >= 0; shift -= 8) {
        out[n++] = (uint8_t)(code >> shift);
    }
    memcpy(out + n, reason, len);
    return n + len;
}
