// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// A peer that keeps to the handshake and to nothing else: any frame, put into a 1-RTT packet before it is
// encrypted.
#include "../../csrc/transport/compat.h"
#include "test.h"
#include "transport_support.h"

/* Overrides the library's function for this program: while `attack` is armed, the next short-header packet
 * carries these frames instead of its own, padded to its length. */
static const uint8_t *attack;
static size_t attack_len;
static int attacks_sent;

int ngtcp2_crypto_encrypt_cb(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx,
                             const uint8_t *plain, size_t n, const uint8_t *nonce, size_t noncelen,
                             const uint8_t *aad, size_t aadlen)
{
    uint8_t buf[2000];

    if (attack != NULL && !(aad[0] & 0x80) && n >= attack_len && n <= sizeof buf) {
        memset(buf, 0, n);
        memcpy(buf, attack, attack_len);
        attack = NULL;
        attacks_sent++;
        return ngtcp2_crypto_encrypt(dest, aead, ctx, buf, n, nonce, noncelen, aad, aadlen);
    }
    return ngtcp2_crypto_encrypt(dest, aead, ctx, plain, n, nonce, noncelen, aad, aadlen);
}

/* Sends the frames from one side, in a packet that would have carried stream data. */
static void send_frames(struct rig *r, struct side *from, const void *frames, size_t n)
{
    struct es_link_stream *st;
    static const char big[1000];

    if (from->link == NULL) {
        return;
    }
    UNTIL(r, 0.05 * patience(), 0); /* whatever was under way has arrived */
    if (from->link == NULL || es_link_open(from->link, ES_DIR_BIDI, from, &st) != 0) {
        return;
    }
    es_link_write(st, big, sizeof big, 0);
    attack = frames;
    attack_len = n;
    es_poller_flush(r->p);
    attack = NULL;
}

static void healthy(struct rig *r, const struct rig_options *o)
{
    struct side *c = rig_dial(r, o);
    struct es_link_stream *st;

    CHECK(UNTIL(r, 5, c->established));
    CHECK_INT(es_link_open(c->link, ES_DIR_BIDI, c, &st), ==, 0);
    es_link_write(st, "ok", 2, 1);
    CHECK(UNTIL(r, 5, c->received == 2));
}

struct attack {
    const char *name;
    const char *first, *second; /* hex; the second follows in a packet of its own */
    int from_server;
    uint64_t code; /* of the CONNECTION_CLOSE that the attacker sees; 0: the connection lives on */
};

static void run_attack(const struct attack *a)
{
    struct rig r;
    struct rig_options o;
    struct side *c, *from, *victim;
    uint8_t first[1000], second[1000];
    size_t n = test_unhex(a->first, first, sizeof first), m = test_unhex(a->second, second, sizeof second);

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    CHECK(UNTIL(&r, 5, c->established && r.n_s == 1));
    from = a->from_server ? &r.s[0] : c;
    victim = a->from_server ? c : &r.s[0];
    attacks_sent = 0;
    send_frames(&r, from, first, n);
    if (m > 0) {
        send_frames(&r, from, second, m);
    }
    CHECK_INT(attacks_sent, >=, 1); /* the first piece may end it */
    if (a->code == 0) {
        UNTIL(&r, 0.2, 0);
        CHECK_INT(victim->closed, ==, 0);
    } else if (!UNTIL(&r, 3, from->closed && victim->closed)) {
        test_fail(__FILE__, __LINE__, "%s: not closed", a->name);
    } else if (from->info.code != a->code || from->info.app) {
        test_fail(__FILE__, __LINE__, "%s: code %#llx", a->name, (unsigned long long)from->info.code);
    }
    healthy(&r, &o);
    rig_close(&r);
}

TEST(tls_messages_after_the_handshake_close_the_connection_and_never_the_process)
{
    /* CRYPTO: 06, offset, length, data. 18 000001 00 is KeyUpdate, 04 NewSessionTicket, 0d
     * CertificateRequest. */
    static const struct attack attacks[] = {
        {"KeyUpdate to a server", "06 00 05 18 00000100", "", 0, 0x10a},
        {"KeyUpdate to a server, split", "06 00 01 18", "06 01 04 00000100", 0, 0x10a},
        {"KeyUpdate to a server, out of order", "06 01 04 00000100", "06 00 01 18", 0, 0x10a},
        {"a ticket to a server", "06 00 06 04 000002 0000", "", 0, 0x10a},
        {"KeyUpdate to a client", "06 00 05 18 00000100", "", 1, 0x10a},
        {"KeyUpdate to a client, split", "06 00 01 18", "06 01 04 00000100", 1, 0x10a},
        {"KeyUpdate behind a ticket", "06 00 0b 04 000002 aabb 18 00000100", "", 1, 0x10a},
        {"KeyUpdate behind a split ticket", "06 00 05 04 000002 aa", "06 05 06 bb 18 00000100", 1, 0x10a},
        {"CertificateRequest to a client", "06 00 05 0d 00000100", "", 1, 0x10a},
        {"a ticket that claims 16 MB", "06 00 04 04 ffffff", "", 1, 0x10a},
        {"a ticket", "06 00 06 04 000002 aabb", "", 1, 0},
        {"a ticket in two pieces", "06 00 03 04 0000", "06 03 03 02 aabb", 1, 0},
    };

    for (size_t i = 0; i < sizeof attacks / sizeof attacks[0]; i++) {
        run_attack(&attacks[i]);
    }
}

