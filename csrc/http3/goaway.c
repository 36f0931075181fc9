/* The end of a connection in good order (RFC 9114 5.2): no new requests, the last ones are answered. */
#include "internal.h"

int es_h3_is_idle(const struct es_h3 *h)
{
    return h->in_flight == 0 && es_list_empty(&h->exchanges);
}

void es_h3_check_idle(struct es_h3 *h)
{
    if (h->goaway > 1 && es_h3_is_idle(h) && !h->closed) {
        es_h3_tell(h, ES_H3_IDLE);
    }
}

int es_h3_say_goaway(struct es_h3 *h)
{
    int rc = 0;

    if (h->bound && h->goaway != 0) {
        rc = h->goaway == 1 ? nghttp3_conn_submit_shutdown_notice(h->nc) : nghttp3_conn_shutdown(h->nc);
    }
    if (rc != 0) {
        es_h3_fail(h, rc);
        return ES_ERR_NOMEM;
    }
    return 0;
}

int es_h3_goaway(struct es_h3 *h, int final)
{
    unsigned level = final ? 2 : h->server;

    if (!es_h3_usable(h)) {
        return ES_ERR_CLOSED;
    }
    if (h->goaway < level) {
        h->goaway = level & 3;
        if (es_h3_say_goaway(h) != 0) {
            return ES_ERR_NOMEM;
        }
        if (h->goaway == 2) {
            es_h3_stop_resting(h);
        }
        es_h3_check_idle(h);
    }
    es_h3_pump(h);
    return 0;
}
