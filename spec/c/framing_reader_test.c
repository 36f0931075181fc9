// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c csrc/framing/reader.c
#include "test.h"
#include "frames.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/framing/frame.h"

/* Collects what a reader delivers as "type length body" records. */
struct sink {
    uint8_t bytes[65536];
    size_t n;
    int frames;
};

static int feed(struct es_reader *r, const uint8_t *p, size_t n, struct sink *s)
{
    struct es_raw_frame f;
    int rc;

    while ((rc = es_reader_feed(r, &p, &n, &f)) == 1) {
        CHECK_INT(es_reader_buffered(r), ==, 0);
        CHECK_INT(es_reader_missing(r), ==, 0);
        s->bytes[s->n++] = (uint8_t)f.type;
        s->bytes[s->n++] = (uint8_t)f.len;
        if (f.len != 0) {
            memcpy(s->bytes + s->n, f.body, f.len);
        }
        s->n += f.len;
        s->frames++;
    }
    CHECK(rc != 0 || n == 0);
    return rc;
}

/* All samples one after another. */
static size_t all_samples(uint8_t *out, size_t cap)
{
    size_t n = 0;

    for (size_t i = 0; i < N_SAMPLES; i++) {
        n += test_unhex(samples[i].hex, out + n, cap - n);
    }
    return n;
}

TEST(every_split_of_every_frame_gives_the_same_frame)
{
    static struct sink whole, split;

    for (size_t i = 0; i < N_SAMPLES; i++) {
        uint8_t wire[256];
        size_t n = test_unhex(samples[i].hex, wire, sizeof(wire));
        struct es_reader r;
        whole.n = 0;
        es_reader_init(&r, 4096);
        CHECK_INT(feed(&r, wire, n, &whole), ==, 0);
        es_reader_free(&r);
        for (size_t a = 0; a <= n; a++) {
            for (size_t b = a; b <= n; b++) {
                split.n = 0;
                es_reader_init(&r, 4096);
                CHECK_INT(feed(&r, wire, a, &split), ==, 0);
                CHECK(a == 0 || a == n || es_reader_buffered(&r) + es_reader_missing(&r) != 0);
                CHECK_INT(feed(&r, wire + a, b - a, &split), ==, 0);
                CHECK_INT(feed(&r, wire + b, n - b, &split), ==, 0);
                CHECK_MEM(split.bytes, split.n, whole.bytes, whole.n);
                CHECK_INT(es_reader_buffered(&r), ==, 0);
                CHECK_INT(es_reader_missing(&r), ==, 0);
                es_reader_free(&r);
            }
        }
    }
}

TEST(a_stream_of_frames_in_random_pieces)
{
    static uint8_t wire[8192];
    static struct sink whole, pieces;
    size_t n = all_samples(wire, sizeof(wire));
    uint64_t seed = 6;
    struct es_reader r;

    es_reader_init(&r, 4096);
    CHECK_INT(feed(&r, wire, n, &whole), ==, 0);
    CHECK_INT(whole.frames, ==, N_SAMPLES - 2); /* all but the two of unknown odd types */
    CHECK(r.body.p == NULL);                    /* nothing was copied */
    for (int round = 0; round < 2000; round++) {
        size_t at = 0, most = 1 + test_rand(&seed) % 60;
        pieces.n = 0;
        while (at < n) {
            size_t k = test_rand(&seed) % (most + 1);
            uint8_t *piece;
            k = k < n - at ? k : n - at;
            piece = malloc(k != 0 ? k : 1); /* of exactly this size, for the address sanitizer */
            memcpy(piece, wire + at, k);
            CHECK_INT(feed(&r, piece, k, &pieces), ==, 0);
            free(piece);
            at += k;
        }
        CHECK_MEM(pieces.bytes, pieces.n, whole.bytes, whole.n);
    }
    es_reader_free(&r);
}

static int feed_hex(struct es_reader *r, const char *hex)
{
    static struct sink s;
    uint8_t wire[1024];

    s.n = 0;
    return feed(r, wire, test_unhex(hex, wire, sizeof(wire)), &s);
}

TEST(unknown_even_types_are_refused_as_soon_as_the_type_is_there)
{
    static const char *bad[] = {"10", "12", "14", "4040", "8000000a 00", "fffffffffffffffe"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct es_reader r;
        es_reader_init(&r, 100);
        CHECK_INT(feed_hex(&r, bad[i]), ==, i == 4 ? 0 : ES_ERR_PROTOCOL); /* 0x0a in four bytes is CANCEL */
        if (i != 4) {
            CHECK_STR(r.why, "a frame of an unknown type");
            CHECK_INT(feed_hex(&r, "0a020110"), ==, ES_ERR_PROTOCOL); /* for ever */
        }
        es_reader_free(&r);
        es_reader_init(&r, 100);
        for (const char *c = bad[i]; i != 4 && c[0] != '\0'; c += 2) {
            char one[3] = {c[0], c[1], 0};
            CHECK_INT(feed_hex(&r, one), ==, c[2] == '\0' ? ES_ERR_PROTOCOL : 0);
        }
        es_reader_free(&r);
    }
}

