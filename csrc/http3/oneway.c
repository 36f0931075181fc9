/* One-way streams of the peer: what kind each is, and its control stream.
 *
 * nghttp3 sees whole frames of the control stream, and only those that are in order: it cannot bear a
 * PRIORITY_UPDATE that comes in two pieces (an assertion of both generations ends the process), and has other
 * codes than RFC 9114 7.2 for some of what may not be. Streams of kinds that nobody knows it never sees. */
#include "../base/mem.h"
#include "../base/varint.h"
#include "internal.h"

enum { KIND_CONTROL, KIND_PUSH, KIND_ENCODER, KIND_DECODER, KIND_SESSION = 0x54 };
enum {
    CANCEL_PUSH = 0x03,
    SETTINGS = 0x04,
    GOAWAY = 0x07,
    MAX_PUSH_ID = 0x0d,
    PRIORITY_UPDATE = 0xf0700,
    PRIORITY_UPDATE_PUSH = 0xf0701
};

#define MAX_SETTINGS   ((uint64_t)4096) /* bytes; a browser sends about 50 */
#define GLITCH_UNKNOWN 4                /* points: a stream of a kind that nobody knows */
#define MAX_PRIORITY   ((uint64_t)128)  /* longer ones are passed over: a wish may be */

/* ---- frames of the control stream ---- */

static int is_of_another_place(uint64_t type)
{
    /* DATA, HEADERS, PUSH_PROMISE; PRIORITY, PING, WINDOW_UPDATE and CONTINUATION of HTTP/2 */
    return type <= 0x02 || type == 0x05 || type == 0x06 || type == 0x08 || type == 0x09;
}

/* Type and length are known: 0, or the code to close with. */
static uint64_t begins(struct es_h3 *h, struct es_h3_control *c)
{
    int first = !c->settings;

    if (first && c->type != SETTINGS) {
        return ES_H3_MISSING_SETTINGS;
    }
    c->settings = 1;
    if ((c->type == SETTINGS && !first) || is_of_another_place(c->type) ||
        (!h->server &&
         (c->type == MAX_PUSH_ID || c->type == PRIORITY_UPDATE || c->type == PRIORITY_UPDATE_PUSH))) {
        return ES_H3_FRAME_UNEXPECTED;
    }
    switch (c->type) {
    case SETTINGS:
        return c->left > MAX_SETTINGS ? ES_H3_EXCESSIVE_LOAD : 0;
    case GOAWAY:
    case MAX_PUSH_ID:
    case CANCEL_PUSH: /* a number, and nothing but it */
        return c->left < 1 || c->left > 8 ? ES_H3_FRAME_ERROR : 0;
    case PRIORITY_UPDATE:
        c->skip = c->left > MAX_PRIORITY;
        return c->left == 0 ? ES_H3_FRAME_ERROR : 0;
    case PRIORITY_UPDATE_PUSH:
        return ES_H3_ID_ERROR; /* nothing was ever promised */
    default:
        c->skip = 1;
        return 0;
    }
}

static uint64_t check_settings(struct es_h3 *h, const uint8_t *p, size_t n)
{
    while (n > 0) {
        uint64_t name, value;
        size_t a = es_varint_get(p, n, &name), b = a > 0 ? es_varint_get(p + a, n - a, &value) : 0;

        if (a == 0 || b == 0) {
            return ES_H3_FRAME_ERROR;
        }
        if (name == 0 || (name >= 2 && name <= 5) || /* of HTTP/2 */
            ((name == 0x08 || name == 0x33) && value > 1)) {
            return ES_H3_SETTINGS_ERROR;
        }
        es_h3_settings_note(&h->peer, name, value);
        p += a + b;
        n -= a + b;
    }
    return 0;
}

static uint64_t check_priority(const uint8_t *p, size_t n)
{
    uint64_t id;

    if (es_varint_get(p, n, &id) == 0) {
        return ES_H3_FRAME_ERROR;
    }
    return (id & 3) != 0 ? ES_H3_ID_ERROR : 0; /* RFC 9218 7.1: requests only */
}

