/* A peer that speaks HTTP/2 byte by byte, and says what it likes, against one end of h2_env.h. */
#ifndef ET_SPEC_H2_RAW_H
#define ET_SPEC_H2_RAW_H

#include "h2_env.h"

enum {
    DATA,
    HEADERS,
    PRIORITY,
    RST,
    SETTINGS,
    PUSH,
    PING,
    GOAWAY,
    WINDOW,
    CONTINUATION,
    PRIORITY_UPDATE = 16
};
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8 };

static struct {
    struct et_sock sock;
    struct es_buf got; /* frames that are not yet whole */
    int count[32];     /* of each type */
    int rst, rst_code, goaway, goaway_code, goaway_last;
    int status;  /* of the last head, from its first byte (static table) or literal */
    size_t data; /* bytes of DATA */
    int end;     /* END_STREAM came */
    int closed, eof;
    struct et_sock *other;
} raw;

static struct es_buf block; /* a header block that is being made */

static void raw_took(const uint8_t *f, size_t n)
{
    const uint8_t *p = f + 9;

    raw.count[f[3] & 31]++;
    if (f[3] == DATA) {
        raw.data += n;
    }
    if ((f[3] == DATA || f[3] == HEADERS) && (f[4] & END_STREAM)) {
        raw.end++;
    }
    if (f[3] == HEADERS && n > 0) {
        static const int known[] = {200, 204, 206, 304, 400, 404, 500};

        if (p[0] >= 0x88 && p[0] <= 0x8e) {
            raw.status = known[p[0] - 0x88];
        } else if (n > 4 && (p[0] == 0x48 || p[0] == 0x08) && p[1] == 0x03) {
            raw.status = (p[2] - '0') * 100 + (p[3] - '0') * 10 + p[4] - '0';
        } else if (n > 3 && p[0] == 0x48 &&
                   p[1] == 0x82) { /* two bytes of Huffman: digits have 5 or 6 bits */
            raw.status = p[2] << 8 | p[3];
        } else {
            raw.status = -1;
        }
    }
    if (f[3] == RST) {
        raw.rst++;
        raw.rst_code = p[3];
    }
    if (f[3] == GOAWAY) {
        raw.goaway++;
        raw.goaway_last = (p[0] & 127) << 24 | p[1] << 16 | p[2] << 8 | p[3];
        raw.goaway_code = p[7];
    }
}

static void raw_data(void *user, const uint8_t *p, size_t n)
{
    es_buf_put(&raw.got, p, n);
    if (raw.got.n >= 24 && memcmp(raw.got.p, "PRI * HTTP/2.0", 14) == 0) {
        es_buf_drop(&raw.got, 24);
    }
    while (raw.got.n >= 9) {
        size_t len = (size_t)raw.got.p[0] << 16 | raw.got.p[1] << 8 | raw.got.p[2];

        if (raw.got.n < 9 + len) {
            break;
        }
        raw_took(raw.got.p, len);
        es_buf_drop(&raw.got, 9 + len);
    }
}

static void raw_closed(void *user, int err, const char *text)
{
    raw.closed = 1;
}

static void raw_eof(void *user)
{
    raw.eof = 1;
    et_sock_close(&raw.sock, 1);
}

static const struct et_sock_events raw_events = {.data = raw_data, .eof = raw_eof, .closed = raw_closed};

static void raw_pump(void)
{
    sock_pump_2(&raw.sock, raw.other);
}

static void raw_sleep(uint64_t ns)
{
    sock_sleep(&raw.sock, raw.other, ns);
}

static void raw_put(const void *p, size_t n)
{
    es_buf_put(&raw.sock.out, p, n);
}

