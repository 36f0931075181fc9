/* A peer that follows the rules of QUIC until the handshake is done and then says whatever it is told.
 *
 * Made straight on ngtcp2 and GnuTLS, with nothing of the transport room but its bridge between library
 * versions. It edits the plaintext of a packet inside ngtcp2's `encrypt` callback, just before it is sealed:
 * so any frames can be sent at any encryption level, in packets that are genuine in every other respect.
 *
 * Bytes are written as hex digits, blanks are ignored; `00*32` repeats the byte before the star. Where
 * packets are meant, `|` begins the next one.
 *
 * One process, one thread: hostile_step() receives and sends what can be received and sent now, and returns.
 */
#ifndef ES_SPEC_C_HOSTILE_H
#define ES_SPEC_C_HOSTILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum hostile_level { HOSTILE_INITIAL, HOSTILE_HANDSHAKE, HOSTILE_1RTT };

struct hostile_plan {
    int is_server;
    const char *alpn;
    const char *cert, *key; /* PEM; a server's */
    enum hostile_level level;
    /* At HOSTILE_INITIAL or HOSTILE_HANDSHAKE one of these, sent in the course of the handshake: */
    const char *frames; /* frames put behind what the packet really says; `@05` in them stands for the offset
                         * in the CRYPTO stream five bytes behind its end, as a varint of four bytes */
    const char *tail;   /* TLS bytes that continue the CRYPTO stream of that level */
    /* A server keeps HANDSHAKE_DONE and everything else of 1-RTT to itself until something is injected: the
     * client's handshake is complete but not confirmed. */
    int unconfirmed;
    int no_window;     /* its peer may send no stream data at all */
    int reserved_bits; /* set in the header of the packet that carries `frames` */
};

struct hostile;

/* A client dials at once. A server waits for its one client. NULL: out of something; what is on stderr. */
struct hostile *hostile_new(const struct hostile_plan *plan, const struct sockaddr *server, socklen_t n);
void hostile_del(struct hostile *h);
void hostile_addr(const struct hostile *h, struct sockaddr_storage *out);

void hostile_step(struct hostile *h);

int hostile_complete(const struct hostile *h); /* the handshake, on its side */
int hostile_planned(const struct hostile *h);  /* `frames` or `tail` went out */

/* Sends 1-RTT packets that hold nothing but these frames and padding. 0, or -1 (too long, or not open). */
int hostile_inject(struct hostile *h, const char *packets);
/* The same for `n` raw bytes, at most 1,000, in one packet. */
int hostile_inject_bytes(struct hostile *h, const uint8_t *frames, size_t n);
/* Sets the two reserved bits in the header of the next injected packet, or of the one with what is planned.
 */
void hostile_reserved_bits(struct hostile *h);
/* From now on it acknowledges nothing. */
void hostile_stop_acks(struct hostile *h);
/* From now on it hears of what the peer sends nothing but acknowledgements and the end. For cases whose
 * answers would confuse its own library. */
void hostile_deafen(struct hostile *h);
/* The next packets leave from a port of their own, or (0) from where all others do. 0, or -1: no socket. */
int hostile_aside(struct hostile *h, int on);
/* The next injected frames are the last of their packet, behind the padding. */
void hostile_at_end(struct hostile *h);

/* Opens its second two-way stream (4 or 5) and says "hello" on it; hostile_echoed() once the same came back.
 */
int hostile_hello(struct hostile *h);
int hostile_echoed(const struct hostile *h);
/* Leaves with CONNECTION_CLOSE (application 0). */
void hostile_leave(struct hostile *h);

/* What the peer closed with: 0 while it has not. */
int hostile_closed(const struct hostile *h, int *app, uint64_t *code);
/* Why this side gave up, when it did: ngtcp2's words, or NULL. */
const char *hostile_trouble(const struct hostile *h);

/* Reads the notation above into out. Returns the number of bytes; stops at `|` and leaves *text behind it, or
 * NULL at the end. */
size_t hostile_read(const char **text, uint8_t *out, size_t cap);

#endif
