/* The simulator: the real connections over a network that exists only in memory, on a clock that jumps.
 *
 *   struct es_sim *sim;
 *   struct es_sim_config cfg; es_sim_config_default(&cfg); cfg.seed = 42; cfg.path.loss = 0.05;
 *   es_sim_new(&sim, &cfg);
 *   struct es_poller *p = es_sim_poller(sim);       // give it to es_endpoint_new; addresses are free-form,
 * e.g. 10.0.0.1:5000 while (es_poller_step(p, 64) > 0) { drain; es_poller_flush(p); } es_sim_del(sim);
 *
 * The seed decides every datagram's fate and the schedule. TLS uses its own randomness, so bytes differ
 * between runs of a seed; fates and times do not as long as packet counts and sizes are the same.
 */
#ifndef ES_SIM_SIM_H
#define ES_SIM_SIM_H

#include <stddef.h>
#include <stdint.h>

union es_addr;
struct es_sim;
struct es_poller;
struct es_endpoint;

struct es_sim_path { /* one direction; probabilities 0-1 */
    double loss;     /* per datagram */
    int burst;       /* a loss takes up to this many in a row; default 1 */
    /* Bursts as Gilbert and Elliott describe them: a path that is in a bad state now and then. `loss` is what
     * the good state loses. */
    double burst_enter; /* per datagram: the bad state begins; 0: never */
    double burst_leave; /* per datagram: it ends */
    double burst_loss;  /* what it loses; default 1 */
    double duplicate;
    double reorder;      /* held back by 1-4 further delays */
    double corrupt;      /* one byte changed */
    size_t corrupt_span; /* among the first so many; default 50; 0: anywhere */
    uint64_t delay;      /* ns one way; default 5 ms */
    uint64_t jitter;     /* ns, uniform on top */
    uint64_t rate;       /* bits per second; 0: unlimited */
    size_t queue;        /* packets waiting for the rate limit; more are dropped; default 25 */
    size_t queue_bytes;  /* the same in bytes, instead of packets; 0: packets count */
    size_t mark; /* bytes waiting from which on datagrams that may be are marked CE (RFC 3168); 0: never */
    int bleach;  /* ECN marks of every kind are wiped, as some routers do */
    size_t mtu;  /* larger UDP payloads are dropped; 0: 65,535 */
    uint64_t on, off; /* ns: it works for `on`, then is gone for `off`, and so on; off 0: it always works */
};

struct es_sim_config {
    uint64_t seed;
    struct es_sim_path path; /* of every pair of addresses, both directions, unless set otherwise */
};

struct es_sim_stats {
    uint64_t sent, delivered, lost, duplicated, reordered, corrupted, marked, queue_dropped, no_listener;
};

enum es_sim_fate {
    ES_SIM_SENT, /* under way */
    ES_SIM_DUPLICATED,
    ES_SIM_LOST,      /* by chance */
    ES_SIM_DARK,      /* the path was gone */
    ES_SIM_TOO_LARGE, /* over the mtu */
    ES_SIM_QUEUE_DROPPED,
    ES_SIM_DELIVERED,
    ES_SIM_NO_LISTENER
};

struct es_sim_record { /* what happened to one datagram, at one end of its way */
    uint64_t at;       /* ns of virtual time */
    uint64_t number;   /* of the datagram, from 1, in the order of sending; a duplicate has its original's */
    enum es_sim_fate fate;
    uint8_t corrupted, marked;      /* on its way; told when it is sent and when it arrives */
    const union es_addr *from, *to; /* borrowed, like the bytes: for the length of the call */
    const uint8_t *data;
    size_t len;
};

void es_sim_config_default(struct es_sim_config *c);
int es_sim_new(struct es_sim **out, const struct es_sim_config *c);
void es_sim_del(struct es_sim *s); /* its endpoints must be gone */
struct es_poller *es_sim_poller(struct es_sim *s);
/* Changes the network from now on. `from` and `to` are IP addresses without port as text; NULL: every one. */
int es_sim_set_path(struct es_sim *s, const char *from, const char *to, const struct es_sim_path *path);
void es_sim_blackout(struct es_sim *s, uint64_t from_ns,
                     uint64_t until_ns); /* nothing passes in that span of virtual time */
/* The endpoint's address changes as behind a NAT: what it sends from now on comes from `port` of the same IP
 * (0: a new one). ES_ERR_NOT_FOUND: no such endpoint. ES_ERR_EXISTS: somebody has that address. */
int es_sim_rebind(struct es_sim *s, struct es_endpoint *ep, uint16_t port);
/* The same with another IP as well; port 0: a new one. ES_ERR_INVAL: of the other family. */
int es_sim_move(struct es_sim *s, struct es_endpoint *ep, const union es_addr *to);
/* For looking at a run: fn is called for every datagram when it is sent and when it arrives. It must not call
 * the simulator. NULL: nobody looks. */
void es_sim_trace(struct es_sim *s, void (*fn)(void *user, const struct es_sim_record *r), void *user);
const char *es_sim_fate_name(enum es_sim_fate fate); /* "sent", "lost", ... */
void es_sim_stats_get(const struct es_sim *s, struct es_sim_stats *out);

#endif