static void raw_frame(int type, int flags, uint32_t id, const void *p, size_t n)
{
    uint8_t head[9] = {(uint8_t)(n >> 16),  (uint8_t)(n >> 8),  (uint8_t)n,
                       (uint8_t)type,       (uint8_t)flags,     (uint8_t)(id >> 24),
                       (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id};

    raw_put(head, 9);
    raw_put(p, n);
}

__attribute__((unused)) static void raw_frame_32(int type, uint32_t id, uint32_t value)
{
    uint8_t p[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};

    raw_frame(type, 0, id, p, 4);
}

static void raw_number(unsigned first, unsigned bits, size_t n) /* RFC 7541 5.1 */
{
    size_t most = ((size_t)1 << bits) - 1;
    uint8_t b;

    if (n < most) {
        b = (uint8_t)(first | n);
        es_buf_put(&block, &b, 1);
        return;
    }
    b = (uint8_t)(first | most);
    es_buf_put(&block, &b, 1);
    for (n -= most; n >= 128; n >>= 7) {
        b = (uint8_t)(128 | (n & 127));
        es_buf_put(&block, &b, 1);
    }
    b = (uint8_t)n;
    es_buf_put(&block, &b, 1);
}

/* Literal, not indexed. */
static void field_n(const char *name, size_t nn, const char *value, size_t nv)
{
    raw_number(0, 4, 0);
    raw_number(0, 7, nn);
    es_buf_put(&block, name, nn);
    raw_number(0, 7, nv);
    es_buf_put(&block, value, nv);
}

static void f(const char *name, const char *value)
{
    field_n(name, strlen(name), value, strlen(value));
}

static void raw_headers(uint32_t id, int flags)
{
    size_t at = 0;

    do {
        size_t n = block.n - at < 16384 ? block.n - at : 16384;
        int last = at + n == block.n;

        raw_frame(at == 0 ? HEADERS : CONTINUATION,
                  (at == 0 ? flags & ~END_HEADERS : 0) | (last ? flags & END_HEADERS : 0), id, block.p + at,
                  n);
        at += n;
    } while (at < block.n);
    es_buf_clear(&block);
}

__attribute__((unused)) static void raw_get(uint32_t id, int fin)
{
    f(":method", fin ? "GET" : "POST");
    f(":scheme", "https");
    f(":authority", "example.org");
    f(":path", "/");
    raw_headers(id, END_HEADERS | (fin ? END_STREAM : 0));
}

/* Our side towards a visitor; the raw peer has not said anything yet. */
static void raw_open(enum et_http_role role, const struct et_http_limits *limits)
{
    struct end *e = role == ET_HTTP_VISITOR ? &visitor : &backend;
    struct es_mem_stats m;

    es_mem_stats(&m);
    env_memory = m.in_use;
    memset(&visitor, 0, sizeof(visitor));
    memset(&backend, 0, sizeof(backend));
    memset(&raw, 0, sizeof(raw));
    sock_pair(&raw.sock, &e->sock);
    raw.sock.ev = &raw_events;
    raw.sock.high = SIZE_MAX;
    raw.other = &e->sock;
    sock_most = 0;
    CHECK_INT(et_http2_new(&e->sock, role, "https", limits, &http_events, e, &e->h), ==, 0);
}

static void raw_hello(enum et_http_role role, const struct et_http_limits *limits)
{
    raw_open(role, limits);
    if (role == ET_HTTP_VISITOR) {
        raw_put("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    }
    raw_frame(SETTINGS, 0, 0, NULL, 0);
    raw_frame(SETTINGS, ACK, 0, NULL, 0);
    raw_pump();
}

static void raw_close(void)
{
    struct end *e = raw.other == &visitor.sock ? &visitor : &backend;
    struct es_mem_stats m;

    raw.other->stuck = 0;
    if (e->h != NULL) {
        e->h->ops->close(e->h);
    }
    raw_sleep(20 * ES_SECOND);
    CHECK(e->closed);
    end_free(e);
    sock_free(&raw.sock);
    es_buf_free(&raw.got);
    es_buf_free(&block);
    es_mem_stats(&m);
    CHECK_INT(m.in_use, ==, env_memory);
}

#endif
