/* Exchanges: their life, and what the binding asks of them. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

#define RX_KEEP ((size_t)64 * 1024)

/* ---- life ---- */

struct es_exchange *es_exchange_new(struct es_h3 *h, int ours)
{
    struct es_exchange *x = es_calloc(1, sizeof *x);

    if (x == NULL) {
        return NULL;
    }
    x->any.kind = H3_EXCHANGE;
    x->refs = 1; /* the stream's */
    x->h = h;
    es_h3_ref(h);
    x->id = -1;
    x->ours = (unsigned)ours & 1;
    x->urgency = -1;
    x->prio = ES_PRIO_DEFAULT;
    x->answer_by = ES_NEVER;
    x->tx_left = UINT64_MAX;
    x->rx_waiting = 1;
    es_list_init(&x->all);
    es_list_init(&x->headless);
    es_list_init(&x->chore);
    es_list_init(&x->waiting);
    es_list_init(&x->informs);
    return x;
}

static void drop_received(struct es_exchange *x)
{
    if (x->h->link != NULL && x->rx.n > x->rx_at) {
        es_link_hold(x->h->link, -(int64_t)(x->rx.n - x->rx_at));
    }
    es_buf_free(&x->rx);
    x->rx_at = 0;
}

void es_exchange_unref(struct es_exchange *x)
{
    if (--x->refs != 0) {
        return;
    }
    drop_received(x);
    es_h3_head_del(x->coming);
    es_h3_head_del(x->head);
    es_h3_head_del(x->trailers);
    es_h3_head_del(x->inform);
    es_list_foreach(it, &x->informs)
    {
        es_list_remove(it);
        es_h3_head_del(es_container_of(it, struct es_h3_head, node));
    }
    es_h3_unref(x->h);
    es_free(x);
}

void es_exchange_tell(struct es_exchange *x, unsigned bits)
{
    if (!x->told || x->released) {
        return;
    }
    if (x->wt != NULL) {
        es_wt_tell(x->wt, bits);
        return;
    }
    x->bits |= bits;
    if (x->queued || x->h->config->events == NULL) {
        return;
    }
    if (es_evq_push(x->h->config->events, ES_H3_EVENT_EXCHANGE, x, sizeof(struct es_event)) == NULL) {
        es_h3_close(x->h, ES_H3_INTERNAL_ERROR, "out of memory"); /* somebody would wait for ever */
        return;
    }
    x->queued = 1;
    x->refs++;
}

void es_exchange_begin(struct es_exchange *x)
{
    if (es_wt_wants(x)) {
        es_wt_offered(x);
        return;
    }
    x->deferred = 0;
    x->told = 1;
    x->refs++; /* the binding's */
    x->h->in_flight++;
    es_exchange_begun(x);
    es_exchange_tell(x, ES_EX_REQUEST);
}

void es_exchange_later(struct es_exchange *x, int chore, uint64_t code)
{
    if (x->s == NULL || (x->aborted && chore == CHORE_ABORT && x->rx_stopped)) {
        return;
    }
    if ((x->chores & CHORE_ABORT) == 0) { /* the first reason is the one that counts */
        x->chore_code = code;
    }
    x->chores |= chore;
    es_list_remove(&x->chore);
    es_list_push(&x->h->chores, &x->chore);
}

void es_exchange_abort(struct es_exchange *x, int err, uint64_t code, int peer, int unprocessed)
{
    x->aborted = 1;
    x->error.err = err;
    x->error.code = code;
    x->error.peer = peer;
    x->error.unprocessed = unprocessed;
    es_list_remove(&x->headless);
    es_list_remove(&x->waiting);
    drop_received(x);
    es_exchange_tell(x, ES_EX_ABORTED);
}

/* Both directions, as far as they are not over. */
void es_exchange_give_up(struct es_exchange *x, uint64_t stop_code, uint64_t reset_code)
{
    if (x->s == NULL || !es_h3_usable(x->h)) {
        return;
    }
    if (!x->rx_fin) {
        es_link_stop(x->s, stop_code);
    }
    if (!x->rx_stopped) {
        x->rx_stopped = 1;
        (void)nghttp3_conn_shutdown_stream_read(x->h->nc, x->id);
    }
    if (!x->tx_fin && !x->tx_stopped) {
        nghttp3_conn_shutdown_stream_write(x->h->nc, x->id);
        x->tx_stopped = 1;
        es_link_reset(x->s, reset_code);
    }
    if (!x->ours) {
        x->tx_stopped = 1;
    }
}

