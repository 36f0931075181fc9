// needs: csrc/base csrc/transport spec/c/hostile.c spec/c/hostile_edit.c
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// RELIABILITY T1 and the cheap part of T2: peers that complete an honest handshake and then send frames
// nobody should. Each case is a row: what is sent, to which of our roles, and the code RFC 9000 (19, 20),
// 9001 (4.1.3, 6) or 9221 wants us to close with. After each of them a fresh honest client shakes hands and
// echoes in under 100 ms; after ten rounds of all of them the core holds as much memory, and the process as
// many descriptors, as after two.
//
// Where the library decides and decides otherwise, the row says so in `also` and `why`; the test prints it,
// and passes with either answer, so that a better library does not break it.
//
// HOSTILE_ROUNDS=2 makes it quick; HOSTILE_CASE=word runs only the rows whose name has the word.
#include <dirent.h>
#include "hostile.h"
#include "test.h"
#include "transport_support.h"

#define SURVIVES   (-1)
#define ROUNDS     10
#define DATAGRAMS  500 /* max_datagram_frame_size of both our roles */
#define TLS_ALERT  0x100
#define UNEXPECTED (TLS_ALERT + 10)

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum ours { OURS_SERVER = 1, OURS_CLIENT = 2, OURS_BOTH = 3 };
enum how { FRAMES, TAIL, TAIL_TICKET, UNCONFIRMED, RESERVED };

struct row {
    const char *name;
    enum ours ours;
    enum hostile_level level;
    /* FRAMES, TAIL: see hostile_plan; TAIL_TICKET: and a ticket in 1-RTT after it; UNCONFIRMED: frames before
     * HANDSHAKE_DONE */
    enum how how;
    const char *bytes; /* for a server of ours; for a client too, unless: */
    const char *client_bytes;
    long expect; /* code of the CONNECTION_CLOSE we send, or SURVIVES */
    long also;   /* what a library does instead; 0: nothing */
    const char *why;
};

#define ROW(name, ours, bytes, expect)                                                                       \
    {                                                                                                        \
        name, ours, HOSTILE_1RTT, FRAMES, bytes, NULL, expect, 0, NULL                                       \
    }
#define ROW2(name, bytes, client_bytes, expect)                                                              \
    {                                                                                                        \
        name, OURS_BOTH, HOSTILE_1RTT, FRAMES, bytes, client_bytes, expect, 0, NULL                          \
    }

#define WRONG(name, bytes, client_bytes, expect, also, why)                                                  \
    {                                                                                                        \
        name, OURS_BOTH, HOSTILE_1RTT, FRAMES, bytes, client_bytes, expect, also, why                        \
    }

/* A ticket that is well formed: 3,600 s, eight bytes. */
#define TICKET "04000016 00000e10 00000000 01 00 0008 0102030405060708 0000"

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
    ROW("MAX_DATA that takes back", OURS_BOTH, "10 00", SURVIVES),

    ROW("a connection id of no bytes", OURS_BOTH, "18 08 00 00 00*16", 0x07),
    ROW("a connection id of 21 bytes", OURS_BOTH, "18 08 00 15 aa*21 00*16", 0x07),
    ROW("a connection id that retires itself", OURS_BOTH, "18 08 09 08 aa*8 00*16", 0x07),
    ROW("more connection ids than we asked for", OURS_BOTH,
        "18 08 00 08 aa*8 01*16 18 09 00 08 ab*8 02*16 18 0a 00 08 ac*8 03*16 18 0b 00 08 ad*8 04*16", 0x09),
    ROW("another id under a number already given", OURS_BOTH, "18 00 00 08 aa*8 00*16", 0x0a),
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
    ROW("a path response nobody asked for", OURS_BOTH, "1b 0102030405060708", SURVIVES),
    ROW("path challenges", OURS_BOTH, "1a 0102030405060708 1a 0102030405060709", SURVIVES),
    {"reserved bits in the header", OURS_BOTH, HOSTILE_1RTT, RESERVED, "01", NULL, 0x0a, 0, NULL},

    {"stream data at the handshake's level", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "0a 00 01 41",
     "0a 01 01 41", 0x0a, 0, NULL},
    {"HANDSHAKE_DONE at the handshake's level", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "1e", NULL, 0x0a, 0,
     NULL},
    {"an application's close at the handshake's level", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "1d 00 00",
     NULL, 0x0a, 0, NULL},
    {"an unknown frame at the handshake's level", OURS_BOTH, HOSTILE_HANDSHAKE, FRAMES, "21", NULL, 0x07, 0,
     NULL},
    {"stream data at the initial level", OURS_BOTH, HOSTILE_INITIAL, FRAMES, "0a 00 01 41", "0a 01 01 41",
     0x0a, SURVIVES, "anybody can forge Initial packets: ngtcp2 drops bad ones"},
    {"an unknown frame at the initial level", OURS_BOTH, HOSTILE_INITIAL, FRAMES, "21", NULL, 0x07, SURVIVES,
     "anybody can forge Initial packets: ngtcp2 drops bad ones"},
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* ---- the world ---- */

