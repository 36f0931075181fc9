/* The pair's link functions. They only queue, mark and count: the rounds in pair.c move things. */
#include "pair_state.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "../base/err.h"
#include "../base/mem.h"

void es_pair_side_hold(struct pair_side *side, int64_t delta)
{
    assert(delta >= 0 || side->link.held >= (uint64_t)-delta);
    side->link.held += (uint64_t)delta;
    if (side->link.held > side->link.hold_cap / 2)
        side->was_high = 1;
}

void es_pair_chunk_done(struct pair_end *e, struct pair_chunk *c)
{
    es_pair_side_hold(side_of(e->base.link), -(int64_t)c->n);
    es_list_remove(&c->node);
    es_list_push(&side_of(e->base.link)->pair->released, &c->node);
}

void es_pair_drop_queue(struct pair_end *e)
{
    while (!es_list_empty(&e->queue))
        es_pair_chunk_done(e, es_container_of(e->queue.next, struct pair_chunk, node));
    es_link_count_unsent(e->base.link, -(int64_t)e->queued);
    e->queued = 0;
    e->base.wake = 0;
}

/* The deferred part of a round: nothing of the protocols is on the stack any more. */
static int pair_open(struct es_link *l, int dir, void *user, struct es_link_stream **out)
{
    struct pair_side *side = side_of(l);
    struct es_pair *p = side->pair;
    int me = index_of(side), i;
    struct pair_stream *s;

    if (side->closing || side->closed || p->cut)
        return ES_ERR_CLOSED;
    if (!p->established || side->left[dir] == 0)
        return ES_ERR_LIMIT;
    s = es_calloc(1, sizeof *s);
    if (!s)
        return ES_ERR_NOMEM;
    s->dir = dir;
    s->opener = me;
    for (i = 0; i < 2; i++) {
        struct pair_end *e = &s->end[i];

        e->base.link = &p->side[i].link;
        e->base.id = side->next[dir] * 4 + (dir == ES_DIR_UNI ? 2 : 0) + me;
        e->stream = s;
        es_link_marks(&e->base, ES_LINK_HIGH, ES_LINK_HIGH / 2);
        e->window = p->stream_window;
        e->can_send = dir == ES_DIR_BIDI || i == me;
        e->can_recv = dir == ES_DIR_BIDI || i != me;
        e->send_over = !e->can_send;
        e->recv_over = !e->can_recv;
        es_list_init(&e->queue);
    }
    s->end[me].known = 1;
    s->end[me].base.user = user;
    side->left[dir]--;
    side->next[dir]++;
    es_list_push(&p->streams, &s->node);
    *out = &s->end[me].base;
    return 0;
}

static int pair_put(struct es_link_stream *ls, const void *data, size_t n, int fin, int copy,
                    void (*release)(void *), void *arg)
{
    struct pair_end *e = end_of(ls);
    struct pair_side *side = side_of(ls->link);
    struct pair_chunk *c = NULL;

    if (side->closing || side->closed || !e->can_send || e->fin || e->reset || e->closed)
        return ES_ERR_CLOSED;
    if (n > 0 || release) {
        c = es_malloc(sizeof *c + (copy ? n : 0));
        if (!c)
            return ES_ERR_NOMEM;
        c->n = n;
        c->off = 0;
        c->release = release;
        c->arg = arg;
        c->p = data;
        if (copy) {
            memcpy(c->copy, data, n);
            c->p = c->copy;
        }
        es_pair_side_hold(side, (int64_t)n);
        es_list_init(&c->node);
        if (n > 0)
            es_list_push(&e->queue, &c->node);
        else
            es_list_push(&side->pair->released, &c->node);
        e->queued += n;
        es_link_count_unsent(ls->link, (int64_t)n);
        es_link_queue_rose(ls, e->queued);
    }
    if (fin)
        e->fin = 1;
    touch(side);
    return 0;
}

static int pair_write(struct es_link_stream *s, const void *data, size_t n, int fin)
{
    return pair_put(s, data, n, fin, 1, NULL, NULL);
}

static int pair_write_ref(struct es_link_stream *s, const void *data, size_t n, int fin,
                          void (*release)(void *), void *arg)
{
    return pair_put(s, data, n, fin, 0, release, arg);
}

static size_t pair_queued(const struct es_link_stream *s)
{
    return end_of(s)->queued;
}

static void pair_priority(struct es_link_stream *s, int prio)
{
    (void)s;
    (void)prio; /* every stream moves in every round: there is nothing to order */
}

static void pair_credit(struct es_link_stream *s, size_t n)
{
    struct pair_end *e = end_of(s);

    e->credited += n;
    assert(e->credited <= e->received); /* a protocol that returns more than came has lost count */
    other_end(e)->window += n;
    touch(side_of(s->link));
}

