#include "scan.h"
#include <string.h>
#include "../../../csrc/base/err.h"
#include "chars.h"

#define MAX_METHOD      32
#define MAX_EMPTY_LINES 2 /* RFC 9112 2.2: at least one is borne with */

static int refuse(struct et_scan *s, int status, const char *why)
{
    s->status = status;
    s->why = why;
    return ES_ERR_PROTOCOL;
}

void et_scan_init(struct et_scan *s, enum et_scan_kind kind, const struct et_scan_limits *limits)
{
    memset(s, 0, sizeof(*s));
    s->kind = kind;
    s->limits = *limits;
    s->length = -1;
    s->line = kind == ET_SCAN_TRAILERS;
}

/* "HTTP/1.0" or "HTTP/1.1" at p. */
static int version(struct et_scan *s, const uint8_t *p, size_t n)
{
    if (n != 8 || memcmp(p, "HTTP/", 5) != 0 || p[5] < '0' || p[5] > '9' || p[6] != '.' || p[7] < '0' ||
        p[7] > '9') {
        return refuse(s, 400, "malformed request line");
    }
    if (p[5] != '1' || p[7] > '1') {
        return refuse(s, 505, "HTTP version not supported");
    }
    s->minor = p[7] - '0';
    return ES_OK;
}

/* The authority and the path of "http://authority/path" at p; `base`: where p is in the block. */
static int absolute(struct et_scan *s, const uint8_t *p, size_t n, size_t base)
{
    size_t scheme, end;

    if (n > 7 && ET_CHARS_IS(p, 7, "http://")) {
        scheme = 4;
    } else if (n > 8 && ET_CHARS_IS(p, 8, "https://")) {
        scheme = 5;
    } else {
        return refuse(s, 400, "malformed target");
    }
    s->scheme = (struct et_span){base, scheme};
    end = scheme + 3;
    while (end < n && p[end] != '/' && p[end] != '?') {
        end++;
    }
    s->authority = (struct et_span){base + scheme + 3, end - scheme - 3};
    if (!et_chars_authority(p + scheme + 3, end - scheme - 3)) {
        return refuse(s, 400, "malformed authority in the target");
    }
    s->path = (struct et_span){base + end, n - end};
    s->path_slash = end == n || p[end] == '?';
    s->form = ET_FORM_ABSOLUTE;
    return ES_OK;
}

/* Which of the four forms the target has, and whether the method may have it (RFC 9112 3.2). */
static int target(struct et_scan *s, const uint8_t *p)
{
    const uint8_t *t = p + s->target.at;
    size_t n = s->target.n;
    int connect = s->method.n == 7 && memcmp(p + s->method.at, "CONNECT", 7) == 0;

    if (et_chars_span(t, n, ET_CHAR_TARGET) != n) {
        return refuse(s, 400, "forbidden byte in the target");
    }
    if (connect) {
        const uint8_t *colon = memrchr(t, ':', n);

        s->form = ET_FORM_AUTHORITY;
        s->authority = s->target;
        if (colon == NULL || colon == t + n - 1 || !et_chars_authority(t, n)) {
            return refuse(s, 400, "CONNECT wants host and port");
        }
        return ES_OK;
    }
    if (t[0] == '/') {
        s->form = ET_FORM_ORIGIN;
        s->path = s->target;
        return ES_OK;
    }
    if (n == 1 && t[0] == '*') {
        s->form = ET_FORM_ASTERISK;
        s->path = s->target;
        if (s->method.n != 7 || memcmp(p + s->method.at, "OPTIONS", 7) != 0) {
            return refuse(s, 400, "only OPTIONS may ask for *");
        }
        return ES_OK;
    }
    return absolute(s, t, n, s->target.at);
}

