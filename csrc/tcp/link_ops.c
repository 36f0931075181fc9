/* What protocols may ask of a connection (link/link.h). All of it only queues, counts and marks. */
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include "internal.h"

static int is_open(const struct tcp_conn *c)
{
    return c->state == TCP_OPEN && !c->close_asked;
}

/* A server can open no request of HTTP/2: it takes one that the client has offered. */
static struct tcp_stream *take_offer(struct tcp_conn *c, int dir)
{
    struct tcp_stream *s;

    if (es_list_empty(&c->parked[dir])) {
        return NULL;
    }
    s = es_container_of(c->parked[dir].next, struct tcp_stream, all);
    s->parked = 0;
    c->n_parked[dir]--;
    es_list_remove(&s->all);
    es_list_push(&c->streams, &s->all);
    return s;
}

static int op_open(struct es_link *l, int dir, void *user, struct es_link_stream **out)
{
    struct tcp_conn *c = tcp_of(l);
    struct tcp_stream *s = NULL;

    *out = NULL;
    if (!is_open(c)) {
        return ES_ERR_CLOSED;
    }
    if (l->is_server) {
        s = take_offer(c, dir);
    } else if (c->left[dir] > 0) {
        s = tcp_stream_new(c, dir, 0);
        if (s == NULL) {
            return ES_ERR_NOMEM;
        }
        c->left[dir]--;
    }
    if (s == NULL) {
        c->short_of |= 1u << dir;
        return ES_ERR_LIMIT;
    }
    s->known = 1;
    s->s.user = user;
    *out = &s->s;
    return 0;
}

static int may_write(const struct tcp_stream *s)
{
    return is_open(tcp_of(s->s.link)) && !s->fin && !s->shut && !s->send_over && !s->closed;
}

static int op_write(struct es_link_stream *ls, const void *data, size_t n, int fin)
{
    struct tcp_stream *s = tcp_stream_of(ls);

    return may_write(s) ? tcp_stream_put(s, data, n, fin, 1, NULL, NULL) : ES_ERR_CLOSED;
}

static int op_write_ref(struct es_link_stream *ls, const void *data, size_t n, int fin,
                        void (*release)(void *), void *arg)
{
    struct tcp_stream *s = tcp_stream_of(ls);

    return may_write(s) ? tcp_stream_put(s, data, n, fin, 0, release, arg) : ES_ERR_CLOSED;
}

static size_t op_queued(const struct es_link_stream *ls)
{
    return tcp_stream_of(ls)->unsent;
}

static uint64_t op_allowed(const struct es_link_stream *ls)
{
    const struct tcp_stream *s = tcp_stream_of(ls);
    struct tcp_conn *c = tcp_of(ls->link);
    int32_t left;

    if (c->h2 == NULL || s->id == 0) {
        return UINT64_MAX;
    }
    left = nghttp2_session_get_stream_remote_window_size(c->h2, s->id);
    return left > 1 ? (uint64_t)left - 1 : 0;
}

static void op_priority(struct es_link_stream *ls, int prio)
{
    struct tcp_stream *s = tcp_stream_of(ls);
    int waits = !es_list_empty(&s->ready);

    s->prio = (uint8_t)(prio < 0 ? 0 : prio > ES_PRIO_LAST ? ES_PRIO_LAST : prio);
    if (waits) { /* one that has no window left finds that out again */
        es_list_remove(&s->ready);
        tcp_stream_make_ready(s);
    }
}

/* As transport/link_ops.c does: a consumer that takes half a window within two round trips is held up by it.
 */
static void tune_window(struct tcp_stream *s, size_t n)
{
    struct tcp_conn *c = tcp_of(s->s.link);
    uint64_t took;

    s->round += n;
    if (s->round < s->window / 2) {
        return;
    }
    took = tcp_now(c) - s->round_at;
    s->round = 0;
    s->round_at = tcp_now(c);
    if (s->window * 2 <= TCP_WINDOW_MAX && c->link.held <= c->link.hold_cap / 4 && c->rtt_min != 0 &&
        took < 2 * c->rtt_min) {
        s->window *= 2;
    }
}

