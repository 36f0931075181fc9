// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c csrc/framing
/* Payloads with the flags ZSTD and CRC. Byte 0 chooses: even, the rest is a compressed payload as a peer
 * might send it (with a checksum behind it when bit 1 is set); odd, the rest is plain and goes there and
 * back. What is refused must cost no memory, what is undone is of the size that was said. */
#include "../../csrc/base/mem.h"
#include "../../csrc/framing/compress.h"

#include <stdio.h>
#include <stdlib.h>

#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);                         \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

#define MAX_MESSAGE (1u << 20)

static void undo(struct es_zstd *z, uint64_t flags, const uint8_t *p, size_t n)
{
    struct es_bytes payload = {p, n};
    struct es_buf plain = {0};
    uint64_t size = 0;
    const char *why = NULL;
    struct es_mem_stats before, after;
    int rc;

    es_mem_stats(&before);
    rc = es_packed_check(flags, &payload, MAX_MESSAGE, &size, &why);
    es_mem_stats(&after);
    MUST(after.allocs == before.allocs);
    MUST((rc == 0) == (why == NULL));
    if (rc != 0) {
        MUST(rc == ES_ERR_PROTOCOL || rc == ES_ERR_TOO_LARGE);
        return;
    }
    MUST(size > 0 && size <= MAX_MESSAGE && (size <= ES_ZSTD_RATIO_MIN || size <= payload.n * ES_ZSTD_RATIO));
    rc = es_zstd_unpack(z, &plain, &payload);
    MUST(rc == 0 || rc == ES_ERR_PROTOCOL);
    MUST(plain.n == (rc == 0 ? size : 0));
    es_buf_free(&plain);
}

static void there_and_back(struct es_zstd *z, int level, const uint8_t *p, size_t n)
{
    struct es_buf packed = {0}, plain = {0};
    int rc = es_zstd_pack(z, &packed, level, p, n);

    MUST(rc == 0 || rc == ES_ERR_LIMIT);
    if (rc == 0) {
        struct es_bytes payload = {packed.p, packed.n};
        MUST(packed.n < n);
        MUST(es_zstd_unpack(z, &plain, &payload) == 0);
        MUST(plain.n == n && memcmp(plain.p, p, n) == 0);
    } else {
        MUST(packed.n == 0);
    }
    es_buf_free(&packed);
    es_buf_free(&plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct es_zstd z;
    uint8_t mode;

    if (size == 0) {
        return 0;
    }
    mode = *data++;
    size--;
    MUST(es_crc32c(0, data, size) == es_crc32c_portable(0, data, size));
    (void)es_checksum_right(data, size);
    (void)es_body_flags(data, size);
    if ((mode & 1) != 0) {
        there_and_back(&z, ES_ZSTD_LEVEL_MIN + mode / 2 % 4, data, size);
    } else {
        undo(&z, ES_FLAG_ZSTD | ((mode & 2) != 0 ? ES_FLAG_CRC : 0), data, size);
    }
    return 0;
}
