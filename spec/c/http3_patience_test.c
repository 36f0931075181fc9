// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
//
// What a server does by itself: whole answers at once, time-outs, priorities, the end in good order.
#include "../../csrc/http3/internal.h"
#include "h3_env.h"

static struct h3_env e;

static void begin(void)
{
    h3_env_init(&e);
    e.chunk = 4096;
}

static struct es_exchange *ask(const char *method, int fin)
{
    struct es_h3_target t = GET_ROOT;
    struct es_exchange *x = NULL;
    int before = e.server.requests;

    t.method = method;
    CHECK_INT(es_h3_request(e.client.h, &t, NULL, 0, fin, NULL, &x), ==, 0);
    run(&e);
    CHECK_INT(e.server.requests, ==, before + 1);
    return x;
}

static void pass(uint64_t ns)
{
    e.timers.now += ns;
    es_timers_expire(&e.timers, 100);
    run(&e);
}

static size_t drain(struct es_exchange *x, int *end)
{
    const uint8_t *p;
    size_t n, total = 0;

    for (;;) {
        int rc = es_exchange_read(x, &p, &n);
        if (rc == ES_ERR_AGAIN && total > 0) {
            run(&e);
            rc = es_exchange_read(x, &p, &n);
        }
        if (rc != 0) {
            *end = rc;
            return total;
        }
        total += n;
        es_exchange_consume(x, n);
        run(&e);
    }
}

static int released;
static void on_release(void *arg)
{
    released++;
}

