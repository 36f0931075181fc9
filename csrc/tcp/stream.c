/* Streams: their send queue, and what the peer does to them. */
#include <assert.h>
#include <string.h>
#include "internal.h"

#define UP(s, call, ...)                                                                                     \
    (tcp_up(conn_of(s)), conn_of(s)->link.events->call(conn_of(s)->link.user, __VA_ARGS__))

static struct tcp_conn *conn_of(const struct tcp_stream *s)
{
    return tcp_of(s->s.link);
}

void tcp_held(struct tcp_conn *c, int64_t delta)
{
    struct es_link *l = &c->link;

    if (delta < 0 && (uint64_t)-delta > l->held) {
        l->held = 0;
    } else {
        l->held += (uint64_t)delta;
    }
    if (delta < 0 && c->state < TCP_ENDED) {
        if (l->hold_refused) {
            l->hold_refused = 0;
            c->want_hold_low = 1;
            tcp_mark(c);
        } else if (c->conn_credit > 0 && tcp_may_credit(c)) {
            tcp_mark(c);
        }
    }
}

/* ---- life ---- */

struct tcp_stream *tcp_stream_new(struct tcp_conn *c, int dir, int remote)
{
    struct tcp_stream *s = es_calloc(1, sizeof *s);

    if (s == NULL) {
        return NULL;
    }
    s->s.link = &c->link;
    s->s.id = -1;
    es_link_marks(&s->s, ES_LINK_HIGH, ES_LINK_HIGH / 2);
    s->prio = ES_PRIO_DEFAULT;
    s->dir = (uint8_t)dir;
    s->remote = remote != 0;
    s->window = s->window_told = c->cfg.stream_window;
    s->round_at = tcp_now(c);
    s->send_over = dir == ES_DIR_UNI && remote;
    s->recv_over = dir == ES_DIR_UNI && !remote;
    es_list_init(&s->all);
    es_list_init(&s->ready);
    es_list_init(&s->ops);
    es_list_init(&s->unacked);
    es_list_init(&s->queue);
    es_list_push(&c->streams, &s->all);
    c->n_streams++;
    return s;
}

/* Numbered as QUIC's streams are: the two lowest bits tell who opened it and whether it is one-way. */
void tcp_stream_number(struct tcp_stream *s, int32_t id, int by_server)
{
    s->id = id;
    s->s.id = (int64_t)(id / 2) * 4 + (s->dir == ES_DIR_UNI ? 2 : 0) + (by_server ? 1 : 0);
}

void tcp_stream_retire(struct tcp_stream *s)
{
    struct tcp_conn *c = conn_of(s);

    tcp_stream_drop(s);
    if (c->turn == s) {
        c->turn = NULL;
    }
    if (s->parked) {
        s->parked = 0;
        c->n_parked[s->dir]--;
    }
    es_list_remove(&s->ready);
    es_list_remove(&s->ops);
    es_list_remove(&s->unacked);
    es_list_remove(&s->all);
    es_list_push(&c->dead, &s->all);
    if (s->id != 0 && c->h2 != NULL) {
        (void)nghttp2_session_set_stream_user_data(c->h2, s->id, NULL);
    }
    c->n_streams--;
    tcp_mark(c);
}

void tcp_stream_sweep(struct tcp_conn *c)
{
    while (!es_list_empty(&c->dead)) {
        struct tcp_stream *s = es_container_of(c->dead.next, struct tcp_stream, all);
        es_list_remove(&s->all);
        es_free(s);
    }
}

/* ---- the queue ---- */

void tcp_stream_op(struct tcp_stream *s)
{
    struct tcp_conn *c = conn_of(s);

    if (es_list_empty(&s->ops)) {
        es_list_push(&c->ops, &s->ops);
    }
    tcp_mark(c);
}

void tcp_stream_make_ready(struct tcp_stream *s)
{
    struct tcp_conn *c = conn_of(s);

    if (s->headed && es_list_empty(&s->ready) && (s->unsent > 0 || (s->fin && !s->fin_out))) {
        es_list_push(&c->ready[s->prio], &s->ready);
        tcp_mark(c);
    }
}

static void chunk_done(struct tcp_conn *c, struct tcp_chunk *k)
{
    es_list_remove(&k->node);
    if (k->release != NULL) {
        es_list_push(&c->released, &k->node);
        tcp_mark(c);
    } else {
        es_free(k);
    }
}

void tcp_run_releases(struct tcp_conn *c)
{
    while (!es_list_empty(&c->released)) {
        struct tcp_chunk *k = es_container_of(c->released.next, struct tcp_chunk, node);
        es_list_remove(&k->node);
        k->release(k->arg);
        es_free(k);
    }
}

static struct tcp_chunk *chunk_new(struct tcp_stream *s, const void *data, size_t n, size_t room)
{
    struct tcp_chunk *k = es_malloc(sizeof *k + room);

    if (k == NULL) {
        return NULL;
    }
    k->n = n;
    k->off = 0;
    k->cap = room;
    k->release = NULL;
    k->arg = NULL;
    k->p = data;
    if (room > 0) {
        memcpy(k->copy, data, n);
        k->p = k->copy;
    }
    es_list_init(&k->node);
    es_list_push(&s->queue, &k->node);
    return k;
}

