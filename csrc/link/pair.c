/* The in-memory pair: see pair.h. Every up-call is made from es_pair_establish, es_pair_pump or es_pair_del;
 * the link functions only queue, mark and count, as a real carrier's do inside its library's callbacks.
 *
 * A stream is one object with two ends, one for each side. What an end has sent is "acknowledged" one round
 * after it was delivered, so that protocols see sent() and stream_closed() later than the data, as over a
 * network. */
#include "pair.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "../base/err.h"
#include "../base/list.h"
#include "../base/mem.h"

#define PAIR_MAX_DATAGRAMS 256

struct pair_chunk { /* bytes of one write */
    struct es_list node;
    const uint8_t *p; /* borrowed from the writer (release is set), or points at `copy` */
    size_t n, off;    /* bytes, and how many were delivered */
    void (*release)(void *);
    void *arg;
    uint8_t copy[];
};

struct pair_stream;

struct pair_end {
    struct es_link_stream base; /* first: what the protocol holds */
    struct pair_stream *stream; /* borrowed */
    struct es_list queue;       /* owned pair_chunks */
    size_t queued;              /* bytes in `queue` */
    size_t window;              /* bytes the other side lets us send on this stream */
    uint64_t received, credited;
    uint64_t reset_code, stop_code;
    unsigned known : 1;    /* our protocol has this stream: it opened it, or stream_opened() was called */
    unsigned can_send : 1; /* a direction of ours exists */
    unsigned can_recv : 1;
    unsigned fin : 1;     /* FIN was written */
    unsigned fin_out : 1; /* FIN was delivered */
    unsigned reset : 1;   /* RESET_STREAM waits or is out */
    unsigned reset_out : 1;
    unsigned send_over : 1;    /* acknowledged: our sending direction is history */
    unsigned recv_over : 1;    /* FIN or RESET_STREAM came */
    unsigned stopped : 1;      /* we sent STOP_SENDING: nothing more is handed up */
    unsigned stop_pending : 1; /* and it has not been delivered */
    unsigned above : 1;        /* the queue was over ES_LINK_HIGH: writable() is owed */
    unsigned done : 1;         /* the opener's allowance was given back */
    unsigned closed : 1;       /* stream_closed() was called */
};

struct pair_stream {
    struct es_list node;
    struct pair_end end[2]; /* [0] the dialling side, [1] the accepting side */
    int dir, opener;
};

struct pair_datagram {
    struct es_list node;
    size_t n;
    uint8_t data[];
};

struct pair_side {
    struct es_link link;  /* first: what the protocol holds */
    struct es_pair *pair; /* borrowed */
    int64_t next[2];      /* number of the next stream we open */
    size_t left[2];       /* streams we may still open */
    unsigned credit_due;  /* bit dir: stream_credit() is owed */
    uint64_t window;      /* bytes the other side lets us send on the connection */
    uint64_t withheld;    /* connection credit we owe the other side, kept back while held is over the cap */
    uint64_t low_mark;    /* held at the last look, for hold_low() */
    int was_high;
    struct es_list datagrams; /* owned, from us to the other side */
    size_t n_datagrams;
    uint64_t bytes_out, bytes_in;
    int closing, closed; /* es_link_close() was called; closed() was delivered */
    struct es_close_info info;
};

struct es_pair {
    struct pair_side side[2];
    struct es_list streams;  /* owned */
    struct es_list released; /* owned pair_chunks whose release() is due at the end of the round */
    struct es_list dead;     /* owned pair_streams to free then */
    size_t stream_window, datagram;
    int established, cut, busy;
};

static struct pair_side *side_of(struct es_link *l)
{
    return (struct pair_side *)l;
}

static int index_of(const struct pair_side *side)
{
    return (int)(side - side->pair->side);
}

static struct pair_end *end_of(const struct es_link_stream *s)
{
    return (struct pair_end *)s;
}

static struct pair_end *other_end(struct pair_end *e)
{
    return e == &e->stream->end[0] ? &e->stream->end[1] : &e->stream->end[0];
}

/* ---- accounting ---- */

static void side_hold(struct pair_side *side, int64_t delta)
{
    assert(delta >= 0 || side->link.held >= (uint64_t)-delta);
    side->link.held += (uint64_t)delta;
    if (side->link.held > side->link.hold_cap / 2)
        side->was_high = 1;
}

static void chunk_done(struct es_pair *p, struct pair_end *e, struct pair_chunk *c)
{
    side_hold(side_of(e->base.link), -(int64_t)c->n);
    es_list_remove(&c->node);
    es_list_push(&p->released, &c->node);
}

