#include "codec.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"

#define HELD_MAX  ((size_t)64 * 1024) /* bytes of requests that wait for the one before */
#define EOF_TICK  (150 * ES_MILLI)    /* see et_h1_visitor_eof() */
#define RATE_SPAN (10 * ES_SECOND)

struct et_h1_x *et_h1_x_new(struct et_h1 *c)
{
    struct et_h1_x *x = es_calloc(1, sizeof(*x));

    if (x != NULL) {
        x->x.ops = c->role == ET_HTTP_VISITOR ? &et_h1_visitor_exchange : &et_h1_backend_exchange;
        x->x.http = &c->http;
        x->c = c;
        x->left = -1;
        c->x = x;
    }
    return x;
}

void et_h1_x_del(struct et_h1_x *x)
{
    es_buf_free(&x->token);
    es_buf_free(&x->held);
    es_free(x);
}

void et_h1_pause(struct et_h1 *c, unsigned why)
{
    if (c->paused == 0) {
        et_sock_pause(c->http.sock);
    }
    c->paused |= why;
}

void et_h1_resume(struct et_h1 *c, unsigned why)
{
    if ((c->paused & why) == 0) {
        return;
    }
    c->paused &= ~why;
    if (c->paused == 0 && !c->closing) {
        et_sock_resume(c->http.sock);
    }
}

/* ---- time ---- */

static uint64_t tick(const struct et_h1 *c)
{
    uint64_t t = c->limits.body_timeout / 4;

    if (c->phase == ET_PHASE_EOF) {
        return EOF_TICK;
    }
    return c->limits.min_body_rate > 0 && t > RATE_SPAN / 4 ? RATE_SPAN / 4 : t;
}

void et_h1_phase(struct et_h1 *c, enum et_h1_phase phase)
{
    uint64_t in = 0;

    c->phase = phase;
    if (phase == ET_PHASE_HEAD) {
        in = c->limits.head_timeout;
    } else if (phase == ET_PHASE_IDLE) {
        in = c->limits.idle_timeout;
    } else if (phase != ET_PHASE_NONE) {
        c->received = et_sock_received(c->http.sock);
        c->sent = et_sock_sent(c->http.sock);
        c->stalled_in = c->stalled_out = c->window = c->window_bytes = 0;
        in = tick(c);
    }
    et_sock_timer_in(c->http.sock, in);
}

static void timed_out(struct et_h1 *c, const char *why)
{
    if (c->role == ET_HTTP_VISITOR) {
        et_h1_visitor_timeout(c, why);
        return;
    }
    if (c->x != NULL) {
        et_h1_tell_reset(c->x, ET_RESET_TIMEOUT, why);
    }
    et_h1_close(c, 0);
}

/* A body that the peer must send, or take: has it moved? */
static void on_tick(struct et_h1 *c)
{
    uint64_t span = tick(c), received = et_sock_received(c->http.sock), sent = et_sock_sent(c->http.sock);
    const struct et_h1_x *x = c->x;
    /* In the middle of a body: a head, also one after informational ones, or the answer to who asks for a
     * tunnel, is waited for by somebody else. */
    int want_in =
        !x->in_over && c->paused == 0 && c->parse.state > ET_PARSE_HEAD && c->parse.state < ET_PARSE_OVER;
    int want_out = et_sock_queued(c->http.sock) > 0;

    c->stalled_in = want_in && received == c->received ? c->stalled_in + span : 0;
    c->stalled_out = want_out && sent == c->sent ? c->stalled_out + span : 0;
    if (c->role == ET_HTTP_VISITOR && c->limits.min_body_rate > 0 && want_in) {
        c->window += span;
        c->window_bytes += received - c->received;
    }
    c->received = received;
    c->sent = sent;
    if (c->stalled_in >= c->limits.body_timeout) {
        timed_out(c, "body stalled");
    } else if (c->stalled_out >= c->limits.body_timeout) {
        timed_out(c, "the peer does not read");
    } else if (c->window >= RATE_SPAN) {
        int slow = c->window_bytes < c->limits.min_body_rate * (c->window / ES_SECOND);

        c->window = c->window_bytes = 0;
        if (slow) {
            timed_out(c, "body too slow");
            return;
        }
        et_sock_timer_in(c->http.sock, tick(c));
    } else {
        et_sock_timer_in(c->http.sock, tick(c));
    }
}

/* A visitor that ended its direction after its request waits for a response, or is gone: only silence tells.
 */
