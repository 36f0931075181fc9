/* What nghttp3 wants to send goes to the link, and what had to wait for its return is done.
 *
 * nghttp3's own queues stay empty: whatever it has to send is handed to the link at once, which keeps it
 * until it is acknowledged, orders it by priority and tells when there is too much of it. So nghttp3 hears of
 * an acknowledgement right after the write. */
#include "internal.h"
#include "webtransport.h"

#define MAX_QPACK_QUEUE ((size_t)64 * 1024) /* unsent bytes of answers to the peer's encoder */

int es_h3_usable(const struct es_h3 *h)
{
    return h->nc != NULL && !h->failed;
}

struct es_exchange *es_h3_find(const struct es_h3 *h, int64_t id)
{
    return es_idmap_get(&h->by_id, (uint64_t)id);
}

void es_h3_close(struct es_h3 *h, uint64_t code, const char *reason)
{
    h->failed = 1;
    if (h->link != NULL) {
        es_link_close(h->link, 1, code, reason);
    }
}

void es_h3_fail(struct es_h3 *h, int liberr)
{
    h->poisoned |= liberr == NGHTTP3_ERR_NOMEM;
    if (!h->failed) {
        es_h3_close(h, nghttp3_err_infer_quic_app_error_code(liberr), nghttp3_strerror(liberr));
    }
}

static struct es_link_stream *stream_of(struct es_h3 *h, int64_t id)
{
    struct es_exchange *x;

    for (int i = 0; i < H3_OUT; i++) {
        if (h->out[i] != NULL && h->out[i]->id == id) {
            return h->out[i];
        }
    }
    x = es_h3_find(h, id);
    return x != NULL ? x->s : NULL;
}

/* One vector to the link. A body that may be kept by reference is handed over as it is. */
static int send_vec(struct es_h3 *h, struct es_link_stream *s, int64_t id, const nghttp3_vec *v, int fin)
{
    struct es_exchange *x = es_h3_find(h, id);
    int rc;

    if (x != NULL) {
        x->tx_total += v->len;
    }
    if (x == NULL || x->tx_release == NULL || v->base != x->tx) {
        return es_link_write(s, v->base, v->len, fin);
    }
    rc = es_link_write_ref(s, v->base, v->len, fin, x->tx_release, x->tx_arg);
    if (rc == 0) {
        x->tx_release = NULL; /* the link's now */
    }
    return rc;
}

static void stop_writing(struct es_h3 *h, int64_t id)
{
    struct es_exchange *x = es_h3_find(h, id);

    nghttp3_conn_shutdown_stream_write(h->nc, id);
    if (x != NULL) {
        x->tx_stopped = 1;
    }
}

/* The first that nghttp3 says on our control stream is SETTINGS, and to those it knows we add ours. */
static int send_settings(struct es_h3 *h, struct es_link_stream *s, const nghttp3_vec *vec, size_t n)
{
    const struct es_webtransport *wt = h->config->webtransport;
    struct es_buf in = {0}, out = {0};
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = es_buf_put(&in, vec[i].base, vec[i].len);
    }
    if (rc == 0) {
        rc = es_h3_settings_extend(in.p, in.n, wt != NULL ? wt->max_sessions : 0, &out);
    }
    if (rc == 0) {
        rc = es_link_write(s, out.p, out.n, 0);
    }
    h->extended = 1;
    es_buf_free(&in);
    es_buf_free(&out);
    return rc;
}

/* Everything that nghttp3 has to send. */
static void drain(struct es_h3 *h)
{
    nghttp3_vec vec[16];

    while (h->bound && es_h3_usable(h)) {
        struct es_link_stream *s;
        int64_t id = -1;
        int fin = 0, rc = 0;
        size_t total = 0;
        nghttp3_ssize n = nghttp3_conn_writev_stream(h->nc, &id, &fin, vec, 16);

        if (n < 0) {
            es_h3_fail(h, (int)n);
            return;
        }
        if (id < 0) {
            break;
        }
        s = stream_of(h, id);
        if (s == NULL) {
            stop_writing(h, id);
            continue;
        }
        if (h->wt && !h->extended && s == h->out[H3_CONTROL] && n > 0) {
            rc = send_settings(h, s, vec, (size_t)n);
            total = (size_t)nghttp3_vec_len(vec, (size_t)n);
            n = 0;
        }
        for (nghttp3_ssize i = 0; i < n && rc == 0; i++) {
            rc = send_vec(h, s, id, &vec[i], fin && i + 1 == n);
            total += vec[i].len;
        }
        if (n == 0 && fin) {
            rc = es_link_write(s, NULL, 0, 1);
        }
        if (rc == ES_ERR_NOMEM || rc == ES_ERR_INVAL) {
            es_h3_close(h, ES_H3_INTERNAL_ERROR, rc == ES_ERR_NOMEM ? "out of memory" : "strange SETTINGS");
            return;
        }
        if (rc != 0) { /* reset meanwhile */
            stop_writing(h, id);
            continue;
        }
        rc = nghttp3_conn_add_write_offset(h->nc, id, total);
        if (rc == 0) {
            rc = nghttp3_conn_add_ack_offset(h->nc, id, total);
        }
        if (rc != 0) {
            es_h3_fail(h, rc);
        }
    }
}

/* What had to wait for nghttp3's return, one after another: whoever is called from here may come by again,
 * and only drains. */
static void do_chores(struct es_h3 *h)
{
    h->pumping = 1;
    while (es_h3_usable(h) && !(es_list_empty(&h->chores) && es_list_empty(&h->wt_due))) {
        if (!es_list_empty(&h->chores)) {
            struct es_exchange *x = es_container_of(h->chores.next, struct es_exchange, chore);

            es_list_remove(&x->chore);
            es_exchange_chores(x);
        } else {
            es_wt_run_next(h);
        }
        drain(h);
    }
    h->pumping = 0;
}

void es_h3_pump(struct es_h3 *h)
{
    es_h3_ref(h);
    drain(h);
    if (!h->pumping) {
        do_chores(h);
    }
    if (h->bound && es_h3_usable(h) && es_link_queued(h->out[H3_DECODER]) > MAX_QPACK_QUEUE) {
        es_h3_close(h, ES_H3_EXCESSIVE_LOAD,
                    "the peer does not take what it is told about its header tables");
    }
    es_h3_unref(h);
}
