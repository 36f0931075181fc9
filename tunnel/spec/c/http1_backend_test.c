// needs: tunnel/csrc/http1 tunnel/csrc/head tunnel/spec/c/fake_sock.c llhttp csrc/base/buf.c csrc/base/mem.c
// needs: csrc/base/clock.c csrc/base/varint.c
/* HTTP/1.1 towards backends: what they are sent, which of their answers are believed, when a connection may
 * be used again. */
#include "../../../spec/c/test.h"
#include "../../csrc/http1/websocket.h"
#include "http1_play.h"

#define OK5 "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

static const char *const five[] = {"content-length", "5", NULL};

/* A connection with one request under way, whose bytes were taken away. */
static struct seen *get(struct play *p)
{
    struct seen *s;

    play_start(p, ET_HTTP_BACKEND, NULL);
    s = play_ask(p, play_request("GET", "/", NULL), 1);
    play_wire(p);
    return s;
}

TEST(requests_are_written_with_their_framing)
{
    static const char *const fields[] = {"accept",   "*/*",    "cookie", "a=1", "te",
                                         "trailers", "cookie", "b=2",    NULL};
    struct play p;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    CHECK_INT(p.http->ops->room(p.http), ==, 1);
    play_ask(&p, play_request("GET", "/a?b", fields), 1);
    CHECK_INT(p.http->ops->room(p.http), ==, 0);
    CHECK(play_ask(&p, play_request("GET", "/", NULL), 1) == NULL);
    CHECK_STR(play_wire(&p), "GET /a?b HTTP/1.1\r\nhost: example.org\r\naccept: */*\r\ncookie: a=1; b=2\r\n"
                             "te: trailers\r\nconnection: te\r\n\r\n");
    play_say(&p, OK5);
    CHECK_INT(p.ready, ==, 1);

    play_ask(&p, play_request("POST", "/", NULL), 1);
    CHECK_STR(play_wire(&p), "POST / HTTP/1.1\r\nhost: example.org\r\ncontent-length: 0\r\n\r\n");
    play_say(&p, OK5);

    struct seen *s = play_ask(&p, play_request("POST", "/", five), 0);
    play_body(&p, s, "hello", 1);
    CHECK_STR(play_wire(&p), "POST / HTTP/1.1\r\nhost: example.org\r\ncontent-length: 5\r\n\r\nhello");
    play_say(&p, OK5);

    s = play_ask(&p, play_request("PUT", "/", NULL), 0);
    play_body(&p, s, "hello", 0);
    play_body(&p, s, " you", 1);
    CHECK_STR(play_wire(&p), "PUT / HTTP/1.1\r\nhost: example.org\r\ntransfer-encoding: chunked\r\n\r\n"
                             "5\r\nhello\r\n4\r\n you\r\n0\r\n\r\n");
    play_say(&p, OK5);
    CHECK_INT(p.ready, ==, 4);
    for (size_t i = 0; i < p.n; i++) {
        CHECK_INT(p.seen[i].gone, ==, 1);
        CHECK_MEM(p.seen[i].body.p, p.seen[i].body.n, "hello", 5);
    }
    play_end(&p);
}

TEST(a_head_that_cannot_be_a_request_is_refused_and_nothing_is_sent)
{
    struct et_head *h;
    struct play p;
    struct et_exchange *x;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    struct seen *s = play_seen(&p, NULL);
    REQUIRE(p.http->ops->begin(p.http, &seen_events, s, &x) == ES_OK);
    s->x = x;
    h = et_head_new(ET_HEAD_REQUEST); /* no method */
    CHECK_INT(x->ops->head(x, h, 1), ==, ES_ERR_INVAL);
    et_head_del(h);
    h = play_response(200, NULL);
    CHECK_INT(x->ops->head(x, h, 1), ==, ES_ERR_INVAL);
    et_head_del(h);
    h = play_request("POST", "/", five);
    CHECK_INT(x->ops->head(x, h, 1), ==, ES_ERR_INVAL); /* a body is promised and none follows */
    et_head_del(h);
    x->ops->release(x);
    s->x = NULL;
    fake_step(&p.f);
    CHECK_STR(play_wire(&p), "");
    CHECK_INT(p.closed, ==, 0);
    CHECK_INT(p.http->ops->room(p.http), ==, 1); /* the connection knows nothing of it */
    play_end(&p);
}

