/* es_idmap: linear probing without tombstones (the run behind a removed entry moves up), so that ids which
 * come and go for ever (streams, calls) never cause a rebuild. */
#include "map.h"
#include "err.h"
#include "mem.h"
#include <string.h>

#define MIN_CAP  16
#define KEEP_CAP 1024 /* an emptied map larger than this gives its memory back */

/* The iterator packs where the walk began and how far it got into one size_t. */
#define HALF_BITS (sizeof(size_t) * 4)
#define HALF_MAX  (((size_t)1 << HALF_BITS) - 1)

/* A bijection of key ^ seed (the finaliser of splitmix64): without the seed nobody can choose ids that fall
 * into one run. */
static size_t home(const struct es_idmap *m, uint64_t key)
{
    uint64_t x = key ^ m->seed;

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (size_t)(x ^ x >> 31) & (m->cap - 1);
}

void es_idmap_init(struct es_idmap *m, uint64_t seed)
{
    m->keys = NULL;
    m->values = NULL;
    m->n = m->cap = 0;
    m->seed = seed;
}

void es_idmap_free(struct es_idmap *m)
{
    es_free(m->keys);
    es_free(m->values);
    m->keys = NULL;
    m->values = NULL;
    m->n = m->cap = 0;
}

/* The place of key, or the free one where it belongs. There is always a free one. */
static size_t probe(const struct es_idmap *m, uint64_t key)
{
    size_t i = home(m, key);

    while (m->values[i] != NULL && m->keys[i] != key) {
        i = (i + 1) & (m->cap - 1);
    }
    return i;
}

void *es_idmap_get(const struct es_idmap *m, uint64_t key)
{
    return m->n != 0 ? m->values[probe(m, key)] : NULL;
}

static int grow(struct es_idmap *m)
{
    struct es_idmap bigger = *m;

    bigger.cap = m->cap != 0 ? m->cap * 2 : MIN_CAP;
    if (bigger.cap > HALF_MAX / 2) {
        return ES_ERR_NOMEM;
    }
    bigger.keys = es_malloc(bigger.cap * sizeof(*bigger.keys));
    bigger.values = es_calloc(bigger.cap, sizeof(*bigger.values));
    if (bigger.keys == NULL || bigger.values == NULL) {
        es_free(bigger.keys);
        es_free(bigger.values);
        return ES_ERR_NOMEM;
    }
    for (size_t i = 0; i < m->cap; i++) {
        if (m->values[i] != NULL) {
            size_t j = probe(&bigger, m->keys[i]);
            bigger.keys[j] = m->keys[i];
            bigger.values[j] = m->values[i];
        }
    }
    es_free(m->keys);
    es_free(m->values);
    *m = bigger;
    return ES_OK;
}

int es_idmap_put(struct es_idmap *m, uint64_t key, void *value)
{
    size_t i;

    if (value == NULL) {
        return ES_ERR_INVAL;
    }
    if (m->cap != 0) {
        i = probe(m, key);
        if (m->values[i] != NULL) {
            m->values[i] = value;
            return ES_OK;
        }
    }
    if (m->n + 1 > m->cap / 8 * 5) {
        int rc = grow(m);
        if (rc != ES_OK) {
            return rc;
        }
    }
    i = probe(m, key);
    m->keys[i] = key;
    m->values[i] = value;
    m->n++;
    return ES_OK;
}

void *es_idmap_remove(struct es_idmap *m, uint64_t key)
{
    size_t mask = m->cap - 1, hole, i;
    void *value;

    if (m->n == 0) {
        return NULL;
    }
    hole = probe(m, key);
    value = m->values[hole];
    if (value == NULL) {
        return NULL;
    }
    for (i = (hole + 1) & mask; m->values[i] != NULL; i = (i + 1) & mask) {
        /* May it move to the hole? Only if its home is not between the hole and its place. */
        if (((i - home(m, m->keys[i])) & mask) >= ((i - hole) & mask)) {
            m->keys[hole] = m->keys[i];
            m->values[hole] = m->values[i];
            hole = i;
        }
    }
    m->values[hole] = NULL;
    m->n--;
    if (m->n == 0 && m->cap > KEEP_CAP) {
        es_idmap_free(m);
    }
    return value;
}

/* Walks downwards from a free slot, round to it again. Removing an entry moves others only towards lower
 * places and never past a free slot, so those that move were seen already and come to lie where the walk has
 * been. */
int es_idmap_next(const struct es_idmap *m, size_t *it, uint64_t *key, void **value)
{
    size_t start, step;

    if (m->n == 0) {
        return 0;
    }
    if (*it == 0) {
        for (start = 0; m->values[start] != NULL; start++) {
        }
        step = 0;
    } else {
        start = *it >> HALF_BITS;
        step = *it & HALF_MAX;
    }
    while (++step < m->cap) {
        size_t i = (start - step) & (m->cap - 1);
        if (m->values[i] != NULL) {
            *it = start << HALF_BITS | step;
            if (key != NULL) {
                *key = m->keys[i];
            }
            if (value != NULL) {
                *value = m->values[i];
            }
            return 1;
        }
    }
    *it = start << HALF_BITS | HALF_MAX;
    return 0;
}