static void pair_stream_done(struct es_link_stream *ls)
{
    struct pair_end *e = end_of(ls);
    struct pair_stream *s = e->stream;
    struct pair_side *opener;

    if (e->done || s->opener == index_of(side_of(ls->link)))
        return;
    e->done = 1;
    opener = &side_of(ls->link)->pair->side[s->opener];
    opener->left[s->dir]++;
    opener->credit_due |= 1u << s->dir;
    touch(opener);
}

/* The pair gives nothing back by itself. */
static int pair_stream_keep(struct es_link_stream *ls)
{
    struct pair_end *e = end_of(ls);

    if (e->done || e->stream->opener == index_of(side_of(ls->link)))
        return 0;
    e->done = 1;
    return 1;
}

static void pair_allow(struct es_link *l, int dir)
{
    struct pair_side *opener = &side_of(l)->pair->side[!index_of(side_of(l))];

    opener->left[dir]++;
    opener->credit_due |= 1u << dir;
    touch(opener);
}

static void pair_stop(struct es_link_stream *s, uint64_t app_code)
{
    struct pair_end *e = end_of(s);

    if (!e->can_recv || e->recv_over || e->stopped)
        return;
    e->stopped = 1;
    e->stop_pending = 1;
    e->stop_code = app_code;
    touch(side_of(s->link));
}

static void pair_reset(struct es_link_stream *s, uint64_t app_code)
{
    struct pair_end *e = end_of(s);

    if (!e->can_send || e->send_over || e->fin_out || e->reset)
        return;
    e->reset = 1;
    e->reset_code = app_code;
    es_pair_drop_queue(e);
    touch(side_of(s->link));
}

static void pair_hold(struct es_link *l, int64_t delta)
{
    es_pair_side_hold(side_of(l), delta);
    if (delta < 0)
        touch(side_of(l));
}

static int pair_datagram(struct es_link *l, const void *data, size_t n)
{
    struct pair_side *side = side_of(l);
    struct pair_datagram *d;

    if (side->closing || side->closed)
        return ES_ERR_CLOSED;
    if (side->pair->datagram == 0 || !side->pair->established)
        return ES_ERR_UNSUPPORTED;
    if (n > side->pair->datagram)
        return ES_ERR_TOO_LARGE;
    if (side->n_datagrams >= PAIR_MAX_DATAGRAMS)
        return ES_ERR_LIMIT;
    d = es_malloc(sizeof *d + n);
    if (!d)
        return ES_ERR_NOMEM;
    d->n = n;
    if (n > 0)
        memcpy(d->data, data, n);
    es_list_push(&side->datagrams, &d->node);
    side->n_datagrams++;
    touch(side);
    return 0;
}

static void pair_close(struct es_link *l, int app, uint64_t code, const char *reason)
{
    struct pair_side *side = side_of(l);

    if (side->closing || side->closed)
        return;
    side->closing = 1;
    side->info.cause = ES_CLOSE_LOCAL;
    side->info.err = ES_ERR_CLOSED;
    side->info.app = app;
    side->info.code = code;
    snprintf(side->info.reason, sizeof side->info.reason, "%s", reason ? reason : "");
    touch(side);
}

static void pair_stats(struct es_link *l, struct es_link_stats *out)
{
    struct pair_side *side = side_of(l);

    memset(out, 0, sizeof *out);
    out->bytes_sent = side->bytes_out;
    out->bytes_received = side->bytes_in;
    out->held = l->held;
    out->credit = UINT64_MAX;
    if (!side->pair->established)
        return;
    out->handshake_time = 1;
    out->max_datagram = (uint32_t)side->pair->datagram;
    out->streams_bidi_left = (uint32_t)side->left[ES_DIR_BIDI];
    out->streams_uni_left = (uint32_t)side->left[ES_DIR_UNI];
}

static void pair_peer_addr(struct es_link *l, char *buf, size_t n)
{
    snprintf(buf, n, "%s", side_of(l)->peer);
}

const struct es_link_ops es_pair_ops = {
    .open = pair_open,
    .write = pair_write,
    .write_ref = pair_write_ref,
    .queued = pair_queued,
    .priority = pair_priority,
    .credit = pair_credit,
    .stream_done = pair_stream_done,
    .stream_keep = pair_stream_keep,
    .allow = pair_allow,
    .stop = pair_stop,
    .reset = pair_reset,
    .hold = pair_hold,
    .datagram = pair_datagram,
    .close = pair_close,
    .stats = pair_stats,
    .peer_addr = pair_peer_addr,
};
