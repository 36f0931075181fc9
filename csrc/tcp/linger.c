/* Sockets on their way out. One that is closed while bytes of the peer's are unread resets the connection,
 * and the kernel throws away what the peer has not read yet, our last words among it. So our half is shut,
 * and what comes is read and thrown away until the peer has shut its own, or for two seconds. */
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "internal.h"

struct tcp_orphan {
    struct es_poll_source source;
    struct es_poll_orphan orphan;
    struct es_poll_work work;
    struct es_timer timer;
    struct es_poller *p; /* borrowed */
    int fd;              /* owned */
};

static void drop(struct es_poll_orphan *o)
{
    struct tcp_orphan *l = es_container_of(o, struct tcp_orphan, orphan);

    es_list_remove(&o->node);
    es_list_remove(&l->work.node);
    es_timer_stop(&l->p->timers, &l->timer);
    es_poller_unwatch(l->p, l->fd);
    close(l->fd);
    es_free(l);
}

static void on_work(struct es_poll_work *w)
{
    drop(&es_container_of(w, struct tcp_orphan, work)->orphan);
}

static void on_timer(struct es_timer *t)
{
    struct tcp_orphan *l = t->user;

    es_poller_work(l->p, &l->work); /* not inside a step: its events may still be in hand */
}

static void on_ready(struct es_poll_source *s, uint32_t events)
{
    struct tcp_orphan *l = es_container_of(s, struct tcp_orphan, source);
    char away[4096];
    ssize_t n = 0;

    for (int i = 0; i < 64; i++) {
        n = recv(l->fd, away, sizeof away, MSG_DONTWAIT);
        if (n <= 0) {
            break;
        }
    }
    if (n == 0 || events & (EPOLLERR | EPOLLHUP)) {
        es_poller_work(l->p, &l->work);
    }
}

void tcp_linger(struct es_poller *p, int fd)
{
    struct tcp_orphan *l = es_calloc(1, sizeof *l);

    (void)shutdown(fd, SHUT_WR);
    if (l == NULL) {
        close(fd);
        return;
    }
    l->source.ready = on_ready;
    l->orphan.drop = drop;
    l->work.run = on_work;
    l->p = p;
    l->fd = fd;
    es_list_init(&l->work.node);
    es_list_init(&l->orphan.node);
    es_timer_init(&l->timer, on_timer, l);
    if (es_poller_watch(p, fd, EPOLLIN, &l->source) != 0) {
        close(fd);
        es_free(l);
        return;
    }
    es_list_push(&p->orphans, &l->orphan.node);
    (void)es_timer_start(&p->timers, &l->timer, p->timers.now + TCP_LINGER);
    es_poller_rearm(p);
}
