/* Settings that nghttp3 does not know, ours and the peer's: those of datagrams (RFC 9297) and WebTransport.
 *
 * Ours are put into the SETTINGS frame that nghttp3 writes. */
#include "../base/varint.h"
#include "internal.h"

#define CONNECT_PROTOCOL      0x08
#define H3_DATAGRAM           0x33
#define ENABLE_WEBTRANSPORT   UINT64_C(0x2b603742) /* draft 02: today's browsers */
#define MAX_SESSIONS_DRAFT_07 UINT64_C(0xc671706a)
#define MAX_SESSIONS          UINT64_C(0x14e9cd29)

#define FRAME_SETTINGS 4

/* ---- ours ---- */

static int put(struct es_buf *b, uint64_t v)
{
    int rc = es_buf_reserve(b, 8);

    if (rc == 0) {
        b->n += es_varint_put(b->p + b->n, v);
    }
    return rc;
}

static int put_ours(struct es_buf *b, uint64_t sessions)
{
    const uint64_t ours[] = {H3_DATAGRAM,           1,        ENABLE_WEBTRANSPORT, 1,
                             MAX_SESSIONS_DRAFT_07, sessions, MAX_SESSIONS,        sessions};
    /* A client says only that it could. */
    size_t n = sessions > 0 ? sizeof ours / sizeof *ours : 4;
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = put(b, ours[i]);
    }
    return rc;
}

/* in: type of the stream, SETTINGS, and perhaps more. */
int es_h3_settings_extend(const uint8_t *in, size_t n, uint64_t sessions, struct es_buf *out)
{
    struct es_buf ours = {0};
    uint64_t type, frame, length;
    size_t a = es_varint_get(in, n, &type), b = 0, c = 0;
    int rc = put_ours(&ours, sessions);

    if (a != 0) {
        b = es_varint_get(in + a, n - a, &frame);
    }
    if (b != 0) {
        c = es_varint_get(in + a + b, n - a - b, &length);
    }
    if (rc == 0 && (c == 0 || type != 0 || frame != FRAME_SETTINGS || length > n - a - b - c)) {
        rc = ES_ERR_INVAL; /* nghttp3 does it otherwise than any we know */
    }
    if (rc == 0) {
        rc = es_buf_put(out, in, a + b);
    }
    if (rc == 0) {
        rc = put(out, length + ours.n);
    }
    if (rc == 0) {
        rc = es_buf_put(out, in + a + b + c, (size_t)length);
    }
    if (rc == 0) {
        rc = es_buf_put(out, ours.p, ours.n);
    }
    if (rc == 0) { /* what comes behind */
        rc = es_buf_put(out, in + a + b + c + length, n - a - b - c - (size_t)length);
    }
    es_buf_free(&ours);
    return rc;
}

/* ---- the peer's ---- */

void es_h3_settings_note(struct es_h3_settings *s, uint64_t id, uint64_t value)
{
    switch (id) {
    case H3_DATAGRAM:
        s->datagram = value == 1;
        break;
    case CONNECT_PROTOCOL:
        s->connect = value == 1;
        break;
    case ENABLE_WEBTRANSPORT:
    case MAX_SESSIONS_DRAFT_07:
    case MAX_SESSIONS:
        s->webtransport |= value != 0;
        break;
    default:
        break;
    }
}
