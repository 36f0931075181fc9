// needs: csrc/base csrc/transport spec/c/hostile.c spec/c/hostile_edit.c
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// RELIABILITY T1: peers that complete an honest handshake and then send TLS messages where none belong.
#include "hostile_world.h"

static const struct row tls_rows[] = {
    ROW("a KeyUpdate that asks for one back", OURS_BOTH, "06 00 05 1800000101", UNEXPECTED),
    ROW("a KeyUpdate that asks for nothing", OURS_BOTH, "06 00 05 1800000100", UNEXPECTED),
    ROW("a KeyUpdate with a value nobody defined", OURS_BOTH, "06 00 05 18000001ff", UNEXPECTED),
    ROW("Finished", OURS_BOTH, "06 00 24 14000020 00*32", UNEXPECTED),
    ROW("ClientHello", OURS_BOTH, "06 00 08 01000004 03030000", UNEXPECTED),
    ROW("garbage", OURS_BOTH, "06 00 08 ff*8", UNEXPECTED),
    ROW("a single byte of KeyUpdate", OURS_BOTH, "06 00 01 18", UNEXPECTED),
    ROW("KeyUpdate in frames of one byte", OURS_BOTH,
        "06 00 01 18 06 01 01 00 06 02 01 00 06 03 01 01 06 04 01 01", UNEXPECTED),
    ROW("KeyUpdate in packets of one byte", OURS_BOTH,
        "06 00 01 18|06 01 01 00|06 02 01 00|06 03 01 01|06 04 01 01", UNEXPECTED),
    ROW("KeyUpdate backwards, frame by frame", OURS_BOTH,
        "06 04 01 01 06 03 01 01 06 02 01 00 06 01 01 00 06 00 01 18", UNEXPECTED),
    ROW("KeyUpdate backwards, packet by packet", OURS_BOTH, "06 01 04 00000101|06 00 01 18", UNEXPECTED),
    ROW("KeyUpdate behind a gap that never fills", OURS_BOTH, "06 05 05 1800000101", SURVIVES),
    ROW("KeyUpdate twice in one frame", OURS_BOTH, "06 00 0a 18000001011800000101", UNEXPECTED),
    ROW("a TLS message that claims 16 MiB", OURS_BOTH, "06 00 08 18ffffff 01020304", UNEXPECTED),
    ROW("an empty CRYPTO frame", OURS_BOTH, "06 00 00", SURVIVES),
    ROW("CRYPTO bytes 64 KiB ahead", OURS_BOTH, "06 80010001 01 18", 0x0d),
    ROW("CRYPTO bytes past the largest offset", OURS_BOTH, "06 ffffffffffffffff 01 18", 0x07),
    ROW("a CRYPTO frame longer than its packet", OURS_BOTH, "06 00 7fff 18", 0x07),
    ROW("a ticket for a server", OURS_SERVER, "06 00 1a " TICKET, UNEXPECTED),

    ROW("a ticket", OURS_CLIENT, "06 00 1a " TICKET, SURVIVES),
    ROW("two tickets in one frame", OURS_CLIENT, "06 00 34 " TICKET TICKET, SURVIVES),
    ROW("a ticket in two frames", OURS_CLIENT,
        "06 00 03 040000 06 03 17 16 00000e10 00000000 01 00 0008 0102030405060708 0000", SURVIVES),
    ROW("a ticket in two packets, the second one first", OURS_CLIENT,
        "06 03 17 16 00000e10 00000000 01 00 0008 0102030405060708 0000|06 00 03 040000", SURVIVES),
    ROW("a ticket and a KeyUpdate in one frame", OURS_CLIENT, "06 00 1f " TICKET "1800000101", UNEXPECTED),
    ROW("a ticket and then a KeyUpdate", OURS_CLIENT, "06 00 1a " TICKET "|06 1a 05 1800000101", UNEXPECTED),
    ROW("a ticket that claims more than the cap", OURS_CLIENT, "06 00 08 0400fffd 00000000", UNEXPECTED),
    ROW("a ticket that just fits under the cap and never ends", OURS_CLIENT, "06 00 08 0400fffc 00000000",
        SURVIVES),

    {"a ticket before the handshake is confirmed", OURS_CLIENT, HOSTILE_1RTT, UNCONFIRMED, "06 00 1a " TICKET,
     NULL, SURVIVES, 0, NULL},
    {"tickets before the handshake is confirmed", OURS_CLIENT, HOSTILE_1RTT, UNCONFIRMED,
     "06 00 34 " TICKET TICKET, NULL, SURVIVES, 0, NULL},
    {"KeyUpdate before the handshake is confirmed", OURS_CLIENT, HOSTILE_1RTT, UNCONFIRMED,
     "06 00 05 1800000101", NULL, UNEXPECTED, 0, NULL},
    {"a ticket and a KeyUpdate before the handshake is confirmed", OURS_CLIENT, HOSTILE_1RTT, UNCONFIRMED,
     "06 00 1f " TICKET "1800000101", NULL, UNEXPECTED, 0, NULL},
    {"CertificateRequest before the handshake is confirmed", OURS_CLIENT, HOSTILE_1RTT, UNCONFIRMED,
     "06 00 07 0d000003 000000", NULL, UNEXPECTED, 0, NULL},
    {"an empty ticket before the handshake is confirmed", OURS_CLIENT, HOSTILE_1RTT, UNCONFIRMED,
     "06 00 04 04000000", NULL, TLS_ALERT + 50, TLS_ALERT + 80, "GnuTLS takes it for its own error"},

    /* RFC 9001 4.1.3: nothing may follow Finished at its level. */
    {"KeyUpdate behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, TAIL, "1800000101", NULL, UNEXPECTED, 0,
     NULL},
    {"two KeyUpdates behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, TAIL, "18000001011800000100", NULL,
     UNEXPECTED, 0, NULL},
    {"half a KeyUpdate behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, TAIL, "1800", NULL, UNEXPECTED, 0,
     NULL},
    {"a ticket behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, TAIL, TICKET, NULL, UNEXPECTED, 0, NULL},
    {"Finished behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, TAIL, "14000020 00*32", NULL, UNEXPECTED, 0,
     NULL},
    {"garbage behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, TAIL, "ff*40", NULL, UNEXPECTED, 0, NULL},
    {"KeyUpdate behind Finished and a ticket later", OURS_CLIENT, HOSTILE_HANDSHAKE, TAIL_TICKET,
     "1800000101", NULL, UNEXPECTED, 0, NULL},
    {"KeyUpdate in a frame behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "06 @00 05 1800000101",
     NULL, UNEXPECTED, 0, NULL},
    {"two KeyUpdates in frames behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES,
     "06 @00 05 1800000101 06 @05 05 1800000100", NULL, UNEXPECTED, 0, NULL},
    {"KeyUpdate in frames of one byte behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES,
     "06 @00 01 18 06 @01 01 00 06 @02 01 00 06 @03 01 01 06 @04 01 01", NULL, UNEXPECTED, 0, NULL},
    {"a ticket in a frame behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "06 @00 1a " TICKET, NULL,
     UNEXPECTED, 0, NULL},
    {"garbage in a frame behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "06 @00 08 ff*8", NULL,
     UNEXPECTED, 0, NULL},
    {"nothing in a frame behind Finished", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "06 @00 00", NULL, SURVIVES,
     0, NULL},
    {"KeyUpdate behind the Hello", OURS_BOTH, HOSTILE_INITIAL, TAIL, "1800000101", NULL, UNEXPECTED, 0, NULL},
    {"half of another Hello behind the Hello", OURS_BOTH, HOSTILE_INITIAL, TAIL, "01000100 0303",
     "02000100 0303", UNEXPECTED, 0, NULL},
    {"a Hello that claims 16 MiB behind the Hello", OURS_BOTH, HOSTILE_INITIAL, TAIL, "01ffffff 0303",
     "02ffffff 0303", UNEXPECTED, 0, NULL},
    {"garbage behind the Hello", OURS_BOTH, HOSTILE_INITIAL, TAIL, "ff*40", NULL, UNEXPECTED, 0, NULL},
};

TEST(tls_messages_where_none_belong)
{
    run_table(tls_rows, COUNT(tls_rows));
}

TEST(every_type_of_tls_message_in_1rtt)
{
    struct world w;
    char bytes[64];
    struct row k = {"TLS message", OURS_BOTH, HOSTILE_1RTT, FRAMES, bytes, NULL, UNEXPECTED, 0, NULL};

    REQUIRE(world_open(&w) == 0);
    for (unsigned type = 0; type < 256; type++) {
        snprintf(bytes, sizeof bytes, "06 00 05 %02x00000101", type);
        run_row(&w, &k, OURS_SERVER, 0);
        /* Of a ticket the client takes note, unless its TLS is gone already. */
        k.expect = type == 4 ? SURVIVES : UNEXPECTED;
        run_row(&w, &k, OURS_CLIENT, 0);
        k.expect = UNEXPECTED;
    }
    rig_close(&w.r);
}

TEST(tickets_up_to_the_cap_pass_and_one_byte_more_closes)
{
    enum { CAP = 64 * 1024, EACH = 512 };
    struct world w;
    uint8_t frame[7 + EACH];

    REQUIRE(world_open(&w) == 0);
    struct hostile_plan plan = {
        .is_server = 1, .alpn = "test/1", .cert = w.r.cert, .key = w.r.key, .level = HOSTILE_1RTT};
    struct side *s = begin(&w, &plan);
    REQUIRE(s != NULL && s->established);
    for (int i = 0; i < 5; i++) {
        turns(&w); /* confirmed: from now on the client only counts them */
    }
    for (uint32_t at = 0; at <= CAP; at += EACH) {
        size_t n = at < CAP ? EACH : 1;
        const uint8_t head[] = {0x06,
                                (uint8_t)(0x80 | at >> 24),
                                (uint8_t)(at >> 16),
                                (uint8_t)(at >> 8),
                                (uint8_t)at,
                                (uint8_t)(0x40 | n >> 8),
                                (uint8_t)n,
                                0x04,
                                0x00,
                                (EACH - 4) >> 8,
                                (EACH - 4) & 0xff};
        memset(frame, 0, sizeof frame);
        memcpy(frame, head, n < 4 ? 7 + n : sizeof head);
        REQUIRE(s->closed == 0);
        /* In the way may stand the congestion window, until what is under way is acknowledged. */
        REQUIRE(WAIT(&w, 2, hostile_inject_bytes(w.h, frame, 7 + n) == 0));
        turns(&w);
    }
    CHECK_INT(outcome(&w), ==, UNEXPECTED);
    end(&w);
    CHECK(WAIT(&w, 2, s->closed == 1));
    honest(&w, "tickets over the cap");
    rig_close(&w.r);
}
