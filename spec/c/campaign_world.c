/* What one seed of the campaign is made of: the network, the hosts and endpoints, the script. */
#include <stdio.h>
#include <string.h>

#include "../../csrc/base/mem.h"
#include "../../csrc/transport/driver.h"
#include "campaign.h"

static struct es_tls *server_tls, *client_tls; /* made once: keys cost more than a seed */

/* ---- the script ---- */

static void on_op(struct es_timer *t)
{
    struct op *op = t->user;

    if (op->done)
        return;
    switch (op->kind) {
    case OP_CALL:
        call_start(op);
        break;
    case OP_CHANNEL:
        chan_start(op);
        break;
    default:
        events_start(op);
        break;
    }
}

static void add_op(struct world *w, struct peer *p, enum op_kind kind, uint64_t span)
{
    struct op *op;

    if (w->n_ops == MAX_OPS)
        return;
    op = &w->ops[w->n_ops];
    op->id = (uint32_t)w->n_ops++;
    op->kind = kind;
    op->peer = p;
    op->start = below(w, span);
    es_timer_init(&op->timer, on_op, op);
    call_timers(op);
    chan_timers(op);
    if (kind == OP_CALL)
        call_draw(w, op);
    else if (kind == OP_CHANNEL)
        chan_draw(w, op);
    else
        events_draw(w, op);
    p->op[p->n_op++] = op;
}

static void draw_script(struct world *w)
{
    static const enum op_kind kinds[10] = {OP_CALL, OP_CALL,   OP_CALL,      OP_CALL,    OP_CALL,
                                           OP_CALL, OP_EVENTS, OP_DATAGRAMS, OP_CHANNEL, OP_CHANNEL};
    uint64_t span = 1 + (uint64_t)below(w, 3) * w->rtt + below(w, 500 * ES_MILLI);
    int i, j;

    for (i = 0; i < w->n_clients; i++) {
        int n = (int)(1 + below(w, w->n_clients == 1 ? 40 : 16));

        if (chance(w, 5))
            n *= 3;
        for (j = 0; j < n; j++)
            add_op(w, chance(w, 60) ? &w->client[i] : &w->accepted[i], kinds[below(w, 10)], span);
    }
}

void start_script(struct peer *p)
{
    int i;

    for (i = 0; i < p->n_op; i++)
        later(p->w, &p->op[i]->timer, p->op[i]->start);
}

/* ---- the network ---- */

static double draw_prob(struct world *w, double max)
{
    return es_sim_rand_unit(&w->r) * max;
}

static uint64_t draw_rtt(struct world *w)
{
    switch (below(w, 8)) {
    case 0:
    case 1:
    case 2:
        return ES_MILLI + below(w, 20 * ES_MILLI);
    case 3:
    case 4:
    case 5:
        return 20 * ES_MILLI + below(w, 200 * ES_MILLI);
    case 6:
        return 200 * ES_MILLI + below(w, 800 * ES_MILLI);
    default:
        return ES_SECOND + below(w, 2 * ES_SECOND);
    }
}

static void draw_network(struct world *w, struct es_sim_config *c)
{
    struct es_sim_path *p = &c->path;
    int kind = (int)below(w, 10);

    es_sim_config_default(c);
    c->seed = w->seed;
    w->rtt = draw_rtt(w);
    p->delay = w->rtt / 2;
    if (kind > 0) { /* one in ten is clean */
        p->loss = chance(w, 70) ? draw_prob(w, kind < 6 ? 0.05 : 0.30) : 0;
        p->burst = chance(w, 25) ? (int)(1 + below(w, 5)) : 1;
        p->duplicate = chance(w, 40) ? draw_prob(w, 0.2) : 0;
        p->reorder = chance(w, 40) ? draw_prob(w, 0.2) : 0;
        p->corrupt = chance(w, 40) ? draw_prob(w, kind < 6 ? 0.02 : 0.10) : 0;
        p->jitter = chance(w, 40) ? below(w, w->rtt / 4 + 1) : 0;
        p->mtu = chance(w, 20) ? 1200 + (size_t)below(w, 300) : 0;
        if (chance(w, 25)) {
            p->rate = 256000 + below(w, chance(w, 50) ? 2000000 : 50000000);
            p->queue = 10 + (size_t)below(w, 100);
        }
    }
    if (p->burst > 1)
        p->loss /= (p->burst + 1) / 2.0;
    w->max_size = chance(w, 30) ? 200 * 1024 : 20 * 1024;
    if (p->loss > 0.15 || w->rtt > ES_SECOND / 2 || (p->rate && p->rate < 1000000))
        w->max_size = chance(w, 10) ? 100 * 1024 : 4 * 1024;
    say(w,
        "network: rtt %.1f ms, jitter %.1f ms, loss %.3f x %d, dup %.3f, reorder %.3f, corrupt %.3f, rate "
        "%llu, "
        "queue %zu, mtu %zu",
        (double)w->rtt / 1e6, (double)p->jitter / 1e6, p->loss, p->burst, p->duplicate, p->reorder,
        p->corrupt, (unsigned long long)p->rate, p->queue, p->mtu);
}

