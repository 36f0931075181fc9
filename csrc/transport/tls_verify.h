/* The inside of a TLS context and the verification of the peer's certificate. */
#ifndef ES_TRANSPORT_TLS_VERIFY_H
#define ES_TRANSPORT_TLS_VERIFY_H

#include <gnutls/gnutls.h>
#include <stddef.h>
#include <stdint.h>
#include "../base/buf.h"
#include "tls.h"

/* A further certificate of a server, for the clients that ask for its name. */
struct es_tls_other {
    char *name; /* owned, lower case; "*.example.org" for any one label before it */
    gnutls_certificate_credentials_t cred; /* owned */
};

struct es_tls {
    int refs;
    int is_server;
    gnutls_certificate_credentials_t cred; /* owned */
    struct es_tls_other *other;            /* owned array */
    size_t n_other;
    gnutls_priority_t prio; /* owned */
    enum es_trust trust;
    int client_optional;
    uint8_t (*pins)[32]; /* owned */
    size_t n_pins;
    char server_name[256];
    uint8_t name_ip[16]; /* the server name when it is an address literal: checked against the IP names */
    size_t name_ip_len;
    int has_own;
    uint8_t own_spki[32], own_der[32];
    uint8_t identity[32];     /* of all names and public keys that we show: tickets are good for no other */
    struct es_keylog *keylog; /* owned; NULL: none */
};

/* The certificate for a client that asks for this host: the name itself, else a wildcard, else the default.
 */
gnutls_certificate_credentials_t es_tls_cred_for(const struct es_tls *t, const char *asked);

/* One side's view of a TLS session, whatever carries it: what we show and whom we trust, and what came of it.
 */
struct es_tls_peer {
    struct es_tls *tls;   /* shared */
    unsigned alert;       /* our own alert, more exact than GnuTLS's; 0: none */
    char reason[256];     /* why the handshake fails, for people; "": it does not, or GnuTLS knows */
    struct es_buf der;    /* the other side's certificate; empty: it showed none */
    uint8_t pin[32];      /* SHA-256 of its public key, */
    unsigned has_pin : 1; /* if it has one */
};

/* The check of the other side's certificate: 0, or GNUTLS_E_CERTIFICATE_ERROR with the reason and the alert
 * noted in p. */
int es_tls_judge(struct es_tls_peer *p, gnutls_session_t s);

/* es_tls_judge for connections over QUIC: for gnutls_session_set_verify_function, and for sessions that are
 * resumed. */
int es_tls_verify(gnutls_session_t s);

/* A session of TLS over a byte stream, set up to be believed like one over QUIC: same certificates, same
 * trust, same policy, without tickets. `p` is found again by gnutls_session_get_ptr and must live as long; of
 * the protocols, of which one must be agreed on, there are n. 0 or ES_ERR_TLS. */
int es_tls_stream_session(struct es_tls_peer *p, const char *const *alpn, size_t n, gnutls_session_t *out);

/* SHA-256 of the public key (DER SPKI) and of the whole of a DER certificate. 0 or ES_ERR_TLS. */
int es_cert_hashes(const uint8_t *der, size_t n, uint8_t spki[32], uint8_t whole[32]);

#endif
