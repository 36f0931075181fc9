#include "build.h"
#include <string.h>
#include "../../../csrc/base/err.h"
#include "chars.h"
#include "websocket.h"

#define IS(literal) ET_CHARS_IS(name.p, name.n, literal)

/* Fields that say how this connection frames its messages, or that only the connection means. */
static int is_hop(struct et_text name)
{
    switch (name.n) {
    case 2:
        return IS("te");
    case 4:
        return IS("host");
    case 7:
        return IS("upgrade");
    case 10:
        return IS("connection") || IS("keep-alive");
    case 14:
        return IS("content-length") || IS("http2-settings"); /* a length of our own follows */
    case 16:
        return IS("proxy-connection");
    case 17:
        return IS("transfer-encoding");
    default:
        return 0;
    }
}

/* Fields that may not be trailers (RFC 9110 6.5.1): framing, routing, and what the head was judged by. */
static int is_head_only(struct et_text name)
{
    static const char *const list[] = {"trailer",       "authorization", "content-encoding", "content-type",
                                       "content-range", "expect",        "max-forwards",     "cache-control",
                                       "cookie",        "set-cookie"};

    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        if (et_chars_same(name.p, name.n, list[i], strlen(list[i]))) {
            return 1;
        }
    }
    return 0;
}

int et_build_upgrades(const struct et_scan *s)
{
    return s->kind == ET_SCAN_REQUEST && s->upgrades && s->upgrade.n > 0 && s->minor > 0 && !s->chunked &&
           s->length <= 0 && (s->form == ET_FORM_ORIGIN || s->form == ET_FORM_ABSOLUTE);
}

int et_build_field(struct et_head *h, const struct et_scan *s, struct et_text name, struct et_text value)
{
    if (is_hop(name)) {
        return ES_OK;
    }
    if (s->kind == ET_SCAN_TRAILERS && is_head_only(name)) {
        return ES_OK;
    }
    if (s->kind == ET_SCAN_REQUEST) {
        if ((IS("sec-websocket-key") || IS("sec-websocket-accept")) && et_build_upgrades(s)) {
            return ES_OK;
        }
        if (IS("expect") && s->minor == 0) { /* RFC 9110 10.1.1 */
            return ES_OK;
        }
    } else if (IS("sec-websocket-accept")) {
        return ES_OK;
    }
    while (value.n > 0 && (value.p[0] == ' ' || value.p[0] == '\t')) {
        value.p++;
        value.n--;
    }
    while (value.n > 0 && (value.p[value.n - 1] == ' ' || value.p[value.n - 1] == '\t')) {
        value.n--;
    }
    return et_head_add(h, name.p, name.n, value.p, value.n);
}

struct answer {
    int *status;
    const char **why;
};

static int refuse(struct answer a, int status, const char *why)
{
    *a.status = status;
    *a.why = why;
    return ES_ERR_PROTOCOL;
}

static int set_part(struct et_head *h, enum et_head_part part, const uint8_t *block, struct et_span s)
{
    return s.n == 0 ? ES_OK : et_head_set_part(h, part, (const char *)block + s.at, s.n);
}

static int set_path(struct et_head *h, const struct et_scan *s, const uint8_t *block)
{
    struct es_buf path = {0};
    int rc;

    if (!s->path_slash) {
        return set_part(h, ET_PATH, block, s->path);
    }
    if (s->path.n == 0) { /* "OPTIONS http://host" asks for the server (RFC 9112 3.2.4) */
        int options = s->method.n == 7 && memcmp(block + s->method.at, "OPTIONS", 7) == 0;
        return et_head_set_part(h, ET_PATH, options ? "*" : "/", 1);
    }
    rc = es_buf_put(&path, "/", 1);
    if (rc == ES_OK) {
        rc = es_buf_put(&path, block + s->path.at, s->path.n);
    }
    if (rc == ES_OK) {
        rc = et_head_set_part(h, ET_PATH, (const char *)path.p, path.n);
    }
    es_buf_free(&path);
    return rc;
}

