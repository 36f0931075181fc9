// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c
// needs: csrc/framing/kv.c csrc/framing/decode.c csrc/framing/hello.c
#include "test.h"
#include "frames.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/framing/frame.h"

#define CAPS_ALL (ES_CAP_ZSTD | ES_CAP_CRC)

static const char *why;

/* Decodes a body of any type into *out, which is large enough for each. */
union any {
    struct es_hello hello;
    struct es_request request;
    struct es_response response;
    struct es_head head;
    struct es_data data;
    struct es_cancel cancel;
    struct es_wire_event event;
    struct es_goaway goaway;
    struct es_ping ping;
};

static int decode(uint64_t type, union any *out, const uint8_t *p, size_t n, uint64_t caps, const char **w)
{
    switch (type) {
    case ES_FRAME_HELLO:
        return es_hello_decode(&out->hello, p, n, w);
    case ES_FRAME_REQUEST:
        return es_request_decode(&out->request, p, n, caps, w);
    case ES_FRAME_RESPONSE:
        return es_response_decode(&out->response, p, n, caps, w);
    case ES_FRAME_HEAD:
        return es_head_decode(&out->head, p, n, w);
    case ES_FRAME_DATA:
        return es_data_decode(&out->data, p, n, caps, w);
    case ES_FRAME_CANCEL:
        return es_cancel_decode(&out->cancel, p, n, w);
    case ES_FRAME_EVENT:
        return es_event_decode(&out->event, p, n, caps, w);
    case ES_FRAME_GOAWAY:
        return es_goaway_decode(&out->goaway, p, n, w);
    default:
        return es_ping_decode(&out->ping, p, n, type == ES_FRAME_PONG, w);
    }
}

/* A body in hex (no type, no length). */
static uint8_t bytes[40000];
static union any f;

static int body_caps(uint64_t type, const char *hex, uint64_t caps)
{
    size_t n = test_unhex(hex, bytes, sizeof(bytes));
    int rc;

    why = NULL;
    rc = decode(type, &f, bytes, n, caps, &why);
    CHECK((rc == ES_OK) == (why == NULL));
    return rc;
}

static int body(uint64_t type, const char *hex)
{
    return body_caps(type, hex, 0);
}

/* A sample by its name: decodes its body. */
static int sample(const char *name)
{
    for (size_t i = 0; i < N_SAMPLES; i++) {
        if (strcmp(samples[i].name, name) == 0) {
            uint64_t type, len;
            size_t n = test_unhex(samples[i].hex, bytes, sizeof(bytes)), at;
            at = es_varint_get(bytes, n, &type);
            at += es_varint_get(bytes + at, n - at, &len);
            CHECK_INT(len, ==, n - at);
            return decode(type, &f, bytes + at, n - at, 0, &why);
        }
    }
    return ES_ERR_NOT_FOUND;
}

TEST(golden_request)
{
    REQUIRE(sample("request") == ES_OK);
    CHECK_INT(f.request.flags, ==, ES_FLAG_IDEMPOTENT);
    CHECK_INT(f.request.codec, ==, 1);
    CHECK_INT(f.request.request_id, ==, 1);
    CHECK_MEM(f.request.method.p, f.request.method.n, "math.add", 8);
    CHECK_INT(f.request.deadline_ms, ==, 30000);
    CHECK_INT(f.request.priority, ==, 3);
    CHECK_INT(f.request.metadata.count, ==, 0);
    CHECK_MEM(f.request.payload.p, f.request.payload.n, "\x92\x0a\x14", 3);
}

TEST(golden_response)
{
    REQUIRE(sample("response") == ES_OK);
    CHECK_INT(f.response.status, ==, 0);
    CHECK_INT(f.response.codec, ==, 1);
    CHECK_INT(f.response.processed, ==, ES_PROCESSED_YES);
    CHECK_INT(f.response.code.n + f.response.message.n + f.response.trailers.count, ==, 0);
    CHECK_MEM(f.response.payload.p, f.response.payload.n, "\x91\x1e", 2);
}

