// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// Which of a client's connection ids it knows to be retired (transport/names.c).
#include "../../csrc/transport/internal.h"
#include "test.h"

static struct es_conn c;

static void begin(void)
{
    memset(&c, 0, sizeof c);
    c.names.follow = 1;
}

/* RETIRE_CONNECTION_ID in a packet of ours. */
static void retire(uint8_t id, int64_t packet)
{
    uint8_t frame[2] = {0x19, id};

    c.acks.next = packet + 1;
    es_names_sealed(&c, frame, sizeof frame);
}

static void acked(uint8_t first, uint8_t last)
{
    uint8_t frame[5] = {2, last, 0, 0, (uint8_t)(last - first)};

    es_names_acked(&c, frame, sizeof frame);
}

TEST(an_id_is_let_go_when_the_packet_that_said_so_is_acknowledged)
{
    begin();
    retire(3, 10);
    acked(0, 9);
    CHECK_INT(c.names.let_go, ==, 0);
    acked(11, 40);
    CHECK_INT(c.names.let_go, ==, 0);
    acked(8, 12);
    CHECK_INT(c.names.let_go, ==, 1);
    acked(8, 12);
    CHECK_INT(c.names.let_go, ==, 1);
    CHECK_INT(c.names.n_going, ==, 0);
}

/* Three later packets overtook it, but it was only late: the library does not send it again then. */
TEST(an_acknowledgement_that_comes_late_counts)
{
    begin();
    retire(3, 10);
    acked(11, 20);
    acked(21, 60);
    acked(10, 10);
    CHECK_INT(c.names.let_go, ==, 1);
}

TEST(of_all_packets_that_said_so_the_first_acknowledgement_counts_and_no_other)
{
    for (uint8_t which = 0; which < 3; which++) {
        begin();
        retire(3, 10);
        retire(4, 11);
        retire(3, 15);
        retire(3, 19);
        acked(which == 0 ? 10 : which == 1 ? 15 : 19, which == 0 ? 10 : which == 1 ? 15 : 19);
        CHECK_INT(c.names.let_go, ==, 1);
        CHECK_INT(c.names.n_going, ==, 1);
        acked(0, 30);
        CHECK_INT(c.names.let_go, ==, 2);
        CHECK_INT(c.names.n_going, ==, 0);
    }
}

TEST(an_id_that_is_told_again_and_again_takes_no_room_from_others)
{
    begin();
    retire(1, 0);
    for (int64_t i = 1; i < 60; i++) {
        retire(2, i);
    }
    CHECK_INT(c.names.n_going, ==, ES_GOING_MAX);
    acked(59, 59);
    CHECK_INT(c.names.let_go, ==, 1);
    CHECK_INT(c.names.n_going, ==, 1);
    acked(0, 0);
    CHECK_INT(c.names.let_go, ==, 2);
}
