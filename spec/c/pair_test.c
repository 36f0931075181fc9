// needs: csrc/base csrc/link
/* The in-memory pair keeps link.h's rules, so that protocols tested on it meet what a real carrier does. */
#include "test.h"

#include <stdarg.h>

#include "../../csrc/base/err.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/link/pair.h"

/* A protocol that writes down what it is told: "open 0 | data 0 5 fin | ..." */
struct peer {
    struct es_link *link;
    char log[2048];
    size_t n;
    uint8_t got[4096]; /* bytes of every stream, in the order they came */
    size_t got_n;
    struct es_link_stream *last;                             /* the last stream opened by the other side */
    void (*on_data)(struct peer *, struct es_link_stream *); /* NULL: nothing */
    int answer_credit;                                       /* return credit at once */
    int closed;
};

static void note(struct peer *p, const char *fmt, ...)
{
    va_list ap;

    if (p->n > 0 && p->n + 4 < sizeof p->log)
        p->n += (size_t)snprintf(p->log + p->n, sizeof p->log - p->n, " | ");
    va_start(ap, fmt);
    p->n += (size_t)vsnprintf(p->log + p->n, sizeof p->log - p->n, fmt, ap);
    va_end(ap);
    if (p->n >= sizeof p->log)
        p->n = sizeof p->log - 1;
}

static const char *told(struct peer *p) /* and forgets */
{
    static char out[2048];

    memcpy(out, p->log, sizeof out);
    memset(p->log, 0, sizeof p->log);
    p->n = 0;
    return out;
}

static void on_established(void *u)
{
    note(u, "established");
}
static void on_opened(void *u, struct es_link_stream *s, int dir)
{
    struct peer *p = u;

    p->last = s;
    note(p, "open %d %s", (int)s->id, dir == ES_DIR_BIDI ? "bidi" : "uni");
}
static void on_data(void *u, struct es_link_stream *s, const uint8_t *b, size_t n, int fin)
{
    struct peer *p = u;

    note(p, "data %d %zu%s", (int)s->id, n, fin ? " fin" : "");
    if (p->got_n + n <= sizeof p->got && n > 0) {
        memcpy(p->got + p->got_n, b, n);
        p->got_n += n;
    }
    if (p->answer_credit)
        es_link_credit(s, n);
    if (p->on_data)
        p->on_data(p, s);
}
static void on_reset(void *u, struct es_link_stream *s, uint64_t code)
{
    note(u, "reset %d %d", (int)s->id, (int)code);
}
static void on_stopped(void *u, struct es_link_stream *s, uint64_t code)
{
    note(u, "stopped %d %d", (int)s->id, (int)code);
}
static void on_writable(void *u, struct es_link_stream *s)
{
    note(u, "writable %d", (int)s->id);
}
static void on_sent(void *u, struct es_link_stream *s)
{
    note(u, "sent %d", (int)s->id);
}
static void on_stream_closed(void *u, struct es_link_stream *s)
{
    note(u, "gone %d", (int)s->id);
}
static void on_datagram(void *u, const uint8_t *b, size_t n)
{
    (void)b;
    note(u, "datagram %zu", n);
}
static void on_credit(void *u, int dir)
{
    note(u, "streams %s", dir == ES_DIR_BIDI ? "bidi" : "uni");
}
static void on_hold_low(void *u)
{
    note(u, "low");
}
static void on_closed(void *u, const struct es_close_info *info)
{
    struct peer *p = u;

    p->closed++;
    note(p, "closed %d %d %d %d", (int)info->cause, info->err, info->app, (int)info->code);
}

static const struct es_link_events events = {
    .established = on_established,
    .stream_opened = on_opened,
    .data = on_data,
    .stream_reset = on_reset,
    .stream_stopped = on_stopped,
    .writable = on_writable,
    .sent = on_sent,
    .stream_closed = on_stream_closed,
    .datagram = on_datagram,
    .stream_credit = on_credit,
    .hold_low = on_hold_low,
    .closed = on_closed,
};

static struct es_pair *pair;
static struct peer cli, srv;

