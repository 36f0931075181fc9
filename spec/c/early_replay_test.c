// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session csrc/transport csrc/sim

// libs: -lpthread

// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls libzstd

/* A client's early flight is recorded and played to the server again, very often: nothing runs twice, and
 * nothing runs early that is not harmless when it does.
 *
 * REPLAYS in the environment says how often; 2,000 by default, 60 under valgrind. Only the flight as it was
 * can be replayed: its packets are sealed with the connection id that they carry, so a replay counts only
 * once the server has forgotten the one before. */
#include <stdlib.h>
#include <string.h>

#include "../../csrc/base/buf.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/session/session.h"
#include "../../csrc/sim/sim.h"
#include "../../csrc/transport/driver.h"
#include "../../csrc/transport/endpoint.h"
#include "test.h"

enum { CLIENT, SERVER };

static struct {
    struct es_sim *sim;
    struct es_poller *poller;
    struct es_evq *q[2];
    struct es_host *host[2];
    struct es_app app[2];
    struct es_endpoint *server, *client;
    struct es_tls *tls[2];
    union es_addr server_addr;
    struct es_buf ticket;
    int safe, unsafe, answers, failures, opened;
    /* the recorder */
    int (*send)(void *ctx, void *sock, const struct es_dgram *v, size_t n);
    int recording, cut; /* cut: what is recorded goes no further */
    struct es_buf flight[16];
    size_t n_flight;
} m;

static int record(void *ctx, void *sock, const struct es_dgram *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!m.recording || !es_addr_equal(v[i].remote, &m.server_addr))
            continue;
        for (size_t at = 0; at < v[i].len && m.n_flight < 16; at += v[i].segment) {
            size_t len = v[i].len - at < v[i].segment ? v[i].len - at : v[i].segment;
            es_buf_put(&m.flight[m.n_flight++], v[i].data + at, len);
        }
        if (m.cut)
            return (int)n;
    }
    return m.send(ctx, sock, v, n);
}

static void on_ticket(void *user, const uint8_t *p, size_t n)
{
    es_buf_clear(&m.ticket);
    es_buf_put(&m.ticket, p, n);
}

static void on_ticket_end(void *user) {}

static void on_request(const struct es_ev_message *e)
{
    if (es_call_admit(e->call) != 0)
        return;
    if (e->method->ref == 1)
        m.safe++;
    else
        m.unsafe++;
    (void)es_call_respond(e->call, ES_CODEC_RAW, (const uint8_t *)"yes", 3, NULL, NULL);
}

static void on_event(struct es_event *ev)
{
    switch (ev->type) {
    case ES_EV_SESSION_OPEN:
        m.opened++;
        break;
    case ES_EV_REQUEST:
        on_request((struct es_ev_message *)ev);
        break;
    case ES_EV_RESPONSE:
        m.answers++;
        break;
    case ES_EV_CALL_FAILED:
        m.failures++;
        break;
    default:
        break;
    }
}

static int turn(void)
{
    struct es_event *ev;
    int n = es_poller_step(m.poller, 64);

    for (int i = 0; i < 2; i++) {
        while ((ev = es_evq_peek(m.q[i])) != NULL) {
            on_event(ev);
            es_session_pop(m.q[i]);
        }
    }
    es_poller_flush(m.poller);
    return n;
}

/* Virtual time goes on by that many milliseconds, or until cond. */
#define RUN(ms, cond)                                                                                        \
    ({                                                                                                       \
        uint64_t until_ = es_poller_now(m.poller) + (uint64_t)(ms)*ES_MILLI;                                 \
        while (!(cond) && es_poller_now(m.poller) < until_ && turn() > 0)                                    \
            ;                                                                                                \
        (cond);                                                                                              \
    })

/* ---- made and unmade ---- */

