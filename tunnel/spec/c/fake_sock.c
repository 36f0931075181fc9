#include "fake_sock.h"
#include <stdio.h>
#include <stdlib.h>
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"

struct et_sock {
    struct fake *f;
    const struct et_sock_events *ev;
    void *user;
    struct es_buf out;
    size_t high, low;
    uint64_t received, sent, now, timer; /* 0: no timer */
    int dirty, full, closing, finishing, eof;
};

void fake_open(struct fake *f)
{
    struct et_sock *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        abort();
    }
    memset(f, 0, sizeof(*f));
    f->s = s;
    f->room = SIZE_MAX;
    s->f = f;
    s->high = 256 * 1024;
    s->low = 128 * 1024;
}

static void tell_closed(struct fake *f, int err)
{
    struct et_sock *s = f->s;

    f->err = err;
    f->closed = 1;
    s->ev->closed(s->user, err, err == 0 ? "closed" : "lost");
    f->s = NULL;
    es_buf_free(&s->out);
    free(s);
}

void fake_step(struct fake *f)
{
    for (int rounds = 0; f->s != NULL && rounds < 1000; rounds++) {
        struct et_sock *s = f->s;
        size_t n;

        if (s->dirty) {
            s->dirty = 0;
            s->ev->flush(s->user);
        }
        n = s->out.n < f->room ? s->out.n : f->room;
        if (s->closing && !f->graceful) {
            tell_closed(f, 0);
            return;
        }
        if (n > 0) {
            if (es_buf_put(&f->wire, s->out.p, n) != ES_OK && es_buf_put(&f->wire, s->out.p, n) != ES_OK) {
                abort(); /* one failure may be a test's own */
            }
            es_buf_drop(&s->out, n);
            s->sent += n;
        }
        if (s->out.n == 0 && s->finishing) {
            f->finished = 1;
        }
        if (s->closing && s->out.n == 0) {
            tell_closed(f, 0);
            return;
        }
        if (s->full && s->out.n <= s->low && !s->closing) {
            s->full = 0;
            s->ev->room(s->user);
        }
        if (!s->dirty && !s->closing && (s->out.n == 0 || f->room != SIZE_MAX)) {
            return;
        }
        if (s->closing && f->room != SIZE_MAX && s->out.n > 0) {
            return;
        }
    }
}

void fake_free(struct fake *f)
{
    if (f->s != NULL) {
        tell_closed(f, ES_ERR_CLOSED);
    }
    es_buf_free(&f->wire);
}

void fake_data(struct fake *f, const void *p, size_t n)
{
    if (f->s != NULL && !f->s->closing && !f->s->eof) {
        uint8_t *copy =
            malloc(n == 0 ? 1 : n); /* of its very size, so that a sanitizer sees reads beyond it */

        if (copy == NULL) {
            abort();
        }
        memcpy(copy, p, n);
        f->s->received += n;
        f->s->ev->data(f->s->user, copy, n);
        free(copy);
    }
    fake_step(f);
}

void fake_eof(struct fake *f)
{
    if (f->s != NULL && !f->s->closing && !f->s->eof) {
        f->s->eof = 1;
        f->s->ev->eof(f->s->user);
    }
    fake_step(f);
}

void fake_lost(struct fake *f, int err)
{
    if (f->s != NULL) {
        tell_closed(f, err);
    }
}

void fake_after(struct fake *f, uint64_t ns)
{
    struct et_sock *s = f->s;
    uint64_t end;

    if (s == NULL) {
        return;
    }
    end = s->now + ns;
    while (f->s != NULL && s->timer != 0 && s->timer <= end) {
        s->now = s->timer;
        s->timer = 0;
        s->ev->timer(s->user);
        fake_step(f);
    }
    if (f->s != NULL) {
        s->now = end;
    }
}

/* net/sock.h */

int et_sock_write(struct et_sock *s, const void *p, size_t n)
{
    return s->closing ? ES_ERR_CLOSED : es_buf_put(&s->out, p, n);
}

struct es_buf *et_sock_out(struct et_sock *s)
{
    return &s->out;
}

void et_sock_wrote(struct et_sock *s)
{
    s->full |= s->out.n > s->high;
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

void et_sock_pause(struct et_sock *s)
{
    s->f->paused = 1;
}

void et_sock_resume(struct et_sock *s)
{
    s->f->paused = 0;
}

void et_sock_finish(struct et_sock *s)
{
    s->finishing = 1;
}

void et_sock_close(struct et_sock *s, int graceful)
{
    s->closing = 1;
    s->f->graceful = graceful;
}

void et_sock_set_user(struct et_sock *s, const struct et_sock_events *ev, void *user)
{
    s->ev = ev;
    s->user = user;
}

void et_sock_timer_in(struct et_sock *s, uint64_t ns)
{
    s->timer = ns == 0 ? 0 : s->now + ns;
}

uint64_t et_sock_received(const struct et_sock *s)
{
    return s->received;
}

uint64_t et_sock_sent(const struct et_sock *s)
{
    return s->sent;
}
