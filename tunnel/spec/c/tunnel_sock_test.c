// needs: tunnel/csrc/net csrc/base
// libs: -lgnutls -Wl,--wrap=epoll_ctl
#include <errno.h>
#include <sys/epoll.h>
#include "../../../spec/c/test.h"
#include "certificate.h"
#include "net_world.h"

static const char *const names[] = {"localhost", "*.example.org", NULL};
static const char *const alpn[] = {"h2", "http/1.1", NULL};

struct tls {
    struct certificate cert;
    struct et_tls_server *server;
    struct et_tls_client *client;
};

static void tls_make(struct tls *t)
{
    char reason[200] = "", pin[80] = "sha256:";
    struct et_tls_cert c;

    certificate_make(&t->cert, names);
    for (int i = 0; i < 32; i++) {
        snprintf(pin + 7 + 2 * i, 3, "%02x", t->cert.spki[i]);
    }
    c = (struct et_tls_cert){t->cert.cert, t->cert.key, NULL};
    CHECK_INT(et_tls_server_new(&c, 1, alpn, 0, &t->server, reason, sizeof reason), ==, 0);
    CHECK_INT(et_tls_client_new(NULL, pin, 1, NULL, NULL, alpn, &t->client, reason, sizeof reason), ==, 0);
    CHECK_STR(reason, "");
}

static void tls_free(struct tls *t)
{
    et_tls_server_unref(t->server);
    et_tls_client_unref(t->client);
    certificate_free(&t->cert);
}

static void talk(struct tls *t)
{
    struct et_poller *p;
    struct host h;
    struct end e;
    char text[80];

    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){.tls = t != NULL ? t->server : NULL}) == 0);
    REQUIRE(end_connect(p, &e, &h, t != NULL ? t->client : NULL, "a.example.org") == 0);
    CHECK_INT(et_sock_write(e.s, "hello", 5), ==, 0); /* before it is connected */
    UNTIL(p, h.n == 1 && h.end[0].got == 5 && e.open);
    CHECK_MEM(h.end[0].in.p, h.end[0].in.n, "hello", 5);
    CHECK_STR(e.alpn, t != NULL ? "h2" : "");
    CHECK_STR(h.end[0].alpn, t != NULL ? "h2" : "");
    CHECK_STR(h.end[0].sni, t != NULL ? "a.example.org" : "");
    CHECK_INT(et_sock_is_tls(e.s), ==, t != NULL);
    et_sock_peer(e.s, text, sizeof text);
    CHECK_STR(text, h.address);
    et_sock_local(h.end[0].s, text, sizeof text);
    CHECK_STR(text, h.address);
    et_sock_finish(e.s); /* half: the other direction goes on */
    CHECK_INT(et_sock_write(e.s, "x", 1), ==, ES_ERR_CLOSED);
    UNTIL(p, h.end[0].eof == 1);
    CHECK_INT(et_sock_write(h.end[0].s, "and back", 8), ==, 0);
    UNTIL(p, e.got == 8 || e.closed);
    CHECK_STR(e.text, "");
    CHECK_STR(h.end[0].text, "");

    CHECK_INT(e.eof, ==, 0);
    et_sock_finish(h.end[0].s);
    UNTIL(p, e.closed && h.end[0].closed);
    CHECK_INT(e.eof, ==, 1);
    CHECK_INT(e.err, ==, 0);
    CHECK_INT(h.end[0].err, ==, 0);
    et_listener_close(h.l);
    CHECK_INT(et_poller_stats(p)->sockets, ==, 0);
    et_poller_del(p);
    host_free(&h);
    es_buf_free(&e.in);
}

TEST(bytes_go_both_ways_and_each_direction_ends_by_itself)
{
    talk(NULL);
}

TEST(the_same_holds_with_tls)
{
    struct tls t;

    tls_make(&t);
    talk(&t);
    tls_free(&t);
}

