// needs: csrc/base csrc/link csrc/http3
// pkgs: libnghttp3
//
// HTTP/3 with both ends over the in-memory pair.
#include "h3_env.h"

static struct h3_env e;

static void answer(const char *body)
{
    char n[24] = "";
    struct es_h3_field f[] = {FIELD("content-type", "text/plain"), FIELD("content-length", n)};

    snprintf(n, sizeof n, "%zu", strlen(body));
    f[1].value_len = strlen(n);
    CHECK_INT(es_exchange_respond(e.server.x, 200, f, 2, 0), ==, 0);
    CHECK_INT(es_exchange_write(e.server.x, body, strlen(body), NULL, NULL), ==, 0);
    CHECK_INT(es_exchange_finish(e.server.x, NULL, 0), ==, 0);
}

static void read_all(struct es_exchange *x, char *out, size_t room, int *end)
{
    const uint8_t *p;
    size_t n, at = 0;
    int rc;

    while ((rc = es_exchange_read(x, &p, &n)) == 0) {
        if (at + n < room) {
            memcpy(out + at, p, n);
            at += n;
        }
        es_exchange_consume(x, n);
    }
    out[at] = '\0';
    *end = rc;
}

static void a_get(size_t chunk)
{
    struct es_h3_field f[] = {FIELD("accept", "*/*"), FIELD("x-empty", "")};
    struct es_exchange *x = NULL;
    char text[64];
    int end;

    h3_env_init(&e);
    e.chunk = chunk;
    h3_env_start(&e);
    CHECK_INT(e.client.conn_bits, ==, ES_H3_OPEN);
    CHECK_INT(e.server.conn_bits, ==, ES_H3_OPEN);
    REQUIRE(es_h3_request(e.client.h, &GET_ROOT, f, 2, 1, &e, &x) == 0);
    run(&e);
    REQUIRE(e.server.requests == 1);
    CHECK_STR(pseudo(es_exchange_head(e.server.x), ES_H3_METHOD), "GET");
    CHECK_STR(pseudo(es_exchange_head(e.server.x), ES_H3_SCHEME), "https");
    CHECK_STR(pseudo(es_exchange_head(e.server.x), ES_H3_AUTHORITY), "a");
    CHECK_STR(pseudo(es_exchange_head(e.server.x), ES_H3_PATH), "/");
    CHECK_INT(es_h3_head_count(es_exchange_head(e.server.x)), ==, 2);
    CHECK_STR(value_of(es_exchange_head(e.server.x), "accept"), "*/*");
    CHECK_STR(value_of(es_exchange_head(e.server.x), "x-empty"), "");
    read_all(e.server.x, text, sizeof text, &end);
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    answer("hello");
    run(&e);
    REQUIRE(e.client.responses == 1);
    CHECK(e.client.x == x);
    CHECK(es_exchange_user(x) == &e);
    CHECK_INT(es_h3_head_status(es_exchange_head(x)), ==, 200);
    CHECK_STR(value_of(es_exchange_head(x), "content-length"), "5");
    read_all(x, text, sizeof text, &end);
    CHECK_STR(text, "hello");
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    es_exchange_release(x);
    let_go(&e.server, e.server.x);
    run(&e);
    CHECK_INT(es_h3_in_flight(e.server.h), ==, 0);
    CHECK_INT(es_h3_link(e.server.h)->held, ==, 0);
    CHECK(es_h3_closed_by(e.server.h) == NULL);
    h3_env_free(&e);
}

TEST(a_request_gets_its_answer)
{
    a_get(0);
}

TEST(whatever_the_pieces_are_in_which_it_comes)
{
    a_get(1);
    a_get(3);
}

static struct es_exchange *ask(const char *method, const struct es_h3_field *f, size_t n, int fin)
{
    struct es_h3_target t = {method, "https", "a", "/", NULL};
    struct es_exchange *x = NULL;

    CHECK_INT(es_h3_request(e.client.h, &t, f, n, fin, NULL, &x), ==, 0);
    run(&e);
    return x;
}