TEST(golden_failure)
{
    REQUIRE(sample("failure") == ES_OK);
    CHECK_INT(f.response.status, ==, ES_STATUS_METHOD_NOT_FOUND);
    CHECK_MEM(f.response.code.p, f.response.code.n, "method_not_found", 16);
    CHECK_MEM(f.response.message.p, f.response.message.n, "no method math.sub", 18);
    CHECK_INT(f.response.processed, ==, ES_PROCESSED_NO);
    CHECK_INT(f.response.retry_after_ms, ==, 0);
    CHECK_INT(f.response.payload.n, ==, 0);
}

TEST(golden_event)
{
    REQUIRE(sample("event") == ES_OK);
    CHECK_INT(f.event.flags, ==, 0);
    CHECK_INT(f.event.codec, ==, 1);
    CHECK_INT(f.event.seq, ==, 0);
    CHECK_MEM(f.event.name.p, f.event.name.n, "log", 3);
    CHECK_INT(f.event.wall_time_us, ==, 0);
    CHECK_MEM(f.event.payload.p, f.event.payload.n, "\x91\xa5hello", 7);
}

TEST(golden_cancel)
{
    REQUIRE(sample("cancel") == ES_OK);
    CHECK_INT(f.cancel.request_id, ==, 1);
    CHECK_INT(f.cancel.code, ==, ES_APP_CANCELLED);
}

TEST(the_other_frames_and_fields)
{
    struct es_bytes k, v;
    size_t offset = 0;

    REQUIRE(sample("request_metadata") == ES_OK);
    CHECK_INT(f.request.flags, ==, ES_FLAG_MORE | ES_FLAG_STREAM);
    CHECK_INT(f.request.request_id, ==, 1);
    CHECK_INT(f.request.priority, ==, 7);
    CHECK_INT(f.request.metadata.count, ==, 2);
    CHECK(es_kv_next(&f.request.metadata, &offset, &k, &v));
    CHECK_MEM(v.p, v.n, "1.0-1.2", 7);
    REQUIRE(sample("response_idempotent") == ES_OK);
    CHECK_INT(f.response.flags, ==, ES_FLAG_METHOD_IDEMPOTENT);
    CHECK_INT(f.response.trailers.count, ==, 1);
    REQUIRE(sample("failure_details") == ES_OK);
    CHECK_INT(f.response.status, ==, 2);
    CHECK_INT(f.response.codec, ==, 2);
    CHECK_MEM(f.response.code.p, f.response.code.n, "sold_out", 8);
    CHECK_INT(f.response.message.n, ==, 0);
    CHECK_INT(f.response.processed, ==, ES_PROCESSED_YES);
    CHECK_INT(f.response.retry_after_ms, ==, 60000);
    CHECK_MEM(f.response.payload.p, f.response.payload.n, "{}", 2);
    REQUIRE(sample("head") == ES_OK);
    CHECK_INT(f.head.metadata.count, ==, 0);
    REQUIRE(sample("head_version") == ES_OK);
    CHECK_INT(f.head.metadata.count, ==, 1);
    REQUIRE(sample("data") == ES_OK);
    CHECK_MEM(f.data.payload.p, f.data.payload.n, "hi", 2);
    CHECK_INT(f.data.seq + f.data.wall_time_us, ==, 0);
    REQUIRE(sample("data_stamped") == ES_OK);
    CHECK_INT(f.data.flags, ==, ES_FLAG_SEQ | ES_FLAG_WALL);
    CHECK_INT(f.data.seq, ==, 5);
    CHECK_INT(f.data.wall_time_us, ==, 0x61f8b4e3c9d12);
    CHECK_MEM(f.data.payload.p, f.data.payload.n, "*", 1);
    REQUIRE(sample("data_empty") == ES_OK);
    CHECK_INT(f.data.payload.n, ==, 0);
    REQUIRE(sample("event_stamped") == ES_OK);
    CHECK_INT(f.event.seq, ==, 15293);
    CHECK_INT(f.event.wall_time_us, ==, 0x61f8b4e3c9d12);
    CHECK_INT(f.event.metadata.count, ==, 1);
    REQUIRE(sample("goaway") == ES_OK);
    CHECK_INT(f.goaway.grace_ms, ==, 3616);
    CHECK_INT(f.goaway.retry_after_ms, ==, 1000);
    CHECK_MEM(f.goaway.reason.p, f.goaway.reason.n, "deploy", 6);
    REQUIRE(sample("ping") == ES_OK);
    CHECK_INT(f.ping.t1, ==, 1);
    CHECK_INT(f.ping.t2 + f.ping.t3, ==, 0);
    REQUIRE(sample("pong") == ES_OK);
    CHECK_INT(f.ping.t1, ==, 5);
    CHECK_INT(f.ping.t2, ==, 6);
    CHECK_INT(f.ping.t3, ==, 7);
}