struct world {
    struct rig r;
    struct rig_options o;
    struct hostile *h; /* of the case under way */
    double slack;      /* how much slower everything is under a sanitizer or valgrind */
};

/* Our side of a hostile connection answers the hostile peer's own stream and leaves those it never opened
 * alone, whose frames its library would take for ours. */
static void echo_hello(struct side *s, struct es_link_stream *st, const uint8_t *p, size_t n, int fin)
{
    if (n == 5 && memcmp(p, "hello", 5) == 0) {
        es_link_write(st, p, n, fin);
        es_link_stream_done(st);
    }
}

static int world_open(struct world *w)
{
    (void)turn; /* of transport_support.h: it would wait for our sockets only */
    memset(w, 0, sizeof *w);
    w->slack = getenv("VALGRIND") != NULL ? 100 : SANITIZED ? 10 : 1;
    rig_options(&w->o);
    w->o.server.max_datagram = w->o.client.max_datagram = DATAGRAMS;
    return rig_open(&w->r, &w->o);
}

static void turns(struct world *w)
{
    if (w->h != NULL) {
        hostile_step(w->h);
    }
    es_poller_wait(w->r.p, es_poller_now(w->r.p) + ES_MILLI);
    es_poller_step(w->r.p, 64);
    es_poller_flush(w->r.p);
    if (w->h != NULL) {
        hostile_step(w->h);
    }
}

#define WAIT(w, seconds, cond)                                                                               \
    ({                                                                                                       \
        uint64_t until_ = es_poller_now((w)->r.p) + (uint64_t)((seconds) * (w)->slack * 1e9);                \
        while (!(cond) && es_poller_now((w)->r.p) < until_) {                                                \
            turns(w);                                                                                        \
        }                                                                                                    \
        (cond);                                                                                              \
    })

/* A fresh client of ours with our server: handshake and echo. Returns ns, or 0 when it was not served. */
static uint64_t visit(struct world *w, const char *after)
{
    uint64_t began = es_poller_now(w->r.p), took;
    struct es_link_stream *st;
    struct side *c = rig_dial(&w->r, &w->o);

    if (c == NULL || !WAIT(w, 2, c->established || c->closed) || c->closed) {
        test_fail(__FILE__, __LINE__, "after \"%s\" an honest client cannot connect", after);
        return 0;
    }
    c->keep = 1;
    if (es_link_open(c->link, ES_DIR_BIDI, c, &st) != 0 || es_link_write(st, "hello", 5, 1) != 0 ||
        !WAIT(w, 2, c->fins > 0 || c->closed) || c->bytes.n != 5 || memcmp(c->bytes.p, "hello", 5) != 0) {
        test_fail(__FILE__, __LINE__, "after \"%s\" an honest client is not answered", after);
    }
    took = es_poller_now(w->r.p) - began;
    es_buf_free(&c->bytes);
    es_link_close(c->link, 1, 0, "");
    (void)WAIT(w, 2, c->closed);
    return took;
}

/* Other programs may take the processor away for as long as that, but not thrice in a row. */
static void honest(struct world *w, const char *after)
{
    uint64_t took = UINT64_MAX;

    for (int i = 0; i < 3 && took != 0 && (double)took > 100e6 * w->slack; i++) {
        took = visit(w, after);
    }
    if ((double)took > 100e6 * w->slack) {
        test_fail(__FILE__, __LINE__, "after \"%s\" an honest client waits %.1f ms", after,
                  (double)took / 1e6);
    }
}

