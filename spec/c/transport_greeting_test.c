// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
/* What servers answer to greetings that are wrong, and how the version of QUIC is found. */
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "../../csrc/transport/internal.h"
#include "greeting.h"
#include "test.h"
#include "transport_support.h"

static int udp_socket(struct sockaddr_in *out)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

    bind(fd, (struct sockaddr *)&a, sizeof a);
    getsockname(fd, (struct sockaddr *)&a, &n);
    if (out != NULL) {
        *out = a;
    }
    return fd;
}

/* Speaks with the rig's server until it is closed, dead or complete. */
static void converse(struct rig *r, struct greeting *g, uint32_t version)
{
    uint8_t buf[2048];
    union es_addr addr;
    int fd = udp_socket(&g->local);
    ssize_t n;
    size_t len;

    es_endpoint_address(r->server, &addr);
    g->remote = addr.in4;
    if (greeting_start(g, version) != 0) {
        test_fail(__FILE__, __LINE__, "no greeting");
        return;
    }
    for (int i = 0; i < 200 && !g->closed && !g->died && !g->complete; i++) {
        while ((len = greeting_packet(g, buf, 1200)) > 0) {
            (void)!sendto(fd, buf, len, 0, &addr.sa, sizeof addr.in4);
        }
        turn(r);
        while ((n = recv(fd, buf, sizeof buf, 0)) > 0) {
            greeting_read(g, buf, (size_t)n);
        }
    }
    close(fd);
}

/* ---- wrong greetings ---- */

/* The extension's place in a ClientHello; its length in *n. NULL: there is none. */
static uint8_t *extension(uint8_t *hello, size_t size, unsigned type, size_t *n)
{
    size_t at = 4 + 2 + 32;

    at += 1 + hello[at];                                /* session id */
    at += 2 + ((size_t)hello[at] << 8 | hello[at + 1]); /* ciphers */
    at += 1 + hello[at];                                /* compression */
    at += 2;                                            /* length of all extensions */
    while (at + 4 <= size) {
        *n = (size_t)hello[at + 2] << 8 | hello[at + 3];
        if (((unsigned)hello[at] << 8 | hello[at + 1]) == type) {
            return hello + at;
        }
        at += 4 + *n;
    }
    return NULL;
}

#define SUPPORTED_VERSIONS 43
#define TRANSPORT_PARAMS   57

static void rename_extension(uint8_t *hello, size_t *n, unsigned type)
{
    size_t len;
    uint8_t *e = extension(hello, *n, type, &len);

    if (e == NULL) {
        test_fail(__FILE__, __LINE__, "no extension %u", type);
        return;
    }
    e[0] = 0xfa;
    e[1] = 0xfa;
}

static void only_tls12(uint8_t *hello, size_t *n)
{
    rename_extension(hello, n, SUPPORTED_VERSIONS);
}

static void no_params(uint8_t *hello, size_t *n)
{
    rename_extension(hello, n, TRANSPORT_PARAMS);
}

/* The value of a transport parameter; its length in *n. */
static uint8_t *param(uint8_t *hello, size_t size, uint64_t id, size_t *n)
{
    size_t len;
    uint8_t *e = extension(hello, size, TRANSPORT_PARAMS, &len), *p, *end;

    if (e == NULL) {
        return NULL;
    }
    for (p = e + 4, end = p + len; p < end; p += *n) {
        size_t w = (size_t)1 << (*p >> 6);
        uint64_t got = *p & 0x3f;
        for (size_t i = 1; i < w; i++) {
            got = got << 8 | p[i];
        }
        p += w;
        *n = *p++; /* all of ours are short */
        if (got == id) {
            return p;
        }
    }
    return NULL;
}

static void set_param(uint8_t *hello, size_t n, uint64_t id, int new_id, uint8_t first)
{
    size_t len;
    uint8_t *p = param(hello, n, id, &len);

    if (p == NULL) {
        test_fail(__FILE__, __LINE__, "no parameter %llu", (unsigned long long)id);
        return;
    }
    if (new_id >= 0) {
        p[-2] = (uint8_t)new_id;
    } else {
        p[0] = first;
    }
}