TEST(an_answer_goes_out_in_one)
{
    static char big[100000];
    struct es_h3_field length[] = {FIELD("content-length", "5")};
    struct es_exchange *x;
    int end;

    begin();
    h3_env_start(&e);
    x = ask("GET", 1);
    CHECK_INT(es_exchange_answer(e.server.x, 200, length, 1, "1234", 4, NULL, NULL), ==, ES_ERR_INVAL);
    CHECK_INT(es_exchange_answer(e.server.x, 204, NULL, 0, "1234", 4, NULL, NULL), ==, ES_ERR_INVAL);
    CHECK_INT(es_exchange_answer(e.server.x, 200, length, 1, "12345", 5, NULL, NULL), ==, 0);
    CHECK_INT(es_exchange_answer(e.server.x, 200, length, 1, "12345", 5, NULL, NULL), ==, ES_ERR_EXISTS);
    CHECK_INT(es_exchange_finish(e.server.x, NULL, 0), ==, 0);
    run(&e);
    CHECK_INT(es_h3_head_status(es_exchange_head(x)), ==, 200);
    CHECK_INT(drain(x, &end), ==, 5);
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    es_exchange_release(x);

    x = ask("HEAD", 1);
    released = 0;
    CHECK_INT(es_exchange_answer(e.server.x, 200, length, 1, "12345", 5, on_release, NULL), ==, 0);
    CHECK_INT(released, ==, 1);
    run(&e);
    CHECK_INT(drain(x, &end), ==, 0);
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    es_exchange_release(x);

    x = ask("GET", 1); /* by reference, and nothing of it twice */
    released = 0;
    CHECK_INT(es_exchange_answer(e.server.x, 200, NULL, 0, big, sizeof big, on_release, NULL), ==, 0);
    run(&e);
    CHECK_INT(drain(x, &end), ==, (int)sizeof big);
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    CHECK_INT(released, ==, 1);
    es_exchange_release(x);

    x = ask("GET", 1);
    CHECK_INT(es_exchange_answer(e.server.x, 404, NULL, 0, "", 0, NULL, NULL), ==, 0);
    run(&e);
    CHECK_INT(es_h3_head_status(es_exchange_head(x)), ==, 404);
    CHECK_INT(drain(x, &end), ==, 0);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(a_handler_that_is_slow_is_told_of_once)
{
    struct es_exchange *x;

    begin();
    e.server.cfg.limits.answer_timeout = 5 * ES_SECOND;
    h3_env_start(&e);
    x = ask("GET", 1);
    pass(4 * ES_SECOND);
    CHECK_INT(e.server.bits & ES_EX_LATE, ==, 0);
    pass(ES_SECOND);
    CHECK_INT(e.server.bits & ES_EX_LATE, ==, ES_EX_LATE);
    e.server.bits = 0;
    pass(60 * ES_SECOND);
    CHECK_INT(e.server.bits, ==, 0);
    es_exchange_release(x);

    x = ask("GET", 1); /* answered in time */
    CHECK_INT(es_exchange_answer(e.server.x, 200, NULL, 0, "x", 1, NULL, NULL), ==, 0);
    pass(60 * ES_SECOND);
    CHECK_INT(e.server.bits & ES_EX_LATE, ==, 0);
    es_exchange_release(x);

    x = ask("GET", 1); /* limits of its own */
    es_exchange_set_timeouts(e.server.x, ES_SECOND, 0);
    pass(ES_SECOND);
    CHECK_INT(e.server.bits & ES_EX_LATE, ==, ES_EX_LATE);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(a_body_that_does_not_come_ends)
{
    const uint8_t *p;
    struct es_exchange *x;
    size_t n;

    begin();
    e.server.cfg.limits.body_timeout = 5 * ES_SECOND;
    h3_env_start(&e);
    x = ask("POST", 0);
    pass(60 * ES_SECOND); /* nobody waits for it: not the client's fault */
    CHECK_INT(es_exchange_read(e.server.x, &p, &n), ==, ES_ERR_AGAIN);
    e.server.bits = 0;
    pass(4 * ES_SECOND);
    CHECK_INT(es_exchange_write(x, "a", 1, NULL, NULL), ==, 0);
    run(&e);
    CHECK_INT(e.server.bits, ==, ES_EX_READABLE);
    CHECK_INT(es_exchange_read(e.server.x, &p, &n), ==, 0);
    es_exchange_consume(e.server.x, n);
    CHECK_INT(es_exchange_read(e.server.x, &p, &n), ==, ES_ERR_AGAIN);
    e.server.bits = 0;
    pass(2 * ES_SECOND); /* 4 + 2 s of waiting, for one byte */
    CHECK_INT(e.server.bits, ==, ES_EX_READABLE);
    CHECK_INT(es_exchange_read(e.server.x, &p, &n), ==, ES_ERR_TIMEOUT);
    CHECK_INT(es_exchange_answer(e.server.x, 408, NULL, 0, "", 0, NULL, NULL), ==, 0);
    let_go(&e.server, e.server.x);
    run(&e);
    CHECK_INT(es_h3_head_status(es_exchange_head(x)), ==, 408);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(a_handler_is_late_also_after_it_waited)
{
    const uint8_t *p;
    struct es_exchange *x;
    size_t n;

    begin();
    e.server.cfg.limits.body_timeout = 0;
    e.server.cfg.limits.answer_timeout = 5 * ES_SECOND;
    h3_env_start(&e);
    x = ask("POST", 0);
    CHECK_INT(es_exchange_read(e.server.x, &p, &n), ==, ES_ERR_AGAIN);
    pass(100 * ES_SECOND); /* the client's time, not the handler's */
    CHECK_INT(e.server.bits & ES_EX_LATE, ==, 0);
    CHECK_INT(es_exchange_finish(x, NULL, 0), ==, 0);
    run(&e);
    CHECK_INT(es_exchange_read(e.server.x, &p, &n), ==, ES_ERR_NOT_FOUND);
    pass(4 * ES_SECOND);
    CHECK_INT(e.server.bits & ES_EX_LATE, ==, 0);
    pass(ES_SECOND);
    CHECK_INT(e.server.bits & ES_EX_LATE, ==, ES_EX_LATE);
    es_exchange_release(x);
    h3_env_free(&e);
}

/* A POST that is answered with 413 before anything of its body came. NULL: no length is said. */
static struct es_exchange *refused(const char *length)
{
    struct es_h3_target t = GET_ROOT;
    struct es_h3_field fields[] = {FIELD("content-length", length != NULL ? length : "0")};
    struct es_exchange *x = NULL;

    t.method = "POST";
    CHECK_INT(es_h3_request(e.client.h, &t, fields, length != NULL, 0, NULL, &x), ==, 0);
    run(&e);
    CHECK_INT(es_exchange_answer(e.server.x, 413, NULL, 0, "no", 2, NULL, NULL), ==, 0);
    let_go(&e.server, e.server.x);
    run(&e);
    CHECK_INT(es_h3_head_status(es_exchange_head(x)), ==, 413);
    return x;
}

static int may_write_still(struct es_exchange *x)
{
    int rc = es_exchange_write(x, "a", 1, NULL, NULL);

    run(&e);
    return rc == 0;
}

TEST(a_body_that_nobody_reads_may_come_to_its_end)
{
    static char half[150000];
    struct es_exchange *x;
    int end;

    begin();
    h3_env_start(&e);
    x = refused("300000");
    for (int i = 0; i < 2; i++) {
        pass(9 * ES_SECOND);
        CHECK_INT(es_exchange_write(x, half, sizeof half, NULL, NULL), ==, 0);
        run(&e);
    }
    CHECK_INT(es_exchange_finish(x, NULL, 0), ==, 0);
    run(&e);
    CHECK(es_list_empty(&e.server.h->exchanges));
    CHECK_INT(drain(x, &end), ==, 2);
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(a_body_that_nobody_reads_has_not_for_ever)
{
    static char piece[65536];
    struct es_exchange *x;
    int times = 0, rc;

    begin();
    h3_env_start(&e);
    x = refused("300000");
    pass(9 * ES_SECOND);
    CHECK(may_write_still(x));
    pass(11 * ES_SECOND); /* it stands still */
    CHECK(!may_write_still(x));
    es_exchange_release(x);
    x = refused("300000");
    while (times < 100 && may_write_still(x)) {
        pass(5 * ES_SECOND);
        times++;
    }
    CHECK_INT(times, ==, 24);
    es_exchange_release(x);
    x = refused("100000000");
    CHECK(may_write_still(x));
    pass(2 * ES_SECOND); /* too long anyway */
    CHECK(!may_write_still(x));
    es_exchange_release(x);
    x = refused(NULL);
    for (times = 0; times < 2000; times++) {
        rc = es_exchange_write(x, piece, sizeof piece, NULL, NULL);
        run(&e);
        if (rc != 0) {
            break;
        }
        pass(1);
    }
    CHECK_INT(times, >=, 1024); /* 64 MiB */
    CHECK_INT(times, <, 1030);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(few_bodies_that_nobody_reads_may_come_and_none_at_the_end)
{
    struct es_exchange *x[17];

    begin();
    h3_env_start(&e);
    for (int i = 0; i < 17; i++) {
        x[i] = refused("300000");
    }
    CHECK(may_write_still(x[15]));
    CHECK(!may_write_still(x[16]));
    CHECK_INT(es_h3_goaway(e.server.h, 1), ==, 0);
    run(&e);
    CHECK(!may_write_still(x[0]));
    for (int i = 0; i < 17; i++) {
        es_exchange_release(x[i]);
    }
    run(&e);
    CHECK(es_h3_is_idle(e.server.h));
    h3_env_free(&e);
}

/* PRIORITY_UPDATE for the stream 0: 0xf0700, its length, 0, "u=1". */
TEST(a_wish_is_heeded_whenever_it_comes)
{
    struct raw r;

    begin();
    raw_start(&e, &r, NULL);
    /* HEADERS: GET https a / with the static table */
    raw_send(&r, ES_DIR_BIDI, "01 08 00 00 d1 d7 c1 50 01 61", 1);
    run(&e);
    REQUIRE(e.server.requests == 1);
    CHECK_INT(e.server.x->prio, ==, ES_PRIO_DEFAULT);
    CHECK_INT(es_exchange_respond(e.server.x, 200, NULL, 0, 0), ==, 0);
    r.stream = r.control;
    raw_send(&r, -1, "80 0f 07 00 04 00 75 3d 31", 0);
    run(&e);
    CHECK_INT(r.closed, ==, 0);
    CHECK_INT(e.server.x->prio, ==, ES_PRIO_FIRST + 1);
    es_exchange_priority(e.server.x, 5); /* the handler knows better */
    raw_send(&r, -1, "80 0f 07 00 04 00 75 3d 32", 0);
    run(&e);
    CHECK_INT(e.server.x->prio, ==, ES_PRIO_FIRST + 5);
    h3_env_free(&e);
}

TEST(a_connection_is_idle_when_all_was_acknowledged)
{
    struct es_exchange *x, *y;

    begin();
    h3_env_start(&e);
    x = ask("GET", 1);
    y = ask("HEAD", 1);
    CHECK_INT(es_h3_goaway(e.server.h, 0), ==, 0);
    run(&e);
    CHECK_INT(es_h3_goaway(e.server.h, 1), ==, 0);
    run(&e);
    CHECK_INT(e.server.conn_bits & ES_H3_IDLE, ==, 0);
    CHECK_INT(es_h3_is_idle(e.server.h), ==, 0);
    for (int i = 0; i < 2; i++) {
        struct es_exchange *each = e.server.held[i];
        CHECK_INT(es_exchange_answer(each, 200, NULL, 0, "x", 1, NULL, NULL), ==, 0);
        let_go(&e.server, each);
    }
    CHECK_INT(es_h3_in_flight(e.server.h), ==, 0);
    CHECK_INT(e.server.conn_bits & ES_H3_IDLE, ==, 0);
    run(&e);
    CHECK_INT(e.server.conn_bits & ES_H3_IDLE, ==, ES_H3_IDLE);
    CHECK_INT(es_h3_is_idle(e.server.h), ==, 1);
    es_exchange_release(x);
    es_exchange_release(y);
    h3_env_free(&e);
}
