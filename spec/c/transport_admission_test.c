// needs: csrc/base csrc/transport csrc/sim
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
/* Who may begin a handshake, what it may cost, and how long: over the simulated network. */
#include "test.h"
#include "sim_rig.h"
#include "greeting.h"

#include <gnutls/x509.h>

#define SERVER "10.0.0.1"

static int start(struct rig_options *o)
{
    o->bind = SERVER ":443";
    o->client_bind = "10.0.0.2:0";
    if (rig_open(&rig, o) != 0) {
        test_fail(__FILE__, __LINE__, "rig: %s", rig.err);
        return -1;
    }
    return 0;
}

/* The server again, with these settings. */
static void restart(struct es_endpoint_config *cfg)
{
    static struct es_app *apps[1];
    union es_addr addr;
    char err[256];

    apps[0] = &rig.app;
    es_addr_parse(&addr, SERVER ":443");
    cfg->bind = &addr;
    cfg->tls = rig.server_tls;
    cfg->apps = apps;
    cfg->n_apps = 1;
    es_endpoint_abandon(rig.server);
    if (es_endpoint_new(rig.p, cfg, &rig.server, err, sizeof err) != 0) {
        test_fail(__FILE__, __LINE__, "%s", err);
    }
}

static struct es_endpoint_stats stats(void)
{
    struct es_endpoint_stats st;

    es_endpoint_stats_get(rig.server, &st);
    return st;
}

static void lose(const char *from, const char *to, double loss)
{
    path.loss = loss;
    es_sim_set_path(sim, from, to, &path);
}

/* ---- three bytes for one (RFC 9000 8.1) ---- */

static struct {
    uint64_t to_server, from_server; /* bytes that arrived, that were sent */
    double worst;
    int limit; /* datagrams that the server may still get */
} traffic;

static void count(void *user, const struct es_sim_record *r)
{
    union es_addr server;

    es_addr_parse(&server, SERVER ":443");
    if (r->fate == ES_SIM_DELIVERED && es_addr_equal(r->to, &server)) {
        traffic.to_server += r->len;
        traffic.limit--;
    }
    if ((r->fate == ES_SIM_SENT || r->fate == ES_SIM_LOST || r->fate == ES_SIM_NO_LISTENER) &&
        es_addr_equal(r->from, &server)) {
        traffic.from_server += r->fate == ES_SIM_NO_LISTENER ? 0 : r->len;
        double ratio = (double)traffic.from_server / (double)traffic.to_server;
        traffic.worst = ratio > traffic.worst ? ratio : traffic.worst;
    }
}

static gnutls_x509_privkey_t new_key(void)
{
    gnutls_x509_privkey_t k;

    gnutls_x509_privkey_init(&k);
    gnutls_x509_privkey_generate(k, GNUTLS_PK_RSA, 2048, 0);
    return k;
}

/* A chain of n certificates with RSA keys, PEM, the server's first; its key in *key_pem. About a KiB each. */
static char *make_chain(int n, char **key_pem)
{
    char *pem = calloc(1, (size_t)n * 4096);
    gnutls_x509_privkey_t issuer_key = NULL;
    gnutls_x509_crt_t issuer = NULL;
    gnutls_datum_t out;

    for (int i = n; i-- > 0;) {
        gnutls_x509_privkey_t key = new_key();
        gnutls_x509_crt_t crt;
        char name[64];

        gnutls_x509_crt_init(&crt);
        snprintf(name, sizeof name, i > 0 ? "authority number %d" : "localhost", i);
        gnutls_x509_crt_set_version(crt, 3);
        gnutls_x509_crt_set_serial(crt, "\1\2\3\4", 4);
        gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, name, (unsigned)strlen(name));
        gnutls_x509_crt_set_activation_time(crt, 1600000000);
        gnutls_x509_crt_set_expiration_time(crt, 2500000000);
        gnutls_x509_crt_set_key(crt, key);
        if (i > 0) {
            gnutls_x509_crt_set_basic_constraints(crt, 1, -1);
        }
        gnutls_x509_crt_sign2(crt, issuer != NULL ? issuer : crt, issuer_key != NULL ? issuer_key : key,
                              GNUTLS_DIG_SHA256, 0);
        gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &out);
        memmove(pem + out.size, pem, strlen(pem) + 1);
        memcpy(pem, out.data, out.size);
        gnutls_free(out.data);
        if (issuer != NULL) {
            gnutls_x509_crt_deinit(issuer);
            gnutls_x509_privkey_deinit(issuer_key);
        }
        issuer = crt;
        issuer_key = key;
    }
    gnutls_x509_privkey_export2(issuer_key, GNUTLS_X509_FMT_PEM, &out);
    *key_pem = strdup((char *)out.data);
    gnutls_free(out.data);
    gnutls_x509_crt_deinit(issuer);
    gnutls_x509_privkey_deinit(issuer_key);
    return pem;
}

