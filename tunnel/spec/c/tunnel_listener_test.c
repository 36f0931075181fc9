// needs: tunnel/csrc/net csrc/base
// libs: -lgnutls
#include "../../../spec/c/test.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include "certificate.h"
#include "net_world.h"

/* A socket of the system's, connected to the host. */
static int raw_connect(const struct host *h)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(host_port(h))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* What a blocking descriptor brings until its end; -1: a reset. */
static long read_all(int fd)
{
    char buf[65536];
    long all = 0, n;

    while ((n = recv(fd, buf, sizeof buf, 0)) > 0) {
        all += n;
    }
    return n < 0 ? -1 : all;
}

TEST(accepting_pauses_at_the_most_connections_and_goes_on_when_one_ends)
{
    struct et_poller *p;
    struct host h;
    int fd[3];

    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){.max_connections = 2}) == 0);
    for (int i = 0; i < 3; i++) {
        fd[i] = raw_connect(&h);
        REQUIRE(fd[i] >= 0);
    }
    UNTIL(p, h.n == 2 && et_poller_stats(p)->accept_pauses > 0);
    for (int i = 0; i < 20; i++) {
        et_poller_step(p, 64);
    }
    CHECK_INT(h.n, ==, 2);
    close(fd[0]);
    UNTIL(p, h.end[0].eof + h.end[1].eof > 0);
    et_sock_close(h.end[h.end[0].eof ? 0 : 1].s, 1);
    UNTIL(p, h.n == 3);
    close(fd[1]);
    close(fd[2]);
    et_poller_del(p);
    host_free(&h);
}

TEST(without_descriptors_accepting_waits_and_does_not_spin)
{
    struct et_poller *p;
    struct host h;
    struct rlimit was, low;
    int fd, hold[64], n = 0;

    if (getenv("RELAXED") != NULL) {
        return; /* valgrind needs descriptors of its own and has its own idea of how many there are */
    }
    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){0}) == 0);
    fd = raw_connect(&h);
    REQUIRE(fd >= 0 && getrlimit(RLIMIT_NOFILE, &was) == 0);
    low = was;
    low.rlim_cur = (rlim_t)fd + 8;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &low) == 0);
    while (n < 64 && (hold[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) {
        n++;
    }
    UNTIL(p, et_poller_stats(p)->accept_pauses == 1);
    CHECK_INT(et_poller_step(p, 64), ==, 0);
    CHECK_INT(h.n, ==, 0);
    CHECK_INT(et_poller_stats(p)->accept_pauses, ==, 1); /* though it still waits there */
    while (n > 0) {
        close(hold[--n]);
    }
    setrlimit(RLIMIT_NOFILE, &was);
    UNTIL(p, h.n == 1);
    close(fd);
    et_poller_del(p);
    host_free(&h);
}

TEST(who_begins_no_handshake_is_closed)
{
    static const char *const names[] = {"a", NULL};
    struct et_poller *p;
    struct host h;
    struct certificate c;
    struct et_tls_server *tls;
    char reason[200];
    int fd;

    certificate_make(&c, names);
    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(et_tls_server_new(&(struct et_tls_cert){c.cert, c.key, NULL}, 1, NULL, 0, &tls, reason,
                              sizeof reason) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){.tls = tls, .handshake_timeout = 1000000}) == 0);
    fd = raw_connect(&h);
    UNTIL(p, et_poller_stats(p)->accepted == 1 && et_poller_stats(p)->sockets == 0);
    CHECK_INT(h.n, ==, 0);
    CHECK_INT(read_all(fd), ==, 0);
    close(fd);
    fd = raw_connect(&h); /* and what is no TLS at all */
    CHECK_INT(send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), ==, 18);
    UNTIL(p, et_poller_stats(p)->accepted == 2 && et_poller_stats(p)->sockets == 0);
    CHECK_INT(h.n, ==, 0);
    close(fd);
    et_listener_close(h.l);
    et_poller_del(p);
    et_tls_server_unref(tls);
    certificate_free(&c);
}

TEST(a_handshake_under_way_ends_with_its_listener_and_connections_stay)
{
    static const char *const names[] = {"a", NULL};
    struct et_poller *p;
    struct host h, plain;
    struct end e;
    struct certificate c;
    struct et_tls_server *tls;
    char reason[200];
    int fd;

    certificate_make(&c, names);
    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(et_tls_server_new(&(struct et_tls_cert){c.cert, c.key, NULL}, 1, NULL, 0, &tls, reason,
                              sizeof reason) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){.tls = tls}) == 0);
    REQUIRE(host_open(p, &plain, (struct et_listener_options){0}) == 0);
    et_tls_server_unref(tls); /* the listener has it */
    fd = raw_connect(&h);
    REQUIRE(end_connect(p, &e, &plain, NULL, NULL) == 0);
    UNTIL(p, et_poller_stats(p)->accepted == 2 && e.open);
    et_listener_close(h.l);
    et_listener_close(plain.l);
    UNTIL(p, et_poller_stats(p)->sockets == 2);
    CHECK(raw_connect(&plain) < 0);
    CHECK_INT(et_sock_write(e.s, "still", 5), ==, 0);
    UNTIL(p, plain.end[0].got == 5);
    close(fd);
    et_poller_del(p);
    CHECK_INT(e.closed, ==, 1);
    host_free(&plain);
    es_buf_free(&e.in);
    certificate_free(&c);
}