/* The peer may ask for more. Whoever never ends its requests, and does not heed that we want no more of them,
 * would have us keep every stream: for that one the allowance returns when the stream is closed. */
static void allow_another(struct es_exchange *x)
{
    if (x->s != NULL && !x->ours && x->ended) {
        es_link_stream_done(x->s);
    }
}

static void status_text(char text[4], int status)
{
    text[0] = (char)('0' + status / 100 % 10);
    text[1] = (char)('0' + status / 10 % 10);
    text[2] = (char)('0' + status % 10);
    text[3] = '\0';
}

static void refuse(struct es_exchange *x)
{
    nghttp3_nv nv;
    char text[4];
    int rc;

    status_text(text, x->refuse);
    es_h3_nv(&nv, ":status", text, 3);
    rc = nghttp3_conn_submit_response(x->h->nc, x->id, &nv, 1, NULL);
    if (rc != 0) {
        es_h3_fail(x->h, rc);
        return;
    }
    x->responded = x->tx_fin = 1;
    es_h3_pump(x->h); /* behind it comes what stops the request */
    es_exchange_give_up(x, ES_H3_NO_ERROR, ES_H3_NO_ERROR);
    allow_another(x);
}

void es_exchange_chores(struct es_exchange *x)
{
    int chores = x->chores;
    uint64_t code = x->chore_code;

    x->chores = 0;
    if (x->s == NULL) {
        return;
    }
    if ((chores & CHORE_ABORT) != 0) {
        if (!x->ours && !x->tx_fin && code != ES_H3_REQUEST_REJECTED &&
            es_link_glitch(x->h->link, x->h->config->timers->now, 16, "too many requests that are none")) {
            x->h->failed = 1;
            return;
        }
        if (!x->aborted) {
            es_exchange_abort(
                x, x->stalled || code == ES_H3_REQUEST_INCOMPLETE ? ES_ERR_TIMEOUT : ES_ERR_PROTOCOL, code, 0,
                x->ours && code == ES_H3_REQUEST_REJECTED);
        }
        es_exchange_give_up(x, code, code);
    } else if ((chores & CHORE_REFUSE) != 0) {
        refuse(x);
    }
}

void es_exchange_detach(struct es_exchange *x)
{
    struct es_h3 *h = x->h;

    /* A peer that gives up at once what it asked for gets no room for more before we are done with it. */
    if (!x->ours && x->told && !x->released && h->link != NULL && x->s != NULL) {
        x->kept = (unsigned)es_link_stream_keep(x->s) & 1;
    }
    x->s = NULL;
    if (x->id >= 0) {
        es_idmap_remove(&h->by_id, (uint64_t)x->id);
    }
    es_list_remove(&x->all);
    es_list_remove(&x->headless);
    es_list_remove(&x->chore);
    es_list_remove(&x->waiting);
    es_h3_check_idle(h);
    es_exchange_unref(x);
}

void es_exchange_release(struct es_exchange *x)
{
    struct es_h3 *h = x->h;

    es_h3_ref(h);
    x->released = 1;
    x->bits = 0;
    if (x->s != NULL && es_h3_usable(h)) {
        if (x->ours) {
            if (!x->rx_fin || !x->tx_fin) {
                es_exchange_give_up(x, ES_H3_REQUEST_CANCELLED, ES_H3_REQUEST_CANCELLED);
            }
        } else {
            if (!es_exchange_rest(x)) {
                es_exchange_give_up(x, ES_H3_NO_ERROR, ES_H3_INTERNAL_ERROR);
            }
            allow_another(x);
        }
        es_h3_pump(h);
    }
    if (x->kept && h->link != NULL) {
        es_link_allow(h->link, ES_DIR_BIDI);
    }
    drop_received(x);
    h->in_flight--;
    es_h3_check_idle(h);
    es_exchange_unref(x);
    es_h3_unref(h);
}

