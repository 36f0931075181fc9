// needs: tunnel/csrc/http2 tunnel/csrc/head csrc/base/buf.c csrc/base/err.c
// needs: csrc/base/glitch.c csrc/base/mem.c csrc/base/varint.c
// pkgs: libnghttp2
/* Backends of HTTP/2 that are wrong, slow or hostile; and both sides when memory runs out or users do
 * anything at any time. */
#include "h2_raw.h"

enum { CANCEL = 8 };

static void answer(uint32_t id, const char *status, int flags)
{
    f(":status", status);
    raw_headers(id, END_HEADERS | flags);
}

TEST(what_a_backend_may_not_say_resets_the_exchange)
{
    static char big[70000];

    memset(big, 'a', sizeof(big));
    for (int i = 0; i < 12; i++) {
        struct talk *t;
        int before = test_failures, why = ET_RESET_PROTOCOL;

        raw_hello(ET_HTTP_BACKEND, NULL);
        t = ask("GET", "/", 1);
        raw_pump();
        switch (i) {
        case 0:
            answer(1, "101", 0);
            break;
        case 1:
            answer(1, "20x", 0);
            break;
        case 2:
            f("x", "y"); /* no status */
            raw_headers(1, END_HEADERS);
            break;
        case 3:
            f(":status", "200");
            f("connection", "close");
            raw_headers(1, END_HEADERS);
            break;
        case 4:
            f(":status", "200");
            f("content-length", "3");
            raw_headers(1, END_HEADERS);
            raw_frame(DATA, END_STREAM, 1, "ab", 2);
            break;
        case 5:
            f(":status", "200");
            for (int k = 0; k < 5; k++) {
                field_n("x", 1, big, 15000);
            }
            raw_headers(1, END_HEADERS);
            why = ET_RESET_ENHANCE_CALM;
            break;
        case 6:
            for (int k = 0; k < 40; k++) {
                answer(1, "103", 0);
            }
            why = ET_RESET_ENHANCE_CALM;
            break;
        case 7:
            answer(1, "103", END_STREAM);
            break;
        case 8:
            answer(1, "200", 0);
            raw_frame(DATA, 0, 1, "ab", 2);
            f("x", "y");
            raw_headers(1, END_HEADERS); /* trailers that are not the end */
            break;
        case 9:
            raw_frame(DATA, 0, 1, "ab", 2); /* before the head */
            why = 0;                        /* some end the connection */
            break;
        case 10:
            f(":status", "200");
            f("X-A", "b");
            raw_headers(1, END_HEADERS);
            break;
        default:
            f(":status", "200");
            f("x", "a\nb");
            raw_headers(1, END_HEADERS);
        }
        raw_pump();
        CHECK(t->gone && !t->ended && !t->fin);
        CHECK(t->why != 0 && (why == 0 || (int)t->why == why));
        if (test_failures != before) {
            fprintf(stderr, "    in row %d\n", i);
        }
        raw_close();
    }
}

TEST(a_push_ends_the_connection)
{
    struct talk *t;

    raw_hello(ET_HTTP_BACKEND, NULL);
    t = ask("GET", "/", 1);
    raw_pump();
    raw_put("\0\0\4\5\4\0\0\0\1\0\0\0\2", 13);
    raw_sleep(3 * ES_SECOND);
    CHECK(backend.closed && t->gone && t->why);
    CHECK_INT(raw.goaway_code, ==, 1);
    raw_close();
}