static void other_scid(uint8_t *hello, size_t *n) /* initial_source_connection_id */
{
    set_param(hello, *n, 0x0f, -1, 0);
}

static void server_only(uint8_t *hello, size_t *n) /* original_destination_connection_id, from a client */
{
    set_param(hello, *n, 0x0f, 0x00, 0);
}

static void no_scid(uint8_t *hello, size_t *n)
{
    set_param(hello, *n, 0x0f, 0x3e, 0);
}

static void cut_params(uint8_t *hello, size_t *n) /* a length beyond the end */
{
    size_t len;
    uint8_t *p = param(hello, *n, 0x0f, &len);

    if (p != NULL) {
        p[-1] = 0x3f;
    }
}

static void not_a_greeting(uint8_t *hello, size_t *n)
{
    hello[0] = 2; /* ServerHello */
}

static void short_inside(uint8_t *hello, size_t *n)
{
    hello[4 + 2 + 32] = 0xff; /* a session id of 255 bytes */
}

TEST(wrong_greetings_get_the_alert_or_the_error_that_the_rfcs_name)
{
    static const struct {
        const char *name, *alpn;
        void (*edit)(uint8_t *, size_t *);
        uint64_t code, or_code;
    } cases[] = {
        {"another protocol", "other/9", NULL, 0x178, 0},        /* no_application_protocol */
        {"TLS 1.2", NULL, only_tls12, 0x146, 0},                /* protocol_version */
        {"no transport parameters", NULL, no_params, 0x16d, 0}, /* missing_extension */
        {"another connection id", NULL, other_scid, 0x08, 0},   /* TRANSPORT_PARAMETER_ERROR */
        {"no connection id", NULL, no_scid, 0x08, 0},
        {"a parameter of servers", NULL, server_only, 0x08, 0},
        {"a parameter cut off", NULL, cut_params, 0x08, 0},
        {"a ServerHello", NULL, not_a_greeting, 0x10a, 0},             /* unexpected_message */
        {"a malformed ClientHello", NULL, short_inside, 0x132, 0x12f}, /* decode_error, illegal_parameter */
    };
    struct rig r;
    struct rig_options o;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct greeting g = {.alpn = cases[i].alpn, .edit = cases[i].edit};
        converse(&r, &g, NGTCP2_PROTO_VER_V1);
        if (!g.closed || g.app ||
            (g.code != cases[i].code && (cases[i].or_code == 0 || g.code != cases[i].or_code))) {
            test_fail(__FILE__, __LINE__, "%s: closed %d, code %#llx, %s", cases[i].name, g.closed,
                      (unsigned long long)g.code, g.died != 0 ? ngtcp2_strerror(g.died) : "alive");
        }
        greeting_end(&g);
        /* and the next one is served */
        struct side *c = rig_dial(&r, &o);
        CHECK(UNTIL(&r, 5, c->established));
        es_link_close(c->link, 1, 0, "");
    }
    CHECK(UNTIL(&r, 5, es_endpoint_connections(r.server) == 0)); /* nothing is left of them */
    rig_close(&r);
}

TEST(names_are_for_choosing_among_certificates_so_none_or_another_one_is_no_reason_to_refuse)
{
    struct rig r;
    struct rig_options o;
    struct greeting g = {0};

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    converse(&r, &g, NGTCP2_PROTO_VER_V1);
    CHECK_INT(g.complete, ==, 1);
    greeting_end(&g);
    g.server_name = "elsewhere.example";
    converse(&r, &g, NGTCP2_PROTO_VER_V1);
    CHECK_INT(g.complete, ==, 1);
    greeting_end(&g);
    rig_close(&r);
}

/* ---- versions ---- */

/* A socket between a client and the rig's server that answers the first datagrams by itself. */
struct relay {
    int front, back;
    struct sockaddr_in front_addr;
    struct sockaddr_storage client;
    socklen_t client_len;
    uint32_t names[4]; /* versions of the Version Negotiation packet; the first 0: none is sent */
    int answers;       /* greetings that get it */
    uint32_t answered; /* the version of the greeting that got it */
};

