/* A free list of fixed-size objects, so that a steady state allocates nothing.
 *
 *   struct es_pool p;
 *   es_pool_init(&p, sizeof(struct es_call), 64);   // at most 64 idle objects are kept
 *   struct es_call *c = es_pool_get(&p);            // zeroed; NULL when out of memory
 *   es_pool_put(&p, c);
 *   es_pool_free(&p);
 */
#ifndef ES_BASE_POOL_H
#define ES_BASE_POOL_H

#include <stddef.h>

struct es_pool {
    void *head;      /* owned: idle objects, linked through their first word */
    size_t size;     /* bytes per object */
    size_t idle;     /* idle objects now */
    size_t max_idle; /* more than this are given back to malloc */
    size_t live;     /* objects out */
};

void es_pool_init(struct es_pool *p, size_t size, size_t max_idle);
void *es_pool_get(struct es_pool *p);
void es_pool_put(struct es_pool *p, void *obj);
void es_pool_free(struct es_pool *p); /* frees the idle objects; those out must have been put back */

#endif
