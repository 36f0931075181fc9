/* Peers that hold our memory hostage: what was sent to them stays until they acknowledge it, and what waits
 * for their windows stays too. A peer that acknowledges nothing while it goes on talking, or that lets as
 * much as the cap of held bytes wait without taking any, is cut after a while. One that is merely slow, or
 * pauses a stream whose queue is below the cap, is not. */
#include <string.h>
#include "internal.h"

#define TALKS  8 /* packets of the peer's: its network works */
#define PROBES 3 /* times that it was sent something, talked on, and had still acknowledged nothing */

void es_conn_queued(struct es_conn *c, int64_t delta)
{
    if (delta < 0 || c->outstanding == 0) {
        c->moved_at = es_conn_now(c);
        c->moved_packets = c->packets_in;
        c->probes = 0;
        c->probed_at = 0;
    }
    c->outstanding += (uint64_t)delta;
    es_conn_held(c, delta);
}

/* After an outage the peer may talk for as long as the outage took before our next probe gives it something
 * to acknowledge: only what it leaves unanswered while it is heard counts. A silence over a whole interval
 * starts the count again: its network may be gone, or its NAT may have given it another address, which we
 * learn when it speaks. Who is silent for long meets the idle time-out, and who is silent for less than that
 * is heard in each interval, because they double. */
static void count_probes(struct es_conn *c)
{
    uint64_t now = es_conn_now(c);
    ngtcp2_conn_info info;

    ngtcp2_conn_get_conn_info(c->nc, &info);
    if (c->probed_at == 0) {
        c->probed_at = now;
        c->probed_packets = c->packets_in;
    } else if (info.bytes_in_flight > c->probed_bytes &&
               now - c->probed_at > ngtcp2_conn_get_pto(c->nc) / 2) {
        c->probes = c->packets_in > c->probed_packets ? c->probes + 1 : 0;
        c->probed_at = now;
        c->probed_packets = c->packets_in;
    }
    c->probed_bytes = info.bytes_in_flight;
}

void es_conn_end_if_stalled(struct es_conn *c)
{
    static const char deaf[] = "the peer acknowledges nothing",
                      slow[] = "the peer takes nothing of what it asked for";
    uint64_t still = es_conn_now(c) - c->moved_at;
    const char *why;

    if (c->outstanding == 0 || c->cfg.stall_timeout == 0 || still < ES_SECOND || !c->established) {
        return;
    }
    count_probes(c);
    if (still < c->cfg.stall_timeout) {
        return;
    }
    if (still < c->cfg.stall_timeout + 3 * ngtcp2_conn_get_pto(c->nc)) {
        return;
    }
    if (c->outstanding > c->link.unsent && c->packets_in - c->moved_packets >= TALKS && c->probes >= PROBES) {
        why = deaf;
    } else if (c->link.held >= c->link.hold_cap) {
        why = slow;
    } else {
        return;
    }
    es_conn_set_info(c, ES_CLOSE_LOCAL, ES_ERR_LIMIT, 1, c->link.glitch_code, why, strlen(why));
    es_conn_end(c, 1);
}
