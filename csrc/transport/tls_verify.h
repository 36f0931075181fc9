/* The inside of a TLS context and the verification of the peer's certificate. */
#ifndef ES_TRANSPORT_TLS_VERIFY_H
#define ES_TRANSPORT_TLS_VERIFY_H

#include <gnutls/gnutls.h>
#include <stddef.h>
#include <stdint.h>
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

/* For gnutls_session_set_verify_function, and for sessions that are resumed: 0, or GNUTLS_E_CERTIFICATE_ERROR
 * with the reason and the alert noted at the connection. */
int es_tls_verify(gnutls_session_t s);

/* SHA-256 of the public key (DER SPKI) and of the whole of a DER certificate. 0 or ES_ERR_TLS. */
int es_cert_hashes(const uint8_t *der, size_t n, uint8_t spki[32], uint8_t whole[32]);

#endif
