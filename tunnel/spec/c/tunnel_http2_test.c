// needs: tunnel/csrc/http2 tunnel/csrc/head csrc/base/buf.c csrc/base/err.c
// needs: csrc/base/glitch.c csrc/base/mem.c csrc/base/varint.c
// pkgs: libnghttp2
/* HTTP/2 in both roles, against each other. */
#include "h2_env.h"

TEST(a_request_and_its_response)
{
    struct talk *t;

    env_open(NULL, NULL);
    t = ask("GET", "/a?b=c", 1);
    pump();
    REQUIRE(visitor.n == 1 && asked()->head != NULL);
    CHECK(head_is(asked()->head, ET_METHOD, "GET"));
    CHECK(head_is(asked()->head, ET_SCHEME, "https"));
    CHECK(head_is(asked()->head, ET_AUTHORITY, "example.org"));
    CHECK(head_is(asked()->head, ET_PATH, "/a?b=c"));
    CHECK(asked()->fin && !asked()->ended);
    CHECK_INT(visitor.h->ops->count(visitor.h), ==, 1);
    CHECK_INT(reply(asked(), 200, 0), ==, 0);
    CHECK_INT(say(asked(), "hello ", 0), ==, 0);
    pump();
    CHECK_MEM(t->body.p, t->body.n, "hello ", 6); /* at once */
    CHECK_INT(say(asked(), "world", 1), ==, 0);
    pump();
    CHECK_INT(et_head_status(t->head), ==, 200);
    CHECK_MEM(t->body.p, t->body.n, "hello world", 11);
    CHECK(t->ended && t->gone && !t->why && t->trailers == NULL);
    CHECK(asked()->gone && !asked()->why);
    CHECK_INT(visitor.h->ops->count(visitor.h), ==, 0);
    CHECK_INT(backend.h->ops->count(backend.h), ==, 0);
    env_close();
    CHECK_INT(visitor.err, ==, 0);
    CHECK_INT(backend.err, ==, 0);
}

TEST(an_upload_with_trailers_both_ways_and_informational_heads)
{
    struct et_head *h, *tr;
    struct talk *t;

    env_open(NULL, NULL);
    h = request("POST", "/up");
    add(h, "te", "trailers");
    add(h, "content-type", "application/grpc");
    t = ask_head(h, 0);
    pump();
    CHECK_STR(field(asked()->head, "te"), "trailers");
    CHECK_INT(reply(asked(), 100, 0), ==, 0);
    h = response(103);
    add(h, "link", "</style.css>; rel=preload");
    CHECK_INT(reply_head(asked(), h, 0), ==, 0);
    pump();
    CHECK_INT(t->informational, ==, 2);
    CHECK_INT(t->last_information, ==, 103);
    CHECK_INT(say(t, "body", 0), ==, 0);
    tr = et_head_new(ET_HEAD_TRAILERS);
    add(tr, "x-sum", "1");
    CHECK_INT(t->x->ops->trailers(t->x, tr), ==, 0);
    CHECK_INT(t->x->ops->trailers(t->x, tr), ==, ES_ERR_CLOSED);
    et_head_del(tr);
    pump();
    CHECK_MEM(asked()->body.p, asked()->body.n, "body", 4);
    REQUIRE(asked()->trailers != NULL);
    CHECK_STR(field(asked()->trailers, "x-sum"), "1");
    reply(asked(), 200, 0);
    tr = et_head_new(ET_HEAD_TRAILERS);
    add(tr, "grpc-status", "0");
    CHECK_INT(asked()->x->ops->trailers(asked()->x, tr), ==, 0); /* without a body */
    et_head_del(tr);
    pump();
    REQUIRE(t->trailers != NULL);
    CHECK_STR(field(t->trailers, "grpc-status"), "0");
    CHECK(t->gone && !t->why && asked()->gone);
    env_close();
}

TEST(fields_keep_order_and_repetition_and_crumbs_are_joined)
{
    struct et_head *h;
    struct talk *t;

    env_open(NULL, NULL);
    h = request("GET", "/");
    add(h, "x-a", "1");
    add(h, "cookie", "a=b");
    add(h, "x-a", "2");
    add(h, "cookie", "c=d");
    add(h, "priority", "u=1, i");
    add(h, "authorization", "Basic eA==");
    add(h, "x-empty", "");
    t = ask_head(h, 1);
    pump();
    CHECK_STR(field(asked()->head, "cookie"), "a=b; c=d");
    CHECK_STR(field(asked()->head, "priority"), "u=1, i");
    CHECK_STR(field(asked()->head, "authorization"), "Basic eA==");
    CHECK_STR(field(asked()->head, "x-empty"), "");
    CHECK_INT(et_head_count(asked()->head), ==, 6);
    CHECK(et_head_find(asked()->head, S("x-a"), 0) < et_head_find(asked()->head, S("x-a"), 1));
    h = response(200);
    add(h, "set-cookie", "a=1");
    add(h, "set-cookie", "b=2");
    reply_head(asked(), h, 1);
    pump();
    CHECK_INT(et_head_count(t->head), ==, 2);
    CHECK(t->fin && t->gone);
    env_close();
}

