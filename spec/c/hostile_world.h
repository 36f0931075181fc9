/* What the programs with a hostile peer in them share: our two endpoints, one hostile peer, cases as rows.
 *
 * Each case is a row: what is sent, to which of our roles, and the code that RFC 9000 (19, 20), 9001 (4.1.3,
 * 6) or 9221 wants us to close with. After each of them a fresh honest client shakes hands and echoes in
 * under 100 ms; after ten rounds of all of them the core holds as much memory, and the process as many
 * descriptors, as after two.
 *
 * Where the library decides and decides otherwise, the row says so in `also` and `why`; the program prints
 * it, and passes with either answer, so that a better library does not break it.
 *
 * HOSTILE_ROUNDS=2 makes it quick; HOSTILE_CASE=word runs only the rows whose name has the word;
 * HOSTILE_FULL=1 runs those too that take seconds each.
 */
#ifndef ES_SPEC_C_HOSTILE_WORLD_H
#define ES_SPEC_C_HOSTILE_WORLD_H

#pragma GCC diagnostic ignored "-Wunused-function" /* not every program needs all of it */

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

/* A ticket that is well formed: 3,600 s, eight bytes. */
#define TICKET "04000016 00000e10 00000000 01 00 0008 0102030405060708 0000"

enum ours { OURS_SERVER = 1, OURS_CLIENT = 2, OURS_BOTH = 3 };
enum how { FRAMES, TAIL, TAIL_TICKET, UNCONFIRMED, RESERVED, AT_END };

struct row {
    const char *name;
    enum ours ours;
    enum hostile_level level;
    /* FRAMES, TAIL: see hostile_plan; TAIL_TICKET: and a ticket in 1-RTT after it; UNCONFIRMED: frames before
     * HANDSHAKE_DONE; RESERVED: frames in a packet with the reserved bits; AT_END: the packet ends with them
     */
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

/* A table of closing connections' ids (48 bytes a place) doubles when more of them linger at once than ever
 * before, as on a crowded machine. Ids that stayed would make it grow past this. */
#define HELD_SLACK (128 * 1024)

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
    if (plan->reserved_bits) {
        hostile_reserved_bits(w->h);
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
                                .unconfirmed = k->how == UNCONFIRMED || k->how == TAIL_TICKET,
                                .reserved_bits = k->how == RESERVED && k->level != HOSTILE_1RTT};
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
        } else if (k->how == AT_END) {
            hostile_at_end(w->h);
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
        if (rows[i].level == HOSTILE_INITIAL && rows[i].also == SURVIVES &&
            !(first && (i == n - 1 || getenv("HOSTILE_FULL") != NULL))) {
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
    int rounds;
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
        CHECK_INT(last.bytes, <=, second.bytes + HELD_SLACK);
        CHECK_INT(last.fds, ==, second.fds);
    }
    rig_close(&w.r);
}

#endif