/* Our last bytes reach a peer that sent more than we read. */
TEST(no_reset_overtakes_the_last_bytes_of_a_graceful_close)
{
    struct et_poller *p;
    struct host h;
    static char big[3000000];
    int fd, sent;
    long got = 0, n = 1;

    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){0}) == 0);
    fd = raw_connect(&h);
    UNTIL(p, h.n == 1);
    et_sock_pause(h.end[0].s);
    sent = (int)send(fd, big, 100000, MSG_NOSIGNAL | MSG_DONTWAIT);
    CHECK_INT(sent, >, 0);
    CHECK_INT(et_sock_write(h.end[0].s, big, sizeof big), ==, 0);
    et_sock_close(h.end[0].s, 1);
    CHECK_INT(et_sock_write(h.end[0].s, "x", 1), ==, ES_ERR_CLOSED);
    for (int i = 0; i < 200000 && n != 0; i++) {
        static char buf[65536];
        et_poller_step(p, 64);
        n = recv(fd, buf, sizeof buf, MSG_DONTWAIT);
        if (n > 0) {
            got += n;
        } else if (n < 0 && errno != EAGAIN) {
            break;
        }
    }
    CHECK_INT(n, ==, 0);
    CHECK_INT(got, ==, sizeof big);
    close(fd);
    UNTIL(p, h.end[0].closed);
    CHECK_INT(h.end[0].err, ==, 0);
    CHECK_INT(h.end[0].got, ==, 0); /* and nothing was told of what it sent */
    et_poller_del(p);
    host_free(&h);
}

TEST(a_reset_is_told_even_while_nobody_reads)
{
    struct et_poller *p;
    struct host h;
    struct linger now = {1, 0};
    int fd;

    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){0}) == 0);
    fd = raw_connect(&h);
    UNTIL(p, h.n == 1);
    et_sock_pause(h.end[0].s);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
    UNTIL(p, h.end[0].closed);
    CHECK_INT(h.end[0].err, ==, ES_ERR_CLOSED);
    et_poller_del(p);
    host_free(&h);
}

TEST(timers_and_flushes_are_told_and_what_was_given_back_comes_first)
{
    struct et_poller *p;
    struct host h;
    struct end e;

    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){0}) == 0);
    REQUIRE(end_connect(p, &e, &h, NULL, NULL) == 0);
    UNTIL(p, h.n == 1 && e.open);
    et_sock_timer_in(e.s, 1000000);
    et_sock_dirty(e.s);
    et_sock_dirty(e.s);
    UNTIL(p, e.timer == 1 && e.flush == 1);
    et_sock_timer_in(e.s, 1000000);
    et_sock_timer_in(e.s, 0);
    CHECK_INT(et_sock_write(e.s, "cd", 2), ==, 0);
    CHECK_INT(et_sock_unread(h.end[0].s, "b", 1), ==, 0);
    CHECK_INT(et_sock_unread(h.end[0].s, "a", 1), ==, 0);
    UNTIL(p, h.end[0].got == 4);
    CHECK_MEM(h.end[0].in.p, h.end[0].in.n, "abcd", 4);
    CHECK_INT(e.timer, ==, 1);
    et_poller_del(p);
    host_free(&h);
    es_buf_free(&e.in);
}

TEST(a_connection_whose_handshake_nobody_answers_fails_in_time)
{
    struct et_poller *p;
    struct host h;
    struct end e;
    struct et_tls_client *tls;
    struct et_sock_place where = {.ip = "127.0.0.1", .timeout = 50000000};
    char reason[200];

    memset(&e, 0, sizeof e);
    REQUIRE(et_poller_new(&p) == 0);
    REQUIRE(et_tls_client_new(NULL, NULL, 0, NULL, NULL, NULL, &tls, reason, sizeof reason) == 0);
    REQUIRE(host_open(p, &h, (struct et_listener_options){0}) == 0);
    where.port = host_port(&h);
    REQUIRE(et_sock_connect(p, &where, tls, NULL, &end_events, &e, &e.s) == 0);
    et_tls_client_unref(tls); /* the connection has it */
    UNTIL(p, e.closed);
    CHECK_INT(e.err, ==, ES_ERR_TIMEOUT);
    et_poller_del(p);
    host_free(&h);
}

TEST(memory_that_runs_out_loses_connections_but_nothing_else)
{
    struct es_mem_stats before, after;

    es_mem_stats(&before);
    for (uint64_t i = 1; i < 40; i++) {
        struct et_poller *p;
        struct host h;
        struct end e;
        memset(&e, 0, sizeof e);
        if (et_poller_new(&p) != 0) {
            continue;
        }
        REQUIRE(host_open(p, &h, (struct et_listener_options){0}) == 0);
        es_mem_fail_nth(i);
        if (end_connect(p, &e, &h, NULL, NULL) == 0) {
            if (e.s != NULL) {
                et_sock_write(e.s, "x", 1);
            }
            for (int k = 0; k < 50; k++) {
                struct pollfd pfd = {et_poller_fd(p), POLLIN, 0};
                poll(&pfd, 1, 0);
                et_poller_step(p, 64);
            }
        }
        es_mem_fail_nth(0);
        et_poller_del(p);
        host_free(&h);
        es_buf_free(&e.in);
    }
    es_mem_stats(&after);
    CHECK_INT(after.in_use, ==, before.in_use);
}
