/* The inside of a poller, shared by the real one (poller.c) and the simulated one (sim/): not for anybody
 * above. */
#ifndef ES_TRANSPORT_DRIVER_H
#define ES_TRANSPORT_DRIVER_H

#include "../base/list.h"
#include "../base/timer.h"
#include "io.h"
#include "poller.h"
#include "token_store.h"

/* A file descriptor beside the endpoints' sockets that the poller watches (csrc/tcp). It must not be freed
 * inside a step: events of the same round may still point to it. */
struct es_poll_source {
    /* In a step; what epoll said. NULL in those of UDP sockets, which step() serves itself. */
    void (*ready)(struct es_poll_source *s, uint32_t events);
};

/* Something to be done in the next flush. */
struct es_poll_work {
    struct es_list node; /* in poller->work */
    void (*run)(struct es_poll_work *w);
};

/* A socket that nobody owns any more, on its way out (csrc/tcp/linger.c). */
struct es_poll_orphan {
    struct es_list node;                    /* in poller->orphans */
    void (*drop)(struct es_poll_orphan *o); /* the poller goes */
};

struct es_poller_ops {
    int (*step)(struct es_poller *p, size_t budget);
    void (*kick)(struct es_poller *p);  /* something became dirty outside step/flush: make the fd readable */
    void (*rearm)(struct es_poller *p); /* after flush: arm for es_timers_next() */
    int (*fd)(const struct es_poller *p);
    void (*del)(struct es_poller *p);
    /* epoll_ctl for a source; NULL: there are no sockets (a simulation) */
    int (*watch)(struct es_poller *p, int op, int fd, uint32_t events, struct es_poll_source *s);
};

struct es_poller {
    const struct es_poller_ops *ops;
    struct es_io io;
    struct es_timers timers;
    struct es_list endpoints;
    struct es_list dirty; /* endpoints with something to write */
    struct es_list work;  /* of struct es_poll_work */
    struct es_list orphans;
    int busy;  /* inside step or flush: no kick needed, and nothing may be freed */
    int held;  /* between es_poller_enter and leave: no kick needed */
    int again; /* set during a flush: there is more to do in a next step, kick when the flush ends */
    struct es_token_store tokens; /* what servers gave our clients for the next time */
};

/* endpoint.c's side of the seam */
void es_endpoint_input(struct es_endpoint *ep, const union es_addr *local, const union es_addr *remote,
                       uint8_t ecn, const uint8_t *data,
                       size_t len);                /* one datagram; len 0 is counted and ignored */
void es_endpoint_writable(struct es_endpoint *ep); /* the socket takes packets again */
/* What was sent to `remote` was refused: an errno, ECONNREFUSED when nobody listens there. For dialled
 * connections whose handshake is under way; from anywhere. */
void es_endpoint_refused(struct es_endpoint *ep, const union es_addr *remote, int err);
int es_endpoint_flush(struct es_endpoint *ep);    /* 1: more to send but the socket is full */
void es_endpoint_mark(struct es_endpoint *ep);    /* put on p->dirty, kick when needed */
void es_endpoint_abandon(struct es_endpoint *ep); /* es_endpoint_del without a word to the peers */

/* Watches fd for `events` (EPOLLIN, EPOLLOUT); es_poller_watch again changes them; unwatch before it is
 * closed. 0, ES_ERR_UNSUPPORTED (a simulation), ES_ERR_IO. */
int es_poller_watch(struct es_poller *p, int fd, uint32_t events, struct es_poll_source *s);
int es_poller_rewatch(struct es_poller *p, int fd, uint32_t events, struct es_poll_source *s);
void es_poller_unwatch(struct es_poller *p, int fd);
/* w runs in the next flush, once; harmless twice. */
void es_poller_work(struct es_poller *p, struct es_poll_work *w);

#endif