TEST(bodies_of_responses_end_as_they_say)
{
    struct play p;
    struct seen *s = get(&p);

    play_say(&p, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: "
                 "x-sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n");
    CHECK_MEM(s->body.p, s->body.n, "hello", 5);
    CHECK_STR(play_head(s->trailers), " | x-sum: 7");
    CHECK_INT(s->gone, ==, 1);
    CHECK_INT(p.closed, ==, 0);
    play_end(&p);

    s = get(&p);
    play_say(&p, "HTTP/1.1 200 OK\r\n\r\nuntil");
    play_say(&p, " the end");
    CHECK_INT(s->ends, ==, 0);
    CHECK_INT(p.drained, ==, 1);
    fake_eof(&p.f);
    CHECK_MEM(s->body.p, s->body.n, "until the end", 13);
    CHECK_INT(s->ends, ==, 1);
    CHECK_INT(s->resets, ==, 0);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);

    s = get(&p); /* but not when the connection breaks */
    play_say(&p, "HTTP/1.1 200 OK\r\n\r\nuntil");
    fake_lost(&p.f, ES_ERR_CLOSED);
    CHECK_INT(s->ends, ==, 0);
    CHECK_INT(s->why, ==, ET_RESET_TRUNCATED);
    play_end(&p);

    s = get(&p);
    play_say(&p, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    CHECK_INT(s->ends, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

TEST(responses_without_a_body)
{
    static const char *const heads[] = {"HTTP/1.1 204 No Content\r\n\r\n",
                                        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
                                        "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"};
    struct play p;
    struct seen *s;

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        s = get(&p);
        play_say(&p, heads[i]);
        CHECK_INT(s->fin, ==, 1);
        CHECK_INT(s->gone, ==, 1);
        CHECK_INT(p.closed, ==, 0);
        play_end(&p);
    }
    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("HEAD", "/", NULL), 1);
    play_say(&p, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
    CHECK_INT(s->fin, ==, 1);
    CHECK_STR(play_head(s->head), "200 | content-length: 5000");
    CHECK_INT(p.ready, ==, 1);
    s = play_ask(&p, play_request("GET", "/", NULL), 1);
    play_say(&p, OK5);
    CHECK_INT(s->body.n, ==, 5);
    play_end(&p);
}

TEST(informational_responses_come_before_and_are_bounded)
{
    struct play p;
    struct seen *s;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("PUT", "/", five), 0);
    play_say(&p, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    CHECK_INT(s->infos, ==, 2);
    CHECK_STR(play_head(s->informational), "103 | link: </a>");
    CHECK_INT(s->heads, ==, 0);
    play_body(&p, s, "hello", 1);
    play_say(&p, OK5);
    CHECK_INT(s->gone, ==, 1);
    play_end(&p);

    s = get(&p);
    for (int i = 0; i < 33; i++) {
        play_say(&p, "HTTP/1.1 102 Processing\r\n\r\n");
    }
    CHECK_INT(s->why, ==, ET_RESET_PROTOCOL);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

TEST(responses_that_could_be_read_in_two_ways_are_not_believed)
{
    static const char *const bad[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\nX: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\x01\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 200OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "<html>\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            struct play p;
            struct seen *s = get(&p);

            for (size_t k = 0; bytewise && k < strlen(bad[i]); k++) {
                fake_data(&p.f, bad[i] + k, 1);
            }
            if (!bytewise) {
                play_say(&p, bad[i]);
            }
            if (s->resets != 1 || s->why != ET_RESET_PROTOCOL || s->ends > 0 || s->fin || !p.closed) {
                test_fail(__FILE__, __LINE__, "believed (%d): %s", bytewise, bad[i]);
            }
            play_end(&p);
        }
    }
}

TEST(odd_responses_that_are_fine)
{
    static const char *const fine[] = {
        "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 Tout va bien \xc3\xa9\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 799 Odd\r\nCONTENT-LENGTH: 0\r\nX:\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n0;ext=1\r\n\r\n"};

    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        struct play p;
        struct seen *s = get(&p);

        play_say(&p, fine[i]);
        if (s->fin + s->ends != 1 || s->resets != 0) {
            test_fail(__FILE__, __LINE__, "not believed: %s", fine[i]);
        }
        play_end(&p);
    }
}

