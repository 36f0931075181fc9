// needs: csrc/base csrc/transport spec/c/hostile.c spec/c/hostile_edit.c
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// RELIABILITY T2: peers that complete an honest handshake and then send frames nobody should.
#include "hostile_world.h"

/* Streams 0 and 1 are the two-way ones of the client and the server, 2 and 3 their one-way ones. */
static const struct row frame_rows[] = {
    ROW("a frame of an unknown type", OURS_BOTH, "21", 0x07),
    ROW("a frame of an unknown type of two bytes", OURS_BOTH, "40ff", 0x07),
    ROW("a stream's data longer than its packet", OURS_BOTH, "0a 00 7fff", 0x07),
    ROW("a reason longer than its packet", OURS_BOTH, "1c 00 00 7fff", 0x07),
    ROW("an acknowledgement of what was never sent", OURS_BOTH, "02 8000ffff 00 00 00", 0x0a),
    ROW("an acknowledgement of more than all", OURS_BOTH, "02 00 00 00 05", 0x07),
    ROW("an acknowledgement with a gap below zero", OURS_BOTH, "02 00 00 01 00 00 00", 0x07),
    ROW("an acknowledgement of more ranges than there are bytes", OURS_BOTH, "02 00 00 bfffffff 00", 0x07),

    ROW("MAX_STREAMS of 2^60", OURS_BOTH, "12 d000000000000000", SURVIVES),
    ROW("MAX_STREAMS of 2^60 + 1", OURS_BOTH, "12 d000000000000001", 0x07),
    ROW("MAX_STREAMS of 2^60 + 1, one way", OURS_BOTH, "13 d000000000000001", 0x07),
    ROW("STREAMS_BLOCKED at 2^60 + 1", OURS_BOTH, "16 d000000000000001", 0x07),
    ROW("STREAMS_BLOCKED at 2^60 + 1, one way", OURS_BOTH, "17 d000000000000001", 0x07),
    WRONG("a frame type in more bytes than it needs", "4001", NULL, 0x0a, 0x07,
          "ngtcp2 does not know the frame, which is allowed"),
    ROW("congestion marks that fall", OURS_BOTH, "03 00 00 00 00 09 09 09 03 00 00 00 00 00 00 00", SURVIVES),
    ROW("MAX_DATA that takes back", OURS_BOTH, "10 00", SURVIVES),

    ROW("a connection id of no bytes", OURS_BOTH, "18 08 00 00 00*16", 0x07),
    ROW("a connection id of 21 bytes", OURS_BOTH, "18 08 00 15 aa*21 00*16", 0x07),
    ROW("a connection id that retires itself", OURS_BOTH, "18 08 09 08 aa*8 00*16", 0x07),
    ROW("more connection ids than we asked for", OURS_BOTH,
        "18 08 00 08 aa*8 01*16 18 09 00 08 ab*8 02*16 18 0a 00 08 ac*8 03*16 18 0b 00 08 ad*8 04*16", 0x09),
    ROW("another id under a number already given", OURS_BOTH, "18 00 00 08 aa*8 00*16", 0x0a),
    ROW("one connection id under two numbers", OURS_BOTH, "18 08 08 08 aa*8 01*16 18 09 08 08 aa*8 02*16",
        0x0a),
    ROW("another token for the same connection id", OURS_BOTH,
        "18 08 08 08 aa*8 01*16 18 08 08 08 aa*8 02*16", 0x0a),
    ROW("retiring an id we never gave", OURS_BOTH, "19 40c8", 0x0a),
    ROW("retiring the id the packet was sent to", OURS_BOTH, "19 00", 0x0a),

    ROW("HANDSHAKE_DONE for a server", OURS_SERVER, "1e", 0x0a),
    ROW("HANDSHAKE_DONE thrice", OURS_CLIENT, "1e 1e 1e", SURVIVES),
    ROW("NEW_TOKEN for a server", OURS_SERVER, "07 04 01020304", 0x0a),
    ROW("NEW_TOKEN", OURS_CLIENT, "07 04 01020304", SURVIVES),
    ROW("NEW_TOKEN without a token", OURS_CLIENT, "07 00", 0x07),

    ROW2("data on a stream we never opened", "0a 01 01 41", "0a 00 01 41", 0x05),
    ROW2("data on a stream only we may write", "0a 03 01 41", "0a 02 01 41", 0x05),
    ROW2("the last stream allowed", "0b 4ffc 01 41", "0b 4ffd 01 41", SURVIVES),
    ROW2("one stream more than allowed", "0a 5000 01 41", "0a 5001 01 41", 0x04),
    ROW2("one one-way stream more than allowed", "0a 4042 01 41", "0a 4043 01 41", 0x04),
    ROW2("the last byte the window allows", "0e 00 8003ffff 01 41", "0e 01 8003ffff 01 41", SURVIVES),
    ROW2("one byte more than the window allows", "0e 00 80040000 01 41", "0e 01 80040000 01 41", 0x03),
    WRONG("stream data past the largest offset", "0e 00 ffffffffffffffff 01 41",
          "0e 01 ffffffffffffffff 01 41", 0x07, 0x03, "both are allowed"),
    ROW2("data behind the end", "0b 00 05 4142434445 0e 00 05 01 46", "0b 01 05 4142434445 0e 01 05 01 46",
         0x06),
    ROW2("two different ends", "0b 00 05 4142434445 0f 00 06 01 46", "0b 01 05 4142434445 0f 01 06 01 46",
         0x06),
    ROW2("an end before what was sent", "0a 00 05 4142434445 0f 00 02 00", "0a 01 05 4142434445 0f 01 02 00",
         0x06),
    ROW2("a reset that ends before what was sent", "0a 00 05 4142434445 04 00 00 02",
         "0a 01 05 4142434445 04 01 00 02", 0x06),
    ROW2("a reset that ends beyond the window", "04 00 00 80ffffff", "04 01 00 80ffffff", 0x03),
    ROW2("a reset with another end than FIN", "0b 00 05 4142434445 04 00 00 06",
         "0b 01 05 4142434445 04 01 00 06", 0x06),
    ROW2("two resets with two ends", "0a 00 01 41 04 00 00 01 04 00 00 02",
         "0a 01 01 41 04 01 00 01 04 01 00 02", 0x06),
    ROW2("data behind the end that a reset gave", "0a 00 01 41 04 00 00 01 0e 00 01 01 42",
         "0a 01 01 41 04 01 00 01 0e 01 01 01 42", 0x06),
    ROW2("a reset of a stream we never opened", "04 01 00 00", "04 00 00 00", 0x05),
    WRONG("a reset of a stream only we may write", "04 03 00 00", "04 02 00 00", 0x05, 0x0a,
          "ngtcp2 says PROTOCOL_VIOLATION"),
    ROW2("a reset of one stream more than allowed", "04 5000 00 00", "04 5001 00 00", 0x04),
    ROW2("STOP_SENDING for a stream we never opened", "05 01 00", "05 00 00", 0x05),
    ROW2("STOP_SENDING for a stream only the peer may write", "05 02 00", "05 03 00", 0x05),
    ROW2("STOP_SENDING for one stream more than allowed", "05 5000 00", "05 5001 00", 0x04),
    ROW2("MAX_STREAM_DATA for a stream we never opened", "11 01 40ff", "11 00 40ff", 0x05),
    ROW2("MAX_STREAM_DATA for a stream only the peer may write", "11 02 40ff", "11 03 40ff", 0x05),
    WRONG("STREAM_DATA_BLOCKED of a stream we never opened", "15 01 00", "15 00 00", 0x05, SURVIVES,
          "ngtcp2 0.12 ignores the frame"),
    WRONG("STREAM_DATA_BLOCKED of a stream only we may write", "15 03 00", "15 02 00", 0x05, SURVIVES,
          "ngtcp2 0.12 ignores the frame"),

    ROW("the largest datagram we take", OURS_BOTH, "31 41f1 00*497", SURVIVES),
    ROW("a datagram one byte larger than we take", OURS_BOTH, "31 41f2 00*498", 0x0a),
    ROW("a datagram longer than its packet", OURS_BOTH, "31 7fff", 0x07),
    ROW("a datagram to the end of its packet, larger than we take", OURS_BOTH, "30 00*600", 0x0a),
    ROW("a path response nobody asked for", OURS_BOTH, "1b 0102030405060708", SURVIVES),
    ROW("path challenges", OURS_BOTH, "1a 0102030405060708 1a 0102030405060709", SURVIVES),
    {"reserved bits in the header", OURS_BOTH, HOSTILE_1RTT, RESERVED, "01", NULL, 0x0a, 0, NULL},
    {"reserved bits in a header of the handshake", OURS_BOTH, HOSTILE_HANDSHAKE, RESERVED, "01", NULL, 0x0a,
     0, NULL},

    {"an application's close at the handshake's level", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "1d 00 00",
     NULL, 0x0a, 0, NULL},
    {"an unknown frame at the handshake's level", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "21", NULL, 0x07, 0,
     NULL},
    {"stream data at the initial level", OURS_BOTH, HOSTILE_INITIAL, FRAMES, "0a 00 01 41", "0a 01 01 41",
     0x0a, SURVIVES, "anybody can forge Initial packets: ngtcp2 drops bad ones"},
    {"HANDSHAKE_DONE at the initial level", OURS_BOTH, HOSTILE_INITIAL, FRAMES, "1e", NULL, 0x0a, SURVIVES,
     "anybody can forge Initial packets: ngtcp2 drops bad ones"},
    {"an application's close at the initial level", OURS_BOTH, HOSTILE_INITIAL, FRAMES, "1d 00 00", NULL,
     0x0a, SURVIVES, "anybody can forge Initial packets: ngtcp2 drops bad ones"},
    {"a datagram at the initial level", OURS_BOTH, HOSTILE_INITIAL, FRAMES, "31 01 41", NULL, 0x0a, SURVIVES,
     "anybody can forge Initial packets: ngtcp2 drops bad ones"},
    {"an unknown frame at the initial level", OURS_BOTH, HOSTILE_INITIAL, FRAMES, "21", NULL, 0x07, SURVIVES,
     "anybody can forge Initial packets: ngtcp2 drops bad ones"},
};

