// needs: csrc/base/mem.c csrc/base/buf.c csrc/base/varint.c csrc/framing
/* A stream of frames: byte 0 chooses the capabilities and the limit, byte 1 the places of the cuts, the rest
 * is the stream. Read whole and in pieces it gives the same frames and the same end; each frame that decodes
 * makes the round trip. */
#include "roundtrip.h"

#define MAX_FRAMES 256

struct seen {
    uint64_t type, hash;
    size_t len;
};

struct run {
    struct seen frame[MAX_FRAMES];
    size_t n;
    int end; /* what the reader said at last */
};

static uint64_t hash_of(const uint8_t *p, size_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    }
    return h;
}

/* Feeds n bytes; notes the frames. */
static void feed(struct es_reader *r, const uint8_t *p, size_t n, struct run *run, int round, uint64_t caps)
{
    struct es_raw_frame f;

    while ((run->end = es_reader_feed(r, &p, &n, &f)) == 1) {
        if (run->n < MAX_FRAMES) {
            struct seen *s = &run->frame[run->n];
            s->type = f.type;
            s->len = f.len;
            s->hash = hash_of(f.body, f.len);
        }
        run->n++;
        if (round) {
            roundtrip(f.type, f.body, f.len, caps);
        }
    }
    MUST(run->end < 0 || n == 0);
    MUST(run->end == 0 || run->end == ES_ERR_PROTOCOL || run->end == ES_ERR_TOO_LARGE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct run whole, pieces;
    struct es_reader r;
    uint64_t caps, limit, cut;

    if (size < 2) {
        return 0;
    }
    caps = data[0] & 3; /* zstd, crc */
    limit = (data[0] & 4) != 0 ? 64 : 65536;
    cut = data[1];
    data += 2;
    size -= 2;

    whole.n = pieces.n = 0;
    es_reader_init(&r, limit);
    feed(&r, data, size, &whole, 1, caps);
    es_reader_free(&r);

    es_reader_init(&r, limit);
    pieces.end = 0;
    while (size > 0 && pieces.end == 0) {
        size_t k = 1 + cut % 17;
        uint8_t *piece;
        k = k < size ? k : size;
        cut = cut * UINT64_C(6364136223846793005) + 1442695040888963407;
        cut ^= cut >> 29;
        piece = malloc(k); /* a block of its own: a byte too far is seen */
        memcpy(piece, data, k);
        feed(&r, piece, k, &pieces, 0, caps);
        free(piece);
        MUST(es_reader_buffered(&r) <= limit + 16 && r.body.cap <= 2 * limit + 64);
        data += k;
        size -= k;
    }
    es_reader_free(&r);
    MUST(whole.n == pieces.n && whole.end == pieces.end);
    for (size_t i = 0; i < whole.n && i < MAX_FRAMES; i++) {
        MUST(whole.frame[i].type == pieces.frame[i].type && whole.frame[i].len == pieces.frame[i].len &&
             whole.frame[i].hash == pieces.frame[i].hash);
    }
    return 0;
}
