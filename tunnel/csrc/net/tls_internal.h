/* What session.c needs of tls.c. */
#ifndef ET_NET_TLS_INTERNAL_H
#define ET_NET_TLS_INTERNAL_H

#include <gnutls/gnutls.h>
#include "internal.h"

#define ET_ALPN_MAX 8

struct et_alpn {
    gnutls_datum_t name[ET_ALPN_MAX]; /* owned texts */
    unsigned n;
};

struct et_cert { /* one pair of a set and the names it is for */
    gnutls_certificate_credentials_t cred;
    char **name; /* owned texts, lower case; "*.example.org" */
    size_t names;
};

/* What a server shows; never changed, replaced as a whole. Counted: sessions that use it keep it. */
struct et_certs {
    unsigned refs;
    size_t n;
    struct et_cert cert[];
};

struct et_tls_server {
    unsigned refs;
    int strict;
    struct et_certs *certs;
    struct et_alpn alpn;
    gnutls_priority_t priority;
    gnutls_datum_t ticket_key; /* stays when certificates change */
};

struct et_tls_client {
    unsigned refs;
    int verify, has_pin;
    uint8_t pin[32];
    struct et_alpn alpn;
    gnutls_priority_t priority;
    gnutls_certificate_credentials_t cred;
};

void et_certs_unref(struct et_certs *c);
/* The pair for a name that a client asked for ("": none); NULL: there is none and the server is strict. */
const struct et_cert *et_certs_for(const struct et_tls_server *t, const struct et_certs *c, const char *name);
int et_tls_spki(const gnutls_datum_t *der, uint8_t out[32]); /* 0 or -1 */

#endif