static void attach(void)
{
    int i;

    memset(&cli, 0, sizeof cli);
    memset(&srv, 0, sizeof srv);
    cli.answer_credit = srv.answer_credit = 1;
    for (i = 0; i < 2; i++) {
        struct peer *p = i ? &srv : &cli;

        p->link = es_pair_link(pair, i);
        es_link_attach(p->link, &events, p);
    }
}

static int begin(size_t bidi, size_t uni, size_t window)
{
    if (es_pair_new(&pair) != 0)
        return -1;
    es_pair_limits(pair, bidi, uni, window, 100);
    attach();
    es_pair_establish(pair);
    CHECK_STR(told(&cli), "established");
    CHECK_STR(told(&srv), "established");
    return 0;
}

static void settle(size_t chunk)
{
    int rounds = 0;

    while (es_pair_pump(pair, chunk) && ++rounds < 10000) {
    }
    CHECK_INT(rounds, <, 10000);
}

static int released;
static void release(void *arg)
{
    released += *(int *)arg;
}

static void answer(struct peer *p, struct es_link_stream *s)
{
    (void)p;
    es_link_write(s, "world", 5, 1);
    es_link_stream_done(s);
}

TEST(a_call_there_and_back_ends_with_stream_closed_on_both_sides)
{
    struct es_link_stream *s;

    REQUIRE(begin(10, 2, 1000) == 0);
    srv.on_data = answer;
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(s->id, ==, 0);
    CHECK_INT(es_link_write(s, "hello", 5, 1), ==, 0);
    CHECK_INT(es_link_queued(s), ==, 5);
    CHECK_INT(es_link_write(s, "more", 4, 0), ==, ES_ERR_CLOSED);
    settle(0);
    CHECK_STR(told(&srv), "open 0 bidi | data 0 5 fin | sent 0 | gone 0");
    CHECK_STR(told(&cli), "data 0 5 fin | streams bidi | sent 0 | gone 0");
    CHECK_MEM(cli.got, cli.got_n, "world", 5);
    CHECK_MEM(srv.got, srv.got_n, "hello", 5);
    es_pair_del(pair);
}

TEST(bytes_arrive_in_order_whatever_the_chunk)
{
    for (size_t chunk = 0; chunk < 12; chunk++) {
        struct es_link_stream *s;

        REQUIRE(begin(10, 2, 64) == 0);
        REQUIRE(es_link_open(cli.link, ES_DIR_UNI, NULL, &s) == 0);
        CHECK_INT(s->id, ==, 2);
        for (int i = 0; i < 300; i++) {
            uint8_t b[3] = {(uint8_t)i, (uint8_t)(i >> 8), 7};

            CHECK_INT(es_link_write(s, b, sizeof b, i == 299), ==, 0);
        }
        settle(chunk);
        REQUIRE(srv.got_n == 900);
        for (int i = 0; i < 300; i++) {
            CHECK_INT(srv.got[3 * i], ==, i & 255);
            CHECK_INT(srv.got[3 * i + 1], ==, i >> 8);
        }
        CHECK_INT(cli.link->held, ==, 0);
        es_pair_del(pair);
    }
}

TEST(a_window_holds_bytes_back_until_credit_returns)
{
    struct es_link_stream *s;

    REQUIRE(begin(10, 2, 8) == 0);
    srv.answer_credit = 0;
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, "0123456789abcdef", 16, 0), ==, 0);
    settle(0);
    CHECK_STR(told(&srv), "open 0 bidi | data 0 8");
    es_link_credit(srv.last, 3);
    settle(0);
    CHECK_STR(told(&srv), "data 0 3");
    CHECK_INT(es_link_queued(s), ==, 5);
    es_link_credit(srv.last, 8);
    settle(2);
    CHECK_MEM(srv.got, srv.got_n, "0123456789abcdef", 16);
    es_pair_del(pair);
}

