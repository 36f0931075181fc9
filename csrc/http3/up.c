/* What the link says, sorted by what hangs on the stream. */
#include <string.h>
#include "internal.h"

#define GLITCH_ABORT 16 /* points: a request that was given up before it was answered */
#define GLITCH_DONE  4  /* and what one that was answered takes off */

/* Our three streams, as soon as the peer lets us. */
static void bind_streams(struct es_h3 *h)
{
    int rc = 0;

    for (int i = 0; i < H3_OUT; i++) {
        if (h->out[i] == NULL) {
            rc = es_link_open(h->link, ES_DIR_UNI, NULL, &h->out[i]);
            if (rc != 0) {
                h->out[i] = NULL;
                if (rc == ES_ERR_NOMEM) {
                    es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
                }
                return; /* stream_credit() follows */
            }
            h->out_id[i] = h->out[i]->id;
            es_link_priority(h->out[i], ES_PRIO_CONTROL);
        }
    }
    rc = nghttp3_conn_bind_control_stream(h->nc, h->out[H3_CONTROL]->id);
    if (rc == 0) {
        rc = nghttp3_conn_bind_qpack_streams(h->nc, h->out[H3_ENCODER]->id, h->out[H3_DECODER]->id);
    }
    if (rc != 0) {
        es_h3_fail(h, rc);
        return;
    }
    h->bound = 1;
    if (es_h3_say_goaway(h) != 0) { /* asked for meanwhile */
        return;
    }
    es_h3_tell(h, h->established ? ES_H3_OPEN : ES_H3_EARLY);
    es_h3_pump(h);
}

static void on_early(void *user)
{
    struct es_h3 *h = user;

    h->early = 1;
    bind_streams(h);
}

static void on_established(void *user)
{
    struct es_h3 *h = user;

    h->early = 0;
    h->established = 1;
    if (!h->bound) {
        bind_streams(h);
    } else if (es_h3_early_settled(h)) {
        es_h3_tell(h, ES_H3_OPEN);
        es_wt_mark_all(h);
        es_h3_pump(h);
    }
}

static void on_stream_credit(void *user, int dir)
{
    struct es_h3 *h = user;

    if (dir == ES_DIR_UNI && !h->bound && es_h3_usable(h)) {
        bind_streams(h);
    } else if (dir == ES_DIR_BIDI && h->wants_credit) {
        h->wants_credit = 0;
        es_h3_tell(h, ES_H3_CREDIT);
        es_wt_mark_all(h);
        es_h3_pump(h);
    }
    es_wt_credit(h, dir);
}

static void on_stream_opened(void *user, struct es_link_stream *s, int dir)
{
    struct es_h3 *h = user;
    struct es_exchange *x;
    uint64_t timeout = h->config->limits.head_timeout;

    s->user = NULL;
    if (!es_h3_usable(h)) {
        return;
    }
    if (dir == ES_DIR_UNI) {
        if (es_h3_oneway_opened(h, s) != 0) {
            es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
        }
        return;
    }
    if (h->wt && !h->server) {
        if (es_h3_fresh(h, s) != 0) {
            es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
        }
        return;
    }
    if (!h->server) {
        es_h3_close(h, ES_H3_STREAM_CREATION_ERROR, "a server opens no two-way streams");
        return;
    }
    if (s->id > h->newest) {
        h->newest = s->id;
    }
    /* The library wants to know which streams PRIORITY_UPDATE may name before they are opened. */
    if (s->id / 4 + ES_H3_STREAMS_AHEAD / 2 > h->peer_streams) {
        h->peer_streams = s->id / 4 + ES_H3_STREAMS_AHEAD;
        nghttp3_conn_set_max_client_streams_bidi(h->nc, (uint64_t)h->peer_streams);
    }
    x = es_exchange_new(h, 0);
    if (x == NULL || es_idmap_put(&h->by_id, (uint64_t)s->id, x) != 0) {
        es_link_stop(s, ES_H3_REQUEST_REJECTED);
        es_link_reset(s, ES_H3_REQUEST_REJECTED);
        if (x != NULL) {
            es_exchange_unref(x);
        }
        return;
    }
    x->s = s;
    x->id = s->id;
    s->user = x;
    es_list_push(&h->exchanges, &x->all);
    if (timeout != 0) {
        x->head_deadline = h->config->timers->now + timeout;
        es_list_push(&h->headless, &x->headless);
        if (!es_timer_running(&h->head_timer) &&
            es_timer_start(h->config->timers, &h->head_timer, x->head_deadline) != 0) {
            es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
        }
    }
}

