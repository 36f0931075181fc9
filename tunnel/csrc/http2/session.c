#include "session.h"
#include <stdio.h>
#include <string.h>

#define or_default(value, standard) ((value) != 0 ? (value) : (standard))

/* The library's memory. Its blocks are kept in a list: after an allocation failed, its own clean-up may free
 * some twice (seen in 1.52: an item that could not be attached to its stream), so that we then never call it
 * again and give back what it held. */

struct lib_block {
    _Alignas(16) struct es_list link;
};

static void *lib_realloc(void *p, size_t n, void *user)
{
    struct h2_conn *c = user;
    struct lib_block *b = p != NULL ? (struct lib_block *)p - 1 : NULL, *more = NULL;

    if (b != NULL) {
        es_list_remove(&b->link);
    }
    if (n <= SIZE_MAX - sizeof(*b)) {
        more = es_realloc(b, sizeof(*b) + n);
    }
    if (more == NULL) {
        c->failed = 1;
        if (b != NULL) {
            es_list_push(&c->blocks, &b->link);
        }
        return NULL;
    }
    es_list_init(&more->link);
    es_list_push(&c->blocks, &more->link);
    return more + 1;
}

static void *lib_malloc(size_t n, void *user)
{
    return lib_realloc(NULL, n, user);
}

static void lib_free(void *p, void *user)
{
    if (p != NULL) {
        struct lib_block *b = (struct lib_block *)p - 1;

        es_list_remove(&b->link);
        es_free(b);
    }
}

static void *lib_calloc(size_t n, size_t m, void *user)
{
    void *p = m == 0 || n <= SIZE_MAX / m ? lib_realloc(NULL, n * m, user) : NULL;

    if (p != NULL) {
        memset(p, 0, n * m);
    }
    return p;
}

static void session_end(struct h2_conn *c)
{
    if (!c->failed) {
        nghttp2_session_del(c->session);
    }
    while (!es_list_empty(&c->blocks)) {
        struct es_list *l = c->blocks.next;

        es_list_remove(l);
        es_free(es_container_of(l, struct lib_block, link));
    }
}

void h2_dirty(struct h2_conn *c)
{
    if (!c->sock_closing) {
        et_sock_dirty(c->h.sock);
    }
}

void h2_because(struct h2_conn *c, int err, const char *text)
{
    if (c->why[0] == '\0') {
        c->err = err;
        snprintf(c->why, sizeof(c->why), "%s", text);
    }
}

void h2_terminate(struct h2_conn *c, uint32_t code, const char *text)
{
    h2_because(c, code == NGHTTP2_NO_ERROR ? ES_OK : ES_ERR_PROTOCOL, text);
    if (!c->failed && nghttp2_session_terminate_session(c->session, code) != 0) {
        c->failed = 1;
    }
    h2_close_soon(c);
    h2_dirty(c);
}

/* Exchanges. */

struct h2_exchange *h2_exchange_new(struct h2_conn *c)
{
    struct h2_exchange *e = es_calloc(1, sizeof(*e));

    if (e == NULL) {
        return NULL;
    }
    e->x.ops = &h2_exchange_ops;
    e->x.http = &c->h;
    e->c = c;
    e->left = -1;
    e->window = (int32_t)ET_UNREAD_MAX;
    e->begun = e->in_tick = e->out_tick = e->rate_at = c->now;
    es_list_push(&c->exchanges, &e->link);
    es_list_init(&e->starting);
    c->n_exchanges++;
    return e;
}

static void exchange_del(struct h2_exchange *e)
{
    es_list_remove(&e->link);
    es_list_remove(&e->starting);
    es_buf_free(&e->out);
    es_buf_free(&e->cookie);
    es_buf_free(&e->host);
    et_head_del(e->in);
    et_head_del(e->trailers);
    et_head_del(e->request);
    es_free(e);
}

void h2_over(struct h2_exchange *e, enum et_reset why, const char *text)
{
    struct h2_conn *c = e->c;

    if (e->id == -1) {
        return;
    }
    e->id = -1;
    if (e->why == 0) {
        e->why = why;
        e->text = text;
    }
    c->grown -= e->window - (int32_t)ET_UNREAD_MAX;
    c->n_exchanges--;
    if (c->n_exchanges == 0) {
        c->idle_since = c->now;
        if (c->limits.idle_timeout != 0) {
            h2_arm(c, c->now + c->limits.idle_timeout);
        }
    }
    c->ready = 1;
    es_list_remove(&e->starting);
    es_list_remove(&e->link);
    es_list_push(&c->over, &e->link);
    h2_dirty(c);
}

