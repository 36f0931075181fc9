// needs: csrc/base csrc/sim csrc/transport/token_store.c csrc/transport/addr.c
/* The simulated network, with endpoints that only write down what reaches them. */
#include "test.h"

#include <arpa/inet.h>

#include "../../csrc/base/err.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/sim/sim.h"
#include "../../csrc/transport/driver.h"

#define MAX_GOT 20000

struct es_endpoint { /* a stand-in for the transport's */
    void *sock;
    union es_addr addr;
    size_t n;
    size_t bytes;
    uint64_t at[MAX_GOT];
    uint8_t first[MAX_GOT]; /* first byte of each datagram */
    size_t len[MAX_GOT];
    union es_addr from, local;
    uint8_t ecn;
    uint8_t last[70000];
    struct es_poller *p;
};

void es_endpoint_input(struct es_endpoint *ep, const union es_addr *local, const union es_addr *remote,
                       uint8_t ecn, const uint8_t *data, size_t len)
{
    if (ep->n < MAX_GOT) {
        ep->at[ep->n] = ep->p->timers.now;
        ep->first[ep->n] = len ? data[0] : 0;
        ep->len[ep->n++] = len;
    }
    ep->bytes += len;
    ep->from = *remote;
    ep->local = *local;
    ep->ecn = ecn;
    memcpy(ep->last, data, len);
}

static struct es_sim *sim;
static struct es_poller *poller;
static struct es_endpoint a, b;

static union es_addr addr(const char *ip, int port)
{
    union es_addr out;

    memset(&out, 0, sizeof out);
    if (strchr(ip, ':')) {
        out.in6.sin6_family = AF_INET6;
        out.in6.sin6_port = htons((uint16_t)port);
        inet_pton(AF_INET6, ip, &out.in6.sin6_addr);
    } else {
        out.in4.sin_family = AF_INET;
        out.in4.sin_port = htons((uint16_t)port);
        inet_pton(AF_INET, ip, &out.in4.sin_addr);
    }
    return out;
}

static int port_of(const union es_addr *x)
{
    return ntohs(x->sa.sa_family == AF_INET6 ? x->in6.sin6_port : x->in4.sin_port);
}

static int bind_to(struct es_endpoint *ep, const char *ip, int port)
{
    memset(ep, 0, sizeof *ep);
    ep->p = poller;
    ep->addr = addr(ip, port);
    return poller->io.bind(poller->io.ctx, ep, &ep->addr, &ep->sock);
}

static void begin(const struct es_sim_config *c)
{
    es_sim_new(&sim, c);
    poller = es_sim_poller(sim);
    CHECK_INT(bind_to(&a, "10.0.0.1", 0), ==, 0);
    CHECK_INT(bind_to(&b, "10.0.0.2", 5000), ==, 0);
}

static void end(void)
{
    poller->io.close(poller->io.ctx, a.sock);
    poller->io.close(poller->io.ctx, b.sock);
    es_sim_del(sim);
}

static int send_n(struct es_endpoint *from, const union es_addr *to, const uint8_t *data, size_t len,
                  size_t segment)
{
    struct es_dgram d = {NULL, to, data, len, segment, 2};

    return poller->io.send(poller->io.ctx, from->sock, &d, 1);
}

static int step(void)
{
    return poller->ops->step(poller, 64);
}

static void run(void)
{
    int n = 0;

    while (step() > 0)
        CHECK_INT(++n, <, 1000000);
}

static uint64_t digest(uint64_t h, uint64_t x)
{
    return (h ^ x) * UINT64_C(0x100000001b3);
}

