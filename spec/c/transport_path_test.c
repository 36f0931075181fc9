// needs: csrc/base csrc/transport
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls

/* Paths over real sockets: sockets that come and go under connections. */
#include "test.h"
#include "../../csrc/transport/poller.h"
#include "transport_support.h"
#include "../../csrc/transport/driver.h"

#include <dirent.h>

static struct rig r;
static struct rig_options o;

static struct side *up(void)
{
    struct side *c;
    int n = r.n_s;

    if (r.p == NULL) {
        rig_options(&o);
        if (rig_open(&r, &o) != 0) {
            test_fail(__FILE__, __LINE__, "rig: %s", r.err);
            return NULL;
        }
        n = 0;
    }
    c = rig_dial(&r, &o);
    if (c == NULL || !UNTIL(&r, 5, c->established && r.n_s == n + 1 && r.s[n].established)) {
        test_fail(__FILE__, __LINE__, "no connection: %s", r.err);
        return NULL;
    }
    return c;
}

static void down(void)
{
    rig_close(&r);
    r.p = NULL;
}

static int begin_move(struct side *c, const char *where)
{
    union es_addr to;
    char err[128] = "";
    int rv;

    es_addr_parse(&to, where);
    rv = es_link_migrate(c->link, &to, err, sizeof err);
    if (rv != 0) {
        CHECK(err[0] != '\0');
    }
    return rv;
}

static int move(struct side *c, const char *where)
{
    int before = c->moves;
    return begin_move(c, where) == 0 && UNTIL(&r, 5, c->moves > before) && c->move.err == 0;
}

/* Bytes go there and back. */
static int echoes(struct side *c, size_t n)
{
    static char data[400000];
    struct es_link_stream *s;
    uint64_t before = c->received;

    if (c->link == NULL || r.s[0].link == NULL) {
        test_fail(__FILE__, __LINE__, "closed: %s, %s", c->info.reason, r.s[0].info.reason);
        return 0;
    }
    return es_link_open(c->link, ES_DIR_BIDI, NULL, &s) == 0 && es_link_write(s, data, n, 1) == 0 &&
           UNTIL(&r, 10, c->received == before + n);
}

static size_t open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;

    while (d != NULL && readdir(d) != NULL) {
        n++;
    }
    closedir(d);
    return n;
}

TEST(a_client_moves_a_hundred_times_and_nothing_is_left_behind)
{
    struct side *c = up();
    size_t files;
    char to[32], from[64], peer[64];
    union es_addr at;

    REQUIRE(c != NULL);
    REQUIRE(move(c, "127.0.0.1:0"));
    files = open_files();
    for (int i = 0; i < 100; i++) {
        snprintf(to, sizeof to, "127.0.0.%d:0", i % 5 + 1);
        REQUIRE(move(c, to));
        CHECK_INT(c->move.peer, ==, 0);
        CHECK(echoes(c, 3000));
        es_endpoint_address(r.client, &at);
        es_addr_format(&at, from, sizeof from);
        CHECK_STR(from, c->move.to);
    }
    /* The server validates each path for itself, and one that the client has left before that is none. */
    UNTIL(&r, 5, (es_link_peer_addr(r.s[0].link, peer, sizeof peer), strcmp(peer, from) == 0));
    CHECK_STR(peer, from);
    CHECK_INT(r.s[0].moves, <=, 101);
    CHECK_INT(r.s[0].moves, >=, 95);
    CHECK_INT(r.s[0].move.peer, ==, 1);
    UNTIL(&r, 8, open_files() <= files); /* late packets are waited for, three PTOs */
    CHECK_INT(open_files(), <=, files);
    down();
}

TEST(a_bulk_transfer_goes_on_while_its_connection_moves)
{
    struct side *c = up();

    REQUIRE(c != NULL);
    for (int i = 0; i < 20; i++) {
        int moves = c->moves;
        CHECK_INT(begin_move(c, "127.0.0.1:0"), ==, 0);
        CHECK(echoes(c, 400000));
        REQUIRE(UNTIL(&r, 5, c->moves > moves));
        CHECK_INT(c->move.err, ==, 0);
    }
    CHECK_INT(c->closed, ==, 0);
    down();
}

TEST(connections_of_one_endpoint_move_apart)
{
    struct side *one = up(), *two = up();
    union es_addr first, at;
    char text[64];

    REQUIRE(one != NULL && two != NULL);
    es_endpoint_address(r.client, &first);
    REQUIRE(move(one, "127.0.0.2:0"));
    es_endpoint_address(r.client, &at);
    CHECK(es_addr_equal(&at, &first)); /* the other still stands there */
    CHECK(echoes(one, 5000) && echoes(two, 5000));
    REQUIRE(move(one, "127.0.0.3:0"));
    CHECK(echoes(one, 5000) && echoes(two, 5000));
    REQUIRE(move(two, "127.0.0.4:0"));
    es_endpoint_address(r.client, &at);
    CHECK_STR(es_addr_format(&at, text, sizeof text), two->move.to);
    CHECK(echoes(one, 5000) && echoes(two, 5000));
    UNTIL(&r, 1.5, 0); /* what was left is closed now */
    CHECK(echoes(one, 5000) && echoes(two, 5000));
    REQUIRE(move(two, "127.0.0.5:0"));
    CHECK(echoes(one, 5000) && echoes(two, 5000));
    down();
}

