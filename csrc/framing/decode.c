/* Bodies of all frames but HELLO. */
#include "cursor.h"

/* Each decoder reads with one cursor and ends here. */
static int done(const struct es_cursor *c, int rc, const char **why)
{
    if (rc != ES_OK && why != NULL) {
        *why = c->why;
    }
    return rc;
}

static int bad_flags(struct es_cursor *c, uint64_t flags, unsigned defined, uint64_t caps)
{
    if (!es_flags_known(flags, defined)) {
        return es_cursor_fail(c, ES_ERR_PROTOCOL, "a flag that this frame does not have");
    }
    if ((flags & ES_FLAG_ZSTD) != 0 && (caps & ES_CAP_ZSTD) == 0) {
        return es_cursor_fail(c, ES_ERR_PROTOCOL, "compressed, which was not agreed on");
    }
    if ((flags & ES_FLAG_CRC) != 0 && (caps & ES_CAP_CRC) == 0) {
        return es_cursor_fail(c, ES_ERR_PROTOCOL, "with a checksum, which was not agreed on");
    }
    return ES_OK;
}

/* No flag at all is the common case. */
static inline int check_flags(struct es_cursor *c, uint64_t flags, unsigned defined, uint64_t caps)
{
    if ((flags & 0xffff & ~(uint64_t)(defined & ~(unsigned)(ES_FLAG_ZSTD | ES_FLAG_CRC))) == 0) {
        return ES_OK;
    }
    return bad_flags(c, flags, defined, caps);
}

/* The payload is what is left. A flag whose bytes cannot be there is refused here; the bytes themselves
 * (plain size and compressed data, checksum at the end) stay in the payload for whoever undoes them. */
static int read_payload(struct es_cursor *c, uint64_t flags, struct es_bytes *out)
{
    es_cursor_rest(c, out);
    if ((flags & (ES_FLAG_ZSTD | ES_FLAG_CRC)) != 0) {
        size_t least = ((flags & ES_FLAG_ZSTD) != 0 ? 1 : 0) + ((flags & ES_FLAG_CRC) != 0 ? 4 : 0);
        if (out->n < least) {
            return es_cursor_fail(c, ES_ERR_PROTOCOL, "too short for its checksum or its plain size");
        }
    }
    return ES_OK;
}

int es_request_decode(struct es_request *out, const uint8_t *p, size_t n, uint64_t caps, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    if ((rc = es_cursor_varint(&c, &out->flags)) != ES_OK ||
        (rc = check_flags(&c, out->flags, ES_FLAGS_REQUEST, caps)) != ES_OK ||
        (rc = es_cursor_varint(&c, &out->codec)) != ES_OK ||
        (rc = es_cursor_varint(&c, &out->request_id)) != ES_OK ||
        (rc = es_cursor_name(&c, &out->method)) != ES_OK ||
        (rc = es_cursor_varint(&c, &out->deadline_ms)) != ES_OK ||
        (rc = es_cursor_varint(&c, &out->priority)) != ES_OK) {
        return done(&c, rc, why);
    }
    if (out->priority > 7) {
        return done(&c, es_cursor_fail(&c, ES_ERR_PROTOCOL, "a priority above 7"), why);
    }
    if ((rc = es_cursor_kv(&c, &out->metadata)) == ES_OK) {
        rc = read_payload(&c, out->flags, &out->payload);
    }
    return done(&c, rc, why);
}

static int read_failure(struct es_cursor *c, struct es_response *out)
{
    int rc;

    if ((rc = es_cursor_name(c, &out->code)) != ES_OK || (rc = es_cursor_bytes(c, &out->message)) != ES_OK) {
        return rc;
    }
    if (out->message.n > ES_MAX_MESSAGE_TEXT) {
        return es_cursor_fail(c, ES_ERR_TOO_LARGE, "an error message longer than 1 KiB");
    }
    if ((rc = es_cursor_varint(c, &out->processed)) != ES_OK ||
        (rc = es_cursor_varint(c, &out->retry_after_ms)) != ES_OK) {
        return rc;
    }
    if (out->processed > ES_PROCESSED_YES) {
        return es_cursor_fail(c, ES_ERR_PROTOCOL, "processed is none of 0, 1, 2");
    }
    return ES_OK;
}

