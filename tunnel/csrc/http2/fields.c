#include "session.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

static int is(const uint8_t *p, size_t n, const char *word)
{
    return n == strlen(word) && memcmp(p, word, n) == 0;
}

static int same_host(struct et_text a, const struct es_buf *b)
{
    if (a.n != b->n) {
        return 0;
    }
    for (size_t i = 0; i < a.n; i++) {
        if (tolower((unsigned char)a.p[i]) != tolower(b->p[i])) {
            return 0;
        }
    }
    return 1;
}

static int status_of(int rc, int limit)
{
    return rc == ES_OK || rc == ES_ERR_NOMEM ? rc : rc == ES_ERR_LIMIT ? limit : 400;
}

static int pseudo_in(struct h2_exchange *e, const uint8_t *name, size_t nn, const char *value, size_t nv)
{
    static const struct {
        const char *name;
        enum et_head_part part;
    } parts[] = {{":method", ET_METHOD},
                 {":scheme", ET_SCHEME},
                 {":authority", ET_AUTHORITY},
                 {":path", ET_PATH},
                 {":protocol", ET_PROTOCOL}};

    if (is(name, nn, ":status")) {
        int status = 0;

        for (size_t i = 0; i < nv && i < 4; i++) {
            status = status * 10 + (value[i] - '0'); /* the library has seen that these are three digits */
        }
        return status_of(et_head_set_status(e->in, status), 431);
    }
    if (is(name, nn, ":path") && nv > e->c->limits.target_bytes) {
        return 414;
    }
    if (is(name, nn, ":path") && memchr(value, '#', nv) != NULL) {
        return 400; /* a fragment never travels */
    }
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (is(name, nn, parts[i].name)) {
            return status_of(et_head_set_part(e->in, parts[i].part, value, nv), 431);
        }
    }
    return 400;
}

static int crumb_in(struct h2_exchange *e, const uint8_t *value, size_t nv)
{
    /* RFC 9113 8.2.3: joined before they go anywhere else. */
    if (e->cookie.n > 0 && es_buf_put(&e->cookie, "; ", 2) != ES_OK) {
        return ES_ERR_NOMEM;
    }
    return es_buf_put(&e->cookie, value, nv);
}

int h2_field_in(struct h2_exchange *e, const uint8_t *name, size_t nn, const uint8_t *value, size_t nv)
{
    enum et_head_kind kind = et_head_kind(e->in);
    int request = kind == ET_HEAD_REQUEST;

    if (e->in_bytes > e->c->limits.head_bytes) {
        return 431;
    }
    if (name[0] == ':') {
        return pseudo_in(e, name, nn, (const char *)value, nv);
    }
    if (request && is(name, nn, "cookie")) {
        return crumb_in(e, value, nv);
    }
    if (++e->in_fields > e->c->limits.head_fields) {
        return 431;
    }
    if (request && is(name, nn, "host")) {
        return es_buf_put(&e->host, value, nv);
    }
    if (is(name, nn, "http2-settings") ||
        (kind == ET_HEAD_TRAILERS &&
         (is(name, nn, "content-length") || is(name, nn, "host") || is(name, nn, "te")))) {
        return ES_OK; /* means nothing here */
    }
    if (request && is(name, nn, "content-type") && nv >= 16 && memcmp(value, "application/grpc", 16) == 0) {
        e->grpc = 1;
    }
    return status_of(et_head_add(e->in, (const char *)name, nn, (const char *)value, nv), 431);
}

/* A PRIORITY_UPDATE may have come before its request (RFC 9218 7.1), and counts more than the field. */
static int priority_in(struct h2_exchange *e)
{
    for (unsigned i = 0; i < H2_PRIORITIES; i++) {
        struct h2_priority *p = &e->c->priority[i];

        if (p->id == e->id && p->id != 0) {
            p->id = 0;
            return status_of(et_head_set(e->in, "priority", 8, p->text, p->n), 431);
        }
    }
    return ES_OK;
}

