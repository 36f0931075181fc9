// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
//
// What a session charges a peer for (base/glitch.h). Each case is a row: what the peer does, and the points
// of it; as often as the budget allows it passes, and once more closes the session with excessive_load.
#include "session_raw.h"

static struct env e;

#define BUDGET  40
#define ADD(id) "02 15 04 01 " id " 08 6d6174682e616464 80007530 03 00 920a14"

#define HELLO                                                                                                \
    "00 001e000002 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064" /* with CRC-32C            \
                                                                                   */

enum how { CALL, UNI, CONTROL, DATAGRAM };

static const struct row {
    const char *name;
    enum how how;
    const char *bytes;
    unsigned points;
} rows[] = {
    {"a call of an unknown method", CALL, "02 15 04 01 01 08 6d6174682e737562 80007530 03 00 920a14", 1},
    {"a call in an unknown codec", CALL, "02 15 04 2f 01 08 6d6174682e616464 80007530 03 00 920a14", 1},
    {"a named stream that nobody has", CALL, "02 08 03 00 01 01 78 00 03 00", 1},
    {"a call with a wrong checksum", CALL,
     "02 19 20 01 01 08 6d6174682e616464 80007530 03 00 920a14 00000000", 1},
    {"a request that claims 16 MiB", CALL, "02 81000000 04 01 01 08", 1},
    {"a one-way stream of an unknown kind", UNI, "07 41", 4},
    {"a CANCEL of nothing", CONTROL, "0a 02 3f 10", 1},
    {"a PING", CONTROL, "11 01 05", 1},
    {"a PONG of nothing", CONTROL, "13 03 05 06 07", 1},
    {"a datagram that is no event", DATAGRAM, "0a 01 10", 1},
};

static struct raw_stream *control;

static int start(void)
{
    struct env_options o = {.uni = 1000};

    if (raw_start(&e, SERVER, &o) != 0) {
        test_fail(__FILE__, __LINE__, "no session");
        return -1;
    }
    env_add(&e, SERVER, ES_KIND_RPC, "math.add", REF_ECHO, 0, 0);
    control = raw_open(ES_DIR_UNI, HELLO, 0);
    env_pump(&e);
    e.quiet = 1;
    es_pair_link(e.pair, 1)->glitch.budget = BUDGET;
    return 0;
}

static struct raw_stream *open_again(int dir, const char *hex, int fin)
{
    raw.n = 40; /* the same slot each time */
    memset(&raw.stream[40], 0, sizeof raw.stream[40]);
    return raw_open(dir, hex, fin);
}

static void act(const struct row *k)
{
    uint8_t b[64];

    switch (k->how) {
    case CALL:
        open_again(ES_DIR_BIDI, k->bytes, 0);
        break;
    case UNI:
        open_again(ES_DIR_UNI, k->bytes, 0);
        break;
    case CONTROL:
        raw_write(control, k->bytes, 0);
        break;
    case DATAGRAM:
        CHECK_INT(es_link_datagram(raw.link, b, test_unhex(k->bytes, b, sizeof b)), ==, 0);
        break;
    }
    env_pump(&e);
}

TEST(the_budget_passes_and_once_more_closes)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *k = &rows[i];

        if (start() != 0)
            return;
        for (unsigned n = 0; n < BUDGET / k->points && !raw.closed; n++)
            act(k);
        if (raw.closed)
            test_fail(__FILE__, __LINE__, "\"%s\": closed within the budget: %s", k->name, raw.info.reason);
        else
            act(k);
        if (!raw.closed || raw.info.code != ES_APP_EXCESSIVE_LOAD)
            test_fail(__FILE__, __LINE__, "\"%s\": not closed beyond the budget", k->name);
        env_stop(&e);
    }
}

TEST(calls_that_are_answered_pay_for_a_few_that_are_not)
{
    if (start() != 0)
        return;
    for (int i = 0; i < 10 * BUDGET && !raw.closed; i++) {
        act(&rows[0]);
        open_again(ES_DIR_BIDI, ADD("02"), 1);
        env_pump(&e);
    }
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(time_pays_too)
{
    if (start() != 0)
        return;
    for (int i = 0; i < 10 * BUDGET && !raw.closed; i++) {
        act(&rows[0]);
        e.timers.now += ES_SECOND;
    }
    CHECK(!raw.closed);
    env_stop(&e);
}

TEST(without_a_budget_nothing_closes)
{
    if (start() != 0)
        return;
    es_pair_link(e.pair, 1)->glitch.budget = 0;
    for (int i = 0; i < 10 * BUDGET && !raw.closed; i++)
        act(&rows[0]);
    CHECK(!raw.closed);
    env_stop(&e);
}