/* RFC 9000 12.4: of these none belongs into a packet of the handshake. */
static const char *const of_1rtt[] = {"04 00 00 00",
                                      "05 00 00",
                                      "07 01 41",
                                      "08 00",
                                      "0a 00 01 41",
                                      "0f 00 00 01 41",
                                      "10 40ff",
                                      "11 00 40ff",
                                      "12 40ff",
                                      "13 40ff",
                                      "14 00",
                                      "15 00 00",
                                      "16 00",
                                      "17 00",
                                      "18 01 00 08 aa*8 00*16",
                                      "19 00",
                                      "1a 0102030405060708",
                                      "1b 0102030405060708",
                                      "1d 00 00",
                                      "1e",
                                      "30 41",
                                      "31 01 41"};

TEST(frames_of_1rtt_at_the_level_of_the_handshake)
{
    struct world w;

    REQUIRE(world_open(&w) == 0);
    for (size_t i = 0; i < COUNT(of_1rtt); i++) {
        struct row k = {of_1rtt[i], OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, of_1rtt[i], NULL, 0x0a, 0, NULL};
        run_row(&w, &k, OURS_SERVER, 1);
        run_row(&w, &k, OURS_CLIENT, 1);
    }
    rig_close(&w.r);
}

/* Whole frames of every type; each is cut at every byte. */
static const char *const whole[] = {"02 00 00 00 00",
                                    "02 01 00 01 00 00 00",
                                    "03 00 00 00 00 00 00 00",
                                    "04 08 00 00",
                                    "05 08 00",
                                    "06 00 02 0400",
                                    "07 02 4142",
                                    "0a 08 02 4142",
                                    "0c 4008 40ff",
                                    "0f 08 00 02 4142",
                                    "10 40ff",
                                    "11 08 40ff",
                                    "12 40ff",
                                    "13 40ff",
                                    "14 40ff",
                                    "15 08 40ff",
                                    "16 4001",
                                    "17 4001",
                                    "18 08 00 08 aa*8 bb*16",
                                    "19 4001",
                                    "1a 0102030405060708",
                                    "1b 0102030405060708",
                                    "1c 00 00 02 4142",
                                    "1d 00 02 4142",
                                    "31 02 4142"};

