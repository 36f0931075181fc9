/* TLS over TCP with GnuTLS: sets of certificates chosen by SNI, and what a client trusts. Shared and counted:
 * a set can be changed while connections use the old one, which ends with the last of them. */
#ifndef ET_NET_TLS_H
#define ET_NET_TLS_H

#include <stddef.h>

struct et_tls_server; /* counted */
struct et_tls_client; /* counted */

/* PEM texts. `names`: NULL: those of the certificate. The first certificate is also for names that none is
 * for, unless `strict`. `alpn`: in our order, NULL-terminated. ES_ERR_TLS with a reason that names the
 * certificate. */
struct et_tls_cert {
    const char *cert_pem, *key_pem; /* borrowed for the call */
    const char *const *names;
};
int et_tls_server_new(const struct et_tls_cert *certs, size_t n, const char *const *alpn, int strict,
                      struct et_tls_server **out, char *reason, size_t reason_n);
/* New connections use the new certificates; the set keeps its identity. On error the old ones stay. */
int et_tls_server_swap(struct et_tls_server *t, const struct et_tls_cert *certs, size_t n, char *reason,
                       size_t reason_n);
void et_tls_server_ref(struct et_tls_server *t);
void et_tls_server_unref(struct et_tls_server *t);

/* ca_pem: NULL: the system's authorities. verify 0: nothing is checked but a pin. pin: "sha256:<hex of the
 * key>", instead of ca. */
int et_tls_client_new(const char *ca_pem, const char *pin, int verify, const char *cert_pem,
                      const char *key_pem, const char *const *alpn, struct et_tls_client **out, char *reason,
                      size_t reason_n);
void et_tls_client_unref(struct et_tls_client *t);

const char *et_tls_version(void); /* of GnuTLS, that of run time */

#endif