void es_exchange_reset(struct es_exchange *x, uint64_t code)
{
    es_exchange_give_up(x, code, code);
    x->aborted = 1;
    x->error.err = ES_ERR_CLOSED;
    x->error.code = code;
    drop_received(x);
    es_h3_pump(x->h);
}

/* ---- reading ---- */

int es_exchange_received(struct es_exchange *x, const uint8_t *p, size_t n)
{
    int rc;

    if (!(x->told || x->deferred) || x->released || x->aborted || x->rx_stopped) { /* nobody will read it */
        if (x->s != NULL) {
            es_link_credit(x->s, n);
        }
        es_exchange_rested(x, n);
        return 0;
    }
    if (x->rx_at > 0 && x->rx_at >= x->rx.n / 2) {
        es_buf_drop(&x->rx, x->rx_at);
        x->rx_at = 0;
    }
    rc = es_buf_put(&x->rx, p, n);
    if (rc != 0) {
        return rc;
    }
    es_link_hold(x->h->link, (int64_t)n);
    x->rx_came += n;
    es_exchange_waited(x);
    if (x->rx_waiting) {
        x->rx_waiting = 0;
        es_exchange_tell(x, ES_EX_READABLE);
    }
    return 0;
}

int es_exchange_read(struct es_exchange *x, const uint8_t **p, size_t *n)
{
    if (x->rx.n > x->rx_at) {
        *p = x->rx.p + x->rx_at;
        *n = x->rx.n - x->rx_at;
        return 0;
    }
    if (x->aborted) {
        return ES_ERR_CLOSED;
    }
    if (x->rx_fin) {
        return ES_ERR_NOT_FOUND;
    }
    if (x->rx_late) {
        return ES_ERR_TIMEOUT;
    }
    x->rx_waiting = 1;
    es_exchange_waits(x);
    return ES_ERR_AGAIN;
}

void es_exchange_consume(struct es_exchange *x, size_t n)
{
    if (n > x->rx.n - x->rx_at) { /* it was given up since read() */
        n = x->rx.n - x->rx_at;
    }
    x->rx_at += n;
    if (x->h->link != NULL) {
        es_link_hold(x->h->link, -(int64_t)n);
        if (x->s != NULL && !x->rx_fin) {
            es_link_credit(x->s, n);
        }
    }
    if (x->rx_at == x->rx.n) {
        es_buf_clear(&x->rx);
        es_buf_shrink(&x->rx, RX_KEEP);
        x->rx_at = 0;
    }
}

const struct es_h3_head *es_exchange_head(const struct es_exchange *x)
{
    return x->head;
}

const struct es_h3_head *es_exchange_trailers(const struct es_exchange *x)
{
    return x->rx_fin ? x->trailers : NULL;
}

const struct es_h3_head *es_exchange_informed(struct es_exchange *x)
{
    es_h3_head_del(x->inform);
    x->inform = NULL;
    if (!es_list_empty(&x->informs)) {
        x->inform = es_container_of(x->informs.next, struct es_h3_head, node);
        es_list_remove(&x->inform->node);
        x->n_informs--;
    }
    return x->inform;
}

/* ---- writing ---- */

static int out_head(struct es_h3_out *o, int status, char text[4], const struct es_h3_field *fields, size_t n)
{
    int rc = es_h3_out_begin(o, n + 1);

    if (rc != 0) {
        return rc;
    }
    status_text(text, status);
    es_h3_nv(o->nv, ":status", text, 3);
    rc = es_h3_fields_out(o->nv + 1, fields, n);
    o->n = n + 1;
    if (rc != 0) {
        es_h3_out_end(o);
    }
    return rc;
}

static int may_answer(const struct es_exchange *x)
{
    if (x->ours) {
        return ES_ERR_UNSUPPORTED;
    }
    if (x->s == NULL || x->aborted || x->tx_stopped || !es_h3_usable(x->h)) {
        return ES_ERR_CLOSED;
    }
    return x->responded ? ES_ERR_EXISTS : 0;
}

