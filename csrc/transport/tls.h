/* TLS for endpoints: credentials, trust and the GnuTLS session set-up. With conn.c the only code that sees
 * GnuTLS.
 *
 * A context is made once per server or client and shared by its connections (reference counted: replacing a
 * server's certificate makes a new context, connections under way keep theirs).
 */
#ifndef ES_TRANSPORT_TLS_H
#define ES_TRANSPORT_TLS_H

#include <stddef.h>
#include <stdint.h>

struct es_tls;

enum es_trust {
    ES_TRUST_NONE = 0, /* nothing given: es_tls_new refuses for a client, with the reason */
    ES_TRUST_SYSTEM,   /* the system's CAs + name check */
    ES_TRUST_CA,       /* ca_file + name check */
    ES_TRUST_PIN, /* the peer's SPKI hash is one of the pins; overrides name, issuer and dates, never a wrong
                     key */
    ES_TRUST_SKIP /* client: verify nothing; the caller logs that it was asked for. Server: any certificate
                     will do, so that its key tells clients apart */
};

/* A certificate with its key, from files or from NUL-terminated PEM text in memory. Borrowed. */
struct es_tls_cert {
    const char *name; /* of struct es_tls_config.more: the host name it is for, or "*.example.org" */
    const char *cert_file, *key_file;
    const char *cert_pem, *key_pem;
};

#define ES_TLS_CERTS_MAX 256 /* beside the first */

struct es_tls_config {
    int is_server;
    const char *cert_file, *key_file; /* PEM; both or neither. Of a server: the default */
    /* PEM in memory instead of files; NUL-terminated */
    const char *cert_pem, *key_pem;
    const struct es_tls_cert *more; /* server: for clients that ask for other names (SNI) */
    size_t n_more;
    enum es_trust trust;       /* client; server: ES_TRUST_NONE = no client certificates asked for */
    int client_optional;       /* server with trust: clients without a certificate are let in too */
    const char *ca_file;       /* PEM bundle, with ES_TRUST_CA */
    const uint8_t (*pins)[32]; /* SHA-256 of SPKI */
    size_t n_pins;
    const char *server_name; /* client: SNI and the name to check, or an address, without SNI; NULL: none */
    const char *priority;    /* a GnuTLS priority string instead of ours; must leave TLS 1.3 */
    const char *keylog;      /* a file that gets the secrets of every connection, for Wireshark */
};

/* err_text (at least 256 bytes) gets the reason on failure. ES_ERR_TLS, ES_ERR_IO (file), ES_ERR_INVAL,
 * ES_ERR_NOMEM. */
int es_tls_new(struct es_tls **out, const struct es_tls_config *cfg, char *err_text, size_t n);
void es_tls_ref(struct es_tls *t);
void es_tls_unref(struct es_tls *t);

/* Of our own certificate: SHA-256 of the DER SPKI and of the whole DER certificate. ES_ERR_NOT_FOUND: there
 * is none. */
int es_tls_pin(const struct es_tls *t, uint8_t spki[32], uint8_t der[32]);

/* cert.h's part of the API, here because its users are the same: */

/* A new ECDSA P-256 private key as PEM (PKCS#8). *pem is es_malloc'd, NUL-terminated. */
int es_key_generate(char **pem);
/* A self-signed certificate for that key: names (DNS names or IP literals; CN = the first), valid from one
 * hour ago for `days` (browsers refuse more than 14 for a certificate known by hash). *pem is es_malloc'd. */
int es_cert_self_sign(const char *key_pem, const char *const *names, size_t n_names, int days, char **pem,
                      char *err_text, size_t n);

enum { ES_CERT_FOR_SERVERS = 1, ES_CERT_FOR_CLIENTS = 2 };
struct es_cert_order {
    const char *key_pem;                  /* the key it is for */
    const char *issuer_cert, *issuer_key; /* PEM of an authority; NULL: signed with key_pem itself */
    const char *const *names;             /* DNS names or IP literals; CN = the first, at most 64 bytes */
    size_t n_names;
    int64_t not_before, not_after; /* seconds since 1970 */
    unsigned purposes;             /* ES_CERT_FOR_… */
    int authority;                 /* it may sign others */
};
/* Makes any certificate. As es_cert_self_sign. */
int es_cert_issue(const struct es_cert_order *o, char **pem, char *err_text, size_t n);

#define ES_CERT_NAMES_MAX 32
struct es_cert_info {
    uint8_t spki[32], der[32];
    int64_t not_before, not_after; /* seconds since 1970 */
    char subject[256], issuer[256], serial[64];
    size_t n_names;
    char names[ES_CERT_NAMES_MAX]
              [128]; /* DNS names, addresses, e-mail addresses, URIs; longer ones are left out */
};
int es_cert_inspect(const char *cert_pem, struct es_cert_info *out);
int es_cert_inspect_der(const uint8_t *der, size_t n, struct es_cert_info *out);

#endif
