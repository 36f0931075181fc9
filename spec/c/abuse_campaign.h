/* The server and the honest client of abuse_campaign.c, each a process; what they tell is in shared memory.
 */
#ifndef ES_SPEC_C_ABUSE_CAMPAIGN_H
#define ES_SPEC_C_ABUSE_CAMPAIGN_H

#include <malloc.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "../../csrc/base/clock.h"
#include "../../csrc/session/session.h"
#include "transport_support.h"

#define SAMPLES 100000

struct shared {
    union es_addr addr;
    volatile int listening, stop;
    volatile int quiet;  /* the client is to begin anew; it sets it to 0 when it did */
    volatile int copies; /* of each datagram of the client's */
    volatile uint64_t in_use, max_in_use, max_late, datagrams_in, datagrams_lost;
    volatile uint64_t max_turn; /* ns of CPU: the server's longest turn of its loop */
    volatile uint32_t running, max_running;
    volatile size_t n, failed;
    volatile float ms[SAMPLES];
};

extern struct shared *sh;

struct latencies {
    size_t n, failed;
    double p50, p99;
};

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static struct latencies client_latencies(void)
{
    static float ms[SAMPLES];
    struct latencies l = {sh->n, sh->failed, 0, 0};

    for (size_t i = 0; i < l.n; i++) {
        ms[i] = sh->ms[i];
    }
    qsort(ms, l.n, sizeof *ms, by_value);
    if (l.n > 0) {
        l.p50 = ms[l.n / 2];
        l.p99 = ms[l.n * 99 / 100];
    }
    return l;
}

static void host_rand(void *ctx, uint8_t *out, size_t n)
{
    es_random(out, n);
}
static uint64_t host_wall(void *ctx)
{
    return es_clock_wall();
}

struct node { /* a poller, a host and its queue */
    struct es_poller *p;
    struct es_endpoint *ep;
    struct es_evq *q;
    struct es_host *host;
    struct es_app app;
};

static void node_open(struct node *n, struct es_tls *tls)
{
    struct es_host_config hc = {0};
    struct es_endpoint_config cfg;
    struct es_app *apps[1] = {&n->app};
    union es_addr addr;
    char err[256] = "";

    es_limits_default(&hc.limits);
    hc.limits.assembly_timeout = 2 * ES_SECOND;
    es_endpoint_config_default(&cfg);
    es_addr_parse(&addr, "127.0.0.1:0");
    cfg.bind = &addr;
    cfg.tls = tls;
    cfg.apps = apps;
    cfg.n_apps = tls != NULL;
    cfg.transport.stall_timeout = 2 * ES_SECOND;
    if (es_poller_new(&n->p) != 0 || es_evq_new(&n->q) != 0) {
        _exit(2);
    }
    hc.timers = es_poller_timers(n->p);
    hc.events = n->q;
    hc.rand = host_rand;
    hc.wall = host_wall;
    if (es_host_new(&n->host, &hc) != 0 || es_session_app_init(&n->app, n->host) != 0 ||
        es_endpoint_new(n->p, &cfg, &n->ep, err, sizeof err) != 0) {
        fprintf(stderr, "%s\n", err);
        _exit(2);
    }
}

/* ---- the server ---- */

enum { REF_ECHO = 1, REF_HOLD, REF_BLOB };
#define BLOB      ((size_t)64 * 1024)
#define HOLD_TIME (20 * ES_MILLI)
#define MAX_HELD  65536

static struct {
    struct es_call *call;
    uint64_t until;
} held[MAX_HELD];
static size_t n_held, first_held;

static void serve(struct node *n, struct es_ev_message *m)
{
    static uint8_t blob[BLOB];
    struct es_call *c = m->call;
    int ref = m->method->ref;

    if (es_call_admit(c) != 0) {
        return;
    }
    if (ref == REF_ECHO) {
        (void)es_call_respond(c, m->codec, m->data + m->metadata_len, m->payload_len, NULL, NULL);
    } else if (ref == REF_BLOB) {
        (void)es_call_respond(c, ES_CODEC_RAW, blob, sizeof blob, NULL, NULL);
    } else { /* works on for a while, whoever gives up */
        es_call_started(c);
        held[n_held % MAX_HELD].call = c;
        held[n_held++ % MAX_HELD].until = es_poller_timers(n->p)->now + HOLD_TIME;
        sh->running++;
        if (sh->running > sh->max_running) {
            sh->max_running = sh->running;
        }
    }
}

static void drain_server(struct node *n)
{
    struct es_event *ev;

    for (int i = 0; i < 64 && (ev = es_evq_peek(n->q)) != NULL; i++) {
        if (ev->type == ES_EV_REQUEST) {
            serve(n, (struct es_ev_message *)ev);
        } else if (ev->type == ES_EV_EVENT) {
            es_session_event_done(ev->owner, ((struct es_ev_message *)ev)->lane,
                                  ((struct es_ev_message *)ev)->method);
        }
        es_session_pop(n->q);
    }
    while (first_held < n_held && held[first_held % MAX_HELD].until <= es_poller_timers(n->p)->now) {
        (void)es_call_respond(held[first_held++ % MAX_HELD].call, ES_CODEC_RAW, NULL, 0, NULL, NULL);
        sh->running--;
    }
}

