/* Early data (0-RTT): requests that travel with a client's first packets.
 *
 * Whoever records such packets can send them again (RFC 8446 8). A server therefore remembers the hello of
 * every connection whose early data it took, as long as the tickets live under which such hellos are good:
 * the same one never passes twice. The memory is bounded: when it is full, and at every start, a random part
 * of the key that seals tickets is made anew, so that no ticket of before opens any more and nothing of
 * before is early. That holds whatever the clock does and whoever kills the process; what it costs is one
 * whole handshake for each client.
 *
 * What runs early is up to the protocol (link.h, `early`); one that does not say that it heeds that gets no
 * early data.
 */
#ifndef ES_TRANSPORT_EARLY_H
#define ES_TRANSPORT_EARLY_H

#include <gnutls/gnutls.h>
#include <stddef.h>
#include <stdint.h>

struct es_conn;
struct es_early;
struct es_ticket;

#define ES_EARLY_SALT 32
#ifndef ES_EARLY_SEEN_MAX
#define ES_EARLY_SEEN_MAX 65536 /* hellos remembered, about 5 MiB */
#endif

/* ---- the memory of a server ---- */

/* seed: 16 random bytes for its hash table. NULL: no memory. */
struct es_early *es_early_new(const uint8_t seed[16]);
void es_early_del(struct es_early *e);
void es_early_salt(const struct es_early *e, uint8_t out[ES_EARLY_SALT]);
/* A hello of c is about to be read: its early data, if it brings any, is decided upon on the way. */
void es_early_expect(struct es_early *e, struct es_conn *c, gnutls_session_t s);
/* The first early stream has come: the protocol gets its connection before the end of the handshake. 0, or
 * NGTCP2_ERR_CALLBACK_FAILURE with the reason noted. */
int es_early_accept(struct es_conn *c);

/* ---- clients ---- */

/* c was made for a ticket that promises early data: lets the protocol send. Nothing when it cannot. */
void es_early_begin(struct es_conn *c, const struct es_ticket *t);
/* The handshake begins anew without the ticket. */
void es_early_lose(struct es_conn *c);
/* The handshake is complete: was the early data taken? If not, it is sent again, on the streams that it was
 * on (their ids may change). 0 or NGTCP2_ERR_CALLBACK_FAILURE. */
int es_early_settle(struct es_conn *c);

#endif
