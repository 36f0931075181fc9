/* Records in the queue: an object stands in it once, and says in bits what happened. */
#include "internal.h"

void es_h3_tell(struct es_h3 *h, unsigned bits)
{
    h->bits |= bits;
    if (h->queued || h->config->events == NULL) {
        return;
    }
    if (es_evq_push(h->config->events, ES_H3_EVENT_CONN, h, sizeof(struct es_event)) == NULL) {
        es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
        return;
    }
    h->queued = 1;
    h->refs++;
}

unsigned es_h3_take(struct es_event *ev)
{
    unsigned bits;

    if (ev->type == ES_H3_EVENT_CONN) {
        struct es_h3 *h = ev->owner;

        bits = h->bits;
        h->bits = 0;
        h->queued = 0; /* what happens from here on is another record */
        return bits;
    }
    struct es_exchange *x = ev->owner;
    bits = x->released ? 0 : x->bits;
    x->bits = 0;
    x->queued = 0;
    return bits;
}

void es_h3_pop(struct es_evq *q)
{
    struct es_event *ev = es_evq_peek(q);
    void *owner = ev->owner;
    int conn = ev->type == ES_H3_EVENT_CONN;

    es_evq_pop(q);
    if (conn) {
        es_h3_unref(owner);
    } else {
        es_exchange_unref(owner);
    }
}

void es_h3_drop(struct es_event *ev)
{
    unsigned bits = es_h3_take(ev);

    if (ev->type == ES_H3_EVENT_EXCHANGE && (bits & ES_EX_REQUEST) != 0) {
        es_exchange_release(ev->owner);
    }
}
