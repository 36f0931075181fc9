// needs: csrc/base csrc/transport csrc/sim
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls

/* Clients whose address changes when it suits the library least: over the simulated network. */
#include "test.h"
#include "../../csrc/transport/compat.h"
#include "sim_rig.h"

static struct es_link_stream *stream;

/* A connection over paths of 50 ms, once it is quiet, and a stream of it. */
static struct side *up(struct rig_options *o, size_t mtu)
{
    struct side *c;

    o->bind = "10.0.0.1:0";
    o->client_bind = "10.0.0.2:0";
    if (rig_open(&rig, o) != 0) {
        test_fail(__FILE__, __LINE__, "rig: %s", rig.err);
        return NULL;
    }
    path.delay = 50 * ES_MILLI;
    path.mtu = mtu;
    es_sim_set_path(sim, NULL, NULL, &path);
    c = rig_dial(&rig, o);
    if (c == NULL || !UNTIL(&rig, 5, c->established && rig.n_s == 1 && rig.s[0].established) ||
        es_link_open(c->link, ES_DIR_BIDI, NULL, &stream) != 0) {
        test_fail(__FILE__, __LINE__, "no connection: %s", rig.err);
        return NULL;
    }
    rig.s[0].echo = 1;
    UNTIL(&rig, 10, 0);
    return c;
}

static void rebind(uint16_t port)
{
    CHECK_INT(es_sim_rebind(sim, rig.client, port), ==, 0);
}

/* One byte there and back. */
static int say(struct side *c, double seconds)
{
    uint64_t before = c->received;

    return c->link != NULL && es_link_write(stream, "a", 1, 0) == 0 &&
           UNTIL(&rig, seconds, c->closed || c->received > before) && !c->closed;
}

/* Gone and back, and gone again: at every stage of the validation of the path between. */
static void flap(size_t mtu, int no_discovery)
{
    for (int ms = 20; ms <= 400; ms += 20) {
        struct rig_options o;
        struct side *c;

        rig_options(&o);
        o.server.disable_mtu_discovery = no_discovery;
        c = up(&o, mtu);
        REQUIRE(c != NULL);
        for (int i = 0; i < 7 && c->link != NULL; i++) {
            rebind((uint16_t)(i % 2 ? 4002 : 4001));
            CHECK_INT(es_link_write(stream, "a", 1, 0), ==, 0);
            UNTIL(&rig, ms / 1000.0, 0);
        }
        CHECK(UNTIL(&rig, 20, c->closed || c->received == 7));
        CHECK(say(c, 10));
        CHECK_STR(c->info.reason, "");
        down();
    }
}

/* Both generations of ngtcp2 began to look for the path's size twice, and ended the process. */
TEST(an_address_that_changes_back_before_the_new_ones_size_is_known_ends_nothing)
{
    flap(1420, 0);
}

/* ... or began though they were told not to look for it. */
TEST(an_address_that_changes_back_ends_nothing_without_discovery_of_the_paths_size)
{
    flap(0, 1);
}

TEST(without_discovery_of_the_paths_size_packets_stay_small)
{
    static const char data[50000];
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    o.server.disable_mtu_discovery = o.client.disable_mtu_discovery = 1;
    c = up(&o, 1200); /* larger ones would be dropped */
    REQUIRE(c != NULL);
    CHECK_INT(es_link_write(stream, data, sizeof data, 0), ==, 0);
    CHECK(UNTIL(&rig, 2, c->received == sizeof data));
    down();
}

/* A connection whose client was given another port, where full packets do not reach it. NULL: none came
 * about. */
static struct side *moved_where_only_small_packets_pass(void)
{
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    o.client.keep_alive = ES_SECOND;
    c = up(&o, 0);
    if (c != NULL) {
        path.mtu = 1199;
        es_sim_set_path(sim, "10.0.0.1", NULL, &path);
        rebind(4001);
    }
    return c;
}

