/* Connections: what the link says goes to nghttp3, what nghttp3 wants to send goes to the link.
 *
 * nghttp3's own queues stay empty: whatever it has to send is handed to the link at once, which keeps it
 * until it is acknowledged, orders it by priority and tells when there is too much of it. So nghttp3 hears of
 * an acknowledgement right after the write. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

#define GLITCH_ABORT    16 /* points: a request that was given up before it was answered */
#define GLITCH_DONE     4  /* and what one that was answered takes off */
#define STREAMS_AHEAD   1024
#define MAX_QPACK_QUEUE ((size_t)64 * 1024) /* unsent bytes of answers to the peer's encoder */

void es_h3_limits_default(struct es_h3_limits *l)
{
    memset(l, 0, sizeof *l);
    l->max_header = (uint64_t)64 * 1024;
    l->max_fields = 100;
    l->max_target = (size_t)16 * 1024;
    l->max_informs = 16;
    l->head_timeout = 10 * ES_SECOND;
    l->qpack_table = 4096;
    l->qpack_blocked = 16;
}

/* ---- nghttp3 ---- */

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
        for (nghttp3_ssize i = 0; i < n && rc == 0; i++) {
            rc = send_vec(h, s, id, &vec[i], fin && i + 1 == n);
            total += vec[i].len;
        }
        if (n == 0 && fin) {
            rc = es_link_write(s, NULL, 0, 1);
        }
        if (rc == ES_ERR_NOMEM) {
            es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
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

void es_h3_pump(struct es_h3 *h)
{
    es_h3_ref(h);
    drain(h);
    while (es_h3_usable(h) && !es_list_empty(&h->chores)) {
        struct es_exchange *x = es_container_of(h->chores.next, struct es_exchange, chore);

        es_list_remove(&x->chore);
        es_exchange_chores(x);
        drain(h);
    }
    if (h->bound && es_h3_usable(h) && es_link_queued(h->out[H3_DECODER]) > MAX_QPACK_QUEUE) {
        es_h3_close(h, ES_H3_EXCESSIVE_LOAD,
                    "the peer does not take what it is told about its header tables");
    }
    es_h3_unref(h);
}

void es_h3_check_idle(struct es_h3 *h)
{
    if (h->goaway > 1 && h->in_flight == 0 && !h->closed) {
        es_h3_tell(h, ES_H3_IDLE);
    }
}

/* ---- what the link says ---- */

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
    }
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
    if (!h->server) {
        es_h3_close(h, ES_H3_STREAM_CREATION_ERROR, "a server opens no two-way streams");
        return;
    }
    /* The library wants to know which streams PRIORITY_UPDATE may name before they are opened. */
    if (s->id / 4 + STREAMS_AHEAD / 2 > h->peer_streams) {
        h->peer_streams = s->id / 4 + STREAMS_AHEAD;
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
static void on_head_timer(struct es_timer *t)
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

static void on_data(void *user, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct es_h3 *h = user;
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
    if (x == NULL) { /* one-way: those that matter may not be closed (RFC 9114 6.2.1) */
        rc = (s->id & 2) != 0 ? nghttp3_conn_close_stream(h->nc, s->id, code) : 0;
        if (rc != 0 && rc != NGHTTP3_ERR_STREAM_NOT_FOUND) {
            es_h3_fail(h, rc);
        }
        return;
    }
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
    if (x == NULL) {
        if ((s->id & 2) != 0) { /* one of our three */
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
    if (x != NULL && x->tx_blocked) {
        x->tx_blocked = 0;
        es_exchange_tell(x, ES_EX_WRITABLE);
    }
}

static void on_sent(void *user, struct es_link_stream *s)
{
    struct es_h3 *h = user;
    struct es_exchange *x = es_exchange_of(s);

    if (x != NULL && !x->ours && h->link != NULL) {
        es_glitch_forgive(&h->link->glitch, GLITCH_DONE);
    }
}

static void on_stream_closed(void *user, struct es_link_stream *s)
{
    struct es_h3 *h = user;
    struct es_exchange *x = es_exchange_of(s);
    int rc;

    if (x == NULL && (s->id & 2) != 0) {
        es_h3_oneway_closed(s->user);
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
        es_exchange_detach(x);
    }
    if (es_h3_usable(h)) {
        es_h3_pump(h);
    }
}

static void on_datagram(void *user, const uint8_t *p, size_t n)
{
    (void)user; /* H3_DATAGRAM is not announced: RFC 9297 2.1 lets us drop them */
    (void)p;
    (void)n;
}

static void on_hold_low(void *user)
{
    (void)user; /* who writes waits for its own stream only */
}

static void delete_library(struct es_h3 *h)
{
    if (!h->poisoned) {
        nghttp3_conn_del(h->nc);
    }
    h->nc = NULL;
}

static void on_closed(void *user, const struct es_close_info *info)
{
    struct es_h3 *h = user;

    h->info = *info;
    h->closed = 1;
    h->failed = 1;
    h->link = NULL; /* first: nothing below may use it */
    memset(h->out, 0, sizeof h->out);
    es_timer_stop(h->config->timers, &h->head_timer);
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
    es_buf_free(&h->control.frame);
    delete_library(h);
    es_h3_tell(h, ES_H3_CLOSED);
    es_h3_unref(h);
}

static const struct es_link_events link_events = {.established = on_established,
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
                                                  .closed = on_closed};

/* ---- life ---- */

static int new_library(struct es_h3 *h)
{
    const struct es_h3_config *cfg = h->config;
    nghttp3_settings st;
    int rc;

    nghttp3_settings_default(&st);
    st.max_field_section_size = cfg->limits.max_header;
    st.qpack_max_dtable_capacity = cfg->limits.qpack_table;
    st.qpack_blocked_streams = cfg->limits.qpack_blocked;
    st.enable_connect_protocol = h->server && cfg->connect;
    if (!h->server) {
        rc = nghttp3_conn_client_new(&h->nc, &es_h3_callbacks, &st, es_h3_mem(), h);
    } else {
        rc = nghttp3_conn_server_new(&h->nc, &es_h3_callbacks, &st, es_h3_mem(), h);
    }
    if (rc == 0 && h->server) {
        h->peer_streams = STREAMS_AHEAD;
        nghttp3_conn_set_max_client_streams_bidi(h->nc, STREAMS_AHEAD);
    }
    return rc == 0 ? 0 : ES_ERR_NOMEM;
}

static int attach(struct es_app *app, struct es_link *link, void *arg)
{
    const struct es_h3_config *cfg = app->user;
    struct es_h3_dial *dial = arg;
    struct es_h3 *h = es_calloc(1, sizeof *h);

    if (h == NULL) {
        return ES_ERR_NOMEM;
    }
    h->refs = 1; /* the link's */
    h->config = cfg;
    h->server = link->is_server;
    h->user = dial != NULL ? dial->user : cfg->user;
    es_idmap_init(&h->by_id, (uint64_t)(uintptr_t)h);
    es_list_init(&h->exchanges);
    es_list_init(&h->headless);
    es_list_init(&h->chores);
    es_list_init(&h->waiting);
    es_list_init(&h->oneways);
    es_timer_init(&h->head_timer, on_head_timer, h);
    if (new_library(h) != 0) {
        es_free(h);
        return ES_ERR_NOMEM;
    }
    h->link = link;
    link->glitch_code = ES_H3_EXCESSIVE_LOAD;
    es_link_attach(link, &link_events, h);
    if (dial != NULL) {
        h->refs++;
        dial->h3 = h;
    }
    return 0;
}

void es_h3_app_init(struct es_app *app, const struct es_h3_config *config)
{
    memset(app, 0, sizeof *app);
    app->alpn = ES_H3_ALPN;
    app->attach = attach;
    app->takes_early = 1; /* what is not safe waits: callbacks.c */
    app->user = (void *)(uintptr_t)config;
}

void es_h3_ref(struct es_h3 *h)
{
    h->refs++;
}

void es_h3_unref(struct es_h3 *h)
{
    if (--h->refs != 0) {
        return;
    }
    void (*gone)(void *) = h->config->gone;
    void *user = h->user;

    delete_library(h);
    es_idmap_free(&h->by_id);
    es_free(h);
    if (gone != NULL) {
        gone(user); /* last: it may free the configuration */
    }
}

void *es_h3_user(const struct es_h3 *h)
{
    return h->user;
}

void es_h3_set_user(struct es_h3 *h, void *user)
{
    h->user = user;
}

struct es_link *es_h3_link(const struct es_h3 *h)
{
    return h->link;
}

int es_h3_is_server(const struct es_h3 *h)
{
    return h->server;
}

const struct es_close_info *es_h3_closed_by(const struct es_h3 *h)
{
    return h->closed ? &h->info : NULL;
}

size_t es_h3_in_flight(const struct es_h3 *h)
{
    return h->in_flight;
}

int es_h3_goaway(struct es_h3 *h, int final)
{
    int rc = 0;

    if (!es_h3_usable(h)) {
        return ES_ERR_CLOSED;
    }
    if (!final && h->goaway == 0 && h->server) {
        rc = nghttp3_conn_submit_shutdown_notice(h->nc);
        h->goaway = 1;
    } else if (final && h->goaway < 2) {
        rc = nghttp3_conn_shutdown(h->nc);
        h->goaway = 2;
        es_h3_check_idle(h);
    }
    if (rc != 0) {
        es_h3_fail(h, rc);
        return ES_ERR_NOMEM;
    }
    es_h3_pump(h);
    return 0;
}
