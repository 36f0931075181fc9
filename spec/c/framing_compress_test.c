// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c csrc/framing
/* Checksums against known answers; compression there and back, its caps, and bytes that lie. */
#include "../../csrc/base/mem.h"
#include "../../csrc/framing/compress.h"
#include "test.h"

#define MAX_MESSAGE (4u << 20)

static uint8_t big[MAX_MESSAGE];

static void text(uint8_t *p, size_t n)
{
    static const char words[] = "the quick brown fox jumps over the lazy dog and then some more of it. ";

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)words[i % (sizeof words - 1)];
}

static int check(const struct es_buf *b, uint64_t max, uint64_t *plain)
{
    struct es_bytes payload = {b->p, b->n};
    const char *why = NULL;
    int rc = es_packed_check(ES_FLAG_ZSTD, &payload, max, plain, &why);

    CHECK((rc == 0) == (why == NULL));
    return rc;
}

static int unpack(struct es_zstd *z, struct es_buf *out, const uint8_t *p, size_t n)
{
    struct es_bytes payload = {p, n};

    es_buf_clear(out);
    return es_zstd_unpack(z, out, &payload);
}

TEST(checksums_have_the_known_values)
{
    uint8_t zeros[32] = {0}, ones[32], up[32];

    memset(ones, 0xff, sizeof ones);
    for (int i = 0; i < 32; i++)
        up[i] = (uint8_t)i;
    CHECK_INT(es_crc32c(0, NULL, 0), ==, 0);
    CHECK_INT(es_crc32c(0, (const uint8_t *)"123456789", 9), ==, 0xe3069283);
    CHECK_INT(es_crc32c(0, zeros, 32), ==, 0x8a9136aa); /* RFC 3720 B.4 */
    CHECK_INT(es_crc32c(0, ones, 32), ==, 0x62a8ab43);
    CHECK_INT(es_crc32c(0, up, 32), ==, 0x46dd794e);
}

TEST(instruction_and_tables_agree_and_pieces_add_up)
{
    text(big, 4096);
    for (size_t n = 0; n < 300; n++) {
        uint32_t whole = es_crc32c(0, big + n % 7, n);

        CHECK_INT(whole, ==, es_crc32c_portable(0, big + n % 7, n));
        for (size_t cut = 0; cut <= n; cut += 13)
            CHECK_INT(es_crc32c(es_crc32c(0, big + n % 7, cut), big + n % 7 + cut, n - cut), ==, whole);
    }
}