TEST(bodies_go_both_ways_with_trailers)
{
    struct es_h3_field up[] = {FIELD("x-sum", "1")}, down[] = {FIELD("x-status", "fine")};
    struct es_exchange *x;
    char text[64];
    int end;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("POST", NULL, 0, 0);
    CHECK_INT(e.server.requests, ==, 1);
    read_all(e.server.x, text, sizeof text, &end);
    CHECK_INT(end, ==, ES_ERR_AGAIN);
    CHECK_INT(es_exchange_write(x, "one ", 4, NULL, NULL), ==, 0);
    run(&e);
    CHECK((e.server.bits & ES_EX_READABLE) != 0);
    CHECK_INT(es_exchange_respond(e.server.x, 200, NULL, 0, 0), ==, 0);
    CHECK_INT(es_exchange_write(e.server.x, "back", 4, NULL, NULL), ==, 0);
    CHECK_INT(es_exchange_write(x, "two", 3, NULL, NULL), ==, 0);
    CHECK_INT(es_exchange_finish(x, up, 1), ==, 0);
    CHECK_INT(es_exchange_finish(x, up, 1), ==, 0);
    CHECK_INT(es_exchange_write(x, "z", 1, NULL, NULL), ==, ES_ERR_CLOSED);
    run(&e);
    read_all(e.server.x, text, sizeof text, &end);
    CHECK_STR(text, "one two");
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    CHECK_STR(value_of(es_exchange_trailers(e.server.x), "x-sum"), "1");
    CHECK_INT(es_exchange_finish(e.server.x, down, 1), ==, 0);
    run(&e);
    read_all(x, text, sizeof text, &end);
    CHECK_STR(text, "back");
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    CHECK_STR(value_of(es_exchange_trailers(x), "x-status"), "fine");
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(early_hints_come_before_the_answer)
{
    struct es_h3_field link[] = {FIELD("link", "</a.css>; rel=preload")};
    const struct es_h3_head *hint;
    struct es_exchange *x;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("GET", NULL, 0, 1);
    CHECK_INT(es_exchange_inform(e.server.x, 103, link, 1), ==, 0);
    CHECK_INT(es_exchange_inform(e.server.x, 101, link, 1), ==, ES_ERR_INVAL);
    run(&e);
    CHECK_INT(e.client.bits, ==, ES_EX_INFORMED);
    hint = es_exchange_informed(x);
    REQUIRE(hint != NULL);
    CHECK_INT(es_h3_head_status(hint), ==, 103);
    CHECK_STR(value_of(hint, "link"), "</a.css>; rel=preload");
    CHECK(es_exchange_informed(x) == NULL);
    CHECK_INT(es_exchange_respond(e.server.x, 200, NULL, 0, 1), ==, 0);
    CHECK_INT(es_exchange_inform(e.server.x, 103, link, 1), ==, ES_ERR_EXISTS);
    run(&e);
    CHECK_INT(e.client.responses, ==, 1);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(the_answer_to_head_and_204_and_304_have_no_body)
{
    static const struct {
        const char *method;
        int status, rc;
    } rows[] = {{"HEAD", 200, 0}, {"GET", 204, ES_ERR_INVAL}, {"GET", 304, ES_ERR_INVAL}};
    struct es_h3_field length[] = {FIELD("content-length", "5")};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct es_exchange *x;
        char text[16];
        int end;

        h3_env_init(&e);
        h3_env_start(&e);
        x = ask(rows[i].method, NULL, 0, 1);
        CHECK_INT(es_exchange_respond(e.server.x, rows[i].status, length, rows[i].status != 204, 0), ==, 0);
        CHECK_INT(es_exchange_write(e.server.x, "hello", 5, NULL, NULL), ==, rows[i].rc);
        CHECK_INT(es_exchange_finish(e.server.x, NULL, 0), ==, 0);
        run(&e);
        CHECK_INT(e.client.responses, ==, 1);
        read_all(x, text, sizeof text, &end);
        CHECK_STR(text, "");
        CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
        es_exchange_release(x);
        h3_env_free(&e);
    }
}

TEST(fields_that_would_be_two_messages_are_not_sent)
{
    static const struct es_h3_field bad[] = {FIELD("x", "a\r\nb: c"),
                                             FIELD("x\n", "a"),
                                             FIELD("X", "a"),
                                             FIELD(":status", "200"),
                                             FIELD("connection", "x"),
                                             FIELD("upgrade", "h2c"),
                                             FIELD("te", "gzip"),
                                             FIELD("", "a"),
                                             FIELD("transfer-encoding", "chunked"),
                                             FIELD("content-length", "1x"),
                                             {.name = "x", .value = "a\0b", .name_len = 1, .value_len = 3}};
    struct es_exchange *x, *none;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("GET", NULL, 0, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(es_exchange_respond(e.server.x, 200, &bad[i], 1, 0), ==, ES_ERR_INVAL);
        CHECK_INT(es_h3_request(e.client.h, &GET_ROOT, &bad[i], 1, 1, NULL, &none), ==, ES_ERR_INVAL);
    }
    CHECK_INT(es_exchange_respond(e.server.x, 200, NULL, 0, 1), ==, 0);
    run(&e);
    CHECK_INT(e.client.responses, ==, 1);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(a_body_keeps_to_the_length_that_was_said)
{
    struct es_h3_field length[] = {FIELD("content-length", "5")};
    struct es_exchange_error err;
    struct es_exchange *x;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("GET", NULL, 0, 1);
    CHECK_INT(es_exchange_respond(e.server.x, 200, length, 1, 1), ==, ES_ERR_INVAL);
    CHECK_INT(es_exchange_respond(e.server.x, 200, length, 1, 0), ==, 0);
    CHECK_INT(es_exchange_write(e.server.x, "123456", 6, NULL, NULL), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(es_exchange_write(e.server.x, "123", 3, NULL, NULL), ==, 0);
    CHECK_INT(es_exchange_finish(e.server.x, NULL, 0), ==, ES_ERR_INVAL);
    run(&e);
    REQUIRE(es_exchange_error(x, &err) == 0);
    CHECK_INT(err.code, ==, ES_H3_INTERNAL_ERROR);
    CHECK(err.peer);
    es_exchange_release(x);
    h3_env_free(&e);
}

static int released;
static void on_release(void *arg)
{
    released++;
}

TEST(who_writes_faster_than_is_read_waits_and_nothing_is_lost)
{
    static uint8_t block[16384];
    const size_t total = (size_t)4 * 1024 * 1024;
    size_t sent = 0, got = 0, most = 0;
    struct es_exchange *x;
    const uint8_t *p;
    size_t n;
    int waits = 0, rc = 0, calls = 0, moved, end = 0;

    released = 0;
    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("GET", NULL, 0, 1);
    CHECK_INT(es_exchange_respond(e.server.x, 200, NULL, 0, 0), ==, 0);
    while (!end) {
        while (sent < total) {
            memset(block, (int)(sent / sizeof block), sizeof block);
            rc = es_exchange_write(e.server.x, block, sizeof block, calls % 2 != 0 ? on_release : NULL, NULL);
            if (rc != 0) {
                break;
            }
            calls++;
            sent += sizeof block;
            run(&e);
        }
        waits += rc == ES_ERR_AGAIN;
        if (sent == total) {
            CHECK_INT(es_exchange_finish(e.server.x, NULL, 0), ==, 0);
        }
        if (es_h3_link(e.server.h)->held > most) {
            most = es_h3_link(e.server.h)->held;
        }
        e.server.bits = 0;
        while ((rc = es_exchange_read(x, &p, &n)) == 0) {
            got += n;
            es_exchange_consume(x, n);
        }
        end = rc != ES_ERR_AGAIN;
        moved = e.server.bits != 0;
        run(&e);
        CHECK(sent == total || (e.server.bits & ES_EX_WRITABLE) != 0 || moved);
        if (waits > 10000) {
            break;
        }
    }
    CHECK_INT(rc, ==, ES_ERR_NOT_FOUND);
    CHECK_INT(got, ==, total);
    CHECK(waits > 4);
    CHECK(most < (size_t)1024 * 1024);
    CHECK_INT(released, ==, calls / 2);
    es_exchange_release(x);
    let_go(&e.server, e.server.x);
    run(&e);
    CHECK_INT(es_h3_link(e.server.h)->held, ==, 0);
    CHECK_INT(es_h3_link(e.client.h)->held, ==, 0);
    h3_env_free(&e);
}

TEST(a_request_that_is_cancelled_ends_on_both_sides)
{
    struct es_exchange_error err;
    struct es_exchange *x, *theirs;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("POST", NULL, 0, 0);
    theirs = e.server.x;
    es_exchange_release(x);
    run(&e);
    CHECK_INT(e.server.aborted, ==, 1);
    REQUIRE(es_exchange_error(theirs, &err) == 0);
    CHECK_INT(err.code, ==, ES_H3_REQUEST_CANCELLED);
    CHECK(err.peer);
    CHECK_INT(es_exchange_respond(theirs, 200, NULL, 0, 1), ==, ES_ERR_CLOSED);
    let_go(&e.server, theirs);
    run(&e);
    CHECK_INT(es_h3_in_flight(e.server.h), ==, 0);
    CHECK_INT(es_h3_in_flight(e.client.h), ==, 0);
    CHECK(es_h3_closed_by(e.server.h) == NULL);
    h3_env_free(&e);
}

TEST(a_handler_that_never_answers_resets_the_stream_when_it_lets_go)
{
    struct es_exchange_error err;
    struct es_exchange *x;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("GET", NULL, 0, 1);
    let_go(&e.server, e.server.x);
    run(&e);
    REQUIRE(es_exchange_error(x, &err) == 0);
    CHECK_INT(err.code, ==, ES_H3_INTERNAL_ERROR);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(an_answer_before_the_end_of_the_request_arrives_whole)
{
    struct es_exchange *x;
    char text[16];
    int end;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("POST", NULL, 0, 0);
    answer("enough");
    let_go(&e.server, e.server.x);
    run(&e);
    CHECK_INT(es_exchange_write(x, "more", 4, NULL, NULL), ==, 0);
    e.timers.now += 2 * ES_SECOND;
    es_timers_expire(&e.timers, 100);
    run(&e);
    CHECK_INT(es_exchange_write(x, "more", 4, NULL, NULL), ==, ES_ERR_CLOSED);
    read_all(x, text, sizeof text, &end);
    CHECK_STR(text, "enough");
    CHECK_INT(end, ==, ES_ERR_NOT_FOUND);
    es_exchange_release(x);
    run(&e);
    h3_env_free(&e);
}

TEST(goaway_lets_finish_what_is_there_and_refuses_the_rest)
{
    struct es_exchange *x, *none;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("GET", NULL, 0, 1);
    CHECK_INT(es_h3_goaway(e.server.h, 0), ==, 0);
    CHECK_INT(es_h3_goaway(e.server.h, 1), ==, 0);
    run(&e);
    CHECK((e.client.conn_bits & ES_H3_GOAWAY) != 0);
    CHECK((e.server.conn_bits & ES_H3_IDLE) == 0);
    CHECK_INT(es_h3_request(e.client.h, &GET_ROOT, NULL, 0, 1, NULL, &none), ==, ES_ERR_CLOSED);
    CHECK_INT(es_exchange_respond(e.server.x, 200, NULL, 0, 1), ==, 0);
    let_go(&e.server, e.server.x);
    run(&e);
    CHECK_INT(e.client.responses, ==, 1);
    CHECK((e.server.conn_bits & ES_H3_IDLE) != 0);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(a_request_that_crossed_a_goaway_may_be_sent_again)
{
    struct es_exchange_error err;
    struct es_exchange *x = NULL;

    h3_env_init(&e);
    h3_env_start(&e);
    CHECK_INT(es_h3_goaway(e.server.h, 1), ==, 0);
    REQUIRE(es_h3_request(e.client.h, &GET_ROOT, NULL, 0, 1, NULL, &x) == 0);
    run(&e);
    CHECK_INT(e.server.requests, ==, 0);
    REQUIRE(es_exchange_error(x, &err) == 0);
    CHECK_INT(err.code, ==, ES_H3_REQUEST_REJECTED);
    CHECK(err.unprocessed);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(when_the_connection_dies_everybody_is_told_once)
{
    struct es_exchange_error err;
    struct es_exchange *x;

    h3_env_init(&e);
    h3_env_start(&e);
    x = ask("GET", NULL, 0, 1);
    es_pair_cut(e.pair);
    run(&e);
    CHECK_INT(e.server.aborted, ==, 1);
    CHECK_INT(e.client.aborted, ==, 1);
    CHECK((e.server.conn_bits & ES_H3_CLOSED) != 0);
    REQUIRE(es_h3_closed_by(e.client.h) != NULL);
    REQUIRE(es_exchange_error(x, &err) == 0);
    CHECK_INT(err.err, ==, ES_ERR_TIMEOUT);
    CHECK_INT(es_exchange_respond(e.server.x, 200, NULL, 0, 1), ==, ES_ERR_CLOSED);
    CHECK_INT(es_exchange_write(x, "a", 1, NULL, NULL), ==, ES_ERR_CLOSED);
    es_exchange_release(x);
    h3_env_free(&e);
}

TEST(as_many_requests_as_the_peer_allows_and_then_more)
{
    enum { MANY = 300 };
    static struct es_exchange *x[MANY];
    int n = 0, rc = 0, over = 0;

    h3_env_init(&e);
    es_pair_limits(e.pair, 64, 16, (size_t)256 * 1024, 1200);
    h3_env_start(&e);
    while (n < MANY) {
        rc = es_h3_request(e.client.h, &GET_ROOT, NULL, 0, 1, NULL, &x[n]);
        if (rc == 0) {
            n++;
            continue;
        }
        REQUIRE(rc == ES_ERR_LIMIT);
        run(&e);
        for (; over < e.server.requests; over++) {
            e.server.x = e.server.held[over];
            answer("ok");
            let_go(&e.server, e.server.x);
        }
        e.client.conn_bits = 0;
        run(&e);
        REQUIRE((e.client.conn_bits & ES_H3_CREDIT) != 0);
    }
    run(&e);
    CHECK_INT(e.server.requests, ==, MANY);
    for (int i = 0; i < MANY; i++) {
        es_exchange_release(x[i]);
    }
    h3_env_free(&e);
}

TEST(a_client_is_not_asked_and_a_server_does_not_ask)
{
    struct es_exchange *x;

    h3_env_init(&e);
    h3_env_start(&e);
    CHECK_INT(es_h3_request(e.server.h, &GET_ROOT, NULL, 0, 1, NULL, &x), ==, ES_ERR_UNSUPPORTED);
    x = ask("GET", NULL, 0, 1);
    CHECK_INT(es_exchange_respond(x, 200, NULL, 0, 1), ==, ES_ERR_UNSUPPORTED);
    es_exchange_release(x);
    h3_env_free(&e);
}
