/* A visitor's side and a backend's side of HTTP/2, joined: what each was told is kept, line by line. */
#ifndef ET_SPEC_H2_ENV_H
#define ET_SPEC_H2_ENV_H

#include "h2_sock.h"
#include "../../csrc/head/head.h"
#include "../../csrc/http2/http2.h"

#define S(s) (s), sizeof(s) - 1

enum { MOST = 512 };

struct end;

struct talk { /* an exchange as its user sees it */
    struct end *end;
    struct et_exchange *x; /* NULL: gone or released */
    struct et_head *head, *trailers;
    int informational, last_information;
    struct es_buf body;
    size_t got, unread;
    int fin, heads, ended, rooms, gone;
    enum et_reset why;
    char text[64];
    int keep; /* do not consume */
};

struct end {
    struct et_http *h;
    struct et_sock sock;
    struct talk talk[MOST];
    unsigned n; /* talks that were begun */
    int refuse; /* opened() says no */
    int ready, draining, closed, err;
    int refused, refused_status;
    char why[128];
    void (*on_head)(struct talk *t);
    void (*on_body)(struct talk *t);
    void (*on_end)(struct talk *t);
    int keep;
};

static struct end visitor, backend; /* "visitor": our side towards one (a server); "backend": towards one */

__attribute__((unused)) static int head_is(const struct et_head *h, enum et_head_part part, const char *want)
{
    struct et_text t = et_head_part(h, part);

    return t.n == strlen(want) && memcmp(t.p, want, t.n) == 0;
}

__attribute__((unused)) static const char *field(const struct et_head *h, const char *name)
{
    static char out[8][256];
    static unsigned next;
    size_t i = et_head_find(h, name, strlen(name), 0);
    struct et_text v;
    char *to = out[next++ % 8];

    if (i == SIZE_MAX) {
        return "(none)";
    }
    v = et_head_field(h, i).value;
    snprintf(to, sizeof(out[0]), "%.*s", (int)v.n, v.p);
    return to;
}

static void talk_head(void *user, struct et_head *h, int fin)
{
    struct talk *t = user;

    CHECK(!t->gone && !t->why);
    t->heads++;
    if (et_head_kind(h) == ET_HEAD_RESPONSE && et_head_status(h) < 200) {
        t->informational++;
        t->last_information = et_head_status(h);
        et_head_del(h);
        return;
    }
    CHECK(t->head == NULL);
    t->head = h;
    t->fin = fin;
    if (t->end->on_head != NULL) {
        t->end->on_head(t);
    }
}

static void talk_body(void *user, const uint8_t *p, size_t n)
{
    struct talk *t = user;

    CHECK(!t->gone && !t->why && t->head != NULL && !t->fin && !t->ended);
    t->got += n;
    t->unread += n;
    if (t->body.n < 65536) {
        es_buf_put(&t->body, p, n);
    }
    if (!t->keep && !t->end->keep) {
        t->unread = 0;
        t->x->ops->consume(t->x, n);
    }
    if (t->end->on_body != NULL) {
        t->end->on_body(t);
    }
}

static void talk_end(void *user, struct et_head *trailers)
{
    struct talk *t = user;

    CHECK(!t->gone && !t->why && !t->fin && !t->ended);
    t->ended = 1;
    t->trailers = trailers;
    if (t->end->on_end != NULL) {
        t->end->on_end(t);
    }
}

static void talk_room(void *user)
{
    ((struct talk *)user)->rooms++;
}

static void talk_reset(void *user, enum et_reset why, const char *text)
{
    struct talk *t = user;

    CHECK(!t->gone && t->why == 0);
    t->why = why;
    snprintf(t->text, sizeof(t->text), "%s", text);
}

static void talk_gone(void *user)
{
    struct talk *t = user;

    CHECK(!t->gone);
    t->gone = 1;
    t->x = NULL;
}

static const struct et_exchange_events talk_events = {talk_head, talk_body,  talk_end,
                                                      talk_room, talk_reset, talk_gone};

static struct talk *talk_new(struct end *e)
{
    struct talk *t = &e->talk[e->n % MOST];

    if (e->n >= MOST) { /* taken again */
        et_head_del(t->head);
        et_head_del(t->trailers);
        es_buf_free(&t->body);
    }
    e->n++;
    memset(t, 0, sizeof(*t));
    t->end = e;
    return t;
}

static int end_opened(void *user, struct et_exchange *x)
{
    struct end *e = user;
    struct talk *t;

    if (e->refuse) {
        return ES_ERR_LIMIT;
    }
    t = talk_new(e);
    t->x = x;
    x->events = &talk_events;
    x->user = t;
    return ES_OK;
}

static void end_ready(void *user)
{
    ((struct end *)user)->ready++;
}

static void end_draining(void *user)
{
    ((struct end *)user)->draining++;
}