static void op_credit(struct es_link_stream *ls, size_t n)
{
    struct tcp_stream *s = tcp_stream_of(ls);

    if (n > 0 && tcp_of(ls->link)->state < TCP_ENDED) {
        s->credit += n;
        tune_window(s, n);
        tcp_stream_op(s);
    }
}

void tcp_give_back(struct tcp_conn *c, int dir)
{
    if (c->state < TCP_ENDED) {
        if (c->link.is_server) {
            c->give[dir]++;
        } else {
            c->may_park[dir]++;
        }
        tcp_mark(c);
    }
}

static void op_stream_done(struct es_link_stream *ls)
{
    struct tcp_stream *s = tcp_stream_of(ls);

    if (s->remote && !s->done) {
        s->done = 1;
        tcp_give_back(tcp_of(ls->link), s->dir);
    }
}

static int op_stream_keep(struct es_link_stream *ls)
{
    struct tcp_stream *s = tcp_stream_of(ls);
    int kept = s->remote && !s->done;

    s->done = 1;
    return kept;
}

static void op_allow(struct es_link *l, int dir)
{
    tcp_give_back(tcp_of(l), dir);
}

static void op_stop(struct es_link_stream *ls, uint64_t app_code)
{
    struct tcp_stream *s = tcp_stream_of(ls);

    if (!s->stopped && !s->recv_over && tcp_of(ls->link)->state < TCP_ENDED) {
        s->stopped = 1;
        s->want_stop = 1;
        s->stop_code = app_code;
        tcp_stream_op(s);
    }
}

static void op_reset(struct es_link_stream *ls, uint64_t app_code)
{
    struct tcp_stream *s = tcp_stream_of(ls);

    if (!s->reset && !s->send_over && !s->fin_out && tcp_of(ls->link)->state < TCP_ENDED) {
        s->reset = s->want_reset = 1;
        s->reset_code = app_code;
        s->shut = 1;
        tcp_stream_drop(s);
        tcp_stream_op(s);
    }
}

static void op_hold(struct es_link *l, int64_t delta)
{
    tcp_held(tcp_of(l), delta);
}

static size_t max_datagram(const struct tcp_conn *c)
{
    return c->state != TCP_OPEN ? 0 : c->peer_datagram < TCP_DATAGRAM ? c->peer_datagram : TCP_DATAGRAM;
}

static int op_datagram(struct es_link *l, const void *data, size_t n)
{
    struct tcp_conn *c = tcp_of(l);
    struct tcp_datagram *d;

    if (!is_open(c)) {
        return ES_ERR_CLOSED;
    }
    if (max_datagram(c) == 0) {
        return ES_ERR_UNSUPPORTED;
    }
    if (n > max_datagram(c)) {
        return ES_ERR_TOO_LARGE;
    }
    if (c->n_datagrams >= TCP_DATAGRAMS) {
        return ES_ERR_LIMIT;
    }
    d = es_malloc(sizeof *d + n);
    if (d == NULL) {
        return ES_ERR_NOMEM;
    }
    d->n = n;
    if (n > 0) {
        memcpy(d->data, data, n);
    }
    es_list_init(&d->node);
    es_list_push(&c->datagrams, &d->node);
    c->n_datagrams++;
    tcp_mark(c);
    return 0;
}

static void op_close(struct es_link *l, int app, uint64_t code, const char *reason)
{
    struct tcp_conn *c = tcp_of(l);

    if (c->state < TCP_ENDED && !c->close_asked) {
        tcp_set_info(c, ES_CLOSE_LOCAL, ES_ERR_CLOSED, app, code, reason);
        c->close_asked = 1;
        tcp_mark(c);
    }
}