/* What came to the simulator later is drawn from numbers of its own, so that older seeds keep their scripts.
 */
static void draw_more(struct world *w, struct es_sim_config *c)
{
    struct es_sim_path *p = &c->path;

    if (chance_more(w, 15)) {
        p->burst_enter = 0.001 + es_sim_rand_unit(&w->more) * 0.02;
        p->burst_leave = 0.1 + es_sim_rand_unit(&w->more) * 0.4;
        p->burst_loss = 0.5 + es_sim_rand_unit(&w->more) * 0.5;
        w->lossy += p->burst_enter / (p->burst_enter + p->burst_leave);
        w->blackout =
            1; /* a bad time that meets only repetitions that back off lasts for minutes, or for ever */
        w->bursty = 1;
    }
    if (p->rate && chance_more(w, 40)) {
        p->queue_bytes = 15000 + (size_t)es_sim_rand_below(&w->more, 100000);
        p->mark = chance_more(w, 70) ? p->queue_bytes / 2 : 0;
    }
    if (chance_more(w, 30))
        p->corrupt_span = 0;
    if (chance_more(w, 7)) {
        /* Long enough for a probe and its acknowledgement: else every one that passes may find its way back
         * dark. */
        p->on = 2 * ES_SECOND + 6 * w->rtt + es_sim_rand_below(&w->more, 10 * ES_SECOND);
        p->off = es_sim_rand_below(&w->more, p->on / 2);
        w->blackout = 1;
    }
    say(w, "network: bad times %.3f %.3f %.3f, queue %zu bytes, marks from %zu, on %.1f s, off %.1f s",
        p->burst_enter, p->burst_leave, p->burst_loss, p->queue_bytes, p->mark, (double)p->on / 1e9,
        (double)p->off / 1e9);
}

/* One direction may differ: slower, longer, or without faults. */
static int draw_asymmetry(struct world *w, const struct es_sim_config *c)
{
    struct es_sim_path p = c->path;
    int up = chance_more(w, 50);

    if (!chance_more(w, 15))
        return 0;
    if (chance_more(w, 40))
        p.loss = p.corrupt = p.reorder = p.duplicate = p.burst_enter = 0;
    if (chance_more(w, 50))
        p.delay = p.delay / 4 + es_sim_rand_below(&w->more, p.delay + 1);
    if (chance_more(w, 40)) {
        p.rate = 500000 + es_sim_rand_below(&w->more, 20000000);
        p.queue = 30;
    }
    say(w, "%s: loss %.3f, delay %.1f ms, rate %llu", up ? "up" : "down", p.loss, (double)p.delay / 1e6,
        (unsigned long long)p.rate);
    return es_sim_set_path(w->sim, up ? NULL : "10.0.0.1", up ? "10.0.0.1" : NULL, &p);
}

static void draw_transport(struct world *w, struct es_transport_config *t, int server)
{
    es_transport_config_default(t, server);
    if (w->must_survive) { /* long enough that only a fault can end a session */
        t->idle_timeout = IDLE_TIMEOUT;
        t->handshake_timeout = IDLE_TIMEOUT;
    }
    if (chance(w, 20)) {
        t->max_streams_bidi = 2 + below(w, 12);
        w->small_limits = 1;
    }
    if (chance(w, 20))
        t->stream_window = 4096 + below(w, 60000);
    if (chance(w, 15))
        t->connection_window = 16384 + below(w, 200000);
    t->cc = (enum es_cc)below(w, 3);
    t->disable_mtu_discovery = chance(w, 30);
}