/* The whole of a frame is there: 0, or the code to close with. */
static uint64_t check(struct es_h3 *h, const uint8_t *p, size_t n)
{
    struct es_h3_control *c = &h->control;
    uint64_t id;

    if (c->type == SETTINGS) {
        return check_settings(h, p, n);
    }
    if (c->type == PRIORITY_UPDATE) {
        return check_priority(p, n);
    }
    if (es_varint_get(p, n, &id) != n) {
        return ES_H3_FRAME_ERROR;
    }
    if (c->type == CANCEL_PUSH) {
        return ES_H3_ID_ERROR; /* nothing was ever promised, nor allowed to be */
    }
    if (c->type == MAX_PUSH_ID) {
        if (id < c->max_push) {
            return ES_H3_ID_ERROR;
        }
        c->max_push = id;
    }
    return 0;
}

/* The head of a frame, a byte at a time. 1: it is whole. */
static int head_byte(struct es_h3_control *c, uint8_t b)
{
    const uint8_t *p = c->frame.p;
    size_t n;

    if (es_buf_put(&c->frame, &b, 1) != 0) {
        return ES_ERR_NOMEM;
    }
    p = c->frame.p;
    n = es_varint_get(p, c->frame.n, &c->type);
    c->head = n > 0 ? es_varint_get(p + n, c->frame.n - n, &c->left) : 0;
    if (c->head == 0) {
        return 0;
    }
    c->head += n;
    return 1;
}

/* The library keeps what is wished for a request until that is over. It never hears of the streams of
 * sessions, which are none: what is wished for one that is there or gone stops here. */
static int is_for_nobody(struct es_h3 *h, const uint8_t *p, size_t n)
{
    uint64_t id = 0;

    (void)es_varint_get(p, n, &id);
    return (int64_t)id <= h->newest && es_h3_find(h, (int64_t)id) == NULL;
}

/* A wish about a request of which the answer may be under way. */
static void reprioritize(struct es_h3 *h, const uint8_t *p, size_t n)
{
    uint64_t id = 0;
    struct es_exchange *x = es_varint_get(p, n, &id) > 0 ? es_h3_find(h, (int64_t)id) : NULL;

    if (x != NULL) {
        es_exchange_prioritize(x);
    }
}

static void frame_over(struct es_h3_control *c)
{
    es_buf_free(&c->frame);
    c->head = 0;
    c->skip = 0;
}

/* A frame is whole, or is to be passed over and its bytes have come. */
static void frame_came(struct es_h3 *h, struct es_link_stream *s)
{
    struct es_h3_control *c = &h->control;
    nghttp3_ssize used;
    uint64_t code;

    if (!c->skip) {
        code = check(h, c->frame.p + c->head, c->frame.n - c->head);
        if (code != 0) {
            es_h3_close(h, code, "a frame of the control stream that breaks the rules");
            return;
        }
        if (c->type == PRIORITY_UPDATE && is_for_nobody(h, c->frame.p + c->head, c->frame.n - c->head)) {
            frame_over(c);
            return;
        }
        if (c->type != MAX_PUSH_ID) { /* of no use to a server that promises nothing */
            used = nghttp3_conn_read_stream(h->nc, s->id, c->frame.p, c->frame.n, 0);
            if (used < 0) {
                es_h3_fail(h, (int)used);
                return;
            }
        }
        if (c->type == SETTINGS) {
            h->peer.seen = 1;
            es_wt_mark_all(h);
        }
        if (c->type == PRIORITY_UPDATE) {
            reprioritize(h, c->frame.p + c->head, c->frame.n - c->head);
        }
    }
    frame_over(c);
}

static void out_of_memory(struct es_h3 *h)
{
    es_h3_close(h, ES_H3_INTERNAL_ERROR, "out of memory");
}

static void control_data(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n)
{
    struct es_h3_control *c = &h->control;
    uint64_t code;

    while (es_h3_usable(h) && n > 0) {
        size_t used = 1;
        int rc;

        if (c->head == 0) {
            rc = head_byte(c, *p);
            if (rc < 0) {
                out_of_memory(h);
                return;
            }
            code = rc == 1 ? begins(h, c) : 0;
            if (code != 0) {
                es_h3_close(h, code, "a frame that has no place on the control stream");
                return;
            }
        } else {
            used = n < c->left ? n : (size_t)c->left;
            if (!c->skip && es_buf_put(&c->frame, p, used) != 0) {
                out_of_memory(h);
                return;
            }
            c->left -= used;
        }
        if (c->head != 0 && c->left == 0) {
            frame_came(h, s);
        }
        p += used;
        n -= used;
    }
}