static char *chain_pem, *chain_key;

static int start_with_chain(struct rig_options *o)
{
    struct es_tls_config tc;
    struct es_tls *t;
    char err[256];

    if (chain_pem == NULL) {
        chain_pem = make_chain(9, &chain_key);
    }
    o->trust = ES_TRUST_SKIP;
    if (start(o) != 0) {
        return -1;
    }
    memset(&tc, 0, sizeof tc);
    tc.is_server = 1;
    tc.cert_pem = chain_pem;
    tc.key_pem = chain_key;
    if (es_tls_new(&t, &tc, err, sizeof err) != 0 || es_endpoint_set_tls(rig.server, t) != 0) {
        test_fail(__FILE__, __LINE__, "%s", err);
        return -1;
    }
    es_tls_unref(t);
    memset(&traffic, 0, sizeof traffic);
    es_sim_trace(sim, count, NULL);
    return 0;
}

TEST(a_client_that_falls_silent_gets_three_bytes_for_one_and_is_forgotten_after_ten_seconds)
{
    for (int datagrams = 1; datagrams <= 4; datagrams++) {
        struct rig_options o;

        rig_options(&o);
        REQUIRE(start_with_chain(&o) == 0);
        lose(SERVER, NULL, 1); /* the client hears nothing, repeats itself, and is heard `datagrams` times */
        traffic.limit = datagrams;
        REQUIRE(rig_dial(&rig, &o) != NULL);
        CHECK(UNTIL(&rig, 9, stats().half_open == 1));
        uint64_t began = es_poller_now(rig.p);
        CHECK(UNTIL(&rig, 9, traffic.limit <= 0));
        lose(NULL, SERVER, 1);
        CHECK(UNTIL(&rig, 30, stats().half_open == 0 && es_endpoint_connections(rig.server) == 0));
        CHECK_INT(es_poller_now(rig.p) - began, <=, 10100 * ES_MILLI);
        CHECK_INT(es_poller_now(rig.p) - began, >=, 9900 * ES_MILLI);
        fprintf(stderr, "silent after %d datagrams: %llu bytes in, %llu out, at most %.2f times\n", datagrams,
                (unsigned long long)traffic.to_server, (unsigned long long)traffic.from_server,
                traffic.worst);
        CHECK(traffic.worst <= 3.0);
        CHECK(traffic.from_server >= 2 * traffic.to_server); /* what is allowed is used */
        down();
    }
}

TEST(a_chain_that_is_longer_than_that_is_no_obstacle)
{
    struct rig_options o;
    struct side *c;
    uint64_t first;

    rig_options(&o);
    REQUIRE(start_with_chain(&o) == 0);
    c = rig_dial(&rig, &o);
    CHECK(UNTIL(&rig, 5, c->established));
    first = traffic.from_server;
    CHECK_INT(first, >, 3 * 2400);
    UNTIL(&rig, 1, 0);
    /* The second time it shows its token, and gets all of it at once: a round trip less. */
    struct es_link_stats a, b;
    es_link_stats_get(c->link, &a);
    c = rig_dial(&rig, &o);
    CHECK(UNTIL(&rig, 5, c->established));
    es_link_stats_get(c->link, &b);
    CHECK_INT(stats().tokens_accepted, ==, 1);
    CHECK_INT(b.handshake_time + 9 * ES_MILLI, <=, a.handshake_time);
    down();
}