TEST(head_204_and_304_have_no_body_and_keep_their_length)
{
    struct et_head *h;
    struct talk *t;

    env_open(NULL, NULL);
    t = ask("HEAD", "/", 1);
    pump();
    h = response(200);
    add(h, "content-length", "1234");
    CHECK_INT(reply_head(asked(), h, 0), ==, 0);
    CHECK_INT(say(asked(), "x", 0), ==, ES_ERR_INVAL);
    CHECK_INT(asked()->x->ops->body(asked()->x, NULL, 0, 1), ==, 0);
    pump();
    CHECK_STR(field(t->head, "content-length"), "1234");
    CHECK(t->gone && !t->why && t->got == 0 && (t->fin || t->ended));
    t = ask("GET", "/", 1);
    pump();
    h = response(304);
    add(h, "content-length", "77");
    CHECK_INT(reply_head(asked(), h, 1), ==, 0);
    pump();
    CHECK(t->gone && !t->why && t->fin);
    t = ask("GET", "/", 1);
    pump();
    CHECK_INT(reply(asked(), 204, 1), ==, 0);
    pump();
    CHECK(t->gone && !t->why && t->fin);
    env_close();
}

TEST(a_body_that_is_not_as_long_as_announced_is_never_taken_for_whole)
{
    struct et_head *h;
    struct talk *t;

    env_open(NULL, NULL);
    for (int longer = 0; longer < 2; longer++) {
        t = ask("GET", "/", 1);
        pump();
        h = response(200);
        add(h, "content-length", "10");
        reply_head(asked(), h, 0);
        CHECK_INT(say(asked(), "12345", 0), ==, 0);
        CHECK_INT(say(asked(), longer ? "678901" : "", 1), ==, ES_ERR_INVAL);
        pump();
        CHECK_INT(t->why, ==, ET_RESET_INTERNAL);
        CHECK_INT(asked()->why, ==, ET_RESET_INTERNAL);
        CHECK(!t->ended && t->gone && asked()->gone);
    }
    h = request("POST", "/");
    add(h, "content-length", "3");
    t = ask_head(h, 0);
    say(t, "123", 1);
    pump();
    CHECK(asked()->ended && asked()->got == 3);
    reply(asked(), 200, 1);
    pump();
    CHECK(t->gone && !t->why);
    env_close();
}

TEST(extended_connect_carries_bytes_both_ways_and_half_closes)
{
    struct et_head *h;
    struct talk *t;

    env_open(NULL, NULL);
    h = request("CONNECT", "/chat");
    et_head_set_part(h, ET_PROTOCOL, S("websocket"));
    add(h, "sec-websocket-version", "13");
    t = ask_head(h, 0); /* waits for the settings of the other side */
    CHECK_INT(visitor.n, ==, 0);
    pump();
    REQUIRE(visitor.n == 1);
    CHECK(head_is(asked()->head, ET_PROTOCOL, "websocket"));
    CHECK(head_is(asked()->head, ET_PATH, "/chat"));
    CHECK(head_is(asked()->head, ET_SCHEME, "https"));
    h = response(200);
    reply_head(asked(), h, 0);
    pump();
    say(t, "ping", 0);
    say(asked(), "pong", 0);
    pump();
    CHECK_MEM(asked()->body.p, asked()->body.n, "ping", 4);
    CHECK_MEM(t->body.p, t->body.n, "pong", 4);
    say(asked(), "bye", 1); /* half-close: the other direction goes on */
    pump();
    CHECK(t->ended && !t->gone && !asked()->why);
    say(t, " more", 1);
    pump();
    CHECK_MEM(asked()->body.p, asked()->body.n, "ping more", 9);
    CHECK(t->gone && !t->why && asked()->gone && !asked()->why);
    env_close();
}

