/* Names and metadata. */
#include "cursor.h"

/* Bit 0: may stand in a name; bit 1: may stand in a metadata key (no upper case). */
static const uint8_t alphabet[256] = {
    ['-'] = 3, ['.'] = 3, ['/'] = 3, [':'] = 3, ['_'] = 3, ['0'] = 3, ['1'] = 3, ['2'] = 3, ['3'] = 3,
    ['4'] = 3, ['5'] = 3, ['6'] = 3, ['7'] = 3, ['8'] = 3, ['9'] = 3, ['A'] = 1, ['B'] = 1, ['C'] = 1,
    ['D'] = 1, ['E'] = 1, ['F'] = 1, ['G'] = 1, ['H'] = 1, ['I'] = 1, ['J'] = 1, ['K'] = 1, ['L'] = 1,
    ['M'] = 1, ['N'] = 1, ['O'] = 1, ['P'] = 1, ['Q'] = 1, ['R'] = 1, ['S'] = 1, ['T'] = 1, ['U'] = 1,
    ['V'] = 1, ['W'] = 1, ['X'] = 1, ['Y'] = 1, ['Z'] = 1, ['a'] = 3, ['b'] = 3, ['c'] = 3, ['d'] = 3,
    ['e'] = 3, ['f'] = 3, ['g'] = 3, ['h'] = 3, ['i'] = 3, ['j'] = 3, ['k'] = 3, ['l'] = 3, ['m'] = 3,
    ['n'] = 3, ['o'] = 3, ['p'] = 3, ['q'] = 3, ['r'] = 3, ['s'] = 3, ['t'] = 3, ['u'] = 3, ['v'] = 3,
    ['w'] = 3, ['x'] = 3, ['y'] = 3, ['z'] = 3};

static inline int all_in(const uint8_t *p, size_t n, unsigned bit)
{
    unsigned ok = bit;

    for (size_t i = 0; i < n; i++) {
        ok &= alphabet[p[i]];
    }
    return ok != 0;
}

int es_name_valid(const char *name, size_t n)
{
    return n >= 1 && n <= ES_MAX_NAME && all_in((const uint8_t *)name, n, 1);
}

int es_cursor_name(struct es_cursor *c, struct es_bytes *out)
{
    if (es_cursor_bytes(c, out) != ES_OK) {
        return ES_ERR_PROTOCOL;
    }
    if (out->n > ES_MAX_NAME) {
        return es_cursor_fail(c, ES_ERR_TOO_LARGE, "a name is longer than 256 bytes");
    }
    if (out->n == 0 || !all_in(out->p, out->n, 1)) {
        return es_cursor_fail(c, ES_ERR_PROTOCOL, "a name is empty or has other bytes than [A-Za-z0-9._/:-]");
    }
    return ES_OK;
}

int es_kv_next(const struct es_kv *kv, size_t *offset, struct es_bytes *key, struct es_bytes *value)
{
    struct es_cursor c;

    if (*offset >= kv->n) {
        return 0;
    }
    es_cursor_init(&c, kv->p + *offset, kv->n - *offset);
    if (es_cursor_bytes(&c, key) != ES_OK || es_cursor_bytes(&c, value) != ES_OK) {
        *offset = kv->n;
        return 0;
    }
    *offset = (size_t)(c.p - kv->p);
    return 1;
}

/* One bit of 64 for a key: two keys that are equal have the same bit, so a bit that is new needs no search.
 */
static uint64_t key_bit(const uint8_t *p, size_t n)
{
    uint32_t h = (uint32_t)n;

    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * UINT32_C(0x01000193);
    }
    return UINT64_C(1) << (h >> 26);
}

static int has_key(const uint8_t *pairs, size_t n, const uint8_t *key, size_t key_len)
{
    struct es_kv kv = {pairs, n, 0};
    struct es_bytes k, v;
    size_t offset = 0;

    while (es_kv_next(&kv, &offset, &k, &v)) {
        if (k.n == key_len && memcmp(k.p, key, key_len) == 0) {
            return 1;
        }
    }
    return 0;
}