TEST(a_datagram_arrives_after_the_delay_and_the_clock_jumps_there)
{
    struct es_sim_config c;
    uint64_t start;

    es_sim_config_default(&c);
    begin(&c);
    start = poller->timers.now;
    CHECK_INT(poller->io.wall(poller->io.ctx), ==, INT64_C(1700000000000000000));
    CHECK_INT(send_n(&a, &b.addr, (const uint8_t *)"hello", 5, 5), ==, 1);
    CHECK_INT(es_timers_next(&poller->timers), ==, ES_NEVER);
    poller->ops->rearm(poller); /* what a flush does at its end */
    CHECK_INT(es_timers_next(&poller->timers) - start, ==, 5 * ES_MILLI);
    CHECK_INT(step(), ==, 1);
    CHECK_INT(poller->timers.now - start, ==, 5 * ES_MILLI);
    CHECK_MEM(b.last, b.len[0], "hello", 5);
    CHECK_INT(b.ecn, ==, 2);
    CHECK_INT(port_of(&b.from), ==, port_of(&a.addr));
    CHECK_INT(port_of(&b.local), ==, 5000);
    CHECK_INT(poller->io.wall(poller->io.ctx), ==, INT64_C(1700000000005000000));
    CHECK_INT(step(), ==, 0); /* nothing will ever happen */
    end();
}

TEST(ports_are_assigned_and_an_address_is_given_once)
{
    struct es_sim_config c;
    struct es_endpoint *x = calloc(1, sizeof *x);

    es_sim_config_default(&c);
    begin(&c);
    CHECK_INT(port_of(&a.addr), >=, 49152);
    CHECK_INT(bind_to(x, "10.0.0.2", 5000), ==, ES_ERR_EXISTS);
    CHECK_INT(bind_to(x, "::", 0), ==, 0);
    CHECK_INT(x->addr.in6.sin6_addr.s6_addr[0], ==, 0xfd);
    CHECK_INT(send_n(x, &b.addr, (const uint8_t *)"", 0, 0), ==, 1);
    run();
    CHECK_INT(b.n, ==, 1);
    poller->io.close(poller->io.ctx, x->sock);
    CHECK_INT(send_n(&a, &x->addr, (const uint8_t *)"x", 1, 1), ==, 1);
    run();
    CHECK_INT(x->n, ==, 0);
    end();
    free(x);
}

TEST(a_batch_is_split_by_its_segment)
{
    struct es_sim_config c;
    uint8_t data[2500];

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i / 1000);
    es_sim_config_default(&c);
    begin(&c);
    CHECK_INT(send_n(&a, &b.addr, data, sizeof data, 1000), ==, 1);
    run();
    REQUIRE(b.n == 3);
    CHECK_INT(b.len[0], ==, 1000);
    CHECK_INT(b.len[2], ==, 500);
    CHECK_INT(b.first[0], ==, 0);
    CHECK_INT(b.first[1], ==, 1);
    CHECK_INT(b.first[2], ==, 2);
    end();
}

TEST(budget_bounds_a_step_and_nothing_overtakes_the_clock)
{
    struct es_sim_config c;

    es_sim_config_default(&c);
    begin(&c);
    for (int i = 0; i < 10; i++)
        send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    CHECK_INT(poller->ops->step(poller, 4), ==, 4);
    CHECK_INT(poller->ops->step(poller, 4), ==, 4);
    CHECK_INT(poller->ops->step(poller, 4), ==, 2);
    CHECK_INT(b.at[0], ==, b.at[9]);
    CHECK_INT(poller->ops->step(poller, 4), ==, 0);
    end();
}

static uint64_t fired_at;
static void on_timer(struct es_timer *t)
{
    fired_at = ((struct es_poller *)t->user)->timers.now;
}

TEST(timers_and_datagrams_come_in_the_order_of_their_times)
{
    struct es_sim_config c;
    struct es_timer t;
    uint64_t start;

    es_sim_config_default(&c);
    begin(&c);
    start = poller->timers.now;
    es_timer_init(&t, on_timer, poller);
    es_timer_start(&poller->timers, &t, start + 3 * ES_MILLI);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    CHECK_INT(step(), ==, 1);
    CHECK_INT(fired_at - start, ==, 3 * ES_MILLI);
    CHECK_INT(b.n, ==, 0);
    CHECK_INT(es_timers_next(&poller->timers) - start, ==, 5 * ES_MILLI);
    CHECK_INT(step(), ==, 1);
    CHECK_INT(b.n, ==, 1);
    end();
}

