/* Sockets in memory with a clock of the test's: what the HTTP/2 specs run on. A socket is one end of a pair,
 * and moves only in pump(). `stuck`: its peer reads nothing (the kernel's buffer of 64 KiB fills up). */
#ifndef ET_SPEC_H2_SOCK_H
#define ET_SPEC_H2_SOCK_H

#include "../../../spec/c/test.h"
#include "../../../csrc/base/clock.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"
#include "../../../csrc/base/timer.h"
#include "../../csrc/net/sock.h"

struct et_sock {
    const struct et_sock_events *ev;
    void *user;
    struct et_sock *peer; /* NULL: gone */
    struct es_buf out;    /* written, not yet in the kernel */
    struct es_buf kernel; /* on its way to the peer */
    size_t high, low;
    uint64_t timer_at;
    int dirty, above, stuck, eof_told;
    int ending;  /* FIN after the queue */
    int closing; /* 1: with RST, 2: gracefully */
    int dead;    /* closed() was told */
    size_t cut;  /* bytes a data() has at most; 0: any number */
    uint64_t received, sent;
    uint64_t guard_at; /* when a graceful close is over at the latest */
};

static uint64_t test_now = UINT64_C(1000000000);
static size_t sock_most; /* the largest send queue that was seen */

uint64_t es_clock_monotonic(void)
{
    return test_now;
}

uint64_t es_clock_coarse(void)
{
    return test_now;
}

void es_random(void *out, size_t n)
{
    memset(out, 7, n);
}

static void sock_pair(struct et_sock *a, struct et_sock *b)
{
    memset(a, 0, sizeof(*a));
    memset(b, 0, sizeof(*b));
    a->peer = b;
    b->peer = a;
}

static void sock_free(struct et_sock *s)
{
    es_buf_free(&s->out);
    es_buf_free(&s->kernel);
}

int et_sock_write(struct et_sock *s, const void *p, size_t n)
{
    return es_buf_put(&s->out, p, n);
}

struct es_buf *et_sock_out(struct et_sock *s)
{
    return &s->out;
}

void et_sock_wrote(struct et_sock *s)
{
    if (s->out.n > sock_most) {
        sock_most = s->out.n;
    }
    s->above |= s->out.n > s->high;
}

size_t et_sock_queued(const struct et_sock *s)
{
    return s->out.n;
}

void et_sock_marks(struct et_sock *s, size_t high, size_t low)
{
    s->high = high;
    s->low = low;
}

void et_sock_dirty(struct et_sock *s)
{
    s->dirty = 1;
}

void et_sock_pause(struct et_sock *s) {}

void et_sock_resume(struct et_sock *s) {}

void et_sock_finish(struct et_sock *s)
{
    s->ending = 1;
}

void et_sock_close(struct et_sock *s, int graceful)
{
    if (!s->closing || !graceful) {
        s->closing = graceful ? 2 : 1;
        s->guard_at = test_now + 10 * ES_SECOND;
    }
}

void et_sock_set_user(struct et_sock *s, const struct et_sock_events *ev, void *user)
{
    s->ev = ev;
    s->user = user;
}

void et_sock_timer_in(struct et_sock *s, uint64_t ns)
{
    s->timer_at = ns != 0 ? test_now + ns : 0;
}

static void sock_kill(struct et_sock *s, int err)
{
    const struct et_sock_events *ev = s->ev;

    s->dead = 1;
    s->timer_at = 0;
    es_buf_clear(&s->kernel);
    es_buf_clear(&s->out);
    if (s->peer != NULL) {
        s->peer->peer = NULL;
        s->peer = NULL;
    }
    if (ev != NULL) {
        ev->closed(s->user, err, err == ES_OK ? "" : "the connection broke");
    }
}

/* Moves what can move on one socket; 1 when something did. */
static int sock_step(struct et_sock *s)
{
    int moved = 0;

    if (s->dead) {
        return 0;
    }
    if (s->dirty) {
        s->dirty = 0;
        moved = 1;
        if (s->ev != NULL && s->ev->flush != NULL) {
            s->ev->flush(s->user);
        }
    }
    if (s->closing == 2 && test_now >= s->guard_at) {
        s->closing = 1;
    }
    if (s->closing == 1 || (s->closing == 2 && s->out.n == 0 && s->kernel.n == 0)) {
        struct et_sock *peer = s->peer;
        int rst = s->closing == 1;

        sock_kill(s, ES_OK);
        if (peer != NULL && !peer->dead) {
            if (rst || peer->ev == NULL || peer->closing) {
                sock_kill(peer, rst ? ES_ERR_CLOSED : ES_OK);
            } else if (!peer->eof_told) {
                peer->eof_told = 1;
                peer->ev->eof(peer->user);
            }
        }
        return 1;
    }
    if (s->out.n > 0 && s->kernel.n < 65536) {
        size_t n = 65536 - s->kernel.n < s->out.n ? 65536 - s->kernel.n : s->out.n;

        es_buf_put(&s->kernel, s->out.p, n);
        es_buf_drop(&s->out, n);
        s->sent += n;
        moved = 1;
    }
    if (s->above && s->out.n <= s->low) {
        s->above = 0;
        s->ev->room(s->user);
        moved = 1;
    }
    if (s->kernel.n > 0 && !s->stuck) {
        struct es_buf now = s->kernel;
        struct et_sock *to = s->peer;

        memset(&s->kernel, 0, sizeof(s->kernel));
        for (size_t at = 0; to != NULL && at < now.n;) {
            size_t n = to->cut != 0 && to->cut < now.n - at ? to->cut : now.n - at;

            if (to->dead || to->closing || to->ev == NULL) {
                break;
            }
            to->received += n;
            to->ev->data(to->user, now.p + at, n);
            at += n;
        }
        es_buf_free(&now);
        moved = 1;
    }
    return moved;
}

static int sock_pump_2(struct et_sock *a, struct et_sock *b)
{
    int any = 0;

    for (int i = 0; i < 200000 && (sock_step(a) | sock_step(b)); i++) {
        any = 1;
    }
    return any;
}

/* The clock goes on; timers fire in their order. */
__attribute__((unused)) static void sock_sleep(struct et_sock *a, struct et_sock *b, uint64_t ns)
{
    uint64_t end = test_now + ns;

    sock_pump_2(a, b);
    for (;;) {
        uint64_t at = end;

        for (int i = 0; i < 2; i++) {
            struct et_sock *s = i ? b : a;

            at = s->timer_at != 0 && s->timer_at < at ? s->timer_at : at;
        }
        test_now = at > test_now ? at : test_now;
        for (int i = 0; i < 2; i++) {
            struct et_sock *s = i ? b : a;

            if (s->timer_at != 0 && s->timer_at <= test_now && !s->dead) {
                s->timer_at = 0;
                s->ev->timer(s->user);
            }
        }
        sock_pump_2(a, b);
        if (test_now >= end) {
            return;
        }
    }
}

#endif
