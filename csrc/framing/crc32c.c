/* CRC-32C. Of our own rather than from a library: it is one instruction on x86-64 and sixty lines elsewhere,
 * a dependency would be more to install than to write. */
#include "compress.h"

#define POLYNOMIAL UINT32_C(0x82f63b78) /* 0x1edc6f41, bits reversed */

/* table[k][b]: what byte b does when k bytes follow it. */
static uint32_t table[8][256];
static int made;

static void make_table(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int i = 0; i < 8; i++) {
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        }
        table[0][b] = crc;
    }
    for (uint32_t b = 0; b < 256; b++) {
        for (int k = 1; k < 8; k++) {
            table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 0xff];
        }
    }
    /* Two threads that come here at once write the same numbers. */
    __atomic_store_n(&made, 1, __ATOMIC_RELEASE);
}

uint32_t es_crc32c_portable(uint32_t crc, const uint8_t *p, size_t n)
{
    if (!__atomic_load_n(&made, __ATOMIC_ACQUIRE)) {
        make_table();
    }
    crc = ~crc;
    for (; n >= 8; p += 8, n -= 8) {
        uint32_t a =
            crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = table[7][a & 0xff] ^ table[6][a >> 8 & 0xff] ^ table[5][a >> 16 & 0xff] ^ table[4][a >> 24] ^
              table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; n > 0; p++, n--) {
        crc = crc >> 8 ^ table[0][(crc ^ *p) & 0xff];
    }
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p, size_t n)
{
    uint64_t c = ~crc & UINT64_C(0xffffffff);

    for (; n >= 8; p += 8, n -= 8) {
        uint64_t v;
        memcpy(&v, p, sizeof v);
        c = __builtin_ia32_crc32di(c, v);
    }
    for (; n > 0; p++, n--) {
        c = __builtin_ia32_crc32qi((uint32_t)c, *p);
    }
    return ~(uint32_t)c;
}

uint32_t es_crc32c(uint32_t crc, const uint8_t *p, size_t n)
{
    return __builtin_cpu_supports("sse4.2") ? by_instruction(crc, p, n) : es_crc32c_portable(crc, p, n);
}
#else
uint32_t es_crc32c(uint32_t crc, const uint8_t *p, size_t n)
{
    return es_crc32c_portable(crc, p, n);
}
#endif

uint64_t es_body_flags(const uint8_t *body, size_t len)
{
    uint64_t flags;

    return es_varint_get(body, len, &flags) != 0 ? flags : 0;
}

void es_checksum_put(uint8_t out[ES_CHECKSUM_BYTES], uint32_t crc)
{
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)(crc >> (24 - 8 * i));
    }
}

int es_checksum_right(const uint8_t *body, size_t len)
{
    uint8_t expected[ES_CHECKSUM_BYTES];

    if (len < ES_CHECKSUM_BYTES) {
        return 0;
    }
    es_checksum_put(expected, es_crc32c(0, body, len - ES_CHECKSUM_BYTES));
    return memcmp(expected, body + len - ES_CHECKSUM_BYTES, ES_CHECKSUM_BYTES) == 0;
}