TEST(plain_connect_has_an_authority_only)
{
    struct et_head *h;
    struct talk *t;

    env_open(NULL, NULL);
    h = et_head_new(ET_HEAD_REQUEST);
    et_head_set_part(h, ET_METHOD, S("CONNECT"));
    et_head_set_part(h, ET_AUTHORITY, S("db.example:5432"));
    t = ask_head(h, 0);
    pump();
    CHECK(head_is(asked()->head, ET_AUTHORITY, "db.example:5432"));
    CHECK(head_is(asked()->head, ET_PATH, ""));
    CHECK(head_is(asked()->head, ET_SCHEME, ""));
    h = response(200);
    add(h, "content-length", "5"); /* means nothing there */
    CHECK_INT(reply_head(asked(), h, 0), ==, 0);
    say_much(asked(), 100000, 1);
    pump();
    CHECK_STR(field(t->head, "content-length"), "(none)");
    CHECK_INT(t->got, ==, 100000);
    CHECK(t->ended);
    say(t, "x", 1);
    pump();
    CHECK(t->gone && !t->why && asked()->gone && asked()->got == 1);
    env_close();
}

TEST(resets_keep_their_reason)
{
    static const struct {
        enum et_reset sent, seen;
    } rows[] = {{ET_RESET_CANCEL, ET_RESET_CANCEL},
                {ET_RESET_REFUSED, ET_RESET_REFUSED},
                {ET_RESET_PROTOCOL, ET_RESET_PROTOCOL},
                {ET_RESET_TRUNCATED, ET_RESET_INTERNAL},
                {ET_RESET_TIMEOUT, ET_RESET_CANCEL},
                {ET_RESET_INTERNAL, ET_RESET_INTERNAL},
                {ET_RESET_ENHANCE_CALM, ET_RESET_ENHANCE_CALM}};
    struct talk *t;

    env_open(NULL, NULL);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        t = ask("GET", "/", 1);
        pump();
        asked()->x->ops->reset(asked()->x, rows[i].sent);
        CHECK(!asked()->gone); /* from a later step */
        pump();
        CHECK_INT(t->why, ==, rows[i].seen);
        CHECK(t->gone && asked()->gone && !asked()->why);
        t = ask("POST", "/", 0);
        say(t, "some", 0);
        pump();
        t->x->ops->reset(t->x, rows[i].sent);
        pump();
        CHECK_INT(asked()->why, ==, rows[i].seen);
        CHECK(t->gone && asked()->gone && !t->why);
    }
    env_close();
}

TEST(a_user_may_let_go_at_every_stage)
{
    struct talk *t;

    env_open(NULL, NULL);
    for (int stage = 0; stage < 8; stage++) {
        struct talk *v;

        t = ask("POST", "/", 0);
        if (stage == 0) {
            t->x->ops->release(t->x); /* before it was sent */
            t->x = NULL;
            pump();
            continue;
        }
        pump();
        v = asked();
        if (stage >= 2) {
            say(t, "body", stage >= 3);
            pump();
        }
        if (stage >= 4) {
            reply(v, 200, 0);
        }
        if (stage >= 5) {
            say(v, "answer", stage >= 6);
        }
        if (stage % 2) {
            v->x->ops->release(v->x);
            v->x = NULL;
            pump();
            CHECK(t->gone);
            CHECK_INT(t->why, ==, stage == 7 ? 0 : stage == 5 ? ET_RESET_INTERNAL : ET_RESET_CANCEL);
        } else {
            t->x->ops->release(t->x);
            t->x = NULL;
            pump();
            CHECK(v->gone);
            CHECK_INT(v->why, ==, stage == 6 ? 0 : ET_RESET_CANCEL);
        }
        CHECK_INT(visitor.h->ops->count(visitor.h), ==, 0);
        CHECK_INT(backend.h->ops->count(backend.h), ==, 0);
    }
    env_close();
}

TEST(an_early_response_is_delivered_and_the_rest_of_the_request_is_stopped)
{
    struct talk *t;

    env_open(NULL, NULL);
    t = ask("POST", "/", 0);
    say_much(t, 300000, 0);
    pump();
    reply(asked(), 413, 0);
    say(asked(), "too much", 1);
    pump();
    CHECK_INT(et_head_status(t->head), ==, 413);
    CHECK_MEM(t->body.p, t->body.n, "too much", 8);
    CHECK(t->ended && t->gone);
    CHECK_INT(t->why, ==, ET_RESET_NO_ERROR);
    CHECK_INT(asked()->why, ==, ET_RESET_NO_ERROR);
    CHECK(asked()->gone);
    env_close();
}

