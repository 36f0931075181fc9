// needs: csrc/base csrc/link csrc/transport csrc/tcp
// pkgs: libngtcp2 libngtcp2_crypto_gnutls libnghttp2 gnutls
//
// Memory runs out at each place in turn: a connection may be lost, nothing else may happen.
#define RIG_TCP
#include <fcntl.h>
#include "test.h"
#include "transport_support.h"

static struct rig r;
static struct rig_options o;
static int released;

static void on_release(void *arg)
{
    released++;
}

/* Calls, datagrams, resets and stops both ways, as far as they get. */
static void play(struct side *c)
{
    static const char bytes[5000];
    struct es_link_stream *s;

    for (int i = 0; i < 6 && c->link != NULL; i++) {
        if (es_link_open(c->link, i & 1, c, &s) != 0) {
            turn(&r);
            continue;
        }
        (void)es_link_write(s, "hello", 5, 0);
        if (es_link_write_ref(s, bytes, sizeof bytes, i != 2, on_release, NULL) == 0) {
            released--;
        }
        if (i == 2) {
            es_link_reset(s, 7);
            es_link_stop(s, 8);
        }
        (void)es_link_datagram(c->link, "quick", 5);
        turn(&r);
    }
    if (r.s[0].link != NULL && es_link_open(r.s[0].link, ES_DIR_BIDI, &r.s[0], &s) == 0) {
        (void)es_link_write(s, "back", 4, 1);
    }
    for (int i = 0; i < 2; i++) {
        turn(&r);
    }
}

static void at(uint64_t nth)
{
    struct side *c;
    int i;

    if (rig_open(&r, &o) != 0) {
        rig_close(&r);
        return;
    }
    es_mem_fail_nth(nth);
    c = rig_dial(&r, &o);
    for (i = 0; c != NULL && !c->closed && i < 60 && !(c->established && r.s[0].established); i++) {
        turn(&r);
    }
    if (c != NULL && c->established) {
        play(c);
    }
    es_mem_fail_nth(0);
    rig_close(&r);
    if (c != NULL) {
        CHECK_INT(c->closed, ==, 1);
    }
}

TEST(each_allocation_may_fail)
{
    struct es_mem_stats a, b;
    uint64_t step = getenv("RELAXED") != NULL ? 9 : 2; /* under valgrind each takes its time */

    rig_options(&o);
    o.client.handshake_timeout = o.server.handshake_timeout = 100 * ES_MILLI;
    at(0); /* what is allocated once */
    es_mem_stats(&a);
    for (uint64_t n = 1; n < 240; n += step) {
        at(n);
    }
    es_mem_stats(&b);
    CHECK_INT(released, ==, 0);
    CHECK_INT(b.in_use, <=, a.in_use + 4096);
}

static int descriptors(void)
{
    int n = 0;

    for (int fd = 0; fd < 256; fd++) {
        n += fcntl(fd, F_GETFD) >= 0;
    }
    return n;
}

/* The connection itself was not to be had, and its socket stayed open for ever: dialled or accepted. */
TEST(a_connection_that_gets_no_memory_keeps_no_descriptor)
{
    rig_options(&o);
    o.client.handshake_timeout = o.server.handshake_timeout = 100 * ES_MILLI;
    at(0);
    for (uint64_t n = 1; n <= 16; n++) {
        int before = descriptors();

        at(n);
        CHECK_INT(descriptors(), ==, before);
    }
}
