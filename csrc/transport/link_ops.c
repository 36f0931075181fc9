/* What protocols may ask of a connection (link/link.h). All of it only queues, counts and marks. */
#include <string.h>
#include "internal.h"

static int op_open(struct es_link *l, int dir, void *user, struct es_link_stream **out)
{
    struct es_conn *c = es_conn_of(l);
    struct es_qstream *s;
    int64_t id;
    int rv;

    *out = NULL;
    if (c->state != ES_CONN_OPEN || c->close_asked) {
        return ES_ERR_CLOSED;
    }
    rv = dir == ES_DIR_UNI ? ngtcp2_conn_open_uni_stream(c->nc, &id, NULL)
                           : ngtcp2_conn_open_bidi_stream(c->nc, &id, NULL);
    if (rv != 0) {
        return rv == NGTCP2_ERR_STREAM_ID_BLOCKED ? ES_ERR_LIMIT : ES_ERR_NOMEM;
    }
    s = es_qstream_new(c, id, 0);
    if (s == NULL) {
        (void)es_compat_shutdown_write(c->nc, id, ES_APP_INTERNAL);
        return ES_ERR_NOMEM;
    }
    (void)ngtcp2_conn_set_stream_user_data(c->nc, id, s);
    s->s.user = user;
    *out = &s->s;
    return 0;
}

static int may_write(const struct es_qstream *s)
{
    const struct es_conn *c = es_conn_of(s->s.link);

    return c->state == ES_CONN_OPEN && !c->close_asked && !s->fin && !s->shut && !(s->uni && s->remote);
}

static int op_write(struct es_link_stream *ls, const void *data, size_t n, int fin)
{
    struct es_qstream *s = es_qstream_of(ls);

    return may_write(s) ? es_qstream_write(s, data, n, fin) : ES_ERR_CLOSED;
}

static int op_write_ref(struct es_link_stream *ls, const void *data, size_t n, int fin,
                        void (*release)(void *), void *arg)
{
    struct es_qstream *s = es_qstream_of(ls);

    return may_write(s) ? es_qstream_write_ref(s, data, n, fin, release, arg) : ES_ERR_CLOSED;
}

static size_t op_queued(const struct es_link_stream *ls)
{
    return es_qstream_of(ls)->unsent;
}

static uint64_t op_allowed(const struct es_link_stream *ls)
{
    struct es_conn *c = es_conn_of(ls->link);

    return c->nc != NULL && ls->id >= 0 ? ngtcp2_conn_get_max_stream_data_left(c->nc, ls->id) : UINT64_MAX;
}

static void op_priority(struct es_link_stream *ls, int prio)
{
    struct es_qstream *s = es_qstream_of(ls);

    s->prio = (uint8_t)(prio < 0 ? 0 : prio > ES_PRIO_LAST ? ES_PRIO_LAST : prio);
    if (!es_list_empty(&s->ready)) {
        es_list_remove(&s->ready);
        es_qstream_make_ready(s);
    }
}

/* A consumer that takes half a window within two round trips is held up by the window: it is doubled, while
 * the connection as a whole holds little. A slow consumer never gets more than it was given at first. */
static void tune_window(struct es_qstream *s, size_t n)
{
    struct es_conn *c = es_conn_of(s->s.link);
    ngtcp2_conn_info info;
    uint64_t took;

    s->round += n;
    if (s->round < s->window / 2) {
        return;
    }
    took = es_conn_now(c) - s->round_at;
    s->round = 0;
    s->round_at = es_conn_now(c);
    if (s->window * 2 > ES_WINDOW_MAX || c->link.held > c->link.hold_cap / 4) {
        return;
    }
    ngtcp2_conn_get_conn_info(c->nc, &info);
    /* The shortest round trip, or the queues that a larger window makes would call for a larger window. */
    if (info.min_rtt != UINT64_MAX && took < 2 * info.min_rtt) {
        s->credit += s->window;
        s->window *= 2;
    }
}

static void op_credit(struct es_link_stream *ls, size_t n)
{
    struct es_qstream *s = es_qstream_of(ls);

    if (n > 0 && es_conn_of(ls->link)->state < ES_CONN_ENDED) {
        s->credit += n;
        tune_window(s, n);
        es_qstream_op(s);
    }
}

static void op_stream_done(struct es_link_stream *ls)
{
    struct es_qstream *s = es_qstream_of(ls);
    struct es_conn *c = es_conn_of(ls->link);

    if (!s->remote || s->done || c->state >= ES_CONN_ENDED) {
        return;
    }
    s->done = 1;
    if (s->uni) {
        c->credit_uni += c->uni_left < ES_UNI_LEFT_MAX;
    } else {
        c->credit_bidi++;
    }
    es_conn_mark(c); /* by itself the credit would make no packet */
}

static int op_stream_keep(struct es_link_stream *ls)
{
    struct es_qstream *s = es_qstream_of(ls);
    int kept = s->remote && !s->done;

    s->done = 1;
    return kept;
}

static void op_allow(struct es_link *l, int dir)
{
    struct es_conn *c = es_conn_of(l);

    if (c->state >= ES_CONN_ENDED) {
        return;
    }
    if (dir == ES_DIR_UNI) {
        c->credit_uni++;
    } else {
        c->credit_bidi++;
    }
    es_conn_mark(c);
}

static void op_stop(struct es_link_stream *ls, uint64_t app_code)
{
    struct es_qstream *s = es_qstream_of(ls);

    if (!s->want_stop && !(s->uni && !s->remote) && es_conn_of(ls->link)->state < ES_CONN_ENDED) {
        s->want_stop = 1;
        s->stop_code = app_code;
        es_qstream_op(s);
    }
}

