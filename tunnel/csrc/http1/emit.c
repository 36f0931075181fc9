#include "emit.h"
#include <assert.h>
#include <stdio.h>
#include "../../../csrc/base/err.h"
#include "chars.h"

#define LIT(s) (s), sizeof(s) - 1

static void put(struct es_buf *out, const char *p, size_t n)
{
    assert(out->cap - out->n >= n); /* room() was asked before */
    if (n > 0) {
        memcpy(out->p + out->n, p, n);
        out->n += n;
    }
}

static void put_text(struct es_buf *out, struct et_text t)
{
    put(out, t.p, t.n);
}

static int all(struct et_text t, unsigned class_)
{
    return et_chars_span((const uint8_t *)t.p, t.n, class_) == t.n;
}

static int is(struct et_text t, const char *p, size_t n)
{
    return t.n == n && memcmp(t.p, p, n) == 0;
}

/* Fields that are written from elsewhere, or not at all. */
static int is_ours(struct et_text name, int trailers, int upgrade)
{
    if (et_head_is_hop(name.p, name.n) || is(name, LIT("content-length")) || is(name, LIT("te"))) {
        return 1;
    }
    if (trailers) {
        return is(name, LIT("trailer")) || is(name, LIT("authorization")) || is(name, LIT("cookie"));
    }
    return upgrade && (is(name, LIT("sec-websocket-key")) || is(name, LIT("sec-websocket-accept")));
}

static void put_field(struct es_buf *out, struct et_text name, struct et_text value)
{
    put_text(out, name);
    put(out, LIT(": "));
    put_text(out, value);
    put(out, LIT("\r\n"));
}

/* HTTP/2 may send a cookie in pieces; HTTP/1.1 has one field of them (RFC 9113 8.2.3). */
static void put_cookies(struct es_buf *out, const struct et_head *h, size_t first)
{
    put(out, LIT("cookie: "));
    for (size_t i = first, n = 0; (i = et_head_find(h, "cookie", 6, i)) != SIZE_MAX; i++, n++) {
        if (n > 0) {
            put(out, LIT("; "));
        }
        put_text(out, et_head_field(h, i).value);
    }
    put(out, LIT("\r\n"));
}

static int put_fields(struct es_buf *out, const struct et_head *h, int trailers, int upgrade)
{
    size_t n = et_head_count(h);
    int cookies = 0;

    for (size_t i = 0; i < n; i++) {
        struct et_field f = et_head_field(h, i);

        if (f.name.n == 0 || !all(f.name, ET_CHAR_TOKEN) || !all(f.value, ET_CHAR_VALUE)) {
            return ES_ERR_INVAL;
        }
        if (is_ours(f.name, trailers, upgrade)) {
            continue;
        }
        if (is(f.name, LIT("cookie")) && et_head_kind(h) == ET_HEAD_REQUEST) {
            if (!cookies) {
                put_cookies(out, h, i);
            }
            cookies = 1;
            continue;
        }
        put_field(out, f.name, f.value);
    }
    return ES_OK;
}

static void put_how(struct es_buf *out, const struct et_head *h, const struct et_emit *how)
{
    char length[24];

    if (how->framing == ET_FRAMING_CHUNKED) {
        put(out, LIT("transfer-encoding: chunked\r\n"));
    } else if (how->framing == ET_FRAMING_LENGTH) {
        int64_t n = et_head_length(h);
        int len = snprintf(length, sizeof(length), "%lld", (long long)(n < 0 ? 0 : n));

        put(out, LIT("content-length: "));
        put(out, length, (size_t)len);
        put(out, LIT("\r\n"));
    }
    if (how->upgrade.n > 0) {
        put(out, LIT("connection: upgrade\r\nupgrade: "));
        put_text(out, how->upgrade);
        put(out, LIT("\r\n"));
    } else if (how->connection == NULL && et_head_find(h, "te", 2, 0) != SIZE_MAX) {
        put(out, LIT("te: trailers\r\nconnection: te\r\n")); /* RFC 9110 10.1.4 */
    } else if (how->connection != NULL) {
        put(out, LIT("connection: "));
        put(out, how->connection, strlen(how->connection));
        put(out, LIT("\r\n"));
    }
    if (how->ws_key.n > 0) {
        put_field(out, (struct et_text){LIT("sec-websocket-key")}, how->ws_key);
        if (et_head_find(h, "sec-websocket-version", 21, 0) == SIZE_MAX) {
            put(out, LIT("sec-websocket-version: 13\r\n"));
        }
    }
    if (how->ws_accept.n > 0) {
        put_field(out, (struct et_text){LIT("sec-websocket-accept")}, how->ws_accept);
    }
    put(out, LIT("\r\n"));
}

