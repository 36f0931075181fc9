#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "../../../csrc/base/clock.h"
#include "internal.h"

#define BATCH  64
#define ROUNDS 8 /* of flushing in one step: those who always have more to say wait for the next */

static void nothing(struct et_source *s, uint32_t events) {}

/* The timerfd and the eventfd are edge-triggered: they need no reading. */
static struct et_source clock_source = {nothing}, kick_source = {nothing};

static void free_poller(struct et_poller *p)
{
    es_timers_free(&p->timers);
    if (p->efd >= 0) {
        close(p->efd);
    }
    if (p->tfd >= 0) {
        close(p->tfd);
    }
    if (p->epfd >= 0) {
        close(p->epfd);
    }
    es_buf_free(&p->spare);
    es_buf_free(&p->tx);
    es_free(p->rx);
    es_free(p);
}

int et_poller_new(struct et_poller **out)
{
    struct et_poller *p = es_calloc(1, sizeof *p);
    struct epoll_event tick = {EPOLLIN | EPOLLET, {.ptr = &clock_source}};
    struct epoll_event kick = {EPOLLIN | EPOLLET, {.ptr = &kick_source}};

    *out = NULL;
    if (p == NULL) {
        return ES_ERR_NOMEM;
    }
    es_timers_init(&p->timers);
    es_list_init(&p->socks);
    es_list_init(&p->listeners);
    es_list_init(&p->dirty);
    es_list_init(&p->dead);
    es_list_init(&p->graves);
    p->armed = ES_NEVER;
    p->rx = es_malloc(ET_RX);
    p->epfd = epoll_create1(EPOLL_CLOEXEC);
    p->tfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    p->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->rx == NULL || p->epfd < 0 || p->tfd < 0 || p->efd < 0 ||
        epoll_ctl(p->epfd, EPOLL_CTL_ADD, p->tfd, &tick) != 0 ||
        epoll_ctl(p->epfd, EPOLL_CTL_ADD, p->efd, &kick) != 0) {
        int rv = p->rx == NULL ? ES_ERR_NOMEM : ES_ERR_IO;
        free_poller(p);
        return rv;
    }
    p->timers.now = es_clock_monotonic();
    *out = p;
    return 0;
}

static void reap(struct et_poller *p)
{
    while (!es_list_empty(&p->dead)) {
        et_sock_reap(es_container_of(p->dead.next, struct et_sock, dirty));
    }
    while (!es_list_empty(&p->graves)) {
        struct et_listener *l = es_container_of(p->graves.next, struct et_listener, node);
        es_list_remove(&l->node);
        es_free(l);
    }
}

void et_poller_del(struct et_poller *p)
{
    if (p == NULL) {
        return;
    }
    p->busy++;
    /* closed() may open and close others: until nobody is left. */
    while (!es_list_empty(&p->listeners) || !es_list_empty(&p->socks) || !es_list_empty(&p->dead)) {
        while (!es_list_empty(&p->listeners)) {
            et_listener_close(es_container_of(p->listeners.next, struct et_listener, node));
        }
        while (!es_list_empty(&p->socks)) {
            et_sock_fail(es_container_of(p->socks.next, struct et_sock, node), ES_ERR_CLOSED,
                         "the engine was closed");
        }
        reap(p);
    }
    reap(p);
    free_poller(p);
}

int et_poller_fd(const struct et_poller *p)
{
    return p->epfd;
}

struct es_timers *et_poller_timers(struct et_poller *p)
{
    return &p->timers;
}

const struct et_net_stats *et_poller_stats(const struct et_poller *p)
{
    return &p->stats;
}

uint64_t et_poller_now(const struct et_poller *p)
{
    if (!p->busy) {
        ((struct et_poller *)(uintptr_t)p)->timers.now = es_clock_monotonic();
    }
    return p->timers.now;
}

void et_poller_kick(struct et_poller *p)
{
    uint64_t one = 1;

    if (!p->busy && !p->kicked) {
        p->kicked = write(p->efd, &one, sizeof one) == sizeof one;
    }
}

void et_poller_enter(struct et_poller *p)
{
    p->busy++;
}

void et_poller_leave(struct et_poller *p)
{
    assert(p->busy > 0);
    p->busy--;
}

void et_poller_timer(struct et_poller *p, struct es_timer *t, uint64_t ns)
{
    uint64_t now = et_poller_now(p);

    /* Out of memory for the heap of timers: a time-out that never comes is worse than one that comes at once,
     * but nothing can be done here; the heap grows in powers of two and this is one pointer of it. */
    (void)es_timer_start(&p->timers, t, ns < ES_NEVER - now ? now + ns : ES_NEVER - 1);
    et_poller_kick(p);
}

/* Lazily: an earlier setting stays, to find nothing due and set the next one. */
void et_poller_rearm(struct et_poller *p)
{
    uint64_t next = es_timers_next(&p->timers);
    struct itimerspec its = {{0, 0}, {0, 0}};

    if (next == ES_NEVER || p->armed <= next) {
        return;
    }
    if (next < p->timers.now + ES_MILLI) {
        next = p->timers.now + ES_MILLI;
    }
    its.it_value.tv_sec = (time_t)(next / ES_SECOND);
    its.it_value.tv_nsec = (long)(next % ES_SECOND);
    if (timerfd_settime(p->tfd, TFD_TIMER_ABSTIME, &its, NULL) == 0) {
        p->armed = next;
    }
}

int et_poller_receive(struct et_poller *p, unsigned budget)
{
    struct epoll_event ev[BATCH];
    int max = budget < BATCH - 2 ? (int)budget + 2 : BATCH, n;
    size_t fired;

    p->busy++;
    n = epoll_wait(p->epfd, ev, max, 0);
    p->timers.now = es_clock_monotonic();
    p->alone = n <= 3;
    for (int i = 0; i < n; i++) {
        struct et_source *s = ev[i].data.ptr;
        if (s == &clock_source) {
            p->armed = ES_NEVER;
        } else if (s == &kick_source) {
            p->kicked = 0;
        } else {
            s->ready(s, ev[i].events);
        }
    }
    fired = es_timers_expire(&p->timers, 256);
    p->busy--;
    return n == max || fired == 256;
}

int et_poller_flush(struct et_poller *p)
{
    p->busy++;
    for (int round = 0; round < ROUNDS && !(es_list_empty(&p->dirty) && es_list_empty(&p->dead)); round++) {
        struct es_list work;
        /* Those that become dirty meanwhile belong to the next round. */
        es_list_init(&work);
        if (!es_list_empty(&p->dirty)) {
            work = p->dirty;
            work.next->prev = work.prev->next = &work;
            es_list_init(&p->dirty);
        }
        while (!es_list_empty(&work)) {
            struct et_sock *s = es_container_of(work.next, struct et_sock, dirty);
            es_list_remove(&s->dirty);
            et_sock_work(s);
        }
        reap(p);
    }
    p->busy--;
    et_poller_rearm(p);
    if (!es_list_empty(&p->dirty) || !es_list_empty(&p->dead)) {
        et_poller_kick(p);
        return 1;
    }
    return 0;
}

int et_poller_step(struct et_poller *p, unsigned budget)
{
    int more = et_poller_receive(p, budget);

    return et_poller_flush(p) | more;
}
