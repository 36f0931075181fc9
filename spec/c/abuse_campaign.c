// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session csrc/transport
// needs: spec/c/hostile.c spec/c/hostile_edit.c
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls libzstd
//
// RELIABILITY T3 to T5 and N6 at full size: a server process, an honest client process that calls it 500
// times a second and measures, and this process, which attacks. usage: abuse_campaign [STREAMS [SECONDS]]
//
// Every phase ends with a line: what the honest client saw beside what it saw before, and what the server
// held.
#pragma GCC diagnostic ignored "-Wunused-function"
#include "abuse_campaign.h"
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../../csrc/framing/frame.h"
#include "hostile.h"

struct shared *sh;
static struct rig keys; /* certificate and TLS contexts, made before the processes part */
static int failures;

/* ---- the attackers' side: a link that says raw bytes ---- */

static struct es_poller *poller;
static struct es_endpoint *endpoint;
static struct es_app raw_app;

struct raw_peer {
    struct es_link *link; /* NULL after closed() */
    int established, closed;
    int lazy; /* gives no credit */
    struct es_close_info info;
    size_t answers;
};

static void on_established(void *u)
{
    ((struct raw_peer *)u)->established = 1;
}
static void on_opened(void *u, struct es_link_stream *s, int dir) {}
static void on_data(void *u, struct es_link_stream *s, const uint8_t *bytes, size_t n, int fin)
{
    struct raw_peer *p = u;

    p->answers += fin != 0;
    if (!p->lazy) {
        es_link_credit(s, n);
    }
}
static void on_code(void *u, struct es_link_stream *s, uint64_t code) {}
static void on_stream(void *u, struct es_link_stream *s) {}
static void on_stream_closed(void *u, struct es_link_stream *s)
{
    if (s->user != NULL) {
        *(struct es_link_stream **)s->user = NULL;
    }
}
static void on_datagram(void *u, const uint8_t *p, size_t n) {}
static void on_credit(void *u, int dir) {}
static void on_low(void *u) {}
static void on_closed(void *u, const struct es_close_info *info)
{
    struct raw_peer *p = u;

    p->closed = 1;
    p->info = *info;
    p->link = NULL;
}

static const struct es_link_events raw_events = {
    .established = on_established,
    .stream_opened = on_opened,
    .data = on_data,
    .stream_reset = on_code,
    .stream_stopped = on_code,
    .writable = on_stream,
    .sent = on_stream,
    .stream_closed = on_stream_closed,
    .datagram = on_datagram,
    .stream_credit = on_credit,
    .hold_low = on_low,
    .closed = on_closed,
};

static int raw_attach(struct es_app *app, struct es_link *l, void *arg)
{
    es_link_attach(l, &raw_events, arg);
    ((struct raw_peer *)arg)->link = l;
    return 0;
}

static void attackers_open(void)
{
    struct es_endpoint_config cfg;
    union es_addr addr;
    char err[256];

    es_endpoint_config_default(&cfg);
    es_addr_parse(&addr, "127.0.0.1:0");
    cfg.bind = &addr;
    raw_app.alpn = ES_ALPN;
    raw_app.attach = raw_attach;
    if (es_poller_new(&poller) != 0 || es_endpoint_new(poller, &cfg, &endpoint, err, sizeof err) != 0) {
        fprintf(stderr, "attackers: %s\n", err);
        exit(2);
    }
}

static void attackers_turn(void)
{
    es_poller_wait(poller, es_poller_now(poller) + ES_MILLI);
    es_poller_step(poller, 256);
    es_poller_flush(poller);
}

static void dial(struct raw_peer *p, const struct es_transport_config *cfg)
{
    struct es_connect_config cc;
    char err[256];

    memset(p, 0, sizeof *p);
    memset(&cc, 0, sizeof cc);
    cc.remote = &sh->addr;
    cc.tls = keys.client_tls;
    cc.app = &raw_app;
    cc.app_arg = p;
    cc.transport = *cfg;
    if (es_endpoint_connect(endpoint, &cc, &p->link, err, sizeof err) != 0) {
        fprintf(stderr, "attacker: %s\n", err);
        exit(2);
    }
}

#define HELLO "00 001e000000 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064"

static struct es_link_stream *say(struct raw_peer *p, int dir, const char *hex, int fin)
{
    uint8_t b[256];
    const char *text = hex;
    size_t n = hostile_read(&text, b, sizeof b);
    struct es_link_stream *s = NULL;

    if (p->link == NULL || es_link_open(p->link, dir, NULL, &s) != 0) {
        return NULL;
    }
    (void)es_link_write(s, b, n, fin);
    return s;
}

/* ---- what is judged ---- */

static double idle_p99;