/* More than the bytes that any head needs beside its text. */
static int room(struct es_buf *out, const struct et_head *h, size_t more)
{
    return es_buf_reserve(out, et_head_bytes(h) + 4 * et_head_count(h) + more + 512);
}

static int undo(struct es_buf *out, size_t n, int rc)
{
    out->n = n;
    return rc;
}

/* The target: origin-form, but authority-form for a plain CONNECT and "*" as it is. */
static int target_of(const struct et_head *h, int upgrade, struct et_text *out)
{
    struct et_text method = et_head_part(h, ET_METHOD);

    if (is(method, LIT("CONNECT")) && !upgrade) {
        *out = et_head_part(h, ET_AUTHORITY);
        return out->n > 0;
    }
    *out = et_head_part(h, ET_PATH);
    if (out->n == 0 || !all(*out, ET_CHAR_TARGET)) {
        return 0;
    }
    return out->p[0] == '/' || (is(*out, LIT("*")) && is(method, LIT("OPTIONS")));
}

int et_emit_request(const struct et_head *h, const struct et_emit *how, struct es_buf *out)
{
    struct et_text method = et_head_part(h, ET_METHOD), host = et_head_part(h, ET_AUTHORITY), target;
    int upgrade = how->upgrade.n > 0;
    size_t before = out->n;

    if (method.n == 0 || !all(method, ET_CHAR_TOKEN) || !target_of(h, upgrade, &target) ||
        (host.n > 0 && !et_chars_authority((const uint8_t *)host.p, host.n))) {
        return ES_ERR_INVAL;
    }
    if (room(out, h, how->upgrade.n + host.n) != ES_OK) { /* of a CONNECT it is the target too */
        return ES_ERR_NOMEM;
    }
    if (upgrade && is(method, LIT("CONNECT"))) { /* RFC 8441's form of it */
        method = (struct et_text){LIT("GET")};
    }
    put_text(out, method);
    put(out, LIT(" "));
    put_text(out, target);
    put(out, LIT(" HTTP/1.1\r\nhost: "));
    put_text(out, host);
    put(out, LIT("\r\n"));
    if (put_fields(out, h, 0, upgrade) != ES_OK) {
        return undo(out, before, ES_ERR_INVAL);
    }
    put_how(out, h, how);
    return ES_OK;
}

int et_emit_response(const struct et_head *h, int status, const struct et_emit *how, struct es_buf *out)
{
    int code = status != 0 ? status : et_head_status(h), len;
    size_t before = out->n;
    char line[64];

    if (room(out, h, how->upgrade.n) != ES_OK) {
        return ES_ERR_NOMEM;
    }
    len = snprintf(line, sizeof(line), "HTTP/1.1 %03d %s\r\n", code, et_emit_reason(code));
    put(out, line, (size_t)len);
    if (put_fields(out, h, 0, how->framing == ET_FRAMING_TUNNEL) != ES_OK) {
        return undo(out, before, ES_ERR_INVAL);
    }
    /* A response to HEAD and a 304 have no body and may say what its length would be. */
    if (how->framing == ET_FRAMING_NONE && et_head_length(h) >= 0 && code >= 200 && code != 204) {
        struct et_emit same = *how;

        same.framing = ET_FRAMING_LENGTH;
        put_how(out, h, &same);
    } else {
        put_how(out, h, how);
    }
    return ES_OK;
}

int et_emit_chunk(const void *p, size_t n, struct es_buf *out)
{
    char size[20];
    int len = snprintf(size, sizeof(size), "%zx\r\n", n);

    if (es_buf_reserve(out, n + (size_t)len + 2) != ES_OK) {
        return ES_ERR_NOMEM;
    }
    put(out, size, (size_t)len);
    put(out, p, n);
    put(out, LIT("\r\n"));
    return ES_OK;
}

int et_emit_last(const struct et_head *trailers, struct es_buf *out)
{
    size_t before = out->n;

    if (es_buf_reserve(out, 16) != ES_OK || (trailers != NULL && room(out, trailers, 0) != ES_OK)) {
        return ES_ERR_NOMEM;
    }
    put(out, LIT("0\r\n"));
    if (trailers != NULL && put_fields(out, trailers, 1, 0) != ES_OK) {
        return undo(out, before, ES_ERR_INVAL);
    }
    put(out, LIT("\r\n"));
    return ES_OK;
}

const char *et_emit_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } list[] = {
        {100, "Continue"},
        {101, "Switching Protocols"},
        {102, "Processing"},
        {103, "Early Hints"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {203, "Non-Authoritative Information"},
        {204, "No Content"},
        {205, "Reset Content"},
        {206, "Partial Content"},
        {300, "Multiple Choices"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {425, "Too Early"},
        {426, "Upgrade Required"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };

    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        if (list[i].status == status) {
            return list[i].reason;
        }
    }
    return "Unknown";
}