/* One greeting that is refused, then what a forger might send to make the refusal be repeated. */
TEST(a_refusal_is_not_repeated_for_tiny_datagrams_beyond_three_bytes_for_one)
{
    struct rig_options o;
    struct greeting g = {.alpn = "other/9"};
    uint8_t buf[1500], tiny[32] = {0};
    size_t n;
    union es_addr from, server;
    ngtcp2_version_cid vc;

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    memset(&traffic, 0, sizeof traffic);
    es_sim_trace(sim, count, NULL);
    es_addr_parse(&server, SERVER ":443");
    es_addr_parse(&from, "10.0.0.9:99");
    REQUIRE(greeting_start(&g, NGTCP2_PROTO_VER_V1) == 0);
    n = greeting_packet(&g, buf, 1200);
    REQUIRE(n == 1200);
    traffic.to_server += n;
    es_endpoint_input(rig.server, &server, &from, 0, buf, n);
    UNTIL(&rig, 0.01, 0);
    CHECK_INT(traffic.from_server, >, 0);
    REQUIRE(ngtcp2_pkt_decode_version_cid(&vc, buf, n, 16) == 0);
    memcpy(tiny, buf, 7);
    memcpy(tiny + 6, vc.dcid, vc.dcidlen); /* the same connection, in a datagram of 27 bytes */
    for (int i = 0; i < 100; i++) {
        traffic.to_server += 27;
        es_endpoint_input(rig.server, &server, &from, 0, tiny, 27);
    }
    CHECK(traffic.worst <= 3.0);
    greeting_end(&g);
    down();
}

/* ---- caps ---- */

static uint64_t refusals(struct side **c, int n)
{
    uint64_t refused = 0;

    for (int i = 0; i < n; i++) {
        refused += c[i]->closed && c[i]->info.code == 2 && !c[i]->info.app;
    }
    return refused;
}

/* `n` greetings from clients at network.x.y that will not hear the answer. */
static void strangers(const char *format, int first, int n)
{
    union es_addr from, server;
    char text[64];
    uint8_t buf[1500];

    es_addr_parse(&server, SERVER ":443");
    for (int i = first; i < first + n; i++) {
        struct greeting g = {0};
        snprintf(text, sizeof text, format, i);
        if (es_addr_parse(&from, text) != 0 || greeting_start(&g, NGTCP2_PROTO_VER_V1) != 0) {
            test_fail(__FILE__, __LINE__, "%s", text);
            return;
        }
        size_t len = greeting_packet(&g, buf, 1200);
        es_endpoint_input(rig.server, &server, &from, 0, buf, len);
        greeting_end(&g);
    }
    es_poller_flush(rig.p);
}

TEST(handshakes_under_way_are_capped_in_all)
{
    struct es_endpoint_config cfg;
    struct rig_options o;
    struct side *c[3];

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    es_endpoint_config_default(&cfg);
    cfg.retry = ES_RETRY_NEVER;
    cfg.max_half_open = 5;
    restart(&cfg);
    strangers("10.1.0.%d:5000", 1, 5);
    CHECK_INT(stats().half_open, ==, 5); /* the limit passes */
    CHECK_INT(stats().refused, ==, 0);
    strangers("10.1.0.%d:5000", 6, 1);
    CHECK_INT(stats().half_open, ==, 5); /* one more does not */
    CHECK_INT(stats().refused, ==, 1);
    c[0] = rig_dial(&rig, &o);
    CHECK(UNTIL(&rig, 5, c[0]->closed));
    CHECK_INT(refusals(c, 1), ==, 1); /* and is told CONNECTION_REFUSED */
    CHECK(UNTIL(&rig, 20, stats().half_open == 0));
    c[0] = rig_dial(&rig, &o);
    CHECK(UNTIL(&rig, 5, c[0]->established && stats().accepted == 6));
    CHECK(UNTIL(&rig, 5, stats().half_open == 0));
    down();
}

