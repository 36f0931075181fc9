/* What a visitor sent, what we made of it, and what we send to a backend for it, read back by llhttp alone:
 * it must be the same one request, with nothing left over. For the fuzzer and the test beside h11. */
#ifndef ET_SPEC_HTTP1_ORACLE_H
#define ET_SPEC_HTTP1_ORACLE_H

#include <llhttp.h>
#include "http1_play.h"

#define ORACLE_MUST(cond)                                                                                    \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                       \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* One whole request that the visitor's codec told. */
typedef void oracle_fn(void *user, const struct seen *s);

/* Feeds bytes in pieces of the sizes that `cut` says (0: whole), answers each request that is whole, and
 * calls fn with it. Gives the status of the codec's own answer, or 0. */
static int oracle_read(const uint8_t *in, size_t n, uint32_t cut, oracle_fn *fn, void *user)
{
    struct play p;
    size_t at = 0, answered = 0;
    int status;

    play_start(&p, ET_HTTP_VISITOR, NULL);
    do {
        size_t some = n - at;

        if (cut != 0) {
            cut = cut * 1664525 + 1013904223;
            some = some < 1 + (cut >> 28) ? some : 1 + (cut >> 28);
        }
        fake_data(&p.f, in + at, some);
        at += some;
        while (answered < p.n && p.http != NULL) {
            struct seen *s = &p.seen[answered];

            if (s->x == NULL || s->resets > 0) {
                answered++;
                continue;
            }
            if (!s->fin && s->ends == 0 && (et_head_part(s->head, ET_PROTOCOL).n == 0) &&
                et_head_part(s->head, ET_PATH).n > 0) {
                break; /* more of the body is to come */
            }
            if (fn != NULL) {
                fn(user, s);
            }
            answered++;
            play_send(&p, s, play_response(403, NULL), 1); /* tunnels are denied */
        }
    } while (at < n);
    status = p.refused;
    play_end(&p);
    return status;
}

/* ---- llhttp alone ---- */

struct plain { /* what it read */
    struct es_buf url, body;
    struct es_buf fields; /* "name: value\n", names in lower case */
    int complete, value;
};

static int plain_put(struct es_buf *b, const char *p, size_t n)
{
    ORACLE_MUST(es_buf_put(b, p, n) == ES_OK);
    return 0;
}

static int plain_url(llhttp_t *l, const char *p, size_t n)
{
    return plain_put(&((struct plain *)l->data)->url, p, n);
}

static int plain_name(llhttp_t *l, const char *p, size_t n)
{
    struct plain *r = l->data;

    for (size_t i = 0; i < n; i++) {
        char c = p[i] >= 'A' && p[i] <= 'Z' ? (char)(p[i] | 0x20) : p[i];
        plain_put(&r->fields, &c, 1);
    }
    return 0;
}

static int plain_name_end(llhttp_t *l)
{
    return plain_put(&((struct plain *)l->data)->fields, ": ", 2);
}

static int plain_value(llhttp_t *l, const char *p, size_t n)
{
    return plain_put(&((struct plain *)l->data)->fields, p, n);
}

static int plain_value_end(llhttp_t *l)
{
    return plain_put(&((struct plain *)l->data)->fields, "\n", 1);
}

static int plain_body(llhttp_t *l, const char *p, size_t n)
{
    return plain_put(&((struct plain *)l->data)->body, p, n);
}

static int plain_complete(llhttp_t *l)
{
    ((struct plain *)l->data)->complete++;
    return 0;
}

/* Everything is one request. */
static void plain_read(struct plain *r, llhttp_t *l, const struct es_buf *wire)
{
    llhttp_settings_t settings;
    llhttp_errno_t e;

    llhttp_settings_init(&settings);
    settings.on_url = plain_url;
    settings.on_header_field = plain_name;
    settings.on_header_field_complete = plain_name_end;
    settings.on_header_value = plain_value;
    settings.on_header_value_complete = plain_value_end;
    settings.on_body = plain_body;
    settings.on_message_complete = plain_complete;
    memset(r, 0, sizeof(*r));
    llhttp_init(l, HTTP_REQUEST, &settings);
    l->data = r;
    e = llhttp_execute(l, (const char *)wire->p, wire->n);
    if (e == HPE_PAUSED_UPGRADE) {
        ORACLE_MUST(llhttp_get_error_pos(l) == (const char *)wire->p + wire->n);
    } else {
        ORACLE_MUST(e == HPE_OK);
    }
    ORACLE_MUST(r->complete == 1);
}

static void plain_free(struct plain *r)
{
    es_buf_free(&r->url);
    es_buf_free(&r->body);
    es_buf_free(&r->fields);
}

/* ---- both ---- */

static int text_is(struct et_text t, const void *p, size_t n)
{
    return t.n == n && (n == 0 || memcmp(t.p, p, n) == 0);
}

/* Is `line` one of the lines of the fields? */
static int has_line(const struct es_buf *fields, struct et_text name, struct et_text value)
{
    size_t at = 0;

    while (at < fields->n) {
        const uint8_t *line = fields->p + at, *end = memchr(line, '\n', fields->n - at);
        size_t n = (size_t)(end - line);

        if (n == name.n + 2 + value.n && memcmp(line, name.p, name.n) == 0 &&
            memcmp(line + name.n, ": ", 2) == 0 &&
            (value.n == 0 || memcmp(line + name.n + 2, value.p, value.n) == 0)) {
            return 1;
        }
        at += n + 1;
    }
    return 0;
}

static size_t count_lines(const struct es_buf *fields)
{
    size_t n = 0;

    for (size_t i = 0; i < fields->n; i++) {
        n += fields->p[i] == '\n';
    }
    return n;
}

