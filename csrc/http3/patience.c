/* How long a server waits: for a handler to answer, for a body that does not come, for a client that does not
 * take what it asked for. One timer of the connection, set to the earliest of all these; when it fires every
 * exchange is looked at.
 *
 * A body may stop for body_timeout, and all the waiting for it together may last that long and a second more
 * for every SLOW bytes that came; who reads has to take as many in each span of body_timeout. Time counts
 * only while somebody waits: neither for a handler that does not read, nor for one that does not write, nor
 * against a stream behind which more urgent ones are sent. While a handler waits for the body its own time
 * stands still.
 *
 * When an answer is whole and nobody read the request to its end, what is left of it is let come for a while
 * and thrown away. RFC 9114 4.1 would have us stop it at once; but Chromium (156) looks at no answer before
 * it has written its body, and a body that is stopped it never has: fetch() hangs. And curl with OpenSSL's
 * QUIC fails when it is stopped before it has seen the answer. So a body whose length was said and is not
 * beyond measure may come to its end; any other gets the time that who listens needs to stop by itself. */
#include "internal.h"

#define SLOW  64                  /* bytes a second: nobody is that slow who wants to get on */
#define MOST  ((uint64_t)1 << 32) /* seconds: more would not fit into ns */
#define LOOKS 4                   /* in a span of body_timeout */

#define REST_BYTES ((uint64_t)64 << 20) /* that nobody reads */
#define REST_QUIET (10 * ES_SECOND)     /* without any of them */
#define REST_TIME  (120 * ES_SECOND)    /* for all, when they are known to be no more than that */
#define REST_SOON  ES_SECOND            /* when they are not */
#define REST_COUNT 16                   /* such bodies of one connection */

static uint64_t now_of(const struct es_exchange *x)
{
    return x->h->config->timers->now;
}

/* Sees to it that the timer fires at `at` at the latest. Not of a connection that is over: its handlers may
 * live longer than it does, and nobody would stop the timer again. */
static void watch(struct es_h3 *h, uint64_t at)
{
    if (at == ES_NEVER || !es_h3_usable(h) || (es_timer_running(&h->patience) && h->patience.at <= at)) {
        return;
    }
    if (es_timer_start(h->config->timers, &h->patience, at) != 0) {
        es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
    }
}

static uint64_t min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- the handler ---- */

void es_exchange_begun(struct es_exchange *x)
{
    const struct es_h3_limits *l = &x->h->config->limits;

    x->body_timeout = x->is_connect ? 0 : l->body_timeout;
    es_exchange_set_timeouts(x, l->answer_timeout, x->body_timeout);
}

void es_exchange_set_timeouts(struct es_exchange *x, uint64_t answer, uint64_t body)
{
    x->body_timeout = body;
    x->answer_by = answer != 0 ? now_of(x) + answer : ES_NEVER;
    watch(x->h, x->answer_by);
}

/* ---- bodies that come ---- */

void es_exchange_waits(struct es_exchange *x)
{
    uint64_t now = now_of(x), limit = x->body_timeout + min(x->rx_came / SLOW, MOST) * ES_SECOND;

    if (x->ours || x->rx_since != 0) {
        return;
    }
    x->rx_since = now > 0 ? now : 1;
    x->rx_by = ES_NEVER;
    if (x->body_timeout != 0) {
        x->rx_by = now + min(x->body_timeout, limit > x->rx_waited ? limit - x->rx_waited : 0);
    }
    watch(x->h, x->rx_by);
}

void es_exchange_waited(struct es_exchange *x)
{
    uint64_t waited;

    if (x->rx_since == 0) {
        return;
    }
    waited = now_of(x) - x->rx_since;
    x->rx_since = 0;
    x->rx_waited += waited;
    if (x->answer_by != ES_NEVER) {
        x->answer_by += waited;
        watch(x->h, x->answer_by);
    }
}

/* ---- bodies that nobody reads ---- */

static int is_resting(const struct es_exchange *x)
{
    return x->resting && !x->rx_fin && !x->rx_stopped && !x->aborted;
}

/* What is still to come; UINT64_MAX: no length was said. */
static uint64_t rest_of(const struct es_exchange *x)
{
    struct es_h3_field f;
    uint64_t length = UINT64_MAX;
    size_t at = 0;

    while (length == UINT64_MAX && x->head != NULL && es_h3_head_next(x->head, &at, &f)) {
        if (es_h3_content_length(&f, 1, &length) != 0) {
            return UINT64_MAX;
        }
    }
    return length == UINT64_MAX || length < x->rx_came ? UINT64_MAX : length - x->rx_came;
}

int es_exchange_rest(struct es_exchange *x)
{
    size_t n = 0;

    if (x->ours || x->is_connect || !x->tx_fin || x->tx_stopped || x->rx_fin || x->rx_stopped || x->rx_late ||
        x->aborted || x->h->goaway == 2) {
        return 0;
    }
    es_list_foreach(it, &x->h->exchanges)
    {
        n += is_resting(es_container_of(it, struct es_exchange, all)) ? 1 : 0;
    }
    if (n >= REST_COUNT) {
        return 0;
    }
    x->resting = 1;
    x->rest_at = now_of(x);
    x->rest_by = x->rest_at + (rest_of(x) <= REST_BYTES ? REST_TIME : REST_SOON);
    x->rest_left = REST_BYTES;
    if (x->rx.n > x->rx_at) { /* came, and was not read: room for as much more */
        es_link_credit(x->s, x->rx.n - x->rx_at);
    }
    watch(x->h, min(x->rest_at + REST_QUIET, x->rest_by));
    return 1;
}