static int open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (d != NULL && readdir(d) != NULL) {
        n++;
    }
    closedir(d);
    return n;
}

/* What the core holds once every connection that ended has been forgotten: blocks, and bytes as malloc rounds
 * them. */
struct held {
    uint64_t blocks, bytes;
    int fds;
};

static struct held settled(struct world *w)
{
    struct es_mem_stats m;

    CHECK(WAIT(w, 5, es_endpoint_connections(w->r.server) == 0 && es_endpoint_connections(w->r.client) == 0));
    es_mem_stats(&m);
    return (struct held){m.allocs - m.frees, m.in_use, open_fds()};
}

/* ---- one case ---- */

/* The hostile peer and the side of ours it talks to; NULL: no handshake. */
static struct side *begin(struct world *w, const struct hostile_plan *plan)
{
    struct es_connect_config cc;
    union es_addr addr;
    struct sockaddr_storage at;
    struct side *s;
    int before = w->r.n_s, app;
    uint64_t code;

    es_endpoint_address(w->r.server, &addr);
    w->h = hostile_new(plan, &addr.sa, es_addr_len(&addr));
    if (w->h == NULL) {
        return NULL;
    }
    if (!plan->is_server) {
        s = &w->r.s[before % 64];
        (void)WAIT(w, 2,
                   hostile_trouble(w->h) != NULL || hostile_closed(w->h, &app, &code) ||
                       (hostile_complete(w->h) && w->r.n_s > before));
        if (w->r.n_s == before) {
            return NULL;
        }
        s->on_data = echo_hello;
        return s;
    }
    s = &w->r.c[w->r.n_c++ % 64];
    es_buf_free(&s->bytes);
    memset(s, 0, sizeof *s);
    s->on_data = echo_hello;
    hostile_addr(w->h, &at);
    memcpy(&addr, &at, sizeof addr);
    memset(&cc, 0, sizeof cc);
    cc.remote = &addr;
    cc.tls = w->r.client_tls;
    cc.app = &w->r.client_app;
    cc.app_arg = s;
    cc.transport = w->o.client;
    if (es_endpoint_connect(w->r.client, &cc, &s->link, w->r.err, sizeof w->r.err) != 0) {
        return NULL;
    }
    (void)WAIT(w, 2, s->closed || (s->established && (plan->unconfirmed || hostile_complete(w->h))));
    return s;
}

static void end(struct world *w)
{
    hostile_leave(w->h);
    hostile_del(w->h);
    w->h = NULL;
}

/* The code we closed with, SURVIVES, or -2: neither closed nor alive. */
static long outcome(struct world *w)
{
    int app;
    uint64_t code;

    if (!hostile_closed(w->h, &app, &code) && hostile_trouble(w->h) == NULL && hostile_complete(w->h)) {
        (void)hostile_hello(w->h);
    }
    (void)WAIT(w, 2,
               hostile_closed(w->h, &app, &code) || hostile_echoed(w->h) || hostile_trouble(w->h) != NULL);
    if (hostile_closed(w->h, &app, &code)) {
        return app ? -3 : (long)code;
    }
    return hostile_echoed(w->h) ? SURVIVES : -2;
}

static void say(char *out, size_t n, long code)
{
    if (code == SURVIVES) {
        snprintf(out, n, "lives on");
    } else if (code < 0) {
        snprintf(out, n, code == -3 ? "closed as an application" : "neither closed nor alive");
    } else {
        snprintf(out, n, "closed with 0x%lx", (unsigned long)code);
    }
}