/* Much, through a reader that pauses, with everything in order and the queue bounded by who writes. */
static void bulk(struct tls *t, size_t total)
{
    struct et_poller *p;
    struct host h;
    struct end e;
    static uint8_t chunk[50000];
    size_t written = 0;
    uint32_t sum = 0;

    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){.tls = t != NULL ? t->server : NULL}) == 0);
    REQUIRE(end_connect(p, &e, &h, t != NULL ? t->client : NULL, "localhost") == 0);
    UNTIL(p, h.n == 1 && e.open);
    h.end[0].discard = h.end[0].pause = 1;
    while (h.end[0].got < total && !e.closed && !h.end[0].closed) {
        while (written < total && et_sock_queued(e.s) < 300000) {
            size_t n = total - written < sizeof chunk ? total - written : sizeof chunk;
            for (size_t i = 0; i < n; i++) {
                chunk[i] = (uint8_t)((written + i) * 7 ^ (written + i) >> 8);
                sum = sum * 31 + chunk[i];
            }
            CHECK_INT(et_sock_write(e.s, chunk, n), ==, 0);
            written += n;
        }
        struct pollfd pfd = {et_poller_fd(p), POLLIN, 0};
        poll(&pfd, 1, 1);
        et_poller_step(p, 64);
        et_sock_resume(h.end[0].s);
    }
    CHECK_INT(h.end[0].got, ==, total);
    CHECK(h.end[0].sum == sum);
    CHECK_INT(e.room, >, 0);
    et_poller_del(p);
    CHECK_INT(e.closed, ==, 1);
    CHECK_INT(e.err, ==, ES_ERR_CLOSED);
    host_free(&h);
    es_buf_free(&e.in);
}

TEST(many_bytes_arrive_in_order)
{
    bulk(NULL, 10000000 / (getenv("RELAXED") != NULL ? 4 : 1));
}

TEST(many_bytes_arrive_in_order_with_tls)
{
    struct tls t;

    tls_make(&t);
    bulk(&t, 4000000 / (getenv("RELAXED") != NULL ? 4 : 1));
    tls_free(&t);
}

static int no_watches; /* none may be added */

int __real_epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev);

int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
    if (op == EPOLL_CTL_ADD && no_watches) {
        errno = ENOSPC;
        return -1;
    }
    return __real_epoll_ctl(epfd, op, fd, ev);
}

/* Its time-out was started when it had failed already, and went off when it was freed. */
TEST(a_socket_that_cannot_be_watched_is_closed_and_leaves_no_timer)
{
    struct et_poller *p;
    struct host h;
    struct end e;

    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){0}) == 0);
    no_watches = 1;
    REQUIRE(end_connect(p, &e, &h, NULL, NULL) == 0);
    UNTIL(p, e.closed);
    no_watches = 0;
    CHECK_INT(e.err, ==, ES_ERR_IO);
    CHECK_INT(es_timers_next(et_poller_timers(p)), ==, ES_NEVER);
    et_poller_del(p);
    es_buf_free(&e.in);
    host_free(&h);
}

/* What is not verified may be pinned all the same. */
TEST(a_pin_counts_without_verification)
{
    struct et_tls_client *client;
    char pin[80] = "sha256:", reason[200] = "";
    struct et_poller *p;
    struct host h;
    struct end e;
    struct tls t;

    tls_make(&t);
    memset(pin + 7, '0', 64);
    REQUIRE(et_tls_client_new(NULL, pin, 0, NULL, NULL, alpn, &client, reason, sizeof reason) == 0);
    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){.tls = t.server}) == 0);
    REQUIRE(end_connect(p, &e, &h, client, "a.example.org") == 0);
    UNTIL(p, e.open || e.closed);
    CHECK_INT(e.open, ==, 0);
    CHECK_INT(e.err, ==, ES_ERR_TLS);
    CHECK(strstr(e.text, "pin") != NULL);
    et_poller_del(p);
    es_buf_free(&e.in);
    host_free(&h);
    et_tls_client_unref(client);
    tls_free(&t);
}