void h2_sweep(struct h2_conn *c)
{
    if (c->depth > 0) {
        return;
    }
    c->depth++; /* what the user does in an up-call must not come here again */
    while (!es_list_empty(&c->over)) {
        struct h2_exchange *e = es_container_of(c->over.next, struct h2_exchange, link);

        if (e->opened && !e->released) {
            if (e->why != 0 && !e->told_reset) {
                e->told_reset = 1;
                e->x.events->reset(e->x.user, e->why, e->text != NULL ? e->text : "");
            }
            if (!e->released) {
                e->x.events->gone(e->x.user);
            }
        }
        exchange_del(e);
    }
    if ((c->goaway_in || c->draining) && !c->told_draining && !c->closing) {
        c->told_draining = 1;
        if (c->h.events->draining != NULL) {
            c->h.events->draining(c->h.user);
        }
    }
    if (c->ready && c->role == ET_HTTP_BACKEND && c->h.events->ready != NULL && !c->sock_closing) {
        c->ready = 0;
        c->h.events->ready(c->h.user);
    }
    c->ready = 0;
    c->depth--;
}

void h2_kill(struct h2_conn *c, int err, const char *text, int graceful)
{
    h2_because(c, err, text);
    if (c->sock_closing) {
        return;
    }
    c->sock_closing = 1;
    while (!es_list_empty(&c->exchanges)) {
        struct h2_exchange *e = es_container_of(c->exchanges.next, struct h2_exchange, link);
        int sent = c->role == ET_HTTP_VISITOR || e->sent;

        h2_over(e, sent ? ET_RESET_TRUNCATED : ET_RESET_REFUSED, c->why);
    }
    et_sock_close(c->h.sock, graceful);
    h2_sweep(c);
}

/* Bytes out. */

static int write_frames(struct h2_conn *c)
{
    struct es_buf *out = et_sock_out(c->h.sock);
    size_t queued = et_sock_queued(c->h.sock), before = out->n;
    int rc = ES_OK;

    c->queued = queued;
    c->out_from = before;
    c->depth++;
    while (c->queued + (out->n - before) <= H2_OUT_HIGH) {
        const uint8_t *p = NULL;
        size_t at = out->n;
        h2_ssize n = h2_mem_send(c->session, &p); /* bodies are appended meanwhile, by h2_send_data() */

        if (n < 0) {
            rc = n == NGHTTP2_ERR_NOMEM ? ES_ERR_NOMEM : ES_ERR_INVAL;
            break;
        }
        if (n > 0 && es_buf_put(out, p, (size_t)n) != ES_OK) {
            rc = ES_ERR_NOMEM;
            break;
        }
        if (out->n == at) {
            break;
        }
    }
    c->depth--;
    queued += out->n - before;
    if (out->n > before) {
        et_sock_wrote(c->h.sock);
    }
    c->full = queued > H2_OUT_HIGH;
    return rc;
}

static void flush(void *user)
{
    struct h2_conn *c = user;
    int rc;

    c->now = es_clock_coarse();
    if (c->sock_closing) {
        h2_sweep(c);
        return;
    }
    if ((c->closing || (c->draining && c->role == ET_HTTP_BACKEND && c->n_exchanges == 0)) &&
        c->close_at == 0) {
        h2_terminate(c, NGHTTP2_NO_ERROR, c->closing ? "closed here" : "drained");
    }
    rc = c->failed ? ES_ERR_NOMEM : write_frames(c);
    rc = c->failed ? ES_ERR_NOMEM : rc;
    if (rc != ES_OK) {
        h2_kill(c, rc, rc == ES_ERR_NOMEM ? "out of memory" : "the HTTP/2 library failed", 0);
        return;
    }
    if (c->closing) {
        h2_kill(c, ES_OK, "closed here", 1);
        return;
    }
    if (!nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session)) {
        h2_kill(c, ES_OK, "over", 1);
        return;
    }
    h2_sweep(c);
}

/* Bytes in. */

static void on_data(void *user, const uint8_t *p, size_t n)
{
    struct h2_conn *c = user;
    h2_ssize rv;

    if (c->sock_closing || c->closing || c->failed) {
        return;
    }
    c->now = c->last_in = es_clock_coarse();
    c->ping_at = 0;
    c->depth++;
    rv = h2_mem_recv(c->session, p, n);
    c->depth--;
    if (c->failed) {
        h2_kill(c, ES_ERR_NOMEM, "out of memory", 0);
        return;
    }
    if (rv < 0) {
        const char *text =
            rv == NGHTTP2_ERR_FLOODED ? "too many frames that want an answer" : nghttp2_strerror((int)rv);

        h2_refused(c, 400, text);
        h2_kill(c, ES_ERR_PROTOCOL, text, 0);
        return;
    }
    if (nghttp2_session_get_outbound_queue_size(c->session) > H2_MAX_QUEUED) {
        h2_kill(c, ES_ERR_LIMIT, "the peer does not read what its frames are answered with", 0);
        return;
    }
    if (!nghttp2_session_want_read(c->session)) {
        h2_close_soon(c); /* it found an error and says so in a GOAWAY */
    }
    h2_sweep(c);
    h2_dirty(c);
}

