// needs: csrc/base csrc/transport/acks.c

/* What became of packets: loss by overtaking, and the size that a path carries. */
#include "test.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/base/timer.h"
#include "../../csrc/transport/acks.h"

static struct es_acks a;
static uint64_t now;
static int64_t next;

static void begin(void)
{
    es_acks_free(&a);
    es_acks_init(&a);
    now = ES_SECOND;
    next = 0;
}

static int64_t send(size_t size)
{
    now += ES_MILLI;
    es_acks_sent(&a, (uint32_t)next & 0xffff, 2, size, now);
    return next++;
}

static size_t put(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++) {
        p[i] = (uint8_t)(v >> (56 - 8 * i));
    }
    p[0] |= 0xc0;
    return 8;
}

/* An ACK of `first` .. `last`; below them, after a gap of `gap` numbers, `more` others. */
static size_t ack(uint8_t *p, int64_t first, int64_t last, int64_t gap, int64_t more)
{
    size_t n = 0;

    p[n++] = 2;
    n += put(p + n, (uint64_t)last);
    n += put(p + n, 0);
    n += put(p + n, more > 0);
    n += put(p + n, (uint64_t)(last - first));
    if (more > 0) {
        n += put(p + n, (uint64_t)(gap - 1));
        n += put(p + n, (uint64_t)(more - 1));
    }
    return n;
}

static void acked(int64_t first, int64_t last)
{
    uint8_t p[64];

    now += ES_MILLI;
    es_acks_received(&a, p, ack(p, first, last, 0, 0), now);
}

TEST(what_three_later_ones_overtook_is_lost_once)
{
    begin();
    for (int i = 0; i < 10; i++) {
        send(100);
    }
    acked(2, 2);
    CHECK_INT(a.lost, ==, 0);
    acked(3, 3);
    CHECK_INT(a.lost, ==, 1); /* 0; 1 may still come */
    acked(2, 9);
    CHECK_INT(a.lost, ==, 2);
    acked(0, 9); /* too late */
    CHECK_INT(a.lost, ==, 2);
    for (int i = 0; i < 100000; i++) {
        int64_t n = send(100);
        if (i % 100 != 0) {
            acked(n, n);
        }
    }
    CHECK_INT(a.lost, ==, 1002);
}

TEST(ranges_below_the_first_count)
{
    uint8_t p[64];

    begin();
    for (int i = 0; i < 20; i++) {
        send(100);
    }
    es_acks_received(&a, p, ack(p, 15, 19, 3, 12), now); /* 15-19, 0-11 */
    CHECK_INT(a.lost, ==, 3);
}

TEST(a_full_ring_grows_and_then_forgets_the_oldest)
{
    begin();
    for (int i = 0; i < 3 * ES_ACKS_MAX; i++) {
        send(100);
    }
    CHECK_INT(a.cap, ==, ES_ACKS_MAX);
    acked(next - 1, next - 1);
    CHECK_INT(a.lost, <=, ES_ACKS_MAX);
    CHECK_INT(a.lost, >=, ES_ACKS_MAX / 2 - 4);
    acked(0, next - 1);
    CHECK_INT(a.low, ==, next);
}

TEST(numbers_that_were_left_out_are_not_lost)
{
    begin();
    send(100);
    next += 5;
    for (int i = 0; i < 10; i++) {
        send(100);
    }
    acked(6, 15);
    CHECK_INT(a.lost, ==, 1);
    next += 100000; /* nobody leaves out that many: begun anew */
    send(100);
    CHECK_INT(a.lost, ==, 1);
}

TEST(whatever_a_peer_sends_is_survived)
{
    uint8_t p[64];
    uint32_t x = 1;

    begin();
    for (int i = 0; i < 1000; i++) {
        send(i % 3 == 0 ? 1400 : 100);
    }
    for (int i = 0; i < 200000; i++) {
        size_t n = (size_t)(x >> 8) % sizeof p;
        for (size_t j = 0; j < n; j++) {
            x = x * 1664525 + 1013904223;
            p[j] = (uint8_t)(x >> 24);
        }
        p[0] = i % 2 ? 2 : 3;
        es_acks_received(&a, p, n, now);
        CHECK(a.low <= a.next);
    }
    acked(0, next + 5); /* never sent */
    es_acks_received(&a, p, ack(p, 5, 3, 0, 0), now);
    es_acks_received(&a, p, 0, now);
}

