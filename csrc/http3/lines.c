/* Counts the field lines of a request's head and trailers, from its bytes alone (RFC 9204 4.5: what a line is
 * made of can be told without any table). nghttp3 passes over fields whose name or value may not be, and says
 * nothing: whoever smuggles a line feed would find the request served without that field. With the number of
 * lines that came it can be seen, and refused as RFC 9114 4.1.2 wants. */
#include "internal.h"

enum { FRAME_TYPE, FRAME_LEN, SKIP, INSERT_COUNT, BASE, LINE, REST_OF_INT, VALUE, TEXT };
enum { THEN_BASE, THEN_LINES, THEN_LINE_OVER, THEN_VALUE, THEN_NAME, THEN_TEXT };

#define FRAME_HEADERS        1
#define LAST_KNOWN_FRAME     0x0d
#define PRIORITY_UPDATE      0xf0700
#define PRIORITY_UPDATE_PUSH 0xf0701

/* A variable-length integer, a byte at a time. 1: it is whole, in l->v. */
static int varint(struct es_h3_lines *l, uint8_t b)
{
    if (l->left == 0) {
        l->left = (uint8_t)(1 << (b >> 6));
        l->v = 0;
        b &= 0x3f;
    }
    l->v = l->v << 8 | b;
    return --l->left == 0;
}

static void line_over(struct es_h3_lines *l)
{
    l->n[l->sections]++;
    l->state = LINE;
}

static void int_over(struct es_h3_lines *l)
{
    switch (l->then) {
    case THEN_BASE:
        l->state = BASE;
        break;
    case THEN_LINES:
        l->state = LINE;
        break;
    case THEN_LINE_OVER:
        line_over(l);
        break;
    case THEN_VALUE:
        l->state = VALUE;
        break;
    default: /* a name or a value of so many bytes */
        l->text = l->v;
        l->state = TEXT;
        if (l->text == 0) {
            if (l->then == THEN_NAME) {
                l->state = VALUE;
            } else {
                line_over(l);
            }
        }
    }
}

/* An integer begins with the bits of `mask` in b. */
static void int_begins(struct es_h3_lines *l, uint8_t b, uint8_t mask, int then)
{
    l->v = b & mask;
    l->shift = 0;
    l->then = (uint8_t)then;
    if (l->v < mask) {
        int_over(l);
    } else {
        l->state = REST_OF_INT;
    }
}

static void int_goes_on(struct es_h3_lines *l, uint8_t b)
{
    if (l->shift < 56) { /* longer ones are the library's to refuse */
        l->v += (uint64_t)(b & 0x7f) << l->shift;
        l->shift += 7;
    }
    if ((b & 0x80) == 0) {
        int_over(l);
    }
}

static void line_begins(struct es_h3_lines *l, uint8_t b)
{
    if ((b & 0x80) != 0) {
        int_begins(l, b, 0x3f, THEN_LINE_OVER);
    } else if ((b & 0x40) != 0) {
        int_begins(l, b, 0x0f, THEN_VALUE);
    } else if ((b & 0x20) != 0) {
        int_begins(l, b, 0x07, THEN_NAME);
    } else if ((b & 0x10) != 0) {
        int_begins(l, b, 0x0f, THEN_LINE_OVER);
    } else {
        int_begins(l, b, 0x07, THEN_VALUE);
    }
}

static void in_section(struct es_h3_lines *l, uint8_t b)
{
    switch (l->state) {
    case INSERT_COUNT:
        int_begins(l, b, 0xff, THEN_BASE);
        break;
    case BASE:
        int_begins(l, b, 0x7f, THEN_LINES);
        break;
    case LINE:
        line_begins(l, b);
        break;
    case REST_OF_INT:
        int_goes_on(l, b);
        break;
    default: /* VALUE */
        int_begins(l, b, 0x7f, THEN_TEXT);
    }
}

static void payload_over(struct es_h3_lines *l)
{
    if (l->headers) {
        l->sections++;
    }
    l->state = FRAME_TYPE;
    l->left = 0;
}

static void payload_begins(struct es_h3_lines *l)
{
    l->payload = l->v;
    l->headers = l->type == FRAME_HEADERS && l->sections < 2;
    l->begun |= l->type <= LAST_KNOWN_FRAME || l->type == PRIORITY_UPDATE || l->type == PRIORITY_UPDATE_PUSH;
    l->state = l->headers ? INSERT_COUNT : SKIP;
    if (l->payload == 0) {
        payload_over(l);
    }
}

/* Bytes that need no look: how many of n. */
static size_t pass(struct es_h3_lines *l, size_t n)
{
    uint64_t most = l->state == TEXT ? l->text : l->payload;

    if (most > l->payload) {
        most = l->payload;
    }
    if (n > most) {
        n = (size_t)most;
    }
    if (l->state == TEXT) {
        l->text -= n;
        if (l->text == 0 && l->then == THEN_NAME) {
            l->state = VALUE;
        } else if (l->text == 0) {
            line_over(l);
        }
    }
    return n;
}

void es_h3_lines_feed(struct es_h3_lines *l, const uint8_t *p, size_t n)
{
    while (n > 0) {
        size_t used = 1;

        if (l->state == FRAME_TYPE) {
            if (varint(l, *p)) {
                l->type = l->v;
                l->state = FRAME_LEN;
            }
        } else if (l->state == FRAME_LEN) {
            if (varint(l, *p)) {
                payload_begins(l);
            }
        } else {
            if (l->state == SKIP || l->state == TEXT) {
                used = pass(l, n);
            } else {
                in_section(l, *p);
            }
            l->payload -= used;
            if (l->payload == 0) {
                payload_over(l);
            }
        }
        p += used;
        n -= used;
    }
}

int es_h3_lines_nothing(const struct es_h3_lines *l)
{
    return !l->begun && l->state == FRAME_TYPE && l->left == 0;
}
