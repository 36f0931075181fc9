#include "parts.h"
#include <string.h>
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/varint.h"

#define TEXT_MAX 1024

int et_part_next(const uint8_t **p, size_t *n, struct et_part *out)
{
    uint64_t length;
    size_t k;

    if (*n == 0) {
        return 0;
    }
    out->type = (enum et_part_type)(*p)[0];
    k = es_varint_get(*p + 1, *n - 1, &length);
    if ((*p)[0] < ET_PART_HEAD || (*p)[0] > ET_PART_NOTE || k == 0 || length > *n - 1 - k ||
        (out->type == ET_PART_BODY && length > ET_PART_BODY_MAX) ||
        (out->type == ET_PART_END && length != 0)) {
        return ES_ERR_PROTOCOL;
    }
    out->p = *p + 1 + k;
    out->n = (size_t)length;
    *n -= 1 + k + out->n;
    *p = out->p + out->n;
    return 1;
}

int et_part_check(const uint8_t *p, size_t n)
{
    struct et_part part;
    int rv = ES_ERR_PROTOCOL;

    while (n > 0) {
        rv = et_part_next(&p, &n, &part);
        if (rv < 0) {
            return rv;
        }
        rv = 0;
    }
    return rv;
}

static enum et_part_type type_of(const struct et_head *h)
{
    switch (et_head_kind(h)) {
    case ET_HEAD_TRAILERS:
        return ET_PART_TRAILERS;
    case ET_HEAD_RESPONSE:
        return et_head_status(h) < 200 ? ET_PART_INFORMATIONAL : ET_PART_HEAD;
    case ET_HEAD_REQUEST:
        break;
    }
    return ET_PART_HEAD;
}

int et_part_head(const struct et_part *part, struct et_head **out)
{
    int rv = et_head_decode(part->p, part->n, out);

    if (rv == 0 && (type_of(*out) != part->type ||
                    (et_head_kind(*out) == ET_HEAD_RESPONSE && et_head_status(*out) == 101))) {
        et_head_del(*out);
        *out = NULL;
        rv = ES_ERR_PROTOCOL;
    }
    return rv;
}

int et_part_reset(const struct et_part *part, uint64_t *why, struct et_text *text)
{
    size_t k = es_varint_get(part->p, part->n, why);

    if (k == 0) {
        return ES_ERR_PROTOCOL;
    }
    *text = (struct et_text){(const char *)part->p + k, part->n - k};
    return 0;
}

/* ---- writing ---- */

size_t et_part_before(uint8_t *end, enum et_part_type type, size_t n)
{
    size_t k = es_varint_len(n);

    (void)es_varint_put(end - k, n);
    end[-(ptrdiff_t)k - 1] = (uint8_t)type;
    return k + 1;
}

static int begin(struct es_buf *out, enum et_part_type type, size_t n)
{
    if (es_buf_reserve(out, 1 + es_varint_len(n) + n) != 0) {
        return ES_ERR_NOMEM;
    }
    out->p[out->n++] = (uint8_t)type;
    out->n += es_varint_put(out->p + out->n, n);
    return 0;
}

int et_part_put(struct es_buf *out, enum et_part_type type, const void *p, size_t n)
{
    return begin(out, type, n) != 0 ? ES_ERR_NOMEM : es_buf_put(out, p, n);
}

int et_part_put_head(struct es_buf *out, const struct et_head *h)
{
    return begin(out, type_of(h), et_head_size(h)) != 0 ? ES_ERR_NOMEM : et_head_encode(h, out);
}

int et_part_put_body(struct es_buf *out, const void *p, size_t n)
{
    const uint8_t *from = p;
    int rv = 0;

    while (n > 0 && rv == 0) {
        size_t k = n < ET_PART_BODY_MAX ? n : ET_PART_BODY_MAX;
        rv = et_part_put(out, ET_PART_BODY, from, k);
        from += k;
        n -= k;
    }
    return rv;
}

int et_part_put_reset(struct es_buf *out, unsigned why, const char *text, size_t n)
{
    n = n < TEXT_MAX ? n : TEXT_MAX;
    if (begin(out, ET_PART_RESET, es_varint_len(why) + n) != 0) {
        return ES_ERR_NOMEM;
    }
    out->n += es_varint_put(out->p + out->n, why);
    return es_buf_put(out, text, n);
}
