// needs: csrc/base csrc/transport csrc/http3 spec/c/hostile.c spec/c/hostile_edit.c
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls libnghttp3
//
// RELIABILITY T6 and H4 with HTTP/3, over QUIC: peers that complete an honest handshake and then break the
// rules of HTTP/3, each row of h3_rows.h on a connection of its own. No handler runs, what is not closed goes
// on to serve the same client, and a fresh client is served after each.
#include <unistd.h>
#include "greeting.h"
#include "h3_play.h"
#include "hostile_world.h"

struct site { /* a server of HTTP/3 that says 200 to everything */
    struct world w;
    struct es_evq *q;
    struct es_h3_config cfg;
    struct es_app app, raw_app;
    struct es_endpoint *server;
    int requests;
};

static int raw_attach(struct es_app *app, struct es_link *link, void *arg)
{
    struct raw *r = arg;

    (void)app;
    r->link = link;
    es_link_attach(link, &raw_events, r);
    return 0;
}

static int site_open(struct site *t)
{
    struct es_endpoint_config cfg;
    struct es_app *apps[1] = {&t->app};
    union es_addr addr;
    int rv;

    memset(t, 0, sizeof *t);
    if ((rv = world_open(&t->w)) != 0 || (rv = es_evq_new(&t->q)) != 0) {
        return rv;
    }
    t->cfg.events = t->q;
    t->cfg.timers = es_poller_timers(t->w.r.p);
    es_h3_limits_default(&t->cfg.limits);
    es_h3_app_init(&t->app, &t->cfg);
    t->raw_app.alpn = "h3";
    t->raw_app.attach = raw_attach;
    es_endpoint_config_default(&cfg);
    es_addr_parse(&addr, "127.0.0.1:0");
    cfg.bind = &addr;
    cfg.tls = t->w.r.server_tls;
    cfg.apps = apps;
    cfg.n_apps = 1;
    cfg.transport = t->w.o.server;
    return es_endpoint_new(t->w.r.p, &cfg, &t->server, t->w.r.err, sizeof t->w.r.err);
}

static void site_close(struct site *t)
{
    es_endpoint_del(t->server);
    while (es_evq_peek(t->q) != NULL) {
        es_h3_drop(es_evq_peek(t->q));
        es_h3_pop(t->q);
    }
    rig_close(&t->w.r);
    es_evq_del(t->q);
}

static void serve(struct site *t)
{
    struct es_event *ev;

    turns(&t->w);
    while ((ev = es_evq_peek(t->q)) != NULL) {
        unsigned bits = es_h3_take(ev);

        if (ev->type == ES_H3_EVENT_EXCHANGE && (bits & ES_EX_REQUEST) != 0) {
            struct es_exchange *x = ev->owner;

            t->requests++;
            (void)es_exchange_respond(x, 200, NULL, 0, 1);
            es_exchange_release(x);
        }
        es_h3_pop(t->q);
    }
}

/* As WAIT, with the server's queue. */
#define AWAIT(t, seconds, cond)                                                                              \
    ({                                                                                                       \
        uint64_t until_ = es_poller_now((t)->w.r.p) + (uint64_t)((seconds) * (t)->w.slack * 1e9);            \
        while (!(cond) && es_poller_now((t)->w.r.p) < until_) {                                              \
            serve(t);                                                                                        \
        }                                                                                                    \
        (cond);                                                                                              \
    })

static int is_open(struct raw *r)
{
    return r->established || r->closed;
}

static int dial(struct site *t, struct raw *r)
{
    struct es_connect_config cc;
    struct es_link *link;
    union es_addr addr;

    memset(r, 0, sizeof *r);
    es_endpoint_address(t->server, &addr);
    memset(&cc, 0, sizeof cc);
    cc.remote = &addr;
    cc.tls = t->w.r.client_tls;
    cc.app = &t->raw_app;
    cc.app_arg = r;
    cc.transport = t->w.o.client;
    if (es_endpoint_connect(t->w.r.client, &cc, &link, t->w.r.err, sizeof t->w.r.err) != 0) {
        return -1;
    }
    return AWAIT(t, 5, is_open(r)) && !r->closed ? 0 : -1;
}

/* A request in order on this connection. */
static int is_served(struct site *t, struct raw *r)
{
    const char *text = "B! 01[" GET "]";

    r->n_got = 0;
    (void)h3_say(r, &text);
    return AWAIT(t, 5, r->n_got > 0 || r->closed) && !r->closed;
}

static void leave(struct site *t, struct raw *r)
{
    if (!r->closed) {
        es_link_close(r->link, 1, ES_H3_NO_ERROR, "");
    }
    CHECK(AWAIT(t, 5, r->closed));
}

/* Another client: handshake and one request, in ns. 0: not served. */
static uint64_t fresh(struct site *t)
{
    uint64_t began = es_poller_now(t->w.r.p), took = 0;
    const char *control = "A 00 04 00";
    struct raw r;

    if (dial(t, &r) == 0 && h3_say(&r, &control) && is_served(t, &r)) {
        took = es_poller_now(t->w.r.p) - began;
    }
    leave(t, &r);
    return took;
}

static void and_then_others_are_served(struct site *t, const char *after)
{
    uint64_t took = UINT64_MAX;

    for (int i = 0; i < 3 && took != 0 && (double)took > 100e6 * t->w.slack; i++) {
        took = fresh(t);
    }
    if (took == 0 || (double)took > 100e6 * t->w.slack) {
        test_fail(__FILE__, __LINE__, "after \"%s\" an honest client waits %.1f ms", after,
                  (double)took / 1e6);
    }
}