int tcp_stream_put(struct tcp_stream *s, const void *data, size_t n, int fin, int copy,
                   void (*release)(void *), void *arg)
{
    struct tcp_conn *c = conn_of(s);
    struct tcp_chunk *last = es_container_of(s->queue.prev, struct tcp_chunk, node), *k;

    if (copy && n > 0 && !es_list_empty(&s->queue) && last->cap - last->n >= n && last->cap > 0) {
        memcpy(last->copy + last->n, data, n);
        last->n += n;
    } else if (copy && n > 0) {
        if (chunk_new(s, data, n, n > TCP_CHUNK ? n : TCP_CHUNK) == NULL) {
            return ES_ERR_NOMEM;
        }
    } else if (!copy) {
        k = chunk_new(s, data, n, 0);
        if (k == NULL) {
            return ES_ERR_NOMEM;
        }
        k->release = release;
        k->arg = arg;
        if (n == 0) { /* nothing to wait for */
            chunk_done(c, k);
        }
    }
    s->unsent += n;
    es_link_count_unsent(&c->link, (int64_t)n);
    tcp_held(c, (int64_t)n);
    s->fin |= fin != 0;
    es_link_queue_rose(&s->s, s->unsent);
    if (!s->head) {
        tcp_stream_op(s);
    } else {
        tcp_stream_make_ready(s);
    }
    return 0;
}

static void unqueued(struct tcp_stream *s, size_t n)
{
    struct tcp_conn *c = conn_of(s);

    s->unsent -= n;
    es_link_count_unsent(&c->link, -(int64_t)n);
    tcp_held(c, -(int64_t)n);
}

size_t tcp_stream_take(struct tcp_stream *s, uint8_t *to, size_t n)
{
    size_t taken = 0;

    while (taken < n && !es_list_empty(&s->queue)) {
        struct tcp_chunk *k = es_container_of(s->queue.next, struct tcp_chunk, node);
        size_t some = k->n - k->off < n - taken ? k->n - k->off : n - taken;

        memcpy(to + taken, k->p + k->off, some);
        k->off += some;
        taken += some;
        if (k->off == k->n) {
            chunk_done(conn_of(s), k);
        }
    }
    unqueued(s, taken);
    if (es_link_queue_fell(&s->s, s->unsent)) {
        s->want_writable = 1;
        tcp_stream_op(s);
    }
    return taken;
}

void tcp_stream_drop(struct tcp_stream *s)
{
    while (!es_list_empty(&s->queue)) {
        chunk_done(conn_of(s), es_container_of(s->queue.next, struct tcp_chunk, node));
    }
    unqueued(s, s->unsent);
    s->s.wake = 0;
}

/* ---- the end ---- */

/* What a PING that is sent from now on asks for is behind it, since TCP keeps the order. */
void tcp_stream_ended(struct tcp_stream *s)
{
    struct tcp_conn *c = conn_of(s);

    s->fin_out = 1;
    if (!s->send_over && es_list_empty(&s->unacked)) {
        s->mark = c->pings + 1;
        es_list_push(&c->unacked, &s->unacked);
        if (c->ask_at == 0) {
            c->ask_at = tcp_now(c) + TCP_ACK_DELAY;
            tcp_arm(c);
        }
    }
}

void tcp_acked(struct tcp_conn *c, uint64_t ping)
{
    while (!es_list_empty(&c->unacked)) {
        struct tcp_stream *s = es_container_of(c->unacked.next, struct tcp_stream, unacked);

        if (s->mark > ping) {
            c->ask_at = tcp_now(c);
            tcp_mark(c);
            return;
        }
        es_list_remove(&s->unacked);
        s->send_over = 1;
        if (!s->reset && tcp_listens(c)) {
            UP(s, sent, &s->s);
        }
        tcp_stream_maybe_close(s);
    }
    c->ask_at = 0;
}

void tcp_stream_maybe_close(struct tcp_stream *s)
{
    struct tcp_conn *c = conn_of(s);

    if (!s->known || s->closed || !s->send_over || !s->recv_over || !s->over || !tcp_listens(c)) {
        return;
    }
    s->closed = 1;
    UP(s, stream_closed, &s->s);
    if (s->remote && !s->done) {
        s->done = 1;
        tcp_give_back(c, s->dir);
    }
    tcp_stream_retire(s);
}

/* ---- what the peer does ---- */

void tcp_stream_known(struct tcp_stream *s)
{
    struct tcp_conn *c = conn_of(s);

    if (s->known || !tcp_listens(c)) {
        return;
    }
    s->known = 1;
    UP(s, stream_opened, &s->s, s->dir);
}

void tcp_stream_got_fin(struct tcp_stream *s)
{
    struct tcp_conn *c = conn_of(s);

    if (s->recv_over) {
        return;
    }
    s->recv_over = 1;
    if (s->known && !s->stopped && tcp_listens(c)) {
        UP(s, data, &s->s, (const uint8_t *)"", 0, 1);
    }
}

void tcp_stream_got_reset(struct tcp_stream *s, uint64_t code)
{
    if (s->recv_over) {
        return;
    }
    s->recv_over = 1;
    if (s->known && tcp_listens(conn_of(s))) {
        UP(s, stream_reset, &s->s, code);
    }
}

void tcp_stream_got_stop(struct tcp_stream *s, uint64_t code)
{
    struct tcp_conn *c = conn_of(s);

    if (s->send_over || s->fin_out || s->shut || !s->known || !tcp_listens(c)) {
        return;
    }
    s->s.stop_code = code;
    tcp_stream_drop(s);
    s->shut = 1;
    UP(s, stream_stopped, &s->s, code);
    es_link_reset(&s->s, code);
}