static void end_drop_queue(struct es_pair *p, struct pair_end *e)
{
    while (!es_list_empty(&e->queue))
        chunk_done(p, e, es_container_of(e->queue.next, struct pair_chunk, node));
    e->queued = 0;
    e->above = 0;
}

/* The deferred part of a round: nothing of the protocols is on the stack any more. */
static void run_released(struct es_pair *p)
{
    while (!es_list_empty(&p->released)) {
        struct pair_chunk *c = es_container_of(p->released.next, struct pair_chunk, node);

        es_list_remove(&c->node);
        if (c->release)
            c->release(c->arg);
        es_free(c);
    }
    while (!es_list_empty(&p->dead)) {
        struct pair_stream *s = es_container_of(p->dead.next, struct pair_stream, node);

        es_list_remove(&s->node);
        es_free(s);
    }
}

/* ---- the link's functions ---- */

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
        side_hold(side, (int64_t)n);
        es_list_init(&c->node);
        if (n > 0)
            es_list_push(&e->queue, &c->node);
        else
            es_list_push(&side->pair->released, &c->node);
        e->queued += n;
        if (e->queued > ES_LINK_HIGH)
            e->above = 1;
    }
    if (fin)
        e->fin = 1;
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
}

static void pair_stop(struct es_link_stream *s, uint64_t app_code)
{
    struct pair_end *e = end_of(s);

    if (!e->can_recv || e->recv_over || e->stopped)
        return;
    e->stopped = 1;
    e->stop_pending = 1;
    e->stop_code = app_code;
}

static void pair_reset(struct es_link_stream *s, uint64_t app_code)
{
    struct pair_end *e = end_of(s);

    if (!e->can_send || e->send_over || e->fin_out || e->reset)
        return;
    e->reset = 1;
    e->reset_code = app_code;
    end_drop_queue(side_of(s->link)->pair, e);
}

static void pair_hold(struct es_link *l, int64_t delta)
{
    side_hold(side_of(l), delta);
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
}

static void pair_stats(struct es_link *l, struct es_link_stats *out)
{
    struct pair_side *side = side_of(l);

    memset(out, 0, sizeof *out);
    out->bytes_sent = side->bytes_out;
    out->bytes_received = side->bytes_in;
    out->held = l->held;
    if (!side->pair->established)
        return;
    out->handshake_time = 1;
    out->max_datagram = (uint32_t)side->pair->datagram;
    out->streams_bidi_left = (uint32_t)side->left[ES_DIR_BIDI];
    out->streams_uni_left = (uint32_t)side->left[ES_DIR_UNI];
}

static void pair_peer_addr(struct es_link *l, char *buf, size_t n)
{
    snprintf(buf, n, "127.0.0.1:%d", l->is_server ? 40000 : 5000);
}

static const struct es_link_ops pair_ops = {
    pair_open, pair_write, pair_write_ref, pair_queued,   pair_priority, pair_credit, pair_stream_done,
    pair_stop, pair_reset, pair_hold,      pair_datagram, pair_close,    pair_stats,  pair_peer_addr,
};

/* ---- one round ---- */

#define UP(e, call, ...) (e)->base.link->events->call((e)->base.link->user, __VA_ARGS__)

static int end_is_live(const struct pair_end *e)
{
    const struct pair_side *side = (const struct pair_side *)e->base.link;

    return !side->closed && side->link.events;
}

/* Nothing is handed up to a side that asked for its close. */
static int end_listens(const struct pair_end *e)
{
    return end_is_live(e) && !((const struct pair_side *)e->base.link)->closing;
}

static void end_announce(struct pair_end *e)
{
    if (e->known)
        return;
    e->known = 1;
    UP(e, stream_opened, &e->base, e->stream->dir);
}

static int pump_acks(struct pair_end *e)
{
    int moved = 0;

    if (!e->send_over && e->fin_out) {
        e->send_over = 1;
        moved = 1;
        if (end_listens(e))
            UP(e, sent, &e->base);
    } else if (!e->send_over && e->reset_out) {
        e->send_over = 1;
        moved = 1;
    }
    if (e->known && !e->closed && e->send_over && e->recv_over && end_listens(e)) {
        pair_stream_done(&e->base);
        e->closed = 1;
        moved = 1;
        UP(e, stream_closed, &e->base);
    }
    return moved;
}

/* STOP_SENDING of `e` reaches the other end, whose carrier answers with RESET_STREAM by itself (RFC
 * 9000, 3.5). */
static int pump_stop(struct pair_end *e)
{
    struct pair_end *to = other_end(e);

    if (!e->stop_pending || !end_listens(to))
        return 0;
    e->stop_pending = 0;
    if (to->fin_out || to->reset || to->send_over)
        return 1;
    end_announce(to);
    UP(to, stream_stopped, &to->base, e->stop_code);
    pair_reset(&to->base, e->stop_code);
    return 1;
}