/* Another IP address too, as between two networks. */
static void move(struct world *w, struct peer *p)
{
    union es_addr to;
    char text[32];

    snprintf(text, sizeof text, "10.0.%d.%d:0", (int)(1 + es_sim_rand_below(&w->more, 200)),
             (int)(1 + es_sim_rand_below(&w->more, 200)));
    if (es_addr_parse(&to, text) != 0 || es_sim_move(w->sim, p->ep, &to) != 0)
        violation(w, "es_sim_move to %s failed", text);
}

/* A server can reach a silent client behind a new mapping only after the client spoke, so these clients keep
 * their connections alive; and until the handshake is confirmed QUIC needs a stable address (RFC 9000, 9). */
static void on_rebind(struct es_timer *t)
{
    struct world *w = t->user;
    int i = (int)below(w, (uint64_t)w->n_clients);
    struct peer *p = &w->client[i];

    later(w, t, 4 * w->rtt + below(w, 2 * ES_SECOND));
    if (!p->ep || session_is_over(p) || !p->opened || !p->other->opened)
        return;
    if (w->rebinds-- == 0) {
        es_timer_stop(w->timers, t);
        return;
    }
    say(w, "client %d rebinds", i);
    if (chance(w, 50)) {
        if (chance_more(w, 40))
            move(w, p);
        else
            es_sim_rebind(w->sim, p->ep, 0);
    } else if (es_endpoint_rebind(p->ep) != 0)
        violation(w, "es_endpoint_rebind failed");
}

void ask_close(struct peer *p, uint64_t code)
{
    if (p->close_asked || p->closed || !p->session)
        return;
    say(p->w, "%s closes", p->server ? "server" : "client");
    p->close_asked = 1;
    es_session_close(p->session, code, "campaign");
}

static void on_abrupt(struct es_timer *t)
{
    struct world *w = t->user;
    struct peer *p = chance(w, 50) ? &w->client[0] : &w->accepted[0];

    ask_close(p->session ? p : &w->client[0], ES_APP_USER);
}

static void on_drain(struct es_timer *t)
{
    struct world *w = t->user;
    int i = (int)below(w, (uint64_t)w->n_clients);
    struct peer *p = chance(w, 50) ? &w->client[i] : &w->accepted[i];

    if (!p->opened || session_is_over(p))
        return;
    say(w, "%s %d drains", p->server ? "server" : "client", i);
    p->draining = 1;
    if (es_session_goaway(p->session, 10000, 500, "drain") != 0)
        violation(w, "es_session_goaway failed");
}

/* ---- one seed ---- */

static int add_methods(struct world *w, struct es_host *h)
{
    (void)w;
    return es_host_add(h, ES_KIND_RPC, "campaign.call", 13, 1, 0, 0) ||
           es_host_add(h, ES_KIND_RPC, "campaign.idem", 13, 2, ES_METHOD_IDEMPOTENT, 0) ||
           es_host_add(h, ES_KIND_EVENT, "campaign.log", 12, 3, 0, 0) ||
           es_host_add(h, ES_KIND_EVENT, "campaign.wide", 13, 4, 0, WIDE) ||
           es_host_add(h, ES_KIND_EVENT, "campaign.dgram", 14, 5, 0, 0) ||
           es_host_add(h, ES_KIND_STREAM, "campaign.pipe", 13, 6, 0, 0);
}

static int make_host(struct world *w, int server)
{
    struct es_host_config c;

    memset(&c, 0, sizeof c);
    if (es_evq_new(&w->q[server]) != 0)
        return -1;
    c.timers = w->timers;
    c.events = w->q[server];
    c.rand = w->poller->io.rand;
    c.wall = w->poller->io.wall;
    c.ctx = w->poller->io.ctx;
    es_limits_default(&c.limits);
    c.limits.assembly_timeout = IDLE_TIMEOUT; /* peers that dawdle on purpose are elsewhere */
    if (w->small_limits && chance(w, 50)) {
        c.limits.max_calls = (uint32_t)(1 + below(w, 5));
        c.limits.max_named_streams = (uint32_t)(1 + below(w, 5));
    }
    c.hold_until_accept = server && chance(w, 30);
    snprintf(c.agent, sizeof c.agent, "campaign");
    c.packing.compress = chance(w, 30) ? ES_COMPRESS_ON : ES_COMPRESS_UNSAID;
    c.packing.checksum = (uint8_t)chance(w, 20);
    c.packing.level = (uint8_t)below(w, 4);
    c.packing.threshold = (uint32_t)below(w, 2000);
    return es_host_new(&w->host[server], &c) || es_session_app_init(&w->app[server], w->host[server]) ||
           add_methods(w, w->host[server]);
}