static void on_eof(void *user)
{
    struct h2_conn *c = user;

    c->now = es_clock_coarse();
    h2_kill(c, c->n_exchanges > 0 ? ES_ERR_CLOSED : ES_OK, "the peer ended the connection", 1);
}

static void on_room(void *user)
{
    h2_dirty(user);
}

static void on_timer(void *user)
{
    struct h2_conn *c = user;

    if (!c->sock_closing && !c->failed) {
        c->now = es_clock_coarse();
        h2_timer(c);
        h2_sweep(c);
    }
}

static void on_closed(void *user, int err, const char *text)
{
    struct h2_conn *c = user;

    c->now = es_clock_coarse();
    h2_because(c, err, text != NULL && text[0] != '\0' ? text : "closed");
    c->sock_closing = 1;
    while (!es_list_empty(&c->exchanges)) {
        struct h2_exchange *e = es_container_of(c->exchanges.next, struct h2_exchange, link);
        int sent = c->role == ET_HTTP_VISITOR || e->sent;

        h2_over(e, sent ? ET_RESET_TRUNCATED : ET_RESET_REFUSED, c->why);
    }
    h2_sweep(c);
    c->h.events->closed(c->h.user, c->err, c->why);
    session_end(c);
    es_free(c);
}

static const struct et_sock_events sock_events = {
    .data = on_data, .eof = on_eof, .room = on_room, .timer = on_timer, .flush = flush, .closed = on_closed};

/* Operations of the connection. */

unsigned h2_room(const struct h2_conn *c)
{
    uint32_t most;

    if (c->role != ET_HTTP_BACKEND || c->goaway_in || c->draining || c->closing || c->failed ||
        c->sock_closing || !nghttp2_session_check_request_allowed(c->session)) {
        return 0;
    }
    most = c->settings_in
               ? nghttp2_session_get_remote_settings(c->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
               : 100; /* as the library does */
    most = most < c->limits.max_streams ? most : c->limits.max_streams;
    return most > c->n_exchanges ? most - c->n_exchanges : 0;
}

static unsigned op_room(const struct et_http *h)
{
    return h2_room((const struct h2_conn *)h);
}

static unsigned op_count(const struct et_http *h)
{
    return ((const struct h2_conn *)h)->n_exchanges;
}

static int op_begin(struct et_http *h, const struct et_exchange_events *ev, void *user,
                    struct et_exchange **out)
{
    struct h2_conn *c = (struct h2_conn *)h;
    struct h2_exchange *e;

    if (c->role != ET_HTTP_BACKEND) {
        return ES_ERR_INVAL;
    }
    if (c->goaway_in || c->draining || c->closing || c->failed || c->sock_closing) {
        return ES_ERR_CLOSED;
    }
    if (h2_room(c) == 0) {
        return ES_ERR_LIMIT;
    }
    c->now = es_clock_coarse();
    e = h2_exchange_new(c);
    if (e == NULL) {
        return ES_ERR_NOMEM;
    }
    e->x.events = ev;
    e->x.user = user;
    e->opened = 1;
    c->requests++;
    if (c->limits.max_requests != 0 && c->requests >= c->limits.max_requests) {
        h2_drain(c);
    }
    *out = &e->x;
    return ES_OK;
}

void h2_drain(struct h2_conn *c)
{
    if (c->draining || c->closing || c->sock_closing || c->failed) {
        return;
    }
    c->draining = 1;
    if (c->role == ET_HTTP_VISITOR) {
        /* The first GOAWAY takes nothing back; the second, a round trip later, names the last request (6.8).
         */
        c->now = es_clock_coarse();
        c->drain_at = c->now + ES_SECOND;
        if (nghttp2_submit_shutdown_notice(c->session) != 0 ||
            nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, (const uint8_t *)"draining") != 0) {
            c->failed = 1;
        }
        h2_arm(c, c->drain_at);
    }
    h2_dirty(c);
}

static void op_drain(struct et_http *h)
{
    h2_drain((struct h2_conn *)h);
}

static void op_close(struct et_http *h)
{
    struct h2_conn *c = (struct h2_conn *)h;

    c->closing = 1;
    h2_dirty(c);
}

