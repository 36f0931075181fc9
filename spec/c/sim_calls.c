// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session csrc/transport csrc/sim

// needs: spec/c/campaign_random.c

// libs: -lpthread

// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls libzstd

/* Very many small calls on one session over a lossy simulated network, with a ledger of what ran.
 *
 *   sim_calls [CALLS [LOSS [SEED]]]        default: 100,000 calls, 0.05
 *
 * Each call carries its number and a payload made of it; the handler notes that it ran and answers with
 * another payload made of the number. At the end: every call ended once and well, every handler ran exactly
 * once, no byte was wrong, nothing is left. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/base/clock.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/session/session.h"
#include "../../csrc/sim/sim.h"
#include "../../csrc/transport/driver.h"
#include "../../csrc/transport/endpoint.h"
#include "campaign.h"

#define AT_ONCE 64

enum { RAN = 1, ENDED = 2 };

static struct {
    uint8_t *ledger; /* owned: one byte of marks for each call */
    uint64_t total, started, ended, wrong;
    struct es_sim *sim;
    struct es_poller *poller;
    struct es_evq *q[2];
    struct es_host *host[2];
    struct es_app app[2];
    struct es_endpoint *server, *client;
    struct es_tls *tls[2];
    struct es_session *session;
    int open, closed;
} m;

static void wrong(const char *what, uint64_t n)
{
    if (m.wrong++ < 20)
        fprintf(stderr, "call %llu: %s\n", (unsigned long long)n, what);
}

/* 12 to 211 bytes that follow from the number and the direction. */
static size_t payload_of(uint64_t n, int answer, uint8_t out[256])
{
    uint64_t x = n * 2 + (uint64_t)answer, word = 0;
    size_t len = 12 + es_sim_splitmix(&x) % 200, i;

    memcpy(out, &n, 8);
    for (i = 8; i < len; i++) {
        if (i % 8 == 0)
            word = es_sim_splitmix(&x);
        out[i] = (uint8_t)(word >> (8 * (i % 8)));
    }
    return len;
}

static uint64_t number_of(const struct es_ev_message *e)
{
    uint64_t n = UINT64_MAX;

    if (e->payload_len >= 8)
        memcpy(&n, e->data + e->metadata_len, 8);
    return n;
}

static int is_payload(const struct es_ev_message *e, uint64_t n, int answer)
{
    uint8_t want[256];
    size_t len = payload_of(n, answer, want);

    return e->payload_len == len && memcmp(e->data + e->metadata_len, want, len) == 0;
}

static void start_one(void)
{
    struct es_call_opts o;
    struct es_call *c;
    uint8_t b[256];
    uint64_t n = m.started;
    size_t len = payload_of(n, 0, b);

    es_call_opts_default(&o);
    o.deadline = ES_NEVER;
    o.codec = ES_CODEC_RAW;
    if (es_session_request(m.session, "ledger", 6, &o, b, len, NULL, NULL, (void *)(uintptr_t)(n + 1), &c) !=
        0)
        wrong("could not be started", n);
    m.started++;
}

static void on_request(const struct es_ev_message *e)
{
    uint64_t n = number_of(e);
    uint8_t b[256];
    size_t len;

    if (n >= m.started || !is_payload(e, n, 0)) {
        wrong("a request with wrong bytes", n);
        return;
    }
    if (es_call_admit(e->call) != 0) {
        wrong("was not admitted", n);
        return;
    }
    if (m.ledger[n] & RAN)
        wrong("ran twice", n);
    m.ledger[n] |= RAN;
    len = payload_of(n, 1, b);
    if (es_call_respond(e->call, ES_CODEC_RAW, b, len, NULL, NULL) != 0)
        wrong("could not be answered", n);
}

static void on_end(void *user, const struct es_ev_message *response)
{
    uint64_t n = (uint64_t)(uintptr_t)user - 1;

    if (n >= m.started || m.ledger[n] & ENDED) {
        wrong("ended twice", n);
        return;
    }
    m.ledger[n] |= ENDED;
    m.ended++;
    if (!response)
        wrong("failed", n);
    else if (!is_payload(response, n, 1))
        wrong("a response with wrong bytes", n);
    if (m.started < m.total)
        start_one();
}

static void on_event(struct es_event *ev)
{
    switch (ev->type) {
    case ES_EV_SESSION_OPEN:
        if (ev->owner == m.session) {
            m.open = 1;
            while (m.started < m.total && m.started < AT_ONCE)
                start_one();
        }
        break;
    case ES_EV_SESSION_CLOSED:
        m.closed++;
        if (m.ended < m.total)
            fprintf(stderr, "the session was closed: %s\n", ((struct es_ev_closed *)ev)->info.reason);
        break;
    case ES_EV_REQUEST:
        on_request((struct es_ev_message *)ev);
        break;
    case ES_EV_RESPONSE:
        on_end(((struct es_ev_message *)ev)->user, (struct es_ev_message *)ev);
        break;
    case ES_EV_CALL_FAILED:
        on_end(((struct es_ev_failed *)ev)->user, NULL);
        break;
    default:
        break;
    }
}

static int turn(void)
{
    struct es_event *ev;
    int n = es_poller_step(m.poller, 64), i;

    for (i = 0; i < 2; i++) {
        while ((ev = es_evq_peek(m.q[i])) != NULL) {
            on_event(ev);
            es_session_pop(m.q[i]);
        }
    }
    es_poller_flush(m.poller);
    return n > 0;
}

/* ---- made and unmade ---- */

