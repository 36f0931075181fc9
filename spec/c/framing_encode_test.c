// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c
// needs: csrc/framing/kv.c csrc/framing/encode.c csrc/framing/decode.c
#include "test.h"
#include "frames.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/framing/frame.h"

static struct es_buf out;

static struct es_bytes str(const char *s)
{
    struct es_bytes b = {(const uint8_t *)s, strlen(s)};

    return b;
}

static struct es_request request(void)
{
    struct es_request r = {.flags = ES_FLAG_IDEMPOTENT,
                           .codec = 1,
                           .request_id = 1,
                           .deadline_ms = 30000,
                           .priority = 3,
                           .method = str("math.add")};

    return r;
}

static struct es_response failure(void)
{
    struct es_response r = {.codec = 1,
                            .status = ES_STATUS_METHOD_NOT_FOUND,
                            .code = str("method_not_found"),
                            .message = str("no method math.sub")};

    return r;
}

static struct es_wire_event event(void)
{
    struct es_wire_event e = {.codec = 1, .name = str("log")};

    return e;
}

/* What is in `out`, with a payload after it, is the sample of that name. */
static void is_sample(const char *name, const char *payload)
{
    uint8_t want[256];

    CHECK_INT(es_buf_put(&out, payload, strlen(payload)), ==, ES_OK);
    for (size_t i = 0; i < N_SAMPLES; i++) {
        if (strcmp(samples[i].name, name) == 0) {
            CHECK_MEM(out.p, out.n, want, test_unhex(samples[i].hex, want, sizeof(want)));
        }
    }
    es_buf_clear(&out);
}

TEST(the_golden_rows)
{
    struct es_request r = request();
    struct es_response ok = {.codec = 1}, bad = failure();
    struct es_wire_event e = event();
    struct es_cancel c = {1, ES_APP_CANCELLED};

    CHECK_INT(es_request_encode_head(&out, &r, 3), ==, ES_OK);
    is_sample("request", "\x92\x0a\x14");
    CHECK_INT(es_response_encode_head(&out, &ok, 2), ==, ES_OK);
    is_sample("response", "\x91\x1e");
    CHECK_INT(es_response_encode_head(&out, &bad, 0), ==, ES_OK);
    is_sample("failure", "");
    CHECK_INT(es_event_encode_head(&out, &e, 7, 0), ==, ES_OK);
    is_sample("event", "\x91\xa5hello");
    CHECK_INT(es_cancel_encode(&out, &c), ==, ES_OK);
    is_sample("cancel", "");
    es_buf_free(&out);
}

TEST(the_other_frames)
{
    struct es_buf pairs = {0};
    struct es_head h = {0};
    struct es_data d = {.seq = 5, .wall_time_us = 0x61f8b4e3c9d12}; /* not sent unless flagged */
    struct es_wire_event e = {
        .flags = ES_FLAG_WALL, .seq = 15293, .wall_time_us = 0x61f8b4e3c9d12, .name = str("tick")};
    struct es_goaway g = {3616, 1000, str("deploy")};
    struct es_ping ping = {.t1 = 5, .t2 = 6, .t3 = 7};
    size_t count = 0;

    CHECK_INT(es_head_encode(&out, &h), ==, ES_OK);
    is_sample("head", "");
    CHECK_INT(es_data_encode_head(&out, &d, 2), ==, ES_OK);
    is_sample("data", "hi");
    d.flags = ES_FLAG_SEQ | ES_FLAG_WALL;
    d.codec = 1;
    CHECK_INT(es_data_encode_head(&out, &d, 1), ==, ES_OK);
    is_sample("data_stamped", "*");
    CHECK_INT(es_kv_add(&pairs, &count, "a", 1, "b", 1), ==, ES_OK);
    e.metadata.p = pairs.p;
    e.metadata.n = pairs.n;
    e.metadata.count = count;
    CHECK_INT(es_event_encode_head(&out, &e, 1, 0), ==, ES_OK);
    is_sample("event_stamped", "\xff");
    CHECK_INT(es_goaway_encode(&out, &g), ==, ES_OK);
    is_sample("goaway", "");
    CHECK_INT(es_ping_encode(&out, &ping, 1), ==, ES_OK);
    CHECK_MEM(out.p, out.n, "\x13\x03\x05\x06\x07", 5);
    out.n = 0;
    CHECK_INT(es_ping_encode(&out, &ping, 0), ==, ES_OK);
    CHECK_MEM(out.p, out.n, "\x11\x01\x05", 3);
    es_buf_free(&out);
    es_buf_free(&pairs);
}

