// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
#include "session_env.h"

static struct env e;

static void start(const struct env_options *o)
{
    if (env_start(&e, o) != 0) {
        fputs("env_start failed\n", stderr);
        abort();
    }
    env_add(&e, SERVER, ES_KIND_STREAM, "audio", REF_QUIET, 0, 0);
    env_add(&e, CLIENT, ES_KIND_STREAM, "audio", REF_QUIET, 0, 0);
    env_pump(&e);
    env_clear(&e);
}

static struct es_channel *open_channel(int side)
{
    struct es_channel *c = NULL;

    CHECK_INT(es_channel_open(e.s[side], "audio", 5, NULL, NULL, &c), ==, 0);
    return c;
}

static int send_text(struct es_channel *c, const char *text)
{
    struct es_msg_out m = {.data = (const uint8_t *)text, .len = strlen(text)};

    return es_channel_send(c, &m);
}

/* The next message must be this text. */
static void expect(struct es_channel *c, const char *text)
{
    struct es_msg_in m = {0};
    int rc = es_channel_recv(c, &m);

    CHECK_INT(rc, ==, 0);
    if (rc == 0) {
        CHECK_MEM(m.data, m.len, text, strlen(text));
        es_channel_consume(c);
    }
}

static int recv_rc(struct es_channel *c)
{
    struct es_msg_in m;

    return es_channel_recv(c, &m);
}

static const char *error_of(struct es_channel *c)
{
    static char text[300];
    struct es_failure f;

    if (es_channel_error(c, &f) != 0)
        return "none";
    snprintf(text, sizeof text, "%.*s: %.*s", (int)f.code_len, f.code, (int)f.message_len, f.message);
    return text;
}

/* The server's side of the last channel; the test owns it. */
static struct es_channel *theirs(int side)
{
    size_t n = e.n_channel[side];
    struct es_channel *c;

    if (n == 0)
        return NULL;
    c = e.channel[side][n - 1];
    e.channel[side][n - 1] = NULL;
    return c;
}

TEST(messages_pass_both_ways_with_their_borders_and_numbers)
{
    static const size_t chunk[] = {0, 1, 7};

    for (size_t i = 0; i < 3; i++) {
        for (int side = 0; side < 2; side++) {
            struct env_options o = {.chunk = chunk[i]};
            struct es_channel *a, *b;
            struct es_msg_out m = {.data = (const uint8_t *)"timed",
                                   .len = 5,
                                   .seq = 9,
                                   .wall_time_us = 1234567,
                                   .has_seq = 1,
                                   .has_wall = 1};
            struct es_msg_in in;
            struct es_channel_stats st;

            start(&o);
            a = open_channel(side);
            CHECK_INT(send_text(a, "one"), ==, 0); /* the opener may send at once */
            CHECK_INT(send_text(a, ""), ==, 0);
            CHECK_INT(es_channel_send(a, &m), ==, 0);
            env_pump(&e);
            b = theirs(!side);
            REQUIRE(b != NULL);
            CHECK_INT(es_channel_id(a), ==, es_channel_id(b));
            expect(b, "one");
            expect(b, "");
            CHECK_INT(es_channel_recv(b, &in), ==, 0);
            CHECK_INT(es_channel_recv(b, &in), ==, 0); /* the same until it is consumed */
            CHECK_MEM(in.data, in.len, "timed", 5);
            CHECK(in.has_seq && in.seq == 9 && in.has_wall && in.wall_time_us == 1234567);
            es_channel_consume(b);
            CHECK_INT(recv_rc(b), ==, ES_ERR_AGAIN);
            CHECK_INT(send_text(b, "back"), ==, 0);
            CHECK_INT(es_channel_finish(b), ==, 0);
            CHECK_INT(es_channel_finish(b), ==, 0);
            CHECK_INT(send_text(b, "late"), ==, ES_ERR_CLOSED);
            env_pump(&e);
            expect(a, "back");
            CHECK_INT(recv_rc(a), ==, ES_ERR_NOT_FOUND);
            CHECK_INT(env_count(&e, side, ES_EV_CHANNEL_CLOSED), ==, 0);
            CHECK_INT(send_text(a, "after your end"), ==, 0);
            CHECK_INT(es_channel_finish(a), ==, 0);
            env_pump(&e);
            expect(b, "after your end");
            CHECK_INT(recv_rc(b), ==, ES_ERR_NOT_FOUND);
            CHECK_INT(env_count(&e, side, ES_EV_CHANNEL_CLOSED), ==, 1);
            CHECK_INT(env_count(&e, !side, ES_EV_CHANNEL_CLOSED), ==, 1);
            es_channel_stats_get(b, &st);
            CHECK_INT(st.messages_in, ==, 4);
            CHECK_INT(st.messages_out, ==, 1);
            CHECK_INT(st.bytes_in, ==, 3 + 5 + 14);
            CHECK(st.finished && st.peer_finished && !st.open);
            CHECK_INT(es_channel_end(b, NULL), ==, 0);
            es_channel_release(a);
            es_channel_release(b);
            CHECK_INT(es_session_in_flight(e.s[0]) + es_session_in_flight(e.s[1]), ==, 0);
            env_pump(&e);
            CHECK_INT(es_pair_link(e.pair, 0)->held + es_pair_link(e.pair, 1)->held, ==, 0);
            env_stop(&e);
        }
    }
}

