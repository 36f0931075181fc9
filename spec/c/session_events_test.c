// needs: csrc/base csrc/framing csrc/link csrc/dispatch csrc/session
#include "session_env.h"

static struct env e;

static void start(const struct env_options *o)
{
    if (env_start(&e, o) != 0) {
        fputs("env_start failed\n", stderr);
        abort();
    }
    env_add(&e, SERVER, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
    env_add(&e, SERVER, ES_KIND_EVENT, "slow", REF_HOLD, 0, 0);
    env_add(&e, SERVER, ES_KIND_EVENT, "wide", REF_HOLD, 0, 3);
    env_add(&e, CLIENT, ES_KIND_EVENT, "log", REF_QUIET, 0, 0);
    env_pump(&e);
    env_clear(&e);
}

static int emit(int side, const char *name, int lane, const char *payload)
{
    return es_session_emit(e.s[side], name, strlen(name), lane, ES_CODEC_MSGPACK, NULL, 0, 0,
                           (const uint8_t *)payload, strlen(payload));
}

static void done(size_t i)
{
    es_session_event_done(e.s[SERVER], e.lanes[i], e.events[i]);
    e.events[i] = NULL;
    env_pump(&e);
}

static struct es_host_stats stats_of(int side)
{
    struct es_host_stats st;

    es_host_stats_get(e.host[side], &st);
    return st;
}

TEST(events_arrive_in_order_with_everything_they_carry)
{
    static const size_t chunk[] = {0, 1, 7};

    for (size_t c = 0; c < 3; c++) {
        struct env_options o = {.chunk = chunk[c]};
        struct es_pair_kv kv = {"k", "v", 1, 1};
        char text[16];

        start(&o);
        for (int i = 0; i < 50; i++) {
            snprintf(text, sizeof text, "%d", i);
            CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 2, &kv, 1, 1234567, (const uint8_t *)text,
                                      strlen(text)),
                      ==, 0);
        }
        CHECK_INT(emit(SERVER, "log", 3, "back"), ==, 0);
        env_pump(&e);
        REQUIRE(env_count(&e, SERVER, ES_EV_EVENT) == 50);
        for (size_t i = 0; i < 50; i++) {
            struct env_log *l = env_find(&e, SERVER, ES_EV_EVENT, i);

            snprintf(text, sizeof text, "%d", (int)i);
            CHECK_MEM(l->data, l->len, text, strlen(text));
            CHECK_INT(l->seq, ==, i);
            CHECK_INT(l->wall, ==, 1234567);
            CHECK_INT(l->codec, ==, 2);
            CHECK_MEM(l->meta, l->meta_len, "\1k\1v", 4);
        }
        CHECK_INT(env_count(&e, CLIENT, ES_EV_EVENT), ==, 1);
        CHECK_INT(stats_of(SERVER).events_in, ==, 50);
        CHECK_INT(stats_of(CLIENT).events_out, ==, 50);
        CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
        env_stop(&e);
    }
}

TEST(events_of_one_lane_are_handled_one_after_another)
{
    start(NULL);
    for (int i = 0; i < 5; i++)
        emit(CLIENT, "slow", 0, "x");
    emit(CLIENT, "slow", 1, "another lane");
    env_pump(&e);
    CHECK_INT(e.n_events, ==, 2);
    for (size_t i = 0; i < 6; i++) {
        REQUIRE(e.n_events > i);
        done(i);
    }
    CHECK_INT(e.n_events, ==, 6);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
    env_stop(&e);
}

TEST(concurrent_events_give_up_their_order_up_to_a_number)
{
    start(NULL);
    for (int i = 0; i < 5; i++)
        emit(CLIENT, "wide", 0, "x");
    emit(CLIENT, "slow", 0, "alone");
    emit(CLIENT, "wide", 0, "behind");
    env_pump(&e);
    CHECK_INT(e.n_events, ==, 3);
    done(1);
    CHECK_INT(e.n_events, ==, 4);
    done(0);
    CHECK_INT(e.n_events, ==, 5);
    done(2); /* two are left of the wide ones: the slow one may begin */
    CHECK_INT(e.n_events, ==, 6);
    CHECK_STR(e.events[5]->name, "slow");
    done(3);
    done(4);
    CHECK_INT(e.n_events, ==, 6);
    done(5);
    CHECK_INT(e.n_events, ==, 7);
    done(6);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
    env_stop(&e);
}

TEST(events_nobody_handles_are_counted_and_dropped)
{
    start(NULL);
    emit(CLIENT, "what", 0, "x");
    emit(CLIENT, "log", 0, "x");
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 1);
    CHECK_INT(stats_of(SERVER).events_unhandled, ==, 1);
    env_stop(&e);
}