static int pump_reset(struct pair_end *e)
{
    struct pair_end *to = other_end(e);

    if (!e->reset || e->reset_out || !end_listens(to))
        return 0;
    e->reset_out = 1;
    end_announce(to);
    to->recv_over = 1;
    if (end_listens(to))
        UP(to, stream_reset, &to->base, e->reset_code);
    return 1;
}

static void count_arrival(struct pair_side *from, struct pair_side *to, size_t n)
{
    from->window -= n;
    from->bytes_out += n;
    to->bytes_in += n;
    if (to->link.held <= to->link.hold_cap)
        from->window += n;
    else
        to->withheld += n;
}

/* Up to `chunk` bytes of what `e` sent. The peer may stop, reset or close from inside data(). */
static int pump_data(struct es_pair *p, struct pair_end *e, size_t chunk)
{
    struct pair_end *to = other_end(e);
    struct pair_side *from_side = side_of(e->base.link), *to_side = side_of(to->base.link);
    size_t left = chunk ? chunk : SIZE_MAX;
    int moved = 0;

    while (end_listens(to) && !to->stopped && !e->reset && !e->fin_out && e->can_send) {
        struct pair_chunk *c = NULL;
        const uint8_t *at = NULL;
        size_t n = 0;
        int fin;

        if (!es_list_empty(&e->queue)) {
            c = es_container_of(e->queue.next, struct pair_chunk, node);
            at = c->p + c->off;
            n = c->n - c->off;
            n = n < left ? n : left;
            n = n < e->window ? n : e->window;
            n = n < from_side->window ? n : (size_t)from_side->window;
            if (n == 0)
                break;
        }
        fin = e->fin && e->queued == n;
        if (n == 0 && !fin)
            break;
        left -= n;
        e->window -= n;
        e->queued -= n;
        count_arrival(from_side, to_side, n);
        to->received += n;
        e->fin_out = (unsigned)fin & 1;
        if (fin)
            to->recv_over = 1;
        end_announce(to);
        UP(to, data, &to->base, at, n, fin);
        moved = 1;
        if (c) {
            c->off += n;
            if (c->off == c->n)
                chunk_done(p, e, c);
        }
    }
    if (e->above && e->queued <= ES_LINK_HIGH / 2 && end_listens(e)) {
        e->above = 0;
        UP(e, writable, &e->base);
    }
    return moved;
}

static int pump_datagrams(struct es_pair *p, int from)
{
    struct pair_side *a = &p->side[from], *b = &p->side[!from];
    size_t n = a->n_datagrams;
    int moved = n > 0;

    while (n-- > 0) {
        struct pair_datagram *d = es_container_of(a->datagrams.next, struct pair_datagram, node);

        es_list_remove(&d->node);
        a->n_datagrams--;
        if (!b->closed && !b->closing && b->link.events)
            b->link.events->datagram(b->link.user, d->data, d->n);
        es_free(d);
    }
    return moved;
}

static int pump_credit(struct es_pair *p, int me)
{
    struct pair_side *a = &p->side[me], *b = &p->side[!me];
    uint64_t held = a->link.held;
    int moved = 0, dir;

    if (a->closed || a->closing || !a->link.events)
        return 0;
    if (a->withheld && held <= a->link.hold_cap) {
        b->window += a->withheld;
        a->withheld = 0;
        moved = 1;
    }
    for (dir = 0; dir < 2; dir++) {
        if (a->credit_due & 1u << dir) {
            a->credit_due &= ~(1u << dir);
            a->link.events->stream_credit(a->link.user, dir);
            moved = 1;
        }
    }
    /* would_hold(n) is asked without telling the carrier, so every fall after the half was passed counts. */
    if (a->was_high && held < a->low_mark && held < a->link.hold_cap) {
        if (held <= a->link.hold_cap / 2)
            a->was_high = 0;
        a->link.events->hold_low(a->link.user);
    }
    a->low_mark = a->link.held;
    return moved;
}

static void side_closed(struct es_pair *p, int me)
{
    struct pair_side *a = &p->side[me];

    a->closed = 1;
    es_list_foreach(it, &p->streams)
        end_drop_queue(p, &es_container_of(it, struct pair_stream, node)->end[me]);
    while (!es_list_empty(&a->datagrams)) {
        struct pair_datagram *d = es_container_of(a->datagrams.next, struct pair_datagram, node);

        es_list_remove(&d->node);
        es_free(d);
    }
    a->n_datagrams = 0;
    if (a->link.events)
        a->link.events->closed(a->link.user, &a->info);
}