/* Requests whose heads do not come. */
void es_h3_head_timer(struct es_timer *t)
{
    struct es_h3 *h = t->user;

    while (!es_list_empty(&h->headless) && es_h3_usable(h)) {
        struct es_exchange *x = es_container_of(h->headless.next, struct es_exchange, headless);

        if (x->head_deadline > h->config->timers->now) {
            if (es_timer_start(h->config->timers, t, x->head_deadline) != 0) {
                es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
            }
            break;
        }
        es_list_remove(&x->headless);
        es_exchange_later(x, CHORE_ABORT, ES_H3_REQUEST_INCOMPLETE);
    }
    es_h3_pump(h);
}

static void read_stream(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct es_exchange *x = es_exchange_of(s);
    nghttp3_ssize used;

    if (!es_h3_usable(h)) {
        return;
    }
    if (x == NULL && (s->id & 2) != 0) {
        es_h3_oneway_data(h, s, p, n, fin);
        es_h3_pump(h);
        return;
    }
    if (x != NULL && fin) {
        x->ended = 1;
    }
    if (x == NULL || x->rx_stopped) { /* nobody reads it any more */
        if (n > 0) {
            es_link_credit(s, n);
        }
        return;
    }
    if (n == 0 && !fin) {
        return;
    }
    if (!x->ours) {
        es_h3_lines_feed(&x->lines, p, n);
    }
    if (!x->ours && fin && es_h3_lines_nothing(&x->lines)) { /* the library would close the connection */
        x->rx_fin = 1;
        es_exchange_later(x, CHORE_ABORT, ES_H3_REQUEST_INCOMPLETE);
        if (n > 0) {
            es_link_credit(s, n);
        }
        es_h3_pump(h);
        return;
    }
    if (h->server && !h->bound) { /* RFC 9114 6.2: it has to let us open three streams */
        es_h3_close(h, ES_H3_GENERAL_PROTOCOL_ERROR,
                    "the peer allows no streams that every connection needs");
        return;
    }
    used = nghttp3_conn_read_stream(h->nc, s->id, p, n, fin);
    if (used == NGHTTP3_ERR_MALFORMED_HTTP_HEADER || used == NGHTTP3_ERR_MALFORMED_HTTP_MESSAGING) {
        es_exchange_later(x, CHORE_ABORT, ES_H3_MESSAGE_ERROR); /* of the stream only (RFC 9114 4.1.2) */
        used = (nghttp3_ssize)n;
    } else if (used == NGHTTP3_ERR_H3_GENERAL_PROTOCOL_ERROR) { /* cut off within its type (RFC 9114 7.1) */
        es_h3_close(h, ES_H3_FRAME_ERROR, "the stream ends within a frame");
        return;
    } else if (es_h3_beyond_measure(used)) {
        es_h3_close(h, ES_H3_QPACK_DECOMPRESSION_FAILED, "a head that cannot be decompressed");
        return;
    }
    if (used < 0) {
        es_h3_fail(h, (int)used);
        return;
    }
    if (used > 0) {
        es_link_credit(s, (size_t)used);
    }
    es_h3_pump(h);
}

/* The first bytes say whether it is nghttp3's or a session's. */
static void read_unsorted(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct es_h3_prefix k;

    switch (es_h3_sort(h, s, &p, &n, fin, &k)) {
    case H3_MORE:
        break;
    case H3_TAKEN:
        if (es_h3_usable(h) && es_h3_is(s, H3_WT_STREAM)) {
            es_wt_data(h, s, p, n, fin);
        } else {
            es_link_credit(s, n);
        }
        es_h3_pump(h);
        break;
    case H3_OURS:
        if (k.n > 0) {
            read_stream(h, s, k.b, k.n, fin && n == 0);
        }
        if (n > 0 || (fin && k.n == 0)) {
            read_stream(h, s, p, n, fin);
        }
    }
}

