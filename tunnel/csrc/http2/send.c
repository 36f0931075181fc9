#include "session.h"
#include <string.h>

uint32_t h2_code_of(enum et_reset why)
{
    switch (why) {
    case ET_RESET_CANCEL:
    case ET_RESET_TIMEOUT:
        return NGHTTP2_CANCEL;
    case ET_RESET_REFUSED:
        return NGHTTP2_REFUSED_STREAM;
    case ET_RESET_PROTOCOL:
        return NGHTTP2_PROTOCOL_ERROR;
    case ET_RESET_ENHANCE_CALM:
        return NGHTTP2_ENHANCE_YOUR_CALM;
    case ET_RESET_NO_ERROR:
        return NGHTTP2_NO_ERROR;
    case ET_RESET_TRUNCATED:
    case ET_RESET_INTERNAL:
        break;
    }
    return NGHTTP2_INTERNAL_ERROR;
}

enum et_reset h2_reset_of(uint32_t code)
{
    switch (code) {
    case NGHTTP2_NO_ERROR:
        return ET_RESET_NO_ERROR;
    case NGHTTP2_CANCEL:
        return ET_RESET_CANCEL;
    case NGHTTP2_REFUSED_STREAM:
    case NGHTTP2_HTTP_1_1_REQUIRED:
        return ET_RESET_REFUSED;
    case NGHTTP2_PROTOCOL_ERROR:
    case NGHTTP2_FLOW_CONTROL_ERROR:
    case NGHTTP2_STREAM_CLOSED:
    case NGHTTP2_FRAME_SIZE_ERROR:
    case NGHTTP2_COMPRESSION_ERROR:
        return ET_RESET_PROTOCOL;
    case NGHTTP2_CONNECT_ERROR: /* the connection behind a CONNECT broke */
        return ET_RESET_TRUNCATED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return ET_RESET_ENHANCE_CALM;
    default:
        return ET_RESET_INTERNAL;
    }
}

static int lib_error(struct h2_conn *c, int rv)
{
    if (rv == NGHTTP2_ERR_NOMEM) {
        c->failed = 1; /* the library's state is not to be trusted after it */
        h2_dirty(c);
        return ES_ERR_NOMEM;
    }
    return rv == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE ? ES_ERR_CLOSED : ES_ERR_INVAL;
}

static size_t waiting(const struct h2_exchange *e)
{
    return e->out.n - e->off;
}

/* RST_STREAM, HEADERS. */

void h2_reset(struct h2_exchange *e, uint32_t code)
{
    if (e->id > 0 && !e->c->failed &&
        nghttp2_submit_rst_stream(e->c->session, NGHTTP2_FLAG_NONE, e->id, code) != 0) {
        e->c->failed = 1;
    }
    h2_dirty(e->c);
}

/* Nothing that the library still does with the stream finds the exchange any more. */
static void part(struct h2_exchange *e, uint32_t code)
{
    if (e->id > 0) {
        h2_reset(e, code);
    }
    if (e->id > 0 && !e->c->failed) {
        (void)nghttp2_session_set_stream_user_data(e->c->session, e->id, NULL);
    }
}

void h2_fail(struct h2_exchange *e, enum et_reset why, const char *text)
{
    if (e->id != -1) {
        part(e, h2_code_of(why));
        h2_over(e, why, text);
    }
}

void h2_answer(struct h2_exchange *e, int status, enum et_reset why, const char *text)
{
    struct h2_conn *c = e->c;
    struct et_head *h = et_head_new(ET_HEAD_RESPONSE);
    nghttp2_nv *nv = NULL;
    size_t n = 0;
    int rv = NGHTTP2_ERR_NOMEM;

    if (h != NULL && et_head_set_status(h, status) == ES_OK &&
        et_head_add(h, "content-length", 14, "0", 1) == ES_OK &&
        h2_fields_out(h, c->scheme, 0, &nv, &n) == ES_OK) {
        rv = h2_submit_response(c->session, e->id, nv, n, NULL);
    }
    es_free(nv);
    et_head_del(h);
    e->head_out = e->fin_out = 1;
    if (!e->opened && status != 500) {
        h2_refused(c, status, text);
    }
    if (rv != 0) {
        h2_fail(e, why != 0 ? why : ET_RESET_INTERNAL, text);
        return;
    }
    if (e->opened && !e->released) {
        /* The stream lives until the answer is sent; for its user it is over. */
        e->told_reset = 1;
        e->x.events->reset(e->x.user, why, text);
        if (!e->released) {
            e->released = 1;
            e->x.events->gone(e->x.user);
        }
    }
    h2_dirty(c);
}

