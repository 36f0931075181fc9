/* Streams and datagrams of WebTransport sessions, as a link has them.
 *
 * Each is a stream of the connection that begins with its kind and the number of its session. Streams
 * overtake each other: those whose session is not there yet wait a while, within bounds. */
#include <string.h>
#include "../base/mem.h"
#include "../base/varint.h"
#include "wt.h"

#define STRAYS      16                  /* streams that wait for their session */
#define STRAY_BYTES ((size_t)64 * 1024) /* of all of them */
#define STRAY_TIME  (5 * ES_SECOND)
#define GLITCH      16 /* points: a stream for nobody */

static struct h3_any dead = {H3_DEAD};

static struct wt_stream *stream_of(const struct es_link_stream *s)
{
    return es_container_of(s, struct wt_stream, s);
}

/* ---- codes ---- */

uint64_t wt_code_out(uint64_t code)
{
    uint64_t n = code < UINT32_MAX ? code : UINT32_MAX;

    return WT_FIRST_CODE + n + n / 0x1e;
}

uint64_t wt_code_in(uint64_t code)
{
    uint64_t n = code - WT_FIRST_CODE;

    if (code == WT_SESSION_GONE) {
        return ES_APP_SESSION_CLOSED;
    }
    if (code < WT_FIRST_CODE || code > WT_LAST_CODE || (code - 0x21) % 0x1f == 0) {
        return ES_APP_CANCELLED; /* of HTTP/3 itself, or one that means nothing */
    }
    return n - n / 0x1f;
}

/* ---- life ---- */

static struct wt_stream *stream_new(struct es_link_stream *below)
{
    struct wt_stream *ws = es_calloc(1, sizeof *ws);

    if (ws == NULL) {
        return NULL;
    }
    ws->any.kind = H3_WT_STREAM;
    ws->below = ws->s.below = below;
    ws->uni = (below->id & 2) != 0;
    ws->s.id = below->id;
    ws->s.high = below->high;
    ws->s.low = below->low;
    es_list_init(&ws->node);
    below->user = ws;
    return ws;
}

static void drop_early(struct es_h3 *h, struct wt_stream *ws)
{
    h->stray_bytes -= ws->early.n;
    if (h->link != NULL) {
        es_link_hold(h->link, -(int64_t)ws->early.n);
    }
    es_buf_free(&ws->early);
}

static void stream_del(struct es_h3 *h, struct wt_stream *ws)
{
    if (ws->w == NULL && !es_list_empty(&ws->node)) {
        h->n_strays--;
    }
    drop_early(h, ws);
    es_list_remove(&ws->node);
    es_free(ws);
}

/* Both directions as far as they are there, and nobody hears of it any more. */
static void give_up(struct es_h3 *h, struct es_link_stream *s, uint64_t code)
{
    int theirs = ((s->id & 1) != 0) != h->server;

    s->user = &dead;
    if ((s->id & 2) == 0 || theirs) {
        es_link_stop(s, code);
    }
    if ((s->id & 2) == 0 || !theirs) {
        es_link_reset(s, code);
    }
}

static void reject(struct es_h3 *h, struct wt_stream *ws, uint64_t code)
{
    struct es_link_stream *s = ws->below;

    stream_del(h, ws);
    give_up(h, s, code);
    if (h->server && es_link_glitch(h->link, h->config->timers->now, GLITCH, "too many streams for nobody")) {
        h->failed = 1;
    }
}

void wt_streams_drop(struct es_wt *w)
{
    es_list_foreach(it, &w->streams)
    {
        struct wt_stream *ws = es_container_of(it, struct wt_stream, node);
        struct es_link_stream *s = ws->below;

        stream_del(w->h, ws);
        if (w->h->link != NULL && !w->h->closed) {
            give_up(w->h, s, WT_SESSION_GONE);
        }
    }
}

/* The connection is over. */
void wt_strays_drop(struct es_h3 *h)
{
    es_list_foreach(it, &h->strays)
    {
        stream_del(h, es_container_of(it, struct wt_stream, node));
    }
    es_timer_stop(h->config->timers, &h->stray_timer);
}

/* ---- streams of the peer ---- */

