/* The simulator's clock, sockets and poller: see sim.h. The network itself is in net.c. */
#include "state.h"

#include <assert.h>
#include <string.h>

#include "../base/err.h"
#include "../base/mem.h"

#define SIM_START      ES_SECOND /* virtual time begins here, so that 0 is never a time */
#define SIM_WALL_START (UINT64_C(1700000000) * ES_SECOND)
#define SIM_FIRST_PORT 49152

/* ---- io ---- */

static uint64_t sim_now(void *ctx)
{
    const struct es_sim *s = ctx;

    return s->poller.timers.now;
}

static uint64_t sim_wall(void *ctx)
{
    return SIM_WALL_START + sim_now(ctx) - SIM_START;
}

static void sim_rand(void *ctx, uint8_t *out, size_t n)
{
    struct es_sim *s = ctx;

    while (n > 0) {
        uint64_t x = es_sim_rand_next(&s->bytes);
        size_t take = n < sizeof x ? n : sizeof x;

        memcpy(out, &x, take);
        out += take;
        n -= take;
    }
}

static void set_port(union es_addr *a, uint16_t port)
{
    if (a->sa.sa_family == AF_INET6)
        a->in6.sin6_port = htons(port);
    else
        a->in4.sin_port = htons(port);
}

static uint16_t port_of(const union es_addr *a)
{
    return ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in4.sin_port);
}

void es_sim_key(struct sim_key *out, const union es_addr *a)
{
    uint16_t port = port_of(a);

    memset(out, 0, sizeof *out);
    if (a->sa.sa_family == AF_INET6) {
        out->ip.family = 6;
        memcpy(out->ip.b, &a->in6.sin6_addr, 16);
    } else {
        out->ip.family = 4;
        memcpy(out->ip.b, &a->in4.sin_addr, 4);
    }
    out->port[0] = (uint8_t)(port >> 8);
    out->port[1] = (uint8_t)port;
}

/* A socket bound to the unspecified address is a host of its own: 10.255.x.y or fd00::ff:x. */
static void give_host(struct es_sim *s, union es_addr *a)
{
    struct sim_key k;
    size_t i;

    es_sim_key(&k, a);
    for (i = 0; i < sizeof k.ip.b; i++) {
        if (k.ip.b[i])
            return;
    }
    s->next_host++;
    if (k.ip.family == 6) {
        a->in6.sin6_addr.s6_addr[0] = 0xfd;
        a->in6.sin6_addr.s6_addr[13] = 0xff;
        a->in6.sin6_addr.s6_addr[14] = (uint8_t)(s->next_host >> 8);
        a->in6.sin6_addr.s6_addr[15] = (uint8_t)s->next_host;
    } else {
        a->in4.sin_addr.s_addr = htonl(UINT32_C(0x0aff0000) + s->next_host);
    }
}

/* Fills in a port nobody has when it is 0. ES_ERR_EXISTS: taken, or none is left. */
static int give_port(struct es_sim *s, union es_addr *a)
{
    struct sim_key k;
    int tries;

    if (port_of(a) != 0) {
        es_sim_key(&k, a);
        return es_map_get(&s->sockets, &k, sizeof k) ? ES_ERR_EXISTS : 0;
    }
    for (tries = SIM_FIRST_PORT; tries <= UINT16_MAX; tries++) {
        if (s->next_port < SIM_FIRST_PORT)
            s->next_port = SIM_FIRST_PORT;
        set_port(a, s->next_port++);
        es_sim_key(&k, a);
        if (!es_map_get(&s->sockets, &k, sizeof k))
            return 0;
    }
    return ES_ERR_EXISTS;
}