static const struct et_http_ops http_ops = {.begin = op_begin,
                                            .room = op_room,
                                            .count = op_count,
                                            .drain = op_drain,
                                            .close = op_close,
                                            .name = "h2"};

/* Beginning. */

static int submit_settings(struct h2_conn *c)
{
    nghttp2_settings_entry visitor[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, c->limits.max_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, ET_UNREAD_MAX},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)c->limits.head_bytes},
        {NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    nghttp2_settings_entry backend[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0}, /* what the peer might push */
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, ET_UNREAD_MAX},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)c->limits.head_bytes},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    int rc;

    if (c->role == ET_HTTP_VISITOR) {
        rc = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, visitor,
                                     sizeof(visitor) / sizeof(visitor[0]));
    } else {
        rc = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, backend,
                                     sizeof(backend) / sizeof(backend[0]));
    }
    if (rc == 0) {
        rc = nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, H2_WINDOW_CONN);
    }
    return rc == 0 ? ES_OK : ES_ERR_NOMEM;
}

static int session_start(struct h2_conn *c)
{
    nghttp2_mem mem = {c, lib_malloc, lib_free, lib_calloc, lib_realloc};
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    int rc = ES_ERR_NOMEM;

    if (h2_callbacks(&callbacks) != ES_OK || nghttp2_option_new(&option) != 0) {
        goto out;
    }
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_send_header_block_length(option, 2 * ET_HEAD_MAX_BYTES + 4096);
#ifdef H2_LIMITS_CONTINUATIONS
    /* A head of the greatest size in frames of the usual size, and as much again. */
    nghttp2_option_set_max_continuations(option, 2 * (c->limits.head_bytes / 16384 + 1));
#endif
    if (c->role == ET_HTTP_VISITOR) {
        nghttp2_option_set_builtin_recv_extension_type(option, NGHTTP2_PRIORITY_UPDATE);
#ifdef H2_LIMITS_RESETS
        nghttp2_option_set_stream_reset_rate_limit(option, 20000, 2000); /* finer: h2_charge() */
#endif
        if (nghttp2_session_server_new3(&c->session, callbacks, c, option, &mem) != 0) {
            goto out;
        }
    } else if (nghttp2_session_client_new3(&c->session, callbacks, c, option, &mem) != 0) {
        goto out;
    }
    rc = submit_settings(c);
out:
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return rc;
}

static void take_limits(struct h2_conn *c, const struct et_http_limits *limits)
{
    struct et_http_limits *l = &c->limits;

    if (limits != NULL) {
        *l = *limits;
    }
    l->head_bytes = or_default(l->head_bytes, ET_HEAD_MAX_BYTES);
    l->head_fields = or_default(l->head_fields, ET_HEAD_MAX_FIELDS);
    l->target_bytes = or_default(l->target_bytes, (size_t)16 * 1024);
    l->head_timeout = or_default(l->head_timeout, 10 * ES_SECOND);
    if (l->idle_timeout == 0 && c->role == ET_HTTP_VISITOR) {
        l->idle_timeout = 60 * ES_SECOND; /* backends' idle connections are the pool's affair */
    }
    l->body_timeout = or_default(l->body_timeout, 30 * ES_SECOND);
    l->max_streams = or_default(l->max_streams, 128);
    l->ping_timeout = or_default(l->ping_timeout, 10 * ES_SECOND);
}

int et_http2_new(struct et_sock *s, enum et_http_role role, const char *scheme,
                 const struct et_http_limits *limits, const struct et_http_events *ev, void *user,
                 struct et_http **out)
{
    struct h2_conn *c = es_calloc(1, sizeof(*c));

    if (c == NULL) {
        return ES_ERR_NOMEM;
    }
    c->h.ops = &http_ops;
    c->h.events = ev;
    c->h.user = user;
    c->h.sock = s;
    c->role = role;
    c->scheme = strcmp(scheme, "https") == 0 ? "https" : "http";
    take_limits(c, limits);
    es_list_init(&c->exchanges);
    es_list_init(&c->over);
    es_list_init(&c->waiting);
    es_list_init(&c->blocks);
    c->now = c->started = c->last_in = c->idle_since = es_clock_coarse();
    es_glitch_init(&c->glitch, H2_GLITCHES, c->now);
    es_glitch_init(&c->echoes, H2_GLITCHES, c->now);
    if (session_start(c) != ES_OK) {
        session_end(c);
        es_free(c);
        return ES_ERR_NOMEM;
    }
    et_sock_set_user(s, &sock_events, c);
    et_sock_marks(s, H2_OUT_HIGH, H2_OUT_HIGH / 2);
    h2_arm(c, c->started + c->limits.head_timeout);
    h2_dirty(c);
    *out = &c->h;
    return ES_OK;
}