static void end_closed(void *user, int err, const char *text)
{
    struct end *e = user;

    for (unsigned i = 0; i < e->n && i < MOST; i++) {
        CHECK(e->talk[i].x == NULL); /* each was told gone() before */
    }
    e->closed++;
    e->err = err;
    e->h = NULL;
    snprintf(e->why, sizeof(e->why), "%s", text);
}

static void end_refused(void *user, int status, const char *why)
{
    struct end *e = user;

    e->refused++;
    e->refused_status = status;
}

static const struct et_http_events http_events = {end_opened, end_ready, end_draining, end_closed,
                                                  end_refused};

static void pump(void)
{
    sock_pump_2(&visitor.sock, &backend.sock);
}

__attribute__((unused)) static void sleep_for(uint64_t ns)
{
    sock_sleep(&visitor.sock, &backend.sock, ns);
}

static void end_free(struct end *e)
{
    for (unsigned i = 0; i < e->n && i < MOST; i++) {
        et_head_del(e->talk[i].head);
        et_head_del(e->talk[i].trailers);
        es_buf_free(&e->talk[i].body);
    }
    sock_free(&e->sock);
}

static uint64_t env_memory;

/* Both sides; limits may be NULL. */
__attribute__((unused)) static void env_open(const struct et_http_limits *at_visitor,
                                             const struct et_http_limits *at_backend)
{
    struct es_mem_stats m;

    es_mem_stats(&m);
    env_memory = m.in_use;
    memset(&visitor, 0, sizeof(visitor));
    memset(&backend, 0, sizeof(backend));
    sock_pair(&visitor.sock, &backend.sock);
    sock_most = 0;
    CHECK_INT(
        et_http2_new(&visitor.sock, ET_HTTP_VISITOR, "https", at_visitor, &http_events, &visitor, &visitor.h),
        ==, 0);
    CHECK_INT(
        et_http2_new(&backend.sock, ET_HTTP_BACKEND, "https", at_backend, &http_events, &backend, &backend.h),
        ==, 0);
}

/* Closes both; all memory is back. */
__attribute__((unused)) static void env_close(void)
{
    struct es_mem_stats m;

    if (backend.h != NULL) {
        backend.h->ops->close(backend.h);
    }
    pump();
    if (visitor.h != NULL) {
        visitor.h->ops->close(visitor.h);
    }
    sleep_for(10 * ES_SECOND);
    CHECK(backend.closed && visitor.closed);
    end_free(&visitor);
    end_free(&backend);
    es_mem_stats(&m);
    CHECK_INT(m.in_use, ==, env_memory);
}

static struct et_head *request(const char *method, const char *path)
{
    struct et_head *h = et_head_new(ET_HEAD_REQUEST);

    et_head_set_part(h, ET_METHOD, method, strlen(method));
    et_head_set_part(h, ET_SCHEME, S("https"));
    et_head_set_part(h, ET_AUTHORITY, S("example.org"));
    et_head_set_part(h, ET_PATH, path, strlen(path));
    return h;
}

static struct et_head *response(int status)
{
    struct et_head *h = et_head_new(ET_HEAD_RESPONSE);

    et_head_set_status(h, status);
    return h;
}

__attribute__((unused)) static void add(struct et_head *h, const char *name, const char *value)
{
    CHECK_INT(et_head_add(h, name, strlen(name), value, strlen(value)), ==, 0);
}

/* Begins a request; takes the head. NULL when it could not be begun. */
static struct talk *ask_head(struct et_head *h, int fin)
{
    struct talk *t = talk_new(&backend);
    int rc = backend.h->ops->begin(backend.h, &talk_events, t, &t->x);

    if (rc == ES_OK) {
        rc = t->x->ops->head(t->x, h, fin);
    }
    et_head_del(h);
    CHECK_INT(rc, ==, 0);
    return t;
}

__attribute__((unused)) static struct talk *ask(const char *method, const char *path, int fin)
{
    return ask_head(request(method, path), fin);
}

/* What came last on the visitor's side. */
__attribute__((unused)) static struct talk *asked(void)
{
    return &visitor.talk[(visitor.n - 1) % MOST];
}

__attribute__((unused)) static int reply_head(struct talk *t, struct et_head *h, int fin)
{
    int rc = t->x != NULL ? t->x->ops->head(t->x, h, fin) : ES_ERR_CLOSED;

    et_head_del(h);
    return rc;
}

__attribute__((unused)) static int reply(struct talk *t, int status, int fin)
{
    return reply_head(t, response(status), fin);
}

__attribute__((unused)) static int say(struct talk *t, const char *text, int fin)
{
    return t->x->ops->body(t->x, text, strlen(text), fin);
}

/* n bytes that tell their place. */
__attribute__((unused)) static int say_much(struct talk *t, size_t n, int fin)
{
    uint8_t *p = es_malloc(n + 1);
    int rc;

    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)(i * 7 + i / 251);
    }
    rc = t->x->ops->body(t->x, p, n, fin);
    es_free(p);
    return rc;
}

#endif
