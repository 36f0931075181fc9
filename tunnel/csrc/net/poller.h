/* Readiness of sockets and timers on one pollable descriptor (an epoll fd with a timerfd in it), which Lua's
 * loop watches. Timers are those of base/timer.h; the clock is base/clock.h's, read once per step. */
#ifndef ET_NET_POLLER_H
#define ET_NET_POLLER_H

#include <stdint.h>
#include "../../../csrc/base/timer.h"

struct et_poller;

struct es_timers;

int et_poller_new(struct et_poller **out); /* ES_ERR_NOMEM, ES_ERR_IO */
void et_poller_del(struct et_poller *p);   /* closes every socket and listener; their closed() is told */
int et_poller_fd(const struct et_poller *p);
/* Takes what is ready (at most `budget` sockets), fires timers, flushes what is dirty. 1: more is ready now.
 */
int et_poller_step(struct et_poller *p, unsigned budget);
uint64_t et_poller_now(const struct et_poller *p); /* ns, of this step */
struct es_timers *et_poller_timers(struct et_poller *p);

#endif