int h2_fields_end(struct h2_exchange *e)
{
    struct et_text authority, scheme, method;
    int rc, connect;

    if (et_head_kind(e->in) != ET_HEAD_REQUEST) {
        return ES_OK;
    }
    method = et_head_part(e->in, ET_METHOD);
    e->connect = method.n == 7 && memcmp(method.p, "CONNECT", 7) == 0;
    e->head_method = method.n == 4 && memcmp(method.p, "HEAD", 4) == 0;
    connect = e->connect && et_head_part(e->in, ET_PROTOCOL).n == 0;
    authority = et_head_part(e->in, ET_AUTHORITY);
    if (authority.n == 0 && e->host.n > 0) {
        rc = et_head_set_part(e->in, ET_AUTHORITY, (const char *)e->host.p, e->host.n);
        if (rc != ES_OK) {
            return status_of(rc, 431);
        }
        authority = et_head_part(e->in, ET_AUTHORITY);
    } else if (e->host.n > 0 && !same_host(authority, &e->host)) {
        return 400;
    }
    if (authority.n > 0 && memchr(authority.p, '@', authority.n) != NULL) {
        return 400;
    }
    if (!connect) {
        scheme = et_head_part(e->in, ET_SCHEME);
        if (!is((const uint8_t *)scheme.p, scheme.n, "http") &&
            !is((const uint8_t *)scheme.p, scheme.n, "https")) {
            return 400;
        }
        rc = et_head_set_part(e->in, ET_SCHEME, e->c->scheme, strlen(e->c->scheme));
        if (rc != ES_OK) {
            return rc;
        }
    }
    if (e->cookie.n > 0) {
        rc = et_head_add(e->in, "cookie", 6, (const char *)e->cookie.p, e->cookie.n);
        if (rc != ES_OK) {
            return status_of(rc, 431);
        }
    }
    return priority_in(e);
}

/* Out. The library copies names and values when it is given them. */

static void put(nghttp2_nv *nv, const char *name, size_t nn, const char *value, size_t n)
{
    nv->name = (uint8_t *)(uintptr_t)name;
    nv->namelen = nn;
    nv->value = (uint8_t *)(uintptr_t)value;
    nv->valuelen = n;
    nv->flags = NGHTTP2_NV_FLAG_NONE;
}

static size_t request_out(const struct et_head *h, const char *scheme, nghttp2_nv *nv)
{
    struct et_text method = et_head_part(h, ET_METHOD), s = et_head_part(h, ET_SCHEME);
    struct et_text authority = et_head_part(h, ET_AUTHORITY), path = et_head_part(h, ET_PATH);
    struct et_text protocol = et_head_part(h, ET_PROTOCOL);
    size_t n = 0;

    put(&nv[n++], ":method", 7, method.p, method.n);
    if (!is((const uint8_t *)method.p, method.n, "CONNECT") || protocol.n > 0) {
        put(&nv[n++], ":scheme", 7, s.n > 0 ? s.p : scheme, s.n > 0 ? s.n : strlen(scheme));
        put(&nv[n++], ":path", 5, path.n > 0 ? path.p : "/", path.n > 0 ? path.n : 1);
    }
    if (authority.n > 0) {
        put(&nv[n++], ":authority", 10, authority.p, authority.n);
    }
    if (protocol.n > 0) {
        put(&nv[n++], ":protocol", 9, protocol.p, protocol.n);
    }
    return n;
}

int h2_fields_out(const struct et_head *h, const char *scheme, int without_length, nghttp2_nv **out,
                  size_t *count)
{
    size_t fields = et_head_count(h), n = 0;
    nghttp2_nv *nv = es_malloc((fields + 5) * sizeof(*nv) + 8);
    char *status;

    if (nv == NULL) {
        return ES_ERR_NOMEM;
    }
    status = (char *)(nv + fields + 5);
    if (et_head_kind(h) == ET_HEAD_REQUEST) {
        n = request_out(h, scheme, nv);
    } else if (et_head_kind(h) == ET_HEAD_RESPONSE) {
        snprintf(status, 8, "%d", et_head_status(h));
        put(&nv[n++], ":status", 7, status, strlen(status));
    }
    for (size_t i = 0; i < fields; i++) {
        struct et_field f = et_head_field(h, i);

        if (without_length && is((const uint8_t *)f.name.p, f.name.n, "content-length")) {
            continue;
        }
        put(&nv[n], f.name.p, f.name.n, f.value.p, f.value.n);
        if (is((const uint8_t *)f.name.p, f.name.n, "authorization") ||
            is((const uint8_t *)f.name.p, f.name.n, "proxy-authorization")) {
            nv[n].flags = NGHTTP2_NV_FLAG_NO_INDEX; /* RFC 7541 7.1.3 */
        }
        n++;
    }
    *out = nv;
    *count = n;
    return ES_OK;
}
