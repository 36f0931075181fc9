// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
//
// Whatever allocation fails: nothing crashes, and everybody hears of the end. nghttp3 0.8 itself frees twice
// what it could not finish for want of memory, so a connection's library is left alone then; that is a leak,
// which nobody is to look for here.
#include "h3_env.h"

const char *__asan_default_options(void); /* the sanitizer's name for it */
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

static struct h3_env e;

/* at_once: the answer goes out in one. */
static void without_memory(int at_once)
{
    struct es_h3_field f[] = {FIELD("x-a", "1"), FIELD("x-b", "2")};
    int went_well = 0;

    if (getenv("VALGRIND") != NULL) {
        return; /* looks for leaks whatever one says */
    }
    for (uint64_t nth = 1; nth < 500 && went_well < 3; nth++) {
        struct es_exchange *x = NULL;
        int ended;

        h3_env_init(&e);
        h3_env_start(&e);
        es_mem_fail_nth(nth);
        if (es_h3_request(e.client.h, &GET_ROOT, f, 2, 0, NULL, &x) == 0) {
            run(&e);
            (void)es_exchange_write(x, "body", 4, NULL, NULL);
            (void)es_exchange_finish(x, f, 2);
            run(&e);
            if (e.server.requests == 1) {
                (void)es_exchange_inform(e.server.x, 103, f, 2);
                if (at_once) {
                    (void)es_exchange_answer(e.server.x, 200, f, 2, "back", 4, NULL, NULL);
                } else if (es_exchange_respond(e.server.x, 200, f, 2, 0) == 0) {
                    (void)es_exchange_write(e.server.x, "back", 4, NULL, NULL);
                    (void)es_exchange_finish(e.server.x, f, 2);
                }
                let_go(&e.server, e.server.x);
            }
            run(&e);
            ended = e.client.responses == 1 || e.client.aborted == 1 || es_h3_closed_by(e.client.h) != NULL;
            CHECK(ended);
            went_well = e.client.responses == 1 && e.client.aborted == 0 ? went_well + 1 : 0;
            es_exchange_release(x);
        }
        es_mem_fail_nth(0);
        run(&e);
        h3_env_free(&e);
    }
    CHECK_INT(went_well, ==, 3);
}

TEST(without_memory_a_request_or_the_connection_ends_and_nothing_else)
{
    without_memory(0);
}

TEST(an_answer_in_one_too)
{
    without_memory(1);
}