static int sim_bind(void *ctx, struct es_endpoint *ep, union es_addr *addr, void **sock)
{
    struct es_sim *s = ctx;
    struct sim_socket *k;
    struct sim_key key;
    int rc;

    give_host(s, addr);
    rc = give_port(s, addr);
    if (rc != 0)
        return rc;
    k = es_calloc(1, sizeof *k);
    if (!k)
        return ES_ERR_NOMEM;
    k->ep = ep;
    k->bound = k->ext = *addr;
    es_sim_key(&key, addr);
    rc = es_map_put(&s->sockets, &key, sizeof key, k);
    if (rc != 0) {
        es_free(k);
        return rc;
    }
    es_list_push(&s->socket_list, &k->node);
    *sock = k;
    return 0;
}

static int sim_send(void *ctx, void *sock, const struct es_dgram *v, size_t n)
{
    struct es_sim *s = ctx;
    size_t i;

    for (i = 0; i < n; i++) {
        const uint8_t *p = v[i].data;
        size_t left = v[i].len, step = v[i].segment ? v[i].segment : v[i].len;

        do {
            size_t len = left < step ? left : step;
            int rc = es_sim_net_send(s, sock, v[i].remote, v[i].ecn, p, len);

            if (rc != 0)
                return rc;
            p += len;
            left -= len;
        } while (left > 0);
    }
    return (int)n;
}

static void sim_close(void *ctx, void *sock)
{
    struct es_sim *s = ctx;
    struct sim_socket *k = sock;
    struct sim_key key;

    es_sim_key(&key, &k->ext);
    es_map_remove(&s->sockets, &key, sizeof key);
    es_list_remove(&k->node);
    es_free(k);
}

/* ---- the poller ---- */

static void on_arrival(struct es_timer *t)
{
    (void)t; /* only there to be counted by es_timers_next(): step delivers by itself */
}

static int arm(struct es_sim *s)
{
    uint64_t at = es_sim_net_next(s);

    if (at == ES_NEVER) {
        es_timer_stop(&s->poller.timers, &s->arrival);
        return 0;
    }
    if (es_timer_running(&s->arrival) && s->arrival.at == at)
        return 0;
    return es_timer_start(&s->poller.timers, &s->arrival, at);
}

static int run_due(struct es_sim *s, size_t budget, size_t *did)
{
    size_t n = es_sim_net_deliver(s, budget);
    int rc = arm(s);

    if (rc != 0)
        return rc;
    if (n < budget)
        n += es_timers_expire(&s->poller.timers, budget - n);
    *did = n;
    return 0;
}

static int sim_step(struct es_poller *p, size_t budget)
{
    struct es_sim *s = (struct es_sim *)p;
    int busy = p->busy, rc;
    size_t did = 0;

    if (budget == 0)
        budget = 1;
    p->busy = 1;
    rc = run_due(s, budget, &did);
    if (rc == 0 && did == 0 && s->kicked) {
        did = 1; /* somebody wrote from outside: let the caller flush before the clock jumps */
    } else if (rc == 0 && did == 0) {
        uint64_t at = es_timers_next(&p->timers);

        if (at != ES_NEVER) {
            assert(at > p->timers.now);
            p->timers.now = at;
            rc = run_due(s, budget, &did);
        }
    }
    s->kicked = 0;
    p->busy = busy;
    return rc != 0 ? rc : (int)did;
}

static void sim_kick(struct es_poller *p)
{
    ((struct es_sim *)p)->kicked = 1;
}

static void sim_rearm(struct es_poller *p)
{
    arm((struct es_sim *)p); /* so that es_poller_next() counts what was just sent; step arms again */
}

static int sim_fd(const struct es_poller *p)
{
    (void)p;
    return -1;
}

static void sim_del(struct es_poller *p)
{
    (void)p; /* es_sim_del() frees it */
}

static const struct es_poller_ops sim_ops = {sim_step, sim_kick, sim_rearm, sim_fd, sim_del, NULL};

/* ---- life ---- */

void es_sim_config_default(struct es_sim_config *c)
{
    memset(c, 0, sizeof *c);
    c->seed = 1;
    c->path.burst = 1;
    c->path.burst_loss = 1;
    c->path.corrupt_span = 50;
    c->path.delay = 5 * ES_MILLI;
    c->path.queue = 25;
}