static void make_host(int i)
{
    struct es_host_config c;

    memset(&c, 0, sizeof c);
    REQUIRE(es_evq_new(&m.q[i]) == 0);
    c.timers = es_poller_timers(m.poller);
    c.events = m.q[i];
    c.rand = m.poller->io.rand;
    c.wall = m.poller->io.wall;
    c.ctx = m.poller->io.ctx;
    c.early_open = 1;
    es_limits_default(&c.limits);
    REQUIRE(es_host_new(&m.host[i], &c) == 0);
    REQUIRE(es_session_app_init(&m.app[i], m.host[i]) == 0);
    REQUIRE(es_host_add(m.host[i], ES_KIND_RPC, "safe", 4, 1, ES_METHOD_IDEMPOTENT, 0) == 0);
    REQUIRE(es_host_add(m.host[i], ES_KIND_RPC, "unsafe", 6, 2, 0, 0) == 0);
}

static void start_server(void)
{
    struct es_endpoint_config c;
    struct es_app *apps[1] = {&m.app[SERVER]};
    char err[256];

    es_endpoint_config_default(&c);
    c.bind = &m.server_addr;
    c.tls = m.tls[SERVER];
    c.apps = apps;
    c.n_apps = 1;
    c.transport.enable_0rtt = 1;
    c.transport.handshake_timeout = 60 * ES_MILLI;
    memset(c.secret, 7, sizeof c.secret); /* the same after a restart */
    REQUIRE(es_endpoint_new(m.poller, &c, &m.server, err, sizeof err) == 0);
}

static void make_tls(void)
{
    static const char *const names[] = {"replay"};
    struct es_tls_config c;
    char *key = NULL, *cert = NULL, err[256];

    REQUIRE(es_key_generate(&key) == 0);
    REQUIRE(es_cert_self_sign(key, names, 1, 10, &cert, err, sizeof err) == 0);
    memset(&c, 0, sizeof c);
    c.is_server = 1;
    c.cert_pem = cert;
    c.key_pem = key;
    REQUIRE(es_tls_new(&m.tls[SERVER], &c, err, sizeof err) == 0);
    memset(&c, 0, sizeof c);
    c.trust = ES_TRUST_SKIP;
    REQUIRE(es_tls_new(&m.tls[CLIENT], &c, err, sizeof err) == 0);
    es_free(key);
    es_free(cert);
}

static void begin(void)
{
    struct es_sim_config sc;
    struct es_endpoint_config c;
    union es_addr addr;
    char err[256];

    memset(&m, 0, sizeof m);
    es_sim_config_default(&sc);
    REQUIRE(es_sim_new(&m.sim, &sc) == 0);
    m.poller = es_sim_poller(m.sim);
    m.send = m.poller->io.send;
    m.poller->io.send = record;
    make_host(CLIENT);
    make_host(SERVER);
    make_tls();
    es_addr_parse(&m.server_addr, "10.0.0.1:5000");
    start_server();
    es_endpoint_config_default(&c);
    es_addr_parse(&addr, "10.0.0.2:0");
    c.bind = &addr;
    REQUIRE(es_endpoint_new(m.poller, &c, &m.client, err, sizeof err) == 0);
}

static void end(void)
{
    es_endpoint_del(m.client);
    es_endpoint_del(m.server);
    for (int i = 0; i < 2; i++) {
        struct es_event *ev;
        while ((ev = es_evq_peek(m.q[i])) != NULL)
            es_session_pop(m.q[i]);
        es_session_app_free(&m.app[i]);
        es_host_unref(m.host[i]);
        es_evq_del(m.q[i]);
        es_tls_unref(m.tls[i]);
    }
    es_buf_free(&m.ticket);
    for (size_t i = 0; i < 16; i++)
        es_buf_free(&m.flight[i]);
    es_sim_del(m.sim);
}

static struct es_session *dial(void)
{
    struct es_connect_config cc;
    struct es_session_dial d;
    struct es_link *link;
    char err[256];

