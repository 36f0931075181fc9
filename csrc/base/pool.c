#include "pool.h"
#include "mem.h"
#include <assert.h>
#include <string.h>

void es_pool_init(struct es_pool *p, size_t size, size_t max_idle)
{
    p->head = NULL;
    p->size = size < sizeof(void *) ? sizeof(void *) : size;
    p->idle = 0;
    p->max_idle = max_idle;
    p->live = 0;
}

void *es_pool_get(struct es_pool *p)
{
    void *obj = p->head;

    if (obj != NULL) {
        memcpy(&p->head, obj, sizeof(p->head));
        p->idle--;
        memset(obj, 0, p->size);
    } else {
        obj = es_calloc(1, p->size);
        if (obj == NULL) {
            return NULL;
        }
    }
    p->live++;
    return obj;
}

void es_pool_put(struct es_pool *p, void *obj)
{
    if (obj == NULL) {
        return;
    }
    assert(p->live > 0);
    p->live--;
    if (p->idle >= p->max_idle) {
        es_free(obj);
        return;
    }
    memcpy(obj, &p->head, sizeof(p->head));
    p->head = obj;
    p->idle++;
}

void es_pool_free(struct es_pool *p)
{
    while (p->head != NULL) {
        void *obj = p->head;
        memcpy(&p->head, obj, sizeof(p->head));
        es_free(obj);
    }
    p->idle = 0;
}
