// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
//
// Whatever allocation fails while a session is opened, used and closed: nothing crashes, and both ends hear
// of the end, once. As in http3_faults_test.c nobody looks for leaks, which nghttp3 0.8 makes necessary.
#include "wt_env.h"

const char *__asan_default_options(void); /* the sanitizer's name for it */
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

static struct wt_env w;

static void use(struct es_link *link, struct proto *p)
{
    struct es_link_stream *s;

    if (link == NULL || es_link_open(link, ES_DIR_BIDI, p, &s) != 0) {
        return;
    }
    (void)es_link_write(s, "hello", 5, 0);
    if (es_link_open(link, ES_DIR_UNI, p, &s) == 0) {
        (void)es_link_write(s, "hello", 5, 1);
    }
    (void)es_link_datagram(link, "quick", 5);
    wt_run(&w);
}

static int dial(void)
{
    struct es_wt_dial d = {&w.h.timers, &w.client.app, NULL, "a:1", "/echostream", "https://a:1"};
    struct es_app *app = es_wt_client_app();

    if (w.h.server.app.attach(&w.h.server.app, es_pair_link(w.h.pair, 1), NULL) != 0) {
        return 0;
    }
    w.h.server.h = es_pair_link(w.h.pair, 1)->user;
    es_h3_ref(w.h.server.h);
    if (app->attach(app, es_pair_link(w.h.pair, 0), &d) != 0) {
        return 0;
    }
    es_pair_establish(w.h.pair);
    wt_run(&w);
    return 1;
}

/* 1: it all went well. */
static int play(uint64_t nth, int server_closes)
{
    int well;

    wt_init(&w);
    es_mem_fail_nth(nth);
    if (dial()) {
        use(w.client.link, &w.client);
        use(w.server.link, &w.server);
        if (server_closes && w.server.link != NULL) {
            es_link_close(w.server.link, 1, 7, "enough");
        } else if (w.client.link != NULL) {
            es_link_close(w.client.link, 1, 7, "enough");
        }
        wt_run(&w);
        es_mem_fail_nth(0);
        w.h.timers.now += 30 * ES_SECOND; /* whoever waits for what was never sent */
        wt_run(&w);
        if (w.client.link != NULL) {
            es_link_close(w.client.link, 1, 0, "");
            wt_run(&w);
        }
        es_pair_cut(w.h.pair);
        wt_run(&w);
        CHECK_INT(w.client.closed, ==, 1);
        CHECK_INT(w.server.closed, ==, w.server.sessions);
    } else {
        es_mem_fail_nth(0);
        CHECK(w.client.sessions == 0 || w.client.closed <= 1);
    }
    es_mem_fail_nth(0);
    well = w.client.datagrams == 1 && w.server.datagrams == 1 && w.client.info.code == 7 &&
           w.server.info.code == 7;
    wt_free(&w);
    return well;
}

TEST(without_memory_a_session_or_the_connection_ends_and_nothing_else)
{
    int went_well = 0;

    if (getenv("VALGRIND") != NULL) {
        return; /* looks for leaks whatever one says */
    }
    for (uint64_t nth = 1; nth < 1000 && went_well < 10; nth++) {
        int before = test_failures;

        went_well = play(nth, (int)(nth & 1)) ? went_well + 1 : 0;
        if (test_failures != before) {
            printf("    allocation %d\n", (int)nth);
        }
    }
    CHECK_INT(went_well, ==, 10);
}
