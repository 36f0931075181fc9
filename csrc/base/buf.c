#include "buf.h"
#include "err.h"
#include "mem.h"

void es_buf_free(struct es_buf *b)
{
    es_free(b->p);
    b->p = NULL;
    b->n = b->cap = 0;
}

int es_buf_grow(struct es_buf *b, size_t more)
{
    size_t need, cap;
    uint8_t *p;

    if (b->cap - b->n >= more) {
        return ES_OK;
    }
    if (more > SIZE_MAX - b->n) {
        return ES_ERR_NOMEM;
    }
    need = b->n + more;
    /* Doubling keeps appending linear; past 1 MiB half is enough and wastes less. */
    cap = b->cap < (1u << 20) ? b->cap * 2 : b->cap > SIZE_MAX - b->cap / 2 ? need : b->cap + b->cap / 2;
    if (cap < 64) {
        cap = 64;
    }
    if (cap < need) {
        cap = need;
    }
    p = es_realloc(b->p, cap);
    if (p == NULL) {
        return ES_ERR_NOMEM;
    }
    b->p = p;
    b->cap = cap;
    return ES_OK;
}

int es_buf_put(struct es_buf *b, const void *data, size_t n)
{
    int rc;

    if (n == 0) {
        return ES_OK; /* data may be NULL */
    }
    rc = es_buf_reserve(b, n);
    if (rc != ES_OK) {
        return rc;
    }
    memcpy(b->p + b->n, data, n);
    b->n += n;
    return ES_OK;
}

void es_buf_drop(struct es_buf *b, size_t n)
{
    if (n >= b->n) {
        b->n = 0;
        return;
    }
    b->n -= n;
    memmove(b->p, b->p + n, b->n);
}

void es_buf_shrink(struct es_buf *b, size_t keep_cap)
{
    uint8_t *p;

    if (b->cap <= keep_cap || b->n > keep_cap) {
        return;
    }
    if (keep_cap == 0) {
        es_buf_free(b);
        return;
    }
    p = es_realloc(b->p, keep_cap);
    if (p != NULL) { /* else the larger one stays, which is only less thrifty */
        b->p = p;
        b->cap = keep_cap;
    }
}
