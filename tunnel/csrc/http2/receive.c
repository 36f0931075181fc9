#include "session.h"
#include <stdio.h>
#include <string.h>

static int audible(const struct h2_exchange *e)
{
    return e->opened && !e->released && !e->told_reset && e->why == 0;
}

static struct h2_exchange *exchange_of(struct h2_conn *c, int32_t id)
{
    return id != 0 ? nghttp2_session_get_stream_user_data(c->session, id) : NULL;
}

/* Heads. */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2_conn *c = user;
    struct h2_exchange *e = exchange_of(c, frame->hd.stream_id);
    enum et_head_kind kind = ET_HEAD_TRAILERS;

    if (frame->hd.type != NGHTTP2_HEADERS) {
        return 0;
    }
    if (c->role == ET_HTTP_VISITOR && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        e = h2_exchange_new(c);
        if (e == NULL) {
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
        e->id = frame->hd.stream_id;
        e->sent = 1;
        (void)nghttp2_session_set_stream_user_data(session, e->id, e);
        kind = ET_HEAD_REQUEST;
    } else if (e != NULL && c->role == ET_HTTP_BACKEND && !e->head_in) {
        kind = ET_HEAD_RESPONSE;
    }
    if (e == NULL) {
        return 0;
    }
    et_head_del(e->in);
    e->in = et_head_new(kind);
    e->in_bytes = e->in_fields = 0;
    if (e->in == NULL) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    c->head_since = c->now;
    h2_arm(c, c->now + c->limits.head_timeout);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t nn,
                     const uint8_t *value, size_t nv, uint8_t flags, void *user)
{
    struct h2_conn *c = user;
    struct h2_exchange *e = exchange_of(c, frame->hd.stream_id);
    int rc;

    if (frame->hd.type != NGHTTP2_HEADERS || e == NULL || e->in == NULL) {
        return 0;
    }
    e->in_bytes += nn + nv;
    if (e->bad) {
        /* The rest of a block is decoded, or the tables would differ; but some bytes may stand for very many.
         */
        if (e->in_bytes > 16 * c->limits.head_bytes && !c->failed) {
            h2_terminate(c, NGHTTP2_ENHANCE_YOUR_CALM, "a head of an absurd size");
        }
        return 0;
    }
    rc = h2_field_in(e, name, nn, value, nv);
    if (rc < 0) {
        c->head_since = 0;
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (rc > 0) {
        e->bad = 1;
        e->refuse = rc;
    }
    return 0;
}

/* By default the library leaves such a field out and goes on; we are stricter: PROTOCOL_ERROR. */
static int on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name,
                             nghttp2_rcbuf *value, uint8_t flags, void *user)
{
    struct h2_conn *c = user;
    struct h2_exchange *e = exchange_of(c, frame->hd.stream_id);

    c->head_since = 0; /* nothing more is told of this head but that the frame is invalid */
    if (e != NULL && e->why == 0) {
        e->why = ET_RESET_PROTOCOL;
        e->text = "a field is malformed";
    }
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static void request_came(struct h2_conn *c, struct h2_exchange *e, int fin)
{
    struct et_head *h = e->in;
    int rc = e->bad ? e->refuse : h2_fields_end(e);

    e->head_in = 1;
    e->end_in = fin != 0;
    if (rc != 0) {
        h2_answer(e, rc < 0 ? 500 : rc, 0, "the request's head was refused");
        return;
    }
    c->requests++;
    if (c->limits.max_requests != 0 && c->requests >= c->limits.max_requests) {
        h2_drain(c);
    }
    if (c->closing || c->h.events->opened(c->h.user, &e->x) != ES_OK) {
        h2_reset(e, NGHTTP2_REFUSED_STREAM);
        return;
    }
    e->opened = 1;
    e->in = NULL;
    e->in_tick = e->rate_at = c->now;
    if (!fin) {
        h2_arm(c, c->now + c->limits.body_timeout);
        if (c->limits.min_body_rate != 0) {
            h2_arm(c, c->now + 10 * ES_SECOND);
        }
    }
    e->x.events->head(e->x.user, h, fin);
}

static void response_came(struct h2_conn *c, struct h2_exchange *e, int fin)
{
    struct et_head *h = e->in;
    int status;

    if (!audible(e)) {
        return;
    }
    if (e->bad) {
        h2_fail(e, e->refuse == 400 ? ET_RESET_PROTOCOL : ET_RESET_ENHANCE_CALM,
                "the response's head is malformed or over the limits");
        return;
    }
    status = et_head_status(h);
    if (status < 200) {
        if (++e->informational > H2_MAX_INFORMATION) {
            h2_fail(e, ET_RESET_ENHANCE_CALM, "too many informational heads");
            return;
        }
        fin = 0;
    } else {
        e->head_in = 1;
        e->end_in = fin != 0;
        e->tunnel = e->connect && status < 300;
    }
    e->in = NULL;
    e->x.events->head(e->x.user, h, fin);
}

static void trailers_came(struct h2_exchange *e, int fin)
{
    struct et_head *h = e->in;

    if (!audible(e)) {
        return;
    }
    if (e->bad || !fin) {
        h2_fail(e, e->bad && e->refuse != 400 ? ET_RESET_ENHANCE_CALM : ET_RESET_PROTOCOL,
                "trailers are malformed or over the limits");
        return;
    }
    e->end_in = 1;
    if (et_head_count(h) == 0) {
        h = NULL;
    } else {
        e->in = NULL;
    }
    e->x.events->end(e->x.user, h);
}

static void headers_came(struct h2_conn *c, struct h2_exchange *e, const nghttp2_frame *frame)
{
    int fin = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;

    c->head_since = 0;
    if (e == NULL || e->in == NULL) {
        return;
    }
    switch (et_head_kind(e->in)) {
    case ET_HEAD_REQUEST:
        request_came(c, e, fin);
        break;
    case ET_HEAD_RESPONSE:
        response_came(c, e, fin);
        break;
    case ET_HEAD_TRAILERS:
        trailers_came(e, fin);
        break;
    }
    et_head_del(e->in); /* what was given to the user is not here any more */
    e->in = NULL;
    es_buf_free(&e->cookie);
    es_buf_free(&e->host);
}

/* Bodies. */

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
                         void *user)
{
    struct h2_conn *c = user;
    struct h2_exchange *e = exchange_of(c, id);

    /* Connection credit on receipt: a slow reader holds up its own stream only. */
    if (nghttp2_session_consume_connection(session, n) != 0) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    if (e == NULL || !audible(e)) {
        return 0; /* the stream is being reset: it gets no more credit */
    }
    e->in_tick = c->now;
    e->rate_n += n;
    e->in_grown += n;
    e->x.unread += n;
    e->x.events->body(e->x.user, p, n);
    return 0;
}

