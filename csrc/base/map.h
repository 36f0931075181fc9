/* Hash maps with open addressing, seeded (SipHash-2-4 for bytes) against flooding with chosen keys.
 *
 * es_map: bytes -> pointer, the key is copied (connection ids, method names). es_idmap: uint64 -> pointer
 * (streams, calls, coroutines).
 */
#ifndef ES_BASE_MAP_H
#define ES_BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct es_map_slot;
struct es_map {
    struct es_map_slot *slot; /* owned */
    size_t n, used, cap;      /* entries, entries + tombstones, slots (a power of two) */
    uint8_t seed[16];
};

void es_map_init(struct es_map *m, const uint8_t seed[16]);
void es_map_free(struct es_map *m);                                    /* values are the caller's */
void *es_map_get(const struct es_map *m, const void *key, size_t len); /* NULL: absent */
int es_map_put(struct es_map *m, const void *key, size_t len,
               void *value); /* replaces; 0, ES_ERR_NOMEM; value not NULL */
void *es_map_remove(struct es_map *m, const void *key, size_t len); /* the value, NULL: absent */
/* it starts at 0; 1 and the next entry, 0 at the end. Removing the entry just returned is allowed. */
int es_map_next(const struct es_map *m, size_t *it, const void **key, size_t *len, void **value);

uint64_t es_siphash(const uint8_t seed[16], const void *data, size_t n);

struct es_idmap {
    uint64_t *keys; /* owned; parallel to values */
    void **values;  /* owned; NULL: free */
    size_t n, cap;
    uint64_t seed;
};

void es_idmap_init(struct es_idmap *m, uint64_t seed);
void es_idmap_free(struct es_idmap *m);
void *es_idmap_get(const struct es_idmap *m, uint64_t key);
int es_idmap_put(struct es_idmap *m, uint64_t key, void *value);
void *es_idmap_remove(struct es_idmap *m, uint64_t key);
int es_idmap_next(const struct es_idmap *m, size_t *it, uint64_t *key, void **value);

#endif