TEST(bytes_that_nobody_asked_for_end_a_connection)
{
    struct play p;
    struct seen *s = get(&p);

    play_say(&p, OK5 "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    CHECK_INT(s->ends, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.ready, ==, 0);
    play_end(&p);

    get(&p);
    play_say(&p, OK5);
    CHECK_INT(p.ready, ==, 1);
    play_say(&p, "HTTP/1.1 408 Request Timeout\r\n\r\n");
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

TEST(a_stale_connection_is_told_from_a_lost_response)
{
    struct play p;
    struct seen *s = get(&p);

    fake_eof(&p.f); /* the first request on a connection: it may have been read */
    CHECK_INT(s->why, ==, ET_RESET_TRUNCATED);
    play_end(&p);

    get(&p);
    play_say(&p, OK5);
    s = play_ask(&p, play_request("GET", "/2", NULL), 1);
    fake_eof(&p.f);
    CHECK_INT(s->why, ==, ET_RESET_REFUSED);
    CHECK_INT(s->gone, ==, 1);
    play_end(&p);

    get(&p);
    play_say(&p, OK5);
    s = play_ask(&p, play_request("GET", "/2", NULL), 1);
    fake_lost(&p.f, ES_ERR_CLOSED);
    CHECK_INT(s->why, ==, ET_RESET_REFUSED);
    play_end(&p);

    get(&p);
    play_say(&p, OK5);
    s = play_ask(&p, play_request("POST", "/2", NULL), 1); /* twice would be once too often */
    fake_eof(&p.f);
    CHECK_INT(s->why, ==, ET_RESET_TRUNCATED);
    play_end(&p);

    get(&p);
    play_say(&p, OK5);
    s = play_ask(&p, play_request("GET", "/2", NULL), 1);
    play_say(&p, "H");
    fake_eof(&p.f);
    CHECK_INT(s->why, ==, ET_RESET_TRUNCATED);
    play_end(&p);

    get(&p); /* idle */
    play_say(&p, OK5);
    fake_eof(&p.f);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.err, ==, ES_OK);
    play_end(&p);
}

TEST(an_early_response_is_told_while_the_request_goes_on)
{
    struct play p;
    struct seen *s;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("POST", "/", NULL), 0);
    play_body(&p, s, "part", 0);
    play_say(&p, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
    CHECK_INT(s->ends, ==, 1);
    CHECK_INT(s->gone, ==, 0);
    CHECK_INT(play_body(&p, s, "rest", 1), ==, ES_OK);
    CHECK_INT(s->gone, ==, 1);
    CHECK_INT(p.closed, ==, 0);
    play_end(&p);

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("POST", "/", NULL), 0);
    play_say(&p, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    s->x->ops->reset(s->x, ET_RESET_NO_ERROR);
    fake_step(&p.f);
    CHECK_INT(s->gone, ==, 1);
    CHECK_INT(s->resets, ==, 0);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

/* Answers a WebSocket's handshake as the key in `wire` wants it, or with `accept`. */
static void switch_protocols(struct play *p, const char *wire, const char *accept, const char *more)
{
    char answer[512], made[ET_WEBSOCKET_ACCEPT + 1] = "";
    const char *key = strstr(wire, "sec-websocket-key: ");

    if (key != NULL) {
        et_websocket_accept(key + 19, made);
    }
    snprintf(
        answer, sizeof(answer),
        "HTTP/1.1 101 Switching\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n"
        "Sec-WebSocket-Protocol: chat\r\n\r\n%s",
        accept != NULL ? accept : made, more);
    play_say(p, answer);
}

static const char *const websocket[] = {":protocol", "websocket", "sec-websocket-version", "13", NULL};

TEST(a_websocket_is_asked_for_by_upgrade_and_its_answer_is_checked)
{
    struct play p;
    struct seen *s;
    const char *wire;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("CONNECT", "/chat", websocket), 0);
    CHECK_INT(play_body(&p, s, "early", 0), ==, ES_OK); /* waits */
    wire = play_wire(&p);
    CHECK(strstr(wire, "GET /chat HTTP/1.1\r\nhost: example.org\r\nsec-websocket-version: 13\r\n"
                       "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ") == wire);
    CHECK(strstr(wire, "early") == NULL);
    switch_protocols(&p, wire, NULL, "hi");
    CHECK_STR(play_head(s->head), "200 | sec-websocket-protocol: chat");
    CHECK_INT(s->fin, ==, 0);
    CHECK_MEM(s->body.p, s->body.n, "hi", 2);
    CHECK_STR(play_wire(&p), "early");
    fake_after(&p.f, 3600 * ES_SECOND);
    CHECK_INT(p.closed, ==, 0);
    play_body(&p, s, "bye", 1);
    CHECK_INT(p.f.finished, ==, 1);
    play_say(&p, "you");
    fake_eof(&p.f);
    CHECK_INT(s->ends, ==, 1);
    CHECK_INT(s->gone, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("CONNECT", "/chat", websocket), 0);
    switch_protocols(&p, play_wire(&p), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "");
    CHECK_INT(s->why, ==, ET_RESET_PROTOCOL);
    play_end(&p);
}

/* Who waits for room while the answer is on its way is told of it when the tunnel is there. */
TEST(room_is_told_of_what_waited_for_a_tunnel)
{
    static char piece[100000];
    struct play p;
    struct seen *s;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("CONNECT", "/chat", websocket), 0);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(s->x->ops->body(s->x, piece, sizeof(piece), 0), ==, ES_OK);
    }
    CHECK_INT(s->x->ops->queued(s->x), >, ET_QUEUE_HIGH);
    CHECK_INT(s->rooms, ==, 0);
    switch_protocols(&p, play_wire(&p), NULL, "");
    fake_step(&p.f);
    CHECK_INT(s->x->ops->queued(s->x), ==, 0);
    CHECK_INT(s->rooms, ==, 1);
    play_end(&p);
}