void es_exchange_rested(struct es_exchange *x, size_t n)
{
    x->rest_at = now_of(x);
    x->rest_left -= n < x->rest_left ? n : x->rest_left;
    if (is_resting(x) && x->rest_left == 0) {
        x->rest_by = x->rest_at;
        watch(x->h, x->rest_by);
    }
}

void es_h3_stop_resting(struct es_h3 *h)
{
    es_list_foreach(it, &h->exchanges)
    {
        struct es_exchange *x = es_container_of(it, struct es_exchange, all);

        if (is_resting(x)) {
            es_exchange_give_up(x, ES_H3_NO_ERROR, ES_H3_NO_ERROR);
        }
    }
}

/* ---- bodies that go ---- */

void es_exchange_wrote(struct es_exchange *x)
{
    if (x->ours || x->body_timeout == 0 || x->tx_since != 0 || x->s == NULL) {
        return;
    }
    x->tx_since = now_of(x) > 0 ? now_of(x) : 1;
    x->tx_mark = x->tx_total - es_link_queued(x->s);
    watch(x->h, x->tx_since + x->body_timeout / LOOKS + 1);
}

/* ---- looking ---- */

static uint64_t taken(const struct es_exchange *x)
{
    return x->tx_total - es_link_queued(x->s);
}

/* The most urgent class of which something was taken: what comes behind it could not be. */
static unsigned busy_class(const struct es_h3 *h)
{
    unsigned best = ES_PRIO_LAST;

    es_list_foreach(it, &h->exchanges)
    {
        const struct es_exchange *x = es_container_of(it, struct es_exchange, all);

        if (x->tx_since != 0 && x->s != NULL && taken(x) > x->tx_mark && x->prio < best) {
            best = x->prio;
        }
    }
    return best;
}

static uint64_t look_at_tx(struct es_exchange *x, unsigned busy)
{
    uint64_t now = now_of(x), most = x->body_timeout / ES_SECOND * SLOW;

    if (x->tx_since == 0 || x->s == NULL || x->body_timeout == 0) {
        return ES_NEVER;
    }
    if (es_link_queued(x->s) == 0) {
        x->tx_since = 0; /* the next write begins anew */
        return ES_NEVER;
    }
    if (taken(x) - x->tx_mark > most || x->prio > busy) {
        x->tx_since = now;
        x->tx_mark = taken(x);
    }
    if (now >= x->tx_since + x->body_timeout) {
        if (x->tx_fin) { /* the handler is long gone */
            es_link_reset(x->s, ES_H3_REQUEST_CANCELLED);
        } else {
            es_exchange_later(x, CHORE_ABORT, ES_H3_REQUEST_CANCELLED);
        }
        x->stalled = 1;
        x->tx_since = 0;
        return ES_NEVER;
    }
    return now + x->body_timeout / LOOKS + 1;
}

static uint64_t look_at_rx(struct es_exchange *x)
{
    if (x->rx_since == 0) {
        return ES_NEVER;
    }
    if (now_of(x) < x->rx_by) {
        return x->rx_by;
    }
    es_exchange_waited(x);
    x->rx_late = 1;
    if (x->rx_waiting) {
        x->rx_waiting = 0;
        es_exchange_tell(x, ES_EX_READABLE);
    }
    return ES_NEVER;
}

static uint64_t look_at_answer(struct es_exchange *x)
{
    if (x->answer_by == ES_NEVER || x->responded || x->released || !x->told || x->rx_since != 0) {
        return ES_NEVER;
    }
    if (now_of(x) < x->answer_by) {
        return x->answer_by;
    }
    x->answer_by = ES_NEVER;
    es_exchange_tell(x, ES_EX_LATE);
    return ES_NEVER;
}

static uint64_t look_at_rest(struct es_exchange *x)
{
    uint64_t due = min(x->rest_at + REST_QUIET, x->rest_by);

    if (!is_resting(x)) {
        return ES_NEVER;
    }
    if (now_of(x) < due) {
        return due;
    }
    es_exchange_give_up(x, ES_H3_NO_ERROR, ES_H3_NO_ERROR);
    return ES_NEVER;
}

void es_h3_on_patience(struct es_timer *t)
{
    struct es_h3 *h = t->user;
    uint64_t next = ES_NEVER;
    unsigned busy;

    if (!es_h3_usable(h)) {
        return;
    }
    busy = busy_class(h);
    es_list_foreach(it, &h->exchanges)
    {
        struct es_exchange *x = es_container_of(it, struct es_exchange, all);

        if (x->ours || x->aborted) {
            continue;
        }
        next = min(next, look_at_tx(x, busy));
        next = min(next, look_at_rx(x));
        next = min(next, look_at_answer(x));
        next = min(next, look_at_rest(x));
    }
    watch(h, next);
    es_h3_pump(h);
}
