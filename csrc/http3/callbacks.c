/* What nghttp3 says while it reads, and the bodies that it asks for while it writes. Nothing is submitted and
 * nothing freed here: what needs that is a chore, done when the library has returned. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

static void *mem_malloc(size_t n, void *user)
{
    (void)user;
    return es_malloc(n);
}
static void mem_free(void *p, void *user)
{
    (void)user;
    es_free(p);
}
static void *mem_calloc(size_t n, size_t m, void *user)
{
    (void)user;
    return es_calloc(n, m);
}
static void *mem_realloc(void *p, size_t n, void *user)
{
    (void)user;
    return es_realloc(p, n);
}

const nghttp3_mem *es_h3_mem(void)
{
    static const nghttp3_mem mem = {NULL, mem_malloc, mem_free, mem_calloc, mem_realloc};

    return &mem;
}

/* ---- heads ---- */

static int begin(nghttp3_conn *nc, int64_t id, void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);

    if (x == NULL || x->aborted) {
        return 0;
    }
    es_h3_head_del(x->coming);
    x->coming = es_h3_head_new();
    return x->coming != NULL ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

/* nghttp3 looks at the bytes of a value only when there are two or more of them. */
static int is_value(nghttp3_vec v)
{
    for (size_t i = 0; i < v.len; i++) {
        if ((v.base[i] < ' ' && v.base[i] != '\t') || v.base[i] == 0x7f) {
            return 0;
        }
    }
    return 1;
}

static int field(nghttp3_conn *nc, int64_t id, int32_t token, nghttp3_rcbuf *name, nghttp3_rcbuf *value,
                 uint8_t flags, void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);
    nghttp3_vec n = nghttp3_rcbuf_get_buf(name), v = nghttp3_rcbuf_get_buf(value);
    const struct es_h3_limits *limits;
    struct es_h3_head *head;

    if (x == NULL || x->aborted || (head = x->coming) == NULL) {
        return 0;
    }
    if (!is_value(v)) {
        es_exchange_later(x, CHORE_ABORT, ES_H3_MESSAGE_ERROR);
    }
    limits = &x->h->config->limits;
    head->seen++;
    head->size += n.len + v.len + 32;
    if (head->size > limits->max_header || head->seen > limits->max_fields) {
        /* A few bytes on the wire can stand for much (RFC 9204 7.3): those who send more than any person
         * could have meant are not read to the end. */
        if (head->size / 4 > limits->max_header || head->seen / 4 > limits->max_fields) {
            es_exchange_later(x, CHORE_ABORT, ES_H3_EXCESSIVE_LOAD);
        }
        x->refuse = 431;
        return 0;
    }
    if (token == NGHTTP3_QPACK_TOKEN__PATH && v.len > limits->max_target) {
        x->refuse = 414;
        return 0;
    }
    return es_h3_head_add(head, token, n, v) == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

static void request_came(struct es_exchange *x)
{
    struct es_h3 *h = x->h;
    const char *method;
    size_t len;
    int rc;

    es_list_remove(&x->headless);
    if (x->coming->seen != x->lines.n[0]) { /* the library passed over one that may not be */
        es_exchange_later(x, CHORE_ABORT, ES_H3_MESSAGE_ERROR);
        return;
    }
    if (x->refuse != 0) {
        es_exchange_later(x, CHORE_REFUSE, 0);
        return;
    }
    rc = es_h3_head_check_request(x->coming);
    if (rc != 0) {
        es_exchange_later(x, CHORE_ABORT, rc == ES_ERR_NOMEM ? ES_H3_INTERNAL_ERROR : ES_H3_MESSAGE_ERROR);
        return;
    }
    x->head = x->coming;
    x->coming = NULL;
    method = es_h3_head_pseudo(x->head, ES_H3_METHOD, &len);
    x->is_head = strcmp(method, "HEAD") == 0;
    x->is_connect = strcmp(method, "CONNECT") == 0;
    es_exchange_prioritize(x);
    x->early = h->early;
    if (h->early && !es_h3_is_safe(method)) {
        x->deferred = 1; /* whoever recorded it could send it again (RFC 8470 3) */
        es_list_push(&h->waiting, &x->waiting);
        return;
    }
    es_exchange_begin(x);
}

static void answer_came(struct es_exchange *x)
{
    if (x->refuse != 0) {
        es_exchange_later(x, CHORE_ABORT, ES_H3_EXCESSIVE_LOAD);
    } else if (x->coming->status / 100 != 1) {
        x->head = x->coming;
        x->coming = NULL;
        es_exchange_tell(x, ES_EX_RESPONSE);
    } else if (x->n_informs >= x->h->config->limits.max_informs) {
        es_exchange_later(x, CHORE_ABORT, ES_H3_EXCESSIVE_LOAD);
    } else {
        es_list_push(&x->informs, &x->coming->node);
        x->coming = NULL;
        x->n_informs++;
        es_exchange_tell(x, ES_EX_INFORMED);
    }
}