TEST(unknown_odd_types_are_skipped_without_a_byte_of_memory)
{
    static uint8_t junk[100000];
    static struct sink s;
    struct es_mem_stats a, b;
    struct es_reader r;

    es_mem_stats(&a);
    es_reader_init(&r, 10); /* the limit is for frames that are kept */
    CHECK_INT(feed_hex(&r, "15 80030d40"), ==, 0);
    CHECK_INT(es_reader_missing(&r), ==, 200000);
    CHECK_INT(feed(&r, junk, 100000, &s), ==, 0);
    CHECK_INT(es_reader_missing(&r), ==, 100000);
    CHECK_INT(feed(&r, junk, 100000, &s), ==, 0);
    CHECK_INT(es_reader_missing(&r), ==, 0);
    s.frames = 0;
    CHECK_INT(feed(&r, (const uint8_t *)"\x0a\x02\x01\x10", 4, &s), ==, 0);
    CHECK_INT(s.frames, ==, 1);
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
    es_reader_free(&r);
}

TEST(a_body_at_the_limit_passes_and_one_byte_more_is_refused_before_it_comes)
{
    struct es_mem_stats a, b;
    struct es_reader r;

    es_mem_stats(&a);
    es_reader_init(&r, 4);
    CHECK_INT(feed_hex(&r, "08 04 00 00 6869"), ==, 0);
    CHECK_INT(feed_hex(&r, "08 05"), ==, ES_ERR_TOO_LARGE);
    CHECK_STR(r.why, "a frame is longer than the limit");
    CHECK_INT(feed_hex(&r, ""), ==, ES_ERR_TOO_LARGE);
    es_reader_free(&r);
    es_reader_init(&r, 4);
    CHECK_INT(feed_hex(&r, "08 ffffffffffffffff"), ==, ES_ERR_TOO_LARGE);
    es_reader_free(&r);
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
}

TEST(a_new_limit_is_for_frames_not_begun_yet)
{
    struct es_reader r;

    es_reader_init(&r, 10);
    CHECK_INT(feed_hex(&r, "08 0a 00 00 01"), ==, 0);
    es_reader_limit(&r, 3);
    CHECK_INT(feed_hex(&r, "01020304050607"), ==, 0);
    CHECK_INT(feed_hex(&r, "08 03 00 00 01"), ==, 0);
    CHECK_INT(feed_hex(&r, "08 04 00 00 01"), ==, ES_ERR_TOO_LARGE);
    es_reader_free(&r);
}

TEST(memory_grows_with_the_bytes_that_came_not_with_the_length_that_was_promised)
{
    static uint8_t piece[1000];
    static struct sink s;
    struct es_mem_stats a, b;
    struct es_reader r;

    es_mem_stats(&a);
    es_reader_init(&r, UINT64_C(1) << 40);
    CHECK_INT(feed_hex(&r, "08 c0000000ffffffff 00"), ==, 0);
    for (size_t got = 1; got < 100000; got += sizeof(piece)) {
        es_mem_stats(&b);
        CHECK_INT(b.in_use - a.in_use, <=, 2 * got + 256);
        CHECK_INT(es_reader_buffered(&r), ==, got);
        CHECK_INT(es_reader_missing(&r), ==, 0xffffffff - got);
        CHECK_INT(feed(&r, piece, sizeof(piece), &s), ==, 0);
    }
    es_reader_free(&r);
    es_mem_stats(&b);
    CHECK_INT(b.in_use, ==, a.in_use);
}

TEST(a_large_frame_gives_its_memory_back_once_it_was_used)
{
    static uint8_t piece[50000];
    struct es_reader r;
    struct es_raw_frame f;
    const uint8_t *p;
    size_t n;

    es_reader_init(&r, 1 << 20);
    CHECK_INT(feed_hex(&r, "08 800186a0"), ==, 0); /* 100,000 */
    for (int i = 0; i < 2; i++) {
        p = piece;
        n = sizeof(piece);
        CHECK_INT(es_reader_feed(&r, &p, &n, &f), ==, i);
        CHECK_INT(n, ==, 0);
    }
    CHECK_INT(f.len, ==, 100000);
    CHECK(f.body == r.body.p); /* still there for whoever handles it */
    CHECK_INT(es_reader_feed(&r, &p, &n, &f), ==, 0);
    CHECK_INT(r.body.cap, <=, 65536);
    es_reader_free(&r);
}

TEST(out_of_memory_ends_the_stream)
{
    struct es_reader r;

    es_reader_init(&r, 100);
    es_mem_fail_nth(1);
    CHECK_INT(feed_hex(&r, "08 05 00"), ==, ES_ERR_NOMEM);
    CHECK_STR(r.why, "out of memory");
    CHECK_INT(feed_hex(&r, "00"), ==, ES_ERR_NOMEM);
    es_mem_fail_nth(0);
    es_reader_free(&r);
}