/* A cut body is refused, unless the cut is inside the payload, which may be of any length. The input lies in
 * a block of exactly its size, so that the address sanitizer sees a byte read too far. */
TEST(every_cut_of_every_body_is_refused_or_a_shorter_payload)
{
    struct es_mem_stats a, b;

    es_mem_stats(&a);
    for (size_t i = 0; i < N_SAMPLES; i++) {
        uint64_t type, len;
        size_t n = test_unhex(samples[i].hex, bytes, sizeof(bytes)), at, payload = 0;
        at = es_varint_get(bytes, n, &type);
        at += es_varint_get(bytes + at, n - at, &len);
        if (type > ES_FRAME_PONG) {
            continue;
        }
        CHECK_INT(decode(type, &f, bytes + at, len, 0, NULL), ==, ES_OK);
        payload = type == ES_FRAME_REQUEST    ? f.request.payload.n
                  : type == ES_FRAME_RESPONSE ? f.response.payload.n
                  : type == ES_FRAME_DATA     ? f.data.payload.n
                  : type == ES_FRAME_EVENT    ? f.event.payload.n
                                              : 0;
        for (size_t cut = 0; cut < len; cut++) {
            uint8_t *copy = malloc(cut != 0 ? cut : 1);
            memcpy(copy, bytes + at, cut);
            CHECK_INT(decode(type, &f, copy, cut, 0, &why), ==,
                      cut + payload < len ? ES_ERR_PROTOCOL : ES_OK);
            free(copy);
        }
    }
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
}