TEST(handshakes_under_way_are_capped_for_each_address_and_each_ipv6_network)
{
    struct es_endpoint_config cfg;
    struct rig_options o;

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    es_endpoint_config_default(&cfg);
    cfg.retry = ES_RETRY_NEVER;
    cfg.max_half_open_each = 3;
    restart(&cfg);
    strangers("10.1.0.1:%d", 5000, 3);
    CHECK_INT(stats().refused, ==, 0);
    strangers("10.1.0.1:%d", 5003, 2);
    CHECK_INT(stats().refused, ==, 2);
    strangers("10.1.0.2:%d", 5000, 3); /* a neighbour is another one */
    CHECK_INT(stats().refused, ==, 2);
    strangers("[2001:db8:1:1::%x]:5000", 1, 3);
    CHECK_INT(stats().refused, ==, 2);
    strangers("[2001:db8:1:1:ffff::%x]:5000", 4, 2); /* the same /64 */
    CHECK_INT(stats().refused, ==, 4);
    strangers("[2001:db8:1:2::%x]:5000", 1, 3); /* the next one */
    CHECK_INT(stats().refused, ==, 4);
    strangers("[::ffff:10.1.0.1]:%d", 6000, 1); /* the first one, as a two-stack socket sees it */
    CHECK_INT(stats().refused, ==, 5);
    CHECK_INT(stats().half_open, ==, 12);
    CHECK(UNTIL(&rig, 20, stats().half_open == 0));
    strangers("10.1.0.1:%d", 5000, 3);
    CHECK_INT(stats().half_open, ==, 3);
    CHECK_INT(stats().refused, ==, 5);
    down();
}

TEST(forged_greetings_do_not_shut_an_address_out)
{
    struct es_endpoint_config cfg;
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    es_endpoint_config_default(&cfg);
    cfg.retry_above = 20;
    cfg.max_half_open_each = 2;
    restart(&cfg);
    strangers("10.0.0.2:%d", 1, 100); /* all in the client's name */
    CHECK_INT(stats().half_open, ==, 20);
    CHECK_INT(stats().retries, ==, 80);
    CHECK_INT(stats().retrying, ==, 1);
    c = rig_dial(&rig, &o);
    CHECK(UNTIL(&rig, 5, c->established));
    CHECK_INT(stats().refused, ==, 0);
    CHECK_INT(stats().tokens_accepted, ==, 1);
    CHECK(UNTIL(&rig, 20, stats().half_open <= 10)); /* half of the threshold */
    CHECK_INT(stats().retrying, ==, 0);
    down();
}

TEST(an_answer_to_a_retry_that_comes_too_late_is_told_so)
{
    struct es_endpoint_config cfg;
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    es_endpoint_config_default(&cfg);
    cfg.retry = ES_RETRY_ALWAYS;
    restart(&cfg);
    path.delay = 5100 * ES_MILLI; /* there and back is longer than the token holds */
    es_sim_set_path(sim, NULL, NULL, &path);
    c = rig_dial(&rig, &o);
    CHECK(UNTIL(&rig, 29, c->closed));
    CHECK_INT(c->info.cause, ==, ES_CLOSE_HANDSHAKE);
    CHECK_INT(c->info.code, ==, 0x0b); /* INVALID_TOKEN */
    CHECK_STR(c->info.reason, "our answer to the server's Retry came too late or changed");
    CHECK_INT(stats().accepted, ==, 0);
    CHECK_INT(stats().tokens_rejected, >, 0);
    CHECK_INT(es_endpoint_connections(rig.server), ==, 0);
    down();
}

/* ---- newcomers that are nothing ---- */

