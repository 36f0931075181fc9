/* One walk over the frames of a 1-RTT packet: what they cost the peer (see watch.c), where its
 * acknowledgements are (acks.c), and with what codes it stops streams, which ngtcp2 does not tell. Only the
 * shapes are looked at; whether a frame is allowed at all is ngtcp2's to say. */
#include <string.h>
#include "../base/varint.h"
#include "internal.h"

#define RANGES_FREE  64  /* of an ACK: what honest stacks send at most, under loss and reordering */
#define WINDOWS_FREE 4   /* frames about windows and numbers of streams: every other packet has one */
#define TINY         4   /* bytes of a STREAM frame: no frame of any protocol is that short */
#define PER_TINY     512 /* bytes of a packet that allow for one: what was left of it is often filled up so */

struct walk {
    const uint8_t *p, *end; /* p beyond end: the packet is malformed */
    unsigned acks, tiny, windows;
    uint64_t given_up; /* the stream of the RESET_STREAM or STOP_SENDING before, ... */
    unsigned how;      /* ... and which of the two; 0: none */
};

static uint64_t number(struct walk *w)
{
    uint64_t v;
    size_t used = w->p < w->end ? es_varint_get(w->p, (size_t)(w->end - w->p), &v) : 0;

    if (used == 0) {
        w->p = w->end + 1;
        return 0;
    }
    w->p += used;
    return v;
}

static void skip(struct walk *w, uint64_t n)
{
    if (w->p <= w->end) {
        w->p = n <= (uint64_t)(w->end - w->p) ? w->p + n : w->end + 1;
    }
}

static void numbers(struct walk *w, unsigned n)
{
    while (n-- > 0) {
        (void)number(w);
    }
}

static uint32_t ack(struct walk *w, int ecn)
{
    uint64_t ranges, i;

    numbers(w, 2);
    ranges = number(w);
    numbers(w, 1);
    for (i = 0; i < ranges && w->p < w->end; i++) {
        numbers(w, 2);
    }
    numbers(w, ecn ? 3 : 0);
    if (i < ranges) {
        return 0; /* malformed */
    }
    return (w->acks++ > 0) + (ranges > RANGES_FREE ? (uint32_t)(ranges / 16) : 0);
}

static uint32_t stream(struct walk *w, unsigned type)
{
    uint64_t n;

    numbers(w, type & 4 ? 2 : 1);
    n = type & 2 ? number(w) : w->p <= w->end ? (uint64_t)(w->end - w->p) : 0;
    skip(w, n);
    if (n == 0) {
        return 1;
    }
    w->tiny += n < TINY && !(type & 1);
    return 0;
}

/* RESET_STREAM and STOP_SENDING of one stream, next to each other, are one thing: it was given up. */
static uint32_t give_up(struct walk *w, unsigned type)
{
    uint64_t id = number(w);
    int both = w->how != 0 && w->how != type && w->given_up == id;

    numbers(w, type == 0x04 ? 2 : 1);
    w->given_up = id;
    w->how = both ? 0 : type;
    return !both;
}

static uint32_t one(struct walk *w, unsigned type, const char **what)
{
    switch (type) {
    case 0x02:
    case 0x03:
        *what = "acknowledgements";
        return ack(w, type == 0x03);
    case 0x01:
        *what = "PING";
        return 1;
    case 0x04:
        *what = "RESET_STREAM";
        return give_up(w, type);
    case 0x05:
        *what = "STOP_SENDING";
        return give_up(w, type);
    case 0x06:
        numbers(w, 1);
        skip(w, number(w));
        *what = "CRYPTO";
        return 1;
    case 0x07:
        skip(w, number(w));
        *what = "NEW_TOKEN";
        return 1;
    case 0x10:
    case 0x12:
    case 0x13:
    case 0x14:
    case 0x16:
    case 0x17:
        numbers(w, 1);
        *what = "flow control";
        return w->windows++ >= WINDOWS_FREE;
    case 0x11:
    case 0x15:
        numbers(w, 2);
        *what = "flow control";
        return w->windows++ >= WINDOWS_FREE;
    case 0x18:
        numbers(w, 2);
        skip(w, w->p < w->end ? 1u + *w->p + 16 : 1);
        *what = "NEW_CONNECTION_ID";
        return 2;
    case 0x19:
        numbers(w, 1);
        *what = "RETIRE_CONNECTION_ID";
        return 2;
    case 0x1a:
    case 0x1b:
        skip(w, 8);
        *what = "PATH_CHALLENGE";
        return 2;
    case 0x1c:
    case 0x1d:
        numbers(w, type == 0x1c ? 2 : 1);
        skip(w, number(w));
        return 0;
    case 0x1e:
        *what = "HANDSHAKE_DONE";
        return 1;
    case 0x30:
        *what = "empty DATAGRAM";
        type = w->p >= w->end;
        w->p = w->end;
        return type;
    case 0x31: {
        uint64_t n = number(w);
        skip(w, n);
        *what = "empty DATAGRAM";
        return n == 0;
    }
    default:
        *what = "empty STREAM";
        return (type & 0xf8) == 0x08 ? stream(w, type) : (w->p = w->end + 1, 0);
    }
}

/* Packets that look for the path's size, and the first ones, are hardly anything else. */
static void skip_padding(struct walk *w)
{
    uint64_t eight = 0;

    while (w->end - w->p >= 8 && eight == 0) {
        memcpy(&eight, w->p, 8);
        w->p += eight == 0 ? 8 : 0;
    }
}

/* `w`: a copy, behind the type. */
static void tell(struct walk w, unsigned type, const struct es_frames_told *told, void *arg)
{
    uint64_t a = 0, b = 0;

    switch (type) {
    case 0x02:
    case 0x03:
        if (told->ack != NULL && w.acks == 0) {
            told->ack(arg, w.p - 1, (size_t)(w.end - w.p) + 1);
        }
        break;
    case 0x05:
        a = number(&w);
        b = number(&w);
        if (told->stop != NULL && w.p <= w.end) {
            told->stop(arg, (int64_t)a, b);
        }
        break;
    case 0x18:
    case 0x19:
    case 0x1a:
        a = type != 0x1a ? number(&w) : 0;
        b = type == 0x18 ? number(&w) : 0;
        if (told->path != NULL && w.p <= w.end) {
            told->path(arg, type, a, b);
        }
        break;
    default:
        break;
    }
}

uint32_t es_frames_look(const uint8_t *p, size_t n, const struct es_frames_told *told, void *arg,
                        const char **what)
{
    struct walk w = {.p = p, .end = p + n};
    uint32_t cost = 0, dearest = 0;
    unsigned frames = 0;

    *what = "padding";
    while (w.p < w.end) {
        const char *name = "";
        unsigned type = *w.p++;
        uint32_t points;

        if (type == 0) {
            skip_padding(&w);
            continue;
        }
        if (told != NULL && (type <= 0x05 || (type >= 0x18 && type <= 0x1a))) {
            tell(w, type, told, arg);
        }
        frames++;
        points = one(&w, type, &name);
        if (points > dearest || (points > 0 && dearest == 0)) {
            dearest = points;
            *what = name;
        }
        cost += points;
    }
    if (frames == 0) {
        return 1;
    }
    if (w.tiny > n / PER_TINY) {
        cost += w.tiny - (uint32_t)(n / PER_TINY);
        *what = dearest == 0 ? "tiny STREAM" : *what;
    }
    return cost;
}