TEST(the_directions_end_in_any_order)
{
    for (int order = 0; order < 4; order++) {
        struct es_channel *a, *b;

        start(NULL);
        a = open_channel(CLIENT);
        env_pump(&e);
        b = theirs(SERVER);
        REQUIRE(b != NULL);
        send_text(a, "a");
        send_text(b, "b");
        if (order & 1)
            es_channel_finish(a);
        if (order & 2)
            es_channel_finish(b);
        env_pump(&e);
        expect(a, "b");
        expect(b, "a");
        CHECK_INT(recv_rc(a), ==, order & 2 ? ES_ERR_NOT_FOUND : ES_ERR_AGAIN);
        CHECK_INT(recv_rc(b), ==, order & 1 ? ES_ERR_NOT_FOUND : ES_ERR_AGAIN);
        CHECK_INT(env_count(&e, CLIENT, ES_EV_CHANNEL_CLOSED), ==, order == 3);
        es_channel_finish(a);
        es_channel_finish(b);
        env_pump(&e);
        CHECK_INT(recv_rc(a), ==, ES_ERR_NOT_FOUND);
        CHECK_INT(recv_rc(b), ==, ES_ERR_NOT_FOUND);
        CHECK_INT(env_count(&e, CLIENT, ES_EV_CHANNEL_CLOSED), ==, 1);
        CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_CLOSED), ==, 1);
        CHECK_STR(error_of(a), "none");
        es_channel_end(b, NULL);
        es_channel_release(b);
        es_channel_release(a);
        env_stop(&e);
    }
}

TEST(a_handler_that_ends_early_ends_the_stream)
{
    struct es_channel *a, *b;
    struct es_failure f = {
        .status = ES_STATUS_PERMISSION_DENIED, .message = "not this one", .message_len = 12};

    start(NULL);
    a = open_channel(CLIENT);
    env_pump(&e);
    b = theirs(SERVER);
    send_text(b, "last words");
    CHECK_INT(es_channel_end(b, NULL), ==, 0);
    CHECK_INT(recv_rc(b), ==, ES_ERR_CLOSED);
    es_channel_release(b);
    env_pump(&e);
    expect(a, "last words");
    CHECK_INT(recv_rc(a), ==, ES_ERR_NOT_FOUND);
    CHECK_INT(send_text(a, "x"), ==, ES_ERR_CLOSED); /* told to stop */
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CHANNEL_CLOSED), ==, 1);
    es_channel_release(a);

    a = open_channel(CLIENT);
    env_pump(&e);
    b = theirs(SERVER);
    send_text(b, "words before");
    CHECK_INT(es_channel_end(b, &f), ==, 0);
    es_channel_release(b);
    env_pump(&e);
    expect(a, "words before");
    CHECK_INT(recv_rc(a), ==, ES_ERR_CLOSED);
    CHECK_STR(error_of(a), "permission_denied: not this one");
    CHECK_INT(send_text(a, "x"), ==, ES_ERR_CLOSED);
    es_channel_release(a);
    env_pump(&e);
    CHECK_INT(es_session_in_flight(e.s[0]) + es_session_in_flight(e.s[1]), ==, 0);
    env_stop(&e);
}

