// needs: tunnel/csrc/http1 tunnel/csrc/head tunnel/spec/c/fake_sock.c llhttp csrc/base/buf.c csrc/base/mem.c
// needs: csrc/base/clock.c csrc/base/varint.c
/* HTTP/1.1 towards visitors: what they are told, when connections stay and when they end. */
#include "../../../spec/c/test.h"
#include "http1_play.h"

#define GET "GET / HTTP/1.1\r\nHost: example.org\r\n"

static const char *const plain[] = {"content-type", "text/plain", NULL};
static const char *const five[] = {"content-length", "5", NULL};

static void start(struct play *p, const char *request)
{
    play_start(p, ET_HTTP_VISITOR, NULL);
    play_say(p, request);
}

TEST(a_request_has_the_form_of_http2)
{
    struct play p;

    start(
        &p,
        "POST /a?b HTTP/1.1\r\nHOST: Example.org:80\r\nX-One:  1 \r\nX-One: 2\r\nConnection: close, x-hop\r\n"
        "X-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nContent-Length: "
        "005\r\n\r\nhello");
    REQUIRE(p.n == 1);
    CHECK_STR(play_head(p.seen[0].head),
              "POST /a?b | x-one: 1 | x-one: 2 | te: trailers | content-length: 5");
    struct et_text a = et_head_part(p.seen[0].head, ET_AUTHORITY),
                   s = et_head_part(p.seen[0].head, ET_SCHEME);
    CHECK_MEM(a.p, a.n, "Example.org:80", 14);
    CHECK_MEM(s.p, s.n, "http", 4);
    CHECK_MEM(p.seen[0].body.p, p.seen[0].body.n, "hello", 5);
    CHECK_INT(p.seen[0].ends, ==, 1);
    play_end(&p);
}

