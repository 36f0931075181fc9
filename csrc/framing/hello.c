/* HELLO: versions, capabilities, and parameters by number; what is not known is ignored. */
#include "cursor.h"

#define KNOWN_PARAMS 7

void es_hello_default(struct es_hello *h)
{
    memset(h, 0, sizeof(*h));
    h->max_message = ES_EARLY_MESSAGE;
    h->max_metadata = ES_MAX_META_BYTES;
    h->max_calls = 100;
    h->max_named_streams = 256;
}

/* Where the value of a number parameter goes; NULL: not a number. */
static uint64_t *number_of(struct es_hello *h, uint64_t id)
{
    switch (id) {
    case ES_HELLO_MAX_MESSAGE:
        return &h->max_message;
    case ES_HELLO_MAX_METADATA:
        return &h->max_metadata;
    case ES_HELLO_MAX_CALLS:
        return &h->max_calls;
    case ES_HELLO_MAX_NAMED_STREAMS:
        return &h->max_named_streams;
    default:
        return NULL;
    }
}

/* (id, name)* to the end of the value. */
static int check_codecs(struct es_cursor *c)
{
    while (es_cursor_left(c) != 0) {
        struct es_bytes name;
        uint64_t id;
        int rc = es_cursor_varint(c, &id);
        if (rc != ES_OK || (rc = es_cursor_name(c, &name)) != ES_OK) {
            return rc;
        }
    }
    return ES_OK;
}

static int read_param(struct es_hello *h, const struct es_hello_param *param, const char **why)
{
    uint64_t *number = number_of(h, param->id);
    struct es_cursor c;
    int rc = ES_OK;

    if (param->id == 0 || param->id > KNOWN_PARAMS) {
        return ES_OK;
    }
    es_cursor_init(&c, param->value.p, param->value.n);
    c.why = "a HELLO parameter ends too early";
    if (number != NULL) {
        rc = es_cursor_varint(&c, number);
    } else if (param->id == ES_HELLO_CODECS) {
        rc = check_codecs(&c);
        h->codecs = param->value;
    } else if (param->id == ES_HELLO_CREDENTIALS) {
        rc = es_cursor_kv(&c, &h->credentials);
    } else {
        es_cursor_rest(&c, &h->agent);
        if (h->agent.n > ES_MAX_AGENT) {
            rc = es_cursor_fail(&c, ES_ERR_TOO_LARGE, "the agent is longer than 256 bytes");
        }
    }
    if (rc == ES_OK && es_cursor_left(&c) != 0) {
        rc = es_cursor_fail(&c, ES_ERR_PROTOCOL, "bytes after the end of a HELLO parameter");
    }
    if (rc != ES_OK) {
        *why = c.why;
    }
    h->has |= 1u << param->id;
    return rc;
}

static int read_params(struct es_hello *h, struct es_cursor *c)
{
    uint64_t n, ids[ES_MAX_HELLO_PARAMS];
    int rc;

    if (es_cursor_varint(c, &n) != ES_OK || n > es_cursor_left(c) / 2) {
        return ES_ERR_PROTOCOL;
    }
    if (n > ES_MAX_HELLO_PARAMS) {
        return es_cursor_fail(c, ES_ERR_TOO_LARGE, "more than 64 HELLO parameters");
    }
    for (uint64_t i = 0; i < n; i++) {
        struct es_hello_param param;
        if ((rc = es_cursor_varint(c, &param.id)) != ES_OK ||
            (rc = es_cursor_bytes(c, &param.value)) != ES_OK) {
            return rc;
        }
        for (uint64_t j = 0; j < i; j++) {
            if (ids[j] == param.id) {
                return es_cursor_fail(c, ES_ERR_PROTOCOL, "a HELLO parameter stands there twice");
            }
        }
        ids[i] = param.id;
        rc = read_param(h, &param, &c->why);
        if (rc != ES_OK) {
            return rc;
        }
    }
    return ES_OK;
}

