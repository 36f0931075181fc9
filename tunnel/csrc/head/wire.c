/* Heads as they travel between server and agent. */
#include <string.h>
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/varint.h"
#include "head.h"

#define PARTS 5

static size_t text_size(struct et_text t)
{
    return es_varint_len(t.n) + t.n;
}

static uint8_t *put_text(uint8_t *p, struct et_text t)
{
    p += es_varint_put(p, t.n);
    if (t.n != 0) {
        memcpy(p, t.p, t.n);
    }
    return p + t.n;
}

size_t et_head_size(const struct et_head *h)
{
    size_t count = et_head_count(h), n = 1 + es_varint_len(count);

    if (et_head_kind(h) == ET_HEAD_REQUEST) {
        for (int i = 0; i < PARTS; i++) {
            n += text_size(et_head_part(h, (enum et_head_part)i));
        }
    } else if (et_head_kind(h) == ET_HEAD_RESPONSE) {
        n += es_varint_len((uint64_t)et_head_status(h));
    }
    for (size_t i = 0; i < count; i++) {
        struct et_field f = et_head_field(h, i);
        n += text_size(f.name) + text_size(f.value);
    }
    return n;
}

int et_head_encode(const struct et_head *h, struct es_buf *out)
{
    size_t count = et_head_count(h);
    uint8_t *p;

    if (es_buf_reserve(out, et_head_size(h)) != 0) {
        return ES_ERR_NOMEM;
    }
    p = out->p + out->n;
    *p++ = (uint8_t)et_head_kind(h);
    if (et_head_kind(h) == ET_HEAD_REQUEST) {
        for (int i = 0; i < PARTS; i++) {
            p = put_text(p, et_head_part(h, (enum et_head_part)i));
        }
    } else if (et_head_kind(h) == ET_HEAD_RESPONSE) {
        p += es_varint_put(p, (uint64_t)et_head_status(h));
    }
    p += es_varint_put(p, count);
    for (size_t i = 0; i < count; i++) {
        struct et_field f = et_head_field(h, i);
        p = put_text(put_text(p, f.name), f.value);
    }
    out->n = (size_t)(p - out->p);
    return 0;
}

/* ---- reading ---- */

struct cursor {
    const uint8_t *p, *end;
};

static int get_number(struct cursor *c, uint64_t *out)
{
    size_t n = es_varint_get(c->p, (size_t)(c->end - c->p), out);

    c->p += n;
    return n != 0 ? 0 : ES_ERR_PROTOCOL;
}

static int get_text(struct cursor *c, struct et_text *out)
{
    uint64_t n;

    if (get_number(c, &n) != 0 || n > (uint64_t)(c->end - c->p)) {
        return ES_ERR_PROTOCOL;
    }
    *out = (struct et_text){(const char *)c->p, (size_t)n};
    c->p += n;
    return 0;
}

/* What the setters say of a peer's bytes. */
static int judged(int rv)
{
    return rv == ES_ERR_INVAL ? ES_ERR_PROTOCOL : rv;
}

static int read_line(struct cursor *c, struct et_head *h)
{
    struct et_text t;
    uint64_t status;
    int rv;

    if (et_head_kind(h) == ET_HEAD_REQUEST) {
        for (int i = 0; i < PARTS; i++) {
            if ((rv = get_text(c, &t)) != 0) {
                return rv;
            }
            if (t.n == 0 && i == ET_METHOD) {
                return ES_ERR_PROTOCOL;
            }
            if (t.n != 0 && (rv = et_head_set_part(h, (enum et_head_part)i, t.p, t.n)) != 0) {
                return judged(rv);
            }
        }
    } else if (et_head_kind(h) == ET_HEAD_RESPONSE) {
        if (get_number(c, &status) != 0 || status > 999) {
            return ES_ERR_PROTOCOL;
        }
        return judged(et_head_set_status(h, (int)status));
    }
    return 0;
}

static int read_fields(struct cursor *c, struct et_head *h)
{
    struct et_text name, value;
    uint64_t count;
    int rv;

    if (get_number(c, &count) != 0) {
        return ES_ERR_PROTOCOL;
    }
    for (uint64_t i = 0; i < count; i++) {
        if ((rv = get_text(c, &name)) != 0 || (rv = get_text(c, &value)) != 0 ||
            (rv = judged(et_head_add(h, name.p, name.n, value.p, value.n))) != 0) {
            return rv;
        }
    }
    return c->p == c->end ? 0 : ES_ERR_PROTOCOL;
}

/* Fields that would make two readers of the other side's HTTP/1.1 see two messages. */
static int check_fields(const struct et_head *h)
{
    int lengths = 0;

    for (size_t i = 0; i < et_head_count(h); i++) {
        struct et_field f = et_head_field(h, i);
        if (et_head_is_hop(f.name.p, f.name.n) ||
            (f.name.n == 2 && memcmp(f.name.p, "te", 2) == 0 &&
             !(f.value.n == 8 && memcmp(f.value.p, "trailers", 8) == 0))) {
            return ES_ERR_PROTOCOL;
        }
        lengths += f.name.n == 14 && memcmp(f.name.p, "content-length", 14) == 0;
    }
    return lengths != 0 && (et_head_kind(h) == ET_HEAD_TRAILERS || et_head_length(h) < 0) ? ES_ERR_PROTOCOL
                                                                                          : 0;
}

int et_head_decode(const uint8_t *p, size_t n, struct et_head **out)
{
    struct cursor c = {p, p + n};
    struct et_head *h;
    int rv;

    *out = NULL;
    if (n == 0 || p[0] < ET_HEAD_REQUEST || p[0] > ET_HEAD_TRAILERS) {
        return ES_ERR_PROTOCOL;
    }
    c.p++;
    h = et_head_new((enum et_head_kind)p[0]);
    if (h == NULL) {
        return ES_ERR_NOMEM;
    }
    et_head_widen(h);
    if ((rv = read_line(&c, h)) != 0 || (rv = read_fields(&c, h)) != 0 || (rv = check_fields(h)) != 0) {
        et_head_del(h);
        return rv;
    }
    *out = h;
    return 0;
}