/* The data provider. */

static int submit_trailers(struct h2_exchange *e)
{
    nghttp2_nv *nv;
    size_t n;
    int rv = h2_fields_out(e->trailers, "", 0, &nv, &n);

    if (rv == ES_OK) {
        rv = nghttp2_submit_trailer(e->c->session, e->id, nv, n);
        es_free(nv);
    }
    return rv == 0 ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static h2_ssize read_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                          nghttp2_data_source *source, void *user)
{
    struct h2_exchange *e = nghttp2_session_get_stream_user_data(session, id);
    size_t n;

    if (e == NULL) {
        return NGHTTP2_ERR_DEFERRED; /* being reset */
    }
    n = waiting(e);
    if (n == 0 && !e->fin_out) {
        e->deferred = 1;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n > length) {
        n = length;
    }
    if (n > 0) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    }
    if (e->fin_out && n == waiting(e)) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (e->trailers != NULL) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (submit_trailers(e) != 0) {
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
            }
        }
    }
    return (h2_ssize)n;
}

static void taken(struct h2_exchange *e, size_t n)
{
    e->off += n;
    e->out_tick = e->c->now;
    if (e->off == e->out.n) {
        es_buf_clear(&e->out);
        e->off = 0;
        if (e->fin_out) {
            es_buf_free(&e->out);
        } else {
            es_buf_shrink(&e->out, ET_QUEUE_HIGH);
        }
    } else if (e->off >= ET_QUEUE_HIGH / 2) {
        es_buf_drop(&e->out, e->off);
        e->off = 0;
    }
    if (e->full && waiting(e) <= ET_QUEUE_HIGH / 2) {
        e->full = 0;
        if (e->opened && !e->released && !e->told_reset && !e->fin_out) {
            e->x.events->room(e->x.user);
        }
    }
}

int h2_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length,
                 nghttp2_data_source *source, void *user)
{
    struct h2_conn *c = user;
    struct h2_exchange *e = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    struct es_buf *out = et_sock_out(c->h.sock);

    if (e == NULL) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (c->queued + (out->n - c->out_from) > H2_OUT_HIGH) {
        return NGHTTP2_ERR_WOULDBLOCK;
    }
    if (es_buf_reserve(out, 9 + length) != ES_OK) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    memcpy(out->p + out->n, head, 9);
    memcpy(out->p + out->n + 9, e->out.p + e->off, length);
    out->n += 9 + length;
    taken(e, length);
    return 0;
}

/* Operations. */

static struct h2_exchange *of(struct et_exchange *x)
{
    return (struct h2_exchange *)x;
}

static int over(const struct h2_exchange *e)
{
    return e->id == -1 || e->why != 0 || e->told_reset || e->c->sock_closing || e->c->failed;
}

static int start_request(struct h2_exchange *e, const struct et_head *h)
{
    struct h2_conn *c = e->c;
    h2_provider provider = {{0}, read_body};
    int bare = e->fin_out && waiting(e) == 0 && e->trailers == NULL;
    nghttp2_nv *nv;
    size_t n;
    int32_t id;
    int rc;

    if (et_head_part(h, ET_PROTOCOL).n > 0 &&
        nghttp2_session_get_remote_settings(c->session, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) != 1) {
        h2_over(e, ET_RESET_REFUSED, "the backend takes no extended CONNECT");
        return ES_OK;
    }
    rc = h2_fields_out(h, c->scheme, e->connect, &nv, &n);
    if (rc != ES_OK) {
        return rc;
    }
    id = h2_submit_request(c->session, NULL, nv, n, bare ? NULL : &provider, e);
    es_free(nv);
    if (id < 0) {
        return lib_error(c, id);
    }
    e->id = id;
    h2_dirty(c);
    return ES_OK;
}