static void phase(const char *name)
{
    sh->quiet = 1; /* the client forgets what it measured */
    while (sh->quiet) {
        usleep(1000);
    }
    sh->max_in_use = sh->in_use;
    sh->max_late = 0;
    printf("%-34s", name);
    fflush(stdout);
}

/* bar: the most that p99 may be, in ms; 0: whatever. */
static void verdict(double bar, const char *fmt, ...)
{
    struct latencies l = client_latencies();
    va_list ap;
    int bad = bar != 0 && l.p99 > bar;

    printf("calls %6zu, lost %zu, p50 %6.2f ms, p99 %6.2f ms", l.n, l.failed, l.p50, l.p99);
    if (bar != 0) {
        printf(" (bar %.2f)", bar);
    }
    printf("; timer at most %.1f ms late; ", (double)sh->max_late / 1e6);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    if (l.failed > 0 || l.n == 0) {
        bad = 1;
    }
    printf("%s\n", bad ? "  FAILED" : "");
    failures += bad;
}

static void expect(int ok, const char *what)
{
    if (!ok) {
        printf("  FAILED: %s\n", what);
        failures++;
    }
}

static void idle(double seconds)
{
    uint64_t until = es_poller_now(poller) + (uint64_t)(seconds * 1e9);

    while (es_poller_now(poller) < until) {
        attackers_turn();
    }
}

/* After each phase the server holds what it held before, but for what its pools keep. */
#define POOLS ((uint64_t)4 * 1024 * 1024)
static void settle(uint64_t before)
{
    for (int i = 0; i < 200 && sh->in_use > before + POOLS; i++) {
        idle(0.05);
    }
    if (sh->in_use > before + POOLS) {
        printf("  FAILED: %.1f MB are still held\n", (double)(sh->in_use - before) / 1e6);
        failures++;
    }
}

/* ---- T3 ---- */

static void rapid_reset(long streams)
{
    struct es_transport_config cfg;
    struct raw_peer p;
    uint64_t before = sh->in_use;
    long opened = 0, connections = 0, cut = 0, most = 0;

    es_transport_config_default(&cfg, 0);
    phase("T3 rapid reset");
    while (opened < streams) {
        long here = 0;
        dial(&p, &cfg);
        connections++;
        while (!p.established && !p.closed) {
            attackers_turn();
        }
        (void)say(&p, ES_DIR_UNI, HELLO, 0);
        while (!p.closed) {
            for (int i = 0; i < 64 && opened < streams; i++) {
                struct es_link_stream *s = say(&p, ES_DIR_BIDI, "02 0b 00 01 01 04 686f6c64 00 03 00", 1);
                if (s == NULL) {
                    break;
                }
                /* Half of them are seen by the server, the others only as a reset. */
                if (i % 2 == 0) {
                    es_poller_flush(poller);
                }
                es_link_reset(s, ES_APP_CANCELLED);
                es_link_stop(s, ES_APP_CANCELLED);
                opened++;
                here++;
            }
            attackers_turn();
            if (opened >= streams && p.link != NULL) {
                es_link_close(p.link, 1, 0, "");
            }
        }
        cut += p.info.app && p.info.code == ES_APP_EXCESSIVE_LOAD;
        most = here > most ? here : most;
    }
    verdict(2 * idle_p99,
            "%ld streams, %ld connections, %ld cut, at most %ld streams each; handlers at once %u", opened,
            connections, cut, most, sh->max_running);
    expect(sh->max_running <= 1024, "more handlers than the stream limit ran at once");
    expect(cut >= connections - 1, "a connection was not cut");
    settle(before);
}

/* ---- T4 ---- */

static void floods(double seconds)
{
    static const char *const units[] = {"01", "1a 0102030405060708", "0a 00 00", "02 00 00 00 00", "19 01"};
    uint8_t bytes[900];
    uint64_t before = sh->in_use, until = es_poller_now(poller) + (uint64_t)(seconds * 1e9);
    long packets = 0, cut = 0, connections = 0;

    phase("T4 floods of frames");
    while (es_poller_now(poller) < until) {
        struct hostile_plan plan = {.alpn = ES_ALPN, .level = HOSTILE_1RTT};
        struct hostile *h = hostile_new(&plan, &sh->addr.sa, es_addr_len(&sh->addr));
        int app = 0;
        uint64_t code = 0, give_up = es_poller_now(poller) + 2 * ES_SECOND;

        const char *unit = units[connections++ % 5];
        size_t n = hostile_read(&unit, bytes, sizeof bytes), filled = n;
        for (; filled + n <= sizeof bytes; filled += n) {
            memcpy(bytes + filled, bytes, n);
        }
        while (!hostile_complete(h) && es_poller_now(poller) < give_up) {
            hostile_step(h);
        }
        for (int i = 0; i < 20; i++) { /* what is acknowledged and retired has to be there first */
            usleep(500);
            hostile_step(h);
        }
        if (connections % 5 == 0) { /* the answers to the last kind would confuse its own library */
            hostile_deafen(h);
        }
        while (!hostile_closed(h, &app, &code) && hostile_trouble(h) == NULL &&
               es_poller_now(poller) < give_up) {
            int went = hostile_inject_bytes(h, bytes, filled) == 0;
            packets += went;
            if (!went || packets % 4 == 0) {
                hostile_step(h);
            }
        }
        cut += hostile_closed(h, &app, &code);
        hostile_leave(h);
        hostile_del(h);
    }
    verdict(idle_p99 + 5, "%ld packets, %ld connections, %ld cut; held at most %.1f MB more", packets,
            connections, cut, (double)(sh->max_in_use - before) / 1e6);
    expect(cut >= connections * 97 / 100, "a connection was not cut");
    settle(before);
}

