/* The wire format of echostream/1 (docs/PROTOCOL.md): pure functions on bytes, no I/O, no clock; memory only
 * in es_reader.
 *
 * Decoding borrows: every pointer in a decoded struct points into the input. Every length is checked against
 * the bytes that are there before it is believed. Errors: ES_ERR_PROTOCOL (malformed; `why` of es_reader or
 * the decoder's const char ** says what), ES_ERR_TOO_LARGE.
 *
 *   struct es_reader r; es_reader_init(&r, max_body);
 *   while (n > 0) { rc = es_reader_feed(&r, &p, &n, &frame); if (rc == 1) handle(&frame) ... }
 */
#ifndef ES_FRAMING_FRAME_H
#define ES_FRAMING_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include "../base/buf.h"
#include "../base/err.h"
#include "../base/varint.h"

enum es_frame_type {
    ES_FRAME_HELLO = 0x00,
    ES_FRAME_REQUEST = 0x02,
    ES_FRAME_RESPONSE = 0x04,
    ES_FRAME_HEAD = 0x06,
    ES_FRAME_DATA = 0x08,
    ES_FRAME_CANCEL = 0x0a,
    ES_FRAME_EVENT = 0x0c,
    ES_FRAME_GOAWAY = 0x0e,
    ES_FRAME_PING = 0x11,
    ES_FRAME_PONG = 0x13
};

enum es_frame_flag {
    ES_FLAG_MORE = 0x01,
    ES_FLAG_STREAM = 0x02,
    ES_FLAG_IDEMPOTENT = 0x04,
    ES_FLAG_RETRY = 0x08,
    ES_FLAG_ZSTD = 0x10,
    ES_FLAG_CRC = 0x20,
    ES_FLAG_SEQ = 0x40,
    ES_FLAG_WALL = 0x80,
    ES_FLAG_METHOD_IDEMPOTENT = 0x100
};

enum { ES_UNI_CONTROL = 0, ES_UNI_LANE = 1 };

#define ES_MAX_NAME         256
#define ES_MAX_META_KEY     64
#define ES_MAX_META_PAIRS   64
#define ES_MAX_META_BYTES   16384
#define ES_MAX_MESSAGE_TEXT 1024
#define ES_EARLY_MESSAGE    65536 /* max_message before the peer's HELLO */
#define ES_MAX_LANES        8
#define ES_MAX_HELLO_PARAMS 64
#define ES_MAX_AGENT        256

struct es_bytes {
    const uint8_t *p; /* borrowed */
    size_t n;
};

/* Metadata as it stands on the wire (validated): count, then pairs. p NULL / n 0 or a single 0 byte: none. */
struct es_kv {
    const uint8_t *p; /* borrowed: the first pair, after the count */
    size_t n;         /* bytes of all pairs */
    size_t count;
};
/* Iterates: it starts at zero. 1 and the next pair, 0 at the end. */
int es_kv_next(const struct es_kv *kv, size_t *offset, struct es_bytes *key, struct es_bytes *value);
/* Reads what es_kv_encode wrote (with its count) and checks it: keys of 1-64 bytes of [a-z0-9._/:-], each
 * once, 64 pairs, 16 KiB for all pairs with their lengths. *used (may be NULL): bytes read. */
int es_kv_decode(struct es_kv *out, const uint8_t *p, size_t n, size_t *used, const char **why);
/* Bytes that es_kv_encode writes. */
static inline size_t es_kv_size(const struct es_kv *kv)
{
    return es_varint_len(kv->count) + kv->n;
}
/* Appends the count and the pairs. ES_ERR_INVAL: over a limit; ES_ERR_NOMEM. Like all encoders it trusts the
 * pairs themselves: they come from es_kv_add or a decoder. */
int es_kv_encode(struct es_buf *out, const struct es_kv *kv);
/* Builds metadata: appends one pair to `pairs`; then { pairs.p, pairs.n, count } is the es_kv.
 * ES_ERR_INVAL (key empty, of other bytes, or there already), ES_ERR_TOO_LARGE (a limit), ES_ERR_NOMEM. */
int es_kv_add(struct es_buf *pairs, size_t *count, const void *key, size_t key_len, const void *value,
              size_t value_len);

struct es_hello_param {
    uint64_t id;
    struct es_bytes value;
};
enum es_hello_param_id {
    ES_HELLO_MAX_MESSAGE = 1,
    ES_HELLO_MAX_METADATA = 2,
    ES_HELLO_MAX_CALLS = 3,
    ES_HELLO_CODECS = 4,
    ES_HELLO_AGENT = 5,
    ES_HELLO_CREDENTIALS = 6,
    ES_HELLO_MAX_NAMED_STREAMS = 7
};
struct es_hello {
    uint64_t min_minor, max_minor, caps;
    uint8_t instance[16];
    uint64_t max_message, max_metadata, max_calls,
        max_named_streams;  /* defaults when absent: see es_hello_default */
    struct es_bytes agent;  /* the parameter's value as it is */
    struct es_bytes codecs; /* (varint id, varint length, name)*, checked */
    struct es_kv credentials;
    unsigned has; /* bit i: parameter i was present */
};
/* What holds when parameters are absent: messages of 64 KiB, metadata of 16 KiB, 100 calls, 256 named
 * streams; all else zero. */
void es_hello_default(struct es_hello *h);
enum { ES_CAP_ZSTD = 1, ES_CAP_CRC = 2, ES_CAP_DATAGRAM = 4, ES_CAP_CLOCK = 8, ES_CAP_DEDUPE = 16 };