static int send_request(struct h2_exchange *e, const struct et_head *h, int fin)
{
    struct et_text method = et_head_part(h, ET_METHOD);
    int rc;

    if (et_head_kind(h) != ET_HEAD_REQUEST || method.n == 0) {
        return ES_ERR_INVAL;
    }
    e->connect = method.n == 7 && memcmp(method.p, "CONNECT", 7) == 0;
    e->left = e->connect ? -1 : et_head_length(h);
    if (fin && e->left > 0) {
        return ES_ERR_INVAL;
    }
    e->fin_out = fin != 0;
    if (et_head_part(h, ET_PROTOCOL).n > 0 && !e->c->settings_in) {
        /* Whether the peer takes it stands in its settings. */
        e->request = et_head_copy(h);
        rc = e->request != NULL ? ES_OK : ES_ERR_NOMEM;
        if (rc == ES_OK) {
            es_list_push(&e->c->waiting, &e->starting);
        }
    } else {
        rc = start_request(e, h);
    }
    e->fin_out = rc == ES_OK && fin;
    e->head_out = rc == ES_OK;
    return rc;
}

void h2_start_waiting(struct h2_conn *c)
{
    while (!es_list_empty(&c->waiting)) {
        struct h2_exchange *e = es_container_of(c->waiting.next, struct h2_exchange, starting);

        es_list_remove(&e->starting);
        if (start_request(e, e->request) != ES_OK) {
            h2_fail(e, ET_RESET_INTERNAL, "the request could not be sent");
        }
        et_head_del(e->request);
        e->request = NULL;
    }
}

static int send_response(struct h2_exchange *e, const struct et_head *h, int fin)
{
    struct h2_conn *c = e->c;
    h2_provider provider = {{0}, read_body};
    int status = et_head_kind(h) == ET_HEAD_RESPONSE ? et_head_status(h) : 0;
    int tunnel = e->connect && status >= 200 && status < 300;
    int no_body = !tunnel && (e->head_method || status == 204 || status == 304);
    int64_t length = tunnel || no_body ? -1 : et_head_length(h);
    nghttp2_nv *nv;
    size_t n;
    int rc;

    if (status < 100 || status == 101 || (status < 200 && fin) || (fin && length > 0)) {
        return ES_ERR_INVAL;
    }
    rc = h2_fields_out(h, c->scheme, tunnel || status == 204, &nv, &n);
    if (rc != ES_OK) {
        return rc;
    }
    if (status < 200) {
        rc = nghttp2_submit_headers(c->session, NGHTTP2_FLAG_NONE, e->id, NULL, nv, n, NULL);
    } else {
        rc = h2_submit_response(c->session, e->id, nv, n, fin ? NULL : &provider);
    }
    es_free(nv);
    if (rc != 0) {
        return lib_error(c, rc);
    }
    if (status >= 200) {
        e->head_out = 1;
        e->fin_out = fin != 0;
        e->tunnel = tunnel;
        e->no_body = no_body;
        e->left = length;
    }
    h2_dirty(c);
    return ES_OK;
}

static int op_head(struct et_exchange *x, const struct et_head *h, int fin)
{
    struct h2_exchange *e = of(x);

    if (over(e)) {
        return ES_ERR_CLOSED;
    }
    if (e->head_out) {
        return ES_ERR_INVAL;
    }
    return e->c->role == ET_HTTP_BACKEND ? send_request(e, h, fin) : send_response(e, h, fin);
}

/* 0 when the user may send n bytes and then, with `fin`, end. */
static int may_send(struct h2_exchange *e, size_t n, int fin)
{
    if (over(e) || e->fin_out) {
        return ES_ERR_CLOSED;
    }
    if (!e->head_out || (e->no_body && n > 0)) {
        return ES_ERR_INVAL;
    }
    if (e->left >= 0 && ((uint64_t)e->left < n || (fin && (uint64_t)e->left != n))) {
        /* What was announced does not come: the peer must not take it for whole. */
        h2_fail(e, ET_RESET_INTERNAL, "the body is not as long as its content-length");
        return ES_ERR_INVAL;
    }
    return ES_OK;
}