static void relay_turn(struct rig *r, struct relay *y)
{
    uint8_t buf[2048], out[256];
    union es_addr server;
    ssize_t n;

    es_endpoint_address(r->server, &server);
    turn(r);
    for (;;) {
        y->client_len = sizeof y->client;
        n = recvfrom(y->front, buf, sizeof buf, 0, (struct sockaddr *)&y->client, &y->client_len);
        if (n <= 0) {
            break;
        }
        if (y->answers > 0) {
            ngtcp2_version_cid vc;
            size_t k = 0;
            while (y->names[k] != 0) {
                k++;
            }
            y->answers--;
            (void)ngtcp2_pkt_decode_version_cid(&vc, buf, (size_t)n, 16);
            y->answered = vc.version;
            n = ngtcp2_pkt_write_version_negotiation(out, sizeof out, 0x55, vc.scid, vc.scidlen, vc.dcid,
                                                     vc.dcidlen, y->names, k);
            (void)!sendto(y->front, out, (size_t)n, 0, (struct sockaddr *)&y->client, y->client_len);
        } else {
            (void)!sendto(y->back, buf, (size_t)n, 0, &server.sa, sizeof server.in4);
        }
    }
    while ((n = recv(y->back, buf, sizeof buf, 0)) > 0) {
        (void)!sendto(y->front, buf, (size_t)n, 0, (struct sockaddr *)&y->client, y->client_len);
    }
}

/* A client that begins with `version` behind such a relay; with the rig's ticket, if there is one. */
static struct side *begin_through(struct rig *r, struct rig_options *o, struct relay *y, int version)
{
    struct es_connect_config cc;
    struct side *s = &r->c[r->n_c++ % 64];
    union es_addr addr;

    y->front = udp_socket(&y->front_addr);
    y->back = udp_socket(NULL);
    addr.in4 = y->front_addr;
    memset(&cc, 0, sizeof cc);
    cc.remote = &addr;
    cc.tls = r->client_tls;
    cc.app = &r->client_app;
    cc.app_arg = s;
    cc.transport = o->client;
    cc.transport.version = version;
    if (r->want_tickets) {
        cc.on_ticket = rig_ticket;
        cc.ticket_free = rig_ticket_free;
        cc.ticket_user = r;
        cc.ticket = r->ticket.p;
        cc.ticket_len = r->ticket.n;
    }
    memset(s, 0, sizeof *s);
    if (es_endpoint_connect(r->client, &cc, &s->link, r->err, sizeof r->err) != 0) {
        test_fail(__FILE__, __LINE__, "%s", r->err);
    }
    return s;
}

/* As UNTIL. */
#define UNTIL_THROUGH(r, y, seconds, cond)                                                                   \
    ({                                                                                                       \
        uint64_t until_ = es_poller_now((r)->p) + (uint64_t)((seconds)*1e9 * patience());                    \
        while (!(cond) && es_poller_now((r)->p) < until_) {                                                  \
            relay_turn(r, y);                                                                                \
        }                                                                                                    \
        (cond);                                                                                              \
    })

static void end_through(struct relay *y)
{
    close(y->front);
    close(y->back);
}

/* What becomes of it. */
static struct side *through(struct rig *r, struct rig_options *o, struct relay *y, int version)
{
    struct side *s = begin_through(r, o, y, version);

    for (int i = 0; i < 500 && s->link != NULL && !s->established && !s->closed; i++) {
        relay_turn(r, y);
    }
    end_through(y);
    return s;
}

static unsigned version_of(struct side *s)
{
    struct es_link_stats st;

    if (s->link == NULL) {
        return 0;
    }
    es_link_stats_get(s->link, &st);
    return st.quic_version;
}

TEST(a_client_that_is_told_of_no_version_it_speaks_says_which_there_are)
{
    struct rig r;
    struct rig_options o;
    struct relay y = {.names = {0xff00001d, 0x1a2a3a4a}, .answers = 1};
    struct side *c;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = through(&r, &o, &y, 0);
    CHECK_INT(c->closed, ==, 1);
    CHECK_INT(c->info.cause, ==, ES_CLOSE_HANDSHAKE);
    CHECK_INT(c->info.err, ==, ES_ERR_PROTOCOL);
    CHECK_STR(c->info.reason,
              "the server speaks none of our versions of QUIC; it names 0xff00001d, 0x1a2a3a4a");
    rig_close(&r);
}

