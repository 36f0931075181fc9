/* Tokens by which a client shows that it receives what is sent to its address (RFC 9000 8.1).
 *
 * A server makes two kinds, both sealed with keys derived from the endpoint's secret and the time, so that
 * every server with that secret understands them, a restarted one too:
 *
 *   Retry tokens     sealed to IP, port and connection id, good for ES_TOKEN_RETRY_VALID;
 *   address tokens   (NEW_TOKEN frames) sealed to the IP, good for ES_TOKEN_ADDRESS_VALID.
 *
 * A kind's keys change every so often (by the wall clock); the one before is still accepted. What clients do
 * with address tokens is in token_store.h.
 */
#ifndef ES_TRANSPORT_TOKEN_H
#define ES_TRANSPORT_TOKEN_H

#include "../base/timer.h"
#include "compat.h"
#include "io.h"

#define ES_TOKEN_RETRY_VALID   (10 * ES_SECOND)
#define ES_TOKEN_ADDRESS_VALID (24 * 3600 * ES_SECOND)
#define ES_TOKEN_MAX           NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN2 /* bytes; the longer of the two kinds */

struct es_token_key {
    uint8_t key[32];
    uint64_t period; /* which span of time it is for */
    int made;
};

struct es_tokens { /* a server's side */
    uint8_t secret[32];
    struct es_token_key retry[2], address[2]; /* made when first needed; by the lowest bit of the period */
};

enum es_token_verdict {
    ES_TOKEN_NONE,    /* there is none, or one of somebody else's making */
    ES_TOKEN_RETRY,   /* answers our Retry */
    ES_TOKEN_ADDRESS, /* the address is known from an earlier connection */
    ES_TOKEN_STALE,   /* an address token that does not hold: as good as none (RFC 9000 8.1.3) */
    ES_TOKEN_FALSE    /* a Retry token that does not hold: INVALID_TOKEN (RFC 9000 8.1.2) */
};

void es_tokens_init(struct es_tokens *t, const uint8_t secret[32]);
void es_tokens_wipe(struct es_tokens *t);
/* Both write at most ES_TOKEN_MAX bytes and return how many, or 0 on failure. `wall`: ns since 1970. */
size_t es_tokens_make_retry(struct es_tokens *t, uint8_t *out, uint32_t version, const union es_addr *remote,
                            const ngtcp2_cid *retry_scid, const ngtcp2_cid *odcid, uint64_t wall);
size_t es_tokens_make_address(struct es_tokens *t, uint8_t *out, const union es_addr *remote, uint64_t wall);
/* *odcid is filled in for ES_TOKEN_RETRY: the id that the client chose first. */
enum es_token_verdict es_tokens_check(struct es_tokens *t, const uint8_t *token, size_t n, uint32_t version,
                                      const union es_addr *remote, const ngtcp2_cid *dcid, uint64_t wall,
                                      ngtcp2_cid *odcid);

#endif