static void on_eof_tick(struct et_h1 *c)
{
    uint64_t sent = et_sock_sent(c->http.sock);

    c->stalled_out = sent == c->sent ? c->stalled_out + EOF_TICK : 0;
    c->sent = sent;
    if (c->stalled_out < 2 * EOF_TICK) {
        et_sock_timer_in(c->http.sock, EOF_TICK);
        return;
    }
    et_h1_tell_reset(c->x, ET_RESET_CANCEL, "the visitor left");
    et_h1_close(c, 0);
}

static void on_timer(void *user)
{
    struct et_h1 *c = user;

    if (c->closing) {
        return;
    }
    if (c->x == NULL) {
        if (c->phase == ET_PHASE_HEAD) {
            timed_out(c, "head too slow");
        } else {
            et_h1_close(c, 1);
        }
        return;
    }
    if (c->x->tunnel) {
        c->phase = ET_PHASE_NONE; /* its time-outs are the user's */
    } else if (c->phase == ET_PHASE_BODY) {
        on_tick(c);
    } else if (c->phase == ET_PHASE_EOF) {
        on_eof_tick(c);
    } else {
        et_h1_phase(c, ET_PHASE_BODY); /* an idle connection's timer went on while it was busy */
    }
}

/* ---- ends ---- */

void et_h1_last(struct et_h1 *c)
{
    c->last = 1;
    if (!c->drained) {
        c->drained = 1;
        c->http.events->draining(c->http.user);
    }
}

void et_h1_close(struct et_h1 *c, int graceful)
{
    if (c->closing) {
        return;
    }
    c->closing = 1;
    c->parse.state = ET_PARSE_FAILED; /* it may be in the middle of what came */
    es_buf_free(&c->in);
    et_sock_timer_in(c->http.sock, 0);
    et_sock_close(c->http.sock, graceful);
}

void et_h1_tell_reset(struct et_h1_x *x, enum et_reset why, const char *text)
{
    if (!x->deaf && !x->released) {
        x->deaf = 1;
        x->x.events->reset(x->x.user, why, text);
    }
}

void et_h1_check_over(struct et_h1_x *x)
{
    if (x->in_over && x->out_over) {
        et_sock_dirty(x->c->http.sock);
    }
}

/* The exchange's last word. It may be freed in it. */
static void gone(struct et_h1 *c)
{
    struct et_h1_x *x = c->x;

    c->x = NULL;
    x->c = NULL;
    x->x.http = NULL;
    if (x->released) {
        et_h1_x_del(x);
    } else {
        x->x.events->gone(x->x.user);
    }
}

/* The next exchange may come. */
static void next(struct et_h1 *c)
{
    struct es_buf in = c->in;
    int tunnel = c->x->tunnel;

    c->done += c->x->sent;
    gone(c);
    if (c->closing) {
        return;
    }
    if (c->last || tunnel || (c->eof && in.n == 0)) {
        et_h1_close(c, 1);
        return;
    }
    et_sock_marks(c->http.sock, ET_QUEUE_HIGH, ET_QUEUE_HIGH / 2);
    et_parse_next(&c->parse);
    et_h1_phase(c, ET_PHASE_IDLE);
    et_h1_resume(c, ET_PAUSE_UNREAD | ET_PAUSE_HELD);
    if (c->role == ET_HTTP_BACKEND) {
        c->http.events->ready(c->http.user);
        return;
    }
    c->in = (struct es_buf){0};
    et_h1_take(c, in.p, in.n);
    es_buf_free(&in);
    if (c->eof && !c->closing && c->x == NULL) {
        et_h1_close(c, 1); /* a piece of a request, or nothing */
    } else if (c->eof && !c->closing) {
        et_h1_visitor_eof(c);
    }
}

/* Over, and everything is with the kernel? Else room() says so: the marks are put where it does. */
static void check_sent(struct et_h1 *c)
{
    if (c->x == NULL || !c->x->in_over || !c->x->out_over || c->closing) {
        return;
    }
    if (et_sock_queued(c->http.sock) > 0) {
        et_sock_marks(c->http.sock, 0, 0);
        et_sock_wrote(c->http.sock); /* which looks at the marks */
    } else {
        next(c);
    }
}

static void on_flush(void *user)
{
    struct et_h1 *c = user;

    if (c->closing) {
        return;
    }
    if (c->role == ET_HTTP_VISITOR && c->x != NULL) {
        et_h1_visitor_flush(c);
    }
    check_sent(c);
}

