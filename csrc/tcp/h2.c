/* HTTP/2: the callbacks of nghttp2. They move bytes, count and make up-calls; nothing here sends. */
#include <string.h>
#include "internal.h"

/* What a request is for, by its path. */
enum { OPEN_BIDI, OPEN_UNI, OFFER_BIDI, OFFER_UNI };
static const char *const paths[] = {"/stream", "/one-way", "/offer/stream", "/offer/one-way"};

static struct tcp_stream *find(struct tcp_conn *c, int32_t id)
{
    return nghttp2_session_get_stream_user_data(c->h2, id);
}

/* ---- sending ---- */

static ssize_t read_queue(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t room, uint32_t *flags,
                          nghttp2_data_source *source, void *user)
{
    struct tcp_conn *c = user;
    struct tcp_stream *s = source->ptr;
    int32_t left;
    size_t n;

    if (c->turn != s) { /* write.c says whose turn it is */
        return NGHTTP2_ERR_DEFERRED;
    }
    c->turn = NULL;
    /* The last byte of a window is never used, so that the end can always be told: without a byte of window
     * nghttp2 would not even send an empty frame. */
    left = nghttp2_session_get_stream_remote_window_size(h2, id) - 1;
    n = left <= 0 ? 0 : (size_t)left < room ? (size_t)left : room;
    n = tcp_stream_take(s, buf, n);
    if (s->unsent == 0 && s->fin) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        tcp_stream_ended(s);
    } else if (n == 0) {
        return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

#define NV(name, value)                                                                                      \
    {                                                                                                        \
        (uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), sizeof(name) - 1, strlen(value),        \
            NGHTTP2_NV_FLAG_NO_COPY_NAME                                                                     \
    }

static int submitted(struct tcp_conn *c, int rv)
{
    if (rv >= 0) {
        return 0;
    }
    if (rv == NGHTTP2_ERR_NOMEM) {
        return ES_ERR_NOMEM;
    }
    tcp_fail(c, rv == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE ? "this connection has used up its stream numbers"
                                                          : nghttp2_strerror(rv));
    return ES_ERR_CLOSED;
}

int tcp_h2_submit(struct tcp_conn *c, struct tcp_stream *s)
{
    nghttp2_data_provider from = {.source.ptr = s, .read_callback = read_queue};
    int writes = !s->send_over && !(s->parked && s->dir == ES_DIR_UNI), rv;

    if (c->link.is_server) {
        const nghttp2_nv answer[] = {NV(":status", "200")};
        rv = nghttp2_submit_response(c->h2, s->id, answer, 1, writes ? &from : NULL);
    } else {
        const char *name = c->peer.tls->server_name[0] != '\0' ? c->peer.tls->server_name : "echostream";
        const char *path = paths[(s->parked ? OFFER_BIDI : OPEN_BIDI) + s->dir];
        const nghttp2_nv ask[] = {NV(":method", "POST"), NV(":scheme", "https"), NV(":authority", name),
                                  NV(":path", path)};
        rv = nghttp2_submit_request(c->h2, NULL, ask, 4, writes ? &from : NULL, s);
        if (rv > 0) {
            tcp_stream_number(s, rv, s->parked);
        }
    }
    s->head = 1;
    return submitted(c, rv);
}

int tcp_h2_ping(struct tcp_conn *c)
{
    uint8_t number[8];

    tcp_put64(number, c->pings + 1);
    if (nghttp2_submit_ping(c->h2, NGHTTP2_FLAG_NONE, number) != 0) {
        return ES_ERR_NOMEM;
    }
    c->pinged = ++c->pings;
    c->ping_at = tcp_now(c);
    return 0;
}

static int on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    struct tcp_conn *c = user;
    struct tcp_stream *s;

    (void)h2;
    if (frame->hd.type == NGHTTP2_GOAWAY) { /* not ours, which write.c makes: nghttp2 has given the peer up */
        tcp_fail(c, c->liberr != 0 ? nghttp2_strerror(c->liberr) : "what came is no HTTP/2");
    } else if (frame->hd.type == NGHTTP2_HEADERS && (s = find(c, frame->hd.stream_id)) != NULL) {
        s->headed = 1;
        if (s->want_reset || s->want_stop || s->credit > 0) {
            tcp_stream_op(s);
        }
        tcp_stream_make_ready(s);
    }
    return 0;
}