static void on_data(void *user, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct es_h3 *h = user;
    const struct es_exchange *x = es_exchange_of(s);

    if (h->wt && es_h3_usable(h)) {
        if (es_h3_is(s, H3_WT_STREAM)) {
            es_wt_data(h, s, p, n, fin);
            return;
        }
        if (es_h3_is(s, H3_DEAD)) {
            es_link_credit(s, n);
            return;
        }
        if (es_h3_is(s, H3_FRESH) || (x != NULL && !x->ours && !x->sorted && !x->aborted)) {
            read_unsorted(h, s, p, n, fin);
            return;
        }
    }
    read_stream(h, s, p, n, fin);
}

static int is_glitch(struct es_h3 *h, uint64_t points, const char *what)
{
    if (h->server && es_link_glitch(h->link, h->config->timers->now, points, what)) {
        h->failed = 1;
        return 1;
    }
    return 0;
}

static void on_stream_reset(void *user, struct es_link_stream *s, uint64_t code)
{
    struct es_h3 *h = user;
    struct es_exchange *x = es_exchange_of(s);
    int rc;

    if (!es_h3_usable(h)) {
        return;
    }
    if (es_h3_is(s, H3_WT_STREAM)) {
        es_wt_stream_reset(s, code);
        return;
    }
    if (x == NULL) { /* one-way: those that matter may not be closed (RFC 9114 6.2.1) */
        rc = (s->id & 2) != 0 ? nghttp3_conn_close_stream(h->nc, s->id, code) : 0;
        if (rc != 0 && rc != NGHTTP3_ERR_STREAM_NOT_FOUND) {
            es_h3_fail(h, rc);
        }
        return;
    }
    x->ended = 1;
    if (h->server && !x->tx_fin && is_glitch(h, GLITCH_ABORT, "too many requests that were given up")) {
        return;
    }
    if (!x->rx_stopped) {
        x->rx_stopped = 1;
        (void)nghttp3_conn_shutdown_stream_read(h->nc, s->id);
    }
    if (!x->aborted && !(x->ours && x->rx_fin)) {
        es_exchange_abort(x, ES_ERR_CLOSED, code, 1,
                          x->ours && (code == ES_H3_REQUEST_REJECTED || !h->established));
        es_exchange_give_up(x, code, ES_H3_REQUEST_CANCELLED);
    }
    es_h3_pump(h);
}

static void on_stream_stopped(void *user, struct es_link_stream *s, uint64_t code)
{
    struct es_h3 *h = user;
    struct es_exchange *x = es_exchange_of(s);

    if (!es_h3_usable(h)) {
        return;
    }
    if (es_h3_is(s, H3_WT_STREAM)) {
        es_wt_stream_stopped(s, code);
        return;
    }
    if (x == NULL) {
        if ((s->id & 2) != 0 && s->user == NULL) { /* one of our three */
            es_h3_close(h, ES_H3_CLOSED_CRITICAL_STREAM,
                        "the peer stopped a stream that every connection needs");
        }
        return;
    }
    nghttp3_conn_shutdown_stream_write(h->nc, s->id);
    x->tx_stopped = 1;
    if (!x->ours) { /* who does not want the answer does not want anything */
        if (!x->tx_fin && is_glitch(h, GLITCH_ABORT, "too many requests that were given up")) {
            return;
        }
        if (!x->aborted) {
            es_exchange_abort(x, ES_ERR_CLOSED, code, 1, 0);
            es_exchange_give_up(x, ES_H3_NO_ERROR, ES_H3_REQUEST_CANCELLED);
        }
    } else if (x->tx_blocked) {
        x->tx_blocked = 0;
        es_exchange_tell(x, ES_EX_WRITABLE);
    }
    es_h3_pump(h);
}

static void on_writable(void *user, struct es_link_stream *s)
{
    struct es_exchange *x = es_exchange_of(s);

    (void)user;
    if (es_h3_is(s, H3_WT_STREAM)) {
        es_wt_writable(s);
    }
    if (x != NULL && x->tx_blocked) {
        x->tx_blocked = 0;
        es_exchange_tell(x, ES_EX_WRITABLE);
    }
}

static void on_sent(void *user, struct es_link_stream *s)
{
    struct es_h3 *h = user;
    struct es_exchange *x = es_exchange_of(s);

    if (es_h3_is(s, H3_WT_STREAM)) {
        es_wt_sent(s);
    } else if (x != NULL && x->wt != NULL) {
        es_wt_flushed(x->wt);
        es_h3_pump(h);
    } else if (x != NULL && !x->ours && h->link != NULL) {
        es_glitch_forgive(&h->link->glitch, GLITCH_DONE);
    }
}