TEST(a_tunnel_that_would_be_http_again_is_not_asked_for)
{
    static const char *const names[] = {"h2c", "H2C", "HTTP/2.0", "TLS/1.0", "h2"};
    struct play p;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *const fields[] = {":protocol", names[i], NULL};
        struct et_head *h = play_request("CONNECT", "/", fields);
        struct seen seen = {0};
        struct et_exchange *x;

        play_start(&p, ET_HTTP_BACKEND, NULL);
        REQUIRE(p.http->ops->begin(p.http, &seen_events, &seen, &x) == ES_OK);
        seen.x = x;
        CHECK_INT(x->ops->head(x, h, 0), ==, ES_ERR_INVAL);
        x->ops->release(x);
        fake_step(&p.f);
        CHECK_STR(play_wire(&p), "");
        et_head_del(h);
        play_end(&p);
    }
}

/* How long a response may take is not the codec's affair, after "100 Continue" as little as before. */
TEST(a_response_may_be_late_after_an_informational_one)
{
    const struct et_http_limits limits = {.idle_timeout = ES_SECOND, .body_timeout = ES_SECOND};
    struct play p;
    struct seen *s;

    play_start(&p, ET_HTTP_BACKEND, &limits);
    s = play_ask(&p, play_request("GET", "/", NULL), 1);
    play_say(&p, "HTTP/1.1 103 Early Hints\r\n\r\n");
    fake_after(&p.f, 100 * ES_SECOND);
    CHECK_INT(s->resets, ==, 0);
    play_say(&p, OK5);
    CHECK_INT(s->heads, ==, 1);
    CHECK_INT(s->gone, ==, 1);
    play_end(&p);
}

TEST(a_tunnel_that_is_not_granted)
{
    struct play p;
    struct seen *s;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("CONNECT", "/chat", websocket), 0);
    play_body(&p, s, "early", 0);
    play_wire(&p);
    play_say(&p, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    CHECK_STR(play_head(s->head), "403 | content-length: 2");
    CHECK_STR(play_wire(&p), "");
    CHECK_INT(s->gone, ==, 1);
    CHECK_INT(p.ready, ==, 1); /* the connection may be used again */
    play_end(&p);

    play_start(&p, ET_HTTP_BACKEND, NULL); /* 200 is no 101: it must not look like an accepted CONNECT */
    s = play_ask(&p, play_request("CONNECT", "/chat", websocket), 0);
    play_say(&p, OK5);
    CHECK_INT(s->why, ==, ET_RESET_PROTOCOL);
    CHECK_INT(s->heads, ==, 0);
    play_end(&p);
}