TEST(a_packet_that_names_the_version_in_use_is_a_lie_and_ignored)
{
    struct rig r;
    struct rig_options o;
    struct relay y = {.names = {0xff00001d, 1}, .answers = 1};
    struct side *c;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = through(&r, &o, &y, 0);
    CHECK_INT(c->established, ==, 1);
    CHECK_INT(version_of(c), ==, 1);
    rig_close(&r);
}

TEST(a_client_that_begins_with_version_2_gets_it_or_another_one_and_is_not_talked_down)
{
    struct rig r;
    struct rig_options o;
    struct relay direct = {0}, old = {.names = {0x1a2a3a4a, 1}, .answers = 1};
    struct side *c;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    if (!es_transport_speaks(2)) {
        o.client.version = 2;
        CHECK(rig_dial(&r, &o) == NULL);
        CHECK(strstr(r.err, "does not speak version 2") != NULL);
        rig_close(&r);
        return;
    }
    c = through(&r, &o, &direct, 2);
    CHECK_INT(c->established, ==, 1);
    CHECK_INT(version_of(c), ==, 2);
    /* Nobody vouches for the packet: the client tries version 1, but the server, which is asked under TLS,
     * speaks 2 after all. Somebody on the way meddles (RFC 9368 4). */
    c = through(&r, &o, &old, 2);
    CHECK_INT(old.answered, ==, NGTCP2_PROTO_VER_V2);
    CHECK_INT(c->established, ==, 0);
    CHECK_INT(c->closed, ==, 1);
    CHECK_INT(c->info.code, ==, 0x11); /* VERSION_NEGOTIATION_ERROR */
    CHECK(strstr(c->info.reason, "none of our versions") == NULL);
    rig_close(&r);
}

/* A client with a ticket for early data over that version, and 20 requests in its first flight. */
static struct side *early_through(struct rig *r, struct rig_options *o, struct relay *y, int version)
{
    struct relay direct = {0};
    struct es_link_stream *st;
    struct side *c;

    rig_options(o);
    o->server.enable_0rtt = o->client.enable_0rtt = 1;
    if (rig_open(r, o) != 0) {
        return NULL;
    }
    r->app.takes_early = 1;
    r->want_tickets = 1;
    c = begin_through(r, o, &direct, version);
    CHECK(UNTIL_THROUGH(r, &direct, 10, c->link == NULL || (c->established && r->tickets > 0)));
    CHECK_INT(c->early, ==, 0);
    if (c->link != NULL) {
        es_link_close(c->link, 1, 0, "");
    }
    CHECK(UNTIL_THROUGH(r, &direct, 10, c->closed));
    end_through(&direct);
    c = begin_through(r, o, y, version);
    c->keep = 1;
    for (int i = 0; i < 20 && c->link != NULL; i++) {
        CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st), ==, 0);
        CHECK_INT(es_link_write(st, "request", 7, 1), ==, 0);
    }
    return c;
}

TEST(early_data_to_a_server_that_speaks_no_version_of_ours_fails_with_the_reason)
{
    struct rig r;
    struct rig_options o;
    struct relay y = {.names = {0xff00001d}, .answers = 1};
    struct side *c = early_through(&r, &o, &y, 1);

    REQUIRE(c != NULL && c->early == 1);
    CHECK(UNTIL_THROUGH(&r, &y, 10, c->closed));
    CHECK_INT(c->info.err, ==, ES_ERR_PROTOCOL);
    CHECK_STR(c->info.reason, "the server speaks none of our versions of QUIC; it names 0xff00001d");
    CHECK_INT(r.n_s, ==, 1); /* the visit for the ticket */
    end_through(&y);
    rig_close(&r);
}

/* The server knew the version when the ticket was made, and does no longer: the client begins anew, and what
 * was in its first flight is sent again when the handshake is over. */