TEST(every_frame_cut_at_every_byte)
{
    struct world w;
    char name[80], hex[2 * 64 + 1];

    REQUIRE(world_open(&w) == 0);
    for (size_t i = 0; i < COUNT(whole); i++) {
        const char *text = whole[i];
        uint8_t bytes[64];
        size_t n = hostile_read(&text, bytes, sizeof bytes);
        for (size_t cut = 1; cut < n; cut++) {
            struct row k = {name, OURS_BOTH, HOSTILE_1RTT, AT_END, hex, NULL, 0x07, 0, NULL};
            snprintf(name, sizeof name, "%.40s cut after %u", whole[i], (unsigned)cut);
            for (size_t b = 0; b < cut; b++) {
                snprintf(hex + 2 * b, 3, "%02x", bytes[b]);
            }
            run_row(&w, &k, OURS_SERVER, 1);
            run_row(&w, &k, OURS_CLIENT, 1);
        }
    }
    rig_close(&w.r);
}

TEST(a_datagram_where_none_was_offered)
{
    struct world w;
    struct row k = {"a datagram", OURS_BOTH, HOSTILE_1RTT, FRAMES, "31 01 41", NULL, 0x0a, 0, NULL};

    REQUIRE(world_open(&w) == 0);
    rig_close(&w.r);
    w.o.server.max_datagram = w.o.client.max_datagram = 0;
    REQUIRE(rig_open(&w.r, &w.o) == 0);
    run_row(&w, &k, OURS_SERVER, 1);
    run_row(&w, &k, OURS_CLIENT, 1);
    rig_close(&w.r);
}