TEST(a_first_packet_that_comes_to_nothing_leaves_no_trace_and_the_genuine_one_is_new)
{
    struct rig_options o;
    struct greeting g = {0};
    uint8_t good[1500], bad[1500];
    union es_addr from, server;
    struct es_mem_stats before, after;
    size_t n;

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    es_addr_parse(&server, SERVER ":443");
    es_addr_parse(&from, "10.0.0.9:99");
    REQUIRE(greeting_start(&g, NGTCP2_PROTO_VER_V1) == 0);
    n = greeting_packet(&g, good, 1200);
    memcpy(bad, good, n);
    bad[600] ^= 1; /* its seal does not hold */
    for (int i = 0; i < 20; i++) {
        if (i == 2) {
            es_mem_stats(&before);
        }
        es_endpoint_input(rig.server, &server, &from, 0, bad, n);
        es_poller_flush(rig.p);
        CHECK_INT(es_endpoint_connections(rig.server), ==, 0);
    }
    es_mem_stats(&after);
    CHECK_INT(after.in_use, ==, before.in_use);
    CHECK_INT(stats().forgotten, ==, 20);
    CHECK_INT(stats().accepted, ==, 0);
    CHECK_INT(stats().half_open, ==, 0);
    CHECK_INT(stats().datagrams_out, ==, 0); /* not a word */
    es_endpoint_input(rig.server, &server, &from, 0, good, n);
    es_poller_flush(rig.p);
    CHECK_INT(stats().accepted, ==, 1);
    CHECK_INT(stats().half_open, ==, 1);
    CHECK_INT(stats().datagrams_out, >, 0);
    greeting_end(&g);
    down();
}

/* Adds the padding extension (RFC 7685), so that the greeting needs two datagrams. */
static void pad(uint8_t *hello, size_t *n)
{
    enum { PAD = 1000 };
    size_t at = 4 + 2 + 32, more = 4 + PAD, len = *n - 4 + more, all;

    at += 1 + hello[at];                                /* session id */
    at += 2 + ((size_t)hello[at] << 8 | hello[at + 1]); /* ciphers */
    at += 1 + hello[at];                                /* compression */
    all = ((size_t)hello[at] << 8 | hello[at + 1]) + more;
    hello[at] = (uint8_t)(all >> 8);
    hello[at + 1] = (uint8_t)all;
    hello[2] = (uint8_t)(len >> 8);
    hello[3] = (uint8_t)len;
    memcpy(hello + *n, (uint8_t[]){0, 21, PAD >> 8, PAD & 0xff}, 4);
    memset(hello + *n + 4, 0, PAD);
    *n += more;
}

/* The first datagram holds the second half of a long greeting: the library would have to keep it for whoever.
 */
TEST(a_greeting_that_begins_in_the_middle_is_asked_for_a_retry)
{
    struct rig_options o;
    struct greeting g = {.edit = pad};
    uint8_t first[1500], second[1500];
    union es_addr from, server;

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    es_addr_parse(&server, SERVER ":443");
    es_addr_parse(&from, "10.0.0.9:99");
    REQUIRE(greeting_start(&g, NGTCP2_PROTO_VER_V1) == 0);
    REQUIRE(greeting_packet(&g, first, 1200) == 1200);
    REQUIRE(greeting_packet(&g, second, 1200) == 1200);
    es_endpoint_input(rig.server, &server, &from, 0, second, 1200);
    es_poller_flush(rig.p);
    CHECK_INT(es_endpoint_connections(rig.server), ==, 0);
    CHECK_INT(stats().forgotten, ==, 1);
    CHECK_INT(stats().retries, ==, 1);
    es_endpoint_input(rig.server, &server, &from, 0, first, 1200);
    es_endpoint_input(rig.server, &server, &from, 0, second, 1200);
    es_poller_flush(rig.p);
    CHECK_INT(stats().accepted, ==, 1);
    CHECK_INT(stats().half_open, ==, 1);
    greeting_end(&g);
    down();
}

/* ---- stateless reset ---- */

