// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// What the machine does to us: memory that cannot be had, sockets that are full, peers that are gone.
#include <unistd.h>
#include "test.h"
#include "transport_support.h"

/* ---- a socket that is full now and then ---- */

static int (*real_send)(void *ctx, void *sock, const struct es_dgram *v, size_t n);
static unsigned full_every, sends, fulls;
static int must_wait;

static int moody_send(void *ctx, void *sock, const struct es_dgram *v, size_t n)
{
    if (full_every != 0 && ++sends % full_every == 0) {
        fulls++;
        must_wait = 1;
        return 0;
    }
    return real_send(ctx, sock, v, n);
}

static void swallow(struct side *s, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    uint64_t *bad = s->user;

    for (size_t i = 0; i < n; i++) {
        *bad += p[i] != (uint8_t)((s->received - n + i) / 1000);
    }
    es_link_credit(st, n);
}

TEST(a_full_socket_delays_and_loses_nothing)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    static uint8_t data[3000000];
    uint64_t bad = 0;

    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i / 1000);
    }
    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    real_send = r.p->io.send;
    r.p->io.send = moody_send;
    full_every = 5;
    sends = fulls = 0;
    c = rig_dial(&r, &o);
    UNTIL(&r, 10, ({
        es_endpoint_writable(r.client);
        es_endpoint_writable(r.server);
        c->established &&r.n_s == 1;
    }));
    REQUIRE(c->established && r.n_s == 1);
    r.s[0].on_data = swallow;
    r.s[0].user = &bad;
    REQUIRE(es_link_open(c->link, ES_DIR_UNI, c, &st) == 0);
    es_link_write(st, data, sizeof data, 1);
    UNTIL(&r, 20, ({
        es_endpoint_writable(r.client);
        es_endpoint_writable(r.server);
        r.s[0].fins == 1;
    }));
    CHECK_INT(r.s[0].received, ==, sizeof data);
    CHECK_INT(bad, ==, 0);
    CHECK_INT(fulls, >, 10);
    full_every = 0;
    es_endpoint_writable(r.client);
    es_endpoint_writable(r.server);
    rig_close(&r);
}

TEST(while_the_socket_is_full_nothing_spins_and_deletion_works)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    static uint8_t data[300000];

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    CHECK(UNTIL(&r, 5, c->established && r.n_s == 1));
    UNTIL(&r, 0.1, 0);
    real_send = r.p->io.send;
    r.p->io.send = moody_send;
    full_every = 1;
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
    es_link_write(st, data, sizeof data, 1);
    int turns = 0;
    UNTIL(&r, 0.3, (turns++, 0));
    CHECK_INT(turns, <, (int)(100 * patience()));
    rig_close(&r);
    CHECK_INT(c->closed, ==, 1);
    CHECK_INT(r.s[0].closed, ==, 1);
}

/* ---- somebody else's port is closed ---- */

TEST(a_port_that_closes_is_not_felt_by_other_connections_of_the_socket)
{
    struct rig a, b;
    struct rig_options o;
    struct side *c, *d;
    struct es_link_stream *st;
    struct es_connect_config cc;
    union es_addr addr;

    rig_options(&o);
    REQUIRE(rig_open(&a, &o) == 0);
    REQUIRE(rig_open(&b, &o) == 0); /* only its server, which runs on no poller of ours and then goes */
    c = rig_dial(&a, &o);
    CHECK(UNTIL(&a, 5, c->established && a.n_s == 1));
    es_endpoint_address(b.server, &addr);
    es_endpoint_del(b.server);
    b.server = NULL;
    d = &a.c[a.n_c++];
    memset(&cc, 0, sizeof cc);
    cc.remote = &addr;
    cc.tls = a.client_tls;
    cc.app = &a.client_app;
    cc.app_arg = d;
    cc.transport = o.client;
    cc.transport.handshake_timeout = 500 * ES_MILLI;
    REQUIRE(es_endpoint_connect(a.client, &cc, &d->link, a.err, sizeof a.err) == 0);
    for (int i = 0; i < 20; i++) {
        uint64_t before = c->received;
        REQUIRE(es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0);
        es_link_write(st, "ping", 4, 1);
        CHECK(UNTIL(&a, 2, c->received == before + 4));
        UNTIL(&a, 0.02, 0);
    }
    CHECK(UNTIL(&a, 3, d->closed));
    CHECK_INT(c->closed, ==, 0);
    rig_close(&a);
    rig_close(&b);
}