static void data_came(struct h2_conn *c, struct h2_exchange *e, const nghttp2_frame *frame)
{
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) {
        if (frame->hd.length == 0 || frame->data.padlen == frame->hd.length) {
            h2_charge(c, &c->glitch, 4);
        }
        return;
    }
    if (e != NULL && !e->end_in) {
        e->end_in = 1;
        if (audible(e)) {
            e->x.events->end(e->x.user, NULL);
        }
    }
}

/* Frames of control. */

static void priority_came(struct h2_conn *c, const nghttp2_ext_priority_update *u)
{
    struct h2_priority *p;

    if (u == NULL || u->field_value_len > sizeof(p->text) || exchange_of(c, u->stream_id) != NULL) {
        return; /* of a request that is under way: the library heeds it when it sends */
    }
    p = &c->priority[c->priority_next++ % H2_PRIORITIES];
    for (unsigned i = 0; i < H2_PRIORITIES; i++) {
        if (c->priority[i].id == u->stream_id) {
            p = &c->priority[i];
        }
    }
    p->id = u->stream_id;
    p->n = u->field_value_len;
    memcpy(p->text, u->field_value, u->field_value_len);
}

static void settings_came(struct h2_conn *c, const nghttp2_frame *frame)
{
    if (frame->hd.flags & NGHTTP2_FLAG_ACK) {
        return;
    }
    if (c->settings_in) {
        h2_charge(c, &c->glitch, 16);
    }
    c->settings_in = 1;
    c->ready = 1;
    h2_start_waiting(c);
}

