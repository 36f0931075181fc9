/* What is done to payloads on their way: compression and checksums of both directions, and the numbers of
 * codecs. What carries no flag passes through the inline functions of internal.h only. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

/* ---- out ---- */

void pack_more(struct es_session *s, const struct es_packing *how, struct es_packed *k)
{
    struct es_host *h = s->host;

    if (how->compress == ES_COMPRESS_ON && k->n >= how->threshold && (s->caps & ES_CAP_ZSTD) != 0) {
        int level = how->level != 0 ? how->level : ES_ZSTD_LEVEL;

        es_buf_clear(&h->packed);
        es_buf_shrink(&h->packed, ES_HOST_SPARE_MAX); /* one long message does not stay for ever */
        /* Without memory, or when it is no shorter, it goes as it is. So does what a receiver would take for
         * a bomb. */
        if (es_zstd_pack(&h->zstd, &h->packed, level, k->p, k->n) == 0 &&
            (k->n <= ES_ZSTD_RATIO_MIN ||
             k->n <= (uint64_t)(h->packed.n - es_varint_len(k->n)) * ES_ZSTD_RATIO)) {
            h->stats.compressed_out++;
            h->stats.compression_saved += k->n - h->packed.n;
            k->p = h->packed.p;
            k->n = h->packed.n;
            k->flags |= ES_FLAG_ZSTD;
        }
    }
    if (how->checksum && (s->caps & ES_CAP_CRC) != 0)
        k->flags |= ES_FLAG_CRC;
}

struct es_packing pack_mirror(const struct es_packing *how, uint64_t flags)
{
    struct es_packing p = *how;

    if ((flags & ES_FLAG_CRC) != 0)
        p.checksum = 1;
    if ((flags & ES_FLAG_ZSTD) != 0 && p.compress == ES_COMPRESS_UNSAID) {
        p.compress = ES_COMPRESS_ON;
        p.threshold = ES_ZSTD_THRESHOLD;
    }
    return p;
}

int pack_append(struct es_buf *b, size_t frame_at, int datagram, const struct es_packed *k)
{
    uint8_t sum[ES_CHECKSUM_BYTES];
    size_t body_at;
    int rc = es_buf_put(b, k->p, k->n);

    if (rc != 0 || (k->flags & ES_FLAG_CRC) == 0)
        return rc;
    /* The body begins behind the type and, but in a datagram, the length, whose first bits say its own. */
    body_at = frame_at + 1 + (datagram ? 0 : (size_t)1 << (b->p[frame_at + 1] >> 6));
    es_checksum_put(sum, es_crc32c(0, b->p + body_at, b->n - body_at));
    return es_buf_put(b, sum, sizeof sum);
}

int pack_write(struct es_session *s, struct es_link_stream *ls, const struct es_packed *k, int fin,
               void (*release)(void *), void *arg)
{
    struct es_buf *b = &s->host->scratch;
    int rc;

    if (release == NULL || k->flags != 0) {
        rc = pack_append(b, 0, 0, k);
        if (rc == 0)
            rc = es_link_write(ls, b->p, b->n, fin);
        if (k->flags != 0)
            es_buf_shrink(b, ES_LINK_HIGH); /* the link has its own copy */
        if (rc == 0 && release != NULL)
            release(arg);
        return rc;
    }
    rc = es_link_write(ls, b->p, b->n, 0);
    return rc == 0 ? es_link_write_ref(ls, k->p, k->n, fin, release, arg) : rc;
}

/* ---- in ---- */

