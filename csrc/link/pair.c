/* The in-memory pair: see pair.h. Every up-call is made from es_pair_establish, es_pair_pump or es_pair_del;
 * the link functions only queue, mark and count, as a real carrier's do inside its library's callbacks.
 *
 * A stream is one object with two ends, one for each side. What an end has sent is "acknowledged" one round
 * after it was delivered, so that protocols see sent() and stream_closed() later than the data, as over a
 * network. */
#include "pair_state.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "../base/err.h"
#include "../base/mem.h"

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
        es_link_stream_done(&e->base);
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
    to->base.stop_code = e->stop_code;
    UP(to, stream_stopped, &to->base, e->stop_code);
    es_link_reset(&to->base, e->stop_code);
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
        es_link_count_unsent(e->base.link, -(int64_t)n);
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
                es_pair_chunk_done(e, c);
        }
    }
    if (end_listens(e) && es_link_queue_fell(&e->base, e->queued))
        UP(e, writable, &e->base);
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
        es_pair_drop_queue(&es_container_of(it, struct pair_stream, node)->end[me]);
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

        side->link.ops = &es_pair_ops;
        side->link.is_server = i;
        side->link.hold_cap = ES_LINK_HOLD_CAP;
        side->link.glitch_code = ES_APP_EXCESSIVE_LOAD;
        es_glitch_init(&side->link.glitch, ES_GLITCH_BUDGET, 0);
        side->pair = p;
        side->window = ES_LINK_HOLD_CAP;
        es_list_init(&side->datagrams);
        snprintf(side->peer, sizeof side->peer, "127.0.0.1:%d", i ? 40000 : 5000);
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

void es_pair_notify(struct es_pair *p, void (*fn)(void *), void *user)
{
    p->notify = fn;
    p->notify_user = user;
}

void es_pair_address(struct es_pair *p, int server, const char *peer)
{
    struct pair_side *side = &p->side[!!server];

    snprintf(side->peer, sizeof side->peer, "%s", peer);
}

int es_pair_is_over(const struct es_pair *p)
{
    return p->side[0].closed && p->side[1].closed;
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
        es_link_close(&p->side[i].link, 1, ES_APP_NONE, "");
    pump_close(p);
    collect(p);
    run_released(p);
    es_free(p);
}
