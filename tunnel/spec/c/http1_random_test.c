// needs: tunnel/csrc/http1 tunnel/csrc/head tunnel/spec/c/fake_sock.c llhttp csrc/base/buf.c csrc/base/mem.c
// needs: csrc/base/clock.c csrc/base/varint.c
/* Anything at any time: a peer and a user that do what comes to their minds, in both roles, the user also
 * from inside what it is told. Nothing is told after its end, gone() comes once for each, nothing is lost.
 * SEED and ROUNDS choose others and more. */
#include "../../../spec/c/test.h"
#include "http1_play.h"

static uint64_t dice;

static size_t upto(size_t n)
{
    return (size_t)(test_rand(&dice) % n);
}

struct wild;

struct one { /* an exchange, as its user knows it */
    struct wild *w;
    struct et_exchange *x; /* NULL: released */
    int over, reset, gone, deaf, heads;
};

struct wild {
    struct fake f;
    struct et_http *http;
    enum et_http_role role;
    struct one *one[256];
    size_t n;
    int depth, closed;
};

#define MUST(cond) ((cond) ? (void)0 : test_fail(__FILE__, __LINE__, "seed: %s", #cond))

static void act(struct wild *w, struct one *o);

/* Something is done about it now and then while it is told. */
static void maybe_act(struct one *o)
{
    struct wild *w = o->w;

    if (w->depth < 2 && upto(3) == 0) {
        w->depth++;
        act(w, o);
        w->depth--;
    }
}

static void on_head(void *user, struct et_head *h, int fin)
{
    struct one *o = user;

    MUST(!o->over && !o->reset && !o->gone && !o->deaf);
    MUST(h != NULL);
    o->heads++;
    o->over |= fin;
    et_head_del(h);
    maybe_act(o);
}

static void on_body(void *user, const uint8_t *p, size_t n)
{
    struct one *o = user;

    MUST(!o->over && !o->reset && !o->gone && !o->deaf && o->heads > 0 && n > 0 && p != NULL);
    maybe_act(o);
}

static void on_end(void *user, struct et_head *trailers)
{
    struct one *o = user;

    MUST(!o->over && !o->reset && !o->gone && !o->deaf && o->heads > 0);
    o->over = 1;
    et_head_del(trailers);
    maybe_act(o);
}

static void on_room(void *user)
{
    struct one *o = user;

    MUST(!o->reset && !o->gone && !o->deaf);
    maybe_act(o);
}

static void on_reset(void *user, enum et_reset why, const char *text)
{
    struct one *o = user;

    MUST(!o->reset && !o->gone && !o->deaf && text != NULL && why != 0);
    o->reset = 1;
    maybe_act(o);
}

static void on_gone(void *user)
{
    struct one *o = user;

    MUST(!o->gone && o->x != NULL);
    o->gone = 1;
    if (upto(2) == 0) {
        o->x->ops->release(o->x);
        o->x = NULL;
    }
}

static const struct et_exchange_events events = {on_head, on_body, on_end, on_room, on_reset, on_gone};

static struct one *one_new(struct wild *w)
{
    struct one *o = calloc(1, sizeof(*o));

    if (o == NULL || w->n == sizeof(w->one) / sizeof(w->one[0])) {
        abort();
    }
    o->w = w;
    return w->one[w->n++] = o;
}

static int on_opened(void *user, struct et_exchange *x)
{
    struct wild *w = user;
    struct one *o;

    if (w->n == 200 || upto(20) == 0) {
        return ES_ERR_LIMIT;
    }
    o = one_new(w);
    o->x = x;
    x->events = &events;
    x->user = o;
    return ES_OK;
}

static void on_closed(void *user, int err, const char *text)
{
    struct wild *w = user;

    (void)err, (void)text;
    w->closed++;
    w->http = NULL;
    for (size_t i = 0; i < w->n; i++) {
        MUST(w->one[i]->gone || w->one[i]->x == NULL); /* each was told before */
    }
}

static void on_ready(void *user)
{
    (void)user;
}

static const struct et_http_events http_events = {on_opened, on_ready, on_ready, on_closed, NULL};

static struct et_head *any_head(struct wild *w)
{
    static const int statuses[] = {100, 103, 200, 200, 204, 304, 404, 101, 502};
    static const char *const methods[] = {"GET", "HEAD", "POST", "CONNECT", "PUT"};
    static const char *const one[] = {"content-length", "5", NULL}, *const proto[] = {":protocol",
                                                                                      "websocket", NULL};

    if (w->role == ET_HTTP_VISITOR || upto(30) == 0) {
        return play_response(statuses[upto(9)], upto(2) ? one : NULL);
    }
    return play_request(methods[upto(5)], "/", upto(3) == 0 ? one : upto(2) ? proto : NULL);
}