TEST(full_packets_that_vanish_for_three_round_trips_while_others_arrive_are_a_black_hole)
{
    begin();
    for (int round = 0; round < 3; round++) {
        CHECK_INT(a.small, ==, 0);
        for (int i = 0; i < 5; i++) {
            send(1400);
        }
        for (int i = 0; i < 4; i++) {
            send(200);
        }
        acked(next - 4, next - 1);
    }
    CHECK_INT(a.small, ==, 1);
    CHECK_INT(a.holes, ==, 1);
    CHECK_INT(es_acks_size(&a, 1452, now), ==, ES_ACKS_SMALL);
}

TEST(full_packets_of_which_some_arrive_are_none)
{
    begin();
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 20; i++) {
            send(1400);
        }
        acked(next - 1, next - 1); /* 95 % loss */
    }
    CHECK_INT(a.small, ==, 0);
    CHECK_INT(a.lost, >, 1700);
    for (int i = 0; i < 50; i++) { /* and none when what vanishes is small */
        send(200);
    }
    acked(next - 1, next - 1);
    CHECK_INT(a.small, ==, 0);
}

TEST(silence_under_full_packets_makes_them_small)
{
    begin();
    send(1400);
    acked(0, 0);
    now += 10 * ES_SECOND;
    es_acks_silence(&a, now, ES_SECOND); /* nothing is under way */
    CHECK_INT(a.small, ==, 0);
    send(200);
    now += 10 * ES_SECOND;
    es_acks_silence(&a, now, ES_SECOND); /* nothing big is */
    CHECK_INT(a.small, ==, 0);
    send(1400);
    now += 2 * ES_SECOND;
    es_acks_silence(&a, now, ES_SECOND);
    CHECK_INT(a.small, ==, 0);
    now += ES_SECOND;
    es_acks_silence(&a, now, ES_SECOND);
    CHECK_INT(a.small, ==, 1);
    acked(2, 2); /* it was a dead network: the big one did arrive */
    CHECK_INT(a.small, ==, 0);
}

/* One full packet after a second, then after two, four, ... */
TEST(a_smaller_path_is_tried_now_and_then)
{
    uint64_t last = 0;

    begin();
    send(1400);
    now += 10 * ES_SECOND;
    es_acks_silence(&a, now, ES_SECOND);
    for (int tries = 0; tries < 12;) {
        size_t size = es_acks_size(&a, 1452, now);
        int64_t n = send(size);
        if (size > ES_ACKS_SMALL) {
            CHECK_INT(es_acks_size(&a, 1452, now), ==, ES_ACKS_SMALL); /* one at a time */
            for (int i = 0; i < 4; i++) {
                n = send(ES_ACKS_SMALL);
            }
            acked(n - 3, n);
            if (tries > 0 && tries < 9) {
                CHECK_INT((now - last) / ES_SECOND, ==, 1 << tries);
            } else if (tries > 9) {
                CHECK_INT((now - last) / ES_SECOND, ==, 600);
            }
            last = now;
            tries++;
        } else {
            acked(n, n);
        }
        now += 10 * ES_MILLI;
    }
    CHECK_INT(a.small, ==, 1);
    for (int64_t n = 0; a.small;) {
        n = send(es_acks_size(&a, 1452, now));
        acked(n, n);
        now += ES_SECOND;
    }
    CHECK_INT(es_acks_size(&a, 1452, now), ==, 1452);
    CHECK_INT(a.holes, ==, 1);
    es_acks_moved(&a);
    CHECK_INT(a.small, ==, 0);
    es_acks_free(&a);
}

TEST(what_a_frame_acknowledges_is_told_from_it_alone)
{
    uint8_t p[64];
    size_t n = ack(p, 10, 12, 3, 4); /* 10 to 12, not 7 to 9, 3 to 6 */

    for (int64_t i = 0; i < 20; i++) {
        CHECK_INT(es_acks_covers(p, n, i), ==, (i >= 10 && i <= 12) || (i >= 3 && i <= 6));
    }
    for (size_t cut = 0; cut < n; cut++) {
        CHECK_INT(es_acks_covers(p, cut, 13), ==, 0);
        CHECK_INT(es_acks_covers(p, cut, 4), ==, 0);
    }
    p[0] = 1; /* PING */
    CHECK_INT(es_acks_covers(p, n, 10), ==, 0);
}