    memset(&cc, 0, sizeof cc);
    memset(&d, 0, sizeof d);
    cc.remote = &m.server_addr;
    cc.tls = m.tls[CLIENT];
    cc.app = &m.app[CLIENT];
    cc.app_arg = &d;
    cc.ticket = m.ticket.p;
    cc.ticket_len = m.ticket.n;
    cc.on_ticket = on_ticket;
    cc.ticket_free = on_ticket_end;
    es_transport_config_default(&cc.transport, 0);
    cc.transport.enable_0rtt = 1;
    if (es_endpoint_connect(m.client, &cc, &link, err, sizeof err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err);
    return d.session;
}

static void request(struct es_session *s, const char *name, int idempotent)
{
    struct es_call_opts o;

    es_call_opts_default(&o);
    o.codec = ES_CODEC_RAW;
    o.idempotent = (uint8_t)idempotent;
    CHECK_INT(es_session_request(s, name, strlen(name), &o, (const uint8_t *)"x", 1, NULL, NULL, NULL, NULL),
              ==, 0);
}

/* A first visit, for the ticket, and then a second one whose early flight is kept in m.flight. */
static struct es_session *visit_and_record(int cut)
{
    struct es_session *s = dial();

    CHECK(RUN(1000, m.ticket.n > 0));
    es_session_close(s, 0, "");
    es_session_unref(s);
    RUN(1000, 0);
    m.opened = 0;
    m.recording = 1;
    m.cut = cut;
    s = dial();
    request(s, "safe", 1);   /* may run early, and goes early */
    request(s, "unsafe", 1); /* the caller says yes, the method does not */
    request(s, "safe", 0);   /* the other way round: does not go early */
    request(s, "unsafe", 0);
    es_poller_flush(m.poller);
    m.recording = 0;
    CHECK_INT(m.n_flight, >=, 1);
    return s;
}

static size_t replays(void)
{
    const char *text = getenv("REPLAYS");

    return text != NULL ? (size_t)strtoull(text, NULL, 10) : getenv("RELAXED") != NULL ? 60 : 2000;
}

static void play(size_t times)
{
    for (size_t i = 0; i < times; i++) {
        union es_addr from;

        es_addr_parse(&from, i % 2 ? "10.0.0.2:40000" : "10.0.0.3:40000");
        from.in4.sin_port = htons((uint16_t)(1024 + i % 60000));
        es_poller_now(m.poller);
        m.poller->busy++; /* as if a step had received them */
        for (size_t k = 0; k < m.n_flight; k++)
            es_endpoint_input(m.server, &m.server_addr, &from, 0, m.flight[k].p, m.flight[k].n);
        m.poller->busy--;
        es_poller_flush(m.poller);
        RUN(1000, es_endpoint_connections(m.server) == 0);
    }
}

static uint64_t accepted(void)
{
    struct es_endpoint_stats st;

    es_endpoint_stats_get(m.server, &st);
    return st.accepted;
}

TEST(a_flight_that_was_answered_runs_nothing_again_however_often_it_comes)
{
    struct es_session *s;
    uint64_t before;
    size_t n = replays();

    begin();
    s = visit_and_record(0);
    CHECK(RUN(1000, m.answers == 4));
    CHECK_INT(m.safe, ==, 2);
    CHECK_INT(m.unsafe, ==, 2);
    es_session_close(s, 0, "");
    es_session_unref(s);
    RUN(2000, es_endpoint_connections(m.server) == 0);
    before = accepted();
    m.opened = 0;
    play(n);
    CHECK_INT(accepted() - before, ==, n); /* each was looked at anew */
    CHECK_INT(m.safe, ==, 2);
    CHECK_INT(m.unsafe, ==, 2);
    CHECK_INT(m.opened, ==, 0);
    /* kill -9, and the same server again: it remembers nothing but its secret and its key. */
    es_endpoint_abandon(m.server);
    start_server();
    play(n);
    CHECK_INT(accepted(), ==, n);
    CHECK_INT(m.safe, ==, 2);
    CHECK_INT(m.unsafe, ==, 2);
    CHECK_INT(m.opened, ==, 0);
    end();
}

TEST(a_flight_that_was_caught_on_its_way_runs_once_and_only_what_may_run_twice)
{
    struct es_session *s;
    size_t n = replays() / 4 + 1;

    begin();
    s = visit_and_record(1); /* its sender never hears of it */
    play(n);
    CHECK_INT(m.safe, ==, 1);
    CHECK_INT(m.unsafe, ==, 0);
    es_endpoint_abandon(m.server);
    start_server();
    play(n);
    CHECK_INT(m.safe, ==, 1);
    CHECK_INT(m.unsafe, ==, 0);
    es_session_unref(s);
    end();
}
