/* The poller over real sockets, and the calls that both kinds of poller share. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "../base/clock.h"
#include "internal.h"
#include "udp.h"

struct real_poller {
    struct es_poller p; /* first member */
    int epfd, tfd;
    uint64_t armed; /* when the timerfd goes off; ES_NEVER: it is not set */
    uint8_t *rx;    /* owned: where recvmmsg puts things */
    size_t sockets, sources;
    struct es_udp
        *only; /* borrowed: the one socket; NULL: there are more, or it is not known which is left */
};

/* ---- es_io ---- */

static uint64_t io_now(void *ctx)
{
    return es_clock_monotonic();
}

static uint64_t io_wall(void *ctx)
{
    return es_clock_wall();
}

static void io_rand(void *ctx, uint8_t *out, size_t n)
{
    es_random(out, n);
}

static int io_bind(void *ctx, struct es_endpoint *ep, union es_addr *addr, void **sock)
{
    struct real_poller *rp = ctx;
    struct es_udp *u;
    int rv = es_udp_open(rp->epfd, ep, addr, &u);

    if (rv == 0) {
        *sock = u;
        rp->only = ++rp->sockets == 1 && rp->sources == 0 ? u : NULL;
    }
    return rv;
}

static int io_send(void *ctx, void *sock, const struct es_dgram *v, size_t n)
{
    return es_udp_send(sock, v, n);
}

static void io_close(void *ctx, void *sock)
{
    struct real_poller *rp = ctx;

    rp->only = NULL;
    rp->sockets--;
    es_udp_close(sock);
}

static void io_listen(void *ctx, void *sock, int on)
{
    es_udp_listen(sock, on);
}

/* ---- the timerfd ---- */

static void arm(struct real_poller *rp, uint64_t at)
{
    struct itimerspec its;

    memset(&its, 0, sizeof its);
    its.it_value.tv_sec = (time_t)(at / ES_SECOND);
    its.it_value.tv_nsec = (long)(at % ES_SECOND);
    if (its.it_value.tv_sec == 0 && its.it_value.tv_nsec == 0) {
        its.it_value.tv_nsec = 1; /* all zero would disarm it */
    }
    if (timerfd_settime(rp->tfd, TFD_TIMER_ABSTIME, &its, NULL) == 0) {
        rp->armed = at;
    }
}

static void real_kick(struct es_poller *p)
{
    struct real_poller *rp = (struct real_poller *)p;

    if (rp->armed > p->timers.now) {
        arm(rp, 1); /* long past: the fd is readable at once */
    }
}

/* Lazily: an earlier setting stays, to find nothing due and set the next one. What is due already must come
 * at once; what is near is rounded up to a millisecond, since a nearer timer costs more than the wait. */
static void real_rearm(struct es_poller *p)
{
    struct real_poller *rp = (struct real_poller *)p;
    uint64_t next = es_timers_next(&p->timers), now = p->timers.now;

    if (next == ES_NEVER || rp->armed <= next) {
        return;
    }
    if (next <= now) {
        real_kick(p);
        return;
    }
    if (next < now + ES_MILLI) {
        next = now + ES_MILLI;
    }
    if (next < rp->armed) {
        arm(rp, next);
    }
}

/* ---- the driver ---- */

