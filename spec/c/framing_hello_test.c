// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c csrc/framing
#include "test.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/framing/frame.h"

/* docs/PROTOCOL.md, golden bytes: the control stream's first frame, after the stream's own first byte. */
#define GOLDEN "001e000000 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064"

static const char *why;

static int decode(struct es_hello *h, const uint8_t *p, size_t n)
{
    int rc;

    why = NULL;
    rc = es_hello_decode(h, p, n, &why);
    CHECK((rc == ES_OK) == (why == NULL));
    CHECK_INT(es_hello_decode(h, p, n, NULL), ==, rc);
    return rc;
}

/* Versions 0-0, no caps, a zero instance, then `params` (count and parameters) in hex. */
static int decode_params(struct es_hello *h, const char *params)
{
    uint8_t body[4096] = {0};
    size_t n = 19 + test_unhex(params, body + 19, sizeof(body) - 19);

    return decode(h, body, n);
}

TEST(the_golden_hello_both_ways)
{
    uint8_t golden[64];
    size_t n = test_unhex(GOLDEN, golden, sizeof(golden));
    struct es_buf out = {0};
    struct es_hello h;

    es_hello_default(&h);
    h.max_message = 4 << 20;
    h.max_calls = 100;
    h.has = 1u << ES_HELLO_MAX_MESSAGE | 1u << ES_HELLO_MAX_CALLS;
    for (int i = 0; i < 16; i++) {
        h.instance[i] = (uint8_t)i;
    }
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_OK);
    CHECK_MEM(out.p, out.n, golden, n);
    memset(&h, 0xee, sizeof(h));
    CHECK_INT(decode(&h, golden + 2, n - 2), ==, ES_OK);
    CHECK_INT(h.max_message, ==, 4 << 20);
    CHECK_INT(h.max_calls, ==, 100);
    CHECK_INT(h.has, ==, 1u << 1 | 1u << 3);
    CHECK_INT(h.instance[15], ==, 15);
    CHECK_INT(h.caps, ==, 0);
    es_buf_free(&out);
}

TEST(every_cut_of_a_hello_is_refused_and_so_is_a_byte_more)
{
    uint8_t body[64];
    size_t n = test_unhex(GOLDEN, body, sizeof(body));
    struct es_hello h;

    for (size_t cut = 2; cut < n; cut++) {
        CHECK_INT(decode(&h, body + 2, cut - 2), ==, ES_ERR_PROTOCOL);
    }
    body[n] = 0;
    CHECK_INT(decode(&h, body + 2, n - 1), ==, ES_ERR_PROTOCOL);
    CHECK_STR(why, "bytes after the end of the frame");
}

TEST(absent_parameters_have_their_defaults)
{
    struct es_hello h;

    CHECK_INT(decode_params(&h, "00"), ==, ES_OK);
    CHECK_INT(h.has, ==, 0);
    CHECK_INT(h.max_message, ==, ES_EARLY_MESSAGE);
    CHECK_INT(h.max_metadata, ==, ES_MAX_META_BYTES);
    CHECK_INT(h.max_calls, ==, 100);
    CHECK_INT(h.max_named_streams, ==, 256);
    CHECK_INT(h.agent.n + h.codecs.n + h.credentials.n + h.credentials.count, ==, 0);
}

