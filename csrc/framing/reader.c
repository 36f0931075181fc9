/* Incremental reading of a stream of frames. */
#include "frame.h"

enum state { AT_HEAD, IN_BODY, SKIPPING, DELIVERED, FAILED };

#define KEEP_BODY 65536 /* a body buffer above this is given back once its frame was used */

void es_reader_init(struct es_reader *r, uint64_t max_body)
{
    memset(r, 0, sizeof(*r));
    r->state = AT_HEAD;
    r->max_body = max_body;
}

void es_reader_free(struct es_reader *r)
{
    es_buf_free(&r->body);
    r->state = AT_HEAD;
    r->head_len = 0;
    r->length = 0;
}

void es_reader_limit(struct es_reader *r, uint64_t max_body)
{
    r->max_body = max_body;
}

static int fail(struct es_reader *r, int err, const char *why)
{
    r->state = FAILED;
    r->error = err;
    r->why = why;
    es_buf_free(&r->body);
    return err;
}

static int known_type(uint64_t type)
{
    return type <= ES_FRAME_GOAWAY ? (type & 1) == 0 : type == ES_FRAME_PING || type == ES_FRAME_PONG;
}

/* Type and length were read: checks them and chooses the state. */
static int accept_head(struct es_reader *r)
{
    r->head_len = 0;
    if (!known_type(r->type)) {
        r->state = SKIPPING; /* odd: an even one did not get this far */
        return ES_OK;
    }
    if (r->length > r->max_body) {
        return fail(r, ES_ERR_TOO_LARGE, "a frame is longer than the limit");
    }
    r->state = IN_BODY;
    return ES_OK;
}

/* 0: type and length are there and *used bytes long; ES_ERR_AGAIN: not yet; else an error. A wrong type is
 * refused before its length has come. */
static int parse_head(struct es_reader *r, const uint8_t *p, size_t n, size_t *used)
{
    size_t a = es_varint_get(p, n, &r->type), b;

    if (a == 0) {
        return ES_ERR_AGAIN;
    }
    if (!known_type(r->type) && (r->type & 1) == 0) {
        return fail(r, ES_ERR_PROTOCOL, "a frame of an unknown type");
    }
    b = es_varint_get(p + a, n - a, &r->length);
    if (b == 0) {
        r->length = 0;
        return ES_ERR_AGAIN;
    }
    *used = a + b;
    return ES_OK;
}

static void take(const uint8_t **p, size_t *n, size_t k)
{
    *p += k;
    *n -= k;
}

/* A head that came in pieces: collects it byte by byte. 0: complete or no input left. */
static int collect_head(struct es_reader *r, const uint8_t **p, size_t *n)
{
    while (*n != 0) {
        size_t used;
        int rc;

        r->head[r->head_len++] = **p; /* two varints are 16 bytes at most */
        take(p, n, 1);
        rc = parse_head(r, r->head, r->head_len, &used);
        if (rc != ES_ERR_AGAIN) {
            return rc == ES_OK ? accept_head(r) : rc;
        }
    }
    return ES_OK;
}

static int read_head(struct es_reader *r, const uint8_t **p, size_t *n)
{
    size_t used;
    int rc;

    if (r->head_len != 0) {
        return collect_head(r, p, n);
    }
    rc = parse_head(r, *p, *n, &used);
    if (rc == ES_OK) {
        take(p, n, used);
        return accept_head(r);
    }
    return rc == ES_ERR_AGAIN ? collect_head(r, p, n) : rc;
}

static int deliver(struct es_reader *r, const uint8_t *body, struct es_raw_frame *out)
{
    out->type = r->type;
    out->body = body;
    out->len = (size_t)r->length;
    r->state = DELIVERED;
    r->length = 0;
    return 1;
}

/* 1: delivered; 0: input used up. */
static int read_body(struct es_reader *r, const uint8_t **p, size_t *n, struct es_raw_frame *out)
{
    uint64_t missing = r->length - r->body.n;
    size_t k = *n < missing ? *n : (size_t)missing;

    if (r->body.n == 0 && k == missing) {
        /* All of it lies in the input: no copy. */
        const uint8_t *body = *p;
        take(p, n, k);
        return deliver(r, body, out);
    }
    if (k == 0) {
        return 0;
    }
    if (es_buf_put(&r->body, *p, k) != ES_OK) {
        return fail(r, ES_ERR_NOMEM, "out of memory");
    }
    take(p, n, k);
    return k == missing ? deliver(r, r->body.p, out) : 0;
}

int es_reader_feed(struct es_reader *r, const uint8_t **p, size_t *n, struct es_raw_frame *out)
{
    int rc;

    if (r->state == DELIVERED) {
        es_buf_clear(&r->body);
        es_buf_shrink(&r->body, KEEP_BODY);
        r->state = AT_HEAD;
    }
    for (;;) {
        switch (r->state) {
        case AT_HEAD:
            if (*n == 0) {
                return 0;
            }
            rc = read_head(r, p, n);
            if (rc != ES_OK) {
                return rc;
            }
            if (r->state == AT_HEAD) {
                return 0;
            }
            break;
        case IN_BODY:
            return read_body(r, p, n, out);
        case SKIPPING: {
            size_t k = *n < r->length ? *n : (size_t)r->length;
            take(p, n, k);
            r->length -= k;
            if (r->length != 0) {
                return 0;
            }
            r->state = AT_HEAD;
            break;
        }
        default:
            return r->error;
        }
    }
}

size_t es_reader_buffered(const struct es_reader *r)
{
    return r->state == AT_HEAD ? r->head_len : r->state == IN_BODY ? r->body.n : 0;
}

uint64_t es_reader_missing(const struct es_reader *r)
{
    return r->state == IN_BODY ? r->length - r->body.n : r->state == SKIPPING ? r->length : 0;
}
