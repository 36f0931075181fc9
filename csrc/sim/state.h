/* The inside of the simulator, shared by sim.c (clock, sockets) and net.c (what happens to datagrams). */
#ifndef ES_SIM_STATE_H
#define ES_SIM_STATE_H

#include "../base/list.h"
#include "../base/map.h"
#include "../base/pool.h"
#include "../transport/driver.h"
#include "rand.h"
#include "sim.h"

#define SIM_SMALL 1536 /* datagrams up to this size come from a pool */

struct sim_ip {     /* an address without its port, in the form that maps and rules are keyed by */
    uint8_t family; /* 4 or 6 */
    uint8_t b[16];
};

struct sim_key { /* an address with its port */
    struct sim_ip ip;
    uint8_t port[2];
};

struct sim_path { /* one direction between two IPs */
    struct es_list node;
    struct sim_ip from, to;
    struct es_sim_path p;
    int burst_left;      /* losses still to come in a row */
    int bad;             /* the state of Gilbert and Elliott */
    uint64_t since;      /* when p was set: on and off count from here */
    uint64_t busy_until; /* when the rate limit has sent what waits */
    uint64_t *departs;   /* owned ring of the departure times of waiting packets; p.queue of them */
    size_t first, waiting;
};

struct sim_socket {
    struct es_list node;
    struct es_endpoint *ep; /* borrowed */
    union es_addr bound;    /* what the endpoint knows */
    union es_addr ext;      /* what the others see: differs after es_sim_rebind() */
    struct sim_key last_to; /* the path used last */
    struct sim_path *last;  /* borrowed; NULL: none */
};

struct sim_packet {
    uint64_t at, order; /* arrival; ties go by order of sending */
    union es_addr from, to;
    uint32_t len;
    uint64_t number;
    uint8_t ecn, pooled, corrupted, marked;
    uint8_t data[];
};

struct sim_rule { /* es_sim_set_path: the last one that matches a pair rules */
    struct es_list node;
    int any_from, any_to;
    struct sim_ip from, to;
    struct es_sim_path p;
};

struct sim_span {
    uint64_t from, until;
};

struct es_sim {
    struct es_poller poller;        /* first */
    struct es_sim_rand net, bursts; /* fates */
    struct es_sim_rand bytes;       /* what endpoints ask for. Apart, so that one does not shift the other */
    struct es_timer arrival;  /* due when the next datagram arrives, so that es_poller_next() is right */
    struct sim_packet **heap; /* owned array of owned packets */
    size_t n, cap;
    uint64_t order;
    struct es_pool small;                     /* packets of up to SIM_SMALL bytes */
    struct es_map sockets;                    /* struct sim_key of `ext` -> sim_socket */
    struct es_list socket_list, paths, rules; /* owned */
    struct es_map path_map;                   /* two struct sim_ip -> sim_path */
    struct sim_span *dark;                    /* owned */
    size_t n_dark;
    uint16_t next_port;
    uint16_t next_host; /* for sockets bound to the unspecified address */
    int kicked;
    struct es_sim_stats stats;
    void (*trace)(void *user, const struct es_sim_record *r);
    void *trace_user; /* borrowed */
};

/* net.c */
int es_sim_net_init(struct es_sim *s, const struct es_sim_path *path);
void es_sim_net_free(struct es_sim *s);
/* One datagram leaves `sock` now: lost, or put into the heap once or twice. ES_ERR_NOMEM. */
int es_sim_net_send(struct es_sim *s, struct sim_socket *sock, const union es_addr *to, uint8_t ecn,
                    const uint8_t *data, size_t len);
/* Hands up at most `budget` datagrams due by now; returns how many were taken from the heap. */
size_t es_sim_net_deliver(struct es_sim *s, size_t budget);
uint64_t es_sim_net_next(const struct es_sim *s); /* when the next arrives; ES_NEVER */

void es_sim_key(struct sim_key *out, const union es_addr *a);

#endif