static void play(struct site *t, const struct h3_row *r, int first)
{
    const char *text = r->say, *control = "A 00 04 00";
    struct raw c;
    int before;

    if (dial(t, &c) != 0) {
        test_fail(__FILE__, __LINE__, "\"%s\": no handshake", r->name);
        return;
    }
    before = t->requests;
    if (*text != 'A') {
        (void)h3_say(&c, &control);
    }
    while (!c.closed && h3_say(&c, &text)) {
        struct es_link_stream *s = c.stream;

        (void)AWAIT(t, 5, c.closed || c.stream != s || es_link_queued(s) == 0);
        if (c.pending_reset != NULL && !c.closed) {
            es_link_reset(c.pending_reset, 0);
            c.pending_reset = NULL;
        }
    }
    if (r->closed != 0) {
        CHECK(AWAIT(t, 5, c.closed));
        CHECK_INT(c.info.app, ==, 1);
        CHECK_INT(c.info.code, ==, r->closed);
    } else if (r->reset != 0) {
        CHECK(AWAIT(t, 5, c.resets == 1 || c.closed));
        CHECK_INT(c.reset_code, ==, r->reset);
    }
    CHECK_INT(t->requests - before, ==, r->told);
    if (r->closed == 0 && !is_served(t, &c)) {
        test_fail(__FILE__, __LINE__, "\"%s\": the connection is of no use any more", r->name);
    }
    leave(t, &c);
    if (first) {
        and_then_others_are_served(t, r->name);
    }
}

static void play_all(struct site *t, const struct h3_row *rows, size_t n, int first)
{
    const char *word = getenv("HOSTILE_CASE");

    for (size_t i = 0; i < n; i++) {
        int before = test_failures;

        if (word == NULL || strstr(rows[i].name, word) != NULL) {
            play(t, &rows[i], first);
        }
        if (test_failures != before) {
            printf("    row: %s\n", rows[i].name);
        }
    }
}

static struct held settled_site(struct site *t)
{
    struct es_mem_stats m;

    CHECK(
        AWAIT(t, 5, es_endpoint_connections(t->server) == 0 && es_endpoint_connections(t->w.r.client) == 0));
    es_mem_stats(&m);
    return (struct held){m.allocs - m.frees, m.in_use, open_fds()};
}

/* Round after round; what is held after the second and after the last one must be the same. */
TEST(what_breaks_the_rules_of_http3_is_told_so_and_harms_nobody)
{
    struct site t;
    struct held second = {0}, last;
    int rounds;

    REQUIRE(site_open(&t) == 0);
    rounds = getenv("HOSTILE_ROUNDS") != NULL ? atoi(getenv("HOSTILE_ROUNDS"))
             : getenv("HOSTILE_FULL") != NULL ? ROUNDS
                                              : 3;
    for (int round = 1; round <= rounds && test_failures == 0; round++) {
        play_all(&t, h3_frame_rows, N_ROWS(h3_frame_rows), round == 1);
        play_all(&t, h3_qpack_rows, N_ROWS(h3_qpack_rows), round == 1);
        play_all(&t, h3_message_rows, N_ROWS(h3_message_rows), round == 1);
        if (round == 2) {
            second = settled_site(&t);
        }
    }
    if (rounds > 2 && test_failures == 0) {
        last = settled_site(&t);
        CHECK_INT(last.blocks, ==, second.blocks);
        CHECK_INT(last.bytes, <=, second.bytes + HELD_SLACK);
        CHECK_INT(last.fds, ==, second.fds);
    }
    site_close(&t);
}

/* ---- greetings ---- */

static int udp_socket(struct sockaddr_in *out)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

    bind(fd, (struct sockaddr *)&a, sizeof a);
    getsockname(fd, (struct sockaddr *)&a, &n);
    *out = a;
    return fd;
}

/* Speaks with the site until it is closed, dead or complete. */
static void converse(struct site *t, struct greeting *g)
{
    uint8_t buf[2048];
    union es_addr addr;
    int fd = udp_socket(&g->local);
    ssize_t n;
    size_t len;

    es_endpoint_address(t->server, &addr);
    g->remote = addr.in4;
    if (greeting_start(g, NGTCP2_PROTO_VER_V1) != 0) {
        test_fail(__FILE__, __LINE__, "no greeting");
        close(fd);
        return;
    }
    for (int i = 0; i < 10000 && !g->closed && !g->died && !g->complete; i++) {
        while ((len = greeting_packet(g, buf, 1200)) > 0) {
            (void)!sendto(fd, buf, len, 0, &addr.sa, sizeof addr.in4);
        }
        serve(t);
        while ((n = recv(fd, buf, sizeof buf, 0)) > 0) {
            greeting_read(g, buf, (size_t)n);
        }
    }
    close(fd);
}

TEST(only_who_asks_for_h3_by_that_name_gets_it)
{
    static const struct {
        const char *alpn, *server_name;
        uint64_t code; /* 0: it is served */
    } cases[] = {
        {"h3", NULL, 0}, /* names choose among certificates: none, or another one, is no reason to refuse */
        {"h3", "elsewhere.example", 0},
        {"h3-29", NULL, 0x178}, /* no_application_protocol */
        {"h2", NULL, 0x178},
        {"http/1.1", NULL, 0x178},
        {"H3", NULL, 0x178},
        {"h3 ", NULL, 0x178},
    };
    struct site t;

    REQUIRE(site_open(&t) == 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct greeting g = {.alpn = cases[i].alpn, .server_name = cases[i].server_name};

        converse(&t, &g);
        if (g.complete != (cases[i].code == 0) || (!g.complete && (g.app || g.code != cases[i].code))) {
            test_fail(__FILE__, __LINE__, "%s: closed %d, code %#llx", cases[i].alpn, g.closed,
                      (unsigned long long)g.code);
        }
        greeting_end(&g);
        and_then_others_are_served(&t, cases[i].alpn);
    }
    site_close(&t);
}