static void adopt(struct es_wt *w, struct wt_stream *ws)
{
    ws->w = w;
    ws->s.link = &w->link;
    es_list_remove(&ws->node);
    es_list_push(&w->streams, &ws->node);
    w->link.events->stream_opened(w->link.user, &ws->s, ws->uni ? ES_DIR_UNI : ES_DIR_BIDI);
}

static void start_stray_timer(struct es_h3 *h)
{
    if (!es_list_empty(&h->strays) && es_h3_usable(h) && !es_timer_running(&h->stray_timer) &&
        es_timer_start(h->config->timers, &h->stray_timer,
                       es_container_of(h->strays.next, struct wt_stream, node)->until) != 0) {
        es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
    }
}

void es_wt_stray_timer(struct es_timer *t)
{
    struct es_h3 *h = t->user;

    while (!es_list_empty(&h->strays) && es_h3_usable(h)) {
        struct wt_stream *ws = es_container_of(h->strays.next, struct wt_stream, node);

        if (ws->until > h->config->timers->now) {
            break;
        }
        reject(h, ws, WT_BUFFERED_STREAM_REJECTED);
    }
    start_stray_timer(h);
}

void es_wt_stream_came(struct es_h3 *h, struct es_link_stream *s, uint64_t session)
{
    struct es_exchange *x;
    struct es_wt *w;
    struct wt_stream *ws;

    if ((session & 3) != 0) { /* not the number of a request */
        es_h3_close(h, ES_H3_ID_ERROR, "a stream of a session that cannot be");
        return;
    }
    ws = stream_new(s);
    if (ws == NULL) {
        es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
        return;
    }
    x = es_h3_find(h, (int64_t)session);
    w = wt_find(h, (int64_t)session);
    if (w != NULL && w->state == WT_OPEN) {
        adopt(w, ws);
    } else if (es_wt_is_gone(h, (int64_t)session) || (w != NULL && w->state == WT_CLOSING)) {
        reject(h, ws, WT_SESSION_GONE);
    } else if ((w == NULL && x != NULL && x->head != NULL) || h->n_strays >= STRAYS) {
        reject(h, ws, WT_BUFFERED_STREAM_REJECTED);
    } else {
        ws->session = (int64_t)session;
        ws->until = h->config->timers->now + STRAY_TIME;
        h->n_strays++;
        es_list_push(&h->strays, &ws->node);
        start_stray_timer(h);
    }
}

static void keep_early(struct es_h3 *h, struct wt_stream *ws, const uint8_t *p, size_t n, int fin)
{
    if (h->stray_bytes + n > STRAY_BYTES) {
        reject(h, ws, WT_BUFFERED_STREAM_REJECTED);
        return;
    }
    if (es_buf_put(&ws->early, p, n) != 0) {
        es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
        return;
    }
    h->stray_bytes += n;
    es_link_hold(h->link, (int64_t)n);
    ws->fin |= fin != 0;
}

void wt_streams_deliver(struct es_wt *w)
{
    struct es_h3 *h = w->h;
    const struct es_link_events *up = w->link.events;

    es_list_foreach(it, &h->strays)
    {
        struct wt_stream *ws = es_container_of(it, struct wt_stream, node);
        struct es_buf early = ws->early;

        if (ws->session != w->x->id) {
            continue;
        }
        h->n_strays--;
        adopt(w, ws);
        memset(&ws->early, 0, sizeof ws->early);
        if (early.n > 0 || ws->fin) {
            up->data(w->link.user, &ws->s, early.p, early.n, ws->fin);
        }
        h->stray_bytes -= early.n;
        es_link_hold(h->link, -(int64_t)early.n);
        es_buf_free(&early);
        if (ws->was_stopped) {
            up->stream_stopped(w->link.user, &ws->s, wt_code_in(ws->stop_code));
        }
        if (ws->was_reset) {
            up->stream_reset(w->link.user, &ws->s, wt_code_in(ws->reset_code));
        }
    }
}

/* ---- what the link below says ---- */

static struct wt_stream *above(const struct es_link_stream *s)
{
    return (struct wt_stream *)s->user;
}

void es_wt_data(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct wt_stream *ws = above(s);

    if (ws->w == NULL) {
        keep_early(h, ws, p, n, fin);
    } else if (!ws->deaf && (n > 0 || fin)) {
        ws->w->link.events->data(ws->w->link.user, &ws->s, p, n, fin);
    }
}

