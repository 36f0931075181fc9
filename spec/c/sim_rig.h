/* The rig of transport_support.h over the simulated network. */
#ifndef ES_SPEC_C_SIM_RIG_H
#define ES_SPEC_C_SIM_RIG_H

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

static void down(void)
{
    rig_close(&rig);
    es_sim_del(sim);
}

#endif