static int name_is(struct et_text t, const char *s)
{
    return text_is(t, s, strlen(s));
}

/* Each field of ours was read, and none but ours. */
static void same_fields(const struct seen *s, const struct plain *r)
{
    size_t ours = 1, cookies = 0; /* Host */
    struct et_head *const heads[] = {s->head, s->trailers};

    for (size_t k = 0; k < 2 && heads[k] != NULL; k++) {
        for (size_t i = 0; i < et_head_count(heads[k]); i++) {
            struct et_field f = et_head_field(heads[k], i);

            if (name_is(f.name, "cookie") && k == 0) {
                cookies++; /* joined */
                continue;
            }
            if (name_is(f.name, "te")) {
                continue; /* counted below, with its Connection */
            }
            if (!has_line(&r->fields, f.name, f.value)) {
                fprintf(stderr, "no %.*s: %.*s in\n%.*s", (int)f.name.n, f.name.p, (int)f.value.n, f.value.p,
                        (int)r->fields.n, (const char *)r->fields.p);
                abort();
            }
            ours++;
        }
    }
    ours += cookies > 0;
    ORACLE_MUST(has_line(&r->fields, (struct et_text){"host", 4}, et_head_part(s->head, ET_AUTHORITY)));
    for (size_t at = 0, n; at < r->fields.n; at += n + 1) { /* what the connection adds */
        const char *line = (const char *)r->fields.p + at;
        struct et_text t;

        n = (size_t)((const char *)memchr(line, '\n', r->fields.n - at) - line);
        t = (struct et_text){line, n};
        ours += name_is(t, "te: trailers") + name_is(t, "connection: te") +
                name_is(t, "connection: upgrade") + name_is(t, "transfer-encoding: chunked");
        ours += n > 9 && memcmp(line, "upgrade: ", 9) == 0;
        ours += n > 19 && memcmp(line, "sec-websocket-key: ", 19) == 0 &&
                name_is(et_head_part(s->head, ET_PROTOCOL), "websocket");
        if (name_is(t, "content-length: 0") && et_head_length(s->head) < 0) {
            ours++; /* of a POST without a body */
        }
    }
    ORACLE_MUST(count_lines(&r->fields) == ours);
}

struct again { /* the codec's own reading of what it wrote */
    const struct seen *s;
    int times;
};

static void same_again(void *user, const struct seen *s)
{
    struct again *a = user;
    char *first = strdup(play_head(a->s->head));

    ORACLE_MUST(first != NULL);
    a->times++;
    for (int part = ET_METHOD; part <= ET_PROTOCOL; part++) {
        struct et_text t = et_head_part(a->s->head, (enum et_head_part)part);
        ORACLE_MUST(text_is(et_head_part(s->head, (enum et_head_part)part), t.p, t.n));
    }
    ORACLE_MUST(s->body.n == a->s->body.n &&
                (s->body.n == 0 || memcmp(s->body.p, a->s->body.p, s->body.n) == 0));
    ORACLE_MUST((s->trailers == NULL) == (a->s->trailers == NULL));
    free(first);
}

/* Writes a request as a backend would get it; the caller frees. */
static struct es_buf oracle_emit(const struct seen *s)
{
    struct es_buf wire;
    struct play p;
    struct seen *b;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    b = play_ask(&p, et_head_copy(s->head), s->fin);
    ORACLE_MUST(b != NULL);
    for (size_t at = 0; at < s->body.n;) { /* in two pieces */
        size_t n = at == 0 ? s->body.n / 2 + 1 : s->body.n - at;
        ORACLE_MUST(b->x->ops->body(b->x, s->body.p + at, n, 0) == ES_OK);
        at += n;
    }
    if (!s->fin) {
        ORACLE_MUST((s->trailers != NULL ? b->x->ops->trailers(b->x, s->trailers)
                                         : b->x->ops->body(b->x, NULL, 0, 1)) == ES_OK);
    }
    fake_step(&p.f);
    wire = p.f.wire;
    p.f.wire = (struct es_buf){0};
    play_end(&p);
    return wire;
}

/* The whole judgement on one request that was told. */
static void oracle_check(const struct seen *s, const struct es_buf *wire)
{
    struct et_text method = et_head_part(s->head, ET_METHOD), path = et_head_part(s->head, ET_PATH);
    struct et_text protocol = et_head_part(s->head, ET_PROTOCOL);
    int tunnel = name_is(method, "CONNECT");
    struct again again = {s, 0};
    struct plain r;
    llhttp_t l;
    const char *got;

    plain_read(&r, &l, wire);
    got = llhttp_method_name(llhttp_get_method(&l));
    if (tunnel && protocol.n > 0) {
        ORACLE_MUST(strcmp(got, "GET") == 0);
    } else {
        ORACLE_MUST(text_is(method, got, strlen(got)));
    }
    ORACLE_MUST(
        text_is(tunnel && protocol.n == 0 ? et_head_part(s->head, ET_AUTHORITY) : path, r.url.p, r.url.n));
    ORACLE_MUST(r.body.n == s->body.n && (s->body.n == 0 || memcmp(r.body.p, s->body.p, s->body.n) == 0));
    same_fields(s, &r);
    plain_free(&r);
    if (et_head_part(s->head, ET_AUTHORITY).n > 0) { /* an empty Host is what HTTP/1.0 without one becomes */
        ORACLE_MUST(oracle_read(wire->p, wire->n, 0, same_again, &again) == 0);
        ORACLE_MUST(again.times == 1);
    }
}

#endif