TEST(a_stream_nobody_offers_fails_with_method_not_found)
{
    struct es_channel *c;

    start(NULL);
    CHECK_INT(es_channel_open(e.s[CLIENT], "video", 5, NULL, NULL, &c), ==, 0);
    send_text(c, "x");
    env_pump(&e);
    CHECK_INT(recv_rc(c), ==, ES_ERR_CLOSED);
    CHECK_STR(error_of(c), "method_not_found: no stream video");
    es_channel_release(c);
    env_stop(&e);
}

TEST(resets_reach_the_other_side_with_their_code)
{
    struct es_channel *a, *b;

    start(NULL);
    a = open_channel(CLIENT);
    send_text(a, "x");
    env_pump(&e);
    b = theirs(SERVER);
    es_channel_reset(a, ES_APP_USER + 42);
    CHECK_INT(recv_rc(a), ==, ES_ERR_CLOSED);
    env_pump(&e);
    expect(b, "x"); /* what is queued can still be read */
    CHECK_INT(recv_rc(b), ==, ES_ERR_CLOSED);
    CHECK_STR(error_of(b), "cancelled: the peer reset the stream with code 42");
    CHECK_INT(send_text(b, "x"), ==, ES_ERR_CLOSED);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_CLOSED), ==, 1);
    es_channel_end(b, NULL);
    es_channel_release(b);
    es_channel_release(a);

    a = open_channel(CLIENT);
    env_pump(&e);
    b = theirs(SERVER);
    es_channel_reset(b, ES_APP_USER + 7);
    env_pump(&e);
    CHECK_INT(recv_rc(a), ==, ES_ERR_CLOSED);
    CHECK_STR(error_of(a), "cancelled: the stream was reset with code 7");
    es_channel_end(b, NULL);
    es_channel_release(b);
    es_channel_release(a);
    env_pump(&e);
    CHECK_INT(es_session_in_flight(e.s[0]) + es_session_in_flight(e.s[1]), ==, 0);
    env_stop(&e);
}

TEST(an_opener_that_finished_and_lets_go_is_read_to_its_end)
{
    struct es_channel *a, *b;

    start(NULL);
    a = open_channel(CLIENT);
    send_text(a, "one");
    send_text(a, "two");
    es_channel_finish(a);
    es_channel_release(a);
    env_pump(&e);
    b = theirs(SERVER);
    expect(b, "one");
    expect(b, "two");
    CHECK_INT(recv_rc(b), ==, ES_ERR_NOT_FOUND);
    es_channel_end(b, NULL);
    es_channel_release(b);
    env_stop(&e);
}

TEST(an_opener_that_lets_go_without_finishing_cancels)
{
    struct es_channel *a, *b;

    start(NULL);
    a = open_channel(CLIENT);
    env_pump(&e);
    b = theirs(SERVER);
    CHECK_INT(recv_rc(b), ==, ES_ERR_AGAIN);
    es_channel_release(a);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_READABLE), ==, 1);
    CHECK_INT(recv_rc(b), ==, ES_ERR_CLOSED);
    CHECK_STR(error_of(b), "cancelled: cancelled by the peer");
    es_channel_end(b, NULL);
    es_channel_release(b);
    env_stop(&e);
}

TEST(readable_comes_once_until_recv_said_again)
{
    struct es_channel *a, *b;

    start(NULL);
    a = open_channel(CLIENT);
    env_pump(&e);
    b = theirs(SERVER);
    for (int i = 0; i < 3; i++) {
        send_text(a, "x");
        env_pump(&e);
    }
    CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_READABLE), ==, 1);
    for (int i = 0; i < 3; i++)
        expect(b, "x");
    send_text(a, "x");
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_READABLE), ==, 1);
    expect(b, "x");
    CHECK_INT(recv_rc(b), ==, ES_ERR_AGAIN);
    send_text(a, "x");
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_READABLE), ==, 2);
    es_channel_set_user(b, &e);
    CHECK(es_channel_user(b) == &e);
    es_channel_release(a);
    es_channel_release(b);
    env_stop(&e);
}