TEST(a_slow_handler_stops_the_sender_of_its_lane)
{
    static char big[60001];
    struct env_options o = {.window = 100000};
    int sent = 0, rc = 0;
    size_t i;

    memset(big, 'x', sizeof big - 1);
    start(&o);
    while (sent < 100 && (rc = emit(CLIENT, "slow", 0, big)) == 0) {
        sent++;
        env_pump(&e);
    }
    CHECK_INT(rc, ==, ES_ERR_AGAIN);
    CHECK(sent < 25); /* 1 MiB in our queue and a window */
    CHECK(es_pair_link(e.pair, 1)->held < 200000);
    CHECK_INT(emit(CLIENT, "log", 5, "other lanes go on"), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 2);
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_WRITABLE), ==, 0);
    for (i = 0; i < (size_t)sent; i++) {
        REQUIRE(e.n_events == i + 1);
        done(i);
    }
    CHECK_INT(env_count(&e, CLIENT, ES_EV_SESSION_WRITABLE), ==, 1);
    CHECK_INT(emit(CLIENT, "log", 0, "again"), ==, 0);
    env_pump(&e);
    CHECK_INT(es_pair_link(e.pair, 1)->held, ==, 0);
    CHECK(es_session_flushed(e.s[CLIENT]));
    env_stop(&e);
}

TEST(an_event_longer_than_the_window_passes)
{
    static char big[300001];
    struct env_options o = {.window = 5000, .chunk = 1000};

    memset(big, 'x', sizeof big - 1);
    start(&o);
    for (int i = 0; i < 3; i++)
        CHECK_INT(emit(CLIENT, "log", 0, big), ==, 0);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 3);
    CHECK_INT(env_find(&e, SERVER, ES_EV_EVENT, 2)->len, ==, 300000);
    CHECK_INT(es_pair_link(e.pair, 1)->held, ==, 0);
    env_stop(&e);
}

TEST(datagram_events_come_with_their_own_numbers_and_limits)
{
    static char big[1300];

    start(NULL);
    CHECK_INT(emit(CLIENT, "log", ES_LANE_DATAGRAM, "a"), ==, 0);
    CHECK_INT(emit(CLIENT, "log", 0, "b"), ==, 0);
    CHECK_INT(emit(CLIENT, "slow", ES_LANE_DATAGRAM, "c"), ==, 0);
    CHECK_INT(emit(CLIENT, "slow", ES_LANE_DATAGRAM, "d"), ==, 0);
    memset(big, 'x', sizeof big - 1);
    CHECK_INT(emit(CLIENT, "log", ES_LANE_DATAGRAM, big), ==, ES_ERR_TOO_LARGE);
    env_pump(&e);
    CHECK_INT(env_count(&e, SERVER, ES_EV_EVENT), ==, 4);
    CHECK_INT(e.n_events, ==, 2); /* not one after another */
    CHECK_INT(e.lanes[1], ==, ES_LANE_DATAGRAM);
    for (size_t i = 0; i < 4; i++) {
        struct env_log *l = env_find(&e, SERVER, ES_EV_EVENT, i);

        if (l->len == 1 && l->data[0] == 'd')
            CHECK_INT(l->seq, ==, 2);
    }
    done(0);
    done(1);
    CHECK_INT(es_session_in_flight(e.s[SERVER]), ==, 0);
    env_stop(&e);
}

TEST(unhandled_floods_of_datagram_events_are_bounded)
{
    start(NULL);
    e.quiet = 1;
    for (int i = 0; i < 1500; i++) {
        int rc = emit(CLIENT, "slow", ES_LANE_DATAGRAM, "x");

        CHECK(rc == 0);
        if (i % 100 == 99)
            env_pump(&e);
    }
    CHECK_INT(e.n_events, ==, 1024);
    env_stop(&e);
}

TEST(emit_says_what_is_wrong)
{
    start(NULL);
    CHECK_INT(emit(CLIENT, "log", 8, "x"), ==, ES_ERR_INVAL);
    CHECK_INT(emit(CLIENT, "log", -1, "x"), ==, ES_ERR_INVAL);
    CHECK_INT(emit(CLIENT, "", 0, "x"), ==, ES_ERR_INVAL);
    CHECK_INT(emit(CLIENT, "a b", 0, "x"), ==, ES_ERR_INVAL);
    CHECK_INT(es_session_emit(e.s[CLIENT], "log", 3, 0, 9, NULL, 0, 0, NULL, 0), ==, ES_ERR_INVAL);
    env_stop(&e);
}

TEST(a_method_that_is_removed_while_its_event_runs_is_freed_after)
{
    int ref = 0;

    start(NULL);
    emit(CLIENT, "slow", 0, "x");
    env_pump(&e);
    REQUIRE(e.n_events == 1);
    CHECK_INT(es_host_remove(e.host[SERVER], ES_KIND_EVENT, "slow", 4, &ref), ==, 0);
    CHECK_INT(ref, ==, REF_HOLD);
    CHECK_INT(e.events[0]->ref, ==, ES_NO_REF);
    done(0);
    emit(CLIENT, "slow", 0, "x");
    env_pump(&e);
    CHECK_INT(stats_of(SERVER).events_unhandled, ==, 1);
    env_stop(&e);
}
