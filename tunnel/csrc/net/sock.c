/* Sockets: reading in turns, writing in one piece at the end of a step, and ends in order. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "internal.h"

#define LAST_MAX (1024 * 1024) /* bytes told of a peer that reads no more */
#define READS    4             /* of ET_RX, by a socket that is nearly alone in its step */

/* ---- what epoll watches ---- */

void et_sock_watch(struct et_sock *s, uint32_t events)
{
    struct epoll_event ev = {events, {.ptr = &s->source}};
    int op = s->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    if (s->state == ET_DEAD || (s->registered && s->watched == events)) {
        return;
    }
    if (epoll_ctl(s->p->epfd, op, s->fd, &ev) != 0) {
        et_sock_fail_errno(s, "epoll", errno);
        return;
    }
    s->registered = 1;
    s->watched = events;
}

static void unwatch(struct et_sock *s)
{
    if (s->registered) {
        (void)epoll_ctl(s->p->epfd, EPOLL_CTL_DEL, s->fd, NULL);
        s->registered = 0;
        s->watched = 0;
    }
}

/* ---- its life ---- */

static void on_ready(struct et_source *source, uint32_t events);

static void on_guard(struct es_timer *t)
{
    struct et_sock *s = t->user;

    if (s->closing) { /* the peer had its time */
        et_sock_fail(s, 0, NULL);
    } else {
        et_sock_fail(s, ES_ERR_TIMEOUT,
                     s->state == ET_CONNECTING ? "nobody answered in time"
                                               : "the TLS handshake took too long");
    }
}

static void on_timer(struct es_timer *t)
{
    struct et_sock *s = t->user;

    if (s->state != ET_DEAD && !s->closing && s->ev != NULL && s->ev->timer != NULL) {
        s->ev->timer(s->user);
    }
}

struct et_sock *et_sock_new(struct et_poller *p, int fd)
{
    struct et_sock *s = es_calloc(1, sizeof *s);

    if (s == NULL) {
        close(fd);
        return NULL;
    }
    s->source.ready = on_ready;
    s->p = p;
    s->fd = fd;
    s->high = ET_MARK_HIGH;
    s->low = ET_MARK_HIGH / 2;
    es_list_init(&s->dirty);
    es_list_init(&s->member);
    es_timer_init(&s->timer, on_timer, s);
    es_timer_init(&s->guard, on_guard, s);
    es_list_push(&p->socks, &s->node);
    p->stats.sockets++;
    return s;
}

void et_sock_free_out(struct et_sock *s)
{
    if (s->p->spare.p == NULL && s->out.cap <= ET_SPARE_MAX) {
        s->p->spare = s->out;
        s->p->spare.n = 0;
        memset(&s->out, 0, sizeof s->out);
    } else {
        es_buf_free(&s->out);
    }
    s->out_at = 0;
}

void et_sock_fail(struct et_sock *s, int err, const char *text)
{
    if (s->state == ET_DEAD) {
        return;
    }
    s->state = ET_DEAD;
    s->err = err;
    if (text != NULL && (s->text = es_malloc(strlen(text) + 1)) != NULL) {
        strcpy(s->text, text);
    }
    es_timer_stop(&s->p->timers, &s->timer);
    es_timer_stop(&s->p->timers, &s->guard);
    unwatch(s);
    close(s->fd);
    s->fd = -1;
    es_list_remove(&s->node);
    es_list_remove(&s->dirty);
    es_list_push(&s->p->dead, &s->dirty);
    et_poller_kick(s->p);
}

void et_sock_fail_errno(struct et_sock *s, const char *what, int error)
{
    char text[160];
    int err = error == ECONNRESET || error == EPIPE || error == ENOTCONN ? ES_ERR_CLOSED
              : error == ETIMEDOUT                                       ? ES_ERR_TIMEOUT
                                                                         : ES_ERR_IO;

    snprintf(text, sizeof text, "%s: %s", what, strerror(error));
    et_sock_fail(s, err, text);
}

void et_sock_reap(struct et_sock *s)
{
    es_list_remove(&s->dirty);
    et_listener_left(s);
    if (s->ev != NULL && s->ev->closed != NULL) {
        s->ev->closed(s->user, s->err, s->text != NULL ? s->text : "");
    }
    s->p->stats.sockets--;
    es_timer_stop(&s->p->timers, &s->timer); /* closed() may have asked for it once more */
    es_timer_stop(&s->p->timers, &s->guard); /* or who saw too late that it had failed */
    et_tls_del(s->tls);
    et_sock_free_out(s);
    es_buf_free(&s->in);
    es_free(s->text);
    es_free(s->sni);
    es_free(s);
}

