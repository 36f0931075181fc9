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
    double duplicate;
    double reorder;  /* held back by 1-4 further delays */
    double corrupt;  /* one byte changed among the first 50 */
    uint64_t delay;  /* ns one way; default 5 ms */
    uint64_t jitter; /* ns, uniform on top */
    uint64_t rate;   /* bits per second; 0: unlimited */
    size_t queue;    /* packets waiting for the rate limit; more are dropped; default 25 */
    size_t mtu;      /* larger UDP payloads are dropped; 0: 65,535 */
};

struct es_sim_config {
    uint64_t seed;
    struct es_sim_path path; /* of every pair of addresses, both directions, unless set otherwise */
};

struct es_sim_stats {
    uint64_t sent, delivered, lost, duplicated, reordered, corrupted, queue_dropped, no_listener;
};

enum es_sim_fate {
    ES_SIM_SENT, /* under way */
    ES_SIM_DUPLICATED,
    ES_SIM_LOST, /* by chance, in a blackout, over the mtu */
    ES_SIM_QUEUE_DROPPED,
    ES_SIM_DELIVERED,
    ES_SIM_NO_LISTENER
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
 * (0: a new one). */
int es_sim_rebind(struct es_sim *s, struct es_endpoint *ep, uint16_t port);
/* For looking at a run: fn is called for every datagram when it is sent and when it arrives. NULL: nobody
 * looks. */
void es_sim_trace(struct es_sim *s,
                  void (*fn)(void *user, enum es_sim_fate fate, const union es_addr *from,
                             const union es_addr *to, const uint8_t *data, size_t len),
                  void *user);
void es_sim_stats_get(const struct es_sim *s, struct es_sim_stats *out);

#endif
