// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// What the frames of a packet cost (transport/frames.c).
#include "../../csrc/transport/internal.h"
#include "test.h"

static const struct row {
    const char *frames; /* NN*k repeats the byte NN k times */
    unsigned cost;
} rows[] = {
    {"00*1200", 1}, /* nothing but padding */
    {"01", 1},
    {"01*300", 300},
    {"01 00*1000 01", 2},
    {"02 05 00 00 05", 0},
    {"02 05 00 00 05 0a 00 05 6865 6c6c 6f", 0},
    {"02 05 00 00 05 02 05 00 00 05", 1},
    {"03 05 00 00 05 01 02 03", 0},
    {"04 00 00 00", 1},
    {"05 00 00", 1},
    {"05 00 00 04 00 00 00", 1}, /* one stream, given up both ways */
    {"04 00 00 00 05 00 00", 1},
    {"05 00 00 04 00 00 00 05 00 00 04 00 00 00", 2},
    {"05 00 00 04 04 00 00", 2},
    {"05 00 00 05 00 00", 2},
    {"04 00 00 00 04 00 00 00", 2},
    {"06 00 02 0400", 1},
    {"07 02 4142", 1},
    {"0a 00 00", 1}, /* nothing in it */
    {"0b 00 00", 1},
    {"0b 00 01 41", 0},     /* short, but the end */
    {"0a 00 03 414243", 1}, /* a piece */
    {"0a 00 04 41424344", 0},
    {"0e 00 07 01 41 0e 00 09 01 41", 2},
    {"0a 00 43e8 41*1000 0a 04 01 41", 0}, /* what was left of a packet */
    {"0a 00 43e8 41*1000 0a 04 01 41 0a 08 01 41", 1},
    {"08 00 41*10", 0},
    {"08 00", 1},
    {"0c 00 05 41*10", 0},
    {"10 40ff 11 00 40ff 12 40ff 13 40ff", 0},
    {"10 40ff 11 00 40ff 12 40ff 13 40ff 14 40ff 15 00 40ff 16 01 17 01", 4},
    {"18 01 00 08 aa*8 bb*16", 2},
    {"18 01 00 08 aa*8 bb*16 19 00", 4},
    {"1a 0102030405060708 1b 0102030405060708", 4},
    {"1c 00 00 02 4142", 0},
    {"1d 00 02 4142", 0},
    {"1e", 1},
    {"30", 1},
    {"30 41", 0},
    {"31 00", 1},
    {"31 01 41", 0},
    {"31 00 31 00 01", 3},
    /* malformed: ngtcp2 closes for it; here it must only come to an end */
    {"0a 00 7fff", 0},
    {"02 05 00 bfffffff 00", 0},
    {"21", 0},
    {"18 01 00 ff", 2},
    {"06", 1},
    {"1a 01", 2},
    {"1c 00 00 ff*8", 0},
};

static size_t read_hex(const char *s, uint8_t *out)
{
    size_t n = 0;

    while (*s != '\0') {
        char two[3] = {s[0], s[1], '\0'};
        unsigned long more = 1;
        if (*s == ' ') {
            s++;
            continue;
        }
        s += 2;
        if (*s == '*') {
            more = strtoul(s + 1, (char **)(uintptr_t)&s, 10);
        }
        while (more-- > 0) {
            out[n++] = (uint8_t)strtoul(two, NULL, 16);
        }
    }
    return n;
}

TEST(each_frame_has_its_price)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t b[2048], *exact;
        size_t n = read_hex(rows[i].frames, b);
        const char *what;
        uint32_t cost;

        exact = malloc(n); /* its end is the end of what a sanitizer allows to be read */
        memcpy(exact, b, n);
        cost = es_frames_look(exact, n, NULL, NULL, &what);
        if (cost != rows[i].cost) {
            test_fail(__FILE__, __LINE__, "\"%s\" costs %u (%s), expected: %u", rows[i].frames, cost, what,
                      rows[i].cost);
        }
        free(exact);
    }
}

TEST(an_ack_may_have_as_many_ranges_as_honest_peers_send)
{
    uint8_t b[512];
    const char *what;
    size_t n;

    for (unsigned ranges = 64; ranges <= 65; ranges++) {
        n = read_hex("02 40ff 00", b);
        b[n++] = 0x40;
        b[n++] = (uint8_t)ranges;
        b[n++] = 0;
        memset(b + n, 0, 2 * ranges);
        CHECK_INT(es_frames_look(b, n + 2 * ranges, NULL, NULL, &what), ==, ranges == 64 ? 0 : 4);
    }
}

TEST(any_bytes_come_to_an_end)
{
    uint32_t x = 12345;
    const char *what;

    for (int i = 0; i < 200000; i++) {
        uint8_t b[64];
        size_t n = (size_t)i % sizeof b;
        for (size_t k = 0; k < n; k++) {
            x = x * 1664525 + 1013904223;
            b[k] = (uint8_t)(x >> 24) & (i & 1 ? 0x1f : 0xff);
        }
        (void)es_frames_look(b, n, NULL, NULL, &what);
    }
}
