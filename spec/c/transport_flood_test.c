// needs: csrc/base csrc/transport
// libs: -lpthread
// pkgs: libngtcp2 libngtcp2_crypto_gnutls gnutls
//
/* Ten thousand greetings from forged addresses, over sockets: what they cost, and what the honest notice.
 * HELLOS=n: how many (a thousand under valgrind). */
#include <malloc.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "greeting.h"
#include "test.h"
#include "transport_support.h"

#define HONEST    100
#define SENDERS   64
#define PER_TURN  50
#define HELLO_LEN 1200

/* Bytes that the process has from malloc, GnuTLS's among them. */
static size_t in_use(void)
{
    struct mallinfo2 m = mallinfo2();

    return m.uordblks + m.hblkhd;
}

/* ns of this process: what it would take on a machine of its own, since the loop below never waits. */
static uint64_t cpu(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * ES_SECOND + (uint64_t)t.tv_nsec;
}

/* Sockets at addresses of 127/8 that nobody answers from. */
static void open_senders(int fd[SENDERS])
{
    for (int i = 0; i < SENDERS; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(0x7f010000u + 1 + (unsigned)i)};
        fd[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (fd[i] < 0 || bind(fd[i], (struct sockaddr *)&a, sizeof a) != 0) {
            test_fail(__FILE__, __LINE__, "no socket");
        }
    }
}

static uint8_t *make_hellos(int n)
{
    uint8_t *all = malloc((size_t)n * HELLO_LEN);

    for (int i = 0; i < n; i++) {
        struct greeting g = {0};
        if (greeting_start(&g, NGTCP2_PROTO_VER_V1) != 0 ||
            greeting_packet(&g, all + (size_t)i * HELLO_LEN, HELLO_LEN) != HELLO_LEN) {
            test_fail(__FILE__, __LINE__, "no greeting");
        }
        greeting_end(&g);
    }
    return all;
}

TEST(ten_thousand_greetings_that_are_never_answered_cost_little_and_keep_nobody_out)
{
    const char *wanted = getenv("HELLOS");
    int slow = getenv("VALGRIND") != NULL;
    int n = wanted != NULL ? atoi(wanted) : slow ? 1000 : 10000, sent = 0, up = 0, dialled = 0, fd[SENDERS];
    struct rig r;
    struct rig_options o;
    struct es_endpoint_stats st;
    union es_addr addr;
    uint8_t *hello = make_hellos(n);
    size_t before, most = 0;
    uint64_t began = 0, began_cpu = 0, took = 0, took_cpu = 0;
    struct side *c[HONEST];
    static struct side sides[HONEST];

    rig_options(&o);
    o.bind = "127.0.0.1:0";
    REQUIRE(rig_open(&r, &o) == 0);
    es_endpoint_address(r.server, &addr);
    open_senders(fd);
    before = in_use();
    while (sent < n || up < HONEST) {
        for (int i = 0; i < PER_TURN && sent < n; i++, sent++) {
            (void)!sendto(fd[sent % SENDERS], hello + (size_t)sent * HELLO_LEN, HELLO_LEN, 0, &addr.sa,
                          sizeof addr.in4);
        }
        es_poller_step(r.p, 64);
        es_poller_flush(r.p);
        size_t now = in_use();
        if (dialled == 0) { /* what the honest cost, client and server in one process, is not the flood's */
            most = now > most ? now : most;
        }
        if (sent >= n / 2 && dialled < HONEST) {
            if (began == 0) {
                began = es_poller_now(r.p);
                began_cpu = cpu();
            }
            c[dialled] = rig_dial(&r, &o);
            REQUIRE(c[dialled] != NULL);
            /* the rig has room for 64 sides: these have theirs */
            sides[dialled] = *c[dialled];
            es_link_attach(sides[dialled].link, &side_events, &sides[dialled]);
            dialled++;
        }
        up = 0;
        for (int i = 0; i < dialled; i++) {
            up += sides[i].established;
        }
        if (up == HONEST && took == 0) {
            took = es_poller_now(r.p) - began;
            took_cpu = cpu() - began_cpu;
        }
        if (began != 0 && es_poller_now(r.p) > began + (slow ? 400 : 20) * ES_SECOND) {
            break;
        }
    }
    es_endpoint_stats_get(r.server, &st);
    fprintf(stderr,
            "%d greetings: memory +%.1f MB, %d honest handshakes in %.3f s (%.3f s of CPU); %llu Retry "
            "packets, %llu half open\n",
            sent, (double)(most - before) / 1e6, up, (double)took / 1e9, (double)took_cpu / 1e9,
            (unsigned long long)st.retries, (unsigned long long)st.half_open);
    CHECK_INT(most - before, <, 20 * 1000 * 1000);
    CHECK_INT(up, ==, HONEST);
    if (getenv("RELAXED") == NULL) {
        CHECK_INT(took_cpu, <=, ES_SECOND);
    }
    CHECK_INT(st.half_open, <=, 128 + HONEST);
    CHECK_INT(st.refused, ==, 0);
    for (int i = 0; i < SENDERS; i++) {
        close(fd[i]);
    }
    rig_close(&r);
    free(hello);
}