TEST(a_flood_of_tickets_is_cut)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    uint8_t frame[900];
    uint64_t offset = 0;

    rig_options(&o);
    REQUIRE(rig_open(&r, &o) == 0);
    c = rig_dial(&r, &o);
    CHECK(UNTIL(&r, 5, c->established && r.n_s == 1));
    for (int i = 0; i < 100 && !c->closed; i++) { /* 80,000 bytes of well-formed tickets */
        size_t n = 0;
        frame[n++] = 0x06;
        frame[n++] = (uint8_t)(0x80 | offset >> 24);
        frame[n++] = (uint8_t)(offset >> 16);
        frame[n++] = (uint8_t)(offset >> 8);
        frame[n++] = (uint8_t)offset;
        frame[n++] = 0x40 | 800 >> 8;
        frame[n++] = 800 & 0xff;
        memcpy(frame + n, "\x04\x00\x03\x1c", 4);
        memset(frame + n + 4, 7, 796);
        n += 800;
        send_frames(&r, &r.s[0], frame, n);
        offset += 800;
    }
    CHECK(UNTIL(&r, 3, c->closed));
    CHECK_INT(c->info.code, ==, 0x10a);
    CHECK_INT(offset, >=, 64 * 1024);
    rig_close(&r);
}

TEST(frames_that_break_the_rules_are_answered_with_the_rfcs_code)
{
    static const struct attack attacks[] = {
        {"an unknown frame", "40 ff", "", 0, 0x07},
        {"data beyond the stream's credit", "0e 00 bf ff ff f0 01 aa", "", 0, 0x03},
        {"a stream beyond the limit", "0a 80 00 ff fc 01 aa", "", 0, 0x04},
        {"data on our own one-way stream", "0a 03 01 aa", "", 0, 0x05},
        {"RESET of a stream never opened", "04 01 00 00", "", 0, 0x05},
        {"MAX_STREAM_DATA for a stream never opened", "11 01 40 ff", "", 0, 0x05},
        {"more streams than there are ids", "12 d0 00 00 00 00 00 00 01", "", 0, 0x07},
        {"an acknowledgement of what was never sent", "02 80 01 00 00 00 00 00", "", 0, 0x0a},
        {"HANDSHAKE_DONE from a client", "1e", "", 0, 0x0a},
        {"NEW_TOKEN from a client", "07 01 aa", "", 0, 0x0a},
        {"NEW_CONNECTION_ID that retires what is to come",
         "18 01 05 08 0102030405060708 00112233445566778899aabbccddeeff", "", 0, 0x07},
    };

    for (size_t i = 0; i < sizeof attacks / sizeof attacks[0]; i++) {
        run_attack(&attacks[i]);
    }
}

TEST(streams_opened_and_reset_at_once_are_bounded_by_the_limit)
{
    struct rig r;
    struct rig_options o;
    struct side *c;
    struct es_link_stream *st;
    int opened = 0, most = 0;

    rig_options(&o);
    o.server.max_streams_bidi = 20;
    REQUIRE(rig_open(&r, &o) == 0);
    r.echo = 0; /* nobody answers: the allowance is not given back at a reset */
    c = rig_dial(&r, &o);
    CHECK(UNTIL(&r, 5, c->established && r.n_s == 1));
    for (int i = 0; i < 200; i++) {
        while (es_link_open(c->link, ES_DIR_BIDI, c, &st) == 0) {
            es_link_write(st, "x", 1, 0);
            es_poller_flush(r.p);
            es_link_reset(st, 0x10);
            opened++;
        }
        turn(&r);
        most = r.s[0].opened - r.s[0].stream_closed > most ? r.s[0].opened - r.s[0].stream_closed : most;
    }
    CHECK_INT(opened, <=, 20);
    CHECK_INT(most, <=, 20);
    r.echo = 1;
    healthy(&r, &o);
    rig_close(&r);
}