void et_sock_touch(struct et_sock *s)
{
    if (s->state != ET_DEAD && es_list_empty(&s->dirty)) {
        es_list_push(&s->p->dirty, &s->dirty);
        et_poller_kick(s->p);
    }
}

/* ---- telling ---- */

/* What was given back, or came before somebody was there to take it. */
static void tell_kept(struct et_sock *s)
{
    struct es_buf in = s->in;

    memset(&s->in, 0, sizeof s->in);
    if (s->ev != NULL && s->ev->data != NULL) {
        s->ev->data(s->user, in.p, in.n);
    }
    es_buf_free(&in);
}

void et_sock_tell(struct et_sock *s, const uint8_t *p, size_t n)
{
    if (s->in.n != 0 && s->state != ET_DEAD && !s->closing) {
        tell_kept(s);
    }
    if (s->state != ET_DEAD && !s->closing && s->ev != NULL && s->ev->data != NULL) {
        s->ev->data(s->user, p, n);
    }
}

static void both_over(struct et_sock *s)
{
    if (s->in_over && s->out_over) {
        et_sock_fail(s, 0, NULL);
    }
}

void et_sock_tell_eof(struct et_sock *s)
{
    if (s->in_over || s->state == ET_DEAD) {
        return;
    }
    if (s->in.n != 0 && !s->closing) {
        tell_kept(s);
    }
    if (s->state == ET_DEAD) {
        return;
    }
    s->in_over = 1;
    et_sock_watch(s, s->watched & ~(uint32_t)EPOLLIN);
    if (!s->closing && s->ev != NULL && s->ev->eof != NULL) {
        s->ev->eof(s->user);
    }
    both_over(s);
}

void et_sock_opened(struct et_sock *s, const char *alpn)
{
    s->state = ET_OPEN;
    es_timer_stop(&s->p->timers, &s->guard);
    et_sock_watch(s, EPOLLIN);
    if (s->from != NULL) {
        et_listener_opened(s, alpn);
    } else if (s->ev != NULL && s->ev->open != NULL) {
        s->ev->open(s->user, alpn);
    }
    if (s->state != ET_DEAD && (s->out.n != 0 || s->finishing)) {
        et_sock_touch(s);
    }
}

/* ---- reading ---- */

static void raw_eof(struct et_sock *s)
{
    if (s->closing) {
        s->in_over = 1;
        et_sock_watch(s, s->watched & ~(uint32_t)EPOLLIN);
        both_over(s);
    } else if (s->tls != NULL) {
        et_tls_take_eof(s);
    } else {
        et_sock_tell_eof(s);
    }
}

static void read_in(struct et_sock *s)
{
    struct et_poller *p = s->p;
    int reads = p->alone ? READS : 1;

    while (reads-- > 0 && s->state != ET_DEAD && !s->in_over && (!s->paused || s->closing)) {
        ssize_t n = recv(s->fd, p->rx, ET_RX, 0);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                et_sock_fail_errno(s, "receive", errno);
            }
            return;
        }
        if (n == 0) {
            raw_eof(s);
            return;
        }
        s->received += (uint64_t)n;
        p->stats.received += (uint64_t)n;
        if (s->closing) {
            continue; /* thrown away, so that no RST overtakes our last bytes */
        }
        if (s->tls != NULL) {
            et_tls_take(s, p->rx, (size_t)n);
        } else {
            et_sock_tell(s, p->rx, (size_t)n);
        }
        if ((size_t)n < ET_RX) {
            return;
        }
    }
}

static void connected(struct et_sock *s)
{
    int error = 0;
    socklen_t n = sizeof error;

    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0) {
        error = errno;
    }
    if (error != 0) {
        et_sock_fail_errno(s, "connect", error);
        if (s->err == ES_ERR_CLOSED) {
            s->err = ES_ERR_IO; /* there was no connection */
        }
        return;
    }
    if (s->tls != NULL) {
        s->state = ET_HANDSHAKE;
        et_sock_watch(s, EPOLLIN);
        et_tls_shake(s);
    } else {
        et_sock_opened(s, "");
    }
}

/* Told though nobody asked: a reset, or both directions are over. */
static void hung_up(struct et_sock *s, uint32_t events)
{
    int error = 0;
    socklen_t n = sizeof error;

    if (s->closing) {
        et_sock_fail(s, 0, NULL);
    } else if ((events & EPOLLERR) && getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 &&
               error != 0) {
        et_sock_fail_errno(s, "receive", error);
    } else if (s->in_over) {
        et_sock_fail(s, ES_ERR_CLOSED, "the peer is gone");
    } else {
        unwatch(s); /* what it sent before is still to be read, when we want it */
    }
}