TEST(a_kick_lets_the_caller_flush_before_the_clock_jumps)
{
    struct es_sim_config c;
    uint64_t start;

    es_sim_config_default(&c);
    begin(&c);
    start = poller->timers.now;
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    poller->ops->kick(poller);
    CHECK_INT(step(), ==, 1);
    CHECK_INT(poller->timers.now, ==, start);
    CHECK_INT(step(), ==, 1);
    CHECK_INT(b.n, ==, 1);
    end();
}

/* The share of 10,000 datagrams that meets a fate stands near its probability. */
TEST(loss_duplication_reordering_and_corruption_happen_as_often_as_asked_for)
{
    struct es_sim_config c;
    struct es_sim_stats st;
    uint8_t zero[60] = {0};
    size_t changed = 0, seen;

    es_sim_config_default(&c);
    c.path.loss = 0.2;
    c.path.duplicate = 0.1;
    c.path.reorder = 0.05;
    c.path.corrupt = 0.1;
    begin(&c);
    for (int i = 0; i < 10000; i++) {
        send_n(&a, &b.addr, zero, sizeof zero, sizeof zero);
        seen = b.n;
        run();
        for (int j = 0; j < 60 && b.n == seen + 1; j++) {
            changed += b.last[j] != 0;
            CHECK(j < 50 || b.last[j] == 0);
        }
    }
    es_sim_stats_get(sim, &st);
    CHECK_INT(st.sent, ==, 10000);
    CHECK(st.lost > 1800 && st.lost < 2200);
    CHECK(st.duplicated > 900 && st.duplicated < 1100);
    CHECK(st.reordered > 400 && st.reordered < 600);
    CHECK_INT(st.delivered, ==, 10000 - st.lost + st.duplicated);
    CHECK(st.corrupted > 650 && st.corrupted < 950);
    CHECK(changed > 500 && changed <= st.corrupted);
    end();
}

TEST(bursts_lose_several_in_a_row)
{
    struct es_sim_config c;
    int row = 0, longest = 0, lost = 0;

    es_sim_config_default(&c);
    c.path.loss = 0.02;
    c.path.burst = 8;
    begin(&c);
    for (int i = 0; i < 5000; i++) {
        size_t n = b.n;

        send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
        run();
        row = b.n == n ? row + 1 : 0;
        lost += b.n == n;
        longest = row > longest ? row : longest;
    }
    CHECK_INT(longest, >=, 7);
    CHECK(lost > 250 && lost < 700); /* 2 % of what starts a burst, 4.5 on average */
    end();
}

TEST(the_rate_limit_spaces_datagrams_and_its_queue_drops)
{
    struct es_sim_config c;
    struct es_sim_stats st;
    uint8_t data[972] = {0}; /* 1,000 bytes with headers: 8 ms at 1 Mbit/s */
    uint64_t start;

    es_sim_config_default(&c);
    c.path.rate = 1000000;
    c.path.queue = 10;
    begin(&c);
    start = poller->timers.now;
    for (int i = 0; i < 15; i++)
        send_n(&a, &b.addr, data, sizeof data, sizeof data);
    run();
    es_sim_stats_get(sim, &st);
    CHECK_INT(b.n, ==, 10);
    CHECK_INT(st.queue_dropped, ==, 5);
    for (size_t i = 0; i < b.n; i++)
        CHECK_INT(b.at[i] - start, ==, 5 * ES_MILLI + (i + 1) * 8 * ES_MILLI);
    send_n(&a, &b.addr, data, sizeof data, sizeof data); /* the queue has drained */
    run();
    CHECK_INT(b.n, ==, 11);
    end();
}

TEST(datagrams_over_the_mtu_vanish_and_big_ones_pass_below_it)
{
    struct es_sim_config c;
    static uint8_t data[60000];

    es_sim_config_default(&c);
    begin(&c);
    send_n(&a, &b.addr, data, sizeof data, sizeof data);
    run();
    CHECK_INT(b.bytes, ==, 60000);
    c.path.mtu = 1400;
    CHECK_INT(es_sim_set_path(sim, NULL, NULL, &c.path), ==, 0);
    send_n(&a, &b.addr, data, 1401, 1401);
    send_n(&a, &b.addr, data, 1400, 1400);
    run();
    CHECK_INT(b.bytes, ==, 61400);
    end();
}