static int pump_close(struct es_pair *p)
{
    int a = p->side[0].closing, b = p->side[1].closing, i;

    if (!a && !b && !p->cut)
        return 0;
    if (p->side[0].closed && p->side[1].closed)
        return 0;
    for (i = 0; i < 2; i++) {
        struct es_close_info *info = &p->side[i].info;

        if (p->side[i].closing)
            continue;
        if (p->cut) {
            memset(info, 0, sizeof *info);
            info->cause = ES_CLOSE_IDLE;
            info->err = ES_ERR_TIMEOUT;
            snprintf(info->reason, sizeof info->reason, "idle time-out");
        } else {
            *info = p->side[!i].info;
            info->cause = ES_CLOSE_PEER;
        }
    }
    for (i = 0; i < 2; i++) {
        if (!p->side[i].closed)
            side_closed(p, i);
    }
    return 1;
}

/* Streams whose both ends are over, or whose sides are gone, wait for the end of the round to be freed. */
static void collect(struct es_pair *p)
{
    es_list_foreach(it, &p->streams)
    {
        struct pair_stream *s = es_container_of(it, struct pair_stream, node);
        int i, over = 1;

        for (i = 0; i < 2; i++) {
            if (!s->end[i].closed && !p->side[i].closed)
                over = 0;
        }
        if (over) {
            es_list_remove(&s->node);
            es_list_push(&p->dead, &s->node);
        }
    }
}

int es_pair_pump(struct es_pair *p, size_t chunk)
{
    int moved = 0, i;

    assert(!p->busy); /* never from an up-call */
    p->busy = 1;
    if (!p->cut) {
        es_list_foreach(it, &p->streams)
        {
            struct pair_stream *s = es_container_of(it, struct pair_stream, node);

            for (i = 0; i < 2; i++)
                moved |= pump_acks(&s->end[i]);
            for (i = 0; i < 2; i++)
                moved |= pump_stop(&s->end[i]);
            for (i = 0; i < 2; i++)
                moved |= pump_reset(&s->end[i]);
            for (i = 0; i < 2; i++)
                moved |= pump_data(p, &s->end[i], chunk);
        }
        for (i = 0; i < 2; i++)
            moved |= pump_datagrams(p, i);
        for (i = 0; i < 2; i++)
            moved |= pump_credit(p, i);
    }
    moved |= pump_close(p);
    collect(p);
    run_released(p);
    p->busy = 0;
    return moved;
}

/* ---- life ---- */

int es_pair_new(struct es_pair **out)
{
    struct es_pair *p = es_calloc(1, sizeof *p);
    int i;

    if (!p)
        return ES_ERR_NOMEM;
    es_list_init(&p->streams);
    es_list_init(&p->released);
    es_list_init(&p->dead);
    for (i = 0; i < 2; i++) {
        struct pair_side *side = &p->side[i];

        side->link.ops = &pair_ops;
        side->link.is_server = i;
        side->link.hold_cap = ES_LINK_HOLD_CAP;
        side->pair = p;
        side->window = ES_LINK_HOLD_CAP;
        es_list_init(&side->datagrams);
    }
    es_pair_limits(p, 1024, 16, (size_t)256 * 1024, 1200);
    *out = p;
    return 0;
}

void es_pair_limits(struct es_pair *p, size_t bidi, size_t uni, size_t window, size_t datagram)
{
    int i;

    assert(!p->established);
    for (i = 0; i < 2; i++) {
        p->side[i].left[ES_DIR_BIDI] = bidi;
        p->side[i].left[ES_DIR_UNI] = uni;
    }
    p->stream_window = window;
    p->datagram = datagram;
}

void es_pair_connection_window(struct es_pair *p, uint64_t bytes)
{
    assert(!p->established);
    p->side[0].window = p->side[1].window = bytes;
}

struct es_link *es_pair_link(struct es_pair *p, int server)
{
    return &p->side[!!server].link;
}

void es_pair_establish(struct es_pair *p)
{
    int i;

    assert(!p->established && !p->busy);
    p->established = 1;
    p->busy = 1;
    for (i = 0; i < 2; i++) {
        struct pair_side *side = &p->side[i];

        if (side->link.events && !side->closing && !side->closed)
            side->link.events->established(side->link.user);
    }
    p->busy = 0;
}

void es_pair_cut(struct es_pair *p)
{
    p->cut = 1;
}

void es_pair_del(struct es_pair *p)
{
    int i;

    if (!p)
        return;
    assert(!p->busy);
    p->busy = 1;
    for (i = 0; i < 2; i++)
        pair_close(&p->side[i].link, 1, ES_APP_NONE, "");
    pump_close(p);
    collect(p);
    run_released(p);
    es_free(p);
}
