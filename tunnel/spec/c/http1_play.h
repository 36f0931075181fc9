/* A codec of HTTP/1.1 on a fake socket, and a user that writes down what it is told. */
#ifndef ET_SPEC_HTTP1_PLAY_H
#define ET_SPEC_HTTP1_PLAY_H

#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"
#include "../../../csrc/base/timer.h"
#include "../../csrc/http/http.h"
#include "../../csrc/http1/http1.h"
#include "fake_sock.h"

#define MAX_SEEN 64

struct seen { /* one exchange */
    struct play *play;
    struct et_exchange *x;                    /* NULL once it was released */
    struct et_head *head;                     /* owned: the request, or the final response */
    struct et_head *informational, *trailers; /* owned: the last one */
    struct es_buf body;
    int heads, infos, fin, ends, resets, gone, rooms;
    enum et_reset why;
};

struct play {
    struct fake f;
    struct et_http *http;
    struct seen seen[MAX_SEEN];
    size_t n;
    int refuse;                               /* opened() says no */
    int keep_unread;                          /* body() is not consumed at once */
    int closed, err, drained, ready, refused; /* refused: the status */
};

static void seen_head(void *user, struct et_head *h, int fin)
{
    struct seen *s = user;

    if (et_head_kind(h) == ET_HEAD_RESPONSE && et_head_status(h) < 200) {
        et_head_del(s->informational);
        s->informational = h;
        s->infos++;
        return;
    }
    et_head_del(s->head);
    s->head = h;
    s->heads++;
    s->fin |= fin;
}

static void seen_body(void *user, const uint8_t *p, size_t n)
{
    struct seen *s = user;

    if (es_buf_put(&s->body, p, n) != ES_OK && es_buf_put(&s->body, p, n) != ES_OK) {
        abort(); /* one failure may be a test's own */
    }
    if (!s->play->keep_unread) {
        s->x->ops->consume(s->x, n);
    }
}

static void seen_end(void *user, struct et_head *trailers)
{
    struct seen *s = user;

    s->ends++;
    et_head_del(s->trailers);
    s->trailers = trailers;
}

static void seen_room(void *user)
{
    ((struct seen *)user)->rooms++;
}

static void seen_reset(void *user, enum et_reset why, const char *text)
{
    struct seen *s = user;

    (void)text;
    s->resets++;
    s->why = why;
}

static void seen_gone(void *user)
{
    struct seen *s = user;

    s->gone++;
    if (s->x != NULL) {
        s->x->ops->release(s->x);
        s->x = NULL;
    }
}

static const struct et_exchange_events seen_events = {seen_head, seen_body,  seen_end,
                                                      seen_room, seen_reset, seen_gone};

static struct seen *play_seen(struct play *p, struct et_exchange *x)
{
    struct seen *s = &p->seen[p->n < MAX_SEEN ? p->n++ : MAX_SEEN - 1];

    s->play = p;
    s->x = x;
    return s;
}

static int play_opened(void *user, struct et_exchange *x)
{
    struct play *p = user;

    if (p->refuse || p->n == MAX_SEEN) {
        return ES_ERR_LIMIT;
    }
    x->events = &seen_events;
    x->user = play_seen(p, x);
    return ES_OK;
}

static void play_ready(void *user)
{
    ((struct play *)user)->ready++;
}

static void play_draining(void *user)
{
    ((struct play *)user)->drained++;
}

static void play_closed(void *user, int err, const char *text)
{
    struct play *p = user;

    (void)text;
    p->closed++;
    p->err = err;
    p->http = NULL;
}

static void play_refused(void *user, int status, const char *why)
{
    (void)why;
    ((struct play *)user)->refused = status;
}

static const struct et_http_events play_events = {play_opened, play_ready, play_draining, play_closed,
                                                  play_refused};

__attribute__((unused)) static void play_start(struct play *p, enum et_http_role role,
                                               const struct et_http_limits *limits)
{
    memset(p, 0, sizeof(*p));
    fake_open(&p->f);
    if (et_http1_new(p->f.s, role, "http", limits, &play_events, p, &p->http) != ES_OK) {
        abort();
    }
}

__attribute__((unused)) static void play_end(struct play *p)
{
    fake_free(&p->f);
    for (size_t i = 0; i < p->n; i++) {
        struct seen *s = &p->seen[i];

        if (s->x != NULL) {
            s->x->ops->release(s->x);
        }
        et_head_del(s->head);
        et_head_del(s->informational);
        et_head_del(s->trailers);
        es_buf_free(&s->body);
    }
}