TEST(goaway_says_what_was_certainly_not_processed)
{
    struct talk *first, *second;

    raw_hello(ET_HTTP_BACKEND, NULL);
    first = ask("POST", "/1", 0);
    second = ask("POST", "/2", 0);
    raw_pump();
    raw_frame(GOAWAY, 0, 0, "\0\0\0\1\0\0\0\0", 8);
    raw_pump();
    CHECK_INT(second->why, ==, ET_RESET_REFUSED);
    CHECK(second->gone && !first->gone);
    CHECK_INT(backend.draining, ==, 1);
    CHECK_INT(backend.h->ops->room(backend.h), ==, 0);
    answer(1, "200", 0);
    raw_frame(DATA, END_STREAM, 1, "ab", 2);
    say(first, "", 1);
    raw_pump();
    CHECK(first->gone && first->ended && !first->why);
    raw_sleep(3 * ES_SECOND);
    CHECK(backend.closed && !backend.err);
    raw_close();
}

TEST(a_response_before_the_end_of_its_request_is_delivered_whole)
{
    struct talk *t;

    raw_hello(ET_HTTP_BACKEND, NULL);
    t = ask("POST", "/", 0);
    say_much(t, 1 << 20, 0);
    raw_pump();
    CHECK_INT(raw.data, ==, 65535);
    answer(1, "403", 0);
    raw_frame(DATA, END_STREAM, 1, "no", 2);
    raw_frame_32(RST, 1, 0); /* NO_ERROR */
    raw_pump();
    CHECK_INT(et_head_status(t->head), ==, 403);
    CHECK(t->ended && t->got == 2 && t->gone);
    CHECK_INT(t->why, ==, ET_RESET_NO_ERROR);
    raw_close();
}

TEST(extended_connect_needs_the_backends_word)
{
    for (int known = 0; known < 2; known++) {
        struct et_head *h;
        struct talk *t;

        raw_open(ET_HTTP_BACKEND, NULL);
        if (known) {
            raw_frame(SETTINGS, 0, 0, NULL, 0);
            raw_pump();
        }
        h = request("CONNECT", "/ws");
        et_head_set_part(h, ET_PROTOCOL, S("websocket"));
        t = ask_head(h, 0);
        CHECK_INT(say(t, "early", 0), ==, known ? ES_ERR_CLOSED : ES_OK);
        raw_pump();
        if (!known) {
            CHECK(!t->gone);
            raw_frame(SETTINGS, 0, 0, NULL, 0);
            raw_pump();
        }
        CHECK_INT(t->why, ==, ET_RESET_REFUSED);
        CHECK_STR(t->text, "the backend takes no extended CONNECT");
        CHECK_INT(raw.count[HEADERS], ==, 0);
        t = ask("GET", "/", 1);
        raw_pump();
        CHECK_INT(raw.count[HEADERS], ==, 1);
        answer(1, "200", END_STREAM);
        raw_pump();
        CHECK(t->gone && !t->why);
        raw_close();
    }
}

TEST(a_backend_that_is_silent_is_asked_by_ping_and_given_up)
{
    struct et_http_limits pings = {.ping_interval = 30 * ES_SECOND, .ping_timeout = 10 * ES_SECOND};
    struct talk *t;

    raw_hello(ET_HTTP_BACKEND, &pings);
    t = ask("GET", "/", 1);
    raw_sleep(29 * ES_SECOND);
    CHECK_INT(raw.count[PING], ==, 0);
    raw_sleep(2 * ES_SECOND);
    CHECK_INT(raw.count[PING], ==, 1);
    raw_frame(PING, ACK, 0, "\0\0\0\0\0\0\0\0", 8);
    raw_sleep(20 * ES_SECOND);
    CHECK(!backend.closed);
    raw_sleep(30 * ES_SECOND);
    CHECK_INT(raw.count[PING], ==, 2);
    CHECK_INT(t->why, ==, ET_RESET_TRUNCATED);
    CHECK(t->gone && backend.closed);
    CHECK_INT(backend.err, ==, ES_ERR_TIMEOUT);
    raw_close();
}

