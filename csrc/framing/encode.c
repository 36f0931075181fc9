/* Whole frames of all types but HELLO: sizes are added up first, so that each frame needs one reserve and is
 * written front to back. */
#include "cursor.h"

/* Payloads up to this size are reserved for together with their head: the caller appends them next. */
#define NEAR_PAYLOAD 4096

static inline int fits(uint64_t all_ored)
{
    return all_ored <= ES_VARINT_MAX;
}

static inline int kv_fits(const struct es_kv *kv)
{
    return kv->count <= ES_MAX_META_PAIRS && kv->n <= ES_MAX_META_BYTES && (kv->count == 0) == (kv->n == 0);
}

static inline uint8_t *put_bytes(uint8_t *p, const uint8_t *bytes, size_t n)
{
    p += es_varint_put(p, n);
    if (n != 0) {
        memcpy(p, bytes, n);
    }
    return p + n;
}

static inline uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    return p + es_varint_put(p, v);
}

static inline uint8_t *put_kv(uint8_t *p, const struct es_kv *kv)
{
    p += es_varint_put(p, kv->count);
    if (kv->n != 0) {
        memcpy(p, kv->p, kv->n);
    }
    return p + kv->n;
}

static inline size_t bytes_len(size_t n)
{
    return es_varint_len(n) + n;
}

/* Makes room for a frame whose body is `head` bytes written now and `payload` bytes that follow, and writes
 * type and length. *p: where the body begins. */
static inline int begin(struct es_buf *out, enum es_frame_type type, size_t head, size_t payload, uint8_t **p)
{
    size_t near = payload <= NEAR_PAYLOAD ? payload : 0;
    uint64_t body;
    int rc;

    if (payload > ES_VARINT_MAX - head) {
        return ES_ERR_INVAL;
    }
    rc = es_buf_reserve(out, 1 + 8 + head + near);
    if (rc != ES_OK) {
        return rc;
    }
    body = (uint64_t)head + payload;
    *p = out->p + out->n;
    *(*p)++ = (uint8_t)type;
    *p = put_varint(*p, body);
    return ES_OK;
}

static inline int end(struct es_buf *out, const uint8_t *p)
{
    out->n = (size_t)(p - out->p);
    return ES_OK;
}

int es_request_encode_head(struct es_buf *out, const struct es_request *r, size_t payload_len)
{
    uint8_t *p;
    size_t head;
    int rc;

    if (!fits(r->flags | r->codec | r->request_id | r->deadline_ms) || r->priority > 7 ||
        !es_flags_known(r->flags, ES_FLAGS_REQUEST) || !kv_fits(&r->metadata) ||
        !es_name_valid((const char *)r->method.p, r->method.n)) {
        return ES_ERR_INVAL;
    }
    head = es_varint_len(r->flags) + es_varint_len(r->codec) + es_varint_len(r->request_id) +
           bytes_len(r->method.n) + es_varint_len(r->deadline_ms) + 1 + es_kv_size(&r->metadata);
    rc = begin(out, ES_FRAME_REQUEST, head, payload_len, &p);
    if (rc != ES_OK) {
        return rc;
    }
    p = put_varint(p, r->flags);
    p = put_varint(p, r->codec);
    p = put_varint(p, r->request_id);
    p = put_bytes(p, r->method.p, r->method.n);
    p = put_varint(p, r->deadline_ms);
    *p++ = (uint8_t)r->priority;
    p = put_kv(p, &r->metadata);
    return end(out, p);
}

int es_response_encode_head(struct es_buf *out, const struct es_response *r, size_t payload_len)
{
    int failed = r->status != ES_STATUS_OK;
    uint8_t *p;
    size_t head;
    int rc;

    if (!fits(r->flags | r->codec) || r->status > ES_STATUS_UNAUTHENTICATED ||
        !es_flags_known(r->flags, ES_FLAGS_RESPONSE) || !kv_fits(&r->trailers)) {
        return ES_ERR_INVAL;
    }
    head = es_varint_len(r->flags) + es_varint_len(r->codec) + 1 + es_kv_size(&r->trailers);
    if (failed) {
        if (!es_name_valid((const char *)r->code.p, r->code.n) || r->message.n > ES_MAX_MESSAGE_TEXT ||
            r->processed > ES_PROCESSED_YES || !fits(r->retry_after_ms)) {
            return ES_ERR_INVAL;
        }
        head += bytes_len(r->code.n) + bytes_len(r->message.n) + 1 + es_varint_len(r->retry_after_ms);
    }
    rc = begin(out, ES_FRAME_RESPONSE, head, payload_len, &p);
    if (rc != ES_OK) {
        return rc;
    }
    p = put_varint(p, r->flags);
    p = put_varint(p, r->codec);
    *p++ = (uint8_t)r->status;
    p = put_kv(p, &r->trailers);
    if (failed) {
        p = put_bytes(p, r->code.p, r->code.n);
        p = put_bytes(p, r->message.p, r->message.n);
        *p++ = (uint8_t)r->processed;
        p = put_varint(p, r->retry_after_ms);
    }
    return end(out, p);
}

