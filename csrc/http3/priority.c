/* Who goes first (RFC 9218): urgencies as classes of the link. */
#include "internal.h"

static void set(struct es_exchange *x, int urgency)
{
    x->prio = (uint8_t)(ES_PRIO_FIRST + urgency);
    if (x->s != NULL) {
        es_link_priority(x->s, x->prio);
    }
}

/* What the peer wishes, by a field of its request or by PRIORITY_UPDATE, as long as the handler did not say
 * otherwise. */
void es_exchange_prioritize(struct es_exchange *x)
{
    nghttp3_pri pri;

    if (x->urgency < 0 && es_h3_usable(x->h) &&
        nghttp3_conn_get_stream_priority(x->h->nc, &pri, x->id) == 0) {
        set(x, (int)pri.urgency);
    }
}

void es_exchange_priority(struct es_exchange *x, int urgency)
{
    x->urgency = (int8_t)(urgency < 0 ? 0 : urgency > 7 ? 7 : urgency);
    set(x, x->urgency);
}