TEST(after_a_restart_with_the_same_secret_clients_learn_within_one_round_trip)
{
    struct es_endpoint_config cfg;
    struct rig_options o;
    struct side *c[20];
    struct es_link_stream *st;
    uint64_t began, worst = 0;
    int open = 0;

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    path.delay = 50 * ES_MILLI;
    es_sim_set_path(sim, NULL, NULL, &path);
    es_endpoint_config_default(&cfg);
    es_endpoint_config_secret(&cfg, "a secret of more than thirty-two bytes, for instance", 52);
    restart(&cfg);
    for (int i = 0; i < 20; i++) {
        c[i] = rig_dial(&rig, &o);
    }
    CHECK(UNTIL(&rig, 5, ({
        open = 0;
        for (int i = 0; i < 20; i++) {
            open += c[i]->established;
        }
        open == 20;
    })));
    UNTIL(&rig, 1, 0);
    restart(&cfg);
    began = es_poller_now(rig.p);
    for (int i = 0; i < 20; i++) {
        REQUIRE(es_link_open(c[i]->link, ES_DIR_BIDI, c[i], &st) == 0);
        es_link_write(st, "are you still there, after all that has happened?", 49, 1);
    }
    es_poller_flush(rig.p);
    for (int left = 20; left > 0 && es_poller_now(rig.p) < began + ES_SECOND;) {
        turn(&rig);
        left = 20;
        for (int i = 0; i < 20; i++) {
            left -= c[i]->closed;
        }
        worst = es_poller_now(rig.p) - began;
    }
    for (int i = 0; i < 20; i++) {
        CHECK_INT(c[i]->closed, ==, 1);
        CHECK_INT(c[i]->info.cause, ==, ES_CLOSE_RESET);
    }
    fprintf(stderr, "a round trip is 100 ms; the last of 20 clients knew after %.1f ms\n",
            (double)worst / 1e6);
    CHECK_INT(worst, <=, 101 * ES_MILLI);
    CHECK_INT(stats().resets_sent, >=, 20);
    /* With another secret it tells them nothing that they would believe. */
    c[0] = rig_dial(&rig, &o);
    CHECK(UNTIL(&rig, 5, c[0]->established));
    UNTIL(&rig, 1, 0);
    es_endpoint_config_secret(&cfg, "another secret of more than thirty-two bytes", 44);
    restart(&cfg);
    REQUIRE(es_link_open(c[0]->link, ES_DIR_BIDI, c[0], &st) == 0);
    es_link_write(st, "are you still there, after all that has happened?", 49, 1);
    UNTIL(&rig, 2, 0);
    CHECK_INT(c[0]->closed, ==, 0);
    CHECK_INT(stats().resets_sent, >=, 1);
    down();
}

TEST(stateless_resets_are_limited_in_number_and_size)
{
    struct rig_options o;
    union es_addr from, server;
    uint8_t noise[100];
    uint64_t out;
    struct es_endpoint_stats base;

    rig_options(&o);
    REQUIRE(start(&o) == 0);
    /* Virtual time stands still when nothing is due: somebody is there, who sends a packet now and then. */
    CHECK(rig_dial(&rig, &o) != NULL);
    UNTIL(&rig, 20, 0); /* the bucket is full */
    base = stats();
    es_addr_parse(&server, SERVER ":443");
    es_addr_parse(&from, "10.0.0.9:99");
    memset(noise, 0x55, sizeof noise);
    es_endpoint_input(rig.server, &server, &from, 0, noise, 40);
    CHECK_INT(stats().resets_sent, ==, 0); /* too short to be answered by something shorter */
    es_endpoint_input(rig.server, &server, &from, 0, noise, 41);
    CHECK_INT(stats().resets_sent, ==, 1);
    CHECK_INT(stats().bytes_out - base.bytes_out, ==,
              40); /* always shorter, so that two servers do not go on for ever */
    out = stats().resets_sent;
    for (int i = 0; i < 10000; i++) {
        es_endpoint_input(rig.server, &server, &from, 0, noise, sizeof noise);
    }
    CHECK_INT(stats().resets_sent - out, <=, 2000);
    CHECK_INT(stats().resets_sent - out, >=, 1999);
    UNTIL(&rig, 1.1, 0);
    out = stats().resets_sent;
    es_endpoint_input(rig.server, &server, &from, 0, noise, sizeof noise);
    CHECK_INT(stats().resets_sent, ==, out + 1);
    down();
}