int es_cursor_kv_some(struct es_cursor *c, struct es_kv *out)
{
    uint64_t count, seen = 0;
    const uint8_t *begin;

    if (es_cursor_varint(c, &count) != ES_OK || count > es_cursor_left(c) / 2) {
        return ES_ERR_PROTOCOL;
    }
    if (count > ES_MAX_META_PAIRS) {
        return es_cursor_fail(c, ES_ERR_TOO_LARGE, "more than 64 metadata pairs");
    }
    begin = c->p;
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *pair = c->p;
        struct es_bytes key, value;
        uint64_t bit;

        if (es_cursor_bytes(c, &key) != ES_OK || es_cursor_bytes(c, &value) != ES_OK) {
            return ES_ERR_PROTOCOL;
        }
        if (key.n > ES_MAX_META_KEY) {
            return es_cursor_fail(c, ES_ERR_TOO_LARGE, "a metadata key is longer than 64 bytes");
        }
        if (key.n == 0 || !all_in(key.p, key.n, 2)) {
            return es_cursor_fail(c, ES_ERR_PROTOCOL,
                                  "a metadata key is empty or has other bytes than [a-z0-9._/:-]");
        }
        if ((size_t)(c->p - begin) > ES_MAX_META_BYTES) {
            return es_cursor_fail(c, ES_ERR_TOO_LARGE, "more than 16 KiB of metadata");
        }
        bit = key_bit(key.p, key.n);
        if ((seen & bit) != 0 && has_key(begin, (size_t)(pair - begin), key.p, key.n)) {
            return es_cursor_fail(c, ES_ERR_PROTOCOL, "a metadata key stands there twice");
        }
        seen |= bit;
    }
    out->p = begin;
    out->n = (size_t)(c->p - begin);
    out->count = (size_t)count;
    return ES_OK;
}

int es_kv_decode(struct es_kv *out, const uint8_t *p, size_t n, size_t *used, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    rc = es_cursor_kv(&c, out);
    if (rc != ES_OK) {
        if (why != NULL) {
            *why = c.why;
        }
        return rc;
    }
    if (used != NULL) {
        *used = (size_t)(c.p - p);
    }
    return ES_OK;
}

int es_kv_add(struct es_buf *pairs, size_t *count, const void *key, size_t key_len, const void *value,
              size_t value_len)
{
    size_t need;
    int rc;

    if (key_len == 0 || (key_len <= ES_MAX_META_KEY && !all_in(key, key_len, 2))) {
        return ES_ERR_INVAL;
    }
    if (key_len > ES_MAX_META_KEY || value_len > ES_MAX_META_BYTES || *count >= ES_MAX_META_PAIRS) {
        return ES_ERR_TOO_LARGE;
    }
    need = es_varint_len(key_len) + key_len + es_varint_len(value_len) + value_len;
    if (pairs->n + need > ES_MAX_META_BYTES) {
        return ES_ERR_TOO_LARGE;
    }
    if (has_key(pairs->p, pairs->n, key, key_len)) {
        return ES_ERR_INVAL;
    }
    rc = es_buf_reserve(pairs, need);
    if (rc != ES_OK) {
        return rc;
    }
    pairs->n += es_varint_put(pairs->p + pairs->n, key_len);
    memcpy(pairs->p + pairs->n, key, key_len);
    pairs->n += key_len;
    pairs->n += es_varint_put(pairs->p + pairs->n, value_len);
    if (value_len != 0) {
        memcpy(pairs->p + pairs->n, value, value_len);
        pairs->n += value_len;
    }
    ++*count;
    return ES_OK;
}

int es_kv_encode(struct es_buf *out, const struct es_kv *kv)
{
    int rc;

    if (kv->count > ES_MAX_META_PAIRS || kv->n > ES_MAX_META_BYTES) {
        return ES_ERR_INVAL;
    }
    rc = es_buf_reserve(out, es_kv_size(kv));
    if (rc != ES_OK) {
        return rc;
    }
    out->n += es_varint_put(out->p + out->n, kv->count);
    return es_buf_put(out, kv->p, kv->n);
}
