/* Early data (0-RTT; RFC 8470): what is sent and read before the end of the handshake. */
#include <string.h>
#include "internal.h"

int es_h3_is_safe(const char *method)
{
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0 || strcmp(method, "OPTIONS") == 0 ||
           strcmp(method, "TRACE") == 0;
}

/* Early data that was not taken is sent again by the link, on streams whose ids may be others when one was
 * given up meanwhile. The library knows them by the old ones: then everything begins anew. */
static int same_streams(struct es_h3 *h)
{
    for (int i = 0; i < H3_OUT; i++) {
        if (h->out[i] == NULL || h->out[i]->id != h->out_id[i]) {
            return 0;
        }
    }
    es_list_foreach(it, &h->exchanges)
    {
        struct es_exchange *x = es_container_of(it, struct es_exchange, all);

        if (x->ours && x->s != NULL && x->s->id != x->id) {
            return 0;
        }
    }
    return 1;
}

static void begin_anew(struct es_h3 *h)
{
    es_list_foreach(it, &h->exchanges)
    {
        struct es_exchange *x = es_container_of(it, struct es_exchange, all);

        if (!x->aborted) {
            es_exchange_abort(x, ES_ERR_CLOSED, ES_H3_REQUEST_REJECTED, 0, 1);
        }
    }
    es_h3_close(h, ES_H3_NO_ERROR, "early data was not taken");
}

int es_h3_early_settled(struct es_h3 *h)
{
    if (!same_streams(h)) {
        begin_anew(h);
        return 0;
    }
    es_list_foreach(it, &h->waiting)
    {
        struct es_exchange *x = es_container_of(it, struct es_exchange, waiting);

        es_list_remove(it);
        es_exchange_begin(x);
    }
    return 1;
}