/* What a user may do with an exchange. */
static void act(struct wild *w, struct one *o)
{
    static char bytes[300000];
    struct et_head *h;

    if (o->x == NULL) {
        return;
    }
    switch (upto(9)) {
    case 0:
    case 1:
    case 2:
        h = any_head(w);
        (void)o->x->ops->head(o->x, h, upto(3) == 0);
        et_head_del(h);
        break;
    case 3:
    case 4:
        (void)o->x->ops->body(o->x, bytes, upto(20) == 0 ? sizeof(bytes) : upto(8), upto(2) == 0);
        break;
    case 5:
        h = et_head_new(ET_HEAD_TRAILERS);
        (void)et_head_add(h, "x-sum", 5, "1", 1);
        (void)o->x->ops->trailers(o->x, h);
        et_head_del(h);
        break;
    case 6:
        o->x->ops->consume(o->x, upto(sizeof(bytes)));
        (void)o->x->ops->queued(o->x);
        break;
    case 7:
        if (upto(4) == 0) {
            o->x->ops->reset(o->x, ET_RESET_CANCEL);
            o->deaf = 1;
        }
        break;
    default:
        if (upto(6) == 0) {
            struct et_exchange *x = o->x;

            o->x = NULL;
            o->deaf = 1;
            x->ops->release(x);
        }
        break;
    }
}

static void peer_says(struct wild *w)
{
    static const char *const requests[] = {
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "much",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "\r\n",
        "GET / HT"};
    static const char *const responses[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 101 Sw\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "hello",
        "HTTP/1."};
    const char *text = (w->role == ET_HTTP_VISITOR ? requests : responses)[upto(12)];
    size_t n = strlen(text);

    if (strcmp(text, "much") == 0) {
        static char much[90000];
        fake_data(&w->f, much, sizeof(much));
        return;
    }
    fake_data(&w->f, text, upto(8) == 0 ? upto(n + 1) : n);
}

static void begin(struct wild *w)
{
    struct et_exchange *x;
    struct one *o;

    if (w->role != ET_HTTP_BACKEND || w->http == NULL || w->n > 200) {
        return;
    }
    o = one_new(w);
    if (w->http->ops->begin(w->http, &events, o, &x) != ES_OK) {
        w->n--;
        free(o);
        return;
    }
    o->x = x;
    act(w, o);
}

static void round_of(enum et_http_role role)
{
    struct wild w = {.role = role};
    struct et_http_limits limits = {0};
    struct es_mem_stats before, after;

    es_mem_stats(&before);
    fake_open(&w.f);
    limits.min_body_rate = upto(2) ? 100 : 0;
    if (et_http1_new(w.f.s, role, "http", &limits, &http_events, &w, &w.http) != ES_OK) {
        abort();
    }
    for (int i = 0; i < 60 && w.http != NULL; i++) {
        switch (upto(12)) {
        case 0:
        case 1:
        case 2:
            peer_says(&w);
            break;
        case 3:
            w.f.room = upto(2) ? SIZE_MAX : upto(50);
            break;
        case 4:
            fake_after(&w.f, upto(10) == 0 ? 40 * ES_SECOND : upto((size_t)ES_SECOND));
            break;
        case 5:
            upto(8) == 0 ? fake_eof(&w.f) : upto(8) == 0 ? fake_lost(&w.f, ES_ERR_CLOSED) : fake_step(&w.f);
            break;
        case 6:
            if (upto(20) == 0) {
                upto(2) ? w.http->ops->drain(w.http) : w.http->ops->close(w.http);
            }
            begin(&w);
            break;
        default:
            if (w.n > 0) {
                act(&w, w.one[w.n - 1 - upto(w.n < 3 ? w.n : 3)]);
            }
            fake_step(&w.f);
            break;
        }
    }
    fake_free(&w.f);
    CHECK_INT(w.closed, ==, 1);
    for (size_t i = 0; i < w.n; i++) {
        struct one *o = w.one[i];

        if (o->x != NULL) {
            MUST(o->gone);
            o->x->ops->release(o->x);
        }
        free(o);
    }
    es_mem_stats(&after);
    CHECK_INT(after.in_use, ==, before.in_use);
}

TEST(anything_at_any_time)
{
    size_t rounds = getenv("ROUNDS") != NULL    ? strtoul(getenv("ROUNDS"), NULL, 10)
                    : getenv("RELAXED") != NULL ? 300
                                                : 10000;
    uint64_t seed = getenv("SEED") != NULL ? strtoull(getenv("SEED"), NULL, 10) : 1;

    for (size_t i = 0; i < rounds && test_failures == 0; i++) {
        dice = (seed + i) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        round_of(i % 2 == 0 ? ET_HTTP_VISITOR : ET_HTTP_BACKEND);
        if (test_failures > 0) {
            fprintf(stderr, "SEED=%" PRIu64 " ROUNDS=%d\n", seed + (i & ~(size_t)1), 2);
        }
    }
}