static int real_step(struct es_poller *p, size_t budget)
{
    struct real_poller *rp = (struct real_poller *)p;
    struct epoll_event ev[16];
    size_t done = 0;
    int n;

    /* With one socket it is nearly always the one that woke us: asking it first saves a system call. */
    if (rp->only != NULL && !rp->only->want_out && rp->armed > es_poller_now(p)) {
        done = (size_t)es_udp_receive(rp->only, rp->rx, budget);
        if (done > 0) {
            return (int)(done + es_timers_expire(&p->timers, 256));
        }
    }
    n = epoll_wait(rp->epfd, ev, 16, 0);
    if (n < 0) {
        return errno == EINTR ? 0 : ES_ERR_IO;
    }
    es_poller_now(p);
    for (int i = 0; i < n; i++) {
        struct es_poll_source *source = ev[i].data.ptr;
        struct es_udp *u = (struct es_udp *)source;
        uint64_t ticks;

        if (source != NULL && source->ready != NULL) {
            source->ready(source, ev[i].events);
            done++;
            continue;
        }
        if (u == NULL) {
            (void)!read(rp->tfd, &ticks, sizeof ticks);
            rp->armed = ES_NEVER;
            continue;
        }
        if (rp->sockets == 1 && rp->sources == 0) {
            rp->only = u;
        }
        if (ev[i].events & EPOLLOUT) {
            es_udp_writable(u);
        }
        if ((ev[i].events & (EPOLLIN | EPOLLERR)) && done < budget) {
            done += (size_t)es_udp_receive(u, rp->rx, budget - done);
        }
    }
    return (int)(done + es_timers_expire(&p->timers, 256));
}

static int real_fd(const struct es_poller *p)
{
    return ((const struct real_poller *)p)->epfd;
}

static int real_watch(struct es_poller *p, int op, int fd, uint32_t events, struct es_poll_source *s)
{
    struct real_poller *rp = (struct real_poller *)p;
    struct epoll_event ev = {.events = events, .data.ptr = s};

    if (epoll_ctl(rp->epfd, op, fd, &ev) != 0) {
        return ES_ERR_IO;
    }
    if (op == EPOLL_CTL_ADD) {
        rp->sources++;
        rp->only = NULL; /* it must not be served first, or the others would wait while it is busy */
    } else if (op == EPOLL_CTL_DEL) {
        rp->sources--;
    }
    return 0;
}

static void real_del(struct es_poller *p)
{
    struct real_poller *rp = (struct real_poller *)p;

    es_timers_free(&p->timers);
    es_token_store_free(&p->tokens);
    if (rp->tfd >= 0) {
        close(rp->tfd);
    }
    if (rp->epfd >= 0) {
        close(rp->epfd);
    }
    es_free(rp->rx);
    es_free(rp);
}

static const struct es_poller_ops real_ops = {real_step, real_kick, real_rearm,
                                              real_fd,   real_del,  real_watch};

int es_poller_new(struct es_poller **out)
{
    struct real_poller *rp = es_calloc(1, sizeof *rp);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

    *out = NULL;
    if (rp == NULL) {
        return ES_ERR_NOMEM;
    }
    rp->p.ops = &real_ops;
    rp->p.io = (struct es_io){io_now, io_wall, io_rand, io_bind, io_send, io_close, io_listen, rp};
    es_timers_init(&rp->p.timers);
    es_list_init(&rp->p.endpoints);
    es_list_init(&rp->p.dirty);
    es_list_init(&rp->p.work);
    es_list_init(&rp->p.orphans);
    rp->armed = ES_NEVER;
    rp->tfd = -1;
    rp->rx = es_malloc(ES_UDP_BATCH * ES_UDP_MESSAGE);
    rp->epfd = epoll_create1(EPOLL_CLOEXEC);
    rp->tfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (rp->rx == NULL || rp->epfd < 0 || rp->tfd < 0 ||
        epoll_ctl(rp->epfd, EPOLL_CTL_ADD, rp->tfd, &ev) != 0) {
        int rv = rp->rx == NULL ? ES_ERR_NOMEM : ES_ERR_IO;
        real_del(&rp->p);
        return rv;
    }
    es_poller_now(&rp->p);
    *out = &rp->p;
    return 0;
}

/* ---- shared ---- */

void es_poller_del(struct es_poller *p)
{
    if (p == NULL) {
        return;
    }
    es_list_foreach(it, &p->endpoints)
    {
        es_endpoint_abandon(es_container_of(it, struct es_endpoint, node));
    }
    es_list_foreach(it2, &p->orphans)
    {
        struct es_poll_orphan *o = es_container_of(it2, struct es_poll_orphan, node);
        o->drop(o);
    }
    p->ops->del(p);
}