TEST(every_parameter_comes_back)
{
    struct es_buf out = {0}, pairs = {0};
    struct es_hello h, g;
    size_t count = 0;

    es_hello_default(&h);
    h.min_minor = 1;
    h.max_minor = 70;
    h.caps = ES_CAP_DATAGRAM | ES_CAP_CLOCK | UINT64_C(1) << 40;
    h.max_message = ES_VARINT_MAX;
    h.max_metadata = 1000;
    h.max_calls = 7;
    h.max_named_streams = 0;
    h.agent.p = (const uint8_t *)"echostream/0.1 \xff";
    h.agent.n = 16;
    h.codecs.p = (const uint8_t *)"\x10\x04"
                                  "cbor\x40\x41\x05proto";
    h.codecs.n = 14;
    CHECK_INT(es_kv_add(&pairs, &count, "authorization", 13, "Bearer x", 8), ==, ES_OK);
    h.credentials.p = pairs.p;
    h.credentials.n = pairs.n;
    h.credentials.count = count;
    h.has = 0xfe;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_OK);
    CHECK_INT(decode(&g, out.p + 3, out.n - 3), ==, ES_OK); /* a length of two bytes */
    CHECK_INT(g.has, ==, 0xfe);
    CHECK_INT(g.min_minor, ==, 1);
    CHECK_INT(g.max_minor, ==, 70);
    CHECK(g.caps == h.caps && g.max_message == ES_VARINT_MAX);
    CHECK_INT(g.max_metadata, ==, 1000);
    CHECK_INT(g.max_calls, ==, 7);
    CHECK_INT(g.max_named_streams, ==, 0);
    CHECK_MEM(g.agent.p, g.agent.n, h.agent.p, h.agent.n);
    CHECK_MEM(g.codecs.p, g.codecs.n, h.codecs.p, h.codecs.n);
    CHECK_MEM(g.credentials.p, g.credentials.n, pairs.p, pairs.n);
    CHECK_INT(g.credentials.count, ==, 1);
    for (size_t cut = 0; cut + 3 < out.n; cut++) {
        CHECK_INT(decode(&g, out.p + 3, cut), ==, ES_ERR_PROTOCOL);
    }
    es_buf_free(&out);
    es_buf_free(&pairs);
}