static void on_ready(struct et_source *source, uint32_t events)
{
    struct et_sock *s = (struct et_sock *)source;

    switch (s->state) {
    case ET_DEAD:
        return;
    case ET_CONNECTING:
        connected(s);
        return;
    case ET_PEEKING:
        et_listener_peek(s);
        return;
    case ET_PEEKED:
        hung_up(s, events);
        return;
    default:
        break;
    }
    if (events & EPOLLOUT) {
        et_sock_watch(s, s->watched & ~(uint32_t)EPOLLOUT);
        et_sock_touch(s);
    }
    if ((events & (EPOLLERR | EPOLLHUP)) && (s->in_over || (s->paused && !s->closing))) {
        hung_up(s, events);
    } else if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        if (s->paused && !s->closing) {
            et_sock_watch(s, s->watched & ~(uint32_t)EPOLLIN);
        } else {
            read_in(s);
        }
    }
}

void et_sock_pause(struct et_sock *s)
{
    s->paused = 1; /* epoll is told when it reports something */
}

void et_sock_resume(struct et_sock *s)
{
    if (!s->paused) {
        return;
    }
    s->paused = 0;
    if (s->state == ET_OPEN && !s->in_over) {
        et_sock_watch(s, s->watched | EPOLLIN);
        if (s->in.n != 0) {
            et_sock_touch(s);
        }
    }
}

int et_sock_unread(struct et_sock *s, const void *p, size_t n)
{
    struct es_buf b = {NULL, 0, 0};

    if (es_buf_reserve(&b, n + s->in.n) != 0) {
        return ES_ERR_NOMEM;
    }
    (void)es_buf_put(&b, p, n);
    (void)es_buf_put(&b, s->in.p, s->in.n);
    es_buf_free(&s->in);
    s->in = b;
    et_sock_touch(s);
    return 0;
}

/* ---- writing ---- */

/* The peer reads no more. What it sent before is still here, often the very answer that says why (RFC 9112
 * 9.6), and is told first. Where that ends says nothing: it is no end in order. */
static void tell_last(struct et_sock *s)
{
    for (size_t told = 0;
         told < LAST_MAX && s->state == ET_OPEN && !s->in_over && !s->paused && !s->closing;) {
        ssize_t n = recv(s->fd, s->p->rx, ET_RX, 0);

        if (n <= 0) {
            return;
        }
        told += (size_t)n;
        s->received += (uint64_t)n;
        s->p->stats.received += (uint64_t)n;
        et_sock_tell(s, s->p->rx, (size_t)n);
    }
}

int et_sock_send(struct et_sock *s, struct es_buf *b, size_t *at)
{
    while (*at < b->n) {
        ssize_t n = send(s->fd, b->p + *at, b->n - *at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            if (errno == EAGAIN) {
                return 0;
            }
            int error = errno;
            if (s->tls == NULL && (error == EPIPE || error == ECONNRESET)) {
                tell_last(s);
            }
            et_sock_fail_errno(s, "send", error);
            return ES_ERR_CLOSED;
        }
        *at += (size_t)n;
        s->sent += (uint64_t)n;
        s->p->stats.sent += (uint64_t)n;
    }
    return 1;
}

static int write_plain(struct et_sock *s)
{
    return et_sock_send(s, &s->out, &s->out_at);
}

/* Our direction is over as far as the user goes, and everything is with the kernel. */
static void end_out(struct et_sock *s)
{
    if (s->tls != NULL && !s->bye_said) {
        int rv = et_tls_bye(s);
        if (rv <= 0) {
            if (rv == 0) {
                et_sock_watch(s, s->watched | EPOLLOUT);
            }
            return;
        }
    }
    if (shutdown(s->fd, SHUT_WR) != 0 && errno != ENOTCONN) {
        et_sock_fail_errno(s, "shutdown", errno);
        return;
    }
    s->out_over = 1;
    if (s->closing) {
        et_sock_watch(s, s->in_over ? 0 : EPOLLIN);
        et_poller_timer(s->p, &s->guard, ET_LINGER);
    }
    both_over(s);
}