/* ---- T5 ---- */

#define SLOW 20

static void leave(struct raw_peer *p)
{
    for (int i = 0; i < SLOW; i++) {
        if (p[i].link != NULL) {
            es_link_close(p[i].link, 1, 0, "");
        }
    }
    for (int i = 0; i < SLOW; i++) {
        while (!p[i].closed) {
            attackers_turn();
        }
    }
}

static void slow_readers(double seconds)
{
    struct es_transport_config cfg;
    static struct raw_peer p[SLOW];
    uint64_t before = sh->in_use;
    unsigned cut = 0;

    es_transport_config_default(&cfg, 0);
    cfg.stream_window = 1;
    cfg.connection_window = 1024;
    cfg.keep_alive = 50 * ES_MILLI;
    cfg.glitch_budget = 0; /* it makes the server send byte by byte */
    phase("T5 readers that do not read");
    for (int i = 0; i < SLOW; i++) {
        dial(&p[i], &cfg);
    }
    idle(0.2);
    for (int i = 0; i < SLOW; i++) {
        p[i].lazy = 1;
        (void)say(&p[i], ES_DIR_UNI, HELLO, 0);
        for (int k = 0; k < 1000; k++) { /* a gigabyte each, if it came */
            char hex[64];
            snprintf(hex, sizeof hex, "02 0c 00 01 %04x 04 626c6f62 00 03 00", 0x4000 | (k + 1));
            (void)say(&p[i], ES_DIR_BIDI, hex, 1);
        }
        idle(0.01);
    }
    double each = (double)(sh->max_in_use - before) / SLOW / 1e6;
    printf("\n");
    phase("    while they are borne");
    idle(1);
    sh->max_turn = 0; /* from here on there is nothing to do but to cut them, a thousand calls each */
    idle(seconds > 4 ? seconds - 1 : 3);
    for (int i = 0; i < SLOW; i++) {
        cut += p[i].closed && p[i].info.app && p[i].info.code == ES_APP_EXCESSIVE_LOAD;
    }
    verdict(1.2 * idle_p99 + 0.3, "%u of %d cut (%s), in turns of at most %.1f ms; held at most %.1f MB each",
            cut, SLOW, p[0].info.reason, (double)sh->max_turn / 1e6, each);
    leave(p);
    expect(cut == SLOW, "some were not cut");
    expect(each < 10.5, "more than the cap of 8 MiB and an answer was held for one connection");
    expect(each > 7, "the attack did not reach the cap");
    settle(before);
}

static void slow_writers(double seconds)
{
    struct es_transport_config cfg;
    static struct raw_peer p[SLOW];
    static struct es_link_stream *st[SLOW][1000];
    uint64_t before = sh->in_use;

    es_transport_config_default(&cfg, 0);
    phase("T5 streams opened and left");
    for (int i = 0; i < SLOW; i++) {
        dial(&p[i], &cfg);
    }
    idle(0.2);
    for (int i = 0; i < SLOW; i++) {
        (void)say(&p[i], ES_DIR_UNI, HELLO, 0);
        for (int k = 0; k < 1000; k++) {
            st[i][k] = say(&p[i], ES_DIR_BIDI, "02 bffffff0", 0);
            if (st[i][k] != NULL) {
                st[i][k]->user = &st[i][k];
            }
        }
        idle(0.01);
    }
    for (int t = 0; t < (int)(10 * seconds) || t < 40; t++) {
        idle(0.1);
        for (int i = 0; i < SLOW; i++) { /* a byte now and again */
            if (!p[i].closed && st[i][t] != NULL) {
                (void)es_link_write(st[i][t], "", 1, 0);
            }
        }
    }
    unsigned left = 0;
    for (int i = 0; i < SLOW; i++) {
        for (int k = 0; k < 1000 && !p[i].closed; k++) {
            left += st[i][k] != NULL;
        }
    }
    double each = (double)(sh->max_in_use - before) / SLOW / 1e6;
    verdict(1.2 * idle_p99 + 0.3, "%u of %d streams left; held at most %.1f MB for each connection", left,
            SLOW * 1000, each);
    leave(p);
    expect(left == 0, "some streams were not cut");
    expect(each < 8.5, "more than the cap was held for one connection");
    settle(before);
}