TEST(release_runs_once_and_never_inside_a_link_function)
{
    static const char big[1000];
    struct es_link_stream *a, *b;
    int one = 1;

    released = 0;
    REQUIRE(begin(10, 2, 400) == 0);
    srv.answer_credit = 0;
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &a) == 0);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &b) == 0);
    CHECK_INT(es_link_write_ref(a, big, sizeof big, 0, release, &one), ==, 0);
    CHECK_INT(es_link_write_ref(b, big, 10, 1, release, &one), ==, 0);
    CHECK_INT(es_link_write_ref(b, big, 10, 1, release, &one), ==, ES_ERR_CLOSED);
    CHECK_INT(cli.link->held, ==, 1010);
    settle(0);
    CHECK_INT(released, ==, 1); /* b's; a waits for credit */
    CHECK_INT(cli.link->held, ==, 1000);
    es_link_reset(a, 5);
    CHECK_INT(released, ==, 1);
    CHECK_INT(cli.link->held, ==, 0);
    es_pair_pump(pair, 0);
    CHECK_INT(released, ==, 2);
    CHECK_INT(es_link_write_ref(a, big, 10, 1, release, &one), ==, ES_ERR_CLOSED);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &a) == 0);
    CHECK_INT(es_link_write_ref(a, big, 0, 0, release, &one), ==, 0); /* nothing to send, still released */
    CHECK_INT(es_link_write_ref(a, big, 900, 0, release, &one), ==, 0);
    es_pair_del(pair);
    CHECK_INT(released, ==, 4);
}

TEST(the_allowance_of_streams_returns_with_stream_done)
{
    struct es_link_stream *s, *t;

    REQUIRE(begin(1, 0, 100) == 0);
    CHECK_INT(es_link_open(cli.link, ES_DIR_UNI, NULL, &s), ==, ES_ERR_LIMIT);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_open(cli.link, ES_DIR_BIDI, NULL, &t), ==, ES_ERR_LIMIT);
    CHECK_INT(es_link_write(s, "x", 1, 0), ==, 0);
    es_link_reset(s, 9);
    settle(0);
    CHECK_STR(told(&srv), "open 0 bidi | reset 0 9"); /* a reset alone gives nothing back */
    CHECK_STR(told(&cli), "");
    es_link_stream_done(srv.last);
    es_link_stream_done(srv.last);
    settle(0);
    CHECK_STR(told(&cli), "streams bidi");
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &t) == 0);
    CHECK_INT(t->id, ==, 4);
    CHECK_INT(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s), ==, ES_ERR_LIMIT);
    es_pair_del(pair);
}

TEST(the_allowance_returns_at_the_latest_when_the_stream_is_closed)
{
    struct es_link_stream *s;

    REQUIRE(begin(1, 1, 100) == 0);
    REQUIRE(es_link_open(srv.link, ES_DIR_UNI, NULL, &s) == 0);
    CHECK_INT(s->id, ==, 3);
    CHECK_INT(es_link_write(s, "x", 1, 1), ==, 0);
    settle(0);
    CHECK_STR(told(&cli), "open 3 uni | data 3 1 fin | gone 3");
    CHECK_STR(told(&srv), "sent 3 | gone 3 | streams uni");
    REQUIRE(es_link_open(srv.link, ES_DIR_UNI, NULL, &s) == 0);
    es_pair_del(pair);
}

TEST(a_reset_drops_what_waits_and_is_told_with_its_code)
{
    struct es_link_stream *s;

    REQUIRE(begin(10, 2, 4) == 0);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    srv.answer_credit = 0;
    CHECK_INT(es_link_write(s, "12345678", 8, 1), ==, 0);
    settle(0);
    es_link_reset(s, 0x10);
    es_link_reset(s, 0x11);
    CHECK_INT(es_link_queued(s), ==, 0);
    settle(0);
    CHECK_STR(told(&srv), "open 0 bidi | data 0 4 | reset 0 16");
    es_link_write(srv.last, "", 0, 1);
    settle(0);
    CHECK_STR(told(&srv), "sent 0 | gone 0");
    CHECK_STR(told(&cli), "data 0 0 fin | gone 0 | streams bidi");
    es_pair_del(pair);
}

TEST(stop_sending_silences_the_stream_and_the_peer_resets)
{
    struct es_link_stream *s;

    REQUIRE(begin(10, 2, 4) == 0);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, "12345678", 8, 0), ==, 0);
    es_pair_pump(pair, 4);
    CHECK_STR(told(&srv), "open 0 bidi | data 0 4");
    es_link_stop(srv.last, 0x13);
    es_link_stop(srv.last, 0x14);
    settle(4);
    CHECK_STR(told(&srv), "reset 0 19");
    CHECK_STR(told(&cli), "stopped 0 19");
    CHECK_INT(es_link_write(s, "x", 1, 0), ==, ES_ERR_CLOSED);
    CHECK_INT(cli.link->held, ==, 0);
    es_link_stop(srv.last, 1); /* too late: harmless */
    es_link_reset(srv.last, 2);
    settle(0);
    CHECK_STR(told(&cli), "reset 0 2 | gone 0 | streams bidi");
    CHECK_STR(told(&srv), "gone 0");
    es_pair_del(pair);
}

