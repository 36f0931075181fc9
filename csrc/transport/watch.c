/* Charges the peer for frames of no use (frames.c) in packets of 1-RTT, as they are decrypted; and counts the
 * library's memory.
 *
 * Every packet counts, not a sample of them: what is given up by the hundred at once stands in few packets,
 * and a sample would charge an honest peer many times over for one of them.
 *
 * A packet that the network duplicated must not be charged twice, or whoever can record and repeat packets
 * could have an honest peer cut: the numbers seen are remembered as far back as reordering goes, and what
 * comes later than that counts as lost (ngtcp2 would have to keep all the gaps to know what is new).
 */
#include <stdio.h>
#include <string.h>
#include "internal.h"

/* bytes either way that take a point off: window updates and the like come with them */
#define PER_POINT 4096

void es_watch_init(struct es_conn *c)
{
    c->ep->p->io.rand(c->ep->p->io.ctx, (uint8_t *)&c->watch.secret, sizeof c->watch.secret);
}

/* RFC 9000 A.3 */
static uint64_t expand(uint64_t expected, const uint8_t *p, size_t n)
{
    uint64_t v = 0, win = UINT64_C(1) << (8 * n), candidate;

    for (size_t i = 0; i < n; i++) {
        v = v << 8 | p[i];
    }
    candidate = (expected & ~(win - 1)) | v;
    if (candidate + win / 2 <= expected) {
        return candidate + win;
    }
    return candidate > expected + win / 2 && candidate >= win ? candidate - win : candidate;
}

/* Not too old: 1 when it is seen for the first time. */
static int is_new(struct es_watch *w, uint64_t pn)
{
    uint64_t bit = UINT64_C(1) << (pn % 64), *word = &w->seen[pn % ES_WATCH_WINDOW / 64];

    if (pn >= w->next) {
        uint64_t first = (w->next + 63) / 64, last = pn / 64; /* words not yet in use, up to the new one */
        if (last >= first + ES_WATCH_WINDOW / 64) {
            memset(w->seen, 0, sizeof w->seen);
        } else {
            for (uint64_t i = first; i <= last; i++) {
                w->seen[i % (ES_WATCH_WINDOW / 64)] = 0;
            }
        }
        w->next = pn + 1;
    } else if (*word & bit) {
        return 0;
    }
    *word |= bit;
    return 1;
}

static int is_too_old(const struct es_watch *w, uint64_t pn)
{
    return pn + ES_WATCH_WINDOW - 64 < w->next;
}

void es_watch_charge(struct es_conn *c, uint32_t cost, const char *what)
{
    struct es_watch *w = &c->watch;
    uint64_t bytes;
    char text[96];

    if (cost == 0) {
        return;
    }
    bytes = c->bytes_in + c->bytes_out;
    es_glitch_forgive(&c->link.glitch, (bytes - w->bytes) / PER_POINT);
    w->bytes = bytes;
    if (es_glitch_charge(&c->link.glitch, es_conn_now(c), cost)) {
        snprintf(text, sizeof text, "too many frames of no use: %s", what);
        es_link_close(&c->link, 1, c->link.glitch_code, text);
    }
}

int es_watch_packet(struct es_conn *c, const uint8_t *head, size_t head_n)
{
    struct es_watch *w = &c->watch;
    size_t len = (size_t)(head[0] & 3) + 1;
    uint64_t pn;

    w->newest = 1;
    if (c->link.glitch.budget == 0) {
        return 0;
    }
    pn = expand(w->next, head + head_n - len, len);
    w->number = pn;
    w->newest = pn >= w->taken;
    if (is_too_old(w, pn)) {
        return NGTCP2_ERR_DECRYPT;
    }
    return is_new(w, pn) && c->state == ES_CONN_OPEN;
}
