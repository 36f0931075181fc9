/* The part of the hostile peer that knows frames and no library. */
#ifndef ES_SPEC_C_HOSTILE_EDIT_H
#define ES_SPEC_C_HOSTILE_EDIT_H

#include <stddef.h>
#include <stdint.h>

#define HOSTILE_DUMMY 0xd7 /* TLS bytes that are there only to be overwritten */
#define HOSTILE_START                                                                                        \
    "\x5a\xd1\x0c\x97\x3e\xb8\x46\xf2" /* what they begin with: Finished before them may end in anything */

struct hostile_bytes {
    uint8_t b[256];
    size_t n;
    size_t offset_at[8]; /* places in b where the end of the CRYPTO stream is filled in */
    size_t n_offsets;
    int done; /* they went out */
};

/* As hostile_read; `@05` is the end of the CRYPTO stream plus five. */
void hostile_read_plan(struct hostile_bytes *h, const char *text, size_t cap);

/* p: the n bytes of plaintext of a packet of the handshake. Where its CRYPTO frame comes to the dummy bytes
 * it ends, and these take their place, padding behind them. Sent again, only the dummy goes. Nothing happens
 * where there is no room. */
void hostile_append(struct hostile_bytes *h, uint8_t *p, size_t n);

/* p: the n bytes of plaintext of a packet that came. All but its leading acknowledgements, and what closes
 * the connection, becomes padding. */
void hostile_mute(uint8_t *p, size_t n);

/* The acknowledgements at the head of a packet that goes out become padding. */
void hostile_hush(uint8_t *p, size_t n);

#endif
