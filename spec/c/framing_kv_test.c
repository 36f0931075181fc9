// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c csrc/framing/kv.c
#include "test.h"
#include "../../csrc/base/mem.h"
#include "../../csrc/framing/frame.h"

static const char *why;

static int decode(const void *p, size_t n, struct es_kv *kv, size_t *used)
{
    int rc;

    why = NULL;
    rc = es_kv_decode(kv, p, n, used, &why);
    CHECK((rc == ES_OK) == (why == NULL));
    CHECK(rc == ES_OK || rc == ES_ERR_PROTOCOL || rc == ES_ERR_TOO_LARGE);
    return rc;
}

static struct es_kv of(const struct es_buf *pairs, size_t count)
{
    struct es_kv kv = {pairs->p, pairs->n, count};

    return kv;
}

TEST(a_name_has_1_to_256_bytes_of_its_alphabet)
{
    char long_name[257];

    memset(long_name, 'n', sizeof(long_name));
    CHECK(es_name_valid("math.add", 8));
    CHECK(es_name_valid("A-Za-z0-9._/:-", 14));
    CHECK(es_name_valid(long_name, 256));
    CHECK(!es_name_valid(long_name, 257));
    CHECK(!es_name_valid("", 0));
    CHECK(!es_name_valid(NULL, 0));
    for (int c = 0; c < 256; c++) {
        char one = (char)c;
        int good = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                   (c != 0 && strchr("._/:-", c) != NULL);
        CHECK_INT(es_name_valid(&one, 1), ==, good);
    }
}

TEST(pairs_come_out_as_they_were_added)
{
    struct es_buf pairs = {0}, wire = {0};
    struct es_kv kv;
    struct es_bytes k, v;
    size_t count = 0, used, offset = 0;

    CHECK_INT(es_kv_add(&pairs, &count, "es-accept", 9, "1.0-1.2", 7), ==, ES_OK);
    CHECK_INT(es_kv_add(&pairs, &count, "empty", 5, NULL, 0), ==, ES_OK);
    CHECK_INT(es_kv_add(&pairs, &count, "a/b:c_d.e-9", 11, "\0\xff", 2), ==, ES_OK);
    kv = of(&pairs, count);
    CHECK_INT(es_kv_encode(&wire, &kv), ==, ES_OK);
    CHECK_INT(wire.n, ==, es_kv_size(&kv));
    CHECK_INT(es_buf_put(&wire, "rest", 4), ==, ES_OK);
    CHECK_INT(decode(wire.p, wire.n, &kv, &used), ==, ES_OK);
    CHECK_INT(used, ==, wire.n - 4);
    CHECK_INT(kv.count, ==, 3);
    CHECK(es_kv_next(&kv, &offset, &k, &v));
    CHECK_MEM(k.p, k.n, "es-accept", 9);
    CHECK_MEM(v.p, v.n, "1.0-1.2", 7);
    CHECK(es_kv_next(&kv, &offset, &k, &v));
    CHECK_MEM(k.p, k.n, "empty", 5);
    CHECK_INT(v.n, ==, 0);
    CHECK(es_kv_next(&kv, &offset, &k, &v));
    CHECK_MEM(v.p, v.n, "\0\xff", 2);
    CHECK(!es_kv_next(&kv, &offset, &k, &v));
    CHECK(!es_kv_next(&kv, &offset, &k, &v));
    for (size_t cut = 0; cut < used; cut++) {
        CHECK_INT(decode(wire.p, cut, &kv, NULL), ==, ES_ERR_PROTOCOL);
    }
    es_buf_free(&pairs);
    es_buf_free(&wire);
}

TEST(no_metadata_is_one_zero_byte)
{
    struct es_kv kv = {0};
    struct es_buf wire = {0};
    struct es_bytes k, v;
    size_t used, offset = 0;

    CHECK_INT(es_kv_encode(&wire, &kv), ==, ES_OK);
    CHECK_MEM(wire.p, wire.n, "\0", 1);
    CHECK_INT(decode(wire.p, wire.n, &kv, &used), ==, ES_OK);
    CHECK_INT(used, ==, 1);
    CHECK_INT(kv.count, ==, 0);
    CHECK(!es_kv_next(&kv, &offset, &k, &v));
    CHECK_INT(decode(NULL, 0, &kv, &used), ==, ES_ERR_PROTOCOL);
    es_buf_free(&wire);
}

