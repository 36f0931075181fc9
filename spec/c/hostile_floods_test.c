// needs: csrc/base csrc/transport spec/c/hostile.c spec/c/hostile_edit.c
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
// RELIABILITY T4: peers that complete an honest handshake and then send by the thousand what is allowed once.
// They are closed with excessive_load (application 0x05); a handful of the same does no harm, and honest
// clients notice nothing: see hostile_world.h.
#include "hostile_world.h"
#include "../../csrc/transport/internal.h"

struct flood {
    const char *name;
    enum ours ours;
    const char *unit;  /* one frame; `#` stands for a number of two bytes that counts up */
    int step;          /* of that number */
    int deaf;          /* see hostile_deafen */
    uint64_t also;     /* what a library closes it with by itself; 0: it does not */
    uint64_t also_new; /* the same of ngtcp2 1.x, where that is another code */
    const char *why;
};

static const struct flood floods[] = {
    {"PING", OURS_BOTH, "01", 0, 0, 0, 0, NULL},
    {"PATH_CHALLENGE", OURS_BOTH, "1a 0102030405060708", 0, 0, 0, 0, NULL},
    {"PATH_RESPONSE", OURS_BOTH, "1b 0102030405060708", 0, 0, 0, 0, NULL},
    {"NEW_CONNECTION_ID", OURS_BOTH, "18 # # 08 aaaaaaaaaaaa # 01*14 #", 1, 1, 0x09, 0,
     "ngtcp2 counts what we still have to retire"},
    {"RETIRE_CONNECTION_ID", OURS_BOTH, "19 01", 0, 1, 0, 0, NULL},
    {"STREAM pieces of one byte", OURS_SERVER, "0e 00 # 01 41", 2, 0, 0x0a, 0x01,
     "ngtcp2 gives up at so many gaps"},
    {"STREAM pieces of one byte", OURS_CLIENT, "0e 01 # 01 41", 2, 0, 0x0a, 0x01,
     "ngtcp2 gives up at so many gaps"},
    {"empty STREAM", OURS_SERVER, "0a 00 00", 0, 0, 0, 0, NULL},
    {"empty STREAM", OURS_CLIENT, "0a 01 00", 0, 0, 0, 0, NULL},
    {"the same end again and again", OURS_SERVER, "0b 00 00", 0, 0, 0, 0, NULL},
    {"empty DATAGRAM", OURS_BOTH, "31 00", 0, 0, 0, 0, NULL},
    {"acknowledgements", OURS_BOTH, "02 00 00 00 00", 0, 0, 0, 0, NULL},
    {"CRYPTO without anything", OURS_BOTH, "06 00 00", 0, 0, 0, 0, NULL},
    {"MAX_DATA", OURS_BOTH, "10 00", 0, 0, 0, 0, NULL},
    {"MAX_STREAM_DATA", OURS_SERVER, "11 00 00", 0, 0, 0, 0, NULL},
    {"MAX_STREAMS", OURS_BOTH, "12 00", 0, 0, 0, 0, NULL},
    {"DATA_BLOCKED", OURS_BOTH, "14 00", 0, 0, 0, 0, NULL},
    {"STREAM_DATA_BLOCKED", OURS_SERVER, "15 00 00", 0, 0, 0, 0, NULL},
    {"STREAMS_BLOCKED", OURS_BOTH, "16 00", 0, 0, 0, 0, NULL},
    {"STOP_SENDING", OURS_SERVER, "05 00 00", 0, 1, 0, 0, NULL},
    {"RESET_STREAM of one stream", OURS_SERVER, "04 00 00 00", 0, 1, 0, 0, NULL},
    {"HANDSHAKE_DONE", OURS_CLIENT, "1e", 0, 0, 0, 0, NULL},
    {"NEW_TOKEN", OURS_CLIENT, "07 04 01020304", 0, 0, 0, 0, NULL},
};

#define BUDGET 400 /* the default takes ten times as long */

/* Frames of one packet: `count` of them or as many as fit. Returns the bytes. */
static size_t fill(const struct flood *f, int count, int *number, uint8_t *out, size_t cap)
{
    size_t n = 0;

    for (int i = 0; i < count; i++) {
        char hex[256];
        const char *text = hex;
        size_t at = 0;

        for (const char *p = f->unit; *p != '\0'; p++) {
            if (*p == '#') {
                at += (size_t)snprintf(hex + at, sizeof hex - at, "%04x", 0x4000 | (*number & 0x3fff));
            } else {
                hex[at++] = *p;
            }
        }
        hex[at] = '\0';
        *number += f->step;
        uint8_t one[64];
        size_t k = hostile_read(&text, one, sizeof one);
        if (n + k > cap) {
            break;
        }
        memcpy(out + n, one, k);
        n += k;
    }
    return n;
}

static struct side *begin_flood(struct world *w, const struct flood *f, enum ours ours)
{
    struct hostile_plan plan = {.is_server = ours == OURS_CLIENT,
                                .alpn = "test/1",
                                .cert = w->r.cert,
                                .key = w->r.key,
                                .level = HOSTILE_1RTT};
    struct side *s = begin(w, &plan);