TEST(a_slow_reader_stops_its_sender_and_nobody_else)
{
    static char big[50001];
    struct env_options o = {.window = 100000, .chunk = 1400};
    struct es_channel *a, *b, *a2, *b2;
    int sent = 0, rc = 0, got = 0;

    memset(big, 'x', sizeof big - 1);
    start(&o);
    a = open_channel(CLIENT);
    env_pump(&e);
    b = theirs(SERVER);
    a2 = open_channel(CLIENT);
    env_pump(&e);
    b2 = theirs(SERVER);
    while (sent < 100 && (rc = send_text(a, big)) == 0) {
        sent++;
        env_pump(&e);
    }
    CHECK_INT(rc, ==, ES_ERR_AGAIN);
    CHECK(sent < 20);
    CHECK(es_pair_link(e.pair, 1)->held < 600000);
    send_text(a2, "quick");
    env_pump(&e);
    expect(b2, "quick");
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CHANNEL_WRITABLE), ==, 0);
    while (got < sent) {
        int one = recv_rc(b);

        if (one == ES_ERR_AGAIN) {
            env_pump(&e);
            one = recv_rc(b);
        }
        REQUIRE(one == 0);
        expect(b, big);
        got++;
    }
    env_pump(&e);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_CHANNEL_WRITABLE), ==, 1);
    CHECK_INT(send_text(a, "more"), ==, 0);
    env_pump(&e);
    expect(b, "more");
    CHECK_INT(es_pair_link(e.pair, 1)->held, ==, 0);
    es_channel_release(a);
    es_channel_release(a2);
    es_channel_release(b);
    es_channel_release(b2);
    env_stop(&e);
}

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
}

TEST(messages_of_all_sizes_come_whole_and_in_order_through_any_window)
{
    static const size_t windows[] = {100, 5000, 262144};
    static const size_t chunks[] = {1400, 5000, 0};
    static const size_t sizes[] = {0, 1, 63, 64, 1300, 4095, 4096, 16000, 65535, 70000, 500000, 3, 1 << 20};
    enum { N = sizeof sizes / sizeof sizes[0] };
    uint8_t *src = malloc(1 << 20);

    for (size_t w = 0; w < 3; w++) {
        struct env_options o = {.window = windows[w], .chunk = chunks[w]};
        struct es_channel *a, *b;
        size_t sent = 0, got = 0, count = windows[w] == 100 ? 9 : N * 2;

        start(&o);
        a = open_channel(CLIENT);
        env_pump(&e);
        b = theirs(SERVER);
        while (got < count) {
            struct es_msg_in in;
            int idle = 1;

            if (sent < count) {
                struct es_msg_out m = {.data = src, .len = sizes[sent % N], .release = NULL};
                int rc;

                fill(src, m.len, (uint32_t)sent);
                if (sent % 2 == 1 && m.len > 0) { /* anchored: the bytes stay for this one */
                    uint8_t *copy = malloc(m.len);

                    memcpy(copy, src, m.len);
                    m.data = copy;
                    m.release = (void (*)(void *))free;
                    m.arg = copy;
                }
                rc = es_channel_send(a, &m);
                if (rc == 0)
                    sent++, idle = 0;
                else if (m.release != NULL)
                    free(m.arg);
                REQUIRE(rc == 0 || rc == ES_ERR_AGAIN);
            }
            env_pump(&e);
            while (es_channel_recv(b, &in) == 0) {
                fill(src, sizes[got % N], (uint32_t)got);
                CHECK_INT(in.len, ==, sizes[got % N]);
                CHECK(in.len == 0 || memcmp(in.data, src, in.len) == 0);
                es_channel_consume(b);
                got++;
                idle = 0;
            }
            env_pump(&e);
            REQUIRE(!idle || got == count || recv_rc(b) == 0);
        }
        CHECK_INT(es_pair_link(e.pair, 1)->held, ==, 0);
        es_channel_release(a);
        es_channel_release(b);
        env_stop(&e);
    }
    free(src);
}

TEST(a_message_over_the_limit_ends_its_stream_only)
{
    static char big[3001];
    struct env_options o = {.has_limits = 1};
    struct es_channel *a, *b;

    es_limits_default(&o.limits[CLIENT]);
    es_limits_default(&o.limits[SERVER]);
    o.limits[SERVER].max_message = 3000;
    start(&o);
    memset(big, 'x', sizeof big);
    a = open_channel(CLIENT);
    {
        struct es_msg_out m = {.data = (uint8_t *)big, .len = 3000};

        CHECK_INT(es_channel_send(a, &m), ==, 0);
        m.len = 3001;
        CHECK_INT(es_channel_send(a, &m), ==, ES_ERR_TOO_LARGE);
    }
    env_pump(&e);
    b = theirs(SERVER);
    CHECK_INT(recv_rc(b), ==, 0);
    es_channel_release(a);
    es_channel_release(b);
    env_stop(&e);
}