/* ---- memory ---- */

static void echo_once(struct rig *r, struct rig_options *o)
{
    struct side *c = rig_dial(r, o);
    struct es_link_stream *st, *st2;
    static const char big[9000];

    if (c == NULL) {
        return;
    }
    UNTIL(r, 0.25, c->established || c->closed);
    if (c->closed || es_link_open(c->link, ES_DIR_BIDI, c, &st) != 0) {
        return;
    }
    es_link_write(st, big, sizeof big, 1);
    es_link_datagram(c->link, "x", 1);
    if (es_link_open(c->link, ES_DIR_UNI, c, &st2) == 0) {
        es_link_write(st2, "y", 1, 1);
    }
    UNTIL(r, 0.25, c->closed || c->received >= sizeof big);
    if (c->link != NULL) {
        es_link_close(c->link, 1, 0, "done");
    }
    UNTIL(r, 0.25, c->closed);
}

TEST(the_nth_allocation_may_fail_wherever_it_is)
{
    struct rig_options o;
    struct es_mem_stats a, b;
    struct rig r;
    uint64_t total;

    rig_options(&o);
    o.client.handshake_timeout = 200 * ES_MILLI;
    REQUIRE(rig_open(&r, &o) == 0);
    es_mem_stats(&a);
    echo_once(&r, &o);
    es_mem_stats(&b);
    total = b.allocs - a.allocs;
    rig_close(&r);
    CHECK_INT(total, >, 50);
    for (uint64_t n = 1; n <= total + 5; n++) {
        es_mem_stats(&a);
        REQUIRE(rig_open(&r, &o) == 0);
        es_mem_fail_nth(n);
        echo_once(&r, &o);
        es_mem_fail_nth(0);
        rig_close(&r);
        es_mem_stats(&b);
        CHECK_INT(b.in_use, ==, a.in_use);
    }
    for (uint64_t n = 1; n < 12; n++) { /* and while the endpoint is made */
        es_mem_stats(&a);
        es_mem_fail_nth(n);
        (void)rig_open(&r, &o);
        es_mem_fail_nth(0);
        if (r.client == NULL || r.server == NULL) {
            es_endpoint_del(r.client);
            r.client = NULL;
            es_endpoint_del(r.server);
            r.server = NULL;
        }
        rig_close(&r);
        es_mem_stats(&b);
        CHECK_INT(b.in_use, ==, a.in_use);
    }
}

/* ---- more datagrams than a step may take ---- */

TEST(a_step_takes_no_more_datagrams_than_its_budget_empty_ones_included)
{
    static const size_t sizes[] = {0, 1, 30};
    struct es_endpoint_stats st;
    struct rig_options o;
    union es_addr addr;
    struct rig r;
    int fd;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    es_endpoint_address(r.server, &addr);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    REQUIRE(fd >= 0 && connect(fd, &addr.sa, es_addr_len(&addr)) == 0);
    for (size_t k = 0; k < 3; k++) {
        uint64_t before, seen, steps = 0;
        es_endpoint_stats_get(r.server, &st);
        before = seen = st.datagrams_in;
        for (int i = 0; i < 100; i++) {
            CHECK_INT(send(fd, "Abcdefghijklmnopqrstuvwxyz0123", sizes[k], 0), ==, sizes[k]);
        }
        while (seen < before + 100 && steps < 100) {
            es_poller_step(r.p, 10);
            es_poller_flush(r.p);
            es_endpoint_stats_get(r.server, &st);
            CHECK_INT(st.datagrams_in - seen, <=, 10);
            seen = st.datagrams_in;
            steps++;
        }
        CHECK_INT(seen, ==, before + 100);
        CHECK_INT(steps, >=, 10);
    }
    close(fd);
    rig_close(&r);
}
