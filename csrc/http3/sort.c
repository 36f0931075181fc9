/* Two-way streams of the peer: a request of HTTP/3, or a stream of a WebTransport session? The first integer
 * says it, and may come in pieces. */
#include "../base/mem.h"
#include "../base/varint.h"
#include "wt.h"

enum { MORE, REQUEST, SESSION };

/* Bytes that are needed to tell are moved to k; what a request begins with mostly stays where it is. */
static int read_prefix(struct es_h3_prefix *k, const uint8_t **p, size_t *n, uint64_t *session)
{
    uint64_t type;

    if (k->n == 0 && es_varint_get(*p, *n, &type) != 0 && type != WT_BIDI) {
        return REQUEST;
    }
    while (*n > 0) {
        size_t a;

        k->b[k->n++] = *(*p)++;
        (*n)--;
        a = es_varint_get(k->b, k->n, &type);
        if (a != 0 && type != WT_BIDI) {
            return REQUEST;
        }
        if (a != 0 && es_varint_get(k->b + a, k->n - a, session) != 0) {
            return SESSION;
        }
    }
    return MORE;
}

int es_h3_fresh(struct es_h3 *h, struct es_link_stream *s)
{
    struct h3_fresh *f = es_calloc(1, sizeof *f);

    if (f == NULL) {
        return ES_ERR_NOMEM;
    }
    f->any.kind = H3_FRESH;
    es_list_push(&h->fresh, &f->all);
    s->user = f;
    return 0;
}

void es_h3_fresh_del(struct h3_fresh *f)
{
    es_list_remove(&f->all);
    es_free(f);
}

/* The stream is no request (any more). */
static void forget(struct es_h3 *h, struct es_link_stream *s)
{
    struct es_exchange *x = es_exchange_of(s);

    if (x != NULL) {
        es_exchange_detach(x);
        /* The library has heard of it at most in a PRIORITY_UPDATE that came first. */
        (void)nghttp3_conn_close_stream(h->nc, s->id, ES_H3_NO_ERROR);
    } else {
        es_h3_fresh_del(s->user);
    }
    s->user = NULL;
}

enum h3_sorted es_h3_sort(struct es_h3 *h, struct es_link_stream *s, const uint8_t **p, size_t *n, int fin,
                          struct es_h3_prefix *kept)
{
    struct es_exchange *x = es_exchange_of(s);
    struct es_h3_prefix *k = x != NULL ? &x->prefix : &((struct h3_fresh *)s->user)->prefix;
    uint64_t session = 0;

    switch (read_prefix(k, p, n, &session)) {
    case SESSION:
        es_link_credit(s, k->n);
        forget(h, s);
        es_wt_stream_came(h, s, session);
        return H3_TAKEN;
    case MORE:
        if (!fin) {
            return H3_MORE;
        }
        break;
    default:
        break;
    }
    *kept = *k;
    if (x != NULL) {
        x->sorted = 1;
        return H3_OURS;
    }
    forget(h, s);
    es_h3_close(h, ES_H3_STREAM_CREATION_ERROR, "a server opens no two-way streams");
    return H3_TAKEN;
}