TEST(an_idle_backend_is_kept_unless_a_time_is_given)
{
    struct et_http_limits minute = {.idle_timeout = 60 * ES_SECOND};

    raw_hello(ET_HTTP_BACKEND, NULL);
    raw_sleep(3600 * ES_SECOND);
    CHECK(!backend.closed);
    raw_close();
    raw_hello(ET_HTTP_BACKEND, &minute);
    raw_sleep(65 * ES_SECOND);
    CHECK(backend.closed && !backend.err);
    raw_close();
}

TEST(settings_that_never_come_end_the_connection)
{
    struct talk *t;

    raw_open(ET_HTTP_BACKEND, NULL);
    t = ask("GET", "/", 1);
    raw_sleep(13 * ES_SECOND);
    CHECK(backend.closed && t->gone && t->why);
    raw_close();
}

TEST(fewer_streams_than_there_are_do_no_harm)
{
    struct talk *t[10];

    raw_open(ET_HTTP_BACKEND, NULL);
    for (int i = 0; i < 10; i++) {
        t[i] = ask("GET", "/", 1);
    }
    raw_pump();
    raw_frame(SETTINGS, 0, 0, "\0\3\0\0\0\2", 6); /* two, now that there are ten */
    raw_pump();
    CHECK_INT(backend.h->ops->room(backend.h), ==, 0);
    for (uint32_t i = 0; i < 10; i++) {
        answer(i * 2 + 1, "200", END_STREAM);
    }
    raw_pump();
    for (int i = 0; i < 10; i++) {
        CHECK(t[i]->gone && !t[i]->why);
    }
    CHECK_INT(backend.h->ops->room(backend.h), ==, 2);
    raw_close();
}

TEST(a_backend_that_does_not_take_an_upload_is_given_up)
{
    struct talk *t;

    raw_hello(ET_HTTP_BACKEND, NULL);
    t = ask("POST", "/", 0);
    say_much(t, 100000, 0);
    raw_sleep(29 * ES_SECOND);
    CHECK(!t->gone);
    raw_sleep(3 * ES_SECOND);
    CHECK_INT(t->why, ==, ET_RESET_TIMEOUT);
    CHECK_INT(raw.rst_code, ==, CANCEL);
    raw_close();
}

/* One visit with everything in it. Returns 1 when all of it went well. */
static int visit(void)
{
    struct et_head *h = et_head_new(ET_HEAD_REQUEST), *tr = et_head_new(ET_HEAD_TRAILERS);
    struct talk *t = talk_new(&backend), *v;
    int ok = h != NULL && tr != NULL;

    ok = ok && et_head_set_part(h, ET_METHOD, S("POST")) == 0 &&
         et_head_set_part(h, ET_SCHEME, S("https")) == 0 && et_head_set_part(h, ET_AUTHORITY, S("a")) == 0 &&
         et_head_set_part(h, ET_PATH, S("/")) == 0 && et_head_add(h, S("cookie"), S("a=b")) == 0 &&
         et_head_add(tr, S("x-sum"), S("1")) == 0;
    ok = ok && backend.h != NULL && backend.h->ops->begin(backend.h, &talk_events, t, &t->x) == 0;
    if (ok && t->x->ops->head(t->x, h, 0) != 0) {
        t->x->ops->release(t->x);
        t->x = NULL;
        ok = 0;
    }
    ok = ok && t->x->ops->body(t->x, "abc", 3, 0) == 0 && t->x->ops->trailers(t->x, tr) == 0;
    et_head_del(h);
    et_head_del(tr);
    pump();
    v = visitor.n > 0 ? asked() : NULL;
    if (v != NULL && v->x != NULL && v->ended) {
        h = et_head_new(ET_HEAD_RESPONSE);
        ok = ok && h != NULL && et_head_set_status(h, 200) == 0 && v->x->ops->head(v->x, h, 0) == 0 &&
             v->x->ops->body(v->x, "0123456789", 10, 1) == 0;
        et_head_del(h);
    }
    pump();
    return ok && t->gone && !t->why && t->ended && t->got == 10 && v != NULL && v->got == 3;
}

