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
    ES_TRUST_SKIP /* verify nothing; the caller logs that it was asked for */
};

struct es_tls_config {
    int is_server;
    const char *cert_file, *key_file; /* PEM; both or neither */
    /* PEM in memory instead of files; NUL-terminated */
    const char *cert_pem, *key_pem;
    enum es_trust trust;       /* client; server: ES_TRUST_NONE = no client certificates asked for */
    const char *ca_file;       /* PEM bundle, with ES_TRUST_CA */
    const uint8_t (*pins)[32]; /* SHA-256 of SPKI */
    size_t n_pins;
    const char *server_name; /* client: SNI and the name to check; NULL: none (address literals) */
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
struct es_cert_info {
    uint8_t spki[32], der[32];
    int64_t not_before, not_after; /* seconds since 1970 */
    char subject[256];
};
int es_cert_inspect(const char *cert_pem, struct es_cert_info *out);

#endif