static void run_row(struct world *w, const struct row *k, enum ours ours, int first)
{
    const char *bytes = ours == OURS_CLIENT && k->client_bytes != NULL ? k->client_bytes : k->bytes;
    const char *role = ours == OURS_CLIENT ? "client" : "server";
    struct hostile_plan plan = {.is_server = ours == OURS_CLIENT,
                                .alpn = "test/1",
                                .cert = w->r.cert,
                                .key = w->r.key,
                                .level = k->level,
                                .unconfirmed = k->how == UNCONFIRMED || k->how == TAIL_TICKET};
    struct side *s;
    char got[64], want[64];

    if (k->level != HOSTILE_1RTT) {
        *(k->how == TAIL || k->how == TAIL_TICKET ? &plan.tail : &plan.frames) = bytes;
    }
    s = begin(w, &plan);
    if (w->h == NULL || (s == NULL && k->level == HOSTILE_1RTT)) {
        test_fail(__FILE__, __LINE__, "\"%s\", our %s: no handshake", k->name, role);
        end(w);
        return;
    }
    if (k->level == HOSTILE_1RTT) {
        for (int i = 0; i < 3 && !plan.unconfirmed; i++) {
            turns(w); /* let the handshake settle */
        }
        if (k->how == RESERVED) {
            hostile_reserved_bits(w->h);
        }
        if (hostile_inject(w->h, bytes) != 0) {
            test_fail(__FILE__, __LINE__, "\"%s\", our %s: not sent: %s", k->name, role,
                      hostile_trouble(w->h));
        }
    } else if (!hostile_planned(w->h)) {
        test_fail(__FILE__, __LINE__, "\"%s\", our %s: not sent", k->name, role);
    } else if (k->how == TAIL_TICKET && !s->closed) {
        (void)hostile_inject(w->h, "06 00 1a " TICKET);
    }
    long code = outcome(w);
    say(got, sizeof got, code);
    say(want, sizeof want, k->expect);
    if (code != k->expect && (k->also == 0 || code != k->also)) {
        test_fail(__FILE__, __LINE__, "\"%s\", our %s: %s, expected: %s (%s)", k->name, role, got, want,
                  hostile_trouble(w->h) != NULL ? hostile_trouble(w->h) : "no trouble");
    } else if (code != k->expect && first) {
        printf("note: \"%s\", our %s: %s, the RFC wants: %s (%s)\n", k->name, role, got, want, k->why);
    }
    end(w);
    if (s != NULL) {
        CHECK(WAIT(w, 2, s->closed == 1));
        if (code >= 0 && (s->info.app || s->info.code != (uint64_t)code)) {
            test_fail(__FILE__, __LINE__, "\"%s\", our %s: the protocol heard of 0x%llx", k->name, role,
                      (unsigned long long)s->info.code);
        }
    }
    honest(w, k->name);
}

static void run_rows(struct world *w, const struct row *rows, size_t n, int first)
{
    const char *word = getenv("HOSTILE_CASE");

    for (size_t i = 0; i < n; i++) {
        if (word != NULL && strstr(rows[i].name, word) == NULL) {
            continue;
        }
        if (!first && rows[i].level == HOSTILE_INITIAL && rows[i].also == SURVIVES) {
            continue; /* the dropped packet is sent again after a second: once is enough */
        }
        for (int ours = OURS_SERVER; ours <= OURS_CLIENT; ours++) {
            if (rows[i].ours & ours) {
                run_row(w, &rows[i], (enum ours)ours, first);
            }
        }
    }
}

/* Round after round; what is held after the second and after the last one must be the same. */
static void run_table(const struct row *rows, size_t n)
{
    struct world w;
    int rounds = getenv("HOSTILE_ROUNDS") != NULL ? atoi(getenv("HOSTILE_ROUNDS"))
                 : w.slack > 10                   ? 3
                                                  : ROUNDS;
    struct held second = {0}, last;

    REQUIRE(world_open(&w) == 0);
    rounds = getenv("HOSTILE_ROUNDS") != NULL ? atoi(getenv("HOSTILE_ROUNDS")) : w.slack > 10 ? 3 : ROUNDS;
    for (int round = 1; round <= rounds && test_failures == 0; round++) {
        run_rows(&w, rows, n, round == 1);
        if (round == 2) {
            second = settled(&w);
        }
    }
    if (rounds > 2 && test_failures == 0) {
        last = settled(&w);
        CHECK_INT(last.blocks, ==, second.blocks);
        CHECK_INT(last.bytes, <=, second.bytes + 32768); /* one table may have doubled */
        CHECK_INT(last.fds, ==, second.fds);
    }
    rig_close(&w.r);
}

TEST(tls_messages_where_none_belong)
{
    run_table(tls_rows, COUNT(tls_rows));
}

TEST(frames_that_break_a_rule)
{
    run_table(frame_rows, COUNT(frame_rows));
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
