// needs: csrc/base csrc/link csrc/transport csrc/tcp
// pkgs: libngtcp2 libngtcp2_crypto_gnutls libnghttp2 gnutls
//
// Peers of a server over TCP that break the rules, flood, stall or vanish: they are cut, and nobody else is
// hurt.
#define RIG_TCP
#include "test.h"
#include "transport_support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <unistd.h>

#include "../../csrc/transport/tls_verify.h"

static struct rig r;
static struct rig_options o;

/* A client that writes by hand. */
struct hand {
    int fd;
    gnutls_session_t tls;
    struct es_tls_peer peer;
    int over; /* the server has ended it */
    size_t got;
};

static int dial_tcp(void)
{
    union es_addr addr;
    int fd;

    es_tcp_address(r.tcp_server, &addr);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, &addr.sa, es_addr_len(&addr)) != 0) {
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static int hand_open(struct hand *h)
{
    const char *alpn[] = {"test/1+h2"};
    int rv = GNUTLS_E_AGAIN;

    memset(h, 0, sizeof *h);
    h->fd = dial_tcp();
    h->peer.tls = r.client_tls;
    if (h->fd < 0 || es_tls_stream_session(&h->peer, alpn, 1, &h->tls) != 0) {
        return -1;
    }
    gnutls_transport_set_int(h->tls, h->fd);
    UNTIL(&r, 5, rv != GNUTLS_E_AGAIN || (rv = gnutls_handshake(h->tls)) != GNUTLS_E_AGAIN);
    return rv;
}

static void hand_close(struct hand *h)
{
    if (h->tls != NULL) {
        gnutls_deinit(h->tls);
    }
    es_buf_free(&h->peer.der);
    close(h->fd);
}

/* Reads what is there, without keeping it. */
static int hand_over(struct hand *h)
{
    char buf[16384];
    ssize_t n;

    while (!h->over && (n = gnutls_record_recv(h->tls, buf, sizeof buf)) != GNUTLS_E_AGAIN) {
        h->over = n <= 0;
        h->got += n > 0 ? (size_t)n : 0;
    }
    return h->over;
}

/* 0: the server has ended it. */
static int hand_send(struct hand *h, const void *p, size_t n)
{
    ssize_t rv = gnutls_record_send(h->tls, p, n);

    while (rv == GNUTLS_E_AGAIN) {
        turn(&r);
        rv = gnutls_record_send(h->tls, NULL, 0);
    }
    return rv > 0;
}

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/* Preface, SETTINGS and READY. */
static void hand_greet(struct hand *h)
{
    static const uint8_t rest[] = {0, 0, 0, 4,    0, 0, 0, 0, 0, /* SETTINGS */
                                   0, 0, 1, 0xec, 0, 0, 0, 0, 0, 5};

    hand_send(h, preface, sizeof preface - 1);
    hand_send(h, rest, sizeof rest);
}

/* HEADERS of a request for `path`. */
static size_t put_request(uint8_t *to, uint32_t id, const char *path, int end)
{
    size_t k = strlen(path), n = 2 + 3 + 2 + k;
    uint8_t head[] = {0,
                      0,
                      (uint8_t)n,
                      1,
                      (uint8_t)(4 | (end ? 1 : 0)),
                      0,
                      0,
                      (uint8_t)(id >> 8),
                      (uint8_t)id,
                      0x83,
                      0x87,
                      0x41,
                      1,
                      'a',
                      0x44,
                      (uint8_t)k};

    memcpy(to, head, sizeof head);
    memcpy(to + sizeof head, path, k);
    return sizeof head + k;
}

static int open_rig(void)
{
    rig_options(&o);
    return rig_open(&r, &o);
}

static size_t connections(void)
{
    struct es_tcp_stats st;

    es_tcp_stats_get(r.tcp_server, &st);
    return st.connections;
}

/* An honest client is served, whatever the others did. */
static int is_well(void)
{
    struct side *c = rig_dial(&r, &o);
    struct es_link_stream *s;

    if (c == NULL || !UNTIL(&r, 10, c->established) || es_link_open(c->link, ES_DIR_BIDI, c, &s) != 0) {
        return 0;
    }
    es_link_write(s, "well", 4, 1);
    return UNTIL(&r, 10, c->fins == 1 && c->received == 4);
}

TEST(garbage_instead_of_tls_is_cut)
{
    REQUIRE(open_rig() == 0);
    for (int i = 0; i < 20; i++) {
        uint64_t seed = (uint64_t)i + 1;
        uint8_t noise[512];
        int fd = dial_tcp();

        REQUIRE(fd >= 0);
        for (size_t k = 0; k < sizeof noise; k++) {
            noise[k] = (uint8_t)test_rand(&seed);
        }
        noise[0] = i % 2 ? 22 : noise[0]; /* as a handshake would begin */
        (void)!write(fd, noise, sizeof noise);
        turn(&r);
        close(fd);
    }
    CHECK(UNTIL(&r, 10, connections() == 0));
    CHECK(is_well());
    rig_close(&r);
}

TEST(garbage_inside_of_tls_is_cut)
{
    REQUIRE(open_rig() == 0);
    for (int i = 0; i < 8; i++) {
        uint64_t seed = (uint64_t)i + 1;
        uint8_t noise[1000];
        struct hand h;

        REQUIRE(hand_open(&h) == 0);
        if (i % 2) {
            hand_greet(&h);
        }
        for (size_t k = 0; k < sizeof noise; k++) {
            noise[k] = (uint8_t)test_rand(&seed);
        }
        noise[0] = 0x7f; /* no frame is that long */
        hand_send(&h, noise, sizeof noise);
        CHECK(UNTIL(&r, 10, hand_over(&h)));
        hand_close(&h);
    }
    CHECK(UNTIL(&r, 10, connections() == 0));
    CHECK(is_well());
    rig_close(&r);
}

/* What a peer may do at any time comes in one read with what follows it. */
TEST(a_key_update_of_tls_does_not_hold_up_what_is_behind_it)
{
    struct hand h;

    REQUIRE(open_rig() == 0);
    REQUIRE(hand_open(&h) == 0);
    CHECK_INT(gnutls_session_key_update(h.tls, GNUTLS_KU_PEER), ==, 0);
    hand_greet(&h);
    CHECK(UNTIL(&r, 10, r.s[0].established));
    hand_close(&h);
    rig_close(&r);
}

TEST(who_says_nothing_is_cut_after_the_handshake_timeout)
{
    struct hand h;
    int fd;

    rig_options(&o);
    o.server.handshake_timeout = 200 * ES_MILLI;
    REQUIRE(rig_open(&r, &o) == 0);
    fd = dial_tcp();
    CHECK(UNTIL(&r, 10, connections() == 1));
    CHECK(UNTIL(&r, 10, connections() == 0));
    close(fd);
    if (hand_open(&h) == 0) { /* TLS, and then nothing */
        CHECK(UNTIL(&r, 10, hand_over(&h)));
    }
    hand_close(&h);
    CHECK(UNTIL(&r, 10, connections() == 0));
    rig_close(&r);
}

TEST(half_open_connections_are_limited)
{
    struct es_tcp_config cfg;
    struct es_app *apps[1] = {&r.app};
    struct es_tcp_stats st;
    union es_addr addr;
    int fd[12];

    REQUIRE(open_rig() == 0);
    es_tcp_del(r.tcp_server);
    es_tcp_config_default(&cfg);
    es_addr_parse(&addr, "127.0.0.1:0");
    cfg.bind = &addr;
    cfg.tls = r.server_tls;
    cfg.apps = apps;
    cfg.n_apps = 1;
    cfg.max_half_open_each = 5;
    REQUIRE(es_tcp_new(r.p, &cfg, &r.tcp_server, r.err, sizeof r.err) == 0);
    for (int i = 0; i < 12; i++) {
        fd[i] = dial_tcp();
    }
    CHECK(UNTIL(&r, 10, (es_tcp_stats_get(r.tcp_server, &st), st.refused == 7)));
    CHECK_INT(st.half_open, ==, 5);
    for (int i = 0; i < 12; i++) {
        close(fd[i]);
    }
    CHECK(UNTIL(&r, 10, connections() == 0));
    CHECK(is_well());
    rig_close(&r);
}

/* Sends the frames again and again: the server ends the connection at last. */
static void flood(const void *frame, size_t n, int times)
{
    static uint8_t many[16000];
    size_t k = sizeof many / n;
    struct hand h;

    REQUIRE(open_rig() == 0);
    REQUIRE(hand_open(&h) == 0);
    hand_greet(&h);
    CHECK(UNTIL(&r, 10, r.s[0].established));
    for (size_t i = 0; i < k; i++) {
        memcpy(many + i * n, frame, n);
    }
    for (int i = 0; i < times && !hand_over(&h) && hand_send(&h, many, k * n); i++) {
        turn(&r);
    }
    CHECK(UNTIL(&r, 10, hand_over(&h)));
    CHECK(UNTIL(&r, 10, r.s[0].closed));
    hand_close(&h);
    CHECK(is_well());
    rig_close(&r);
}

TEST(pings_without_end_are_cut)
{
    static const uint8_t ping[17] = {0, 0, 8, 6};

    flood(ping, sizeof ping, 100);
    CHECK_INT(r.s[0].info.code, ==, ES_APP_EXCESSIVE_LOAD);
}

TEST(settings_without_end_are_cut)
{
    static const uint8_t settings[9] = {0, 0, 0, 4};

    flood(settings, sizeof settings, 100);
}

TEST(frames_of_no_use_without_end_are_cut)
{
    static const uint8_t strange[10] = {0, 0, 1, 0xec, 0, 0, 0, 0, 0, 99};

    flood(strange, sizeof strange, 100);
}

/* After the greeting: what is sent, and what the server says of it. */
static void breach(const uint8_t *p, size_t n, const char *reason)
{
    struct hand h;

    REQUIRE(open_rig() == 0);
    REQUIRE(hand_open(&h) == 0);
    hand_greet(&h);
    CHECK(UNTIL(&r, 10, r.s[0].established));
    hand_send(&h, p, n);
    CHECK(UNTIL(&r, 10, hand_over(&h) && r.s[0].closed));
    CHECK_STR(r.s[0].info.reason, reason);
    CHECK_INT(r.s[0].info.err, ==, ES_ERR_PROTOCOL);
    hand_close(&h);
    CHECK(is_well());
    rig_close(&r);
}

TEST(requests_for_other_things_are_a_breach)
{
    uint8_t p[64];

    breach(p, put_request(p, 1, "/index.html", 0), "a request for something that is not here");
}

TEST(data_on_an_offer_is_a_breach)
{
    static const uint8_t data[] = {0, 0, 1, 0, 0, 0, 0, 0, 1, 'x'};
    uint8_t p[128];
    size_t n = put_request(p, 1, "/offer/stream", 0);

    memcpy(p + n, data, sizeof data);
    breach(p, n + sizeof data, "data on an offer that was not taken");
}

TEST(one_way_offers_end_at_once_and_others_do_not)
{
    uint8_t p[128];

    breach(p, put_request(p, 1, "/offer/one-way", 0), "too many offers, or one without an end");
    breach(p, put_request(p, 1, "/offer/stream", 1), "an offer that has ended, or too many");
}

TEST(more_streams_than_allowed_are_a_breach)
{
    static uint8_t p[64 * 1024];
    size_t n = 0;
    struct hand h;

    rig_options(&o);
    o.server.max_streams_bidi = 10;
    REQUIRE(rig_open(&r, &o) == 0);
    r.echo = 0;
    REQUIRE(hand_open(&h) == 0);
    hand_greet(&h);
    for (uint32_t id = 1; id < 23; id += 2) {
        n += put_request(p + n, id, "/stream", 0);
    }
    hand_send(&h, p, n);
    CHECK(UNTIL(&r, 10, hand_over(&h) && r.s[0].closed));
    CHECK_STR(r.s[0].info.reason, "more streams than allowed");
    CHECK_INT(r.s[0].opened, ==, 10);
    hand_close(&h);
    rig_close(&r);
}

/* HTTP/2's own way of ending a stream gives no allowance back before the protocol does. */
TEST(resets_of_http2_give_no_allowance_back)
{
    static uint8_t p[64 * 1024];
    size_t n = 0;
    struct hand h;

    rig_options(&o);
    o.server.max_streams_bidi = 10;
    REQUIRE(rig_open(&r, &o) == 0);
    r.echo = 0;
    REQUIRE(hand_open(&h) == 0);
    hand_greet(&h);
    for (uint32_t id = 1; id < 21; id += 2) {
        uint8_t reset[] = {0, 0, 4, 3, 0, 0, 0, (uint8_t)(id >> 8), (uint8_t)id, 0, 0, 0, 8};
        n += put_request(p + n, id, "/stream", 0);
        memcpy(p + n, reset, sizeof reset);
        n += sizeof reset;
    }
    hand_send(&h, p, n);
    CHECK(UNTIL(&r, 10, r.s[0].resets == 10 && r.s[0].stream_closed == 10));
    CHECK_INT(r.s[0].closed, ==, 0);
    hand_close(&h);
    CHECK(UNTIL(&r, 10, r.s[0].closed));
    rig_close(&r);
}

TEST(who_does_not_read_is_cut_when_too_much_waits)
{
    static char large[1 << 20];
    struct es_link_stream *s = NULL;
    uint8_t p[1024];
    size_t n = 0;
    struct hand h;

    rig_options(&o);
    o.server.stall_timeout = 300 * ES_MILLI;
    o.server.hold_cap = 256 * 1024;
    REQUIRE(rig_open(&r, &o) == 0);
    REQUIRE(hand_open(&h) == 0);
    hand_greet(&h);
    n = put_request(p, 1, "/offer/stream", 0);
    hand_send(&h, p, n);
    CHECK(UNTIL(&r, 10, r.s[0].established));
    REQUIRE(r.s[0].link != NULL);
    REQUIRE(UNTIL(&r, 10, s != NULL || es_link_open(r.s[0].link, ES_DIR_BIDI, &r.s[0], &s) == 0));
    CHECK_INT(es_link_write(s, large, sizeof large, 0), ==, 0);
    CHECK(UNTIL(&r, 20, r.s[0].closed));
    CHECK_INT(r.s[0].info.code, ==, ES_APP_EXCESSIVE_LOAD);
    hand_close(&h);
    rig_close(&r);
}

TEST(who_vanishes_is_noticed_after_the_idle_timeout_of_the_shorter_side)
{
    struct side *c;

    rig_options(&o);
    o.client.idle_timeout = 300 * ES_MILLI;
    o.client.keep_alive = 0;
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    CHECK(UNTIL(&r, 10, c->established && r.s[0].established));
    CHECK(UNTIL(&r, 10, c->closed && r.s[0].closed));
    CHECK(c->info.cause == ES_CLOSE_IDLE || r.s[0].info.cause == ES_CLOSE_IDLE);
    rig_close(&r);
}

TEST(keep_alive_keeps_an_idle_connection)
{
    struct es_link_stats st;
    struct side *c;
    uint64_t until;

    rig_options(&o);
    o.client.idle_timeout = 2 * ES_SECOND;
    o.client.keep_alive = 100 * ES_MILLI;
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    REQUIRE(c != NULL);
    CHECK(UNTIL(&r, 10, c->established && r.s[0].established));
    es_link_keep_alive(c->link, 1);
    until = es_poller_now(r.p) + 500 * ES_MILLI;
    while (es_poller_now(r.p) < until) {
        turn(&r);
    }
    REQUIRE(c->link != NULL);
    es_link_stats_get(c->link, &st);
    CHECK(st.rtt_latest > 0);
    CHECK(UNTIL(&r, 10, (es_link_stats_get(c->link, &st), st.packets_received >= 4)));
    rig_close(&r);
}

TEST(a_server_that_is_no_http2_fails_the_handshake)
{
    struct side *c;
    union es_addr addr;
    socklen_t n = sizeof addr;
    int fd = socket(AF_INET, SOCK_STREAM, 0), peer;

    REQUIRE(open_rig() == 0);
    es_addr_parse(&addr, "127.0.0.1:0");
    REQUIRE(bind(fd, &addr.sa, es_addr_len(&addr)) == 0 && listen(fd, 1) == 0);
    REQUIRE(getsockname(fd, &addr.sa, &n) == 0);
    es_tcp_del(r.tcp_server);
    r.tcp_server = NULL;
    {
        struct es_connect_config cc;
        memset(&cc, 0, sizeof cc);
        c = &r.c[r.n_c++];
        cc.remote = &addr;
        cc.tls = r.client_tls;
        cc.app = &r.client_app;
        cc.app_arg = c;
        cc.transport = o.client;
        REQUIRE(es_tcp_connect(r.tcp_client, &cc, &c->link, r.err, sizeof r.err) == 0);
    }
    peer = accept(fd, NULL, NULL);
    REQUIRE(peer >= 0);
    (void)!write(peer, "220 smtp.example.org ESMTP\r\n", 28);
    CHECK(UNTIL(&r, 10, c->closed));
    CHECK_INT(c->info.cause, ==, ES_CLOSE_HANDSHAKE);
    close(peer);
    close(fd);
    rig_close(&r);
}
