/* The property that the wire format's fuzz targets check: what decodes is written again without complaint, no
 * longer than it came, and that decodes and is written as the same bytes. */
#ifndef ES_SPEC_FUZZ_ROUNDTRIP_H
#define ES_SPEC_FUZZ_ROUNDTRIP_H

#include <stdio.h>
#include <stdlib.h>
#include "../../csrc/framing/frame.h"

#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);                         \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* Every reading of the decoded bytes must stay inside the body they were decoded from. */
static void inside(const uint8_t *p, size_t n, const uint8_t *body, size_t len)
{
    MUST(n == 0 || (p >= body && n <= len && p + n <= body + len));
}

static void walk(const struct es_kv *kv, const uint8_t *body, size_t len)
{
    struct es_bytes k, v;
    size_t offset = 0, count = 0;

    inside(kv->p, kv->n, body, len);
    while (es_kv_next(kv, &offset, &k, &v)) {
        MUST(k.n >= 1 && k.n <= ES_MAX_META_KEY);
        inside(k.p, k.n, body, len);
        inside(v.p, v.n, body, len);
        count++;
    }
    MUST(offset == kv->n && count == kv->count && count <= ES_MAX_META_PAIRS && kv->n <= ES_MAX_META_BYTES);
}

static int with_payload(int rc, struct es_buf *out, const struct es_bytes *payload)
{
    return rc == ES_OK ? es_buf_put(out, payload->p, payload->n) : rc;
}

/* Decodes one body and appends the whole frame to `out`. The decoder's verdict; everything after it must
 * work. */
static int recode(uint64_t type, const uint8_t *p, size_t n, uint64_t caps, struct es_buf *out)
{
    const char *why = NULL;
    union {
        struct es_hello hello;
        struct es_request request;
        struct es_response response;
        struct es_head head;
        struct es_data data;
        struct es_cancel cancel;
        struct es_wire_event event;
        struct es_goaway goaway;
        struct es_ping ping;
    } f;
    int rc, enc = ES_OK;

    switch (type) {
    case ES_FRAME_HELLO:
        if ((rc = es_hello_decode(&f.hello, p, n, &why)) == ES_OK) {
            walk(&f.hello.credentials, p, n);
            inside(f.hello.agent.p, f.hello.agent.n, p, n);
            enc = es_hello_encode(out, &f.hello);
        }
        break;
    case ES_FRAME_REQUEST:
        if ((rc = es_request_decode(&f.request, p, n, caps, &why)) == ES_OK) {
            walk(&f.request.metadata, p, n);
            enc = with_payload(es_request_encode_head(out, &f.request, f.request.payload.n), out,
                               &f.request.payload);
        }
        break;
    case ES_FRAME_RESPONSE:
        if ((rc = es_response_decode(&f.response, p, n, caps, &why)) == ES_OK) {
            walk(&f.response.trailers, p, n);
            inside(f.response.message.p, f.response.message.n, p, n);
            enc = with_payload(es_response_encode_head(out, &f.response, f.response.payload.n), out,
                               &f.response.payload);
        }
        break;
    case ES_FRAME_HEAD:
        if ((rc = es_head_decode(&f.head, p, n, &why)) == ES_OK) {
            walk(&f.head.metadata, p, n);
            enc = es_head_encode(out, &f.head);
        }
        break;
    case ES_FRAME_DATA:
        if ((rc = es_data_decode(&f.data, p, n, caps, &why)) == ES_OK) {
            enc = with_payload(es_data_encode_head(out, &f.data, f.data.payload.n), out, &f.data.payload);
        }
        break;
    case ES_FRAME_CANCEL:
        if ((rc = es_cancel_decode(&f.cancel, p, n, &why)) == ES_OK) {
            enc = es_cancel_encode(out, &f.cancel);
        }
        break;
    case ES_FRAME_EVENT:
        if ((rc = es_event_decode(&f.event, p, n, caps, &why)) == ES_OK) {
            walk(&f.event.metadata, p, n);
            enc = with_payload(es_event_encode_head(out, &f.event, f.event.payload.n, 0), out,
                               &f.event.payload);
        }
        break;
    case ES_FRAME_GOAWAY:
        if ((rc = es_goaway_decode(&f.goaway, p, n, &why)) == ES_OK) {
            enc = es_goaway_encode(out, &f.goaway);
        }
        break;
    default:
        MUST(type == ES_FRAME_PING || type == ES_FRAME_PONG);
        if ((rc = es_ping_decode(&f.ping, p, n, type == ES_FRAME_PONG, &why)) == ES_OK) {
            enc = es_ping_encode(out, &f.ping, type == ES_FRAME_PONG);
        }
    }
    MUST(rc == ES_OK || rc == ES_ERR_PROTOCOL || rc == ES_ERR_TOO_LARGE);
    MUST((rc == ES_OK) == (why == NULL));
    MUST(enc == ES_OK);
    return rc;
}

static void roundtrip(uint64_t type, const uint8_t *p, size_t n, uint64_t caps)
{
    struct es_buf first = {0}, second = {0};
    struct es_reader r;
    struct es_raw_frame f;
    const uint8_t *q;
    size_t left;

    if (recode(type, p, n, caps, &first) == ES_OK) {
        es_reader_init(&r, n);
        q = first.p;
        left = first.n;
        MUST(es_reader_feed(&r, &q, &left, &f) == 1 && left == 0 && f.type == type && f.len <= n);
        MUST(recode(type, f.body, f.len, caps, &second) == ES_OK);
        MUST(second.n == first.n && memcmp(first.p, second.p, first.n) == 0);
        es_reader_free(&r);
    }
    es_buf_free(&first);
    es_buf_free(&second);
}

#endif