TEST(a_response_whose_length_is_known_and_the_connection_stays)
{
    struct play p;

    start(&p, GET "\r\n");
    CHECK_INT(play_send(&p, &p.seen[0], play_response(200, five), 0), ==, ES_OK);
    CHECK_STR(play_wire(&p), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    CHECK_INT(play_body(&p, &p.seen[0], "he", 0), ==, ES_OK);
    CHECK_STR(play_wire(&p), "he"); /* at once */
    CHECK_INT(p.seen[0].gone, ==, 0);
    CHECK_INT(play_body(&p, &p.seen[0], "llo", 1), ==, ES_OK);
    CHECK_INT(p.seen[0].gone, ==, 1);
    CHECK_INT(p.closed, ==, 0);
    play_say(&p, GET "\r\n");
    CHECK_INT(p.n, ==, 2);
    play_end(&p);
}

TEST(a_response_without_a_length_is_chunked_or_ends_with_the_connection)
{
    static const char *const trailer[] = {"x-sum", "7", "content-length", "9", NULL};
    struct et_head *t = et_head_new(ET_HEAD_TRAILERS);
    struct play p;

    start(&p, GET "\r\n");
    play_send(&p, &p.seen[0], play_response(200, plain), 0);
    play_body(&p, &p.seen[0], "hello, chunks: 16", 0);
    for (int i = 0; i < 4; i += 2) {
        CHECK_INT(et_head_add(t, trailer[i], strlen(trailer[i]), trailer[i + 1], strlen(trailer[i + 1])), ==,
                  0);
    }
    CHECK_INT(p.seen[0].x->ops->trailers(p.seen[0].x, t), ==, ES_OK);
    fake_step(&p.f);
    CHECK_STR(play_wire(&p),
              "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
              "11\r\nhello, chunks: 16\r\n0\r\nx-sum: 7\r\n\r\n");
    CHECK_INT(p.closed, ==, 0);
    play_end(&p);

    start(&p, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    play_send(&p, &p.seen[0], play_response(200, plain), 0);
    play_body(&p, &p.seen[0], "hello", 0);
    CHECK_INT(p.seen[0].x->ops->trailers(p.seen[0].x, t), ==, ES_OK);
    fake_step(&p.f);
    CHECK_STR(play_wire(&p), "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nhello");
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.f.graceful, ==, 1);
    play_end(&p);
    et_head_del(t);
}

TEST(old_visitors_keep_the_connection_when_they_ask_for_it)
{
    struct play p;

    start(&p, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    play_send(&p, &p.seen[0], play_response(204, NULL), 1);
    CHECK_STR(play_wire(&p), "HTTP/1.1 204 No Content\r\nconnection: keep-alive\r\n\r\n");
    CHECK_INT(p.closed, ==, 0);
    play_say(&p, "GET / HTTP/1.0\r\n\r\n");
    play_send(&p, &p.seen[1], play_response(200, NULL), 1);
    CHECK_STR(play_wire(&p), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.drained, ==, 1);
    play_end(&p);
}

TEST(responses_without_a_body)
{
    struct play p;

    start(&p, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" GET "\r\n" GET "\r\n");
    play_send(&p, &p.seen[0], play_response(200, five), 1);
    CHECK_STR(play_wire(&p), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    play_send(&p, &p.seen[1], play_response(304, five), 1);
    CHECK_STR(play_wire(&p), "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n");
    play_send(&p, &p.seen[2], play_response(204, five), 0);
    CHECK_STR(play_wire(&p), "HTTP/1.1 204 No Content\r\n\r\n");
    play_body(&p, &p.seen[2], "", 1);
    CHECK_STR(play_wire(&p), "");
    CHECK_INT(p.seen[2].gone, ==, 1);
    CHECK_INT(p.closed, ==, 0);
    play_end(&p);
}

TEST(a_body_that_breaks_its_promise_breaks_the_connection)
{
    struct play p;

    start(&p, GET "\r\n");
    play_send(&p, &p.seen[0], play_response(200, five), 0);
    CHECK_INT(play_body(&p, &p.seen[0], "hell", 1), ==, ES_ERR_INVAL);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.f.graceful, ==, 0);
    play_end(&p);

    start(&p, GET "\r\n");
    play_send(&p, &p.seen[0], play_response(200, five), 0);
    CHECK_INT(play_body(&p, &p.seen[0], "hello!", 0), ==, ES_ERR_INVAL);
    CHECK_INT(p.seen[0].why, ==, ET_RESET_INTERNAL);
    play_end(&p);

    start(&p, GET "\r\n");
    CHECK_INT(play_send(&p, &p.seen[0], play_response(200, five), 1), ==, ES_ERR_INVAL);
    CHECK_INT(play_send(&p, &p.seen[0], play_response(101, NULL), 0), ==, ES_ERR_INVAL);
    CHECK_INT(play_body(&p, &p.seen[0], "no head", 0), ==, ES_ERR_INVAL);
    CHECK_INT(play_send(&p, &p.seen[0], play_response(502, NULL), 1), ==, ES_OK);
    CHECK_INT(p.closed, ==, 0);
    play_end(&p);
}

TEST(expect_and_informational_responses)
{
    static const char *const link[] = {"link", "</a.css>; rel=preload", NULL};
    struct play p;

    start(&p, "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    CHECK_STR(play_head(p.seen[0].head), "PUT / | expect: 100-continue | content-length: 5");
    CHECK_INT(p.seen[0].ends, ==, 0);
    play_send(&p, &p.seen[0], play_response(103, link), 0);
    play_send(&p, &p.seen[0], play_response(100, NULL), 0);
    CHECK_STR(play_wire(&p),
              "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    play_say(&p, "hello");
    CHECK_INT(p.seen[0].ends, ==, 1);
    play_send(&p, &p.seen[0], play_response(201, NULL), 1);
    CHECK_STR(play_wire(&p), "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n");
    CHECK_INT(p.closed, ==, 0);
    play_end(&p);

    start(&p, "PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    CHECK_STR(play_head(p.seen[0].head), "PUT / | content-length: 5");
    play_send(&p, &p.seen[0], play_response(103, link), 0);
    CHECK_STR(play_wire(&p), "");
    play_end(&p);
}

TEST(an_early_response_is_delivered_while_the_body_comes)
{
    struct play p;

    start(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    play_send(&p, &p.seen[0], play_response(413, five), 0);
    play_body(&p, &p.seen[0], "large", 1);
    CHECK_STR(play_wire(&p),
              "HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge");
    CHECK_INT(p.closed, ==, 0);
    play_say(&p, "world");
    CHECK_INT(p.seen[0].ends, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.f.graceful, ==, 1);
    play_end(&p);

    /* Nobody wants the rest: the response still gets there. */
    start(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    play_send(&p, &p.seen[0], play_response(413, NULL), 1);
    p.seen[0].x->ops->release(p.seen[0].x);
    p.seen[0].x = NULL;
    fake_step(&p.f);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.f.graceful, ==, 1);
    CHECK_INT(p.seen[0].gone, ==, 0); /* who released it hears no more */
    play_end(&p);
}

TEST(pipelined_requests_are_answered_in_order_and_are_bounded)
{
    struct play p;
    char many[40000];

    memset(many, 0, sizeof(many));
    for (size_t i = 0; i < 50; i++) {
        snprintf(many + strlen(many), 64, "GET /%zu HTTP/1.1\r\nHost: a\r\n\r\n", i);
    }
    start(&p, many);
    for (size_t i = 0; i < 50; i++) {
        char path[32];
        snprintf(path, sizeof(path), "GET /%zu", i);
        REQUIRE(p.n == i + 1);
        CHECK_STR(play_head(p.seen[i].head), path);
        play_send(&p, &p.seen[i], play_response(204, NULL), 1);
        CHECK_INT(p.seen[i].gone, ==, 1);
    }
    play_end(&p);

    start(&p, GET "\r\n");
    memset(many, 'x', sizeof(many));
    fake_data(&p.f, many, sizeof(many));
    CHECK_INT(p.f.paused, ==, 0);
    fake_data(&p.f, many, sizeof(many));
    CHECK_INT(p.f.paused, ==, 1);
    play_end(&p);
}

TEST(the_next_request_waits_until_the_response_is_with_the_kernel)
{
    struct play p;

    start(&p, GET "\r\n" GET "\r\n");
    p.f.room = 7;
    play_send(&p, &p.seen[0], play_response(200, NULL), 1);
    CHECK_INT(p.n, ==, 1);
    CHECK_INT(p.seen[0].gone, ==, 0);
    p.f.room = SIZE_MAX;
    fake_step(&p.f);
    CHECK_INT(p.seen[0].gone, ==, 1);
    CHECK_INT(p.n, ==, 2);
    play_end(&p);
}

TEST(unread_bytes_pause_the_connection)
{
    static char big[ET_UNREAD_MAX];
    struct play p;

    play_start(&p, ET_HTTP_VISITOR, NULL);
    p.keep_unread = 1;
    play_say(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    fake_data(&p.f, big, sizeof(big) - 1);
    CHECK_INT(p.f.paused, ==, 0);
    fake_data(&p.f, big, 1);
    CHECK_INT(p.f.paused, ==, 1);
    p.seen[0].x->ops->consume(p.seen[0].x, ET_UNREAD_MAX / 2);
    CHECK_INT(p.f.paused, ==, 1);
    p.seen[0].x->ops->consume(p.seen[0].x, 1);
    CHECK_INT(p.f.paused, ==, 0);
    play_end(&p);
}

TEST(a_full_queue_says_when_there_is_room)
{
    char *big = calloc(1, ET_QUEUE_HIGH + 1);
    struct play p;

    start(&p, GET "\r\n");
    p.f.room = 0;
    play_send(&p, &p.seen[0], play_response(200, NULL), 0);
    p.seen[0].x->ops->body(p.seen[0].x, big, ET_QUEUE_HIGH + 1, 0);
    CHECK_INT(p.seen[0].x->ops->queued(p.seen[0].x), >, ET_QUEUE_HIGH);
    fake_step(&p.f);
    CHECK_INT(p.seen[0].rooms, ==, 0);
    p.f.room = SIZE_MAX;
    fake_step(&p.f);
    CHECK_INT(p.seen[0].rooms, ==, 1);
    play_end(&p);
    free(big);
}

#define WEBSOCKET                                                                                            \
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"             \
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"                           \
    "Sec-WebSocket-Protocol: chat\r\n\r\n"

TEST(a_websocket_becomes_a_connect_and_its_key_is_answered)
{
    static const char *const chat[] = {"sec-websocket-protocol", "chat", "content-length", "0", NULL};
    struct play p;

    start(&p, WEBSOCKET "early");
    CHECK_STR(play_head(p.seen[0].head),
              "CONNECT /chat | sec-websocket-version: 13 | sec-websocket-protocol: chat");
    struct et_text proto = et_head_part(p.seen[0].head, ET_PROTOCOL);
    CHECK_MEM(proto.p, proto.n, "websocket", 9);
    CHECK_INT(p.seen[0].fin + p.seen[0].ends, ==, 0);
    CHECK_INT(p.seen[0].body.n, ==, 0); /* not before it is granted */
    play_send(&p, &p.seen[0], play_response(200, chat), 0);
    CHECK_STR(play_wire(&p),
              "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-protocol: chat\r\nconnection: upgrade\r\n"
              "upgrade: WebSocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
    CHECK_MEM(p.seen[0].body.p, p.seen[0].body.n, "early", 5);
    play_say(&p, "GET / HTTP/1.1\r\n\r\n"); /* bytes, whatever they look like */
    CHECK_INT(p.n, ==, 1);
    CHECK_INT(p.seen[0].body.n, ==, 23);
    play_body(&p, &p.seen[0], "out", 0);
    CHECK_STR(play_wire(&p), "out");
    fake_after(&p.f, 3600 * ES_SECOND); /* its time-outs are not the codec's */
    CHECK_INT(p.closed, ==, 0);
    fake_eof(&p.f);
    CHECK_INT(p.seen[0].ends, ==, 1);
    CHECK_INT(p.closed, ==, 0); /* half */
    play_body(&p, &p.seen[0], "more", 1);
    CHECK_STR(play_wire(&p), "more");
    CHECK_INT(p.f.finished, ==, 1);
    CHECK_INT(p.seen[0].gone, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

/* Who waits for the answer to its handshake owes nothing: it was told 408 when a backend took its time. */
TEST(a_websocket_may_be_granted_late)
{
    const struct et_http_limits limits = {.head_timeout = ES_SECOND, .body_timeout = ES_SECOND};
    struct play p;

    play_start(&p, ET_HTTP_VISITOR, &limits);
    play_say(&p, WEBSOCKET);
    fake_after(&p.f, 100 * ES_SECOND);
    CHECK_INT(p.seen[0].resets, ==, 0);
    CHECK_INT(p.closed, ==, 0);
    play_send(&p, &p.seen[0], play_response(200, NULL), 0);
    CHECK(strncmp(play_wire(&p), "HTTP/1.1 101 ", 13) == 0);
    play_end(&p);
}

TEST(a_refused_websocket_is_an_ordinary_response)
{
    struct play p;

    start(&p, WEBSOCKET GET "\r\n");
    CHECK_INT(p.n, ==, 1);
    play_send(&p, &p.seen[0], play_response(403, five), 0);
    CHECK_INT(p.seen[0].ends, ==, 1);
    play_body(&p, &p.seen[0], "never", 1);
    CHECK_STR(play_wire(&p), "HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nnever");
    CHECK_INT(p.n, ==, 2); /* the bytes behind it were the next request */
    CHECK_STR(play_head(p.seen[1].head), "GET /");
    play_end(&p);
}

TEST(connect_makes_a_tunnel_of_the_connection)
{
    struct play p;

    start(&p, "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n");
    struct et_text a = et_head_part(p.seen[0].head, ET_AUTHORITY);
    CHECK_STR(play_head(p.seen[0].head), "CONNECT");
    CHECK_MEM(a.p, a.n, "db:5432", 7);
    play_send(&p, &p.seen[0], play_response(200, NULL), 0);
    CHECK_STR(play_wire(&p), "HTTP/1.1 200 OK\r\n\r\n");
    play_say(&p, "x");
    CHECK_INT(p.seen[0].body.n, ==, 1);
    p.seen[0].x->ops->reset(p.seen[0].x, ET_RESET_CANCEL);
    fake_step(&p.f);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.seen[0].gone, ==, 1);
    play_end(&p);
}

TEST(a_visitor_that_ends_its_direction_gets_a_prompt_response_and_is_given_up_after_silence)
{
    struct play p;

    start(&p, GET "\r\n" GET "\r\n");
    fake_eof(&p.f);
    fake_after(&p.f, 200 * ES_MILLI);
    CHECK_INT(p.seen[0].resets, ==, 0);
    play_send(&p, &p.seen[0], play_response(204, NULL), 1);
    REQUIRE(p.n == 2);
    play_send(&p, &p.seen[1], play_response(200, plain), 0);
    fake_after(&p.f, 200 * ES_MILLI);
    play_body(&p, &p.seen[1], "moves", 0);
    fake_after(&p.f, 200 * ES_MILLI);
    play_body(&p, &p.seen[1], "moves", 0);
    CHECK_INT(p.seen[1].resets, ==, 0);
    fake_after(&p.f, 500 * ES_MILLI);
    CHECK_INT(p.seen[1].why, ==, ET_RESET_CANCEL);
    CHECK_INT(p.seen[1].gone, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

TEST(a_visitor_that_leaves_is_told_with_the_reason)
{
    struct play p;

    start(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell");
    fake_eof(&p.f);
    CHECK_INT(p.seen[0].why, ==, ET_RESET_TRUNCATED);
    CHECK_INT(p.seen[0].resets, ==, 1);
    CHECK_INT(p.seen[0].gone, ==, 1);
    play_end(&p);

    start(&p, GET "\r\n");
    fake_lost(&p.f, ES_ERR_CLOSED);
    CHECK_INT(p.seen[0].why, ==, ET_RESET_CANCEL);
    CHECK_INT(p.seen[0].gone, ==, 1);
    CHECK_INT(p.err, ==, ES_ERR_CLOSED);
    play_end(&p);
}

TEST(time_outs_of_heads_bodies_and_idle_connections)
{
    struct et_http_limits slow = {.min_body_rate = 100};
    struct play p;

    play_start(&p, ET_HTTP_VISITOR, NULL);
    fake_after(&p.f, 11 * ES_SECOND); /* said nothing: told nothing */
    CHECK_STR(play_wire(&p), "");
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);

    start(&p, "GET / HTTP/1.1\r\n");
    for (int i = 0; i < 9; i++) { /* a byte a second does not help */
        fake_after(&p.f, ES_SECOND);
        play_say(&p, "X");
    }
    CHECK_INT(p.closed, ==, 0);
    fake_after(&p.f, 2 * ES_SECOND);
    CHECK(strncmp(play_wire(&p), "HTTP/1.1 408 ", 13) == 0);
    CHECK_INT(p.refused, ==, 408);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);

    start(&p, GET "\r\n");
    play_send(&p, &p.seen[0], play_response(204, NULL), 1);
    play_wire(&p);
    fake_after(&p.f, 59 * ES_SECOND);
    CHECK_INT(p.closed, ==, 0);
    play_say(&p, "G");
    fake_after(&p.f, 9 * ES_SECOND);
    CHECK_INT(p.closed, ==, 0);
    fake_after(&p.f, 2 * ES_SECOND);
    CHECK(strncmp(play_wire(&p), "HTTP/1.1 408 ", 13) == 0);
    play_end(&p);

    start(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n");
    fake_after(&p.f, 29 * ES_SECOND);
    play_say(&p, "x");
    fake_after(&p.f, 29 * ES_SECOND);
    CHECK_INT(p.seen[0].resets, ==, 0);
    fake_after(&p.f, 20 * ES_SECOND);
    CHECK_INT(p.seen[0].why, ==, ET_RESET_TIMEOUT);
    CHECK(strncmp(play_wire(&p), "HTTP/1.1 408 ", 13) == 0);
    play_end(&p);

    play_start(&p, ET_HTTP_VISITOR, &slow);
    play_say(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n");
    for (int i = 0; i < 12; i++) {
        play_say(&p, "50 bytes a second, which is half of what they said");
        fake_after(&p.f, ES_SECOND);
    }
    CHECK_INT(p.seen[0].why, ==, ET_RESET_TIMEOUT);
    play_end(&p);
}

TEST(a_visitor_that_does_not_read_is_given_up)
{
    char *big = calloc(1, ET_QUEUE_HIGH + 1);
    struct play p;

    start(&p, GET "\r\n");
    p.f.room = 0;
    play_send(&p, &p.seen[0], play_response(200, NULL), 0);
    p.seen[0].x->ops->body(p.seen[0].x, big, ET_QUEUE_HIGH + 1, 0);
    fake_after(&p.f, 25 * ES_SECOND);
    CHECK_INT(p.seen[0].resets, ==, 0);
    fake_after(&p.f, 15 * ES_SECOND);
    CHECK_INT(p.seen[0].why, ==, ET_RESET_TIMEOUT);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);

    start(&p, GET "\r\n"); /* but a slow backend is not the codec's business */
    fake_after(&p.f, 3600 * ES_SECOND);
    CHECK_INT(p.seen[0].resets, ==, 0);
    play_end(&p);
    free(big);
}

TEST(drain_and_the_most_requests_of_a_connection)
{
    struct et_http_limits two = {.max_requests = 2};
    struct play p;

    start(&p, GET "\r\n");
    p.http->ops->drain(p.http);
    play_send(&p, &p.seen[0], play_response(204, NULL), 1);
    CHECK_STR(play_wire(&p), "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);

    play_start(&p, ET_HTTP_VISITOR, NULL);
    p.http->ops->drain(p.http);
    fake_step(&p.f);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);

    play_start(&p, ET_HTTP_VISITOR, &two);
    play_say(&p, GET "\r\n" GET "\r\n" GET "\r\n");
    play_send(&p, &p.seen[0], play_response(204, NULL), 1);
    play_send(&p, &p.seen[1], play_response(204, NULL), 1);
    CHECK_STR(play_wire(&p),
              "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
    CHECK_INT(p.n, ==, 2);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

TEST(a_user_without_room_refuses_with_503)
{
    struct play p;

    play_start(&p, ET_HTTP_VISITOR, NULL);
    p.refuse = 1;
    play_say(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" GET "\r\n");
    CHECK(strncmp(play_wire(&p), "HTTP/1.1 503 ", 13) == 0);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

TEST(close_resets_what_there_is)
{
    struct play p;

    start(&p, GET "\r\n");
    CHECK_INT(p.http->ops->count(p.http), ==, 1);
    p.http->ops->close(p.http);
    fake_step(&p.f);
    CHECK_INT(p.seen[0].resets, ==, 1);
    CHECK_INT(p.seen[0].gone, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.err, ==, ES_OK);
    play_end(&p);
}

/* Each allocation fails in turn: an answer or a closed connection, nothing lost. */
TEST(out_of_memory_anywhere)
{
    struct es_mem_stats before, after;

    for (uint64_t nth = 1; nth < 60; nth++) {
        struct play p;

        es_mem_stats(&before);
        play_start(&p, ET_HTTP_VISITOR, NULL);
        es_mem_fail_nth(nth);
        play_say(&p, "POST / HTTP/1.1\r\nHost: a\r\nX-A: b\r\nTransfer-");
        play_say(&p, "Encoding: chunked\r\n\r\n5\r");
        play_say(&p, "\nhello\r\n0\r\nX: y\r\n\r\n" GET "\r\n");
        if (p.n > 0 && p.seen[0].x != NULL) {
            struct et_head *h = et_head_new(ET_HEAD_RESPONSE);
            if (h != NULL) {
                (void)play_send(&p, &p.seen[0], h, 0);
            }
            if (p.seen[0].x != NULL) {
                (void)play_body(&p, &p.seen[0], "hello", 1);
            }
        }
        es_mem_fail_nth(0);
        play_end(&p);
        es_mem_stats(&after);
        CHECK_INT(after.in_use, ==, before.in_use);
    }
}
