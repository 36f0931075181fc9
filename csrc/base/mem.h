/* Every allocation of the core goes through here, so that it can be counted and made to fail in tests.
 *
 * Freed blocks are given back to malloc; fixed-size hot objects live in an es_pool (pool.h) instead.
 * The counters are per process and not atomic: the core is single-threaded per Lua state, and a second
 * state in another thread only makes the numbers approximate.
 */
#ifndef ES_BASE_MEM_H
#define ES_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

struct es_mem_stats {
    uint64_t allocs; /* calls of es_malloc, es_calloc, es_realloc that obtained memory, since the start */
    uint64_t frees;  /* blocks given back, since the start */
    uint64_t in_use; /* bytes held now (malloc_usable_size) */
};

void *es_malloc(size_t n);           /* NULL when out of memory; n = 0 gives a unique pointer */
void *es_calloc(size_t n, size_t m); /* zeroed; overflow of n * m gives NULL */
void *es_realloc(void *p, size_t n); /* NULL leaves p as it is */
void es_free(void *p);               /* NULL is fine */
size_t es_mem_size(const void *p);   /* bytes that a block holds, as malloc rounds them; NULL: 0 */

/* The same in the forms that zstd and zlib ask for; `opaque` is not used. */
void *es_mem_take(void *opaque, size_t n);
void *es_mem_take_array(void *opaque, unsigned n, unsigned size); /* zeroed */
void es_mem_give(void *opaque, void *p);

void es_mem_stats(struct es_mem_stats *out);

/* Tests only: the n-th allocation from now fails (1 = the next), every later one works. 0 switches it off. */
void es_mem_fail_nth(uint64_t n);

#endif
