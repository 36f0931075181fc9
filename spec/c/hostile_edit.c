/* Bytes from the notation of hostile.h, and where they go in a packet's plaintext. */
#include "hostile_edit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hostile.h"

#define RUN 16 /* that many dummy bytes in a row are not there by chance */

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

size_t hostile_read(const char **text, uint8_t *out, size_t cap)
{
    const char *p = *text;
    size_t n = 0;

    while (*p != '\0' && *p != '|') {
        if (*p == ' ') {
            p++;
        } else if (*p == '*' && n > 0) {
            unsigned long more = strtoul(p + 1, (char **)(uintptr_t)&p, 10);
            for (; more > 1 && n < cap; more--, n++) {
                out[n] = out[n - 1];
            }
        } else if (digit(p[0]) >= 0 && digit(p[1]) >= 0 && n < cap) {
            out[n++] = (uint8_t)(digit(p[0]) << 4 | digit(p[1]));
            p += 2;
        } else {
            fprintf(stderr, "hostile: cannot read, or no room for, \"%s\"\n", p);
            abort();
        }
    }
    *text = *p == '|' ? p + 1 : NULL;
    return n;
}

void hostile_read_plan(struct hostile_bytes *h, const char *text, size_t cap)
{
    while (*text != '\0') {
        size_t n = strcspn(text, "@");
        char *part = strndup(text, n);
        const char *p = part;
        h->n += hostile_read(&p, h->b + h->n, cap - h->n);
        free(part);
        text += n;
        if (*text == '@' && h->n_offsets < sizeof h->offset_at / sizeof h->offset_at[0] && h->n + 4 <= cap) {
            const char hex[] = {text[1], text[2], '\0'};
            uint8_t *q = h->b + h->n;
            q[0] = 0x80;
            q[1] = q[2] = 0;
            q[3] = (uint8_t)strtoul(hex, NULL, 16);
            h->offset_at[h->n_offsets++] = h->n;
            h->n += 4;
            text += 3;
        }
    }
}

static uint64_t varint(const uint8_t *p, size_t *width)
{
    uint64_t v = *p & 0x3f;

    *width = (size_t)1 << (*p >> 6);
    for (size_t i = 1; i < *width; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

/* Returns what is behind the ACK frame whose fields begin at i. */
static size_t skip_ack(const uint8_t *p, size_t i, int ecn)
{
    uint64_t ranges;
    size_t w;

    for (int k = 0; k < 2; k++) {
        (void)varint(p + i, &w);
        i += w;
    }
    ranges = varint(p + i, &w);
    i += w;
    for (uint64_t k = 0; k < 1 + 2 * ranges + (ecn ? 3 : 0); k++) {
        (void)varint(p + i, &w);
        i += w;
    }
    return i;
}

void hostile_mute(uint8_t *p, size_t n)
{
    size_t i = 0;

    while (i < n && (p[i] == 0x00 || p[i] == 0x02 || p[i] == 0x03)) {
        i = p[i] == 0x00 ? i + 1 : skip_ack(p, i + 1, p[i] == 0x03);
    }
    if (i < n && p[i] != 0x1c && p[i] != 0x1d) {
        memset(p + i, 0, n - i);
    }
}

void hostile_hush(uint8_t *p, size_t n)
{
    size_t i = 0, end;

    while (i < n && p[i] == 0x00) {
        i++;
    }
    if (i < n && (p[i] == 0x02 || p[i] == 0x03)) {
        end = skip_ack(p, i + 1, p[i] == 0x03);
        memset(p + i, 0, end - i);
    }
}

/* The CRYPTO frame that holds byte `at` of a packet of the handshake (only ACK, PING, CRYPTO and PADDING come
 * before it) is made to end there. Returns where that is in the CRYPTO stream. */
static uint64_t shorten_crypto(uint8_t *p, size_t at)
{
    size_t i = 0, w;

    while (i < at) {
        uint8_t type = p[i++];
        if (type == 0x02 || type == 0x03) {
            i = skip_ack(p, i, type == 0x03);
        } else if (type == 0x06) {
            size_t field, start;
            uint64_t len, offset = varint(p + i, &w);
            field = i + w;
            len = varint(p + field, &w);
            start = field + w;
            if (start <= at && at < start + len) {
                len = at - start;
                for (size_t k = 0; k < w; k++) {
                    p[field + w - 1 - k] = (uint8_t)(len >> (8 * k));
                }
                p[field] = (uint8_t)(p[field] | (w == 1 ? 0x00 : w == 2 ? 0x40 : w == 4 ? 0x80 : 0xc0));
                return offset + len;
            }
            i = start + len;
        }
    }
    return 0;
}

void hostile_append(struct hostile_bytes *h, uint8_t *p, size_t n)
{
    size_t at = 0, run = 0;
    uint8_t *start = memmem(p, n, HOSTILE_START, sizeof HOSTILE_START - 1);
    uint64_t end;

    while (at < n && run < RUN) {
        run = p[at++] == HOSTILE_DUMMY ? run + 1 : 0;
    }
    if (run < RUN) {
        return;
    }
    at = start != NULL ? (size_t)(start - p)
                       : at - RUN; /* without a start: the rest, in a packet of its own */
    if (n - at < h->n) {
        return;
    }
    end = shorten_crypto(p, at);
    if (h->done) { /* sent again: what is planned is said once */
        memset(p + at, 0, n - at);
        return;
    }
    memcpy(p + at, h->b, h->n);
    for (size_t i = 0; i < h->n_offsets; i++) {
        uint8_t *q = p + at + h->offset_at[i]; /* a four-byte varint, its first byte says so already */
        uint64_t offset = end + q[3];
        q[2] = (uint8_t)(offset >> 8);
        q[3] = (uint8_t)offset;
    }
    memset(p + at + h->n, 0, n - at - h->n);
    h->done = 1;
}
