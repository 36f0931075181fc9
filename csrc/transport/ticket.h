/* Session tickets: what makes the next handshake with the same server shorter.
 *
 * A server seals its tickets with a key derived from the endpoint's secret, from its names and public keys
 * and from what it asks of clients, so that tickets survive a restart with the same secret and none survives
 * a change of identity. GnuTLS turns that key over with the wall clock and still opens what the key before it
 * sealed. Where early data is on, a part of the key is new with every start (early.h).
 *
 * A client gets a ticket as a block of bytes that it may keep anywhere, and gives it back when it dials the
 * same server anew, once. What the block says is checked again then: a wrong, old or foreign one only means a
 * whole handshake. Certificates stay with the session that they were shown in; trust is decided anew each
 * time.
 */
#ifndef ES_TRANSPORT_TICKET_H
#define ES_TRANSPORT_TICKET_H

#include <gnutls/gnutls.h>
#include <stddef.h>
#include <stdint.h>

struct es_conn;

/* A client's ticket, taken apart; pointers into the block. */
struct es_ticket {
    const uint8_t *session; /* GnuTLS's */
    size_t session_len;
    const uint8_t *params; /* the server's transport parameters, as ngtcp2 of this generation wrote them */
    size_t params_len;     /* 0: another generation did, no early data */
    int early;             /* the server takes early data */
    uint32_t version;      /* of QUIC, on the wire */
};

/* now: seconds since 1970. ES_ERR_INVAL: not a ticket of ours; ES_ERR_TIMEOUT: its server's certificate has
 * expired meanwhile. */
int es_ticket_read(struct es_ticket *out, const uint8_t *block, size_t n, int64_t now);

/* Does a NewSessionTicket (RFC 8446 4.6.1), without its head, allow as much early data as QUIC asks for (RFC
 * 9001 4.6.1)? */
int es_ticket_takes_early(const uint8_t *p, size_t n);
/* Client: has `s` report the tickets that come. */
void es_ticket_listen(gnutls_session_t s);
/* Server: has `s` seal a ticket for a client that could use one, and open those that it shows. */
void es_ticket_offer(gnutls_session_t s);
/* Server, the handshake is over: sends the ticket. */
void es_ticket_send(struct es_conn *c);

#endif