int unpack_more(struct es_session *s, const struct es_raw_frame *f, int rc, uint64_t flags,
                struct es_bytes *payload, const char **why)
{
    /* A body that cannot be decoded may be one that was damaged: `flags` is nothing to go by then. */
    if (rc != 0)
        flags = es_body_flags(f->body, f->len);
    if ((flags & ES_FLAG_CRC) != 0 && (s->caps_in & ES_CAP_CRC) != 0 && !es_checksum_right(f->body, f->len)) {
        s->host->stats.checksum_errors++;
        *why = "the checksum does not match";
        return ES_ERR_CORRUPT;
    }
    if (rc != 0)
        return rc;
    rc = es_packed_check(flags, payload, s->host->cfg.limits.max_message, NULL, why);
    if (rc == 0 && (flags & ES_FLAG_ZSTD) != 0)
        s->host->stats.compressed_in++;
    return rc;
}

int es_session_plain(struct es_session *s, const uint8_t *packed, size_t len, const uint8_t **plain,
                     size_t *plain_len)
{
    struct es_host *h = s->host;
    struct es_bytes payload = {packed, len};
    int rc;

    es_buf_clear(&h->plain);
    es_buf_shrink(&h->plain, ES_HOST_SPARE_MAX);
    rc = es_zstd_unpack(&h->zstd, &h->plain, &payload);
    *plain = h->plain.p;
    *plain_len = h->plain.n;
    return rc;
}

/* ---- codecs ---- */

int codec_out_more(const struct es_session *s, uint64_t codec, uint64_t *wire)
{
    *wire = 0;
    if (codec < ES_FIRST_CODEC || codec - ES_FIRST_CODEC >= ES_MAX_CODECS)
        return ES_ERR_INVAL;
    if (!s->hello_seen)
        return ES_ERR_AGAIN;
    codec -= ES_FIRST_CODEC;
    if (codec >= s->n_codecs || s->peer_codecs == NULL || s->peer_codecs[codec] == ES_NO_CODEC)
        return ES_ERR_UNSUPPORTED;
    *wire = s->peer_codecs[codec];
    return 0;
}

int es_session_takes_codec(const struct es_session *s, int codec)
{
    uint64_t wire;
    int rc = codec < 0 ? ES_ERR_INVAL : codec_out(s, (uint64_t)codec, &wire);

    return rc == 0 ? 1 : rc == ES_ERR_AGAIN ? rc : 0;
}

int codecs_announce(struct es_session *s, struct es_buf *out)
{
    const struct es_codec_names *names = s->host->cfg.codecs;
    size_t n = names != NULL ? names->n : 0;

    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(names->name[i]);
        int rc = es_buf_reserve(out, 2 + len); /* both numbers are below 64 */

        if (rc != 0)
            return rc;
        out->n += es_varint_put(out->p + out->n, ES_FIRST_CODEC + i);
        out->n += es_varint_put(out->p + out->n, len);
        memcpy(out->p + out->n, names->name[i], len);
        out->n += len;
    }
    s->n_codecs = (uint8_t)n;
    return 0;
}

/* theirs: (number, name)*, which was checked. Those that we did not announce are of no use: their answers
 * could not be read. */
int codecs_received(struct es_session *s, const struct es_bytes *theirs)
{
    const struct es_codec_names *names = s->host->cfg.codecs;
    size_t at = 0;

    if (s->n_codecs == 0 || theirs->n == 0)
        return 0;
    s->peer_codecs = es_malloc(s->n_codecs * sizeof *s->peer_codecs);
    if (s->peer_codecs == NULL)
        return ES_ERR_NOMEM;
    for (size_t i = 0; i < s->n_codecs; i++)
        s->peer_codecs[i] = ES_NO_CODEC;
    while (at < theirs->n) {
        uint64_t number = 0, len = 0;

        at += es_varint_get(theirs->p + at, theirs->n - at, &number);
        at += es_varint_get(theirs->p + at, theirs->n - at, &len);
        for (size_t i = 0; i < s->n_codecs; i++) {
            if (number >= ES_FIRST_CODEC && strlen(names->name[i]) == len &&
                memcmp(names->name[i], theirs->p + at, len) == 0)
                s->peer_codecs[i] = number;
        }
        at += len;
    }
    return 0;
}