TEST(a_refused_request_was_certainly_not_processed)
{
    struct talk *t;

    env_open(NULL, NULL);
    visitor.refuse = 1;
    t = ask("POST", "/", 0);
    say(t, "x", 1);
    pump();
    CHECK_INT(t->why, ==, ET_RESET_REFUSED);
    CHECK(t->gone);
    CHECK_INT(visitor.n, ==, 0);
    env_close();
}

TEST(a_slow_reader_holds_up_itself_and_nobody_else)
{
    struct talk *slow, *fast, *v_slow;

    env_open(NULL, NULL);
    slow = ask("GET", "/slow", 1);
    slow->keep = 1;
    pump();
    v_slow = asked();
    reply(v_slow, 200, 0);
    say_much(v_slow, 3 << 20, 1);
    pump();
    CHECK_INT(slow->got, ==, ET_UNREAD_MAX);
    CHECK_INT(slow->x->unread, ==, ET_UNREAD_MAX);
    CHECK_INT(v_slow->x->ops->queued(v_slow->x), ==, (3 << 20) - ET_UNREAD_MAX);
    for (int i = 0; i < 40; i++) { /* more than a connection's window of 16 MiB */
        fast = ask("GET", "/fast", 1);
        pump();
        reply(asked(), 200, 0);
        say_much(asked(), 1 << 20, 1);
        pump();
        CHECK_INT(fast->got, ==, 1 << 20);
        CHECK(fast->gone && !fast->why);
    }
    CHECK_INT(sock_most, <, 400 * 1024); /* what is with the socket is bounded */
    while (!slow->ended && slow->unread > 0) {
        size_t n = slow->unread;

        slow->unread = 0;
        slow->x->ops->consume(slow->x, n);
        pump();
    }
    CHECK_INT(slow->got, ==, 3 << 20);
    CHECK(slow->gone && v_slow->gone);
    CHECK_INT(v_slow->rooms, ==, 0); /* it had ended already */
    env_close();
}

TEST(room_is_told_when_half_of_a_queue_is_sent)
{
    struct talk *t, *v;

    env_open(NULL, NULL);
    t = ask("GET", "/", 1);
    t->keep = 1;
    pump();
    v = asked();
    reply(v, 200, 0);
    say_much(v, 700000, 0);
    pump();
    CHECK_INT(v->rooms, ==, 0);
    CHECK_INT(v->x->ops->queued(v->x), ==, 700000 - ET_UNREAD_MAX);
    while (v->rooms == 0 && t->unread > 0) {
        size_t n = t->unread;

        t->unread = 0;
        t->x->ops->consume(t->x, n);
        pump();
    }
    CHECK_INT(v->rooms, ==, 1);
    CHECK_INT(v->x->ops->queued(v->x), <=, ET_QUEUE_HIGH / 2);
    env_close();
}

TEST(a_reader_that_keeps_up_gets_a_wider_window)
{
    struct talk *t, *v;

    env_open(NULL, NULL);
    t = ask("GET", "/", 1);
    pump();
    v = asked();
    reply(v, 200, 0);
    for (int i = 0; i < 64; i++) {
        say_much(v, 65536, 0);
        pump();
    }
    t->keep = 1; /* now it stops */
    say_much(v, 3 << 20, 0);
    pump();
    CHECK_INT(t->unread, >, ET_UNREAD_MAX);
    CHECK_INT(t->unread, <=, 1 << 20);
    env_close();
}

TEST(requests_beyond_what_the_peer_takes_are_not_begun)
{
    struct et_http_limits few = {.max_streams = 3};
    struct et_exchange *x;
    struct talk *t = NULL;

    env_open(&few, NULL);
    pump();
    CHECK(backend.ready > 0);
    CHECK_INT(backend.h->ops->room(backend.h), ==, 3);
    for (int i = 0; i < 3; i++) {
        t = ask("GET", "/", 1);
    }
    CHECK_INT(backend.h->ops->room(backend.h), ==, 0);
    CHECK_INT(backend.h->ops->begin(backend.h, &talk_events, t, &x), ==, ES_ERR_LIMIT);
    pump();
    CHECK_INT(visitor.n, ==, 3);
    backend.ready = 0;
    reply(asked(), 200, 1);
    pump();
    CHECK(backend.ready > 0);
    CHECK_INT(backend.h->ops->room(backend.h), ==, 1);
    env_close();
}

