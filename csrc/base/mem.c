#include "mem.h"
#include <malloc.h>
#include <stdlib.h>

static struct es_mem_stats stats;
static uint64_t fail_in; /* 0: off; 1: the next allocation fails */

static int must_fail(void)
{
    return fail_in != 0 && --fail_in == 0;
}

static void *obtained(void *p)
{
    if (p != NULL) {
        stats.allocs++;
        stats.in_use += malloc_usable_size(p);
    }
    return p;
}

void *es_malloc(size_t n)
{
    if (must_fail()) {
        return NULL;
    }
    return obtained(malloc(n != 0 ? n : 1));
}

void *es_calloc(size_t n, size_t m)
{
    if (must_fail()) {
        return NULL;
    }
    /* calloc itself checks n * m for overflow. */
    return obtained(n != 0 && m != 0 ? calloc(n, m) : calloc(1, 1));
}

void *es_realloc(void *p, size_t n)
{
    size_t before;
    void *q;

    if (p == NULL) {
        return es_malloc(n);
    }
    if (must_fail()) {
        return NULL;
    }
    before = malloc_usable_size(p);
    q = realloc(p, n != 0 ? n : 1);
    if (q == NULL) {
        return NULL;
    }
    /* The old block is gone and a new one is there, even when the address stayed: allocs and frees must
     * balance when everything is released. */
    stats.frees++;
    stats.in_use -= before;
    return obtained(q);
}

void es_free(void *p)
{
    if (p == NULL) {
        return;
    }
    stats.frees++;
    stats.in_use -= malloc_usable_size(p);
    free(p);
}

void *es_mem_take(void *opaque, size_t n)
{
    (void)opaque;
    return es_malloc(n);
}

void *es_mem_take_array(void *opaque, unsigned n, unsigned size)
{
    (void)opaque;
    return es_calloc(n, size);
}

void es_mem_give(void *opaque, void *p)
{
    (void)opaque;
    es_free(p);
}

size_t es_mem_size(const void *p)
{
    return malloc_usable_size((void *)(uintptr_t)p);
}

void es_mem_stats(struct es_mem_stats *out)
{
    *out = stats;
}

void es_mem_fail_nth(uint64_t n)
{
    fail_in = n;
}