TEST(frames_that_break_a_rule)
{
    run_table(frame_rows, COUNT(frame_rows));
}

TEST(the_window_of_the_whole_connection_holds)
{
    struct world w;
    uint8_t frames[33 * 9];
    size_t n = 0;

    REQUIRE(world_open(&w) == 0);
    for (int ours = OURS_SERVER; ours <= OURS_CLIENT; ours++) {
        for (unsigned count = 32; count <= 33;
             count++) { /* of streams with 256 KiB each: 8 MiB, and a little more */
            struct hostile_plan plan = {.is_server = ours == OURS_CLIENT,
                                        .alpn = "test/1",
                                        .cert = w.r.cert,
                                        .key = w.r.key,
                                        .level = HOSTILE_1RTT};
            struct side *s = begin(&w, &plan);
            REQUIRE(s != NULL);
            turns(&w);
            n = 0;
            for (unsigned i = 2; i < 2 + count; i++) { /* the first two are those of hostile_hello */
                unsigned id = 4 * i + (ours == OURS_CLIENT);
                const uint8_t f[] = {
                    0x0e, (uint8_t)(0x40 | id >> 8), (uint8_t)id, 0x80, 0x03, 0xff, 0xff, 0x01, 0x41};
                memcpy(frames + n, f, sizeof f);
                n += sizeof f;
            }
            CHECK_INT(hostile_inject_bytes(w.h, frames, n), ==, 0);
            if (count == 33) {
                CHECK_INT(outcome(&w), ==, 0x03);
            } else {
                for (int i = 0; i < 20; i++) {
                    turns(&w);
                }
                CHECK_INT(s->closed, ==,
                          0); /* the window is used up to the last byte: nothing more can be said */
            }
            end(&w);
            CHECK(WAIT(&w, 2, s->closed == 1));
        }
    }
    honest(&w, "a full window");
    rig_close(&w.r);
}