static void on_stream_closed(void *user, struct es_link_stream *s)
{
    struct es_h3 *h = user;
    struct es_exchange *x = es_exchange_of(s);
    int rc;

    if (es_h3_is(s, H3_ONEWAY)) {
        es_h3_oneway_closed(s->user);
    } else if (es_h3_is(s, H3_FRESH)) {
        es_h3_fresh_del(s->user);
    } else if (es_h3_is(s, H3_WT_STREAM)) {
        es_wt_stream_closed(h, s);
        return;
    } else if (es_h3_is(s, H3_DEAD)) {
        return;
    }
    s->user = NULL;
    for (int i = 0; i < H3_OUT; i++) {
        if (h->out[i] == s) {
            h->out[i] = NULL;
            if (!h->failed) {
                es_h3_close(h, ES_H3_CLOSED_CRITICAL_STREAM, "a stream that every connection needs is over");
            }
            return;
        }
    }
    if (es_h3_usable(h)) {
        rc = nghttp3_conn_close_stream(h->nc, s->id, ES_H3_NO_ERROR);
        if (rc != 0 && rc != NGHTTP3_ERR_STREAM_NOT_FOUND) {
            es_h3_fail(h, rc);
        }
    }
    if (x != NULL) {
        if (x->ours && x->rx_fin && !x->aborted && h->link != NULL) {
            /* Whoever answers acknowledges what QPACK's table got of the request, by a byte that may come
             * alone. */
            es_glitch_forgive(&h->link->glitch, GLITCH_DONE);
        }
        es_exchange_detach(x);
    }
    if (es_h3_usable(h)) {
        es_h3_pump(h);
    }
}

static void on_datagram(void *user, const uint8_t *p, size_t n)
{
    struct es_h3 *h = user;

    if (h->wt && es_h3_usable(h)) { /* else it is not announced: RFC 9297 2.1 lets us drop them */
        es_wt_datagram(h, p, n);
    }
}

static void on_hold_low(void *user)
{
    es_wt_hold_low(user); /* whoever writes a body waits for its own stream only */
}

static void on_moved(void *user, const struct es_link_move *move)
{
    es_wt_moved(user, move);
}

static void on_closed(void *user, const struct es_close_info *info)
{
    struct es_h3 *h = user;

    h->info = *info;
    h->closed = 1;
    h->failed = 1;
    es_wt_closed(h, info);
    h->link = NULL; /* nothing below may use it */
    memset(h->out, 0, sizeof h->out);
    es_timer_stop(h->config->timers, &h->head_timer);
    es_timer_stop(h->config->timers, &h->patience);
    es_list_foreach(it, &h->exchanges)
    {
        struct es_exchange *x = es_container_of(it, struct es_exchange, all);

        es_list_remove(&x->chore);
        if (!x->aborted && !(x->rx_fin && (x->ours || x->tx_fin))) {
            es_exchange_abort(x, info->err, info->app ? info->code : ES_H3_NO_ERROR,
                              info->cause != ES_CLOSE_LOCAL, 0);
        }
        es_exchange_detach(x);
    }
    es_list_foreach(it, &h->oneways)
    {
        es_h3_oneway_closed(es_container_of(it, struct es_h3_oneway, all));
    }
    es_list_foreach(it, &h->fresh)
    {
        es_h3_fresh_del(es_container_of(it, struct h3_fresh, all));
    }
    es_buf_free(&h->control.frame);
    es_h3_delete_library(h);
    es_h3_tell(h, ES_H3_CLOSED);
    es_h3_unref(h);
}

const struct es_link_events es_h3_link_events = {.established = on_established,
                                                 .early = on_early,
                                                 .stream_opened = on_stream_opened,
                                                 .data = on_data,
                                                 .stream_reset = on_stream_reset,
                                                 .stream_stopped = on_stream_stopped,
                                                 .writable = on_writable,
                                                 .sent = on_sent,
                                                 .stream_closed = on_stream_closed,
                                                 .datagram = on_datagram,
                                                 .stream_credit = on_stream_credit,
                                                 .hold_low = on_hold_low,
                                                 .moved = on_moved,
                                                 .closed = on_closed};