TEST(one_direction_can_have_a_path_of_its_own)
{
    struct es_sim_config c;
    uint64_t start;

    es_sim_config_default(&c);
    begin(&c);
    c.path.delay = 100 * ES_MILLI;
    CHECK_INT(es_sim_set_path(sim, "10.0.0.2", "10.0.0.1", &c.path), ==, 0);
    CHECK_INT(es_sim_set_path(sim, "nonsense", NULL, &c.path), ==, ES_ERR_INVAL);
    start = poller->timers.now;
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    send_n(&b, &a.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(b.at[0] - start, ==, 5 * ES_MILLI);
    CHECK_INT(a.at[0] - start, ==, 100 * ES_MILLI);
    c.path.loss = 1;
    CHECK_INT(es_sim_set_path(sim, NULL, NULL, &c.path), ==, 0); /* rules for all replace it */
    send_n(&b, &a.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(a.n, ==, 1);
    end();
}

TEST(nothing_passes_in_a_blackout)
{
    struct es_sim_config c;
    struct es_timer t;
    uint64_t start;

    es_sim_config_default(&c);
    begin(&c);
    start = poller->timers.now;
    es_sim_blackout(sim, start + ES_MILLI, start + 10 * ES_MILLI);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1); /* would arrive at 5 ms */
    run();
    CHECK_INT(b.n, ==, 0);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1); /* sent at 5 ms */
    run();
    CHECK_INT(b.n, ==, 0);
    es_timer_init(&t, on_timer, poller);
    es_timer_start(&poller->timers, &t, start + 10 * ES_MILLI);
    run();
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(b.n, ==, 1);
    end();
}