void es_wt_stream_reset(struct es_link_stream *s, uint64_t code)
{
    struct wt_stream *ws = above(s);

    if (ws->w == NULL) {
        ws->was_reset = 1;
        ws->reset_code = code;
    } else {
        ws->w->link.events->stream_reset(ws->w->link.user, &ws->s, wt_code_in(code));
    }
}

void es_wt_stream_stopped(struct es_link_stream *s, uint64_t code)
{
    struct wt_stream *ws = above(s);

    if (ws->w == NULL) {
        ws->was_stopped = 1;
        ws->stop_code = code;
    } else {
        ws->w->link.events->stream_stopped(ws->w->link.user, &ws->s, wt_code_in(code));
    }
}

void es_wt_writable(struct es_link_stream *s)
{
    struct wt_stream *ws = above(s);

    if (ws->w != NULL) {
        ws->w->link.events->writable(ws->w->link.user, &ws->s);
    }
}

void es_wt_sent(struct es_link_stream *s)
{
    struct wt_stream *ws = above(s);

    if (ws->w != NULL) {
        ws->w->link.events->sent(ws->w->link.user, &ws->s);
    }
}

void es_wt_stream_closed(struct es_h3 *h, struct es_link_stream *s)
{
    struct wt_stream *ws = above(s);

    if (ws->w != NULL) {
        ws->w->link.events->stream_closed(ws->w->link.user, &ws->s);
    }
    stream_del(h, ws);
}

void es_wt_datagram(struct es_h3 *h, const uint8_t *p, size_t n)
{
    uint64_t quarter;
    size_t at = es_varint_get(p, n, &quarter);
    struct es_wt *w;

    if (at == 0 || quarter > ES_VARINT_MAX / 4) {
        es_h3_close(h, ES_H3_DATAGRAM_ERROR, "a datagram that names no request");
        return;
    }
    w = wt_find(h, (int64_t)(quarter * 4));
    if (w != NULL && w->state == WT_OPEN) {
        w->link.events->datagram(w->link.user, p + at, n - at);
    } else if (h->server &&
               es_link_glitch(h->link, h->config->timers->now, 1, "too many datagrams for nobody")) {
        h->failed = 1;
    }
}

/* ---- what the protocol asks for ---- */

static struct es_wt *wt_of(const struct es_link *l)
{
    return (struct es_wt *)(uintptr_t)l;
}

static int op_open(struct es_link *l, int dir, void *user, struct es_link_stream **out)
{
    struct es_wt *w = wt_of(l);
    struct es_link_stream *below;
    struct wt_stream *ws;
    uint8_t head[16];
    size_t n;
    int rc;

    *out = NULL;
    if (w->state != WT_OPEN || w->h->link == NULL || w->h->failed) {
        return ES_ERR_CLOSED;
    }
    rc = es_link_open(w->h->link, dir, &dead, &below);
    if (rc != 0) {
        return rc;
    }
    n = es_varint_put(head, dir == ES_DIR_UNI ? WT_UNI : WT_BIDI);
    n += es_varint_put(head + n, (uint64_t)w->x->id);
    ws = stream_new(below);
    rc = ws != NULL ? es_link_write(below, head, n, 0) : ES_ERR_NOMEM;
    if (rc != 0) {
        es_free(ws);
        give_up(w->h, below, WT_SESSION_GONE);
        return rc;
    }
    ws->w = w;
    ws->s.link = l;
    ws->s.user = user;
    ws->own = 1;
    es_list_push(&w->streams, &ws->node);
    *out = &ws->s;
    return 0;
}

static int op_write(struct es_link_stream *s, const void *data, size_t n, int fin)
{
    return es_link_write(stream_of(s)->below, data, n, fin);
}

static int op_write_ref(struct es_link_stream *s, const void *data, size_t n, int fin,
                        void (*release)(void *), void *arg)
{
    return es_link_write_ref(stream_of(s)->below, data, n, fin, release, arg);
}

static size_t op_queued(const struct es_link_stream *s)
{
    return es_link_queued(stream_of(s)->below);
}

static uint64_t op_allowed(const struct es_link_stream *s)
{
    return es_link_allowed(stream_of(s)->below);
}