/* ---- what comes ---- */

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    ((struct tcp_conn *)user)->kind = -1;
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t name_n,
                     const uint8_t *value, size_t n, uint8_t flags, void *user)
{
    struct tcp_conn *c = user;

    if (!c->link.is_server && name_n == 7 && memcmp(name, ":status", 7) == 0) {
        c->kind = n == 3 && memcmp(value, "200", 3) == 0 ? 0 : -1;
    } else if (c->link.is_server && name_n == 5 && memcmp(name, ":path", 5) == 0) {
        for (int i = OPEN_BIDI; i <= OFFER_UNI; i++) {
            if (n == strlen(paths[i]) && memcmp(value, paths[i], n) == 0) {
                c->kind = i;
            }
        }
    }
    return 0;
}

/* Server: a request is there. */
static void on_request(struct tcp_conn *c, const nghttp2_frame *frame)
{
    int dir = c->kind & 1, offer = c->kind >= OFFER_BIDI, end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    struct tcp_stream *s;

    if (c->kind < 0) {
        tcp_fail(c, "a request for something that is not here");
        return;
    }
    if (offer && (!end == (dir == ES_DIR_UNI) || c->n_parked[dir] >= TCP_PARKED_MAX)) {
        tcp_fail(c, end ? "an offer that has ended, or too many" : "too many offers, or one without an end");
        return;
    }
    if (!offer && c->opened[dir]++ >= c->granted[dir]) {
        tcp_fail(c, "more streams than allowed");
        return;
    }
    s = tcp_stream_new(c, dir, !offer);
    if (s == NULL) {
        tcp_end(c, ES_CLOSE_ERROR, ES_ERR_NOMEM, 1, ES_APP_INTERNAL, "out of memory");
        return;
    }
    tcp_stream_number(s, frame->hd.stream_id, offer);
    (void)nghttp2_session_set_stream_user_data(c->h2, s->id, s);
    if (offer) {
        s->parked = 1;
        es_list_remove(&s->all);
        es_list_push(&c->parked[dir], &s->all);
        c->n_parked[dir]++;
        c->credit_due |= c->short_of & 1u << dir;
        return;
    }
    tcp_stream_known(s);
    if (dir == ES_DIR_UNI) {
        tcp_stream_op(s); /* the answer, which is empty */
    }
    if (end) {
        tcp_stream_got_fin(s);
    }
}

/* Client: the head of an answer; to an offer: the server has taken it. */
static void on_answer(struct tcp_conn *c, struct tcp_stream *s)
{
    if (c->kind != 0) {
        tcp_fail(c, "an answer that is not 200");
        return;
    }
    if (s->parked) {
        s->parked = 0;
        s->remote = 1;
        s->send_over = s->dir == ES_DIR_UNI;
        s->recv_over = 0;
        es_list_remove(&s->all);
        es_list_push(&c->streams, &s->all);
        if (--c->n_parked[s->dir] < c->park[s->dir] / 4 && c->park[s->dir] < 512) {
            c->park[s->dir] *= 2;
        }
        tcp_stream_known(s);
    }
}

static void read_settings(struct tcp_conn *c, const nghttp2_settings *f)
{
    uint64_t idle = 0;

    for (size_t i = 0; i < f->niv; i++) {
        uint32_t v = f->iv[i].value;
        switch (f->iv[i].settings_id) {
        case SETTING_DATAGRAM:
            c->peer_datagram = v;
            break;
        case SETTING_IDLE:
            idle = v * ES_MILLI;
            break;
        case SETTING_BIDI:
        case SETTING_UNI:
            if (!c->link.is_server && !c->greeted) {
                int dir = f->iv[i].settings_id == SETTING_UNI;
                c->granted[dir] = c->left[dir] = v;
            }
            break;
        default:
            break;
        }
    }
    if (!c->greeted) {
        c->greeted = 1;
        if (idle != 0 && (c->idle == 0 || idle < c->idle)) {
            c->idle = idle;
        }
        if (!c->link.is_server) {
            tcp_established(c);
        }
    }
    tcp_unblock(c, NULL);
}

