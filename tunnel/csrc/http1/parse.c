#include "parse.h"
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"
#include "build.h"
#include "chars.h"

#define MAX_CHUNK_LINE 4096 /* a size and its extensions, which nobody uses */

static int fail(struct et_parse *p, int rc, int status, const char *why)
{
    p->state = ET_PARSE_FAILED;
    p->status = status;
    p->why = why;
    es_buf_free(&p->part);
    et_head_del(p->head);
    p->head = NULL;
    return rc;
}

static int refused(struct et_parse *p)
{
    return fail(p, ES_ERR_PROTOCOL, p->scan.status, p->scan.why);
}

/* llhttp's callbacks: they keep what it found. */

static int on_text(struct et_text *t, const char *at, size_t n)
{
    if (t->p != NULL && t->p + t->n == at) { /* it may come in pieces that touch */
        t->n += n;
    } else {
        *t = (struct et_text){at, n};
    }
    return 0;
}

static int on_url(llhttp_t *l, const char *at, size_t n)
{
    struct et_parse *p = l->data;

    return on_text(&p->url, at, n);
}

static int on_field(llhttp_t *l, const char *at, size_t n)
{
    struct et_parse *p = l->data;

    return on_text(&p->name, at, n);
}

static int on_value(llhttp_t *l, const char *at, size_t n)
{
    struct et_parse *p = l->data;

    return on_text(&p->value, at, n);
}

static int on_value_complete(llhttp_t *l)
{
    struct et_parse *p = l->data;

    p->fields++;
    p->fault = et_build_field(p->head, &p->scan, p->name, p->value);
    p->name = p->value = (struct et_text){NULL, 0};
    return p->fault == ES_OK ? 0 : -1;
}

/* 1: no body follows, whatever the head says; 2: and it is the last of HTTP. */
static int on_headers_complete(llhttp_t *l)
{
    struct et_parse *p = l->data;
    const struct et_scan *s = &p->scan;

    if (s->kind == ET_SCAN_REQUEST) {
        return 0;
    }
    if ((s->code == 101 && p->may_switch) || (p->connect && s->code / 100 == 2)) {
        return 2;
    }
    return p->no_body || s->code / 100 == 1 || s->code == 204 || s->code == 304;
}

static int on_body(llhttp_t *l, const char *at, size_t n)
{
    struct et_parse *p = l->data;

    p->events->body(p->user, (const uint8_t *)at, n);
    return 0;
}

static int on_complete(llhttp_t *l)
{
    struct et_parse *p = l->data;

    p->complete = 1;
    return HPE_PAUSED;
}

static const llhttp_settings_t *settings(void)
{
    static llhttp_settings_t s;

    if (s.on_body == NULL) {
        llhttp_settings_init(&s);
        s.on_url = on_url;
        s.on_header_field = on_field;
        s.on_header_value = on_value;
        s.on_header_value_complete = on_value_complete;
        s.on_headers_complete = on_headers_complete;
        s.on_body = on_body;
        s.on_message_complete = on_complete;
    }
    return &s;
}

void et_parse_init(struct et_parse *p, enum et_scan_kind kind, const char *scheme,
                   const struct et_scan_limits *limits, const struct et_parse_events *ev, void *user)
{
    memset(p, 0, sizeof(*p));
    p->limits = *limits;
    p->events = ev;
    p->user = user;
    p->scheme = scheme;
    llhttp_init(&p->llhttp, kind == ET_SCAN_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE, settings());
    p->llhttp.data = p;
    et_scan_init(&p->scan, kind, limits);
}

void et_parse_free(struct et_parse *p)
{
    es_buf_free(&p->part);
    et_head_del(p->head);
    p->head = NULL;
}

void et_parse_next(struct et_parse *p)
{
    enum et_scan_kind kind = p->llhttp.type == HTTP_REQUEST ? ET_SCAN_REQUEST : ET_SCAN_RESPONSE;

    es_buf_clear(&p->part);
    llhttp_reset(&p->llhttp);
    et_scan_init(&p->scan, kind, &p->limits);
    p->state = ET_PARSE_HEAD;
    p->complete = 0;
    p->fields = 0;
}

