/* Where clients keep the address tokens that servers give them (NEW_TOKEN, RFC 9000 8.1.3): in memory, one
 * store per poller. Each token is shown once, so that nobody on the way can tell two connections to be one
 * client's.
 *
 * All of it is one block, made for the first token: however many connections come and go, memory stays the
 * same. */
#ifndef ES_TRANSPORT_TOKEN_STORE_H
#define ES_TRANSPORT_TOKEN_STORE_H

#include "io.h"

#define ES_TOKEN_STORE 32  /* tokens kept; the oldest gives way */
#define ES_TOKEN_LONG  160 /* bytes; longer ones are not kept */

struct es_token_slot;

struct es_token_store {         /* zeroed: empty */
    struct es_token_slot *slot; /* owned array of ES_TOKEN_STORE, or NULL */
    uint64_t order;             /* of the newest */
};

void es_token_store_free(struct es_token_store *s);
/* Of the server with this address and name ("": none was asked for). Without memory it is forgotten. */
void es_token_store_put(struct es_token_store *s, const union es_addr *server, const char *name,
                        const uint8_t *token, size_t n);
/* Takes the newest one out of the store: it is for one connection only. `out` of ES_TOKEN_LONG bytes; returns
 * the token's length, 0: there is none. */
size_t es_token_store_take(struct es_token_store *s, const union es_addr *server, const char *name,
                           uint8_t *out);
size_t es_token_store_count(const struct es_token_store *s);

#endif