TEST(frames_without_a_payload_refuse_trailing_bytes)
{
    CHECK_INT(body(ES_FRAME_HEAD, "00 00 00"), ==, ES_ERR_PROTOCOL);
    CHECK_STR(why, "bytes after the end of the frame");
    CHECK_INT(body(ES_FRAME_CANCEL, "01 10 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body(ES_FRAME_GOAWAY, "00 00 00 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body(ES_FRAME_PING, "00 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body(ES_FRAME_PONG, "00 00 00 00"), ==, ES_ERR_PROTOCOL);
}

TEST(unknown_flags_below_16_are_refused_and_higher_ones_ignored)
{
    static const struct {
        uint64_t type;
        const char *rest; /* after the flags, good for all of them */
        unsigned defined;
    } row[] = {
        {ES_FRAME_REQUEST, "00 01 01 61 00 00 00 0500000000", 0x0f},
        {ES_FRAME_RESPONSE, "00 00 00 0500000000", 0x100},
        {ES_FRAME_HEAD, "00", 0},
        {ES_FRAME_DATA, "00 00 00 0500000000", 0xc0},
        {ES_FRAME_EVENT, "00 00 01 61 00 00 0500000000", 0x80},
    };

    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        for (unsigned bit = 0; bit < 62; bit++) {
            char hex[200];
            uint64_t flag = UINT64_C(1) << bit;
            int good = bit >= 16 || (row[i].defined & flag) != 0;
            snprintf(hex, sizeof(hex), "%016" PRIx64 "%s", flag | UINT64_C(3) << 62, row[i].rest);
            CHECK_INT(body(row[i].type, hex), ==, good ? ES_OK : ES_ERR_PROTOCOL);
            if (bit == 4 || bit == 5) { /* zstd, CRC: where there is a payload, when agreed on */
                int has = row[i].type != ES_FRAME_HEAD;
                uint64_t cap = bit == 4 ? ES_CAP_ZSTD : ES_CAP_CRC;
                CHECK_INT(body_caps(row[i].type, hex, cap), ==, has ? ES_OK : ES_ERR_PROTOCOL);
                CHECK_INT(body_caps(row[i].type, hex, CAPS_ALL & ~cap), ==, ES_ERR_PROTOCOL);
            }
        }
    }
}

TEST(a_payload_holds_what_its_flags_say)
{
    CHECK_INT(body_caps(ES_FRAME_DATA, "20 00 000000", CAPS_ALL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body_caps(ES_FRAME_DATA, "20 00 00000000", CAPS_ALL), ==, ES_OK);
    CHECK_INT(f.data.payload.n, ==, 4);
    CHECK_INT(body_caps(ES_FRAME_DATA, "10 00", CAPS_ALL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body_caps(ES_FRAME_DATA, "30 00 00000000", CAPS_ALL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body_caps(ES_FRAME_DATA, "30 00 0000000000", CAPS_ALL), ==, ES_OK);
}

TEST(seq_and_wall_time_are_there_only_when_the_flag_says_so)
{
    CHECK_INT(body(ES_FRAME_DATA, "4040 00 07 08"), ==, ES_OK);
    CHECK_INT(f.data.seq, ==, 7);
    CHECK_INT(f.data.wall_time_us, ==, 0);
    CHECK_INT(f.data.payload.n, ==, 1);
    CHECK_INT(body(ES_FRAME_DATA, "4080 00 07 08"), ==, ES_OK);
    CHECK_INT(f.data.seq, ==, 0);
    CHECK_INT(f.data.wall_time_us, ==, 7);
    CHECK_INT(body(ES_FRAME_DATA, "40c0 00 07"), ==, ES_ERR_PROTOCOL);
}

TEST(numbers_out_of_their_range)
{
    CHECK_INT(body(ES_FRAME_REQUEST, "00 00 01 01 61 00 07 00"), ==, ES_OK);
    CHECK_INT(body(ES_FRAME_REQUEST, "00 00 01 01 61 00 08 00"), ==, ES_ERR_PROTOCOL);
    CHECK_STR(why, "a priority above 7");
    CHECK_INT(body(ES_FRAME_RESPONSE, "00 00 10 00 01 61 00 02 00"), ==, ES_OK);
    CHECK_INT(body(ES_FRAME_RESPONSE, "00 00 11 00 01 61 00 02 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body(ES_FRAME_RESPONSE, "00 00 01 00 01 61 00 03 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body(ES_FRAME_RESPONSE, "ffffffffffffffff 00 00 00"), ==, ES_ERR_PROTOCOL);
}

/* head (hex), then a length of two bytes and so many bytes 'a', then tail (hex). */
static int body_with(uint64_t type, const char *head, size_t n, const char *tail)
{
    size_t at = test_unhex(head, bytes, sizeof(bytes));

    bytes[at++] = (uint8_t)(0x40 | n >> 8);
    bytes[at++] = (uint8_t)n;
    memset(bytes + at, 'a', n);
    at += n;
    at += test_unhex(tail, bytes + at, sizeof(bytes) - at);
    return decode(type, &f, bytes, at, 0, &why);
}

TEST(each_length_limit_passes_and_one_more_is_too_large)
{
    CHECK_INT(body_with(ES_FRAME_REQUEST, "00 00 01", 256, "00 00 00"), ==, ES_OK);
    CHECK_INT(body_with(ES_FRAME_REQUEST, "00 00 01", 257, "00 00 00"), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(body_with(ES_FRAME_REQUEST, "00 00 01", 0, "00 00 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body_with(ES_FRAME_EVENT, "00 00 01", 256, "00"), ==, ES_OK);
    CHECK_INT(body_with(ES_FRAME_EVENT, "00 00 01", 257, "00"), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(body_with(ES_FRAME_RESPONSE, "00 00 02 00", 256, "00 00 00"), ==, ES_OK);
    CHECK_INT(body_with(ES_FRAME_RESPONSE, "00 00 02 00", 257, "00 00 00"), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(body_with(ES_FRAME_RESPONSE, "00 00 02 00 01 61", 1024, "00 00"), ==, ES_OK);
    CHECK_INT(body_with(ES_FRAME_RESPONSE, "00 00 02 00 01 61", 1025, "00 00"), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(body_with(ES_FRAME_GOAWAY, "00 00", 1024, ""), ==, ES_OK);
    CHECK_INT(body_with(ES_FRAME_GOAWAY, "00 00", 1025, ""), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(body_with(ES_FRAME_HEAD, "00 01", 64, "00"), ==, ES_OK);
    CHECK_INT(body_with(ES_FRAME_HEAD, "00 01", 65, "00"), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(body_with(ES_FRAME_HEAD, "00 01 01 6b", 16384 - 4, ""), ==, ES_OK);
    CHECK_INT(body_with(ES_FRAME_HEAD, "00 01 01 6b", 16384 - 3, ""), ==, ES_ERR_TOO_LARGE);
}

TEST(names_and_codes_have_their_alphabet)
{
    CHECK_INT(body(ES_FRAME_REQUEST, "00 00 01 02 610a 00 00 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body(ES_FRAME_EVENT, "00 00 01 01 20 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body(ES_FRAME_RESPONSE, "00 00 02 00 02 c3a4 00 00 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(body(ES_FRAME_RESPONSE, "00 00 02 00 00 00 00 00"), ==, ES_ERR_PROTOCOL);
}

TEST(lengths_that_lie_are_refused_at_once_and_allocate_nothing)
{
    static const struct {
        uint64_t type;
        const char *hex;
    } row[] = {
        {ES_FRAME_REQUEST, "00 00 01 ffffffffffffffff 61"},
        {ES_FRAME_REQUEST, "00 00 01 bfffffff 61"},
        {ES_FRAME_REQUEST, "00 00 01 01 61 00 00 ffffffffffffffff"},
        {ES_FRAME_REQUEST, "00 00 01 01 61 00 00 01 ffffffffffffffff"},
        {ES_FRAME_RESPONSE, "00 00 00 7fff"},
        {ES_FRAME_RESPONSE, "00 00 01 00 01 61 bfffffff 00 00"},
        {ES_FRAME_EVENT, "00 00 01 7fff 61"},
        {ES_FRAME_GOAWAY, "00 00 ffffffffffffffff"},
        {ES_FRAME_HEAD, "00 01 01 6b ffffffffffffffff"},
    };
    struct es_mem_stats a, b;

    es_mem_stats(&a);
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        CHECK_INT(body(row[i].type, row[i].hex), ==, ES_ERR_PROTOCOL);
    }
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
}

TEST(random_bytes_are_decoded_or_refused_inside_their_bounds)
{
    static const uint64_t types[] = {0, 2, 4, 6, 8, 0xa, 0xc, 0xe, 0x11, 0x13};
    uint64_t seed = 2024;

    for (int i = 0; i < 200000; i++) {
        size_t n = test_rand(&seed) % 40;
        uint8_t *p = malloc(n != 0 ? n : 1);
        for (size_t j = 0; j < n; j++) {
            uint64_t r = test_rand(&seed);
            p[j] = (uint8_t)(r % 3 == 0 ? r >> 8 : (r >> 8) % 8);
        }
        int rc = decode(types[test_rand(&seed) % 10], &f, p, n, CAPS_ALL, &why);
        CHECK(rc == ES_OK || rc == ES_ERR_PROTOCOL || rc == ES_ERR_TOO_LARGE);
        free(p);
    }
}