int es_exchange_inform(struct es_exchange *x, int status, const struct es_h3_field *fields, size_t n)
{
    struct es_h3_out o;
    char text[4];
    int rc = may_answer(x);

    if (rc == 0 && (status < 100 || status > 199 || status == 101)) {
        rc = ES_ERR_INVAL;
    }
    if (rc == 0) {
        rc = out_head(&o, status, text, fields, n);
    }
    if (rc != 0) {
        return rc;
    }
    rc = nghttp3_conn_submit_info(x->h->nc, x->id, o.nv, o.n);
    es_h3_out_end(&o);
    if (rc != 0) {
        es_h3_fail(x->h, rc);
        return ES_ERR_NOMEM;
    }
    es_h3_pump(x->h);
    return 0;
}

void es_exchange_ended(struct es_exchange *x)
{
    x->tx_fin = 1;
    allow_another(x);
}

/* The head, and with it what x->tx holds already. */
static int send_head(struct es_exchange *x, int status, const struct es_h3_field *fields, size_t n, int fin,
                     uint64_t length)
{
    struct es_h3_out o;
    char text[4];
    int rc = out_head(&o, status, text, fields, n);

    if (rc != 0) {
        return rc;
    }
    x->no_body = status == 204 || status == 304;
    fin = fin || x->is_head || x->no_body;
    rc = nghttp3_conn_submit_response(x->h->nc, x->id, o.nv, o.n, fin ? NULL : &es_h3_reader);
    es_h3_out_end(&o);
    if (rc != 0) {
        es_h3_fail(x->h, rc);
        return ES_ERR_NOMEM;
    }
    x->responded = 1;
    if (!fin) {
        x->tx_left = length;
    }
    es_h3_pump(x->h);
    if (fin) {
        es_exchange_ended(x);
    }
    return 0;
}

static int may_respond(const struct es_exchange *x, int status, const struct es_h3_field *fields, size_t n,
                       uint64_t *length)
{
    int rc = may_answer(x);

    if (rc == 0 && (status < 200 || status > 999 || es_h3_content_length(fields, n, length) != 0)) {
        rc = ES_ERR_INVAL;
    }
    return rc;
}

int es_exchange_respond(struct es_exchange *x, int status, const struct es_h3_field *fields, size_t n,
                        int fin)
{
    uint64_t length;
    int rc = may_respond(x, status, fields, n, &length);

    if (rc == 0 && fin && !x->is_head && status != 304 && length != UINT64_MAX && length > 0) {
        rc = ES_ERR_INVAL; /* a body was promised */
    }
    return rc == 0 ? send_head(x, status, fields, n, fin, length) : rc;
}

/* Everything that one connection keeps for its peer is bounded by the link's cap, but each stream may have
 * something under way: its handler may have to write before it reads what fills the cap. */
static int is_full(struct es_exchange *x)
{
    struct es_link *l = x->s->link;
    size_t queued = es_link_queued(x->s);

    if (queued >= x->s->high) {
        es_link_wake_at(x->s, x->s->low);
        return 1;
    }
    if (queued > 0 && l->held > l->hold_cap / 4 * 3) {
        es_link_wake_at(x->s, 0);
        return 1;
    }
    return 0;
}

static int may_write(const struct es_exchange *x)
{
    if (x->s == NULL || x->aborted || x->tx_stopped || !es_h3_usable(x->h)) {
        return ES_ERR_CLOSED;
    }
    return x->ours || x->responded ? 0 : ES_ERR_INVAL;
}

static int push_body(struct es_exchange *x)
{
    int rc = nghttp3_conn_resume_stream(x->h->nc, x->id);

    if (rc != 0) {
        es_h3_fail(x->h, rc);
        return ES_ERR_CLOSED;
    }
    es_h3_pump(x->h);
    return x->tx_stopped || x->aborted || !es_h3_usable(x->h) ? ES_ERR_CLOSED : 0;
}

/* The library asks for the body while it sends: what there is of it. */
static void lend(struct es_exchange *x, const void *data, size_t n, void (*release)(void *), void *arg)
{
    x->tx = data;
    x->tx_n = n;
    x->tx_release = release;
    x->tx_arg = arg;
    es_h3_ref(x->h);
    x->refs++;
}

static int take_back(struct es_exchange *x, int rc, void (*release)(void *), void *arg)
{
    if (release != NULL && x->tx_release == NULL) {
        rc = 0; /* the link has it, whatever happened after */
    } else if (release != NULL && rc == 0) {
        release(arg); /* the library cut it up, so it was copied */
    }
    x->tx = NULL;
    x->tx_n = 0;
    x->tx_release = NULL;
    es_h3_unref(x->h);
    es_exchange_unref(x);
    return rc;
}