static int request_line(struct et_scan *s, const uint8_t *p, size_t at, size_t n)
{
    const uint8_t *line = p + at, *space;
    size_t method = et_chars_span(line, n, ET_CHAR_TOKEN), rest;

    if (method == 0 || method > MAX_METHOD || method == n || line[method] != ' ') {
        return refuse(s, 400, "malformed method");
    }
    space = memchr(line + method + 1, ' ', n - method - 1);
    if (space == NULL) {
        return refuse(s, 400, "request line without a version");
    }
    s->method = (struct et_span){at, method};
    s->target = (struct et_span){at + method + 1, (size_t)(space - line) - method - 1};
    if (s->target.n == 0) {
        return refuse(s, 400, "request line without a target");
    }
    if (s->target.n > s->limits.target_bytes) {
        return refuse(s, 414, "target too long");
    }
    rest = (size_t)(space - line) + 1;
    if (version(s, line + rest, n - rest) != ES_OK) {
        return ES_ERR_PROTOCOL;
    }
    return target(s, p);
}

static int status_line(struct et_scan *s, const uint8_t *p, size_t at, size_t n)
{
    const uint8_t *line = p + at;

    if (n < 12 || line[8] != ' ' || (n > 12 && line[12] != ' ')) {
        return refuse(s, 502, "malformed status line");
    }
    if (version(s, line, 8) != ES_OK) {
        return refuse(s, 502, "malformed version in the status line");
    }
    for (size_t i = 9; i < 12; i++) {
        if (line[i] < '0' || line[i] > '9') {
            return refuse(s, 502, "malformed status");
        }
        s->code = s->code * 10 + (line[i] - '0');
    }
    if (s->code < 100) {
        return refuse(s, 502, "malformed status");
    }
    s->reason = (struct et_span){at + 12, n - 12};
    if (et_chars_span(line + 12, n - 12, ET_CHAR_VALUE) != n - 12) {
        return refuse(s, 502, "forbidden byte in the status line");
    }
    return ES_OK;
}

static int content_length(struct et_scan *s, const uint8_t *v, size_t n)
{
    int64_t length = 0;

    if (s->length >= 0) {
        return refuse(s, 400, "Content-Length twice");
    }
    if (n == 0 || n > 18) {
        return refuse(s, 400, "malformed Content-Length");
    }
    for (size_t i = 0; i < n; i++) {
        if (v[i] < '0' || v[i] > '9') {
            return refuse(s, 400, "malformed Content-Length");
        }
        length = length * 10 + (v[i] - '0');
    }
    s->length = length;
    return ES_OK;
}

/* The next element of a comma-separated list, without its blanks; 0 at the end. Empty ones are given too. */
static int element(const uint8_t *v, size_t n, size_t *at, struct et_span *out)
{
    size_t from = *at, to;

    if (from > n) {
        return 0;
    }
    for (to = from; to < n && v[to] != ','; to++) {
    }
    *at = to + 1;
    while (from < to && (v[from] == ' ' || v[from] == '\t')) {
        from++;
    }
    while (to > from && (v[to - 1] == ' ' || v[to - 1] == '\t')) {
        to--;
    }
    *out = (struct et_span){from, to - from};
    return 1;
}

/* Only "chunked" is known here: RFC 9112 6.1 answers 501 to a coding that is not, and 400 to one that does
 * not end in "chunked". */
static int transfer_encoding(struct et_scan *s, const uint8_t *v, size_t n)
{
    struct et_span e, last = {0, 0};
    size_t at = 0;
    unsigned count = 0, chunked = 0;

    if (s->codings > 0) {
        return refuse(s, 400, "Transfer-Encoding twice");
    }
    while (element(v, n, &at, &e)) {
        if (e.n == 0) {
            return refuse(s, 400, "malformed Transfer-Encoding");
        }
        count++;
        chunked += ET_CHARS_IS(v + e.at, e.n, "chunked");
        last = e;
    }
    if (chunked != 1 || !ET_CHARS_IS(v + last.at, last.n, "chunked")) {
        return refuse(s, 400, "Transfer-Encoding does not end in one chunked");
    }
    if (count != 1) {
        return refuse(s, 501, "transfer coding not supported");
    }
    s->codings = 1;
    s->chunked = 1;
    return ES_OK;
}

