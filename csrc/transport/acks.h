/* What became of the 1-RTT packets we sent: acknowledged or lost, and what that says about the size of
 * packets that the path carries. The library keeps both to itself, so packets are followed from the outside:
 * numbers are noted when packets are sealed, acknowledgements when packets are opened (callbacks.c). No I/O,
 * no clock of its own.
 *
 * Lost is what three later packets overtook (RFC 9002 6.1.1); a tail nobody acknowledges is undecided until
 * something later is.
 *
 * Black holes (RFC 8899 4.3): a path whose MTU fell drops full packets and nobody is told. Neither generation
 * of the library notices. Told from other loss by its partiality: for three round trips packets above
 * ES_ACKS_SMALL are lost, none of them arrives, smaller ones do. When nothing arrives at all it may be the
 * same or a dead network; then small packets are a free try. Either way `small` is set, and now and then one
 * full packet, carrying data like any other, tries the path: when it arrives, the size goes back up. */
#ifndef ES_TRANSPORT_ACKS_H
#define ES_TRANSPORT_ACKS_H

#include <stddef.h>
#include <stdint.h>

#define ES_ACKS_SMALL 1200  /* bytes of UDP payload that every path carries */
#define ES_ACKS_MAX   32768 /* undecided packets followed; the oldest beyond are forgotten, not lost */

struct es_acks {
    int64_t low;        /* the lowest number that is undecided */
    int64_t next;       /* one above the highest sent; 0: nothing yet */
    uint64_t *bits;     /* owned ring: cap bits "acknowledged", then cap bits "big" */
    size_t cap;         /* packets; a power of two; 0: none yet, or no memory (then nothing is followed) */
    uint64_t lost;      /* packets, in all */
    uint64_t heard_at;  /* ns: when an acknowledgement brought something new */
    uint64_t big_since; /* ns: when the first big packet was sent after the last one that arrived; 0: none */
    int64_t big_sent, big_acked; /* the highest big one that was sent, that arrived; -1 */
    int64_t round_end;           /* losses of numbers below it belong to the round trip that was counted */
    unsigned rounds;             /* round trips with big losses since a big one arrived */
    unsigned small;              /* no packet is to be larger than ES_ACKS_SMALL, but for a try */
    unsigned trying;             /* the next packet may be big */
    int64_t try;                 /* the number of the big packet on trial; -1: none */
    uint64_t try_at;             /* ns: when the next trial may start */
    uint64_t try_wait;           /* ns between trials: doubles */
    uint64_t holes;              /* times `small` was set */
    uint64_t ect0, ce;           /* the peer's latest counts */
};

void es_acks_init(struct es_acks *a);
void es_acks_free(struct es_acks *a);

/* A 1-RTT packet of `size` bytes is being sealed; `number` are the low `bytes` bytes of its number. */
void es_acks_sent(struct es_acks *a, uint32_t number, unsigned bytes, size_t size, uint64_t now);
/* An ACK frame of a 1-RTT packet from the peer, from its type on; n bytes are left of the packet. Anything
 * odd is left to the library to refuse. */
void es_acks_received(struct es_acks *a, const uint8_t *frame, size_t n, uint64_t now);
/* 1: such a frame acknowledges the packet, whatever was thought to have become of it. */
int es_acks_covers(const uint8_t *frame, size_t n, int64_t number);
/* The loss timer is due: has the path fallen silent? `pto`: the library's, without backoff. */
void es_acks_silence(struct es_acks *a, uint64_t now, uint64_t pto);
/* Another path: nothing of this is known of it. */
void es_acks_moved(struct es_acks *a);
/* The largest packet to write now: `max`, or ES_ACKS_SMALL. */
static inline size_t es_acks_size(struct es_acks *a, size_t max, uint64_t now)
{
    if (!a->small) {
        return max;
    }
    if (!a->trying && a->try < 0 && now >= a->try_at) {
        a->trying = 1;
    }
    return a->trying ? max : ES_ACKS_SMALL;
}

#endif