static int make_tls(char *err, size_t n)
{
    static const char *const names[] = {"ledger"};
    struct es_tls_config c;
    char *key = NULL, *cert = NULL;
    int rc = es_key_generate(&key);

    if (rc == 0)
        rc = es_cert_self_sign(key, names, 1, 10, &cert, err, n);
    memset(&c, 0, sizeof c);
    c.is_server = 1;
    c.cert_pem = cert;
    c.key_pem = key;
    if (rc == 0)
        rc = es_tls_new(&m.tls[1], &c, err, n);
    memset(&c, 0, sizeof c);
    c.trust = ES_TRUST_SKIP;
    if (rc == 0)
        rc = es_tls_new(&m.tls[0], &c, err, n);
    es_free(key);
    es_free(cert);
    return rc;
}

static int make_host(int i)
{
    struct es_host_config c;

    memset(&c, 0, sizeof c);
    if (es_evq_new(&m.q[i]) != 0)
        return -1;
    c.timers = es_poller_timers(m.poller);
    c.events = m.q[i];
    c.rand = m.poller->io.rand;
    c.wall = m.poller->io.wall;
    c.ctx = m.poller->io.ctx;
    es_limits_default(&c.limits);
    return es_host_new(&m.host[i], &c) || es_session_app_init(&m.app[i], m.host[i]) ||
           es_host_add(m.host[i], ES_KIND_RPC, "ledger", 6, 1, 0, 0);
}

static int make_session(char *err, size_t n)
{
    struct es_endpoint_config c;
    struct es_connect_config cc;
    struct es_session_dial dial;
    struct es_app *apps[1] = {&m.app[1]};
    struct es_link *link;
    union es_addr server, client;
    int rc;

    es_addr_parse(&server, "10.0.0.1:5000");
    es_addr_parse(&client, "10.0.0.2:0");
    es_endpoint_config_default(&c);
    c.bind = &server;
    c.tls = m.tls[1];
    c.apps = apps;
    c.n_apps = 1;
    rc = es_endpoint_new(m.poller, &c, &m.server, err, n);
    es_endpoint_config_default(&c);
    c.bind = &client;
    if (rc == 0)
        rc = es_endpoint_new(m.poller, &c, &m.client, err, n);
    memset(&cc, 0, sizeof cc);
    memset(&dial, 0, sizeof dial);
    cc.remote = &server;
    cc.tls = m.tls[0];
    cc.app = &m.app[0];
    cc.app_arg = &dial;
    es_transport_config_default(&cc.transport, 0);
    if (rc == 0)
        rc = es_endpoint_connect(m.client, &cc, &link, err, n);
    m.session = dial.session;
    return rc;
}

static int make(double loss, uint64_t seed)
{
    struct es_sim_config c;
    char err[256] = "";

    es_sim_config_default(&c);
    c.seed = seed;
    c.path.loss = loss;
    c.path.duplicate = loss / 5;
    c.path.reorder = loss / 5;
    c.path.delay = 10 * ES_MILLI;
    campaign_random_seed(seed);
    if (es_sim_new(&m.sim, &c) != 0)
        return -1;
    m.poller = es_sim_poller(m.sim);
    if (make_tls(err, sizeof err) == 0 && make_host(0) == 0 && make_host(1) == 0 &&
        make_session(err, sizeof err) == 0)
        return 0;
    fprintf(stderr, "sim_calls: %s\n", err);
    return -1;
}

static void unmake(void)
{
    int i;

    es_session_close(m.session, ES_APP_NONE, "");
    while (m.closed < 2 && turn()) {
    }
    es_endpoint_del(m.client);
    es_endpoint_del(m.server);
    turn();
    es_session_unref(m.session);
    for (i = 0; i < 2; i++) {
        es_session_app_free(&m.app[i]);
        es_host_unref(m.host[i]);
        es_evq_del(m.q[i]);
        es_tls_unref(m.tls[i]);
    }
    es_sim_del(m.sim);
}

int main(int argc, char **argv)
{
    double loss = argc > 2 ? atof(argv[2]) : 0.05, secs;
    struct es_mem_stats before, after;
    struct es_sim_stats st;
    uint64_t lost = 0, n, t0 = es_clock_monotonic(), virtual_end;

    es_mem_stats(&before);
    m.total = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    m.ledger = calloc(m.total + 1, 1);
    if (!m.ledger || make(loss, argc > 3 ? strtoull(argv[3], NULL, 10) : 1) != 0)
        return 2;
    while (m.ended < m.total && m.closed == 0 && turn()) {
    }
    virtual_end = es_poller_now(m.poller);
    es_sim_stats_get(m.sim, &st);
    unmake();
    for (n = 0; n < m.total; n++)
        lost += m.ledger[n] != (RAN | ENDED);
    free(m.ledger);
    es_mem_stats(&after);
    if (after.in_use != before.in_use)
        wrong("bytes are left", after.in_use - before.in_use);
    secs = (double)(es_clock_monotonic() - t0) / 1e9;
    printf("%llu calls at %.1f %% loss: %llu not run and ended exactly once, %llu faults; %llu datagrams, "
           "%llu lost; "
           "%.0f s of virtual time in %.1f s\n",
           (unsigned long long)m.total, 100 * loss, (unsigned long long)lost, (unsigned long long)m.wrong,
           (unsigned long long)st.sent, (unsigned long long)st.lost, (double)virtual_end / 1e9, secs);
    printf("%d passed, %d failed\n", lost == 0 && m.wrong == 0, lost != 0 || m.wrong != 0);
    return lost != 0 || m.wrong != 0;
}