    if (s != NULL && ours == OURS_CLIENT) { /* before that it has given no second connection id out */
        (void)WAIT(w, 2, s->closed || ((struct es_conn *)s->link)->confirmed);
    }
    for (int i = 0; i < 3; i++) {
        turns(w);
    }
    if (s == NULL || s->closed) {
        test_fail(__FILE__, __LINE__, "\"%s\": no handshake", f->name);
        return NULL;
    }
    return s;
}

static void run_flood(struct world *w, const struct flood *f, enum ours ours)
{
    const char *role = ours == OURS_CLIENT ? "client" : "server";
    struct side *s = begin_flood(w, f, ours);
    uint8_t bytes[900];
    int number = 8;

    if (s == NULL) {
        return;
    }
    if (f->deaf) {
        hostile_deafen(w->h);
    }
    for (int i = 0; i < 5000 && !s->closed && hostile_trouble(w->h) == NULL; i++) {
        int app;
        uint64_t code;
        size_t n = fill(f, 1000, &number, bytes, sizeof bytes);
        if (hostile_closed(w->h, &app, &code) || hostile_inject_bytes(w->h, bytes, n) != 0 || i % 4 == 3) {
            turns(w); /* what is under way has to be acknowledged first */
        }
    }
    (void)WAIT(w, 2, s->closed);
    if (s->closed && f->also != 0 && !s->info.app &&
        (s->info.code == f->also || s->info.code == f->also_new)) {
        printf("note: a flood of %s, our %s: closed with 0x%llx (%s)\n", f->name, role,
               (unsigned long long)s->info.code, f->why);
    } else if (!s->closed || !s->info.app || s->info.code != ES_APP_EXCESSIVE_LOAD) {
        test_fail(__FILE__, __LINE__, "a flood of %s, our %s: %s with 0x%llx (%s; %s)", f->name, role,
                  s->closed ? "closed" : "not closed", (unsigned long long)s->info.code, s->info.reason,
                  hostile_trouble(w->h) != NULL ? hostile_trouble(w->h) : "no trouble");
    }
    end(w);
    honest(w, f->name);
}

/* As much as honest peers may have reason for: ten frames, and more a while later. */
static void run_drops(struct world *w, const struct flood *f, enum ours ours)
{
    struct side *s = begin_flood(w, f, ours);
    uint8_t bytes[900];
    int number = 8;

    if (s == NULL || f->deaf) {
        end(w);
        return;
    }
    for (int i = 0; i < 5; i++) {
        size_t n = fill(f, 2, &number, bytes, sizeof bytes);
        CHECK(WAIT(w, 2, hostile_inject_bytes(w->h, bytes, n) == 0));
        turns(w);
    }
    if (outcome(w) != SURVIVES) {
        test_fail(__FILE__, __LINE__, "ten frames of %s, our %s: 0x%llx %s", f->name,
                  ours == OURS_CLIENT ? "client" : "server", (unsigned long long)s->info.code,
                  s->info.reason);
    }
    end(w);
}

static void run_floods(void (*run)(struct world *, const struct flood *, enum ours), uint64_t budget)
{
    struct world w;
    struct held second = {0}, last;
    const char *word = getenv("HOSTILE_CASE");
    int rounds = getenv("HOSTILE_ROUNDS") != NULL ? atoi(getenv("HOSTILE_ROUNDS")) : 3;

    REQUIRE(world_open(&w) == 0);
    rig_close(&w.r);
    w.o.server.glitch_budget = w.o.client.glitch_budget = budget;
    REQUIRE(rig_open(&w.r, &w.o) == 0);
    for (int round = 1; round <= rounds && test_failures == 0; round++) {
        for (size_t i = 0; i < COUNT(floods); i++) {
            for (int ours = OURS_SERVER; ours <= OURS_CLIENT; ours++) {
                if ((floods[i].ours & ours) && (word == NULL || strstr(floods[i].name, word) != NULL)) {
                    run(&w, &floods[i], (enum ours)ours);
                }
            }
        }
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

TEST(floods_are_cut)
{
    run_floods(run_flood, BUDGET);
}

/* Each of these makes the library retire one of the client's ids, and no packet that says so is acknowledged.
 * ngtcp2 counts those, and takes it for impossible that there are too many when a client's address changes:
 * it ended the process, whatever its generation. */
TEST(a_client_that_tries_address_after_address_and_lets_no_id_go_is_survived)
{
    static const struct flood f = {.name = "new addresses", .ours = OURS_SERVER};
    struct world w;
    struct side *s;

    REQUIRE(world_open(&w) == 0);
    s = begin_flood(&w, &f, OURS_SERVER);
    REQUIRE(s != NULL);
    hostile_stop_acks(w.h);
    hostile_deafen(w.h);
    for (int i = 0; i < 60 && !s->closed; i++) {
        char frames[128];
        snprintf(frames, sizeof frames, "18 %04x 00 08 aaaaaaaaaaaa%04x 01*14 %04x", 0x4004 + i, i, i);
        CHECK_INT(hostile_aside(w.h, 1), ==, 0);
        CHECK(WAIT(&w, 2, hostile_inject(w.h, "1a 0102030405060708") == 0));
        turns(&w);
        CHECK_INT(hostile_aside(w.h, 0), ==, 0);
        CHECK(WAIT(&w, 2, hostile_inject(w.h, frames) == 0));
        turns(&w);
    }
    end(&w);
    honest(&w, f.name);
    rig_close(&w.r);
}

TEST(a_few_of_the_same_are_borne)
{
    run_floods(run_drops, BUDGET);
}