TEST(draining_ends_what_is_there_and_takes_nothing_new)
{
    struct talk *t, *late;

    env_open(NULL, NULL);
    t = ask("GET", "/1", 1);
    pump();
    visitor.sock.stuck = 1;
    visitor.h->ops->drain(visitor.h);
    pump();
    late = ask("GET", "/2", 1); /* was on its way when the first GOAWAY came: is taken */
    pump();
    visitor.sock.stuck = 0;
    pump();
    CHECK_INT(visitor.n, ==, 2);
    CHECK_INT(backend.draining, ==, 1);
    CHECK_INT(backend.h->ops->room(backend.h), ==, 0);
    reply(&visitor.talk[0], 200, 0);
    say(&visitor.talk[0], "one", 1);
    pump();
    CHECK(t->gone && !t->why && !visitor.closed);
    reply(&visitor.talk[1], 200, 1);
    pump();
    CHECK(late->gone && !late->why);
    sleep_for(3 * ES_SECOND);
    CHECK(visitor.closed && backend.closed);
    CHECK_INT(visitor.err, ==, 0);
    CHECK_INT(backend.err, ==, 0);
    env_close();
}

TEST(a_drained_backend_is_closed_after_its_last_exchange)
{
    struct talk *t;

    env_open(NULL, NULL);
    t = ask("GET", "/1", 1);
    pump();
    backend.h->ops->drain(backend.h);
    pump();
    CHECK(!backend.closed);
    CHECK_INT(backend.h->ops->room(backend.h), ==, 0);
    reply(asked(), 200, 1);
    pump();
    CHECK(t->gone && backend.closed && visitor.closed);
    CHECK_INT(backend.err, ==, 0);
    env_close();
}

TEST(after_so_many_requests_a_connection_drains)
{
    struct et_http_limits few = {.max_requests = 3};

    env_open(&few, NULL);
    for (int i = 0; i < 3; i++) {
        struct talk *t = ask("GET", "/", 1);

        pump();
        reply(asked(), 200, 1);
        pump();
        CHECK(t->gone && !t->why);
    }
    CHECK_INT(backend.draining, ==, 1);
    CHECK_INT(visitor.draining, ==, 1);
    sleep_for(3 * ES_SECOND);
    CHECK(visitor.closed && backend.closed && !visitor.err);
    env_close();
}

TEST(a_connection_that_breaks_resets_what_it_carried)
{
    struct talk *t, *early;

    env_open(NULL, NULL);
    t = ask("GET", "/", 1);
    pump();
    early = ask("GET", "/never-sent", 1);
    et_sock_close(&visitor.sock, 0);
    sock_step(&visitor.sock);
    pump();
    CHECK_INT(t->why, ==, ET_RESET_TRUNCATED);
    CHECK_INT(early->why, ==, ET_RESET_REFUSED);
    CHECK_INT(asked()->why, ==, ET_RESET_TRUNCATED);
    CHECK(t->gone && early->gone && asked()->gone);
    CHECK_INT(backend.err, ==, ES_ERR_CLOSED);
    env_close();
}

TEST(ten_thousand_requests_one_after_another_and_128_at_once)
{
    env_open(NULL, NULL);
    for (int i = 0; i < (getenv("RELAXED") ? 500 : 10000); i++) {
        struct talk *t = ask("POST", "/n", 0);

        say(t, "12345678", 1);
        pump();
        reply(asked(), 200, 0);
        say(asked(), "abc", 1);
        pump();
        CHECK(t->gone && !t->why && t->got == 3 && asked()->gone && asked()->got == 8);
    }
    for (int round = 0; round < 4; round++) {
        struct talk *t[128];
        unsigned from = visitor.n;

        visitor.sock.cut = backend.sock.cut = round ? (size_t)7 << (2 * round) : 0;
        for (int i = 0; i < 128; i++) {
            t[i] = ask("POST", "/p", 0);
            say_much(t[i], (size_t)i * 100, 1);
        }
        pump();
        CHECK_INT(visitor.n - from, ==, 128);
        for (int i = 0; i < 128; i++) {
            struct talk *v = &visitor.talk[(from + (unsigned)i) % MOST];

            reply(v, 200, 0);
            say_much(v, (size_t)i * 1000, 1);
        }
        pump();
        for (int i = 0; i < 128; i++) {
            struct talk *v = &visitor.talk[(from + (unsigned)i) % MOST];

            CHECK_INT(t[i]->got, ==, i * 1000);
            CHECK_INT(v->got, ==, i * 100);
            CHECK(t[i]->gone && v->gone && !t[i]->why && !v->why);
            for (size_t k = 0; k < t[i]->body.n; k++) {
                if (t[i]->body.p[k] != (uint8_t)(k * 7 + k / 251)) {
                    CHECK_INT(k, ==, -1);
                    break;
                }
            }
        }
    }
    env_close();
}