static void op_reset(struct es_link_stream *ls, uint64_t app_code)
{
    struct es_qstream *s = es_qstream_of(ls);

    if (!s->want_reset && !(s->uni && s->remote) && es_conn_of(ls->link)->state < ES_CONN_ENDED) {
        s->want_reset = 1;
        s->reset_code = app_code;
        s->shut = 1;
        es_qstream_drop_unsent(s);
        es_qstream_op(s);
    }
}

void es_conn_held(struct es_conn *c, int64_t delta)
{
    struct es_link *l = &c->link;

    if (delta < 0 && (uint64_t)-delta > l->held) {
        l->held = 0;
    } else {
        l->held += (uint64_t)delta;
    }
    if (delta < 0 && c->state < ES_CONN_ENDED) {
        if (l->hold_refused) {
            l->hold_refused = 0;
            c->want_hold_low = 1;
            es_conn_mark(c);
        } else if (c->conn_credit > 0 && es_conn_may_credit(c)) {
            es_conn_mark(c);
        }
    }
}

static void op_hold(struct es_link *l, int64_t delta)
{
    es_conn_held(es_conn_of(l), delta);
}

/* The largest payload of a DATAGRAM frame that the peer takes and one packet on this path carries. */
size_t es_conn_max_datagram(struct es_conn *c)
{
    const ngtcp2_transport_params *remote;
    size_t mtu, overhead;
    uint64_t frame;

    if (!c->established || c->nc == NULL) {
        return 0;
    }
    remote = ngtcp2_conn_get_remote_transport_params(c->nc);
    if (remote == NULL || remote->max_datagram_frame_size < 4) {
        return 0;
    }
    /* first byte, destination id, packet number, tag; then the frame's type and a length of two bytes */
    overhead = 1 + ngtcp2_conn_get_dcid(c->nc)->datalen + 4 + 16;
    mtu = es_path_mtu(c);
    frame = mtu > overhead ? mtu - overhead : 0;
    if (frame > remote->max_datagram_frame_size) {
        frame = remote->max_datagram_frame_size;
    }
    return frame > 3 ? (size_t)frame - 3 : 0;
}

static int op_datagram(struct es_link *l, const void *data, size_t n)
{
    struct es_conn *c = es_conn_of(l);
    struct es_chunk *k;
    size_t max;

    if (c->state != ES_CONN_OPEN || c->close_asked) {
        return ES_ERR_CLOSED;
    }
    max = es_conn_max_datagram(c);
    if (max == 0) {
        return ES_ERR_UNSUPPORTED;
    }
    if (n > max || n > ES_CHUNK_BYTES) {
        return ES_ERR_TOO_LARGE;
    }
    if (c->n_dgrams >= ES_DATAGRAMS_MAX) {
        return ES_ERR_LIMIT;
    }
    k = es_chunk_get(c->ep);
    if (k == NULL) {
        return ES_ERR_NOMEM;
    }
    memcpy((uint8_t *)(uintptr_t)k->p, data, n);
    k->len = n;
    if (c->dgram_tail != NULL) {
        c->dgram_tail->next = k;
    } else {
        c->dgram_head = k;
    }
    c->dgram_tail = k;
    c->n_dgrams++;
    es_conn_mark(c);
    return 0;
}

static void op_close(struct es_link *l, int app, uint64_t code, const char *reason)
{
    struct es_conn *c = es_conn_of(l);

    if (c->state >= ES_CONN_ENDED || c->close_asked) {
        return;
    }
    if (reason == NULL) {
        reason = "";
    }
    c->close_asked = 1;
    es_conn_set_info(c, ES_CLOSE_LOCAL, ES_ERR_CLOSED, app != 0, code, reason, strlen(reason));
    es_conn_mark(c);
}

static void op_peer_addr(struct es_link *l, char *buf, size_t n)
{
    es_addr_format(&es_conn_of(l)->remote, buf, n);
}

const struct es_link_ops es_conn_link_ops = {
    .open = op_open,
    .write = op_write,
    .write_ref = op_write_ref,
    .queued = op_queued,
    .allowed = op_allowed,
    .priority = op_priority,
    .credit = op_credit,
    .stream_done = op_stream_done,
    .stream_keep = op_stream_keep,
    .allow = op_allow,
    .stop = op_stop,
    .reset = op_reset,
    .hold = op_hold,
    .datagram = op_datagram,
    .close = op_close,
    .stats = es_conn_stats,
    .peer_addr = op_peer_addr,
    .export_key = es_exporter_op,
};

/* ---- whom it leads to: for links made by endpoints, and others that are whole connections ---- */

int es_link_peer_cert(struct es_link *l, const uint8_t **der, size_t *n)
{
    struct es_conn *c = es_conn_of(l);

    if (l->ops->peer_cert != NULL) {
        return l->ops->peer_cert(l, der, n);
    }
    if (l->ops != &es_conn_link_ops || c->peer.der.n == 0) {
        return ES_ERR_NOT_FOUND;
    }
    *der = c->peer.der.p;
    *n = c->peer.der.n;
    return 0;
}

int es_link_peer_pin(struct es_link *l, uint8_t spki[32])
{
    struct es_conn *c = es_conn_of(l);

    if (l->ops->peer_pin != NULL) {
        return l->ops->peer_pin(l, spki);
    }
    if (l->ops != &es_conn_link_ops || !c->peer.has_pin) {
        return ES_ERR_NOT_FOUND;
    }
    memcpy(spki, c->peer.pin, 32);
    return 0;
}