int et_parse_begun(const struct et_parse *p)
{
    return p->part.n > 0;
}

/* Lets llhttp read n bytes, all of which it must want. */
static int run(struct et_parse *p, const uint8_t *in, size_t n)
{
    llhttp_errno_t e = llhttp_execute(&p->llhttp, (const char *)in, n);

    if (e == HPE_OK || (p->complete && (e == HPE_PAUSED || e == HPE_PAUSED_UPGRADE))) {
        if (e != HPE_OK && llhttp_get_error_pos(&p->llhttp) != (const char *)in + n) {
            return fail(p, ES_ERR_PROTOCOL, 400, "malformed message");
        }
        return ES_OK;
    }
    if (p->fault != ES_OK) {
        return fail(p, p->fault == ES_ERR_NOMEM ? ES_ERR_NOMEM : ES_ERR_PROTOCOL,
                    p->fault == ES_ERR_LIMIT ? 431 : 400,
                    p->fault == ES_ERR_LIMIT ? "head too large" : "malformed field");
    }
    return e == HPE_INVALID_METHOD || (p->state == ET_PARSE_HEAD && e == HPE_INVALID_CONSTANT)
               ? fail(p, ES_ERR_PROTOCOL, 501, "method not known")
               : fail(p, ES_ERR_PROTOCOL, 400, "malformed message");
}

/* What llhttp made of the head must be what the scan saw. */
static int agree(const struct et_parse *p)
{
    const struct et_scan *s = &p->scan;
    const llhttp_t *l = &p->llhttp;
    int chunked = (l->flags & F_CHUNKED) != 0;

    if (p->fields != s->fields || l->http_major != 1 || l->http_minor != s->minor) {
        return 0;
    }
    if (s->kind == ET_SCAN_RESPONSE && l->status_code != s->code) {
        return 0;
    }
    if (s->kind == ET_SCAN_REQUEST &&
        (p->url.p != (const char *)p->block + s->target.at || p->url.n != s->target.n)) {
        return 0;
    }
    if (!p->complete && chunked != s->chunked) { /* the flags are gone after the end */
        return 0;
    }
    return p->state != ET_PARSE_LENGTH || l->content_length == (uint64_t)s->length;
}

/* What comes after a head. */
static enum et_parse_state after_head(const struct et_parse *p)
{
    const struct et_scan *s = &p->scan;

    if (p->complete) {
        int tunnel = s->kind == ET_SCAN_REQUEST
                         ? s->form == ET_FORM_AUTHORITY || et_build_upgrades(s)
                         : (s->code == 101 && p->may_switch) || (p->connect && s->code / 100 == 2);
        return tunnel ? ET_PARSE_TUNNEL : ET_PARSE_OVER;
    }
    if (s->chunked) {
        return ET_PARSE_CHUNK_LINE;
    }
    return s->length > 0 ? ET_PARSE_LENGTH : ET_PARSE_EOF;
}

static int rehearse(struct et_parse *p, const uint8_t *in, size_t n);

/* A whole head, which the scan found fine, and the n bytes after it that came already. */
static int take_head(struct et_parse *p, const uint8_t *block, const uint8_t *rest, size_t n)
{
    const struct et_scan *s = &p->scan;
    struct et_head *h;
    int rc;

    p->head = et_head_new(s->kind == ET_SCAN_REQUEST ? ET_HEAD_REQUEST : ET_HEAD_RESPONSE);
    if (p->head == NULL) {
        return fail(p, ES_ERR_NOMEM, 503, "out of memory");
    }
    p->block = block;
    p->fault = ES_OK;
    p->complete = 0;
    p->fields = 0;
    p->url = p->name = p->value = (struct et_text){NULL, 0};
    rc = run(p, block + s->start, s->at - s->start);
    if (rc != ES_OK) {
        return rc;
    }
    p->state = after_head(p);
    if (p->state == ET_PARSE_EOF && s->kind == ET_SCAN_REQUEST) {
        return fail(p, ES_ERR_PROTOCOL, 400, "malformed message");
    }
    if (!agree(p)) {
        return fail(p, ES_ERR_PROTOCOL, 400, "ambiguous head");
    }
    rc = et_build_finish(p->head, s, block, p->scheme, &p->status, &p->why);
    if (rc != ES_OK) {
        return fail(p, rc, p->status, p->why);
    }
    p->chunk = (uint64_t)s->length;
    if (s->kind == ET_SCAN_REQUEST && p->state == ET_PARSE_CHUNK_LINE && rehearse(p, rest, n) != ES_OK) {
        return ES_ERR_PROTOCOL;
    }
    h = p->head;
    p->head = NULL;
    p->events->head(p->user, h, s, block);
    return ES_OK;
}

