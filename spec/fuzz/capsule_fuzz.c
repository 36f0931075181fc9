// needs: csrc/base csrc/http3 csrc/link
// pkgs: libnghttp3
/* Capsules on the CONNECT stream of a session: byte 0 chooses the places of the cuts, the rest is the stream.
 * Read whole and in pieces it has the same outcome, and no more is kept than the largest capsule that is of
 * use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../csrc/http3/wt.h"

#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);                         \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

static int feed(struct wt_capsules *c, const uint8_t *data, size_t n)
{
    uint8_t *own = malloc(n + 1); /* a block of its own: a byte too far is seen */
    int rc;

    memcpy(own, data, n);
    rc = wt_capsules_feed(c, own, n);
    free(own);
    MUST(c->part.cap <= 4 * (WT_MAX_REASON + 32));
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wt_capsules whole = {0}, pieces = {0};
    uint64_t cut;
    int a, b = 0;

    if (size == 0) {
        return 0;
    }
    cut = data[0];
    data++;
    size--;
    a = feed(&whole, data, size);
    while (size > 0 && b == 0) {
        size_t k = 1 + cut % 7;

        k = k < size ? k : size;
        cut = cut * UINT64_C(6364136223846793005) + 1442695040888963407;
        cut ^= cut >> 29;
        b = feed(&pieces, data, k);
        data += k;
        size -= k;
    }
    MUST(a == b && whole.closed == pieces.closed);
    if (a == 0) {
        MUST(wt_capsules_whole(&whole) == wt_capsules_whole(&pieces));
    }
    if (whole.closed) {
        uint8_t out[16 + WT_MAX_REASON];
        struct wt_capsules again = {0};

        MUST(whole.code == pieces.code && strcmp(whole.reason, pieces.reason) == 0);
        MUST(feed(&again, out, wt_capsule_close(out, whole.code, whole.reason)) == 0);
        MUST(again.closed && again.code == whole.code && strcmp(again.reason, whole.reason) == 0);
        es_buf_free(&again.part);
    }
    es_buf_free(&whole.part);
    es_buf_free(&pieces.part);
    return 0;
}