static void on_room(void *user)
{
    struct et_h1 *c = user;
    struct et_h1_x *x = c->x;

    if (c->closing || x == NULL) {
        return;
    }
    if (x->was_full && !x->out_over && !x->deaf) {
        x->was_full = 0;
        x->x.events->room(x->x.user);
    }
    if (!c->closing) {
        check_sent(c);
    }
}

static void on_closed(void *user, int err, const char *text)
{
    struct et_h1 *c = user;
    struct et_h1_x *x = c->x;

    if (x != NULL) {
        if (!x->in_over || !x->out_over || et_sock_queued(c->http.sock) > 0) {
            int cut = c->role == ET_HTTP_VISITOR && !x->in_over && !x->tunnel;

            et_h1_tell_reset(x,
                             c->role == ET_HTTP_BACKEND && x->in_over ? ET_RESET_NO_ERROR
                             : c->role == ET_HTTP_BACKEND             ? et_h1_backend_loss(x)
                             : cut                                    ? ET_RESET_TRUNCATED
                                                                      : ET_RESET_CANCEL,
                             text);
        }
        gone(c);
    }
    c->http.events->closed(c->http.user, err, text);
    es_buf_free(&c->in);
    et_parse_free(&c->parse);
    es_free(c);
}

/* ---- what comes ---- */

void et_h1_body_in(void *user, const uint8_t *p, size_t n)
{
    struct et_h1 *c = user;
    struct et_h1_x *x = c->x;

    if (x->deaf || n == 0) {
        return;
    }
    x->x.unread += n;
    if (x->x.unread >= ET_UNREAD_MAX) {
        et_h1_pause(c, ET_PAUSE_UNREAD);
    }
    x->x.events->body(x->x.user, p, n);
}

void et_h1_end_in(void *user, struct et_head *trailers)
{
    struct et_h1 *c = user;
    struct et_h1_x *x = c->x;

    x->in_over = 1;
    if (x->deaf) {
        et_head_del(trailers);
    } else {
        x->x.events->end(x->x.user, trailers);
    }
    if (!c->closing) {
        et_h1_check_over(x);
    }
}

static void hold(struct et_h1 *c, const uint8_t *p, size_t n)
{
    if (es_buf_put(&c->in, p, n) != ES_OK) {
        et_h1_tell_reset(c->x, ET_RESET_INTERNAL, "out of memory");
        et_h1_close(c, 0);
        return;
    }
    if (c->in.n >= HELD_MAX) {
        et_h1_pause(c, ET_PAUSE_HELD);
    }
}

static void take_http(struct et_h1 *c, const uint8_t *p, size_t n)
{
    size_t used;
    int rc;

    while (n > 0 && !c->closing && c->parse.state < ET_PARSE_OVER) {
        rc = et_parse_feed(&c->parse, p, n, &used);
        if (rc != ES_OK) {
            if (c->role == ET_HTTP_VISITOR) {
                et_h1_visitor_refused(c, rc);
            } else {
                et_h1_backend_refused(c, rc);
            }
            return;
        }
        p += used;
        n -= used;
        if (c->parse.state == ET_PARSE_OVER && c->x != NULL && !c->x->in_over) {
            et_parse_next(&c->parse); /* that was an informational head */
        }
    }
    if (n == 0 || c->closing) {
        return;
    }
    if (c->x != NULL && c->x->tunnel) {
        et_h1_body_in(c, p, n);
    } else if (c->role == ET_HTTP_VISITOR) {
        hold(c, p, n);
    } else {
        et_h1_last(c); /* bytes after a response: who knows what the next ones would be */
    }
}

void et_h1_take(struct et_h1 *c, const uint8_t *p, size_t n)
{
    int waits = c->x == NULL;

    if (n == 0) {
        return;
    }
    if (c->x != NULL && c->x->tunnel) {
        if (c->in.n > 0) {
            hold(c, p, n); /* behind what came before the tunnel was granted */
        } else {
            et_h1_body_in(c, p, n);
        }
        return;
    }
    if (c->x == NULL && c->role == ET_HTTP_BACKEND) {
        et_h1_close(c, 0); /* nothing was asked */
        return;
    }
    if (c->x != NULL && c->role == ET_HTTP_BACKEND) {
        c->x->begun = 1;
    }
    take_http(c, p, n);
    if (waits && c->x == NULL && !c->closing && et_parse_begun(&c->parse) && c->phase != ET_PHASE_HEAD) {
        et_h1_phase(c, ET_PHASE_HEAD);
    }
}