static void over(struct et_parse *p, struct et_head *trailers)
{
    p->state = ET_PARSE_OVER;
    p->events->end(p->user, trailers);
}

/* The line of a chunk, with its CRLF: "1*HEX [ext]". Its extensions are nobody's here. */
static int chunk_line(struct et_parse *p, const uint8_t *line, size_t n)
{
    size_t digits = et_chars_span(line, n, ET_CHAR_HEX), more;

    if (n < 2 || line[n - 2] != '\r' || digits == 0 || digits > 15) {
        return fail(p, ES_ERR_PROTOCOL, 400, "malformed chunk");
    }
    more = n - 2 - digits;
    if (more > 0 && (line[digits] != ';' || et_chars_span(line + digits, more, ET_CHAR_VALUE) != more)) {
        return fail(p, ES_ERR_PROTOCOL, 400, "malformed chunk");
    }
    /* llhttp is given the size only: it need not understand extensions that are dropped here. */
    if (run(p, line, digits) != ES_OK || run(p, (const uint8_t *)"\r\n", 2) != ES_OK) {
        return ES_ERR_PROTOCOL;
    }
    p->chunk = p->llhttp.content_length;
    if (p->chunk == 0) {
        et_scan_init(&p->scan, ET_SCAN_TRAILERS, &p->limits);
        p->state = ET_PARSE_TRAILERS;
    } else {
        p->chunk += 2;
        p->state = ET_PARSE_CHUNK;
    }
    return ES_OK;
}

/* The fields after the last chunk, up to the empty line, which the scan found fine. */
static int take_trailers(struct et_parse *p, const uint8_t *block)
{
    struct et_head *h = NULL;

    if (p->scan.fields > 0) {
        p->head = et_head_new(ET_HEAD_TRAILERS);
        if (p->head == NULL) {
            return fail(p, ES_ERR_NOMEM, 503, "out of memory");
        }
    }
    p->fields = 0;
    p->fault = ES_OK;
    if (run(p, block, p->scan.at) != ES_OK) {
        return ES_ERR_PROTOCOL;
    }
    if (!p->complete || p->fields != p->scan.fields) {
        return fail(p, ES_ERR_PROTOCOL, 400, "malformed trailers");
    }
    h = p->head;
    p->head = NULL;
    if (h != NULL && et_head_count(h) == 0) {
        et_head_del(h);
        h = NULL;
    }
    over(p, h);
    return ES_OK;
}

/* A head or trailers: whole in what came, or kept until they are. */
static int feed_block(struct et_parse *p, const uint8_t *in, size_t n, size_t *used)
{
    const uint8_t *block = in;
    size_t have = p->part.n, all = n;
    int rc;

    if (have > 0) {
        if (es_buf_put(&p->part, in, n) != ES_OK) {
            return fail(p, ES_ERR_NOMEM, 503, "out of memory");
        }
        block = p->part.p;
        all = p->part.n;
    }
    rc = et_scan_feed(&p->scan, block, all);
    if (rc < 0) {
        return refused(p);
    }
    if (rc == 0) {
        *used = n;
        return have > 0 || es_buf_put(&p->part, in, n) == ES_OK ? ES_OK
                                                                : fail(p, ES_ERR_NOMEM, 503, "out of memory");
    }
    *used = p->scan.at - have;
    rc = p->state == ET_PARSE_HEAD ? take_head(p, block, in + *used, n - *used) : take_trailers(p, block);
    es_buf_free(&p->part);
    return rc;
}