/* A full packet does not reach the client at its new address for a while, though small ones do. */
TEST(a_new_address_that_full_packets_do_not_reach_at_first_is_tried_again)
{
    struct side *c = moved_where_only_small_packets_pass();

    REQUIRE(c != NULL);
    CHECK(say(c, 10));
    UNTIL(&rig, 3, 0);
    CHECK_STR(c->info.reason, "");
    path.mtu = 0;
    es_sim_set_path(sim, "10.0.0.1", NULL, &path);
    CHECK(say(c, 10));
    UNTIL(&rig, 10, 0);
    CHECK(say(c, 1));
    CHECK_STR(c->info.reason, "");
    down();
}

/* ... and for good: that is no path for QUIC. 0.12 says so in the end, 1.11 tries for ever. */
TEST(a_new_address_that_full_packets_never_reach_is_given_up_or_tried_again_without_harm)
{
    struct side *c = moved_where_only_small_packets_pass();

    REQUIRE(c != NULL);
    (void)say(c, 10);
    UNTIL(&rig, 300, c->closed && rig.s[0].closed);
    CHECK_INT(c->closed, ==, rig.s[0].closed);
    if (!c->closed) {
        path.mtu = 0;
        es_sim_set_path(sim, "10.0.0.1", NULL, &path);
        CHECK(say(c, 30));
    }
    down();
}

static int moves_to(struct side *c, const char *where)
{
    int before = c->moves;
    union es_addr to;
    char err[128];

    es_addr_parse(&to, where);
    return es_link_migrate(c->link, &to, err, sizeof err) == 0 &&
           UNTIL(&rig, 60, c->closed || c->moves > before) && !c->closed && c->move.err == 0;
}

/* 0.12 has one connection id in use twice then; when the client moved under another one, it closed the
 * connection. Its server lets it wait until the validations are over: a move may time out, a later one does
 * not, and what was said at once after it may take as long.
 */
TEST(a_client_may_move_at_any_time_after_its_nat_did)
{
    for (int ms = 0; ms <= 8000; ms += ms < 500 ? 50 : 500) {
        struct rig_options o;
        struct side *c;

        rig_options(&o);
        c = up(&o, 0);
        REQUIRE(c != NULL);
        rebind(4001);
        CHECK_INT(es_link_write(stream, "a", 1, 0), ==, 0);
        UNTIL(&rig, ms / 1000.0, 0);
        for (int i = 0; i < 4 && !c->closed && !moves_to(c, "10.0.0.3:0"); i++)
            ;
        CHECK_INT(c->closed, ==, 0);
        CHECK_INT(c->move.err, ==, 0);
        CHECK(say(c, 30));
        UNTIL(&rig, 30, 0);
        CHECK(moves_to(c, "10.0.0.4:0"));
        CHECK(say(c, 5));
        CHECK_STR(c->info.reason, "");
        down();
    }
}

/* ---- windows that are full of what is lost ---- */

/* Virtual time goes from one thing that is due to the next: here something is due every millisecond. */
static struct es_timer ticker;

static void on_tick(struct es_timer *t)
{
    struct es_timers *ts = es_poller_timers(rig.p);

    (void)es_timer_start(ts, t, ts->now + ES_MILLI);
}

/* From the client to the server. */
static void lose(double loss)
{
    path.loss = loss;
    es_sim_set_path(sim, "10.0.0.2", NULL, &path);
}

/* Loss after loss, until the window is as small as it gets. */
static void shrink_the_window(struct side *c)
{
    static const char filler[1150];

    for (int i = 0; i < 8; i++) {
        lose(1);
        CHECK_INT(es_link_datagram(c->link, filler, sizeof filler), ==, 0);
        UNTIL(&rig, 0.2, 0);
        lose(0);
        CHECK(say(c, 2));
        UNTIL(&rig, 0.2, 0);
    }
}

