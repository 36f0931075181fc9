/* The inside of a poller, shared by the real one (poller.c) and the simulated one (sim/): not for anybody
 * above. */
#ifndef ES_TRANSPORT_DRIVER_H
#define ES_TRANSPORT_DRIVER_H

#include "../base/list.h"
#include "../base/timer.h"
#include "io.h"
#include "poller.h"
#include "token_store.h"

struct es_poller_ops {
    int (*step)(struct es_poller *p, size_t budget);
    void (*kick)(struct es_poller *p);  /* something became dirty outside step/flush: make the fd readable */
    void (*rearm)(struct es_poller *p); /* after flush: arm for es_timers_next() */
    int (*fd)(const struct es_poller *p);
    void (*del)(struct es_poller *p);
};

struct es_poller {
    const struct es_poller_ops *ops;
    struct es_io io;
    struct es_timers timers;
    struct es_list endpoints;
    struct es_list dirty; /* endpoints with something to write */
    int busy;             /* inside step or flush: no kick needed, and nothing may be freed */
    int held;             /* between es_poller_enter and leave: no kick needed */
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

#endif