int es_exchange_write(struct es_exchange *x, const void *data, size_t n, void (*release)(void *), void *arg)
{
    int rc = may_write(x);

    if (rc != 0) {
        return rc;
    }
    if (x->no_body) {
        return n == 0 ? 0 : ES_ERR_INVAL;
    }
    if (x->is_head) {
        if (release != NULL) {
            release(arg);
        }
        return 0;
    }
    if (x->tx_fin) {
        return ES_ERR_CLOSED;
    }
    if (x->tx_left != UINT64_MAX && n > x->tx_left) {
        return ES_ERR_TOO_LARGE;
    }
    if (is_full(x)) {
        x->tx_blocked = 1;
        return ES_ERR_AGAIN;
    }
    if (n == 0) {
        if (release != NULL) {
            release(arg);
        }
        return 0;
    }
    if (x->tx_left != UINT64_MAX) {
        x->tx_left -= n;
    }
    lend(x, data, n, release, arg);
    rc = push_body(x);
    es_exchange_wrote(x);
    return take_back(x, rc, release, arg);
}

int es_exchange_answer(struct es_exchange *x, int status, const struct es_h3_field *fields, size_t n,
                       const void *data, size_t n_data, void (*release)(void *), void *arg)
{
    uint64_t length;
    int rc = may_respond(x, status, fields, n, &length);

    if (rc == 0 && !x->is_head && length != UINT64_MAX && length != n_data) {
        rc = ES_ERR_INVAL;
    }
    if (rc == 0 && n_data > 0 && (status == 204 || status == 304)) {
        rc = ES_ERR_INVAL;
    }
    if (rc != 0) {
        return rc;
    }
    lend(x, data, x->is_head ? 0 : n_data, release, arg);
    x->tx_end = 1;
    rc = send_head(x, status, fields, n, n_data == 0, UINT64_MAX);
    if (!x->responded) {
        x->tx_end = 0;
    } else if (rc == 0 && (x->tx_n > 0 || x->tx_stopped || x->aborted || !es_h3_usable(x->h))) {
        rc = ES_ERR_CLOSED;
    } else if (rc == 0 && !x->tx_fin) {
        es_exchange_ended(x);
    }
    es_exchange_wrote(x);
    return take_back(x, rc, release, arg);
}

int es_exchange_finish(struct es_exchange *x, const struct es_h3_field *trailers, size_t n)
{
    struct es_h3_out o;
    int rc;

    if (x->tx_fin) {
        return 0;
    }
    rc = may_write(x);
    if (rc != 0) {
        return rc;
    }
    if (x->tx_left != UINT64_MAX && x->tx_left > 0) {
        es_exchange_reset(x, ES_H3_INTERNAL_ERROR);
        return ES_ERR_INVAL;
    }
    rc = es_h3_out_begin(&o, n);
    if (rc == 0) {
        rc = es_h3_fields_out(o.nv, trailers, n);
        if (rc == 0) {
            x->tx_trailers = o.nv;
            x->tx_n_trailers = n;
            x->tx_end = 1;
            rc = push_body(x);
            x->tx_n_trailers = 0;
        }
        es_h3_out_end(&o);
    }
    if (rc == 0) {
        es_exchange_ended(x);
    }
    return rc;
}

size_t es_exchange_queued(const struct es_exchange *x)
{
    return x->s != NULL ? es_link_queued(x->s) : 0;
}

/* ---- figures ---- */

struct es_h3 *es_exchange_h3(const struct es_exchange *x)
{
    return x->h;
}

int es_exchange_is_early(const struct es_exchange *x)
{
    return x->early;
}

int64_t es_exchange_id(const struct es_exchange *x)
{
    return x->id;
}

void *es_exchange_user(const struct es_exchange *x)
{
    return x->user;
}

void es_exchange_set_user(struct es_exchange *x, void *user)
{
    x->user = user;
}

int es_exchange_error(const struct es_exchange *x, struct es_exchange_error *out)
{
    if (!x->aborted) {
        return ES_ERR_NOT_FOUND;
    }
    *out = x->error;
    return 0;
}
