#include "map.h"
#include "err.h"
#include "mem.h"
#include <string.h>

/* ---- SipHash-2-4 (Aumasson, Bernstein) ---- */

static uint64_t load64(const uint8_t *p)
{
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

static inline uint64_t rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] = rotl(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] = rotl(v[2], 32);
}

uint64_t es_siphash(const uint8_t seed[16], const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t k0 = load64(seed), k1 = load64(seed + 8), m;
    uint64_t v[4] = {k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                     k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573)};
    uint64_t last = (uint64_t)n << 56;

    for (; n >= 8; p += 8, n -= 8) {
        m = load64(p);
        v[3] ^= m;
        sip_round(v);
        sip_round(v);
        v[0] ^= m;
    }
    for (size_t i = 0; i < n; i++) {
        last |= (uint64_t)p[i] << (8 * i);
    }
    v[3] ^= last;
    sip_round(v);
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- bytes -> pointer: linear probing with tombstones ---- */

#define INLINE_KEY 24 /* connection ids (20 bytes) and most names need no block of their own */
#define MIN_CAP    16

struct es_map_slot {
    uint64_t hash;
    void *value; /* the caller's; NULL: no entry */
    uint32_t len;
    uint32_t tombstone; /* value NULL: 1 = something was here, keep probing */
    union {
        uint8_t bytes[INLINE_KEY];
        uint8_t *ptr; /* owned, when len > INLINE_KEY */
    } key;
};

static const uint8_t *slot_key(const struct es_map_slot *s)
{
    return s->len > INLINE_KEY ? s->key.ptr : s->key.bytes;
}

void es_map_init(struct es_map *m, const uint8_t seed[16])
{
    m->slot = NULL;
    m->n = m->used = m->cap = 0;
    memcpy(m->seed, seed, sizeof(m->seed));
}

void es_map_free(struct es_map *m)
{
    for (size_t i = 0; i < m->cap; i++) {
        if (m->slot[i].value != NULL && m->slot[i].len > INLINE_KEY) {
            es_free(m->slot[i].key.ptr);
        }
    }
    es_free(m->slot);
    m->slot = NULL;
    m->n = m->used = m->cap = 0;
}

static struct es_map_slot *find(const struct es_map *m, uint64_t hash, const void *key, size_t len)
{
    size_t mask = m->cap - 1;

    if (m->n == 0) {
        return NULL;
    }
    for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
        struct es_map_slot *s = &m->slot[i];
        if (s->value == NULL) {
            if (!s->tombstone) {
                return NULL;
            }
        } else if (s->hash == hash && s->len == len && (len == 0 || memcmp(slot_key(s), key, len) == 0)) {
            return s;
        }
    }
}

void *es_map_get(const struct es_map *m, const void *key, size_t len)
{
    struct es_map_slot *s;

    if (m->n == 0) {
        return NULL;
    }
    s = find(m, es_siphash(m->seed, key, len), key, len);
    return s != NULL ? s->value : NULL;
}

static struct es_map_slot *free_slot(struct es_map_slot *slot, size_t cap, uint64_t hash)
{
    size_t i = (size_t)hash & (cap - 1);

    while (slot[i].value != NULL) {
        i = (i + 1) & (cap - 1);
    }
    return &slot[i];
}

/* Room for one more entry, at most three quarters full; drops the tombstones on the way. */
static int make_room(struct es_map *m)
{
    size_t cap = MIN_CAP;
    struct es_map_slot *slot;

    if (m->cap != 0 && m->used + 1 <= m->cap / 4 * 3) {
        return ES_OK;
    }
    while ((m->n + 1) * 2 > cap) {
        cap *= 2;
    }
    slot = es_calloc(cap, sizeof(*slot));
    if (slot == NULL) {
        return ES_ERR_NOMEM;
    }
    for (size_t i = 0; i < m->cap; i++) {
        if (m->slot[i].value != NULL) {
            *free_slot(slot, cap, m->slot[i].hash) = m->slot[i];
        }
    }
    es_free(m->slot);
    m->slot = slot;
    m->cap = cap;
    m->used = m->n;
    return ES_OK;
}

int es_map_put(struct es_map *m, const void *key, size_t len, void *value)
{
    uint64_t hash = es_siphash(m->seed, key, len);
    struct es_map_slot *s;
    uint8_t *copy = NULL;
    int rc;

    if (value == NULL || len > UINT32_MAX) {
        return ES_ERR_INVAL;
    }
    s = find(m, hash, key, len);
    if (s != NULL) {
        s->value = value;
        return ES_OK;
    }
    rc = make_room(m);
    if (rc != ES_OK) {
        return rc;
    }
    if (len > INLINE_KEY) {
        copy = es_malloc(len);
        if (copy == NULL) {
            return ES_ERR_NOMEM;
        }
        memcpy(copy, key, len);
    }
    s = free_slot(m->slot, m->cap, hash);
    if (!s->tombstone) {
        m->used++;
    }
    s->hash = hash;
    s->value = value;
    s->len = (uint32_t)len;
    s->tombstone = 0;
    if (copy != NULL) {
        s->key.ptr = copy;
    } else if (len > 0) {
        memcpy(s->key.bytes, key, len);
    }
    m->n++;
    return ES_OK;
}

void *es_map_remove(struct es_map *m, const void *key, size_t len)
{
    struct es_map_slot *s;
    void *value;
    size_t mask = m->cap - 1, i;

    if (m->n == 0) {
        return NULL;
    }
    s = find(m, es_siphash(m->seed, key, len), key, len);
    if (s == NULL) {
        return NULL;
    }
    value = s->value;
    if (s->len > INLINE_KEY) {
        es_free(s->key.ptr);
    }
    s->value = NULL;
    s->tombstone = 1;
    m->n--;
    /* At the end of a run tombstones serve nobody: with this, names that come and go (connection ids) seldom
     * cause a rebuild. */
    i = (size_t)(s - m->slot);
    if (m->slot[(i + 1) & mask].value == NULL && !m->slot[(i + 1) & mask].tombstone) {
        while (m->slot[i].value == NULL && m->slot[i].tombstone) {
            m->slot[i].tombstone = 0;
            m->used--;
            i = (i - 1) & mask;
        }
    }
    return value;
}

int es_map_next(const struct es_map *m, size_t *it, const void **key, size_t *len, void **value)
{
    for (size_t i = *it; i < m->cap; i++) {
        const struct es_map_slot *s = &m->slot[i];
        if (s->value == NULL) {
            continue;
        }
        *it = i + 1;
        if (key != NULL) {
            *key = slot_key(s);
        }
        if (len != NULL) {
            *len = s->len;
        }
        if (value != NULL) {
            *value = s->value;
        }
        return 1;
    }
    *it = m->cap;
    return 0;
}