TEST(named_streams_are_limited_on_both_sides)
{
    struct env_options o = {.has_limits = 1};
    struct es_channel *c[4], *b;

    es_limits_default(&o.limits[CLIENT]);
    es_limits_default(&o.limits[SERVER]);
    o.limits[SERVER].max_named_streams = 3;
    start(&o);
    for (int i = 0; i < 3; i++)
        c[i] = open_channel(CLIENT);
    CHECK_INT(es_channel_open(e.s[CLIENT], "audio", 5, NULL, NULL, &c[3]), ==, ES_ERR_LIMIT);
    env_pump(&e);
    CHECK_INT(e.n_channel[SERVER], ==, 3);
    /* The opener's place is free when it lets go, the responder's when its handler ended. */
    es_channel_release(c[0]);
    env_pump(&e);
    c[0] = open_channel(CLIENT);
    env_pump(&e);
    CHECK_INT(recv_rc(c[0]), ==, ES_ERR_CLOSED);
    CHECK_STR(error_of(c[0]), "resource_exhausted: too many named streams are open");
    es_channel_release(c[0]);
    b = theirs(SERVER);
    es_channel_end(b, NULL);
    es_channel_release(b);
    env_pump(&e);
    c[0] = open_channel(CLIENT);
    env_pump(&e);
    CHECK_INT(recv_rc(c[0]), ==, ES_ERR_AGAIN);
    for (int i = 0; i < 3; i++)
        es_channel_release(c[i]);
    env_stop(&e);
}

TEST(a_deadline_ends_a_stream_on_both_sides)
{
    struct es_call_opts o;
    struct es_channel *a, *b;

    start(NULL);
    es_call_opts_default(&o);
    o.codec = ES_CODEC_RAW;
    o.deadline = e.timers.now + 100 * MS;
    CHECK_INT(es_channel_open(e.s[CLIENT], "audio", 5, &o, NULL, &a), ==, 0);
    env_pump(&e);
    b = theirs(SERVER);
    env_wait(&e, 110 * MS);
    CHECK_INT(recv_rc(a), ==, ES_ERR_CLOSED);
    CHECK_INT(recv_rc(b), ==, ES_ERR_CLOSED);
    CHECK(strncmp(error_of(a), "timeout", 7) == 0);
    CHECK(strncmp(error_of(b), "timeout", 7) == 0);
    es_channel_end(b, NULL);
    es_channel_release(a);
    es_channel_release(b);
    env_stop(&e);
}

TEST(records_of_a_released_channel_are_dropped)
{
    struct es_channel *a, *b;

    start(NULL);
    a = open_channel(CLIENT);
    send_text(a, "x");
    es_channel_finish(a);
    es_pair_pump(e.pair, 0); /* REQUEST and READABLE are in the server's queue */
    CHECK_INT(es_evq_len(e.q[SERVER]), ==, 2);
    b = ((struct es_ev_message *)es_evq_peek(e.q[SERVER]))->channel;
    es_channel_end(b, NULL);
    es_channel_release(b);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_CHANNEL_REQUEST) + env_count(&e, SERVER, ES_EV_CHANNEL_READABLE),
              ==, 0);
    es_channel_release(a);
    env_stop(&e);
}

TEST(a_steady_stream_of_messages_allocates_nothing_of_ours)
{
    static uint8_t data[200000];
    struct env_options o = {.chunk = 1400};
    struct es_channel *a, *b;
    struct es_mem_stats st[2];
    uint64_t pair_chunks = 0;

    start(&o);
    e.quiet = 1;
    a = open_channel(CLIENT);
    env_pump(&e);
    b = theirs(SERVER);
    for (int i = 0; i < 40; i++) {
        struct es_msg_out m = {.data = data, .len = i % 4 == 3 ? 100 : sizeof data};
        struct es_msg_in in;

        if (i == 20)
            es_mem_stats(&st[0]);
        pair_chunks += i >= 20;
        REQUIRE(es_channel_send(a, &m) == 0);
        env_pump(&e);
        while (es_channel_recv(b, &in) == 0) {
            CHECK_INT(in.len, ==, m.len);
            es_channel_consume(b);
        }
        env_pump(&e);
    }
    es_mem_stats(&st[1]);
    CHECK_INT(st[1].allocs - st[0].allocs, ==, pair_chunks);
    es_channel_release(a);
    es_channel_release(b);
    env_stop(&e);
}
