/* A growable byte buffer. Zero-initialised is empty and valid. */
#ifndef ES_BASE_BUF_H
#define ES_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct es_buf {
    uint8_t *p; /* owned */
    size_t n;   /* bytes in use */
    size_t cap;
};

void es_buf_free(struct es_buf *b);             /* leaves it empty and valid */
int es_buf_grow(struct es_buf *b, size_t more); /* room for `more` bytes beyond n: 0 or ES_ERR_NOMEM */
int es_buf_put(struct es_buf *b, const void *data, size_t n); /* 0 or ES_ERR_NOMEM */
void es_buf_drop(struct es_buf *b, size_t n);                 /* the first n bytes */
void es_buf_shrink(struct es_buf *b, size_t keep_cap); /* gives memory back when cap > keep_cap and n fits */

static inline int es_buf_reserve(struct es_buf *b, size_t more)
{
    return b->cap - b->n >= more ? 0 : es_buf_grow(b, more);
}

static inline void es_buf_clear(struct es_buf *b)
{
    b->n = 0;
}

#endif
