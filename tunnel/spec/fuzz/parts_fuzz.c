// needs: tunnel/csrc/head csrc/base
/* A message of a data stream, whatever its bytes are: what is read is written as the same again. */
#include <stdlib.h>
#include "../../csrc/head/parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void again(const struct et_head *h)
{
    struct es_buf a = {0}, b = {0};
    struct et_head *h2;

    if (et_head_encode(h, &a) != 0 || et_head_decode(a.p, a.n, &h2) != 0 || et_head_encode(h2, &b) != 0 ||
        a.n != b.n || memcmp(a.p, b.p, a.n) != 0 || a.n != et_head_size(h)) {
        abort();
    }
    et_head_del(h2);
    es_buf_free(&a);
    es_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *p = data;
    size_t n = size;
    struct et_part part;
    int whole = et_part_check(data, size) == 0, rv;

    while ((rv = et_part_next(&p, &n, &part)) > 0) {
        struct et_head *h;
        uint64_t why;
        struct et_text text;
        if (part.type == ET_PART_RESET) {
            (void)et_part_reset(&part, &why, &text);
        } else if (et_part_head(&part, &h) == 0) {
            again(h);
            et_head_strip(h, NULL, 0);
            again(h);
            et_head_del(h);
        }
    }
    if (whole != (rv == 0 && size != 0)) {
        abort();
    }
    return 0;
}