static int make_address(union es_addr *a, int host, int port)
{
    char text[32];

    snprintf(text, sizeof text, "10.0.0.%d:%d", host, port);
    return es_addr_parse(a, text);
}

static int make_server(struct world *w)
{
    struct es_endpoint_config c;
    struct es_app *apps[1] = {&w->app[1]};
    union es_addr bind;
    char err[256];

    if (make_address(&bind, 1, 5000) != 0)
        return -1;
    es_endpoint_config_default(&c);
    c.bind = &bind;
    c.tls = server_tls;
    c.apps = apps;
    c.n_apps = 1;
    draw_transport(w, &c.transport, 1);
    if (es_endpoint_new(w->poller, &c, &w->server, err, sizeof err) == 0)
        return 0;
    violation(w, "server: %s", err);
    return -1;
}

static int make_client(struct world *w, int i)
{
    struct peer *p = &w->client[i];
    struct es_endpoint_config c;
    struct es_connect_config cc;
    struct es_session_dial dial;
    struct es_pair_kv kv;
    struct es_link *link;
    union es_addr bind, remote;
    char err[256], me[2] = {(char)('0' + i), 0};

    if (make_address(&bind, 2 + i, 0) != 0 || make_address(&remote, 1, 5000) != 0)
        return -1;
    es_endpoint_config_default(&c);
    c.bind = &bind;
    if (es_endpoint_new(w->poller, &c, &p->ep, err, sizeof err) != 0) {
        violation(w, "client: %s", err);
        return -1;
    }
    memset(&dial, 0, sizeof dial);
    kv.key = "who";
    kv.key_len = 3;
    kv.value = me;
    kv.value_len = 1;
    dial.credentials = &kv;
    dial.n_credentials = 1;
    dial.user = p;
    memset(&cc, 0, sizeof cc);
    cc.remote = &remote;
    cc.tls = client_tls;
    cc.app = &w->app[0];
    cc.app_arg = &dial;
    draw_transport(w, &cc.transport, 0);
    if (w->rebinds)
        cc.transport.keep_alive = ES_SECOND + w->rtt;
    if (es_endpoint_connect(p->ep, &cc, &link, err, sizeof err) != 0) {
        violation(w, "connect: %s", err);
        return -1;
    }
    p->session = dial.session;
    totals.sessions++;
    return 0;
}

static void on_datagram(void *user, const struct es_sim_record *r)
{
    struct world *w = user;
    char a[64], b[64];

    if (r->fate == ES_SIM_DARK) {
        w->dark_at[w->dark++ % DARKS] = r->at;
    }
    if (w->verbose <= 1) {
        return;
    }
    say(w, "    #%llu %s > %s %zu bytes %02x: %s%s%s", (unsigned long long)r->number,
        es_addr_format(r->from, a, sizeof a), es_addr_format(r->to, b, sizeof b), r->len,
        r->len ? r->data[0] : 0, es_sim_fate_name(r->fate), r->corrupted ? ", corrupted" : "",
        r->marked ? ", marked" : "");
}

/* Probes, whose intervals double, may all meet a path that comes and goes when it is gone, or their answers
 * do. They were tried, though. */
int every_probe_met_the_dark(const struct world *w)
{
    return w->dark >= DARKS && now_of(w) - w->dark_at[w->dark % DARKS] <= IDLE_TIMEOUT;
}