static int connection(struct et_scan *s, const uint8_t *v, size_t n, size_t base)
{
    struct et_span e;
    size_t at = 0;

    if (s->connections == ET_SCAN_CONNECTIONS) {
        return refuse(s, 400, "too many Connection fields");
    }
    s->connection[s->connections++] = (struct et_span){base, n};
    while (element(v, n, &at, &e)) {
        const uint8_t *p = v + e.at;

        if (e.n == 0) {
            continue;
        }
        if (et_chars_span(p, e.n, ET_CHAR_TOKEN) != e.n) {
            return refuse(s, 400, "malformed Connection");
        }
        if (ET_CHARS_IS(p, e.n, "close")) {
            s->close = 1;
        } else if (ET_CHARS_IS(p, e.n, "keep-alive")) {
            s->keep_alive = 1;
        } else if (ET_CHARS_IS(p, e.n, "upgrade")) {
            s->upgrades = 1;
        } else if (ET_CHARS_IS(p, e.n, "content-length") || ET_CHARS_IS(p, e.n, "transfer-encoding") ||
                   ET_CHARS_IS(p, e.n, "host")) {
            return refuse(s, 400, "Connection names a field of the framing");
        } else {
            s->listed = 1;
        }
    }
    return ES_OK;
}

/* Of a list of protocols the WebSocket is taken, else the first that is not a version of HTTP itself. */
static void upgrade(struct et_scan *s, const uint8_t *v, size_t n, size_t base)
{
    struct et_span e;
    size_t at = 0;

    while (element(v, n, &at, &e)) {
        const uint8_t *p = v + e.at;
        size_t slash = et_chars_span(p, e.n, ET_CHAR_TOKEN);

        if (e.n == 0 || slash == 0 || (slash < e.n && p[slash] != '/')) {
            continue;
        }
        if (ET_CHARS_IS(p, e.n, "websocket")) {
            s->upgrade = (struct et_span){base + e.at, e.n};
            return;
        }
        if (s->upgrade.n == 0 && slash == e.n && !ET_CHARS_IS(p, e.n, "h2c") && !ET_CHARS_IS(p, e.n, "h2")) {
            s->upgrade = (struct et_span){base + e.at, e.n};
        }
    }
}

/* The few fields that say what the message is. */
static int note(struct et_scan *s, const uint8_t *name, size_t nn, const uint8_t *v, size_t nv, size_t base)
{
    struct et_span value = {base, nv}, e;
    size_t at = 0;

    switch (nn) {
    case 2:
        while (ET_CHARS_IS(name, nn, "te") && element(v, nv, &at, &e)) {
            s->te_trailers |= ET_CHARS_IS(v + e.at, e.n, "trailers");
        }
        break;
    case 4:
        if (ET_CHARS_IS(name, nn, "host")) {
            s->hosts++;
            s->host = value;
        }
        break;
    case 6:
        if (ET_CHARS_IS(name, nn, "expect") && s->kind == ET_SCAN_REQUEST) {
            if (!ET_CHARS_IS(v, nv, "100-continue")) {
                return refuse(s, 417, "expectation not known");
            }
            s->expect = 1;
        }
        break;
    case 7:
        if (ET_CHARS_IS(name, nn, "upgrade")) {
            upgrade(s, v, nv, base);
        }
        break;
    case 10:
        if (ET_CHARS_IS(name, nn, "connection")) {
            return connection(s, v, nv, base);
        }
        break;
    case 14:
        if (ET_CHARS_IS(name, nn, "content-length")) {
            return content_length(s, v, nv);
        }
        break;
    case 17:
        if (ET_CHARS_IS(name, nn, "transfer-encoding")) {
            return transfer_encoding(s, v, nv);
        }
        if (ET_CHARS_IS(name, nn, "sec-websocket-key")) {
            s->ws_keys++;
            s->ws_key = value;
        }
        break;
    case 20:
        if (ET_CHARS_IS(name, nn, "sec-websocket-accept")) {
            s->ws_accept = value;
        }
        break;
    case 21:
        if (ET_CHARS_IS(name, nn, "sec-websocket-version")) {
            s->ws_version = value;
        }
        break;
    default:
        break;
    }
    return ES_OK;
}