int es_response_decode(struct es_response *out, const uint8_t *p, size_t n, uint64_t caps, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    if ((rc = es_cursor_varint(&c, &out->flags)) != ES_OK ||
        (rc = check_flags(&c, out->flags, ES_FLAGS_RESPONSE, caps)) != ES_OK ||
        (rc = es_cursor_varint(&c, &out->codec)) != ES_OK ||
        (rc = es_cursor_varint(&c, &out->status)) != ES_OK) {
        return done(&c, rc, why);
    }
    if (out->status > ES_STATUS_UNAUTHENTICATED) {
        return done(&c, es_cursor_fail(&c, ES_ERR_PROTOCOL, "a status above 16"), why);
    }
    if ((rc = es_cursor_kv(&c, &out->trailers)) != ES_OK) {
        return done(&c, rc, why);
    }
    if (out->status != ES_STATUS_OK) {
        rc = read_failure(&c, out);
        if (rc != ES_OK) {
            return done(&c, rc, why);
        }
    } else {
        out->code.p = out->message.p = NULL;
        out->code.n = out->message.n = 0;
        out->processed = ES_PROCESSED_YES;
        out->retry_after_ms = 0;
    }
    return done(&c, read_payload(&c, out->flags, &out->payload), why);
}

int es_head_decode(struct es_head *out, const uint8_t *p, size_t n, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    if ((rc = es_cursor_varint(&c, &out->flags)) == ES_OK &&
        (rc = check_flags(&c, out->flags, ES_FLAGS_HEAD, 0)) == ES_OK &&
        (rc = es_cursor_kv(&c, &out->metadata)) == ES_OK) {
        rc = es_cursor_end(&c);
    }
    return done(&c, rc, why);
}

int es_data_decode(struct es_data *out, const uint8_t *p, size_t n, uint64_t caps, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    out->seq = out->wall_time_us = 0;
    if ((rc = es_cursor_varint(&c, &out->flags)) == ES_OK &&
        (rc = check_flags(&c, out->flags, ES_FLAGS_DATA, caps)) == ES_OK &&
        (rc = es_cursor_varint(&c, &out->codec)) == ES_OK &&
        ((out->flags & ES_FLAG_SEQ) == 0 || (rc = es_cursor_varint(&c, &out->seq)) == ES_OK) &&
        ((out->flags & ES_FLAG_WALL) == 0 || (rc = es_cursor_varint(&c, &out->wall_time_us)) == ES_OK)) {
        rc = read_payload(&c, out->flags, &out->payload);
    }
    return done(&c, rc, why);
}

int es_cancel_decode(struct es_cancel *out, const uint8_t *p, size_t n, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    if ((rc = es_cursor_varint(&c, &out->request_id)) == ES_OK &&
        (rc = es_cursor_varint(&c, &out->code)) == ES_OK) {
        rc = es_cursor_end(&c);
    }
    return done(&c, rc, why);
}

int es_event_decode(struct es_wire_event *out, const uint8_t *p, size_t n, uint64_t caps, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    out->wall_time_us = 0;
    if ((rc = es_cursor_varint(&c, &out->flags)) == ES_OK &&
        (rc = check_flags(&c, out->flags, ES_FLAGS_EVENT, caps)) == ES_OK &&
        (rc = es_cursor_varint(&c, &out->codec)) == ES_OK &&
        (rc = es_cursor_varint(&c, &out->seq)) == ES_OK && (rc = es_cursor_name(&c, &out->name)) == ES_OK &&
        ((out->flags & ES_FLAG_WALL) == 0 || (rc = es_cursor_varint(&c, &out->wall_time_us)) == ES_OK) &&
        (rc = es_cursor_kv(&c, &out->metadata)) == ES_OK) {
        rc = read_payload(&c, out->flags, &out->payload);
    }
    return done(&c, rc, why);
}

int es_goaway_decode(struct es_goaway *out, const uint8_t *p, size_t n, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    if ((rc = es_cursor_varint(&c, &out->grace_ms)) == ES_OK &&
        (rc = es_cursor_varint(&c, &out->retry_after_ms)) == ES_OK &&
        (rc = es_cursor_bytes(&c, &out->reason)) == ES_OK) {
        rc = out->reason.n > ES_MAX_MESSAGE_TEXT
                 ? es_cursor_fail(&c, ES_ERR_TOO_LARGE, "a reason longer than 1 KiB")
                 : es_cursor_end(&c);
    }
    return done(&c, rc, why);
}

int es_ping_decode(struct es_ping *out, const uint8_t *p, size_t n, int pong, const char **why)
{
    struct es_cursor c;
    int rc;

    es_cursor_init(&c, p, n);
    out->t2 = out->t3 = 0;
    if ((rc = es_cursor_varint(&c, &out->t1)) == ES_OK &&
        (!pong || ((rc = es_cursor_varint(&c, &out->t2)) == ES_OK &&
                   (rc = es_cursor_varint(&c, &out->t3)) == ES_OK))) {
        rc = es_cursor_end(&c);
    }
    return done(&c, rc, why);
}