/* ---- N6 ---- */

enum junk { EMPTY, ONE, RANDOM, SHORT_HEADER };

static void junk(const char *name, enum junk kind, double seconds)
{
    enum { BATCH = 64 };
    struct mmsghdr m[BATCH];
    struct iovec v[BATCH];
    static uint8_t bytes[BATCH][1200];
    uint64_t before = sh->in_use, began, now, seen = sh->datagrams_in, lost = sh->datagrams_lost;
    unsigned long sent = 0;
    uint32_t x = 1;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, &sh->addr.sa, es_addr_len(&sh->addr)) != 0) {
        perror("junk");
        exit(2);
    }
    memset(m, 0, sizeof m);
    for (int i = 0; i < BATCH; i++) {
        v[i].iov_base = bytes[i];
        v[i].iov_len = kind == EMPTY ? 0 : kind == ONE ? 1 : (size_t)(20 + (i * 97) % 1100);
        m[i].msg_hdr.msg_iov = &v[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
    phase(name);
    began = now = es_poller_now(poller);
    while (now < began + (uint64_t)(seconds * 1e9)) {
        if (kind >= RANDOM) {
            for (int i = 0; i < BATCH; i++) {
                for (int k = 0; k < 24; k++) {
                    bytes[i][k] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
                }
                bytes[i][0] = (uint8_t)(kind == SHORT_HEADER ? (bytes[i][0] & 0x3f) | 0x40 : bytes[i][0]);
            }
        }
        if ((double)sent < 200e3 * (double)(now - began) / 1e9 + BATCH) {
            int n = sendmmsg(fd, m, BATCH, 0);
            sent += n > 0 ? (unsigned long)n : 0;
        } else {
            usleep(50);
        }
        now = es_poller_now(poller);
    }
    close(fd);
    double s = (double)(now - began) / 1e9;
    verdict(idle_p99 + 5, "sent %.0f/s, taken %.0f/s, lost in the socket %.1f %%", (double)sent / s,
            (double)(sh->datagrams_in - seen) / s,
            100.0 * (double)(sh->datagrams_lost - lost) / (double)(sent + 1));
    settle(before);
}

static void duplicates(double seconds)
{
    uint64_t before = sh->in_use;

    phase("N6 every datagram ten times");
    sh->copies = 10;
    idle(seconds);
    sh->copies = 1;
    verdict(idle_p99 + 5, "each datagram of the client's was sent ten times");
    settle(before);
}

/* On a CPU of their own, and before other programs where that is allowed. */
static void settle_on(int cpu, int priority)
{
    struct sched_param p = {.sched_priority = priority};
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
    (void)sched_setscheduler(0, SCHED_RR, &p);
}

int main(int argc, char **argv)
{
    long streams = argc > 1 ? atol(argv[1]) : 1000000;
    double seconds = argc > 2 ? atof(argv[2]) : 5;
    struct rig_options o;
    pid_t server, client;

    sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sh == MAP_FAILED) {
        return 2;
    }
    sh->copies = 1;
    rig_options(&o);
    if (rig_make_tls(&keys, &o) != 0) {
        return 2;
    }
    if ((server = fork()) == 0) {
        settle_on(0, 1);
        run_server(keys.server_tls);
        _exit(0);
    }
    while (!sh->listening) {
        usleep(1000);
    }
    if ((client = fork()) == 0) {
        settle_on(1, 2); /* it measures, so it does not wait for the attackers' turn */
        run_client(keys.client_tls);
        _exit(0);
    }
    settle_on(1, 1);
    attackers_open();
    idle(0.5);
    phase("idle");
    idle(seconds);
    idle_p99 = client_latencies().p99;
    verdict(0, "held %.1f MB", (double)sh->in_use / 1e6);
    rapid_reset(streams);
    floods(seconds);
    slow_readers(seconds);
    slow_writers(seconds);
    junk("N6 empty datagrams", EMPTY, seconds);
    junk("N6 datagrams of one byte", ONE, seconds);
    junk("N6 random datagrams", RANDOM, seconds);
    junk("N6 random packets of 1-RTT", SHORT_HEADER, seconds);
    duplicates(seconds);
    sh->stop = 1;
    es_endpoint_del(endpoint);
    es_poller_del(poller);
    waitpid(client, NULL, 0);
    int status = 0;
    waitpid(server, &status, 0);
    expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the server died");
    printf("%s\n", failures == 0 ? "all held" : "FAILED");
    return failures != 0;
}