static struct es_timer tick;
static struct es_timers *ticks;

/* Every 5 ms, to see how late timers come. */
static void on_tick(struct es_timer *t)
{
    uint64_t late = es_clock_monotonic() - t->at;

    if (late > sh->max_late) {
        sh->max_late = late;
    }
    (void)es_timer_start(ticks, t, ticks->now + 5 * ES_MILLI);
}

/* Memory that the process never had comes page by page, each an interrupt, in a virtual machine from its
 * host: 160 MB cost 8 ms of CPU when they are there and 70 to 180 ms when not, more when the machine is busy.
 * That is the machine's doing, so the server has its memory before anything is measured. */
static void have_memory(void)
{
    size_t n = (size_t)320 * 1024 * 1024;
    void *p;

    (void)mallopt(M_MMAP_MAX, 0);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    p = malloc(n);
    if (p != NULL) {
        memset(p, 1, n);
    }
    free(p);
}

static uint64_t cpu_time(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * ES_SECOND + (uint64_t)t.tv_nsec;
}

static void run_server(struct es_tls *tls)
{
    static struct node n;
    struct es_mem_stats mem;
    struct es_endpoint_stats st;
    uint64_t began, took;

    have_memory();
    node_open(&n, tls);
    es_host_add(n.host, ES_KIND_RPC, "echo", 4, REF_ECHO, 0, 0);
    es_host_add(n.host, ES_KIND_RPC, "hold", 4, REF_HOLD, 0, 0);
    es_host_add(n.host, ES_KIND_RPC, "blob", 4, REF_BLOB, 0, 0);
    es_endpoint_address(n.ep, &sh->addr);
    ticks = es_poller_timers(n.p);
    es_timer_init(&tick, on_tick, NULL);
    (void)es_timer_start(ticks, &tick, ticks->now + 5 * ES_MILLI);
    sh->listening = 1;
    while (!sh->stop) {
        es_poller_wait(n.p, es_poller_now(n.p) + (es_evq_peek(n.q) != NULL ? 0 : 5 * ES_MILLI));
        began = cpu_time();
        es_poller_step(n.p, 64);
        drain_server(&n);
        es_poller_flush(n.p);
        drain_server(&n);
        took = cpu_time() - began;
        sh->max_turn = took > sh->max_turn ? took : sh->max_turn;
        es_mem_stats(&mem);
        sh->in_use = mem.in_use;
        if (mem.in_use > sh->max_in_use) {
            sh->max_in_use = mem.in_use;
        }
        es_endpoint_stats_get(n.ep, &st);
        sh->datagrams_in = st.datagrams_in;
        sh->datagrams_lost = st.dropped_datagrams;
    }
}

/* ---- the honest client ---- */

static int (*plain_send)(void *, void *, const struct es_dgram *, size_t);

static int send_copies(void *ctx, void *sock, const struct es_dgram *v, size_t n)
{
    for (int i = 1; i < sh->copies; i++) {
        (void)plain_send(ctx, sock, v, n);
    }
    return plain_send(ctx, sock, v, n);
}

static void client_event(struct es_event *ev)
{
    if (ev->type == ES_EV_RESPONSE) {
        uint64_t began = (uint64_t)(uintptr_t)((struct es_ev_message *)ev)->user;
        if (sh->n < SAMPLES) {
            sh->ms[sh->n] = (float)(es_clock_monotonic() - began) / 1e6f;
            sh->n++;
        }
    } else if (ev->type == ES_EV_CALL_FAILED || ev->type == ES_EV_SESSION_CLOSED) {
        sh->failed++;
    }
}

static void run_client(struct es_tls *tls)
{
    static struct node n;
    struct es_session_dial d = {0};
    struct es_connect_config cc = {0};
    struct es_link *link;
    uint64_t next;
    char err[256];

    node_open(&n, NULL);
    plain_send = n.p->io.send;
    n.p->io.send = send_copies;
    cc.remote = &sh->addr;
    cc.tls = tls;
    cc.app = &n.app;
    cc.app_arg = &d;
    es_transport_config_default(&cc.transport, 0);
    if (es_endpoint_connect(n.ep, &cc, &link, err, sizeof err) != 0) {
        _exit(2);
    }
    next = es_poller_now(n.p);
    while (!sh->stop) {
        struct es_event *ev;

        if (sh->quiet) {
            sh->n = sh->failed = 0;
            sh->quiet = 0;
        }
        while (es_poller_now(n.p) >= next) {
            struct es_call *c;
            next += 2 * ES_MILLI;
            (void)es_session_request(d.session, "echo", 4, NULL, (const uint8_t *)"\x91\x01", 2, NULL, NULL,
                                     (void *)(uintptr_t)es_clock_monotonic(), &c);
        }
        es_poller_flush(n.p);
        es_poller_wait(n.p, next);
        es_poller_step(n.p, 64);
        while ((ev = es_evq_peek(n.q)) != NULL) {
            client_event(ev);
            es_session_pop(n.q);
        }
    }
}

#endif
