// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c csrc/framing
/* The body of a HELLO, and the same bytes as metadata. */
#include "roundtrip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *why = NULL;
    struct es_kv kv;
    size_t used;
    int rc;

    roundtrip(ES_FRAME_HELLO, data, size, 0);

    rc = es_kv_decode(&kv, data, size, &used, &why);
    MUST((rc == ES_OK) == (why == NULL));
    if (rc == ES_OK) {
        struct es_buf out = {0}, pairs = {0};
        struct es_bytes k, v;
        size_t offset = 0, count = 0, again;
        struct es_kv back, built;

        MUST(used <= size);
        walk(&kv, data, size);
        MUST(es_kv_encode(&out, &kv) == ES_OK && out.n == es_kv_size(&kv));
        MUST(es_kv_decode(&back, out.p, out.n, &again, NULL) == ES_OK && again == out.n);
        /* Built pair by pair it is the same, but for lengths that came longer than needed. */
        while (es_kv_next(&back, &offset, &k, &v)) {
            MUST(es_kv_add(&pairs, &count, k.p, k.n, v.p, v.n) == ES_OK);
        }
        built.p = pairs.p;
        built.n = pairs.n;
        built.count = count;
        MUST(built.count == kv.count && built.n <= kv.n);
        walk(&built, pairs.p, pairs.n);
        es_buf_free(&out);
        es_buf_free(&pairs);
    }
    return 0;
}