/* The peer closes: with what our GOAWAY says behind HTTP/2's own fields, or another implementation's. */
static void on_goaway(struct tcp_conn *c, const nghttp2_goaway *g)
{
    enum es_close_cause cause = c->established ? ES_CLOSE_PEER : ES_CLOSE_HANDSHAKE;
    char text[256] = "";

    if (g->opaque_data_len < 9 || g->opaque_data[0] > 1) {
        tcp_end(c, cause, ES_ERR_CLOSED, 0, g->error_code, "");
        return;
    }
    size_t n = g->opaque_data_len - 9 < sizeof text - 1 ? g->opaque_data_len - 9 : sizeof text - 1;
    for (size_t i = 0; i < n; i++) {
        uint8_t ch = g->opaque_data[9 + i];
        text[i] = ch < ' ' || ch == 0x7f ? '?' : (char)ch;
    }
    tcp_end(c, cause, ES_ERR_CLOSED, g->opaque_data[0] == 1, tcp_get64(g->opaque_data + 1), text);
}

static void on_ping(struct tcp_conn *c, const nghttp2_ping *f)
{
    uint64_t took = tcp_now(c) - c->ping_at;

    if (!(f->hd.flags & NGHTTP2_FLAG_ACK)) {
        (void)es_link_glitch(&c->link, tcp_now(c), 1, "PINGs without end");
        return;
    }
    if (c->pinged == 0 || tcp_get64(f->opaque_data) != c->pinged) {
        (void)es_link_glitch(&c->link, tcp_now(c), 1, "answers to PINGs that were not sent");
        return;
    }
    c->rtt_latest = took > 0 ? took : 1;
    c->rtt_min = c->rtt_min == 0 || took < c->rtt_min ? c->rtt_latest : c->rtt_min;
    c->rtt_smoothed = c->rtt_smoothed == 0 ? c->rtt_latest : (7 * c->rtt_smoothed + c->rtt_latest) / 8;
    c->acked = c->pinged;
    c->pinged = 0;
    tcp_acked(c, c->acked);
}

static int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    struct tcp_conn *c = user;
    struct tcp_stream *s = frame->hd.stream_id != 0 ? find(c, frame->hd.stream_id) : NULL;

    (void)h2;
    if (c->state >= TCP_ENDED || c->close_asked) {
        return 0;
    }
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
            on_request(c, frame);
            break;
        }
        if (s != NULL && frame->headers.cat == NGHTTP2_HCAT_RESPONSE) {
            on_answer(c, s);
        }
        /* fall through */
    case NGHTTP2_DATA:
        if (s != NULL && frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
            tcp_stream_got_fin(s);
        }
        break;
    case NGHTTP2_SETTINGS:
        if (!(frame->hd.flags & NGHTTP2_FLAG_ACK)) {
            if (c->greeted && es_link_glitch(&c->link, tcp_now(c), 16, "SETTINGS without end")) {
                break;
            }
            read_settings(c, &frame->settings);
        }
        break;
    case NGHTTP2_PING:
        on_ping(c, &frame->ping);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        tcp_unblock(c, s);
        break;
    case NGHTTP2_GOAWAY:
        on_goaway(c, &frame->goaway);
        break;
    default:
        break;
    }
    return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *user)
{
    struct tcp_conn *c = user;
    struct tcp_stream *s = find(c, id);

    c->conn_credit += n;
    if (c->state >= TCP_ENDED || c->close_asked) {
        return 0;
    }
    if (s == NULL || s->stopped || s->recv_over || s->parked || !s->known) {
        if (s != NULL && s->parked) {
            tcp_fail(c, "data on an offer that was not taken");
        } else if (s != NULL) {
            s->credit += n;
            tcp_stream_op(s);
        }
        return 0;
    }
    if (n > 0) {
        es_glitch_forgive(&c->link.glitch, 1);
        c->link.events->data(c->link.user, &s->s, p, n, 0);
    }
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *user)
{
    struct tcp_conn *c = user;
    struct tcp_stream *s = find(c, id);

    if (s == NULL) {
        return 0;
    }
    s->over = 1;
    (void)nghttp2_session_set_stream_user_data(h2, id, NULL);
    if (!s->known) {
        tcp_stream_retire(s);
        return 0;
    }
    if (code != NGHTTP2_NO_ERROR) { /* not our way of ending streams: both directions are lost */
        tcp_stream_got_stop(s, ES_APP_INTERNAL);
        tcp_stream_got_reset(s, ES_APP_INTERNAL);
        s->shut = s->send_over = 1;
        es_list_remove(&s->unacked);
        tcp_stream_drop(s);
    }
    tcp_stream_maybe_close(s);
    return 0;
}