TEST(a_body_whose_bits_turn_is_found_out)
{
    uint8_t body[64];

    text(body, 60);
    es_checksum_put(body + 60, es_crc32c(0, body, 60));
    CHECK(es_checksum_right(body, 64));
    for (int bit = 0; bit < 64 * 8; bit++) {
        body[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(!es_checksum_right(body, 64));
        body[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < 4; n++)
        CHECK(!es_checksum_right(body, n));
}

TEST(what_is_compressed_comes_back)
{
    static const size_t sizes[] = {64, 100, 1000, 1024, 65535, 65536, 1000000, MAX_MESSAGE};
    struct es_zstd z = {0};
    struct es_buf packed = {0}, plain = {0};

    text(big, sizeof big);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t size = 0;

        es_buf_clear(&packed);
        int rc = es_zstd_pack(&z, &packed, 1 + (int)i % 4, big, sizes[i]);
        if (sizes[i] < 1000 && rc == ES_ERR_LIMIT)
            continue;
        CHECK_INT(rc, ==, 0);
        CHECK_INT(packed.n, <, sizes[i]);
        if (check(&packed, MAX_MESSAGE, &size) == ES_ERR_TOO_LARGE) {
            CHECK_INT(sizes[i], >, packed.n * ES_ZSTD_RATIO); /* so even we would be refused */
            continue;
        }
        CHECK_INT(size, ==, sizes[i]);
        CHECK_INT(unpack(&z, &plain, packed.p, packed.n), ==, 0);
        CHECK_INT(plain.n, ==, sizes[i]);
        CHECK(memcmp(plain.p, big, sizes[i]) == 0);
    }
    es_buf_free(&packed);
    es_buf_free(&plain);
    es_zstd_free(&z);
}

TEST(every_level_works)
{
    struct es_zstd z = {0};
    struct es_buf packed = {0}, plain = {0};
    uint64_t seed = 3;

    for (size_t i = 0; i < 300000; i++)
        big[i] = (uint8_t)("abcdefgh"[test_rand(&seed) % 8]);
    for (int level = ES_ZSTD_LEVEL_MIN; level <= ES_ZSTD_LEVEL_MAX; level += 3) {
        es_buf_clear(&packed);
        CHECK_INT(es_zstd_pack(&z, &packed, level, big, 300000), ==, 0);
        CHECK_INT(unpack(&z, &plain, packed.p, packed.n), ==, 0);
        CHECK(plain.n == 300000 && memcmp(plain.p, big, 300000) == 0);
    }
    es_buf_free(&packed);
    es_buf_free(&plain);
    es_zstd_free(&z);
}

TEST(what_does_not_shrink_is_left_alone)
{
    struct es_zstd z = {0};
    struct es_buf out = {0};
    uint64_t seed = 1;

    for (size_t i = 0; i < 5000; i++)
        big[i] = (uint8_t)test_rand(&seed);
    CHECK_INT(es_buf_put(&out, "kept", 4), ==, 0);
    CHECK_INT(es_zstd_pack(&z, &out, 3, big, 5000), ==, ES_ERR_LIMIT);
    for (size_t n = 0; n < 12; n++)
        CHECK_INT(es_zstd_pack(&z, &out, 3, (const uint8_t *)"aaaaaaaaaaaa", n), ==, ES_ERR_LIMIT);
    CHECK_INT(out.n, ==, 4);
    es_buf_free(&out);
    es_zstd_free(&z);
}

/* `size` as a varint of eight bytes, then n bytes. */
static void lie(struct es_buf *b, uint64_t size, size_t n)
{
    es_buf_clear(b);
    CHECK_INT(es_buf_reserve(b, 8 + n), ==, 0);
    for (int i = 0; i < 8; i++)
        b->p[i] = (uint8_t)(size >> (56 - 8 * i) | (i == 0 ? 0xc0 : 0));
    memset(b->p + 8, 0x28, n);
    b->n = 8 + n;
}

TEST(sizes_and_ratios_are_checked_before_anything_else)
{
    struct es_buf b = {0};
    uint64_t plain;

    lie(&b, 65536, 1);
    CHECK_INT(check(&b, MAX_MESSAGE, &plain), ==, 0);
    CHECK_INT(check(&b, 65536, &plain), ==, 0);
    CHECK_INT(check(&b, 65535, &plain), ==, ES_ERR_TOO_LARGE);
    lie(&b, 65537, 1);
    CHECK_INT(check(&b, MAX_MESSAGE, &plain), ==, ES_ERR_TOO_LARGE);
    lie(&b, 100000, 100);
    CHECK_INT(check(&b, MAX_MESSAGE, &plain), ==, 0);
    lie(&b, 100001, 100);
    CHECK_INT(check(&b, MAX_MESSAGE, &plain), ==, ES_ERR_TOO_LARGE);
    lie(&b, ES_VARINT_MAX, 1000);
    CHECK_INT(check(&b, ES_VARINT_MAX, &plain), ==, ES_ERR_TOO_LARGE);
    lie(&b, 0, 10);
    CHECK_INT(check(&b, MAX_MESSAGE, &plain), ==, ES_ERR_PROTOCOL);
    for (size_t n = 0; n <= 8; n++) { /* a plain size cut short, and nothing behind it */
        lie(&b, 500, 0);
        b.n = n;
        CHECK_INT(check(&b, MAX_MESSAGE, &plain), ==, ES_ERR_PROTOCOL);
    }
    es_buf_free(&b);
}

/* 1 GiB of zeros in 33 KiB, with any size said: refused before a byte is allocated for it. */
TEST(bombs_cost_nothing)
{
    struct es_mem_stats before, after;
    struct es_zstd z = {0};
    struct es_buf packed = {0}, plain = {0};
    uint64_t size;

    memset(big, 0, sizeof big);
    CHECK_INT(es_zstd_pack(&z, &packed, 19, big, sizeof big), ==, 0);
    CHECK_INT(packed.n, <, 1000); /* 4 MiB: far over the ratio */
    es_mem_stats(&before);
    CHECK_INT(check(&packed, MAX_MESSAGE, &size), ==, ES_ERR_TOO_LARGE);
    es_mem_stats(&after);
    CHECK_INT(after.allocs, ==, before.allocs);
    /* The same data with a smaller size said: the frame itself says another one. */
    size_t head = es_varint_len(sizeof big);
    struct es_buf lied = {0};
    CHECK_INT(es_buf_reserve(&lied, packed.n + 8), ==, 0);
    lied.n = es_varint_put(lied.p, 65000);
    CHECK_INT(es_buf_put(&lied, packed.p + head, packed.n - head), ==, 0);
    CHECK_INT(check(&lied, MAX_MESSAGE, &size), ==, 0);
    es_mem_stats(&before);
    CHECK_INT(unpack(&z, &plain, lied.p, lied.n), ==, ES_ERR_PROTOCOL);
    es_mem_stats(&after);
    CHECK_INT(after.allocs, ==, before.allocs);
    es_buf_free(&lied);
    es_buf_free(&packed);
    es_buf_free(&plain);
    es_zstd_free(&z);
}

TEST(every_cut_and_every_turned_bit_ends_well)
{
    struct es_zstd z = {0};
    struct es_buf packed = {0}, plain = {0};
    size_t n;

    text(big, 3000);
    CHECK_INT(es_zstd_pack(&z, &packed, 3, big, 3000), ==, 0);
    n = packed.n;
    for (size_t cut = 0; cut < n; cut++) /* every cut */
        CHECK_INT(unpack(&z, &plain, packed.p, cut), ==, ES_ERR_PROTOCOL);
    CHECK_INT(es_buf_put(&packed, "x", 1), ==, 0); /* and a byte behind it */
    CHECK_INT(unpack(&z, &plain, packed.p, n + 1), ==, ES_ERR_PROTOCOL);
    for (size_t i = 2; i < n; i++) { /* any bit turned gives an error or bytes, and nothing beyond them */
        packed.p[i] ^= 0x10;
        int rc = unpack(&z, &plain, packed.p, n);
        CHECK(rc == ES_ERR_PROTOCOL || (rc == 0 && plain.n == 3000));
        packed.p[i] ^= 0x10;
    }
    CHECK_INT(unpack(&z, &plain, packed.p, n), ==, 0);
    es_buf_free(&packed);
    es_buf_free(&plain);
    es_zstd_free(&z);
}

TEST(exactly_one_frame_is_taken)
{
    struct es_zstd z = {0};
    struct es_buf packed = {0}, twice = {0}, plain = {0};
    static const uint8_t skippable[] = {0x20, 0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};

    text(big, 500);
    CHECK_INT(es_zstd_pack(&z, &packed, 3, big, 500), ==, 0);
    CHECK_INT(es_buf_put(&twice, packed.p, packed.n), ==, 0);
    CHECK_INT(es_buf_put(&twice, packed.p + 2, packed.n - 2), ==, 0);
    CHECK_INT(es_varint_put(twice.p, 1000), ==, 2);
    CHECK_INT(unpack(&z, &plain, twice.p, twice.n), ==, ES_ERR_PROTOCOL);
    CHECK_INT(unpack(&z, &plain, skippable, sizeof skippable), ==, ES_ERR_PROTOCOL);
    es_buf_free(&packed);
    es_buf_free(&twice);
    es_buf_free(&plain);
    es_zstd_free(&z);
}

TEST(a_steady_state_allocates_nothing)
{
    struct es_mem_stats before, after;
    struct es_zstd z = {0};
    struct es_buf packed = {0}, plain = {0};

    text(big, 60000);
    for (int i = 0; i < 20; i++) {
        if (i == 3)
            es_mem_stats(&before);
        es_buf_clear(&packed);
        CHECK_INT(es_zstd_pack(&z, &packed, 3, big, 60000 - (size_t)i * 1000), ==, 0);
        CHECK_INT(unpack(&z, &plain, packed.p, packed.n), ==, 0);
    }
    es_mem_stats(&after);
    CHECK_INT(after.allocs, ==, before.allocs);
    es_buf_free(&packed);
    es_buf_free(&plain);
    es_zstd_free(&z);
    es_mem_stats(&after);
    CHECK_INT(after.in_use, ==, 0); /* the library's contexts were counted too */
}

TEST(out_of_memory_is_said_and_leaks_nothing)
{
    struct es_buf packed = {0}, plain = {0};
    struct es_zstd z = {0};

    text(big, 100000);
    for (unsigned i = 1; i < 10; i++) {
        es_mem_fail_nth(i);
        int rc = es_zstd_pack(&z, &packed, 3, big, 100000);
        CHECK(rc == 0 || rc == ES_ERR_NOMEM);
        if (rc == 0)
            rc = unpack(&z, &plain, packed.p, packed.n);
        CHECK(rc == 0 || rc == ES_ERR_NOMEM);
        es_mem_fail_nth(0);
        es_buf_free(&packed);
        es_buf_free(&plain);
        es_zstd_free(&z);
    }
}