static int feed_chunk_line(struct et_parse *p, const uint8_t *in, size_t n, size_t *used)
{
    const uint8_t *end = memchr(in, '\n', n), *line = in;
    size_t len = end == NULL ? n : (size_t)(end - in) + 1;
    int rc;

    *used = len;
    if (p->part.n + len > MAX_CHUNK_LINE) {
        return fail(p, ES_ERR_PROTOCOL, 400, "chunk's line too long");
    }
    if (end == NULL || p->part.n > 0) {
        if (es_buf_put(&p->part, in, len) != ES_OK) {
            return fail(p, ES_ERR_NOMEM, 503, "out of memory");
        }
        if (end == NULL) {
            return ES_OK;
        }
        line = p->part.p;
        len = p->part.n;
    }
    rc = chunk_line(p, line, len);
    es_buf_clear(&p->part);
    return rc;
}

/* Bytes of a body: never more than belong to it. */
static int feed_body(struct et_parse *p, const uint8_t *in, size_t n, size_t *used)
{
    int rc;

    if (p->state != ET_PARSE_EOF && n > p->chunk) {
        n = (size_t)p->chunk;
    }
    *used = n;
    p->chunk -= p->state == ET_PARSE_EOF ? 0 : n;
    rc = run(p, in, n);
    if (rc != ES_OK) {
        return rc;
    }
    if (p->state == ET_PARSE_CHUNK && p->chunk == 0) {
        p->state = ET_PARSE_CHUNK_LINE;
    } else if (p->state == ET_PARSE_LENGTH && p->complete) {
        over(p, NULL);
    }
    return ES_OK;
}

static int feed_some(struct et_parse *p, const uint8_t *in, size_t n, size_t *used)
{
    switch (p->state) {
    case ET_PARSE_HEAD:
    case ET_PARSE_TRAILERS:
        return feed_block(p, in, n, used);
    case ET_PARSE_CHUNK_LINE:
        return feed_chunk_line(p, in, n, used);
    case ET_PARSE_LENGTH:
    case ET_PARSE_CHUNK:
    case ET_PARSE_EOF:
        return feed_body(p, in, n, used);
    default:
        return fail(p, ES_ERR_PROTOCOL, 400, "bytes after the end");
    }
}

/* Head and body came together: a chunk that is malformed in them is seen before anything is told. */
static void nothing_body(void *user, const uint8_t *p, size_t n)
{
    (void)user, (void)p, (void)n;
}

static void nothing_end(void *user, struct et_head *trailers)
{
    (void)user;
    et_head_del(trailers);
}

static void nothing_head(void *user, struct et_head *h, const struct et_scan *s, const uint8_t *block)
{
    (void)user, (void)s, (void)block;
    et_head_del(h);
}

static const struct et_parse_events nothing = {nothing_head, nothing_body, nothing_end};

static int rehearse(struct et_parse *p, const uint8_t *in, size_t n)
{
    struct et_parse copy = *p; /* llhttp's state is plain data */
    size_t used;
    int rc = ES_OK;

    copy.llhttp.data = &copy;
    copy.events = &nothing;
    copy.head = NULL;
    copy.part = (struct es_buf){0};
    while (n > 0 && rc == ES_OK && copy.state < ET_PARSE_OVER) {
        rc = feed_some(&copy, in, n, &used);
        in += used;
        n -= used;
    }
    if (rc != ES_OK) {
        fail(p, rc, copy.status, copy.why);
    }
    et_parse_free(&copy);
    return rc;
}

int et_parse_feed(struct et_parse *p, const uint8_t *in, size_t n, size_t *used)
{
    size_t all = 0, some;
    int rc = ES_OK;

    *used = 0;
    while (rc == ES_OK && all < n && p->state < ET_PARSE_OVER) {
        rc = feed_some(p, in + all, n - all, &some);
        all += some;
    }
    *used = all;
    return rc;
}

int et_parse_finish(struct et_parse *p)
{
    if (p->state == ET_PARSE_EOF) {
        (void)llhttp_finish(&p->llhttp); /* "paused" is what on_complete says */
        if (!p->complete) {
            return ES_ERR_CLOSED;
        }
        over(p, NULL);
        return ES_OK;
    }
    return p->state == ET_PARSE_OVER || (p->state == ET_PARSE_HEAD && p->part.n == 0) ? ES_OK : ES_ERR_CLOSED;
}