static int on_invalid_frame(nghttp2_session *h2, const nghttp2_frame *frame, int liberr, void *user)
{
    ((struct tcp_conn *)user)->liberr = liberr;
    return 0;
}

/* ---- frames of ours ---- */

static int on_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *hd, void *user)
{
    if (hd->type == FRAME_TYPE) {
        es_buf_clear(&((struct tcp_conn *)user)->ext);
    }
    return 0;
}

static int on_extension_chunk(nghttp2_session *h2, const nghttp2_frame_hd *hd, const uint8_t *p, size_t n,
                              void *user)
{
    struct tcp_conn *c = user;

    return es_buf_put(&c->ext, p, n) == 0 ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static void on_streams(struct tcp_conn *c, const uint8_t *p, size_t n)
{
    if (n == 9 && p[0] <= 1 && !c->link.is_server) {
        uint64_t v = tcp_get64(p + 1);
        if (v > c->granted[p[0]]) {
            c->left[p[0]] += v - c->granted[p[0]];
            c->granted[p[0]] = v;
            c->credit_due |= 1u << p[0];
            return;
        }
    }
    (void)es_link_glitch(&c->link, tcp_now(c), 16, "frames of no use");
}

static void on_stream_frame(struct tcp_conn *c, const nghttp2_frame_hd *hd, const uint8_t *p)
{
    struct tcp_stream *s = find(c, hd->stream_id);

    if (s == NULL || s->parked) { /* it may have ended meanwhile */
        (void)es_link_glitch(&c->link, tcp_now(c), 1, "frames of streams that are over");
    } else if (p[0] == KIND_RESET) {
        tcp_stream_got_reset(s, tcp_get64(p + 1));
    } else {
        tcp_stream_got_stop(s, tcp_get64(p + 1));
    }
}

static int on_extension(nghttp2_session *h2, void **payload, const nghttp2_frame_hd *hd, void *user)
{
    struct tcp_conn *c = user;
    const uint8_t *p = c->ext.p;
    size_t n = c->ext.n;

    *payload = NULL;
    if (c->state >= TCP_ENDED || c->close_asked || n == 0) {
        return 0;
    }
    if ((p[0] == KIND_RESET || p[0] == KIND_STOP) && n == 9 && hd->stream_id != 0) {
        on_stream_frame(c, hd, p);
    } else if (p[0] == KIND_DATAGRAM && hd->stream_id == 0 && c->established &&
               n - 1 <= c->cfg.max_datagram) {
        c->link.events->datagram(c->link.user, p + 1, n - 1);
    } else if (p[0] == KIND_STREAMS && hd->stream_id == 0) {
        on_streams(c, p + 1, n - 1);
    } else if (p[0] == KIND_READY && c->link.is_server && c->greeted && !c->established) {
        tcp_established(c);
    } else {
        (void)es_link_glitch(&c->link, tcp_now(c), 16, "frames of no use");
    }
    return 0;
}

/* ---- life ---- */

static void *mem_malloc(size_t n, void *user)
{
    return es_malloc(n);
}
static void mem_free(void *p, void *user)
{
    es_free(p);
}
static void *mem_calloc(size_t n, size_t m, void *user)
{
    return es_calloc(n, m);
}
static void *mem_realloc(void *p, size_t n, void *user)
{
    return es_realloc(p, n);
}

static void set_callbacks(nghttp2_session_callbacks *cb)
{
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_extension_chunk_recv_callback(cb, on_extension_chunk);
    nghttp2_session_callbacks_set_unpack_extension_callback(cb, on_extension);
}

static uint32_t at_most(uint64_t v, uint64_t max)
{
    return (uint32_t)(v < max ? v : max);
}

static int greet(struct tcp_conn *c)
{
    const struct es_transport_config *cfg = &c->cfg;
    /* Streams are counted by us, not by HTTP/2, which would count those that still send. */
    nghttp2_settings_entry s[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, c->link.is_server ? INT32_MAX : 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, at_most(cfg->stream_window, INT32_MAX - 1) + 1},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, 4096},
        {SETTING_DATAGRAM, at_most(cfg->max_datagram, 65535)},
        {SETTING_IDLE, at_most((cfg->idle_timeout + ES_MILLI - 1) / ES_MILLI, UINT32_MAX)},
        {SETTING_BIDI, at_most(cfg->max_streams_bidi, UINT32_MAX)},
        {SETTING_UNI, at_most(cfg->max_streams_uni, UINT32_MAX)},
    };
    int rv = nghttp2_submit_settings(c->h2, NGHTTP2_FLAG_NONE, s + c->link.is_server,
                                     sizeof s / sizeof *s - (size_t)c->link.is_server);

    if (rv == 0) {
        rv = nghttp2_session_set_local_window_size(c->h2, NGHTTP2_FLAG_NONE, 0,
                                                   (int32_t)at_most(cfg->connection_window, INT32_MAX));
    }
    c->granted[ES_DIR_BIDI] = c->link.is_server ? at_most(cfg->max_streams_bidi, UINT32_MAX) : 0;
    c->granted[ES_DIR_UNI] = c->link.is_server ? at_most(cfg->max_streams_uni, UINT32_MAX) : 0;
    c->may_park[ES_DIR_BIDI] = c->link.is_server ? 0 : cfg->max_streams_bidi;
    c->may_park[ES_DIR_UNI] = c->link.is_server ? 0 : cfg->max_streams_uni;
    return rv == 0 ? 0 : ES_ERR_NOMEM;
}