int es_poller_fd(const struct es_poller *p)
{
    return p->ops->fd(p);
}

struct es_timers *es_poller_timers(struct es_poller *p)
{
    return &p->timers;
}

uint64_t es_poller_now(struct es_poller *p)
{
    p->timers.now = p->io.now(p->io.ctx);
    return p->timers.now;
}

int es_poller_step(struct es_poller *p, size_t budget)
{
    int rv;

    assert(!p->busy);
    p->busy++;
    rv = p->ops->step(p, budget);
    p->busy--;
    return rv;
}

int es_poller_flush(struct es_poller *p)
{
    struct es_list work;

    assert(!p->busy);
    p->busy++;
    es_poller_now(p);
    /* Those that become dirty again meanwhile wait for the next step, which a kick brings. */
    es_list_take(&p->dirty, &work);
    while (!es_list_empty(&work)) {
        struct es_list *it = work.next;
        es_list_remove(it);
        es_endpoint_flush(es_container_of(it, struct es_endpoint, dirty));
    }
    if (!es_list_empty(&p->work)) {
        es_list_take(&p->work, &work);
        while (!es_list_empty(&work)) {
            struct es_poll_work *w = es_container_of(work.next, struct es_poll_work, node);
            es_list_remove(&w->node);
            w->run(w);
        }
    }
    p->busy--;
    if (p->again || !es_list_empty(&p->dirty) || !es_list_empty(&p->work)) {
        p->again = 0;
        p->ops->kick(p);
    }
    p->ops->rearm(p);
    return 0;
}

uint64_t es_poller_next(struct es_poller *p)
{
    return es_list_empty(&p->dirty) && es_list_empty(&p->work) ? es_timers_next(&p->timers) : p->timers.now;
}

int es_poller_wait(struct es_poller *p, uint64_t until)
{
    struct epoll_event ev;
    uint64_t now = es_poller_now(p), wait;
    int fd = es_poller_fd(p);

    if (fd < 0 || until <= now) {
        return 0;
    }
    wait = until == ES_NEVER ? 0 : (until - now + ES_MILLI - 1) / ES_MILLI;
    int rv = epoll_wait(fd, &ev, 1, until == ES_NEVER ? -1 : wait > 60000 ? 60000 : (int)wait);
    es_poller_now(p);
    return rv < 0 && errno != EINTR ? ES_ERR_IO : 0;
}

uint64_t es_poller_wall(struct es_poller *p)
{
    return p->io.wall(p->io.ctx);
}

void es_poller_enter(struct es_poller *p)
{
    p->held++;
}

void es_poller_leave(struct es_poller *p)
{
    p->held--;
}

void es_poller_kick(struct es_poller *p)
{
    if (!p->busy && !p->held) {
        p->ops->kick(p);
    }
}

void es_poller_rearm(struct es_poller *p)
{
    if (!p->busy && !p->held) {
        es_poller_now(p);
        p->ops->rearm(p);
    }
}

/* ---- other sources ---- */

int es_poller_watch(struct es_poller *p, int fd, uint32_t events, struct es_poll_source *s)
{
    return p->ops->watch != NULL ? p->ops->watch(p, EPOLL_CTL_ADD, fd, events, s) : ES_ERR_UNSUPPORTED;
}

int es_poller_rewatch(struct es_poller *p, int fd, uint32_t events, struct es_poll_source *s)
{
    return p->ops->watch != NULL ? p->ops->watch(p, EPOLL_CTL_MOD, fd, events, s) : ES_ERR_UNSUPPORTED;
}

void es_poller_unwatch(struct es_poller *p, int fd)
{
    if (p->ops->watch != NULL) {
        (void)p->ops->watch(p, EPOLL_CTL_DEL, fd, 0, NULL);
    }
}

void es_poller_work(struct es_poller *p, struct es_poll_work *w)
{
    if (es_list_empty(&w->node)) {
        es_list_push(&p->work, &w->node);
        es_poller_kick(p);
    }
}