int world_make(struct world *w)
{
    struct es_sim_config c;
    int i;

    es_sim_rand_seed(&w->r, w->seed, 7);
    es_sim_rand_seed(&w->more, w->seed, 8);
    w->must_survive = chance(w, 60);
    w->abrupt = chance(w, 12);
    draw_network(w, &c);
    if (chance(w, 20))
        w->rebinds = (int)(1 + below(w, chance(w, 20) ? 60 : 6));
    w->rebinds_drawn = w->rebinds;
    w->lossy = c.path.loss * (c.path.burst + 1) / 2 + c.path.corrupt;
    draw_more(w, &c);
    if (w->rtt > ES_SECOND / 2 && c.path.loss + c.path.corrupt > 0.25)
        w->must_survive = 0; /* repetitions back off to minutes: the wait for HELLO ends before them */
    if (w->rebinds && (c.path.loss > 0.05 || c.path.corrupt > 0.02))
        w->must_survive = 0; /* a path that cannot be validated in time ends the connection */
    if (es_sim_new(&w->sim, &c) != 0 || draw_asymmetry(w, &c) != 0)
        return -1;
    es_sim_trace(w->sim, on_datagram, w);
    w->poller = es_sim_poller(w->sim);
    w->timers = es_poller_timers(w->poller);
    w->n_clients = chance(w, 25) ? 1 + (int)below(w, MAX_CLIENTS) : 1;
    for (i = 0; i < w->n_clients; i++) {
        w->client[i].w = w->accepted[i].w = w;
        w->accepted[i].server = 1;
        w->client[i].other = &w->accepted[i];
        w->accepted[i].other = &w->client[i];
    }
    es_list_init(&w->late_events);
    w->small_limits = chance(w, 15);
    if (make_host(w, 0) != 0 || make_host(w, 1) != 0 || make_server(w) != 0)
        return -1;
    for (i = 0; i < w->n_clients; i++) {
        if (make_client(w, i) != 0)
            return -1;
    }
    draw_script(w);
    es_timer_init(&w->rebind_timer, on_rebind, w);
    es_timer_init(&w->abrupt_timer, on_abrupt, w);
    es_timer_init(&w->drain_timer, on_drain, w);
    if (chance(w, 15))
        later(w, &w->drain_timer, w->rtt + below(w, 4 * w->rtt + ES_SECOND));
    if (chance(w, 12)) {
        uint64_t from = now_of(w) + below(w, 4 * w->rtt + ES_SECOND);

        w->blackout = 1;
        es_sim_blackout(w->sim, from, from + below(w, 40 * ES_SECOND));
    }
    if (w->rebinds)
        later(w, &w->rebind_timer, 2 * w->rtt + below(w, 2 * ES_SECOND));
    if (w->abrupt)
        later(w, &w->abrupt_timer, below(w, 4 * w->rtt + ES_SECOND));
    return 0;
}

void world_close(struct world *w)
{
    int i;

    for (i = 0; i < w->n_clients; i++) {
        es_endpoint_del(w->client[i].ep);
        w->client[i].ep = NULL;
    }
    es_endpoint_del(w->server);
    w->server = NULL;
}

void world_free(struct world *w)
{
    struct es_sim_stats st;
    int i;

    for (i = 0; i < w->n_clients; i++) {
        es_session_unref(w->client[i].session);
        es_session_unref(w->accepted[i].session);
    }
    for (i = 0; i < 2; i++) {
        if (w->app[i].alpn)
            es_session_app_free(&w->app[i]);
        if (w->host[i])
            es_host_unref(w->host[i]);
        es_evq_del(w->q[i]);
    }
    if (w->sim) {
        es_sim_stats_get(w->sim, &st);
        totals.packets += st.sent;
        totals.virtual_ms += now_of(w) / ES_MILLI;
        es_sim_del(w->sim);
    }
}

int campaign_credentials(void)
{
    static const char *const names[] = {"campaign"};
    struct es_tls_config c;
    char *key = NULL, *cert = NULL, err[256] = "";
    uint8_t spki[1][32], der[32];

    if (es_key_generate(&key) != 0 || es_cert_self_sign(key, names, 1, 10, &cert, err, sizeof err) != 0)
        goto fail;
    memset(&c, 0, sizeof c);
    c.is_server = 1;
    c.cert_pem = cert;
    c.key_pem = key;
    if (es_tls_new(&server_tls, &c, err, sizeof err) != 0 || es_tls_pin(server_tls, spki[0], der) != 0)
        goto fail;
    memset(&c, 0, sizeof c);
    c.trust = ES_TRUST_PIN;
    c.pins = (const uint8_t(*)[32])spki;
    c.n_pins = 1;
    if (es_tls_new(&client_tls, &c, err, sizeof err) != 0)
        goto fail;
    es_free(key);
    es_free(cert);
    return 0;
fail:
    fprintf(stderr, "sim_campaign: no credentials: %s\n", err);
    es_free(key);
    es_free(cert);
    return -1;
}

void campaign_credentials_free(void)
{
    es_tls_unref(server_tls);
    es_tls_unref(client_tls);
}