TEST(whatever_allocation_fails_nothing_leaks_and_the_next_connection_works)
{
    for (unsigned nth = 1; nth < 2000; nth++) {
        struct es_mem_stats before, after;
        int a, b, ok = 0;

        es_mem_stats(&before);
        memset(&visitor, 0, sizeof(visitor));
        memset(&backend, 0, sizeof(backend));
        sock_pair(&visitor.sock, &backend.sock);
        es_mem_fail_nth(nth);
        a = et_http2_new(&visitor.sock, ET_HTTP_VISITOR, "https", NULL, &http_events, &visitor, &visitor.h);
        b = et_http2_new(&backend.sock, ET_HTTP_BACKEND, "https", NULL, &http_events, &backend, &backend.h);
        if (a == 0 && b == 0) {
            ok = visit();
        }
        es_mem_fail_nth(0);
        for (int i = 0; i < 2; i++) {
            struct end *e = i ? &backend : &visitor;

            if (e->h != NULL && !e->closed) {
                e->h->ops->close(e->h);
            }
        }
        sleep_for(20 * ES_SECOND);
        CHECK(a != 0 || visitor.closed);
        CHECK(b != 0 || backend.closed);
        end_free(&visitor);
        end_free(&backend);
        es_mem_stats(&after);
        CHECK_INT(after.in_use, ==, before.in_use);
        if (after.in_use != before.in_use) {
            fprintf(stderr, "    with allocation %u\n", nth);
            return;
        }
        if (ok && nth > 300) {
            return; /* it was not reached any more */
        }
    }
    CHECK(!"allocations have an end");
}

/* Anything at any time, by seed: both sides stay consistent (the checks of h2_env.h) and nothing leaks. */
static void anything(uint64_t seed)
{
    struct et_http_limits few = {.max_streams = 20};

    env_open(&few, NULL);
    for (int i = 0; i < 400 && backend.h != NULL && visitor.h != NULL; i++) {
        uint64_t r = test_rand(&seed);
        struct end *e = r & 1 ? &visitor : &backend;
        unsigned most = e->n < MOST ? e->n : MOST;
        struct talk *t = most ? &e->talk[(r >> 16) % most] : NULL;
        int fin = (r >> 40) % 4 == 0, k = (int)((r >> 8) % 10);

        visitor.sock.cut = r & 2 ? 1 + (r >> 48) % 50 : 0;
        if (k < 3 && backend.h->ops->room(backend.h) > 0 && backend.n < MOST) {
            (void)ask(k ? "POST" : "HEAD", "/any", k ? fin : 1);
            continue;
        }
        if (t == NULL || t->x == NULL) {
            pump();
            continue;
        }
        switch (k) {
        case 3:
            if (e == &visitor) {
                (void)reply(t, fin ? 204 : 200, fin);
            }
            break;
        case 4:
            (void)say_much(t, (r >> 20) % 90000, fin);
            break;
        case 5:
            t->keep = !t->keep;
            if (t->unread > 0) {
                size_t n = t->unread;

                t->unread = 0;
                t->x->ops->consume(t->x, n);
            }
            break;
        case 6:
            t->x->ops->reset(t->x, (enum et_reset)(1 + (r >> 30) % 8));
            break;
        case 7:
            t->x->ops->release(t->x);
            t->x = NULL;
            break;
        case 8:
            if ((r >> 50) % 60 == 0) {
                (fin ? e->h->ops->close : e->h->ops->drain)(e->h);
            }
            break;
        default:
            sleep_for((r >> 33) % (3 * ES_SECOND));
        }
    }
    env_close();
}

TEST(anything_at_any_time)
{
    int n = getenv("RELAXED") ? 10 : 150;

    for (int i = 1; i <= n; i++) {
        int before = test_failures;

        anything((uint64_t)i * 7919);
        if (test_failures != before) {
            fprintf(stderr, "    with seed %d\n", i);
        }
    }
}