TEST(writable_comes_once_when_half_the_queue_is_gone)
{
    static const char block[64 * 1024];
    struct es_link_stream *s;
    int i;

    REQUIRE(begin(10, 2, 1000 * 1000) == 0);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    for (i = 0; i < 5; i++)
        CHECK_INT(es_link_write(s, block, sizeof block, 0), ==, 0);
    CHECK_INT(es_link_queued(s), >, ES_LINK_HIGH);
    es_pair_pump(pair, 100 * 1024);
    CHECK_STR(told(&cli), "");
    es_pair_pump(pair, 100 * 1024);
    CHECK_STR(told(&cli), "writable 0");
    settle(0);
    CHECK_STR(told(&cli), "");
    es_pair_del(pair);
}

TEST(held_bytes_over_the_cap_keep_connection_credit_back)
{
    static const char block[1000];
    struct es_link_stream *s;
    size_t first;

    REQUIRE(es_pair_new(&pair) == 0);
    es_pair_limits(pair, 10, 2, 100000, 100);
    es_pair_connection_window(pair, 3000);
    attach();
    es_pair_establish(pair);
    srv.link->hold_cap = 4000;
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    es_link_hold(srv.link, 4001);
    CHECK(!es_link_would_hold(srv.link, 0));
    for (int i = 0; i < 10; i++)
        CHECK_INT(es_link_write(s, block, sizeof block, 0), ==, 0);
    settle(0);
    first = srv.got_n;
    CHECK_INT(first, ==, 3000);
    told(&srv);
    es_link_hold(srv.link, -2);
    settle(1000);
    CHECK_STR(told(&srv), "low | data 0 1000 | data 0 1000 | data 0 1000 | data 0 1000 | data 0 1000 | "
                          "data 0 1000 | data 0 1000");
    es_link_hold(srv.link, -3999);
    settle(0);
    CHECK_STR(told(&srv), "low");
    es_pair_del(pair);
}

TEST(datagrams_pass_within_their_size_and_number)
{
    uint8_t d[101] = {0};

    REQUIRE(begin(1, 1, 100) == 0);
    CHECK_INT(es_link_datagram(cli.link, d, 101), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(es_link_datagram(cli.link, d, 100), ==, 0);
    CHECK_INT(es_link_datagram(cli.link, d, 0), ==, 0);
    settle(0);
    CHECK_STR(told(&srv), "datagram 100 | datagram 0");
    for (int i = 0; i < 256; i++)
        CHECK_INT(es_link_datagram(srv.link, d, 1), ==, 0);
    CHECK_INT(es_link_datagram(srv.link, d, 1), ==, ES_ERR_LIMIT);
    es_pair_del(pair);

    REQUIRE(es_pair_new(&pair) == 0);
    es_pair_limits(pair, 1, 1, 100, 0);
    attach();
    es_pair_establish(pair);
    CHECK_INT(es_link_datagram(cli.link, d, 1), ==, ES_ERR_UNSUPPORTED);
    es_pair_del(pair);
}

static void close_now(struct peer *p, struct es_link_stream *s)
{
    (void)s;
    es_link_close(p->link, 1, 0x106, "enough");
}

TEST(a_close_gives_what_is_queued_one_round_and_tells_both_sides_once)
{
    struct es_link_stream *s, *t;

    REQUIRE(begin(10, 2, 100) == 0);
    srv.on_data = close_now; /* from inside an up-call */
    REQUIRE(es_link_open(srv.link, ES_DIR_UNI, NULL, &t) == 0);
    CHECK_INT(es_link_write(t, "bye", 3, 1), ==, 0);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, "hello", 5, 1), ==, 0);
    settle(0);
    es_link_close(srv.link, 0, 1, "again");
    CHECK_STR(told(&srv), "open 0 bidi | data 0 5 fin | closed 1 -4 1 262");
    CHECK_STR(told(&cli), "open 3 uni | data 3 3 fin | closed 2 -4 1 262");
    CHECK_INT(es_link_datagram(cli.link, "x", 1), ==, ES_ERR_CLOSED);
    CHECK_INT(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s), ==, ES_ERR_CLOSED);
    es_pair_del(pair);
    CHECK_INT(cli.closed, ==, 1);
    CHECK_INT(srv.closed, ==, 1);
}