/* What the kernel knows of the path. */
static void path_stats(const struct tcp_conn *c, struct es_link_stats *out)
{
    struct tcp_info info;
    socklen_t n = sizeof info;

    memset(&info, 0, sizeof info);
    if (c->fd < 0 || getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &n) != 0) {
        return;
    }
    out->cwnd = (uint64_t)info.tcpi_snd_cwnd * info.tcpi_snd_mss;
    out->bytes_in_flight = (uint64_t)info.tcpi_unacked * info.tcpi_snd_mss;
    out->packets_lost = info.tcpi_total_retrans;
    out->path_mtu = info.tcpi_pmtu;
    if (out->rtt_smoothed == 0) {
        out->rtt_latest = out->rtt_min = out->rtt_smoothed = (uint64_t)info.tcpi_rtt * ES_MICRO;
    }
}

static void op_stats(struct es_link *l, struct es_link_stats *out)
{
    struct tcp_conn *c = tcp_of(l);

    memset(out, 0, sizeof *out);
    out->rtt_latest = c->rtt_latest;
    out->rtt_min = c->rtt_min;
    out->rtt_smoothed = c->rtt_smoothed;
    path_stats(c, out);
    out->bytes_sent = c->bytes_out;
    out->bytes_received = c->bytes_in;
    out->packets_sent = c->writes;
    out->packets_received = c->reads;
    out->held = l->held;
    if (c->h2 != NULL) {
        int32_t left = nghttp2_session_get_remote_window_size(c->h2);
        out->credit = left > 0 ? (uint64_t)left : 0;
    }
    if (c->established_at != 0) {
        out->handshake_time = c->established_at - c->started;
        out->idle_timeout = c->idle;
    }
    out->max_datagram = (uint32_t)max_datagram(c);
    out->ecn = ES_LINK_ECN_FAILED; /* nothing that is marked here: TCP sees to that */
    uint64_t bidi = l->is_server ? c->n_parked[ES_DIR_BIDI] : c->left[ES_DIR_BIDI];
    uint64_t uni = l->is_server ? c->n_parked[ES_DIR_UNI] : c->left[ES_DIR_UNI];
    out->streams_bidi_left = bidi > UINT32_MAX ? UINT32_MAX : (uint32_t)bidi;
    out->streams_uni_left = uni > UINT32_MAX ? UINT32_MAX : (uint32_t)uni;
}

static void op_peer_addr(struct es_link *l, char *buf, size_t n)
{
    es_addr_format(&tcp_of(l)->remote, buf, n);
}

static int op_peer_cert(struct es_link *l, const uint8_t **der, size_t *n)
{
    const struct tcp_conn *c = tcp_of(l);

    if (c->peer.der.n == 0) {
        return ES_ERR_NOT_FOUND;
    }
    *der = c->peer.der.p;
    *n = c->peer.der.n;
    return 0;
}

static int op_peer_pin(struct es_link *l, uint8_t spki[32])
{
    const struct tcp_conn *c = tcp_of(l);

    if (!c->peer.has_pin) {
        return ES_ERR_NOT_FOUND;
    }
    memcpy(spki, c->peer.pin, 32);
    return 0;
}

static int op_export_key(struct es_link *l, const char *label, const void *context, size_t context_n,
                         void *out, size_t n)
{
    const struct tcp_conn *c = tcp_of(l);

    if (c->state >= TCP_ENDED || c->close_asked) {
        return ES_ERR_CLOSED;
    }
    if (c->state != TCP_OPEN) {
        return ES_ERR_AGAIN;
    }
    if (strlen(label) > 249 || n > 255 * 32) {
        return ES_ERR_INVAL;
    }
    return gnutls_prf_rfc5705(c->tls, strlen(label), label, context_n, context_n > 0 ? context : "", n,
                              out) == 0
               ? 0
               : ES_ERR_TLS;
}

static void op_keep_alive(struct es_link *l, int on)
{
    struct tcp_conn *c = tcp_of(l);

    c->keep_alive_on = on != 0;
    if (c->state == TCP_OPEN) {
        tcp_arm(c);
        es_poller_rearm(c->t->p);
    }
}

const struct es_link_ops tcp_link_ops = {
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
    .stats = op_stats,
    .peer_addr = op_peer_addr,
    .peer_cert = op_peer_cert,
    .peer_pin = op_peer_pin,
    .keep_alive = op_keep_alive,
    .export_key = op_export_key,
};