TEST(early_data_in_a_version_that_the_server_has_given_up_is_sent_again_in_another)
{
    struct rig r;
    struct rig_options o;
    struct relay y = {0};
    struct es_link_stats st;
    struct side *c;

    if (!es_transport_speaks(2)) {
        return;
    }
    c = early_through(&r, &o, &y, 2);
    REQUIRE(c != NULL && c->early == 1);
    r.server->transport.version = r.server->transport.version_only = 1;
    CHECK(UNTIL_THROUGH(&r, &y, 10, c->closed || c->stream_closed == 20));
    CHECK_STR(c->info.reason, "");
    CHECK_INT(c->stream_closed, ==, 20);
    CHECK_INT(c->bytes.n, ==, 140);
    CHECK_INT(r.n_s, ==, 2);
    CHECK_INT(r.s[1].fins, ==, 20);
    CHECK_INT(r.s[1].early, ==, 0);
    CHECK_INT(version_of(c), ==, 1);
    REQUIRE(c->link != NULL);
    es_link_stats_get(c->link, &st);
    CHECK_INT(st.early_data, ==, ES_LINK_EARLY_REJECTED);
    end_through(&y);
    rig_close(&r);
}

/* ... but nobody is talked down by a packet that anybody could have sent. */
TEST(early_data_is_not_sent_again_to_a_server_that_knows_the_version_after_all)
{
    struct rig r;
    struct rig_options o;
    struct relay y = {.names = {1}, .answers = 1};
    struct side *c;

    if (!es_transport_speaks(2)) {
        return;
    }
    c = early_through(&r, &o, &y, 2);
    REQUIRE(c != NULL && c->early == 1);
    CHECK(UNTIL_THROUGH(&r, &y, 10, c->closed));
    CHECK_INT(c->info.code, ==, 0x11); /* VERSION_NEGOTIATION_ERROR */
    CHECK_INT(c->bytes.n, ==, 0);
    end_through(&y);
    rig_close(&r);
}

TEST(unknown_versions_are_answered_with_ours_if_the_datagram_is_long_enough_and_not_too_often)
{
    struct rig r;
    struct rig_options o;
    union es_addr addr;
    uint8_t junk[1200], back[1500];
    struct es_endpoint_stats st;
    int fd = udp_socket(NULL);
    ssize_t n = 0;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    UNTIL(&r, 0.2, 0); /* the bucket of replies fills */
    es_endpoint_address(r.server, &addr);
    memset(junk, 0, sizeof junk);
    memcpy(junk,
           "\xc0\x0a\x0a\x0a\x1a\x08"
           "abcdefgh\x04wxyz",
           19);
    (void)!sendto(fd, junk, 1199, 0, &addr.sa, sizeof addr.in4);
    UNTIL(&r, 0.1, 0);
    es_endpoint_stats_get(r.server, &st);
    CHECK_INT(st.version_negotiations, ==, 0);
    (void)!sendto(fd, junk, 1200, 0, &addr.sa, sizeof addr.in4);
    CHECK(UNTIL(&r, 2, n > 0 || (n = recv(fd, back, sizeof back, 0)) > 0));
    CHECK(n >= 23 && memcmp(back + 1,
                            "\0\0\0\0\x04wxyz\x08"
                            "abcdefgh\0\0\0\1",
                            22) == 0);
    CHECK_INT(n, ==, es_transport_speaks(2) ? 27 : 23);
    /* a draft of old, which 0.12 still knows, is unknown to us */
    memcpy(junk + 1, "\xff\0\0\x1d", 4);
    (void)!sendto(fd, junk, 1200, 0, &addr.sa, sizeof addr.in4);
    CHECK(UNTIL(&r, 2, (es_endpoint_stats_get(r.server, &st), st.version_negotiations == 2)));
    for (int i = 0; i < 2000; i++) {
        es_endpoint_input(r.server, &addr, &addr, 0, junk, sizeof junk);
    }
    es_endpoint_stats_get(r.server, &st);
    CHECK_INT(st.version_negotiations, >, 100);
    CHECK_INT(st.version_negotiations, <=, 202);
    close(fd);
    rig_close(&r);
}