static void ping_came(struct h2_conn *c, const nghttp2_frame *frame)
{
    if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
        h2_charge(c, &c->echoes, 1);
    } else if (c->drain_at != 0 && memcmp(frame->ping.opaque_data, "draining", 8) == 0) {
        c->drain_at = c->now; /* the first GOAWAY was read: the second may go */
        h2_timer(c);
    }
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2_conn *c = user;
    struct h2_exchange *e = exchange_of(c, frame->hd.stream_id);

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        headers_came(c, e, frame);
        break;
    case NGHTTP2_DATA:
        data_came(c, e, frame);
        break;
    case NGHTTP2_SETTINGS:
        settings_came(c, frame);
        break;
    case NGHTTP2_PING:
        ping_came(c, frame);
        break;
    case NGHTTP2_GOAWAY:
        if (c->goaway_in) {
            h2_charge(c, &c->glitch, 16);
        }
        c->goaway_in = c->ready = 1;
        if (frame->goaway.error_code != NGHTTP2_NO_ERROR) {
            char text[96];

            snprintf(text, sizeof(text), "the peer's GOAWAY says %s",
                     nghttp2_http2_strerror(frame->goaway.error_code));
            h2_because(c, ES_ERR_CLOSED, text);
        }
        break;
    case NGHTTP2_RST_STREAM:
        /* A request that is given up at once has cost a backend's work all the same (CVE-2023-44487); calls
         * whose deadline passed are many when a backend is slow, too. */
        h2_charge(
            c, &c->glitch,
            e != NULL && !e->head_out && c->role == ET_HTTP_VISITOR && c->now - e->begun < H2_RAPID ? 8 : 1);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        h2_charge(c, &c->echoes, 1);
        break;
    case NGHTTP2_PRIORITY_UPDATE:
        h2_charge(c, &c->glitch, 1);
        priority_came(c, frame->ext.payload);
        break;
    default:
        break;
    }
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user)
{
    struct h2_conn *c = user;
    struct h2_exchange *e = exchange_of(c, frame->hd.stream_id);

    if (frame->hd.type == NGHTTP2_HEADERS) {
        c->head_since = 0;
    }
    if (e != NULL && e->why == 0) {
        e->why = ET_RESET_PROTOCOL;
        e->text = "the peer's message is malformed";
    }
    if (e != NULL && !e->opened) {
        h2_refused(c, 400, nghttp2_strerror(error));
    }
    h2_charge(c, &c->glitch, 16);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    struct h2_exchange *e = exchange_of(user, id);

    if (e == NULL) {
        return 0;
    }
    if (e->end_in && e->end_out && code == NGHTTP2_NO_ERROR) {
        es_glitch_forgive(&e->c->glitch, 8);
        h2_over(e, 0, NULL);
    } else if (code == NGHTTP2_NO_ERROR && e->c->role == ET_HTTP_VISITOR && !e->end_out) {
        h2_over(e, ET_RESET_CANCEL, "reset by the peer");
    } else {
        h2_over(e, h2_reset_of(code), nghttp2_http2_strerror(code));
    }
    return 0;
}

/* What we send. */

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2_conn *c = user;
    struct h2_exchange *e = exchange_of(c, frame->hd.stream_id);

    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
        h2_because(c, ES_ERR_PROTOCOL,
                   c->hint[0] != '\0' ? c->hint : nghttp2_http2_strerror(frame->goaway.error_code));
        if (!c->told_refused) {
            h2_refused(c, 400, c->why);
        }
    }
    if (e == NULL || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)) {
        return 0;
    }
    e->sent = 1;
    if (frame->hd.type == NGHTTP2_DATA) {
        /* Many answer each piece that they read with two WINDOW_UPDATEs, or measure the way with PINGs. */
        es_glitch_expect(&c->echoes, 4 + frame->hd.length / 512);
    }
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
        e->end_out = 1;
        /* RFC 9113 8.1: the answer is complete, what is left of the request is not wanted. */
        if (e->stop_after || (c->role == ET_HTTP_VISITOR && !e->end_in && !e->tunnel)) {
            if (e->why == 0) {
                e->why = ET_RESET_NO_ERROR;
                e->text = "the response ended before its request";
            }
            h2_reset(e, NGHTTP2_NO_ERROR);
        }
    }
    return 0;
}

static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user)
{
    struct h2_conn *c = user;

    if (frame->hd.type != NGHTTP2_HEADERS) {
        return 0;
    }
    es_list_foreach(it, &c->exchanges)
    {
        struct h2_exchange *e = es_container_of(it, struct h2_exchange, link);

        if (e->id == frame->hd.stream_id) {
            if (c->role == ET_HTTP_BACKEND && !e->sent) {
                h2_over(e, error == NGHTTP2_ERR_FRAME_SIZE_ERROR ? ET_RESET_INTERNAL : ET_RESET_REFUSED,
                        nghttp2_strerror(error));
            } else if (error != NGHTTP2_ERR_STREAM_CLOSED && error != NGHTTP2_ERR_STREAM_CLOSING) {
                h2_fail(e, ET_RESET_INTERNAL, nghttp2_strerror(error));
            }
            break;
        }
    }
    return 0;
}

static int on_error(nghttp2_session *session, int code, const char *text, size_t n, void *user)
{
    struct h2_conn *c = user;

    snprintf(c->hint, sizeof(c->hint), "%.*s", (int)n, text);
    return 0;
}

int h2_callbacks(nghttp2_session_callbacks **out)
{
    nghttp2_session_callbacks *cb;

    if (nghttp2_session_callbacks_new(&cb) != 0) {
        return ES_ERR_NOMEM;
    }
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback2(cb, on_invalid_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(cb, h2_send_data);
    nghttp2_session_callbacks_set_error_callback2(cb, on_error);
    *out = cb;
    return ES_OK;
}