TEST(walking_bytes_that_were_not_checked_stays_inside)
{
    struct es_kv kv = {(const uint8_t *)"\x01k\x3fv", 4, 1};
    struct es_bytes k, v;
    size_t offset = 0;

    CHECK(!es_kv_next(&kv, &offset, &k, &v));
    CHECK(!es_kv_next(&kv, &offset, &k, &v));
}

TEST(keys_are_lower_case_and_stand_there_once)
{
    struct es_buf pairs = {0};
    struct es_kv kv;
    size_t count = 0;

    CHECK_INT(decode("\x01\x01"
                     "K\x00",
                     4, &kv, NULL),
              ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode("\x01\x01 \x00", 4, &kv, NULL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode("\x01\x00\x00", 3, &kv, NULL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode("\x02\x01k\x00\x01k\x00", 7, &kv, NULL), ==, ES_ERR_PROTOCOL);
    CHECK_STR(why, "a metadata key stands there twice");
    CHECK_INT(decode("\x02\x01k\x00\x01l\x00", 7, &kv, NULL), ==, ES_OK);

    CHECK_INT(es_kv_add(&pairs, &count, "", 0, "v", 1), ==, ES_ERR_INVAL);
    CHECK_INT(es_kv_add(&pairs, &count, "Key", 3, "v", 1), ==, ES_ERR_INVAL);
    CHECK_INT(es_kv_add(&pairs, &count, "key", 3, "v", 1), ==, ES_OK);
    CHECK_INT(es_kv_add(&pairs, &count, "key", 3, "w", 1), ==, ES_ERR_INVAL);
    CHECK_INT(count, ==, 1);
    es_buf_free(&pairs);
}

TEST(a_repeated_key_is_found_wherever_it_stands)
{
    for (size_t a = 0; a < 64; a++) {
        for (size_t b = a + 1; b < 64; b += 7) {
            uint8_t wire[1024] = {0x40, 64};
            size_t n = 2;
            struct es_kv kv;
            for (size_t i = 0; i < 64; i++) {
                wire[n++] = 2;
                wire[n++] = (uint8_t)('a' + (i == b ? a : i) % 26);
                wire[n++] = (uint8_t)('a' + (i == b ? a : i) / 26);
                wire[n++] = 0;
            }
            CHECK_INT(decode(wire, n, &kv, NULL), ==, ES_ERR_PROTOCOL);
        }
    }
}

TEST(sixty_four_pairs_pass_and_one_more_does_not)
{
    struct es_buf pairs = {0}, wire = {0};
    struct es_kv kv;
    size_t count = 0;
    char key[16];

    for (int i = 0; i < 64; i++) {
        CHECK_INT(es_kv_add(&pairs, &count, key, (size_t)sprintf(key, "k%d", i), "v", 1), ==, ES_OK);
    }
    CHECK_INT(es_kv_add(&pairs, &count, "more", 4, "v", 1), ==, ES_ERR_TOO_LARGE);
    kv = of(&pairs, count);
    CHECK_INT(es_kv_encode(&wire, &kv), ==, ES_OK);
    CHECK_INT(decode(wire.p, wire.n, &kv, NULL), ==, ES_OK);
    CHECK_INT(kv.count, ==, 64);
    kv.count = 65;
    CHECK_INT(es_kv_encode(&wire, &kv), ==, ES_ERR_INVAL);
    CHECK_INT(es_buf_put(&wire, "\x04more\x01v", 7), ==, ES_OK);
    wire.p[1] = 65;
    CHECK_INT(decode(wire.p, wire.n, &kv, NULL), ==, ES_ERR_TOO_LARGE);
    es_buf_free(&pairs);
    es_buf_free(&wire);
}

TEST(a_key_of_64_bytes_passes_and_one_of_65_does_not)
{
    struct es_buf pairs = {0};
    struct es_kv kv;
    uint8_t wire[70] = {1};
    size_t count = 0;
    char key[65];

    memset(key, 'k', sizeof(key));
    CHECK_INT(es_kv_add(&pairs, &count, key, 64, NULL, 0), ==, ES_OK);
    CHECK_INT(es_kv_add(&pairs, &count, key, 65, NULL, 0), ==, ES_ERR_TOO_LARGE);
    memcpy(wire + 1, pairs.p, pairs.n);
    CHECK_INT(decode(wire, 1 + pairs.n, &kv, NULL), ==, ES_OK);
    memcpy(wire + 1, "\x40\x41", 2);
    memset(wire + 3, 'k', 65);
    wire[68] = 0;
    CHECK_INT(decode(wire, 69, &kv, NULL), ==, ES_ERR_TOO_LARGE);
    es_buf_free(&pairs);
}

TEST(sixteen_kibibytes_pass_and_one_byte_more_does_not)
{
    static char value[ES_MAX_META_BYTES + 1];
    struct es_buf pairs = {0}, wire = {0};
    struct es_kv kv;
    size_t count = 0, most = ES_MAX_META_BYTES - 1 - 1 - 2; /* key length, key, value length of 2 bytes */

    CHECK_INT(es_kv_add(&pairs, &count, "k", 1, value, most + 1), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(es_kv_add(&pairs, &count, "k", 1, value, sizeof(value)), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(es_kv_add(&pairs, &count, "k", 1, value, most - 3), ==, ES_OK);
    CHECK_INT(es_kv_add(&pairs, &count, "l", 1, "x", 1), ==, ES_ERR_TOO_LARGE);
    CHECK_INT(es_kv_add(&pairs, &count, "l", 1, NULL, 0), ==, ES_OK);
    CHECK_INT(pairs.n, ==, ES_MAX_META_BYTES);
    kv = of(&pairs, count);
    CHECK_INT(es_kv_encode(&wire, &kv), ==, ES_OK);
    CHECK_INT(decode(wire.p, wire.n, &kv, NULL), ==, ES_OK);
    CHECK_INT(es_buf_put(&wire, "x", 1), ==, ES_OK);
    wire.p[wire.n - 2] = 1; /* the last value has one byte now */
    CHECK_INT(decode(wire.p, wire.n, &kv, NULL), ==, ES_ERR_TOO_LARGE);
    kv = of(&pairs, count);
    kv.n++;
    CHECK_INT(es_kv_encode(&wire, &kv), ==, ES_ERR_INVAL);
    es_buf_free(&pairs);
    es_buf_free(&wire);
}

TEST(lengths_and_counts_that_lie_cost_nothing)
{
    struct es_mem_stats a, b;
    struct es_kv kv;

    es_mem_stats(&a);
    CHECK_INT(decode("\xff\xff\xff\xff\xff\xff\xff\xff", 8, &kv, NULL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode("\x02\x01k\x00", 4, &kv, NULL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode("\x01\xff\xff\xff\xff\xff\xff\xff\xff", 9, &kv, NULL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(decode("\x01\x01k\xbf\xff\xff\xff", 7, &kv, NULL), ==, ES_ERR_PROTOCOL);
    CHECK_INT(es_kv_decode(&kv, (const uint8_t *)"", 0, NULL, NULL), ==, ES_ERR_PROTOCOL);
    es_mem_stats(&b);
    CHECK_INT(a.allocs, ==, b.allocs);
}

TEST(out_of_memory_adds_nothing)
{
    struct es_buf pairs = {0}, wire = {0};
    struct es_kv kv = {(const uint8_t *)"\x01k\x00", 3, 1};
    size_t count = 0;

    es_mem_fail_nth(1);
    CHECK_INT(es_kv_add(&pairs, &count, "k", 1, "v", 1), ==, ES_ERR_NOMEM);
    CHECK_INT(count + pairs.n, ==, 0);
    es_mem_fail_nth(1);
    CHECK_INT(es_kv_encode(&wire, &kv), ==, ES_ERR_NOMEM);
    CHECK_INT(wire.n, ==, 0);
    es_mem_fail_nth(0);
}