/* ---- streams ---- */

int es_h3_oneway_opened(struct es_h3 *h, struct es_link_stream *s)
{
    struct es_h3_oneway *w = es_calloc(1, sizeof *w);

    if (w == NULL) {
        return ES_ERR_NOMEM;
    }
    w->any.kind = H3_ONEWAY;
    es_list_push(&h->oneways, &w->all);
    s->user = w;
    return 0;
}

void es_h3_oneway_closed(struct es_h3_oneway *w)
{
    if (w != NULL) {
        es_list_remove(&w->all);
        es_free(w);
    }
}

/* To nghttp3. */
static void give(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    const struct es_h3_oneway *w = s->user;
    nghttp3_ssize used = nghttp3_conn_read_stream(h->nc, s->id, p, n, fin);

    if (es_h3_beyond_measure(used)) {
        es_h3_close(
            h, w->kind == KIND_ENCODER ? ES_H3_QPACK_ENCODER_STREAM_ERROR : ES_H3_QPACK_DECODER_STREAM_ERROR,
            "an instruction that cannot be read");
    } else if (used < 0) {
        es_h3_fail(h, (int)used);
    }
}

/* The kind is known. */
static void identified(struct es_h3 *h, struct es_link_stream *s, struct es_h3_oneway *w)
{
    w->known = 1;
    if (w->kind == KIND_SESSION && h->wt) {
        return;
    }
    if (w->kind >
        KIND_DECODER) { /* RFC 9114 6.2: nobody here knows it. Browsers open one, to see that borne */
        es_link_stop(s, ES_H3_STREAM_CREATION_ERROR);
        if (h->server && es_link_glitch(h->link, h->config->timers->now, GLITCH_UNKNOWN,
                                        "too many streams of unknown kinds")) {
            h->failed = 1;
        }
    } else {
        give(h, s, w->head, w->head_n, 0);
    }
}

/* Of a WebTransport session: its number comes next, and what follows is the session's. */
static void session_data(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct es_h3_oneway *w = s->user;
    size_t kind = (size_t)1 << (w->head[0] >> 6);
    uint64_t session;

    while (n > 0) {
        w->head[w->head_n++] = *p++;
        n--;
        es_link_credit(s, 1);
        if (es_varint_get(w->head + kind, w->head_n - kind, &session) > 0) {
            es_h3_oneway_closed(w);
            s->user = NULL;
            es_wt_stream_came(h, s, session);
            if (es_h3_usable(h) && es_h3_is(s, H3_WT_STREAM)) {
                es_wt_data(h, s, p, n, fin);
            } else {
                es_link_credit(s, n);
            }
            return;
        }
    }
}

void es_h3_oneway_data(struct es_h3 *h, struct es_link_stream *s, const uint8_t *p, size_t n, int fin)
{
    struct es_h3_oneway *w = s->user;

    while (w != NULL && !w->known && n > 0) {
        w->head[w->head_n++] = *p++;
        n--;
        es_link_credit(s, 1);
        if (es_varint_get(w->head, w->head_n, &w->kind) > 0) {
            identified(h, s, w);
        }
    }
    if (w != NULL && w->known && w->kind == KIND_SESSION && h->wt) {
        session_data(h, s, p, n, fin);
        return;
    }
    if (n > 0) {
        es_link_credit(s, n);
    }
    if (w == NULL || !w->known || !es_h3_usable(h)) {
        return; /* also a stream that ends before it said its kind: RFC 9114 6.2 wants that borne */
    }
    if (w->kind == KIND_CONTROL) {
        control_data(h, s, p, n);
        if (fin && es_h3_usable(h)) {
            es_h3_close(h, ES_H3_CLOSED_CRITICAL_STREAM, "the control stream is over");
        }
    } else if (w->kind <= KIND_DECODER && (n > 0 || fin)) {
        give(h, s, p, n, fin);
    }
}