static void write_out(struct et_sock *s)
{
    uint64_t before = s->sent;
    int rv;

    if (s->state != ET_OPEN || s->out_over || (s->watched & EPOLLOUT)) {
        return;
    }
    rv = s->tls != NULL ? et_tls_write(s) : write_plain(s);
    if (rv < 0 || s->state == ET_DEAD) {
        return;
    }
    if (s->closing && rv == 0 && s->sent != before) {
        et_poller_timer(s->p, &s->guard, ET_DRAIN); /* slow, but it takes them */
    }
    if (s->out_at == s->out.n) {
        et_sock_free_out(s);
    } else if (s->out_at > s->out.n / 2) {
        es_buf_drop(&s->out, s->out_at);
        s->out_at = 0;
    }
    if (rv == 0) {
        et_sock_watch(s, s->watched | EPOLLOUT);
    } else if (s->finishing) {
        end_out(s);
    }
    if (s->above && s->state == ET_OPEN && et_sock_queued(s) <= s->low) {
        s->above = 0;
        if (!s->closing && s->ev != NULL && s->ev->room != NULL) {
            s->ev->room(s->user);
        }
    }
}

void et_sock_work(struct et_sock *s)
{
    if (s->state == ET_HANDSHAKE) { /* begun with bytes that were looked at before */
        et_tls_shake(s);
        return;
    }
    if (s->in.n != 0 && s->state == ET_OPEN && !s->paused && !s->closing) {
        tell_kept(s);
    }
    if (s->wants_flush) {
        s->wants_flush = 0;
        if (s->state != ET_DEAD && !s->closing && s->ev != NULL && s->ev->flush != NULL) {
            s->ev->flush(s->user);
        }
    }
    write_out(s);
}

struct es_buf *et_sock_out(struct et_sock *s)
{
    if (s->out.p == NULL && s->p->spare.p != NULL) {
        s->out = s->p->spare;
        memset(&s->p->spare, 0, sizeof s->p->spare);
    }
    return &s->out;
}

void et_sock_wrote(struct et_sock *s)
{
    if (s->state == ET_DEAD) {
        return;
    }
    s->above |= et_sock_queued(s) > s->high;
    et_sock_touch(s);
}

int et_sock_write(struct et_sock *s, const void *p, size_t n)
{
    if (s->state == ET_DEAD || s->closing || s->finishing) {
        return ES_ERR_CLOSED;
    }
    if (es_buf_put(et_sock_out(s), p, n) != 0) {
        return ES_ERR_NOMEM;
    }
    et_sock_wrote(s);
    return 0;
}

size_t et_sock_queued(const struct et_sock *s)
{
    return s->out.n - s->out_at + (s->tls != NULL ? et_tls_queued(s->tls) : 0);
}

void et_sock_marks(struct et_sock *s, size_t high, size_t low)
{
    s->high = high;
    s->low = low;
    s->above |= et_sock_queued(s) > high;
}

void et_sock_dirty(struct et_sock *s)
{
    s->wants_flush = 1;
    et_sock_touch(s);
}

void et_sock_finish(struct et_sock *s)
{
    if (!s->finishing) {
        s->finishing = 1;
        et_sock_touch(s);
    }
}

void et_sock_close(struct et_sock *s, int graceful)
{
    struct linger now = {1, 0};

    if (s->state == ET_DEAD || (s->closing && graceful)) {
        return;
    }
    if (graceful && s->state == ET_OPEN) {
        s->closing = s->finishing = 1;
        es_timer_stop(&s->p->timers, &s->timer);
        et_poller_timer(s->p, &s->guard, s->out_over ? ET_LINGER : ET_DRAIN);
        if (!s->in_over) {
            et_sock_watch(s, s->watched | EPOLLIN);
        }
        et_sock_touch(s);
        both_over(s);
        return;
    }
    if (!graceful) {
        (void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    et_sock_fail(s, 0, NULL);
}

void et_sock_set_user(struct et_sock *s, const struct et_sock_events *ev, void *user)
{
    s->ev = ev;
    s->user = user;
}

void *et_sock_user(const struct et_sock *s)
{
    return s->user;
}

void et_sock_timer_in(struct et_sock *s, uint64_t ns)
{
    if (ns == 0 || s->state == ET_DEAD) {
        es_timer_stop(&s->p->timers, &s->timer);
    } else {
        et_poller_timer(s->p, &s->timer, ns);
    }
}

uint64_t et_sock_received(const struct et_sock *s)
{
    return s->received;
}

uint64_t et_sock_sent(const struct et_sock *s)
{
    return s->sent;
}

int et_sock_is_tls(const struct et_sock *s)
{
    return s->tls != NULL;
}

const char *et_sock_sni(const struct et_sock *s)
{
    return s->sni != NULL ? s->sni : "";
}