int es_hello_decode(struct es_hello *out, const uint8_t *p, size_t n, const char **why)
{
    struct es_cursor c;
    int rc;

    es_hello_default(out);
    es_cursor_init(&c, p, n);
    if ((rc = es_cursor_varint(&c, &out->min_minor)) != ES_OK ||
        (rc = es_cursor_varint(&c, &out->max_minor)) != ES_OK ||
        (rc = es_cursor_varint(&c, &out->caps)) != ES_OK) {
        goto out;
    }
    if (out->min_minor > out->max_minor) {
        rc = es_cursor_fail(&c, ES_ERR_PROTOCOL, "the lowest minor version is above the highest");
        goto out;
    }
    if (es_cursor_left(&c) < sizeof(out->instance)) {
        rc = ES_ERR_PROTOCOL;
        goto out;
    }
    memcpy(out->instance, c.p, sizeof(out->instance));
    c.p += sizeof(out->instance);
    rc = read_params(out, &c);
    if (rc == ES_OK) {
        rc = es_cursor_end(&c);
    }
out:
    if (rc != ES_OK && why != NULL) {
        *why = c.why;
    }
    return rc;
}

static int put_varint(struct es_buf *b, uint64_t v)
{
    int rc;

    if (v > ES_VARINT_MAX) {
        return ES_ERR_INVAL;
    }
    rc = es_buf_reserve(b, 8);
    if (rc == ES_OK) {
        b->n += es_varint_put(b->p + b->n, v);
    }
    return rc;
}

static int put_bytes(struct es_buf *b, const uint8_t *p, size_t n)
{
    int rc = put_varint(b, n);

    return rc == ES_OK ? es_buf_put(b, p, n) : rc;
}

static int put_param(struct es_buf *b, const struct es_hello *h, unsigned id)
{
    /* number_of() only finds the place; nothing is written through it here. */
    const uint64_t *number = number_of((struct es_hello *)h, id);
    struct es_cursor c;
    int rc = put_varint(b, id);

    if (rc != ES_OK) {
        return rc;
    }
    if (number != NULL) {
        if (*number > ES_VARINT_MAX) {
            return ES_ERR_INVAL;
        }
        rc = put_varint(b, es_varint_len(*number));
        return rc == ES_OK ? put_varint(b, *number) : rc;
    }
    if (id == ES_HELLO_CREDENTIALS) {
        rc = put_varint(b, es_kv_size(&h->credentials));
        return rc == ES_OK ? es_kv_encode(b, &h->credentials) : rc;
    }
    if (id == ES_HELLO_AGENT) {
        return h->agent.n <= ES_MAX_AGENT ? put_bytes(b, h->agent.p, h->agent.n) : ES_ERR_INVAL;
    }
    es_cursor_init(&c, h->codecs.p, h->codecs.n);
    return check_codecs(&c) == ES_OK ? put_bytes(b, h->codecs.p, h->codecs.n) : ES_ERR_INVAL;
}

int es_hello_encode(struct es_buf *out, const struct es_hello *h)
{
    struct es_buf body = {0};
    size_t keep = out->n;
    unsigned count = 0;
    int rc;

    if ((h->has & ~(((1u << KNOWN_PARAMS) - 1) << 1)) != 0 || h->min_minor > h->max_minor) {
        return ES_ERR_INVAL;
    }
    for (unsigned id = 1; id <= KNOWN_PARAMS; id++) {
        count += h->has >> id & 1;
    }
    if ((rc = put_varint(&body, h->min_minor)) != ES_OK || (rc = put_varint(&body, h->max_minor)) != ES_OK ||
        (rc = put_varint(&body, h->caps)) != ES_OK ||
        (rc = es_buf_put(&body, h->instance, sizeof(h->instance))) != ES_OK ||
        (rc = put_varint(&body, count)) != ES_OK) {
        goto out;
    }
    for (unsigned id = 1; id <= KNOWN_PARAMS; id++) {
        if ((h->has >> id & 1) != 0 && (rc = put_param(&body, h, id)) != ES_OK) {
            goto out;
        }
    }
    if ((rc = put_varint(out, ES_FRAME_HELLO)) != ES_OK || (rc = put_bytes(out, body.p, body.n)) != ES_OK) {
        out->n = keep; /* no half frame */
    }
out:
    es_buf_free(&body);
    return rc;
}
