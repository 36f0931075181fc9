/* Readiness of sockets and timers on one pollable descriptor (an epoll fd with a timerfd in it), which Lua's
 * loop watches. Timers are those of base/timer.h; the clock is base/clock.h's, read once per step.
 *
 * A step has two halves, between which the caller may do what the events of the first half ask for: what is
 * written then leaves in the second, in one piece for each socket.
 *
 *   et_poller_step(p, 64);                    is   et_poller_receive(p, 64); et_poller_flush(p);
 *
 * Whatever is written or begun outside of a step makes the descriptor readable. */
#ifndef ET_NET_POLLER_H
#define ET_NET_POLLER_H

#include <stdint.h>
#include "../../../csrc/base/timer.h"

struct et_poller;

struct es_timers;

struct et_net_stats {
    uint64_t sockets, listeners;          /* now */
    uint64_t accepted, dialed;            /* in all */
    uint64_t handshakes, handshakes_lost; /* of TLS, in all: over, and failed */
    uint64_t received, sent;              /* bytes, as they were on the wire */
    uint64_t accept_pauses;               /* out of descriptors, or over a limit */
};

int et_poller_new(struct et_poller **out); /* ES_ERR_NOMEM, ES_ERR_IO */
void et_poller_del(struct et_poller *p);   /* closes every socket and listener; their closed() is told */
int et_poller_fd(const struct et_poller *p);
/* Takes what is ready (at most `budget` sockets), fires timers, flushes what is dirty. 1: more is ready now.
 */
int et_poller_step(struct et_poller *p, unsigned budget);
int et_poller_receive(struct et_poller *p, unsigned budget); /* the first half; 1: more is ready now */
/* The second half: flush() of who asked, writes, closed(). 1: something that it told made more to do. */
int et_poller_flush(struct et_poller *p);
/* Around what is done between the halves: what becomes dirty meanwhile does not touch the descriptor. */
void et_poller_enter(struct et_poller *p);
void et_poller_leave(struct et_poller *p);
uint64_t et_poller_now(const struct et_poller *p); /* ns, of this step; outside of steps it is read anew */
struct es_timers *et_poller_timers(struct et_poller *p);
void et_poller_kick(struct et_poller *p); /* something is to do: the descriptor is readable at once */
const struct et_net_stats *et_poller_stats(const struct et_poller *p);

#endif