static void resume(struct h2_exchange *e)
{
    if (e->deferred) {
        e->deferred = 0;
        (void)nghttp2_session_resume_data(e->c->session, e->id);
    }
    h2_dirty(e->c);
}

static int op_body(struct et_exchange *x, const void *p, size_t n, int fin)
{
    struct h2_exchange *e = of(x);
    struct h2_conn *c = e->c;
    int rc = may_send(e, n, fin);

    if (rc != ES_OK) {
        return rc;
    }
    if (n > 0) {
        rc = es_buf_put(&e->out, p, n);
        if (rc != ES_OK) {
            return rc;
        }
        if (waiting(e) == n) {
            c->now = es_clock_coarse();
            e->out_tick = c->now;
            h2_arm(c, c->now + c->limits.body_timeout);
        }
        e->left -= e->left >= 0 ? (int64_t)n : 0;
        e->full |= waiting(e) >= ET_QUEUE_HIGH;
    }
    e->fin_out = fin != 0;
    if (n > 0 || fin) {
        resume(e);
    }
    return ES_OK;
}

static int op_trailers(struct et_exchange *x, const struct et_head *h)
{
    struct h2_exchange *e = of(x);
    int rc = may_send(e, 0, 1);

    if (rc != ES_OK) {
        return rc;
    }
    if (et_head_kind(h) != ET_HEAD_TRAILERS) {
        return ES_ERR_INVAL;
    }
    if (et_head_count(h) > 0) {
        e->trailers = et_head_copy(h);
        if (e->trailers == NULL) {
            return ES_ERR_NOMEM;
        }
    }
    e->fin_out = 1;
    resume(e);
    return ES_OK;
}

static size_t op_queued(const struct et_exchange *x)
{
    return waiting((const struct h2_exchange *)x);
}

static void op_consume(struct et_exchange *x, size_t n)
{
    struct h2_exchange *e = of(x);
    struct h2_conn *c = e->c;

    n = n < e->x.unread ? n : e->x.unread;
    e->x.unread -= n;
    if (over(e) || e->id <= 0 || e->end_in) {
        return;
    }
    c->now = es_clock_coarse();
    e->in_tick = c->now; /* from now on more may come */
    h2_arm(c, c->now + c->limits.body_timeout);
    if (nghttp2_session_consume_stream(c->session, e->id, n) != 0) {
        c->failed = 1;
    }
    /* Whoever reads as fast as it comes gets a wider window, for long ways. */
    if (e->x.unread == 0 && e->in_grown >= (uint64_t)e->window && e->window < H2_WINDOW_MAX &&
        c->grown + e->window <= H2_WINDOWS_GROWN &&
        nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, e->id, e->window * 2) == 0) {
        c->grown += e->window;
        e->window *= 2;
        e->in_grown = 0;
    }
    h2_dirty(c);
}

static void op_reset(struct et_exchange *x, enum et_reset why)
{
    struct h2_exchange *e = of(x);

    if (over(e)) {
        return;
    }
    if (why == ET_RESET_NO_ERROR && e->fin_out && !e->end_out) {
        e->stop_after = 1; /* what is queued goes first */
        return;
    }
    e->told_reset = 1; /* the user knows */
    part(e, h2_code_of(why));
    h2_over(e, 0, NULL);
}

static void op_release(struct et_exchange *x)
{
    struct h2_exchange *e = of(x);

    if (e->released) {
        return;
    }
    e->released = 1;
    if (over(e) || (e->fin_out && (e->end_in || e->c->role == ET_HTTP_VISITOR))) {
        return; /* what is queued is sent yet; what is left of a request is then refused */
    }
    part(e, e->c->role == ET_HTTP_VISITOR && e->head_out ? NGHTTP2_INTERNAL_ERROR : NGHTTP2_CANCEL);
    h2_over(e, 0, NULL);
}

const struct et_exchange_ops h2_exchange_ops = {.head = op_head,
                                                .body = op_body,
                                                .trailers = op_trailers,
                                                .queued = op_queued,
                                                .consume = op_consume,
                                                .reset = op_reset,
                                                .release = op_release};