/* Method and protocol. A WebSocket by GET becomes RFC 8441's CONNECT, and so does any other protocol. */
static int set_method(struct et_head *h, const struct et_scan *s, const uint8_t *block, struct answer a)
{
    const uint8_t *method = block + s->method.at, *token = block + s->upgrade.at;
    int get = s->method.n == 3 && memcmp(method, "GET", 3) == 0, rc;

    if (!et_build_upgrades(s)) {
        return set_part(h, ET_METHOD, block, s->method);
    }
    if (ET_CHARS_IS(token, s->upgrade.n, "websocket")) {
        const uint8_t *version = block + s->ws_version.at;

        if (s->ws_version.n != 2 || memcmp(version, "13", 2) != 0) {
            return refuse(a, 426, "WebSocket version not supported");
        }
        if (!get || s->ws_keys != 1 || !et_websocket_key_fine(block + s->ws_key.at, s->ws_key.n)) {
            return refuse(a, 400, "malformed WebSocket handshake");
        }
        rc = et_head_set_part(h, ET_PROTOCOL, "websocket", 9);
    } else {
        rc = set_part(h, ET_PROTOCOL, block, s->upgrade);
    }
    if (rc != ES_OK) {
        return rc;
    }
    return get ? et_head_set_part(h, ET_METHOD, "CONNECT", 7) : set_part(h, ET_METHOD, block, s->method);
}

static int set_request(struct et_head *h, const struct et_scan *s, const uint8_t *block, const char *scheme,
                       struct answer a)
{
    int connect = s->form == ET_FORM_AUTHORITY, rc;

    if (connect && (s->chunked || s->length >= 0)) {
        return refuse(a, 400, "CONNECT with a body");
    }
    if (s->scheme.n > 0 && !et_chars_same(block + s->scheme.at, s->scheme.n, scheme, strlen(scheme))) {
        return refuse(a, 400, "the target's scheme is not that of the connection");
    }
    rc = set_method(h, s, block, a);
    if (rc == ES_OK && !connect) {
        rc = et_head_set_part(h, ET_SCHEME, scheme, strlen(scheme));
    }
    if (rc == ES_OK && !connect) {
        rc = set_path(h, s, block);
    }
    return rc == ES_OK ? set_part(h, ET_AUTHORITY, block, s->authority) : rc;
}

static int set_rest(struct et_head *h, const struct et_scan *s, const uint8_t *block)
{
    char digits[24];
    size_t n = sizeof(digits);
    int64_t left = s->length;
    int rc = ES_OK;

    if (s->listed) {
        struct et_text list[ET_SCAN_CONNECTIONS];

        for (unsigned i = 0; i < s->connections; i++) {
            list[i] = (struct et_text){(const char *)block + s->connection[i].at, s->connection[i].n};
        }
        et_head_strip(h, list, s->connections);
    }
    if (s->te_trailers && s->kind == ET_SCAN_REQUEST) {
        rc = et_head_add(h, "te", 2, "trailers", 8);
    }
    if (rc != ES_OK || s->length < 0 || et_build_upgrades(s)) { /* 0, and then bytes of a tunnel */
        return rc;
    }
    do {
        digits[--n] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    return et_head_add(h, "content-length", 14, digits + n, sizeof(digits) - n);
}

int et_build_finish(struct et_head *h, const struct et_scan *s, const uint8_t *block, const char *scheme,
                    int *status, const char **why)
{
    struct answer a = {status, why};
    int rc;

    if (s->kind == ET_SCAN_REQUEST) {
        rc = set_request(h, s, block, scheme, a);
    } else {
        rc = et_head_set_status(h, s->code);
    }
    if (rc == ES_OK) {
        rc = set_rest(h, s, block);
    }
    if (rc == ES_ERR_INVAL) {
        return refuse(a, 400, "malformed head");
    }
    if (rc == ES_ERR_LIMIT) {
        refuse(a, 431, "head too large");
        return ES_ERR_PROTOCOL;
    }
    if (rc == ES_ERR_NOMEM) {
        refuse(a, 503, "out of memory");
    }
    return rc;
}
