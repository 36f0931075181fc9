// needs: tunnel/csrc/http1 tunnel/csrc/head tunnel/spec/c/fake_sock.c llhttp csrc/base/buf.c csrc/base/mem.c
// needs: csrc/base/clock.c csrc/base/varint.c
/* A visitor's bytes. Whole and in pieces they are the same requests, and each request that is told is written
 * for a backend so that llhttp alone reads the same one. The same bytes as a backend's response, whole and in
 * pieces, are the same response. */
#include <stdio.h>
#include <stdlib.h>
#include "../c/http1_oracle.h"

struct sum { /* of the requests that were told whole */
    uint64_t hash;
    size_t n;
};

static uint64_t mix(uint64_t h, const void *p, size_t n)
{
    const uint8_t *b = p;

    for (size_t i = 0; i < n; i++) {
        h = (h ^ b[i]) * UINT64_C(0x100000001b3);
    }
    return (h ^ n) * UINT64_C(0x100000001b3);
}

static uint64_t mix_seen(uint64_t h, const struct seen *s)
{
    const char *head = play_head(s->head);

    h = mix(h, head, strlen(head));
    h = mix(h, s->body.p, s->body.n);
    head = play_head(s->trailers);
    return mix(h, head, strlen(head));
}

static void add(void *user, const struct seen *s)
{
    struct sum *sum = user;

    sum->hash = mix_seen(sum->hash, s);
    sum->n++;
}

static void judge(void *user, const struct seen *s)
{
    struct es_buf wire = oracle_emit(s);

    add(user, s);
    oracle_check(s, &wire);
    es_buf_free(&wire);
}

/* A response: how it ended, and what was told. */
static uint64_t response(const uint8_t *in, size_t n, uint32_t cut)
{
    struct play p;
    struct seen *s;
    uint64_t hash;

    play_start(&p, ET_HTTP_BACKEND, NULL);
    s = play_ask(&p, play_request("GET", "/", NULL), 1);
    for (size_t at = 0; at < n;) {
        size_t some = n - at;

        if (cut != 0) {
            cut = cut * 1664525 + 1013904223;
            some = some < 1 + (cut >> 28) ? some : 1 + (cut >> 28);
        }
        fake_data(&p.f, in + at, some);
        at += some;
    }
    fake_eof(&p.f);
    hash = mix_seen(0, s) * 31 + (uint64_t)(s->resets * 1000 + s->ends * 100 + s->fin * 10 + s->infos);
    play_end(&p);
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sum whole = {0}, pieces = {0};
    uint32_t cut;
    int status;

    if (size < 2) {
        return 0;
    }
    cut = 1u + (uint32_t)data[0] * 2654435761u;
    data++;
    size--;
    status = oracle_read(data, size, 0, judge, &whole);
    ORACLE_MUST(oracle_read(data, size, cut, add, &pieces) == status || pieces.n >= whole.n);
    ORACLE_MUST(pieces.n == whole.n && pieces.hash == whole.hash);
    ORACLE_MUST(response(data, size, 0) == response(data, size, cut));
    return 0;
}