TEST(a_datagram_is_type_and_body_without_a_length)
{
    struct es_wire_event e = event(), back;

    CHECK_INT(es_event_encode_head(&out, &e, 7, 1), ==, ES_OK);
    CHECK_INT(es_buf_put(&out, "\x91\xa5hello", 7), ==, ES_OK);
    CHECK_INT(out.p[0], ==, ES_FRAME_EVENT);
    CHECK_INT(out.n, ==, 16);
    CHECK_INT(es_event_decode(&back, out.p + 1, out.n - 1, 0, NULL), ==, ES_OK);
    CHECK_MEM(back.payload.p, back.payload.n, "\x91\xa5hello", 7);
    es_buf_free(&out);
}

TEST(a_frame_needs_one_allocation_with_its_small_payload_and_none_in_a_used_buffer)
{
    struct es_request r = request();
    struct es_mem_stats a, b;
    static uint8_t payload[4096];

    es_mem_stats(&a);
    CHECK_INT(es_request_encode_head(&out, &r, sizeof(payload)), ==, ES_OK);
    CHECK_INT(es_buf_put(&out, payload, sizeof(payload)), ==, ES_OK);
    es_mem_stats(&b);
    CHECK_INT(b.allocs, ==, a.allocs + 1);
    for (int i = 0; i < 100; i++) {
        es_buf_clear(&out);
        CHECK_INT(es_request_encode_head(&out, &r, sizeof(payload)), ==, ES_OK);
        CHECK_INT(es_buf_put(&out, payload, sizeof(payload)), ==, ES_OK);
    }
    es_mem_stats(&a);
    CHECK_INT(b.allocs, ==, a.allocs);
    es_buf_free(&out);
    CHECK_INT(es_request_encode_head(&out, &r, (size_t)1 << 40), ==, ES_OK); /* written elsewhere */
    CHECK_INT(out.cap, <, 4096);
    es_buf_free(&out);
}

/* Refused, and the buffer is as before. */
#define REFUSED(call)                                                                                        \
    do {                                                                                                     \
        size_t before = out.n;                                                                               \
        CHECK_INT(call, ==, ES_ERR_INVAL);                                                                   \
        CHECK_INT(out.n, ==, before);                                                                        \
    } while (0)

#define REQUEST_REFUSED(change)                                                                              \
    do {                                                                                                     \
        struct es_request r = request();                                                                     \
        change;                                                                                              \
        REFUSED(es_request_encode_head(&out, &r, 0));                                                        \
    } while (0)

#define FAILURE_REFUSED(change)                                                                              \
    do {                                                                                                     \
        struct es_response r = failure();                                                                    \
        change;                                                                                              \
        REFUSED(es_response_encode_head(&out, &r, 0));                                                       \
    } while (0)

#define EVENT_REFUSED(change)                                                                                \
    do {                                                                                                     \
        struct es_wire_event e = event();                                                                    \
        change;                                                                                              \
        REFUSED(es_event_encode_head(&out, &e, 0, 0));                                                       \
    } while (0)