static void on_data(void *user, const uint8_t *p, size_t n)
{
    struct et_h1 *c = user;

    if (!c->closing) {
        et_h1_take(c, p, n);
    }
}

static void on_eof(void *user)
{
    struct et_h1 *c = user;

    if (c->closing) {
        return;
    }
    c->eof = 1;
    if (c->x != NULL && c->x->tunnel) {
        if (!c->x->in_over && c->in.n == 0) { /* else flush() tells it, behind what waits */
            et_h1_end_in(c, NULL);
        }
    } else if (c->x == NULL) {
        et_h1_close(c, 1);
    } else if (c->role == ET_HTTP_VISITOR) {
        et_h1_visitor_eof(c);
    } else {
        et_h1_backend_eof(c);
    }
}

static void on_open(void *user, const char *alpn)
{
    (void)user, (void)alpn;
}

static const struct et_sock_events sock_events = {
    .open = on_open,
    .data = on_data,
    .eof = on_eof,
    .room = on_room,
    .timer = on_timer,
    .flush = on_flush,
    .closed = on_closed,
};

/* ---- struct et_http ---- */

static unsigned op_room(const struct et_http *h)
{
    const struct et_h1 *c = (const struct et_h1 *)h;

    return c->role == ET_HTTP_BACKEND && c->x == NULL && !c->last && !c->closing && !c->eof;
}

static unsigned op_count(const struct et_http *h)
{
    return ((const struct et_h1 *)h)->x != NULL;
}

static void op_drain(struct et_http *h)
{
    struct et_h1 *c = (struct et_h1 *)h;

    if (c->closing) {
        return;
    }
    c->last = 1;
    c->drained = 1; /* who asks for it need not be told */
    if (c->x == NULL && !et_parse_begun(&c->parse)) {
        et_h1_close(c, 1);
    }
}

static void op_close(struct et_http *h)
{
    struct et_h1 *c = (struct et_h1 *)h;

    et_h1_close(c, 0);
}

static const struct et_http_ops http_ops = {
    .begin = et_h1_backend_begin,
    .room = op_room,
    .count = op_count,
    .drain = op_drain,
    .close = op_close,
    .name = "http/1.1",
};

static void defaults(struct et_http_limits *l, enum et_http_role role)
{
    l->head_bytes = l->head_bytes != 0 ? l->head_bytes : ET_HEAD_MAX_BYTES;
    l->head_fields = l->head_fields != 0 ? l->head_fields : ET_HEAD_MAX_FIELDS;
    l->target_bytes = l->target_bytes != 0 ? l->target_bytes : 16 * 1024;
    l->head_timeout = l->head_timeout != 0 ? l->head_timeout : 10 * ES_SECOND;
    l->body_timeout = l->body_timeout != 0 ? l->body_timeout : 30 * ES_SECOND;
    if (l->idle_timeout == 0) {
        l->idle_timeout = (role == ET_HTTP_VISITOR ? 60 : 90) * ES_SECOND;
    }
}

int et_http1_new(struct et_sock *s, enum et_http_role role, const char *scheme,
                 const struct et_http_limits *limits, const struct et_http_events *ev, void *user,
                 struct et_http **out)
{
    struct et_h1 *c = es_calloc(1, sizeof(*c));
    struct et_scan_limits scan;

    if (c == NULL) {
        return ES_ERR_NOMEM;
    }
    c->http = (struct et_http){&http_ops, ev, user, s};
    c->role = role;
    if (limits != NULL) {
        c->limits = *limits;
    }
    defaults(&c->limits, role);
    scan = (struct et_scan_limits){c->limits.head_bytes, c->limits.head_fields, c->limits.target_bytes};
    et_parse_init(&c->parse, role == ET_HTTP_VISITOR ? ET_SCAN_REQUEST : ET_SCAN_RESPONSE,
                  strcmp(scheme, "https") == 0 ? "https" : "http", &scan,
                  role == ET_HTTP_VISITOR ? &et_h1_visitor_parse : &et_h1_backend_parse, c);
    et_sock_set_user(s, &sock_events, c);
    et_sock_marks(s, ET_QUEUE_HIGH, ET_QUEUE_HIGH / 2);
    et_h1_phase(c, role == ET_HTTP_VISITOR ? ET_PHASE_HEAD : ET_PHASE_IDLE);
    *out = &c->http;
    return ES_OK;
}