/* The client's NAT gives it another port, and all its answers to the server's question whether it is there
 * get lost: they fill its window. */
static void choke(struct side *c, double dark)
{
    struct es_link_stats st;

    rebind(4001);
    CHECK_INT(es_link_datagram(c->link, "a", 1), ==, 0);
    UNTIL(&rig, 0.06, 0);
    lose(1);
    UNTIL(&rig, 1, 0);
    es_link_stats_get(c->link, &st);
    if (ES_COMPAT_DATAGRAMS_UNPROBED) { /* 1.11 has asked, and knows */
        CHECK_INT(st.bytes_in_flight, >=, st.cwnd);
    }
    UNTIL(&rig, dark, 0);
    lose(0);
}

/* 0.12 does not ask what became of such answers, nor of datagrams and PINGs, and with its window full of them
 * it sends nothing else either. */
TEST(a_client_whose_window_is_full_of_what_nobody_asks_for_goes_on)
{
    for (double dark = 0.1; dark < 20; dark *= 5) {
        struct rig_options o;
        struct side *c;

        rig_options(&o);
        c = up(&o, 0);
        REQUIRE(c != NULL);
        es_timer_init(&ticker, on_tick, NULL);
        on_tick(&ticker);
        shrink_the_window(c);
        choke(c, dark);
        for (int i = 0; i < 20; i++) {
            CHECK(say(c, i == 0 ? 20 : 1));
        }
        CHECK_STR(c->info.reason, "");
        es_timer_stop(es_poller_timers(rig.p), &ticker);
        down();
    }
}

/* ---- before the handshake is over ---- */

/* Of a client whose last handshake message was lost, and comes from another port or another address when it
 * is sent again: until its first answer is there, in seconds. */
static double first_answer(const char *to, int lost)
{
    struct rig_options o;
    struct side *c;
    union es_addr where;
    uint64_t began;
    double took;

    rig_options(&o);
    o.bind = "10.0.0.1:0";
    o.client_bind = "10.0.0.2:0";
    if (rig_open(&rig, &o) != 0) {
        test_fail(__FILE__, __LINE__, "rig: %s", rig.err);
        return 1e9;
    }
    path.delay = 50 * ES_MILLI;
    es_sim_set_path(sim, NULL, NULL, &path);
    c = rig_dial(&rig, &o);
    turn(&rig); /* its first packet is under way */
    lose(lost);
    CHECK(UNTIL(&rig, 1, c->established));
    CHECK_INT(rig.s[0].established, ==, 0);
    began = es_poller_now(rig.p);
    es_addr_parse(&where, to);
    CHECK_INT(es_sim_move(sim, rig.client, &where), ==, 0);
    path.loss = 0;
    es_sim_set_path(sim, NULL, NULL, &path);
    es_sim_set_path(sim, "10.0.0.2", NULL, &path);
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, NULL, &stream), ==, 0);
    CHECK_INT(es_link_write(stream, "a", 1, 0), ==, 0);
    UNTIL(&rig, 60, c->closed || c->received == 1);
    took = (double)(es_poller_now(rig.p) - began) / 1e9;
    CHECK_STR(c->info.reason, "");
    if (!c->closed) {
        UNTIL(&rig, 10, 0);
        CHECK(say(c, 1));
    }
    down();
    return took;
}

/* The library ignores what comes from elsewhere before the handshake is over: the server forgot the client
 * after 10 s, and the client waited for it as long as it waits for anything. */
TEST(a_nat_that_changes_between_the_two_ends_of_a_handshake_costs_some_round_trips)
{
    CHECK(first_answer("10.0.0.2:4001", 0) < 0.5);
    CHECK(first_answer("10.0.0.3:4001", 0) < 0.5);
    CHECK(first_answer("10.0.0.2:4001", 1) < 1);
    CHECK(first_answer("10.0.0.3:4001", 1) < 1);
}