TEST(a_cut_network_ends_both_sides_as_idle)
{
    struct es_link_stream *s;

    REQUIRE(begin(10, 2, 100) == 0);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, "hello", 5, 1), ==, 0);
    es_pair_cut(pair);
    settle(0);
    CHECK_STR(told(&cli), "closed 3 -9 0 0");
    CHECK_STR(told(&srv), "closed 3 -9 0 0");
    es_pair_del(pair);
    CHECK_INT(cli.closed, ==, 1);
}

TEST(a_link_can_be_closed_before_it_is_established)
{
    struct es_link_stream *s;

    REQUIRE(es_pair_new(&pair) == 0);
    attach();
    CHECK_INT(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s), ==, ES_ERR_LIMIT);
    es_link_close(cli.link, 1, 7, NULL);
    es_pair_establish(pair);
    settle(0);
    CHECK_STR(told(&cli), "closed 1 -4 1 7");
    CHECK_STR(told(&srv), "established | closed 2 -4 1 7");
    es_pair_del(pair);
}

TEST(deleting_a_pair_in_the_middle_leaves_nothing)
{
    struct es_mem_stats before, after;
    struct es_link_stream *s;

    es_mem_stats(&before);
    REQUIRE(begin(10, 2, 3) == 0);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, "hello", 5, 1), ==, 0);
    es_link_datagram(cli.link, "x", 1);
    es_pair_pump(pair, 1);
    es_link_datagram(srv.link, "x", 1);
    es_pair_del(pair);
    CHECK_INT(cli.closed, ==, 1);
    CHECK_INT(srv.closed, ==, 1);
    es_mem_stats(&after);
    CHECK_INT(after.in_use, ==, before.in_use);
    CHECK_INT(after.allocs - before.allocs, ==, after.frees - before.frees);
}

static void count(void *user)
{
    ++*(int *)user;
}

/* What a loop needs that pumps only when there is something to move. */
TEST(whoever_uses_a_link_is_noticed_and_nothing_is_left_to_move_without_notice)
{
    struct es_link_stream *s;
    char addr[64];
    int used = 0;

    REQUIRE(begin(10, 2, 100) == 0);
    settle(0);
    srv.answer_credit = 0;
    es_pair_notify(pair, count, &used);
    CHECK_INT(es_pair_pump(pair, 0), ==, 0);
    CHECK_INT(used, ==, 0);
    REQUIRE(es_link_open(cli.link, ES_DIR_BIDI, NULL, &s) == 0);
    CHECK_INT(es_link_write(s, "hello", 5, 0), ==, 0);
    CHECK_INT(used, ==, 1);
    settle(0);
    used = 0;
    es_link_credit(srv.last, 5);
    CHECK_INT(used, ==, 1);
    es_link_reset(srv.last, 3);
    CHECK_INT(used, ==, 2);
    es_link_stop(s, 4);
    CHECK_INT(used, ==, 3);
    es_link_datagram(srv.link, "x", 1);
    CHECK_INT(used, ==, 4);
    es_link_stream_done(srv.last);
    CHECK_INT(used, ==, 5);
    settle(0);
    used = 0;
    CHECK_INT(es_pair_pump(pair, 0), ==, 0);
    CHECK_INT(used, ==, 0);
    es_pair_address(pair, 1, "192.0.2.1:7");
    es_link_peer_addr(srv.link, addr, sizeof addr);
    CHECK_STR(addr, "192.0.2.1:7");
    CHECK_INT(es_pair_is_over(pair), ==, 0);
    es_link_close(srv.link, 1, 7, "enough");
    CHECK_INT(used, ==, 1);
    settle(0);
    CHECK_INT(es_pair_is_over(pair), ==, 1);
    es_pair_del(pair);
}