__attribute__((unused)) static void play_say(struct play *p, const char *text)
{
    fake_data(&p->f, text, strlen(text));
}

/* What was sent since the last call, as a string that holds until the next. */
__attribute__((unused)) static const char *play_wire(struct play *p)
{
    static char text[1 << 18];
    size_t n = p->f.wire.n < sizeof(text) - 1 ? p->f.wire.n : sizeof(text) - 1;

    memcpy(text, n > 0 ? (const void *)p->f.wire.p : "", n);
    text[n] = '\0';
    es_buf_clear(&p->f.wire);
    return text;
}

/* "GET /path" of a request, "200" of a response, and its fields: "GET / | name: value". */
__attribute__((unused)) static const char *play_head(const struct et_head *h)
{
    static char text[1 << 17];
    int n = 0;

    if (h == NULL) {
        return "none";
    }
    if (et_head_kind(h) == ET_HEAD_REQUEST) {
        struct et_text m = et_head_part(h, ET_METHOD), path = et_head_part(h, ET_PATH);
        n = snprintf(text, sizeof(text), "%.*s%s%.*s", (int)m.n, m.p, path.n > 0 ? " " : "", (int)path.n,
                     path.p);
    } else if (et_head_kind(h) == ET_HEAD_RESPONSE) {
        n = snprintf(text, sizeof(text), "%d", et_head_status(h));
    } else {
        text[0] = '\0';
    }
    for (size_t i = 0; i < et_head_count(h); i++) {
        struct et_field f = et_head_field(h, i);
        n += snprintf(text + n, sizeof(text) - (size_t)n, " | %.*s: %.*s", (int)f.name.n, f.name.p,
                      (int)f.value.n, f.value.p);
    }
    return text;
}

__attribute__((unused)) static struct et_head *play_response(int status, const char *const *fields)
{
    struct et_head *h = et_head_new(ET_HEAD_RESPONSE);

    if (et_head_set_status(h, status) != ES_OK) {
        abort();
    }
    for (; fields != NULL && fields[0] != NULL; fields += 2) {
        if (et_head_add(h, fields[0], strlen(fields[0]), fields[1], strlen(fields[1])) != ES_OK) {
            abort();
        }
    }
    return h;
}

__attribute__((unused)) static struct et_head *play_request(const char *method, const char *path,
                                                            const char *const *fields)
{
    struct et_head *h = et_head_new(ET_HEAD_REQUEST);
    int rc = et_head_set_part(h, ET_METHOD, method, strlen(method));

    rc |= et_head_set_part(h, ET_SCHEME, "http", 4);
    rc |= et_head_set_part(h, ET_AUTHORITY, "example.org", 11);
    rc |= et_head_set_part(h, ET_PATH, path, strlen(path));
    for (; fields != NULL && fields[0] != NULL; fields += 2) {
        rc |= fields[0][0] == ':'
                  ? et_head_set_part(h, ET_PROTOCOL, fields[1], strlen(fields[1]))
                  : et_head_add(h, fields[0], strlen(fields[0]), fields[1], strlen(fields[1]));
    }
    if (rc != ES_OK) {
        abort();
    }
    return h;
}

/* Sends a head and gives it back to the heap. */
__attribute__((unused)) static int play_send(struct play *p, struct seen *s, struct et_head *h, int fin)
{
    int rc = s->x->ops->head(s->x, h, fin);

    et_head_del(h);
    fake_step(&p->f);
    return rc;
}

__attribute__((unused)) static int play_body(struct play *p, struct seen *s, const char *text, int fin)
{
    int rc = s->x->ops->body(s->x, text, strlen(text), fin);

    fake_step(&p->f);
    return rc;
}

/* Begins an exchange with a backend. */
__attribute__((unused)) static struct seen *play_ask(struct play *p, struct et_head *h, int fin)
{
    struct seen *s = play_seen(p, NULL);

    if (p->http == NULL || p->http->ops->begin(p->http, &seen_events, s, &s->x) != ES_OK) {
        p->n--;
        et_head_del(h);
        return NULL;
    }
    if (play_send(p, s, h, fin) != ES_OK) {
        abort();
    }
    return s;
}

#endif
