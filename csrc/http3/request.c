/* Requests of ours. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

static size_t target_nv(nghttp3_nv *nv, const struct es_h3_target *t)
{
    const char *const names[] = {":method", ":scheme", ":authority", ":path", ":protocol"};
    const char *const values[] = {t->method, t->scheme, t->authority, t->path, t->protocol};
    size_t n = 0;

    for (int i = 0; i < 5; i++) {
        if (values[i] != NULL) {
            es_h3_nv(&nv[n++], names[i], values[i], strlen(values[i]));
        }
    }
    return n;
}

static int is_clean(const char *s)
{
    for (; s != NULL && *s != '\0'; s++) {
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f) {
            return 0;
        }
    }
    return 1;
}

static int check_target(const struct es_h3_target *t)
{
    int connect = t->method != NULL && strcmp(t->method, "CONNECT") == 0 && t->protocol == NULL;

    return t->method != NULL && *t->method != '\0' && t->authority != NULL && *t->authority != '\0' &&
                   connect == (t->scheme == NULL) && connect == (t->path == NULL) && is_clean(t->method) &&
                   is_clean(t->scheme) && is_clean(t->authority) && is_clean(t->path) && is_clean(t->protocol)
               ? 0
               : ES_ERR_INVAL;
}

/* The stream is there, and everything was looked at. */
static int submit(struct es_exchange *x, struct es_h3_out *o, int fin)
{
    struct es_h3 *h = x->h;
    int rc = es_idmap_put(&h->by_id, (uint64_t)x->id, x);

    if (rc == 0) {
        rc = nghttp3_conn_submit_request(h->nc, x->id, o->nv, o->n, fin ? NULL : &es_h3_reader, NULL);
        if (rc == NGHTTP3_ERR_NOMEM) {
            es_h3_fail(h, rc);
        }
        rc = rc == 0 ? 0 : rc == NGHTTP3_ERR_CONN_CLOSING ? ES_ERR_CLOSED : ES_ERR_NOMEM;
    }
    if (rc != 0) {
        es_idmap_remove(&h->by_id, (uint64_t)x->id);
        es_link_stop(x->s, ES_H3_REQUEST_CANCELLED);
        es_link_reset(x->s, ES_H3_REQUEST_CANCELLED);
        x->s->user = NULL;
        return rc;
    }
    es_list_push(&h->exchanges, &x->all);
    x->told = 1;
    x->refs++; /* the binding's */
    h->in_flight++;
    es_h3_pump(h);
    if (fin) {
        es_exchange_ended(x);
    }
    return 0;
}

int es_h3_request(struct es_h3 *h, const struct es_h3_target *t, const struct es_h3_field *fields, size_t n,
                  int fin, void *user, struct es_exchange **out)
{
    struct es_exchange *x;
    struct es_h3_out o;
    uint64_t length;
    int rc;

    if (h->server) {
        return ES_ERR_UNSUPPORTED;
    }
    if (!es_h3_usable(h) || h->peer_goaway || h->goaway != 0) {
        return ES_ERR_CLOSED;
    }
    if (!h->bound) {
        return ES_ERR_AGAIN;
    }
    if (!h->established && (t->method == NULL || t->protocol != NULL || !es_h3_is_safe(t->method))) {
        return ES_ERR_AGAIN;
    }
    if (check_target(t) != 0 || es_h3_content_length(fields, n, &length) != 0 ||
        (fin && length != UINT64_MAX && length != 0)) {
        return ES_ERR_INVAL;
    }
    x = es_exchange_new(h, 1);
    rc = x == NULL ? ES_ERR_NOMEM : es_h3_out_begin(&o, n + 5);
    if (rc != 0) {
        goto fail;
    }
    o.n = target_nv(o.nv, t);
    rc = es_h3_fields_out(o.nv + o.n, fields, n);
    o.n += n;
    if (rc == 0) {
        rc = es_link_open(h->link, ES_DIR_BIDI, x, &x->s);
        h->wants_credit |= rc == ES_ERR_LIMIT;
    }
    if (rc == 0) {
        x->id = x->s->id;
        x->user = user;
        x->early = !h->established;
        x->is_head = 0; /* of answers that we write */
        x->tx_left = fin ? UINT64_MAX : length;
        rc = submit(x, &o, fin);
    }
    es_h3_out_end(&o);
    if (rc == 0) {
        *out = x;
        return 0;
    }
fail:
    if (x != NULL) {
        x->s = NULL;
        es_exchange_unref(x);
    }
    return rc;
}