static void op_priority(struct es_link_stream *s, int prio)
{
    es_link_priority(stream_of(s)->below, prio);
}

static void op_credit(struct es_link_stream *s, size_t n)
{
    es_link_credit(stream_of(s)->below, n);
}

static void op_stream_done(struct es_link_stream *s)
{
    es_link_stream_done(stream_of(s)->below);
}

static int op_stream_keep(struct es_link_stream *s)
{
    struct wt_stream *ws = stream_of(s);
    int kept = es_link_stream_keep(ws->below);

    ws->w->kept[ws->uni ? ES_DIR_UNI : ES_DIR_BIDI] += (size_t)kept;
    return kept;
}

static void op_allow(struct es_link *l, int dir)
{
    struct es_wt *w = wt_of(l);

    w->kept[dir] -= w->kept[dir] > 0;
    if (w->h->link != NULL) {
        es_link_allow(w->h->link, dir);
    }
}

/* Firefox (153) takes STOP_SENDING for the end of both directions: an answer that its page has not read yet
 * is lost. Where a peer's own exchange is stopped an answer went before, and the peer ends its side when it
 * has it. So it is not told; what it sends until then is dropped, and as no credit goes back that is little.
 */
static void op_stop(struct es_link_stream *s, uint64_t code)
{
    struct wt_stream *ws = stream_of(s);

    if (ws->uni || ws->own) {
        es_link_stop(ws->below, wt_code_out(code));
    } else {
        ws->deaf = 1;
    }
}

static void op_reset(struct es_link_stream *s, uint64_t code)
{
    es_link_reset(stream_of(s)->below, wt_code_out(code));
}

static void op_hold(struct es_link *l, int64_t delta)
{
    struct es_wt *w = wt_of(l);

    w->held += delta;
    if (w->h->link != NULL) {
        es_link_hold(w->h->link, delta);
    }
}

static int op_datagram(struct es_link *l, const void *data, size_t n)
{
    struct es_wt *w = wt_of(l);
    uint8_t out[8 + ES_WT_DATAGRAM_MAX];
    size_t at;

    if (w->state != WT_OPEN || w->h->link == NULL) {
        return ES_ERR_CLOSED;
    }
    if (!w->h->peer.datagram) {
        return ES_ERR_UNSUPPORTED;
    }
    if (n > ES_WT_DATAGRAM_MAX) {
        return ES_ERR_TOO_LARGE;
    }
    at = es_varint_put(out, (uint64_t)w->x->id / 4);
    memcpy(out + at, data, n);
    return es_link_datagram(w->h->link, out, at + n);
}

static void op_stats(struct es_link *l, struct es_link_stats *out)
{
    struct es_wt *w = wt_of(l);
    uint32_t head = w->x != NULL ? (uint32_t)es_varint_len((uint64_t)w->x->id / 4) : 8;

    if (w->h->link == NULL) {
        memset(out, 0, sizeof *out);
        return;
    }
    es_link_stats_get(w->h->link, out);
    if (!w->h->peer.datagram || out->max_datagram <= head) {
        out->max_datagram = 0;
    } else {
        out->max_datagram -= head;
        if (out->max_datagram > ES_WT_DATAGRAM_MAX) {
            out->max_datagram = ES_WT_DATAGRAM_MAX;
        }
    }
}

static void op_peer_addr(struct es_link *l, char *buf, size_t n)
{
    struct es_h3 *h = wt_of(l)->h;

    if (h->link != NULL) {
        es_link_peer_addr(h->link, buf, n);
    } else if (n > 0) {
        buf[0] = '\0';
    }
}

const struct es_link_ops es_wt_link_ops = {
    .open = op_open,
    .write = op_write,
    .write_ref = op_write_ref,
    .queued = op_queued,
    .allowed = op_allowed,
    .priority = op_priority,
    .credit = op_credit,
    .stream_done = op_stream_done,
    .stream_keep = op_stream_keep,
    .allow = op_allow,
    .stop = op_stop,
    .reset = op_reset,
    .hold = op_hold,
    .datagram = op_datagram,
    .close = es_wt_op_close,
    .stats = op_stats,
    .peer_addr = op_peer_addr,
};
