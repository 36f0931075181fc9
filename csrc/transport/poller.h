/* What drives endpoints: one per Lua state over real sockets, or one per simulated network (sim/sim.h).
 *
 * A poller owns: the clock reading and timers that everything above uses, the list of endpoints, and for real
 * sockets an epoll fd that holds their UDP sockets and one timerfd. That epoll fd is the one pollable fd of
 * the core: Lua puts a single uv_poll on it. The poller never blocks.
 *
 *   es_poller_step(p, 64);      // receive (at most 64 datagrams), feed the connections, fire timers
 *   ... the caller drains the es_evq, which may write ...
 *   es_poller_flush(p);         // packets out in batches, deferred frees and releases, timerfd armed
 *
 * Marking a connection dirty outside step/flush (a write from plain Lua code) arms the fd at once, so that a
 * loop somebody else runs comes round to flush it ("kick").
 *
 * Traps this file and endpoint.c answer (DESIGN 7.11, 7.12): the timerfd is set lazily, only when the next
 * deadline is earlier than what it is armed for, never nearer than 1 ms; a nearer pacing expiry is handled by
 * calling handle_expiry after a flush that left nothing queued.
 */
#ifndef ES_TRANSPORT_POLLER_H
#define ES_TRANSPORT_POLLER_H

#include <stddef.h>
#include <stdint.h>
#include "../base/timer.h"
#include "io.h"

struct es_endpoint;
struct es_poller;

int es_poller_new(struct es_poller **out); /* over real sockets */
void es_poller_del(struct es_poller *p);   /* closes its endpoints without a word to the peers */

int es_poller_fd(const struct es_poller *p); /* -1 for a simulated one */
struct es_timers *es_poller_timers(struct es_poller *p);
uint64_t es_poller_now(struct es_poller *p); /* ns; refreshes timers->now and returns it */

/* Returns the number of datagrams received and timers fired (0: nothing was there), or a negative es_err that
 * concerns the poller itself (errors of one endpoint or connection end up at that one). When more is waiting
 * than `budget`, the fd stays readable. A simulated poller advances its virtual clock to the next thing due
 * when nothing is due now; 0 then means nothing will ever happen. */
int es_poller_step(struct es_poller *p, size_t budget);
int es_poller_flush(struct es_poller *p);

uint64_t es_poller_wall(struct es_poller *p); /* ns since 1970; virtual in a simulation */
/* Something became ready outside step and flush: the fd gets readable at once. Nothing inside them. */
void es_poller_kick(struct es_poller *p);
/* Around draining between step and flush: what becomes dirty meanwhile needs no kick, since the flush
 * follows. */
void es_poller_enter(struct es_poller *p);
void es_poller_leave(struct es_poller *p);
/* A timer was started outside step and flush: the fd is armed for es_poller_next(). Nothing inside them. */
void es_poller_rearm(struct es_poller *p);

/* When step has something to do next by the clock (ns, ES_NEVER: nothing): for a caller that waits by itself.
 */
uint64_t es_poller_next(struct es_poller *p);
/* Sleeps in epoll_wait until something is readable or `until` (ns, absolute). Only for programs without luv
 * (C tests, benches). */
int es_poller_wait(struct es_poller *p, uint64_t until);

#endif