int es_head_encode(struct es_buf *out, const struct es_head *h)
{
    uint8_t *p;
    int rc;

    if (!fits(h->flags) || !es_flags_known(h->flags, ES_FLAGS_HEAD) || !kv_fits(&h->metadata)) {
        return ES_ERR_INVAL;
    }
    rc = begin(out, ES_FRAME_HEAD, es_varint_len(h->flags) + es_kv_size(&h->metadata), 0, &p);
    if (rc != ES_OK) {
        return rc;
    }
    p = put_varint(p, h->flags);
    p = put_kv(p, &h->metadata);
    return end(out, p);
}

int es_data_encode_head(struct es_buf *out, const struct es_data *d, size_t payload_len)
{
    int has_seq = (d->flags & ES_FLAG_SEQ) != 0, has_wall = (d->flags & ES_FLAG_WALL) != 0;
    uint8_t *p;
    size_t head;
    int rc;

    if (!fits(d->flags | d->codec) || (has_seq && !fits(d->seq)) || (has_wall && !fits(d->wall_time_us)) ||
        !es_flags_known(d->flags, ES_FLAGS_DATA)) {
        return ES_ERR_INVAL;
    }
    head = es_varint_len(d->flags) + es_varint_len(d->codec) + (has_seq ? es_varint_len(d->seq) : 0) +
           (has_wall ? es_varint_len(d->wall_time_us) : 0);
    rc = begin(out, ES_FRAME_DATA, head, payload_len, &p);
    if (rc != ES_OK) {
        return rc;
    }
    p = put_varint(p, d->flags);
    p = put_varint(p, d->codec);
    if (has_seq) {
        p = put_varint(p, d->seq);
    }
    if (has_wall) {
        p = put_varint(p, d->wall_time_us);
    }
    return end(out, p);
}

int es_cancel_encode(struct es_buf *out, const struct es_cancel *c)
{
    uint8_t *p;
    int rc;

    if (!fits(c->request_id | c->code)) {
        return ES_ERR_INVAL;
    }
    rc = begin(out, ES_FRAME_CANCEL, es_varint_len(c->request_id) + es_varint_len(c->code), 0, &p);
    if (rc != ES_OK) {
        return rc;
    }
    p = put_varint(p, c->request_id);
    p = put_varint(p, c->code);
    return end(out, p);
}

int es_event_encode_head(struct es_buf *out, const struct es_wire_event *e, size_t payload_len, int datagram)
{
    int has_wall = (e->flags & ES_FLAG_WALL) != 0;
    uint8_t *p;
    size_t head;
    int rc;

    if (!fits(e->flags | e->codec | e->seq) || (has_wall && !fits(e->wall_time_us)) ||
        !es_flags_known(e->flags, ES_FLAGS_EVENT) || !kv_fits(&e->metadata) ||
        !es_name_valid((const char *)e->name.p, e->name.n)) {
        return ES_ERR_INVAL;
    }
    head = es_varint_len(e->flags) + es_varint_len(e->codec) + es_varint_len(e->seq) + bytes_len(e->name.n) +
           (has_wall ? es_varint_len(e->wall_time_us) : 0) + es_kv_size(&e->metadata);
    rc = begin(out, ES_FRAME_EVENT, head, payload_len, &p);
    if (rc != ES_OK) {
        return rc;
    }
    if (datagram) {
        p = out->p + out->n + 1; /* the datagram's own length does */
    }
    p = put_varint(p, e->flags);
    p = put_varint(p, e->codec);
    p = put_varint(p, e->seq);
    p = put_bytes(p, e->name.p, e->name.n);
    if (has_wall) {
        p = put_varint(p, e->wall_time_us);
    }
    p = put_kv(p, &e->metadata);
    return end(out, p);
}

int es_goaway_encode(struct es_buf *out, const struct es_goaway *g)
{
    uint8_t *p;
    int rc;

    if (!fits(g->grace_ms | g->retry_after_ms) || g->reason.n > ES_MAX_MESSAGE_TEXT) {
        return ES_ERR_INVAL;
    }
    rc = begin(out, ES_FRAME_GOAWAY,
               es_varint_len(g->grace_ms) + es_varint_len(g->retry_after_ms) + bytes_len(g->reason.n), 0, &p);
    if (rc != ES_OK) {
        return rc;
    }
    p = put_varint(p, g->grace_ms);
    p = put_varint(p, g->retry_after_ms);
    p = put_bytes(p, g->reason.p, g->reason.n);
    return end(out, p);
}

int es_ping_encode(struct es_buf *out, const struct es_ping *ping, int pong)
{
    uint8_t *p;
    size_t head;
    int rc;

    if (!fits(ping->t1) || (pong && !fits(ping->t2 | ping->t3))) {
        return ES_ERR_INVAL;
    }
    head = es_varint_len(ping->t1) + (pong ? es_varint_len(ping->t2) + es_varint_len(ping->t3) : 0);
    rc = begin(out, pong ? ES_FRAME_PONG : ES_FRAME_PING, head, 0, &p);
    if (rc != ES_OK) {
        return rc;
    }
    p = put_varint(p, ping->t1);
    if (pong) {
        p = put_varint(p, ping->t2);
        p = put_varint(p, ping->t3);
    }
    return end(out, p);
}