TEST(a_rebound_endpoint_is_seen_from_its_new_port_only)
{
    struct es_sim_config c;
    union es_addr old;

    es_sim_config_default(&c);
    begin(&c);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    run();
    old = b.from;
    CHECK_INT(es_sim_rebind(sim, &a, 0), ==, 0);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(port_of(&b.from), !=, port_of(&old));
    send_n(&b, &b.from, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(a.n, ==, 1);
    CHECK_INT(port_of(&a.local), ==, port_of(&a.addr)); /* it does not notice */
    send_n(&b, &old, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(a.n, ==, 1);
    CHECK_INT(es_sim_rebind(sim, &a, 7777), ==, 0);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(port_of(&b.from), ==, 7777);
    CHECK_INT(es_sim_rebind(sim, NULL, 1), ==, ES_ERR_NOT_FOUND);
    end();
}

static uint64_t one_run(uint64_t seed, uint64_t *bytes)
{
    struct es_sim_config c;
    uint8_t data[64] = {0}, r[13];
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    es_sim_config_default(&c);
    c.seed = seed;
    c.path.loss = 0.1;
    c.path.duplicate = 0.1;
    c.path.reorder = 0.1;
    c.path.corrupt = 0.1;
    c.path.jitter = 3 * ES_MILLI;
    begin(&c);
    for (int i = 0; i < 1000; i++) {
        data[0] = (uint8_t)i;
        send_n(&a, &b.addr, data, sizeof data, sizeof data);
        if (i % 10 == 0)
            step();
        if (i % 100 == 0) /* what endpoints draw does not shift fates */
            poller->io.rand(poller->io.ctx, r, seed == 1 ? sizeof r : 1);
    }
    run();
    for (size_t i = 0; i < b.n; i++)
        h = digest(digest(h, b.at[i]), b.first[i]);
    poller->io.rand(poller->io.ctx, r, 8);
    memcpy(bytes, r, 8);
    end();
    return h;
}

TEST(a_seed_decides_every_fate_and_every_random_byte)
{
    uint64_t x, y, z;

    CHECK_INT(one_run(1, &x), ==, one_run(1, &y));
    CHECK_INT(x, ==, y);
    CHECK(one_run(1, &x) != one_run(2, &z));
    CHECK(x != z);
}

TEST(a_steady_state_allocates_nothing_and_a_simulation_leaves_nothing)
{
    struct es_sim_config c;
    struct es_mem_stats start, before, after;
    uint8_t data[1200] = {0};

    es_mem_stats(&start);
    es_sim_config_default(&c);
    c.path.jitter = ES_MILLI;
    c.path.rate = 100000000;
    begin(&c);
    for (int round = 0; round < 2; round++) {
        es_mem_stats(&before);
        for (int i = 0; i < 1000; i++) {
            for (int j = 0; j < 8; j++)
                send_n(&a, &b.addr, data, sizeof data, sizeof data);
            run();
        }
    }
    es_mem_stats(&after);
    CHECK_INT(after.allocs, ==, before.allocs);
    send_n(&a, &b.addr, data, sizeof data, sizeof data); /* one still under way */
    end();
    es_mem_stats(&after);
    CHECK_INT(after.in_use, ==, start.in_use);
}

/* Gilbert and Elliott: bad times of 10 datagrams on average, every 100th starts one: 9.1 % of the time. */
TEST(bad_times_come_and_go)
{
    struct es_sim_config c;
    int lost = 0, times = 0, in_a_row = 0;

    es_sim_config_default(&c);
    c.path.burst_enter = 0.01;
    c.path.burst_leave = 0.1;
    begin(&c);
    for (int i = 0; i < 20000; i++) {
        size_t n = b.bytes;

        send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
        run();
        times += b.bytes == n && !in_a_row;
        in_a_row = b.bytes == n;
        lost += in_a_row;
    }
    CHECK(lost > 1500 && lost < 2200);
    CHECK(times > 140 && times < 230);
    CHECK(lost / times >= 7 && lost / times <= 13);
    end();
}

TEST(a_queue_in_bytes_drops_the_tail_and_marks_from_a_threshold_on)
{
    struct es_sim_config c;
    struct es_sim_stats st;
    uint8_t data[972] = {0}; /* 1,000 bytes with headers: 8 ms at 1 Mbit/s */
    int marked = 0;

    es_sim_config_default(&c);
    c.path.rate = 1000000;
    c.path.queue_bytes = 6000;
    c.path.mark = 3000;
    begin(&c);
    for (int i = 0; i < 10; i++)
        send_n(&a, &b.addr, data, sizeof data, sizeof data);
    while (step() > 0)
        marked += b.ecn == 3;
    es_sim_stats_get(sim, &st);
    CHECK_INT(b.n, ==, 6);
    CHECK_INT(st.queue_dropped, ==, 4);
    CHECK_INT(st.marked, ==, 3);
    CHECK_INT(marked, ==, 3);
    CHECK_INT(send_n(&a, &b.addr, data, 100, 100), ==, 1);
    run();
    CHECK_INT(b.n, ==, 7);
    end();
}

TEST(a_path_that_works_now_and_then_loses_only_in_between)
{
    struct es_sim_config c;
    struct es_sim_stats st;
    struct es_timer t;

    es_sim_config_default(&c);
    c.path.on = 5 * ES_SECOND;
    c.path.off = 2 * ES_SECOND;
    begin(&c);
    es_timer_init(&t, on_timer, poller);
    for (int i = 0; i < 21; i++) { /* at 0.5 s, 1.5 s, ... */
        es_timer_start(&poller->timers, &t, poller->timers.now + (i ? ES_SECOND : ES_SECOND / 2));
        while (es_timer_running(&t))
            step();
        send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    }
    run();
    es_sim_stats_get(sim, &st);
    CHECK_INT(st.delivered, ==, 15);
    CHECK_INT(st.lost, ==, 6);
    end();
}

TEST(each_direction_has_settings_of_its_own_and_they_change_while_it_runs)
{
    struct es_sim_config c;
    uint64_t start;

    es_sim_config_default(&c);
    begin(&c);
    c.path.delay = 30 * ES_MILLI;
    CHECK_INT(es_sim_set_path(sim, "10.0.0.1", "10.0.0.2", &c.path), ==, 0);
    start = poller->timers.now;
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    send_n(&b, &a.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(b.at[0] - start, ==, 30 * ES_MILLI);
    CHECK_INT(a.at[0] - start, ==, 5 * ES_MILLI);
    c.path.loss = 1;
    CHECK_INT(es_sim_set_path(sim, "10.0.0.1", NULL, &c.path), ==, 0);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    send_n(&b, &a.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(b.n, ==, 1);
    CHECK_INT(a.n, ==, 2);
    end();
}

TEST(corruption_keeps_to_its_span)
{
    static const size_t spans[] = {5, 0};

    for (int k = 0; k < 2; k++) {
        struct es_sim_config c;
        uint8_t zero[400] = {0};
        size_t furthest = 0;

        es_sim_config_default(&c);
        c.path.corrupt = 1;
        c.path.corrupt_span = spans[k];
        begin(&c);
        for (int i = 0; i < 500; i++) {
            size_t changed = 0;

            send_n(&a, &b.addr, zero, sizeof zero, sizeof zero);
            run();
            for (size_t j = 0; j < sizeof zero; j++) {
                changed += b.last[j] != 0;
                furthest = b.last[j] && j > furthest ? j : furthest;
            }
            CHECK_INT(changed, ==, 1);
        }
        CHECK(spans[k] ? furthest == spans[k] - 1 : furthest > 390);
        end();
    }
}

TEST(a_moved_endpoint_has_another_address_and_the_paths_of_that)
{
    struct es_sim_config c;
    union es_addr to = addr("10.9.9.9", 0), six = addr("::1", 5), taken = addr("10.0.0.2", 5000);

    es_sim_config_default(&c);
    begin(&c);
    c.path.loss = 1;
    es_sim_set_path(sim, "10.9.9.9", NULL, &c.path);
    CHECK_INT(es_sim_move(sim, &a, &six), ==, ES_ERR_INVAL);
    CHECK_INT(es_sim_move(sim, &a, &taken), ==, ES_ERR_EXISTS);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(b.n, ==, 1);
    CHECK_INT(es_sim_move(sim, &a, &to), ==, 0);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(b.n, ==, 1);
    to = addr("10.8.8.8", 8888);
    CHECK_INT(es_sim_move(sim, &a, &to), ==, 0);
    send_n(&a, &b.addr, (const uint8_t *)"x", 1, 1);
    run();
    CHECK_INT(b.n, ==, 2);
    CHECK_INT(port_of(&b.from), ==, 8888);
    CHECK_INT(ntohl(b.from.in4.sin_addr.s_addr), ==, 0x0a080808);
    end();
}

static char told[400];

static void on_record(void *user, const struct es_sim_record *r)
{
    snprintf(told + strlen(told), sizeof told - strlen(told), "%llu:%s%s ", (unsigned long long)r->number,
             es_sim_fate_name(r->fate), r->corrupted ? "!" : "");
}

TEST(a_trace_tells_every_fate_at_both_ends)
{
    struct es_sim_config c;
    union es_addr nobody = addr("10.0.0.3", 1);
    uint8_t data[1300] = {0};

    es_sim_config_default(&c);
    c.path.mtu = 1200;
    begin(&c);
    told[0] = 0;
    es_sim_trace(sim, on_record, NULL);
    send_n(&a, &b.addr, data, 1300, 1300);
    send_n(&a, &nobody, data, 1, 1);
    run();
    c.path.duplicate = c.path.corrupt = 1;
    es_sim_set_path(sim, NULL, NULL, &c.path);
    send_n(&a, &b.addr, data, 1, 1);
    run();
    es_sim_blackout(sim, poller->timers.now, poller->timers.now + ES_SECOND);
    send_n(&a, &b.addr, data, 1, 1);
    CHECK(strcmp(told,
                 "1:too_large 2:sent 2:no_listener 3:duplicated 3:sent! 3:delivered 3:delivered! 4:dark ") ==
          0);
    end();
}
