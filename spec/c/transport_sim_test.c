// needs: csrc/base csrc/transport csrc/sim

// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls

/* Connections over the simulated network: what happens when just the wrong packets are lost. */
#include "test.h"

#include "../../csrc/sim/sim.h"
#include "../../csrc/transport/poller.h"

/* The rig makes its poller itself: here it gets the simulator's. */
static struct es_sim *sim;
static struct es_sim_path path;

static int sim_poller_new(struct es_poller **out)
{
    struct es_sim_config c;
    int rc;

    es_sim_config_default(&c);
    c.seed = 7;
    path = c.path;
    rc = es_sim_new(&sim, &c);
    *out = rc == 0 ? es_sim_poller(sim) : NULL;
    return rc;
}
#define es_poller_new sim_poller_new
#include "transport_support.h"
#undef es_poller_new

static struct rig rig;

static struct side *up(void)
{
    struct rig_options o;
    struct side *c;

    rig_options(&o);
    o.bind = "10.0.0.1:0";
    o.client_bind = "10.0.0.2:0";
    if (rig_open(&rig, &o) != 0) {
        test_fail(__FILE__, __LINE__, "rig: %s", rig.err);
        return NULL;
    }
    rig.echo = 0;
    c = rig_dial(&rig, &o);
    if (!c || !UNTIL(&rig, 5, c->established && rig.n_s == 1 && rig.s[0].established)) {
        test_fail(__FILE__, __LINE__, "no connection: %s", rig.err);
        return NULL;
    }
    UNTIL(&rig, 1, 0); /* the handshake is confirmed */
    return c;
}

static void down(void)
{
    rig_close(&rig);
    es_sim_del(sim);
}

/* ngtcp2 0.12 puts RESET_STREAM before STOP_SENDING, and a 0.12 peer that never saw the stream then forgets
 * it. */
TEST(a_stream_given_up_before_any_of_it_came_is_over_on_both_sides)
{
    static const char data[500];
    struct es_link_stream *s;
    struct side *c = up();

    REQUIRE(c != NULL);
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, data, sizeof data, 1), ==, 0);
    path.loss = 1;
    es_sim_set_path(sim, NULL, NULL, &path);
    es_poller_flush(rig.p);
    path.loss = 0;
    es_sim_set_path(sim, NULL, NULL, &path);
    es_link_stop(s, ES_APP_CANCELLED);
    es_link_reset(s, ES_APP_CANCELLED);
    CHECK(UNTIL(&rig, 5, c->stream_closed == 1));
    CHECK_INT(c->link->held, ==, 0);
    CHECK_INT(rig.s[0].opened, ==, 1);
    CHECK(UNTIL(&rig, 5, rig.s[0].stream_closed == 1));
    down();
}

TEST(a_stream_given_up_before_a_byte_was_written_is_over_on_both_sides)
{
    struct es_link_stream *s;
    struct side *c = up();

    REQUIRE(c != NULL);
    REQUIRE(es_link_open(c->link, ES_DIR_BIDI, NULL, &s) == 0);
    es_link_stop(s, ES_APP_CANCELLED);
    es_link_reset(s, ES_APP_CANCELLED);
    CHECK(UNTIL(&rig, 5, c->stream_closed == 1));
    CHECK(UNTIL(&rig, 5, rig.s[0].stream_closed == 1));
    down();
}