TEST(what_a_decoder_would_refuse_is_not_written)
{
    static const char long_text[1026] = {0};
    struct es_head h = {.flags = 1};
    struct es_data d = {.flags = ES_FLAG_MORE};
    struct es_cancel c = {ES_VARINT_MAX + 1, 0};
    struct es_goaway g = {0};
    struct es_ping ping = {.t1 = 1, .t2 = UINT64_MAX};
    struct es_request r = request();

    REQUEST_REFUSED(r.flags = ES_FLAG_SEQ);
    REQUEST_REFUSED(r.flags = UINT64_C(1) << 62);
    REQUEST_REFUSED(r.request_id = UINT64_MAX);
    REQUEST_REFUSED(r.deadline_ms = UINT64_MAX);
    REQUEST_REFUSED(r.priority = 8);
    REQUEST_REFUSED(r.method = str(""));
    REQUEST_REFUSED(r.method = str("math add"));
    REQUEST_REFUSED(r.method.n = 257; r.method.p = (const uint8_t *)long_text);
    REQUEST_REFUSED(r.metadata.count = 65);
    REQUEST_REFUSED(r.metadata.n = ES_MAX_META_BYTES + 1);
    REQUEST_REFUSED(r.metadata.n = 1); /* pairs without a count */
    REQUEST_REFUSED(r.metadata.count = 1);
    REFUSED(es_request_encode_head(&out, &r, SIZE_MAX));
    FAILURE_REFUSED(r.status = 17);
    FAILURE_REFUSED(r.code = str(""));
    FAILURE_REFUSED(r.code = str("sold out"));
    FAILURE_REFUSED(r.message.n = 1025; r.message.p = (const uint8_t *)long_text);
    FAILURE_REFUSED(r.processed = 3);
    FAILURE_REFUSED(r.retry_after_ms = UINT64_MAX);
    FAILURE_REFUSED(r.flags = ES_FLAG_IDEMPOTENT);
    FAILURE_REFUSED(r.trailers.count = 65);
    EVENT_REFUSED(e.flags = ES_FLAG_SEQ);
    EVENT_REFUSED(e.seq = UINT64_MAX);
    EVENT_REFUSED(e.flags = ES_FLAG_WALL; e.wall_time_us = UINT64_MAX);
    EVENT_REFUSED(e.name = str("log\n"));
    EVENT_REFUSED(e.metadata.count = 65);
    REFUSED(es_head_encode(&out, &h));
    REFUSED(es_data_encode_head(&out, &d, 0));
    d.flags = ES_FLAG_SEQ;
    d.seq = UINT64_MAX;
    REFUSED(es_data_encode_head(&out, &d, 0));
    d.flags = ES_FLAG_WALL;
    d.wall_time_us = UINT64_MAX;
    REFUSED(es_data_encode_head(&out, &d, 0));
    REFUSED(es_cancel_encode(&out, &c));
    g.reason.p = (const uint8_t *)long_text;
    g.reason.n = 1025;
    REFUSED(es_goaway_encode(&out, &g));
    g.reason.n = 1024;
    CHECK_INT(es_goaway_encode(&out, &g), ==, ES_OK);
    g.grace_ms = UINT64_MAX;
    REFUSED(es_goaway_encode(&out, &g));
    REFUSED(es_ping_encode(&out, &ping, 1));
    CHECK_INT(es_ping_encode(&out, &ping, 0), ==, ES_OK);
    es_buf_free(&out);
}

TEST(out_of_memory_is_reported_by_every_encoder)
{
    struct es_request r = request();
    struct es_response bad = failure();
    struct es_wire_event e = event();
    struct es_head h = {0};
    struct es_data d = {0};
    struct es_cancel c = {0};
    struct es_goaway g = {0};
    struct es_ping ping = {0};

#define NOMEM(call)                                                                                          \
    do {                                                                                                     \
        es_mem_fail_nth(1);                                                                                  \
        CHECK_INT(call, ==, ES_ERR_NOMEM);                                                                   \
        CHECK_INT(out.n, ==, 0);                                                                             \
    } while (0)
    NOMEM(es_request_encode_head(&out, &r, 0));
    NOMEM(es_response_encode_head(&out, &bad, 0));
    NOMEM(es_event_encode_head(&out, &e, 0, 1));
    NOMEM(es_head_encode(&out, &h));
    NOMEM(es_data_encode_head(&out, &d, 0));
    NOMEM(es_cancel_encode(&out, &c));
    NOMEM(es_goaway_encode(&out, &g));
    NOMEM(es_ping_encode(&out, &ping, 1));
    es_mem_fail_nth(0);
}

TEST(the_payload_length_is_in_the_frames_length_at_every_size_of_it)
{
    static const size_t sizes[] = {0, 1, 61, 62, 63, 64, 16000, 16381, 16382, 16384, 1u << 30};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct es_data d = {0};
        uint64_t len;
        size_t used;
        es_buf_clear(&out);
        CHECK_INT(es_data_encode_head(&out, &d, sizes[i]), ==, ES_OK);
        used = es_varint_get(out.p + 1, out.n - 1, &len);
        CHECK_INT(len, ==, sizes[i] + 2);
        CHECK_INT(used, ==, es_varint_len(len));
        CHECK_INT(out.n, ==, 1 + used + 2);
    }
    es_buf_free(&out);
}