int tcp_h2_start(struct tcp_conn *c)
{
    nghttp2_mem mem = {NULL, mem_malloc, mem_free, mem_calloc, mem_realloc};
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *opt = NULL;
    int rv = -1;

    if (nghttp2_session_callbacks_new(&cb) != 0 || nghttp2_option_new(&opt) != 0) {
        goto out;
    }
    set_callbacks(cb);
    nghttp2_option_set_no_auto_window_update(opt, 1);
    nghttp2_option_set_no_closed_streams(opt, 1);
    nghttp2_option_set_peer_max_concurrent_streams(opt, INT32_MAX);
    nghttp2_option_set_max_send_header_block_length(opt, 4096);
    nghttp2_option_set_user_recv_extension_type(opt, FRAME_TYPE);
    rv = c->link.is_server ? nghttp2_session_server_new3(&c->h2, cb, c, opt, &mem)
                           : nghttp2_session_client_new3(&c->h2, cb, c, opt, &mem);
out:
    nghttp2_option_del(opt);
    nghttp2_session_callbacks_del(cb);
    return rv == 0 ? greet(c) : ES_ERR_NOMEM;
}

void tcp_h2_read(struct tcp_conn *c, const uint8_t *p, size_t n)
{
    ssize_t rv = nghttp2_session_mem_recv(c->h2, p, n);

    if (c->state >= TCP_ENDED || c->close_asked) {
        return;
    }
    if (rv == NGHTTP2_ERR_NOMEM) {
        tcp_end(c, ES_CLOSE_ERROR, ES_ERR_NOMEM, 1, ES_APP_INTERNAL, "out of memory");
    } else if (rv < 0) {
        tcp_fail(c, nghttp2_strerror((int)rv));
    }
}