int es_sim_new(struct es_sim **out, const struct es_sim_config *c)
{
    struct es_sim *s = es_calloc(1, sizeof *s);
    struct es_poller *p;
    uint8_t seed[16];

    if (!s)
        return ES_ERR_NOMEM;
    es_sim_rand_seed(&s->net, c->seed, 1);
    es_sim_rand_seed(&s->bytes, c->seed, 2);
    es_sim_rand_seed(&s->bursts, c->seed, 3);
    sim_rand(s, seed, sizeof seed);
    es_map_init(&s->sockets, seed);
    es_map_init(&s->path_map, seed);
    es_list_init(&s->socket_list);
    s->next_port = SIM_FIRST_PORT;
    if (es_sim_net_init(s, &c->path) != 0) {
        es_sim_net_free(s);
        es_free(s);
        return ES_ERR_NOMEM;
    }
    p = &s->poller;
    p->ops = &sim_ops;
    p->io.now = sim_now;
    p->io.wall = sim_wall;
    p->io.rand = sim_rand;
    p->io.bind = sim_bind;
    p->io.send = sim_send;
    p->io.close = sim_close;
    p->io.ctx = s;
    es_timers_init(&p->timers);
    p->timers.now = SIM_START;
    es_list_init(&p->endpoints);
    es_list_init(&p->dirty);
    es_list_init(&p->work);
    es_list_init(&p->orphans);
    es_timer_init(&s->arrival, on_arrival, s);
    *out = s;
    return 0;
}

void es_sim_del(struct es_sim *s)
{
    if (!s)
        return;
    assert(es_list_empty(&s->poller.endpoints) && es_list_empty(&s->socket_list));
    es_sim_net_free(s);
    es_map_free(&s->sockets);
    es_timers_free(&s->poller.timers);
    es_token_store_free(&s->poller.tokens);
    es_free(s);
}

struct es_poller *es_sim_poller(struct es_sim *s)
{
    return &s->poller;
}

static struct sim_socket *socket_of(struct es_sim *s, const struct es_endpoint *ep)
{
    struct sim_socket *found = NULL;

    es_list_foreach(it, &s->socket_list)
    {
        struct sim_socket *c = es_container_of(it, struct sim_socket, node);

        if (c->ep == ep)
            found = c;
    }
    return found;
}

int es_sim_move(struct es_sim *s, struct es_endpoint *ep, const union es_addr *to)
{
    struct sim_socket *k = socket_of(s, ep);
    union es_addr next = *to;
    struct sim_key key;
    int rc;

    if (!k)
        return ES_ERR_NOT_FOUND;
    if (to->sa.sa_family != k->ext.sa.sa_family)
        return ES_ERR_INVAL;
    rc = give_port(s, &next);
    if (rc != 0)
        return rc;
    es_sim_key(&key, &next);
    rc = es_map_put(&s->sockets, &key, sizeof key, k);
    if (rc != 0)
        return rc;
    es_sim_key(&key, &k->ext);
    es_map_remove(&s->sockets, &key, sizeof key);
    k->ext = next;
    k->last = NULL; /* another IP has other paths */
    return 0;
}

int es_sim_rebind(struct es_sim *s, struct es_endpoint *ep, uint16_t port)
{
    struct sim_socket *k = socket_of(s, ep);
    union es_addr next;

    if (!k)
        return ES_ERR_NOT_FOUND;
    next = k->ext;
    set_port(&next, port);
    return es_sim_move(s, ep, &next);
}

void es_sim_stats_get(const struct es_sim *s, struct es_sim_stats *out)
{
    *out = s->stats;
}

void es_sim_trace(struct es_sim *s, void (*fn)(void *user, const struct es_sim_record *r), void *user)
{
    s->trace = fn;
    s->trace_user = user;
}

const char *es_sim_fate_name(enum es_sim_fate fate)
{
    static const char *const names[] = {"sent",      "duplicated",    "lost",      "dark",
                                        "too_large", "queue_dropped", "delivered", "no_listener"};

    return names[fate];
}