TEST(unknown_parameters_are_ignored_and_none_may_stand_there_twice)
{
    struct es_hello h;

    CHECK_INT(decode_params(&h, "03 08 02 ffff  00 00  4f00 01 00"), ==, ES_OK);
    CHECK_INT(h.has, ==, 0);
    CHECK_INT(decode_params(&h, "02 01 01 05  01 01 05"), ==, ES_ERR_PROTOCOL);
    CHECK_STR(why, "a HELLO parameter stands there twice");
    CHECK_INT(decode_params(&h, "02 4f00 00  4f00 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode_params(&h, "02 09 00  4009 00"), ==,
              ES_ERR_PROTOCOL); /* the same number, written longer */
}

TEST(a_parameter_holds_exactly_its_value)
{
    struct es_hello h;

    CHECK_INT(decode_params(&h, "01 01 00"), ==, ES_ERR_PROTOCOL);
    CHECK_STR(why, "a HELLO parameter ends too early");
    CHECK_INT(decode_params(&h, "01 01 01 40"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode_params(&h, "01 02 02 0505"), ==, ES_ERR_PROTOCOL);
    CHECK_STR(why, "bytes after the end of a HELLO parameter");
    CHECK_INT(decode_params(&h, "01 06 02 0000"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode_params(&h, "01 06 00"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode_params(&h, "01 06 04 01014b00"), ==, ES_ERR_PROTOCOL); /* key "K" */
    CHECK_INT(decode_params(&h, "01 06 01 00"), ==, ES_OK);
    CHECK_INT(decode_params(&h, "01 04 00"), ==, ES_OK);
    CHECK_INT(decode_params(&h, "01 04 01 10"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode_params(&h, "01 04 02 1000"), ==, ES_ERR_PROTOCOL); /* a codec without a name */
    CHECK_INT(decode_params(&h, "01 04 03 1001 20"), ==, ES_ERR_PROTOCOL);
}

TEST(the_lowest_version_is_not_above_the_highest)
{
    uint8_t body[20] = {2, 1};
    struct es_hello h;

    CHECK_INT(decode(&h, body, sizeof(body)), ==, ES_ERR_PROTOCOL);
    body[1] = 2;
    CHECK_INT(decode(&h, body, sizeof(body)), ==, ES_OK);
}

TEST(limits_of_parameters_and_agent)
{
    static uint8_t body[1024];
    struct es_buf out = {0};
    struct es_hello h;
    char agent[257];

    for (unsigned count = 64; count <= 65; count++) { /* ids 64 and up, written in two bytes */
        size_t n = 19;
        body[n++] = 0x40;
        body[n++] = (uint8_t)count;
        for (unsigned i = 0; i < count; i++) {
            body[n++] = 0x40;
            body[n++] = (uint8_t)(64 + i);
            body[n++] = 0;
        }
        CHECK_INT(decode(&h, body, n), ==, count == 64 ? ES_OK : ES_ERR_TOO_LARGE);
    }
    memset(agent, 'a', sizeof(agent));
    es_hello_default(&h);
    h.has = 1u << ES_HELLO_AGENT;
    h.agent.p = (uint8_t *)agent;
    h.agent.n = 256;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_OK);
    CHECK_INT(decode(&h, out.p + 3, out.n - 3), ==, ES_OK);
    CHECK_INT(h.agent.n, ==, 256);
    h.agent.n = 257;
    h.agent.p = (uint8_t *)agent;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_ERR_INVAL);
    memset(body, 0, 19);
    memcpy(body + 19, "\x01\x05\x41\x01", 4);
    memset(body + 23, 'a', 257);
    CHECK_INT(decode(&h, body, 23 + 257), ==, ES_ERR_TOO_LARGE);
    es_buf_free(&out);
}

TEST(what_cannot_be_written_is_refused_and_leaves_nothing_behind)
{
    struct es_buf out = {0};
    struct es_hello h;

    CHECK_INT(es_buf_put(&out, "before", 6), ==, ES_OK);
    es_hello_default(&h);
    h.has = 1;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_ERR_INVAL);
    h.has = 1u << 8;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_ERR_INVAL);
    h.has = 0;
    h.min_minor = 1;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_ERR_INVAL);
    h.min_minor = 0;
    h.caps = ES_VARINT_MAX + 1;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_ERR_INVAL);
    h.caps = 0;
    h.has = 1u << ES_HELLO_MAX_CALLS;
    h.max_calls = UINT64_MAX;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_ERR_INVAL);
    h.has = 1u << ES_HELLO_CODECS;
    h.codecs.p = (const uint8_t *)"\x10\x05x";
    h.codecs.n = 3;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_ERR_INVAL);
    h.has = 1u << ES_HELLO_CREDENTIALS;
    h.credentials.count = 65;
    CHECK_INT(es_hello_encode(&out, &h), ==, ES_ERR_INVAL);
    CHECK_MEM(out.p, out.n, "before", 6);
    es_buf_free(&out);
}

TEST(out_of_memory_at_every_step_leaves_nothing_behind)
{
    static uint8_t agent[256];
    struct es_mem_stats a, b;
    struct es_hello h;
    int rc = ES_ERR_NOMEM;

    es_hello_default(&h);
    h.has = 0x7e | 1u << 7;
    h.agent.p = agent;
    h.agent.n = sizeof(agent);
    es_mem_stats(&a);
    for (uint64_t nth = 1; rc != ES_OK && nth < 50; nth++) {
        struct es_buf out = {0};
        es_mem_fail_nth(nth);
        rc = es_hello_encode(&out, &h);
        CHECK(rc == ES_OK || (rc == ES_ERR_NOMEM && out.n == 0));
        es_buf_free(&out);
    }
    es_mem_fail_nth(0);
    CHECK_INT(rc, ==, ES_OK);
    es_mem_stats(&b);
    CHECK_INT(a.in_use, ==, b.in_use);
}

TEST(lengths_that_lie_cost_nothing)
{
    struct es_mem_stats a, b;
    struct es_hello h;

    es_mem_stats(&a);
    CHECK_INT(decode_params(&h, "ffffffffffffffff"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode_params(&h, "01 05 bfffffff"), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode_params(&h, "3f 05 00"), ==, ES_ERR_PROTOCOL);
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
}