static int field(struct et_scan *s, const uint8_t *p, size_t at, size_t n)
{
    const uint8_t *line = p + at;
    size_t name = et_chars_span(line, n, ET_CHAR_TOKEN), from = name + 1, to = n;

    if (line[0] == ' ' || line[0] == '\t') {
        return refuse(s, 400, "folded field line");
    }
    if (name == 0 || name == n || line[name] != ':') {
        return refuse(s, 400, "malformed field name");
    }
    if (et_chars_span(line + from, n - from, ET_CHAR_VALUE) != n - from) {
        return refuse(s, 400, "forbidden byte in a field");
    }
    if (++s->fields > s->limits.head_fields) {
        return refuse(s, 431, "too many fields");
    }
    while (from < to && (line[from] == ' ' || line[from] == '\t')) {
        from++;
    }
    while (to > from && (line[to - 1] == ' ' || line[to - 1] == '\t')) {
        to--;
    }
    return s->kind == ET_SCAN_TRAILERS ? ES_OK : note(s, line, name, line + from, to - from, at + from);
}

static int same_text(const uint8_t *p, struct et_span a, struct et_span b)
{
    if (a.n != b.n) {
        return 0;
    }
    for (size_t i = 0; i < a.n; i++) {
        if (et_chars_lower(p[a.at + i]) != et_chars_lower(p[b.at + i])) {
            return 0;
        }
    }
    return 1;
}

/* What only the whole head shows. */
static int finish(struct et_scan *s, const uint8_t *p)
{
    if (s->kind == ET_SCAN_TRAILERS) {
        return 1;
    }
    if (s->codings > 0 && s->length >= 0) {
        return refuse(s, 400, "Content-Length beside Transfer-Encoding");
    }
    if (s->codings > 0 && s->minor == 0) {
        return refuse(s, 400, "Transfer-Encoding in HTTP/1.0");
    }
    if (s->kind == ET_SCAN_RESPONSE) {
        return 1;
    }
    if (s->hosts > 1) {
        return refuse(s, 400, "Host twice");
    }
    if (s->hosts == 0 && s->minor > 0) {
        return refuse(s, 400, "no Host");
    }
    if (s->hosts == 1 && !et_chars_authority(p + s->host.at, s->host.n)) {
        return refuse(s, 400, "malformed Host");
    }
    if (s->authority.n > 0 && s->hosts == 1 && !same_text(p, s->authority, s->host)) {
        return refuse(s, 400, "Host and the target's authority differ");
    }
    if (s->authority.n == 0) {
        s->authority = s->host;
    }
    return 1;
}

/* The bytes of a line that has no end yet. */
static int unfinished(struct et_scan *s, size_t n)
{
    if (!s->line && n - s->start > s->limits.target_bytes + MAX_METHOD + 11) {
        return refuse(s, 414, "target too long");
    }
    if (n > s->limits.head_bytes) {
        return refuse(s, 431, "head too large");
    }
    s->seen = n;
    return 0;
}

int et_scan_feed(struct et_scan *s, const uint8_t *p, size_t n)
{
    for (;;) {
        size_t from = s->at > s->seen ? s->at : s->seen, at = s->at, len;
        const uint8_t *end = from < n ? memchr(p + from, '\n', n - from) : NULL;
        int rc;

        if (!s->line && at < n && p[at] != '\r' && (et_chars[p[at]] & ET_CHAR_TOKEN) == 0) {
            return refuse(s, 400, "malformed method"); /* a TLS record, say: no line may ever end */
        }
        if (end == NULL) {
            return unfinished(s, n);
        }
        len = (size_t)(end - p) - at;
        if (len == 0 || end[-1] != '\r') {
            return refuse(s, 400, "line without CR before LF");
        }
        len--;
        s->at = at + len + 2;
        if (s->at > s->limits.head_bytes) {
            return s->line || len <= s->limits.target_bytes ? refuse(s, 431, "head too large")
                                                            : refuse(s, 414, "target too long");
        }
        if (len == 0) {
            if (s->line) {
                return finish(s, p);
            }
            if (s->kind != ET_SCAN_REQUEST || s->start == 2 * MAX_EMPTY_LINES) {
                return refuse(s, 400, "empty line before the request");
            }
            s->start = s->at;
            continue;
        }
        if (s->line) {
            rc = field(s, p, at, len);
        } else {
            s->line = 1;
            rc = s->kind == ET_SCAN_REQUEST ? request_line(s, p, at, len) : status_line(s, p, at, len);
        }
        if (rc != ES_OK) {
            return rc;
        }
    }
}