struct es_request {
    uint64_t flags, codec, request_id, deadline_ms, priority;
    struct es_bytes method;
    struct es_kv metadata;
    struct es_bytes payload;
};
struct es_response {
    uint64_t flags, codec, status;
    struct es_kv trailers;
    struct es_bytes payload;       /* status 0: results; else details */
    struct es_bytes code, message; /* status != 0 */
    uint64_t processed, retry_after_ms;
};
struct es_head {
    uint64_t flags;
    struct es_kv metadata;
};
struct es_data {
    uint64_t flags, codec, seq, wall_time_us;
    struct es_bytes payload;
};
struct es_cancel {
    uint64_t request_id, code;
};
struct es_wire_event {
    uint64_t flags, codec, seq, wall_time_us;
    struct es_bytes name, payload;
    struct es_kv metadata;
};
struct es_goaway {
    uint64_t grace_ms, retry_after_ms;
    struct es_bytes reason;
};
struct es_ping { /* PING: t1 only */
    uint64_t t1, t2, t3;
};

/* One whole frame's body. `caps` = what both sides have: ZSTD/CRC flags without the capability are refused;
 * with it their bytes (plain size, checksum) stay in the payload. Flag bits below 16 that the frame does not
 * define are refused, higher ones ignored. A response's code is a name; a message or a reason has 1 KiB at
 * most. Codec numbers are the session's to judge. ES_ERR_TOO_LARGE: a name, metadata or a text over its
 * limit. *why (may be NULL): a static text, set on failure only; *out is then undefined. */
int es_hello_decode(struct es_hello *out, const uint8_t *p, size_t n, const char **why);
int es_request_decode(struct es_request *out, const uint8_t *p, size_t n, uint64_t caps, const char **why);
int es_response_decode(struct es_response *out, const uint8_t *p, size_t n, uint64_t caps, const char **why);
int es_head_decode(struct es_head *out, const uint8_t *p, size_t n, const char **why);
int es_data_decode(struct es_data *out, const uint8_t *p, size_t n, uint64_t caps, const char **why);
int es_cancel_decode(struct es_cancel *out, const uint8_t *p, size_t n, const char **why);
int es_event_decode(struct es_wire_event *out, const uint8_t *p, size_t n, uint64_t caps, const char **why);
int es_goaway_decode(struct es_goaway *out, const uint8_t *p, size_t n, const char **why);
int es_ping_decode(struct es_ping *out, const uint8_t *p, size_t n, int pong, const char **why);

/* Encoding appends a whole frame (type, length, body) to `out`. For REQUEST, RESPONSE, DATA and EVENT the
 * payload may be left out of `out` and written after it by the caller (anchored bytes): *_encode_head writes
 * everything up to the payload, with the length of `payload_len` bytes to follow (small ones are reserved
 * for, so that appending them does not move the buffer again). ES_ERR_INVAL (anything a decoder would refuse:
 * name or error code, metadata over its limits, texts over 1 KiB, numbers over 62 bits, flags), ES_ERR_NOMEM;
 * `out` is then as before. */
int es_hello_encode(struct es_buf *out, const struct es_hello *h); /* parameters whose bit is in h->has */
int es_request_encode_head(struct es_buf *out, const struct es_request *r, size_t payload_len);
int es_response_encode_head(struct es_buf *out, const struct es_response *r, size_t payload_len);
int es_head_encode(struct es_buf *out, const struct es_head *h);
int es_data_encode_head(struct es_buf *out, const struct es_data *d, size_t payload_len);
int es_cancel_encode(struct es_buf *out, const struct es_cancel *c);
int es_event_encode_head(struct es_buf *out, const struct es_wire_event *e, size_t payload_len,
                         int datagram); /* datagram: type + body, no length */
int es_goaway_encode(struct es_buf *out, const struct es_goaway *g);
int es_ping_encode(struct es_buf *out, const struct es_ping *p, int pong);

int es_name_valid(const char *name, size_t n);

/* ---- incremental reading of a stream of frames ---- */
struct es_raw_frame {
    uint64_t type;
    const uint8_t *body; /* borrowed: from the input when the frame lay in it whole, else from the reader;
                            until the next feed */
    size_t len;
};
struct es_reader {
    uint8_t head[16];
    uint8_t head_len;
    uint8_t state;
    uint64_t type, length; /* of the frame being read */
    uint64_t max_body;
    struct es_buf body; /* owned; grows with the bytes that came, never with the length that was promised */
    const char *why;    /* static text after ES_ERR_PROTOCOL / ES_ERR_TOO_LARGE */
    int error;          /* after a failure: every further feed returns it */
};
void es_reader_init(struct es_reader *r, uint64_t max_body);
void es_reader_free(struct es_reader *r);
void es_reader_limit(struct es_reader *r, uint64_t max_body); /* for frames not begun yet */
/* Consumes from *p, *n. 1: *out is a whole frame (call again for the rest); 0: all input taken, need more; or
 * ES_ERR_PROTOCOL, ES_ERR_TOO_LARGE, ES_ERR_NOMEM. Unknown odd types are skipped inside (without buffering);
 * unknown even types are ES_ERR_PROTOCOL, as soon as the type is read. Lengths over the limit are refused
 * before a byte of the body is kept. An error is final. Feeding nothing (*n = 0) after a frame was used gives
 * the memory of a large one back. */
int es_reader_feed(struct es_reader *r, const uint8_t **p, size_t *n, struct es_raw_frame *out);
/* Bytes of the frame under way that are buffered / still missing. 0, 0 between frames. */
size_t es_reader_buffered(const struct es_reader *r);
uint64_t es_reader_missing(const struct es_reader *r);

#endif
