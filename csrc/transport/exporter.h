/* Keying material of a connection's TLS for protocols above it (RFC 8446 7.5, RFC 5705). */
#ifndef ES_TRANSPORT_EXPORTER_H
#define ES_TRANSPORT_EXPORTER_H

#include <gnutls/gnutls.h>
#include <stddef.h>
#include <stdint.h>

#define ES_EXPORTER_MAX 48 /* bytes of a hash of TLS 1.3 */

struct es_link;

/* What is kept of a handshake: the TLS session itself may be gone long before somebody asks. */
struct es_exporter {
    uint8_t secret[ES_EXPORTER_MAX];
    uint8_t n;               /* 0: not there yet */
    gnutls_keylog_func next; /* told the secrets too, when there is no key log of ours; NULL: nobody */
};

/* For gnutls_session_set_keylog_function: keeps the exporter's secret, and writes the key log if there is
 * one. */
int es_exporter_on_secret(gnutls_session_t s, const char *label, const gnutls_datum_t *secret);
/* es_link_ops.export_key of connections. */
int es_exporter_op(struct es_link *l, const char *label, const void *context, size_t context_n, void *out,
                   size_t n);
void es_exporter_wipe(struct es_exporter *e);

#endif
