#include "hello.h"
#include <string.h>
#include "../../../csrc/base/err.h"

#define RECORD_MAX 16384

/* Reads the bytes of handshake messages across the records that carry them (RFC 8446 5.1). */
struct reader {
    const uint8_t *p, *end;
    size_t record; /* bytes of the record at hand that are left */
    int err;       /* 0, ES_ERR_AGAIN, ES_ERR_PROTOCOL: everything reads 0 then */
};

static void next_record(struct reader *r)
{
    static const uint8_t start[2] = {22, 3}; /* handshake, any version of TLS */
    size_t n = (size_t)(r->end - r->p), length;

    for (size_t i = 0; i < n && i < sizeof start; i++) {
        if (r->p[i] != start[i]) {
            r->err = ES_ERR_PROTOCOL;
            return;
        }
    }
    if (n < 5) {
        r->err = ES_ERR_AGAIN;
        return;
    }
    length = (size_t)r->p[3] << 8 | r->p[4];
    if (r->p[2] > 4 || length == 0 || length > RECORD_MAX) {
        r->err = ES_ERR_PROTOCOL;
        return;
    }
    r->p += 5;
    r->record = length;
}

static unsigned byte(struct reader *r)
{
    if (r->err == 0 && r->record == 0) {
        next_record(r);
    }
    if (r->err == 0 && r->p == r->end) {
        r->err = ES_ERR_AGAIN;
    }
    if (r->err != 0) {
        return 0;
    }
    r->record--;
    return *r->p++;
}

static size_t number(struct reader *r, int bytes)
{
    size_t v = 0;

    while (bytes-- > 0) {
        v = v << 8 | byte(r);
    }
    return v;
}

static void skip(struct reader *r, size_t n)
{
    while (n > 0 && r->err == 0) {
        size_t k;
        (void)byte(r);
        n--;
        k = (size_t)(r->end - r->p);
        k = k < r->record ? k : r->record;
        k = k < n ? k : n;
        r->p += k;
        r->record -= k;
        n -= k;
    }
}

/* Takes `n` of *left, which a length inside may not exceed. */
static int within(struct reader *r, size_t *left, size_t n)
{
    if (r->err == 0 && n > *left) {
        r->err = ES_ERR_PROTOCOL;
    }
    if (r->err != 0) {
        return 0;
    }
    *left -= n;
    return 1;
}

static int is_name_byte(unsigned c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

static void read_name(struct reader *r, size_t left, char name[ET_HELLO_NAME])
{
    size_t list, n;
    unsigned type;

    if (!within(r, &left, 2)) {
        return;
    }
    list = number(r, 2);
    if (r->err == 0 && list != left) {
        r->err = ES_ERR_PROTOCOL;
    }
    if (!within(r, &list, 3)) {
        return;
    }
    type = byte(r);
    n = number(r, 2);
    /* One name, of a host: nobody has ever sent two, nor another kind. */
    if (r->err == 0 && (type != 0 || n != list || n == 0 || n >= ET_HELLO_NAME)) {
        r->err = ES_ERR_PROTOCOL;
    }
    for (size_t i = 0; i < n && r->err == 0; i++) {
        unsigned c = byte(r);
        c = c >= 'A' && c <= 'Z' ? c + 32 : c;
        if (r->err == 0 && !is_name_byte(c)) {
            r->err = ES_ERR_PROTOCOL;
        }
        name[i] = (char)c;
        name[i + 1] = '\0';
    }
}

static void read_extensions(struct reader *r, size_t left, char name[ET_HELLO_NAME])
{
    int seen = 0;

    while (left > 0 && within(r, &left, 4)) {
        size_t type = number(r, 2), n = number(r, 2);
        if (!within(r, &left, n)) {
            return;
        }
        if (type != 0) {
            skip(r, n);
        } else if (seen++) {
            r->err = ES_ERR_PROTOCOL;
        } else {
            read_name(r, n, name);
        }
    }
}

/* A vector with a length of so many bytes, which is not looked into. */
static int skip_vector(struct reader *r, size_t *left, int bytes)
{
    size_t n;

    if (!within(r, left, (size_t)bytes)) {
        return 0;
    }
    n = number(r, bytes);
    if (!within(r, left, n)) {
        return 0;
    }
    skip(r, n);
    return r->err == 0;
}

int et_hello_name(const uint8_t *p, size_t n, char name[ET_HELLO_NAME])
{
    struct reader r = {p, p + n, 0, 0};
    size_t left, extensions;
    unsigned type;

    name[0] = '\0';
    type = byte(&r);
    if (r.err == 0 && type != 1) {
        return ES_ERR_PROTOCOL;
    }
    left = number(&r, 3);
    if (r.err == 0 && left > ET_HELLO_MAX) {
        return ES_ERR_PROTOCOL;
    }
    if (within(&r, &left, 2 + 32)) { /* version and random */
        skip(&r, 2 + 32);
    }
    /* session id, cipher suites, compression methods */
    if (skip_vector(&r, &left, 1) && skip_vector(&r, &left, 2) && skip_vector(&r, &left, 1) && left > 0 &&
        within(&r, &left, 2)) {
        extensions = number(&r, 2);
        if (r.err == 0 && extensions != left) {
            r.err = ES_ERR_PROTOCOL;
        }
        read_extensions(&r, extensions, name);
    }
    if (r.err != 0) {
        name[0] = '\0';
    }
    return r.err;
}