TEST(connect_and_other_protocols)
{
    static const char *const tcp[] = {":protocol", "tcp", NULL};
    struct et_head *h = et_head_new(ET_HEAD_REQUEST);
    struct play p;
    struct seen *s;

    (void)et_head_set_part(h, ET_METHOD, "CONNECT", 7);
    (void)et_head_set_part(h, ET_AUTHORITY, "db:5432", 7);
    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, h, 0);
    CHECK_STR(play_wire(&p), "CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n");
    play_say(&p, "HTTP/1.1 200 Fine\r\nContent-Length: 3\r\n\r\nraw"); /* the length means nothing here */
    CHECK_MEM(s->body.p, s->body.n, "raw", 3);
    CHECK_INT(s->ends, ==, 0);
    play_end(&p);

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("POST", "/attach", tcp), 0);
    CHECK_STR(play_wire(&p),
              "POST /attach HTTP/1.1\r\nhost: example.org\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n");
    play_say(&p, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nraw");
    CHECK_MEM(s->body.p, s->body.n, "raw", 3);
    CHECK_STR(play_head(s->head), "200");
    play_end(&p);
}

/* The authority is written twice. */
TEST(a_connect_to_a_very_long_name)
{
    char name[5000];
    struct et_head *h = et_head_new(ET_HEAD_REQUEST);
    struct play p;

    memset(name, 'a', sizeof(name));
    memcpy(name + sizeof(name) - 4, ":443", 4);
    (void)et_head_set_part(h, ET_METHOD, "CONNECT", 7);
    REQUIRE(et_head_set_part(h, ET_AUTHORITY, name, sizeof(name)) == ES_OK);
    play_start(&p, ET_HTTP_BACKEND, NULL);
    CHECK(play_ask(&p, h, 0) != NULL);
    CHECK_INT(p.f.wire.n, ==, 2 * sizeof(name) + 29);
    play_end(&p);
}

TEST(a_response_that_stalls_is_given_up_and_one_that_is_not_begun_is_not)
{
    struct play p;
    struct seen *s = get(&p);

    fake_after(&p.f, 3600 * ES_SECOND); /* how long a response may take is the user's business */
    CHECK_INT(s->resets, ==, 0);
    play_say(&p, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
    fake_after(&p.f, 29 * ES_SECOND);
    CHECK_INT(s->resets, ==, 0);
    fake_after(&p.f, 20 * ES_SECOND);
    CHECK_INT(s->why, ==, ET_RESET_TIMEOUT);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);

    get(&p);
    play_say(&p, OK5);
    fake_after(&p.f, 89 * ES_SECOND);
    CHECK_INT(p.closed, ==, 0);
    fake_after(&p.f, 2 * ES_SECOND);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

TEST(a_reset_of_the_user_ends_the_connection)
{
    struct play p;
    struct seen *s = get(&p);

    s->x->ops->reset(s->x, ET_RESET_CANCEL);
    CHECK_INT(s->gone, ==, 0); /* not inside the call */
    CHECK_INT(s->x->ops->body(s->x, "x", 1, 0), ==, ES_ERR_CLOSED);
    fake_step(&p.f);
    CHECK_INT(s->gone, ==, 1);
    CHECK_INT(s->resets, ==, 0);
    CHECK_INT(p.closed, ==, 1);
    CHECK_INT(p.f.graceful, ==, 0); /* so that the backend stops */
    play_end(&p);
}

TEST(drain_ends_with_the_exchange)
{
    struct play p;
    struct seen *s = get(&p);

    p.http->ops->drain(p.http);
    CHECK_INT(p.http->ops->room(p.http), ==, 0);
    play_say(&p, OK5);
    CHECK_INT(s->gone, ==, 1);
    CHECK_INT(p.closed, ==, 1);
    play_end(&p);
}

TEST(out_of_memory_anywhere)
{
    struct es_mem_stats before, after;

    for (uint64_t nth = 1; nth < 40; nth++) {
        struct et_head *h = play_request("CONNECT", "/chat", websocket);
        struct et_exchange *x = NULL;
        struct play p;
        struct seen *s;

        play_start(&p, ET_HTTP_BACKEND, NULL);
        es_mem_stats(&before);
        s = play_seen(&p, NULL);
        es_mem_fail_nth(nth);
        if (p.http->ops->begin(p.http, &seen_events, s, &x) == ES_OK) {
            s->x = x;
            if (x->ops->head(x, h, 0) == ES_OK) {
                const char *wire;
                (void)play_body(&p, s, "early", 0);
                wire = play_wire(&p);
                switch_protocols(&p, wire, NULL, "hi");
            }
        }
        es_mem_fail_nth(0);
        play_end(&p);
        et_head_del(h);
        es_mem_stats(&after);
        CHECK_INT(after.in_use, <, before.in_use);
    }
}