TEST(only_dialled_open_connections_move_one_move_at_a_time)
{
    struct side *c = up();

    REQUIRE(c != NULL);
    CHECK_INT(begin_move(&r.s[0], "127.0.0.1:0"), ==, ES_ERR_UNSUPPORTED);
    CHECK_INT(begin_move(c, "[::1]:0"), ==, ES_ERR_INVAL);
    CHECK_INT(begin_move(c, "192.0.2.1:0"), ==, ES_ERR_IO);
    CHECK_INT(begin_move(c, "127.0.0.1:0"), ==, 0);
    CHECK_INT(begin_move(c, "127.0.0.1:0"), ==, ES_ERR_EXISTS);
    REQUIRE(UNTIL(&r, 5, c->moves == 1));
    CHECK_INT(begin_move(c, "127.0.0.1:0"), ==, 0);
    es_link_close(c->link, 1, 5, "enough");
    CHECK(UNTIL(&r, 5, c->closed));
    CHECK_INT(c->moves, ==, 2);
    CHECK_INT(c->move.err, ==, ES_ERR_CLOSED);
    CHECK(c->move.reason[0] != '\0');
    down();
}

TEST(an_endpoint_that_goes_in_the_middle_of_a_move_takes_everything_along)
{
    struct side *c = up();

    REQUIRE(c != NULL);
    CHECK_INT(begin_move(c, "127.0.0.1:0"), ==, 0);
    turn(&r);
    down();
    c = up();
    REQUIRE(c != NULL);
    REQUIRE(move(c, "127.0.0.1:0")); /* the old socket waits for late packets */
    down();
}

/* RELIABILITY N7: what is sent to the port now comes back as an ICMP error for the socket that both share. */
TEST(a_server_whose_port_is_closed_disturbs_no_other_connection_of_the_socket)
{
    struct side *stays = up(), *lost;
    struct es_endpoint *other = r.server;
    struct es_endpoint_config cfg;
    struct es_app *apps[1] = {&r.app};
    struct es_link_stream *s;
    union es_addr addr;

    REQUIRE(stays != NULL);
    es_endpoint_config_default(&cfg);
    es_addr_parse(&addr, "127.0.0.1:0");
    cfg.bind = &addr;
    cfg.tls = r.server_tls;
    cfg.apps = apps;
    cfg.n_apps = 1;
    REQUIRE(es_endpoint_new(r.p, &cfg, &r.server, r.err, sizeof r.err) == 0);
    lost = up();
    REQUIRE(lost != NULL);
    CHECK(echoes(lost, 5000));
    es_endpoint_abandon(r.server); /* not a word to anybody */
    r.server = other;
    REQUIRE(es_link_open(lost->link, ES_DIR_BIDI, NULL, &s) == 0);
    for (int i = 0; i < 200; i++) {
        CHECK_INT(es_link_write(s, "into the void", 13, 0), ==, 0);
        CHECK(echoes(stays, 2000));
    }
    CHECK_INT(stays->closed, ==, 0);
    CHECK_INT(lost->closed, ==, 0);
    down();
}

TEST(a_client_that_tells_nobody_is_followed_across_ports_too)
{
    struct side *c = up();
    char before[64], after[64];

    REQUIRE(c != NULL);
    es_link_peer_addr(r.s[0].link, before, sizeof before);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(es_endpoint_rebind(r.client), ==, 0);
        REQUIRE(echoes(c, 20000));
        REQUIRE(UNTIL(&r, 5, r.s[0].moves == i + 1));
        es_link_peer_addr(r.s[0].link, after, sizeof after);
        CHECK_STR(r.s[0].move.to, after);
        CHECK_STR(r.s[0].move.from, before);
        strcpy(before, after);
        if (i == 4) {
            /* ngtcp2 0.12 counts an id twice while it still asks the port that was left whether it answers,
             * and closes a connection that moves meanwhile. */
            UNTIL(&r, 8, 0);
            REQUIRE(move(c, "127.0.0.2:0"));
            REQUIRE(UNTIL(&r, 5, r.s[0].moves == i + 2));
            if (r.s[0].link == NULL)
                test_fail(__FILE__, __LINE__, "closed: %s", r.s[0].info.reason);
            REQUIRE(r.s[0].link != NULL);
            es_link_peer_addr(r.s[0].link, before, sizeof before);
            r.s[0].moves--;
        }
    }
    CHECK_INT(c->closed, ==, 0);
    down();
}