static int end_head(nghttp3_conn *nc, int64_t id, int fin, void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);

    if (x == NULL || x->aborted || x->coming == NULL || (x->chores & CHORE_ABORT) != 0) {
        return 0;
    }
    if (x->ours) {
        answer_came(x);
    } else {
        request_came(x);
    }
    return 0;
}

static int end_trailers(nghttp3_conn *nc, int64_t id, int fin, void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);

    if (x == NULL || x->aborted || x->coming == NULL || (x->chores & CHORE_ABORT) != 0) {
        return 0;
    }
    if (!x->ours && x->coming->seen != x->lines.n[1]) {
        es_exchange_later(x, CHORE_ABORT, ES_H3_MESSAGE_ERROR);
        return 0;
    }
    if (x->refuse != 0 && (x->ours || x->told)) { /* too late for a status */
        es_exchange_later(x, CHORE_ABORT, ES_H3_EXCESSIVE_LOAD);
        return 0;
    }
    x->trailers = x->coming;
    x->coming = NULL;
    return 0;
}

/* ---- bodies ---- */

static int body(nghttp3_conn *nc, int64_t id, const uint8_t *p, size_t n, void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);

    if (x == NULL) {
        return 0;
    }
    return es_exchange_received(x, p, n) == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

/* Bytes that waited inside the library for entries of the dynamic table. */
static int consumed_later(nghttp3_conn *nc, int64_t id, size_t n, void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);

    if (x != NULL && x->s != NULL) {
        es_link_credit(x->s, n);
    }
    return 0;
}

static int end_stream(nghttp3_conn *nc, int64_t id, void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);

    if (x == NULL || x->aborted || x->rx_fin) {
        return 0;
    }
    x->rx_fin = 1;
    es_exchange_waited(x);
    if (x->rx_waiting) {
        x->rx_waiting = 0;
        es_exchange_tell(x, ES_EX_READABLE);
    }
    return 0;
}

/* ---- the library gives up a stream ---- */

static int give_up(nghttp3_conn *nc, int64_t id, uint64_t code, void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);

    if (x != NULL) {
        es_exchange_later(x, CHORE_ABORT, code);
    }
    return 0;
}

static int goaway(nghttp3_conn *nc, int64_t id, void *user)
{
    struct es_h3 *h = user;

    h->peer_goaway = 1;
    if (!h->server) { /* requests from this one on were not looked at */
        es_list_foreach(it, &h->exchanges)
        {
            struct es_exchange *x = es_container_of(it, struct es_exchange, all);

            if (x->id >= id && x->head == NULL) {
                es_exchange_later(x, CHORE_ABORT, ES_H3_REQUEST_REJECTED);
            }
        }
    }
    es_h3_tell(h, ES_H3_GOAWAY);
    return 0;
}

const nghttp3_callbacks es_h3_callbacks = {.recv_data = body,
                                           .deferred_consume = consumed_later,
                                           .begin_headers = begin,
                                           .recv_header = field,
                                           .end_headers = end_head,
                                           .begin_trailers = begin,
                                           .recv_trailer = field,
                                           .end_trailers = end_trailers,
                                           .stop_sending = give_up,
                                           .reset_stream = give_up,
                                           .end_stream = end_stream,
                                           .shutdown = goaway};

/* ---- what we send ---- */

static nghttp3_ssize read_body(nghttp3_conn *nc, int64_t id, nghttp3_vec *vec, size_t n_vec, uint32_t *flags,
                               void *user, void *stream_user)
{
    struct es_exchange *x = es_h3_find(user, id);
    nghttp3_ssize n = 0;

    if (x == NULL) {
        return NGHTTP3_ERR_WOULDBLOCK;
    }
    if (x->tx_n > 0) {
        vec[0].base = (uint8_t *)(uintptr_t)x->tx;
        vec[0].len = x->tx_n;
        x->tx_n = 0;
        n = 1;
    }
    if (x->tx_end) {
        *flags |= NGHTTP3_DATA_FLAG_EOF;
        if (x->tx_n_trailers > 0) {
            *flags |= NGHTTP3_DATA_FLAG_NO_END_STREAM;
            if (nghttp3_conn_submit_trailers(nc, id, x->tx_trailers, x->tx_n_trailers) != 0) {
                x->h->poisoned = 1;
                return NGHTTP3_ERR_CALLBACK_FAILURE;
            }
            x->tx_n_trailers = 0;
        }
        return n;
    }
    return n > 0 ? n : NGHTTP3_ERR_WOULDBLOCK;
}

const nghttp3_data_reader es_h3_reader = {read_body};
