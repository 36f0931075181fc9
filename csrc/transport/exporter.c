/* The exporter of TLS 1.3, computed from its secret, which the handshake tells as it does to a key log. */
#include "exporter.h"
#include <gnutls/crypto.h>
#include <string.h>
#include "internal.h"
#include "keylog.h"
#include "tls_verify.h"

#define LABEL_MAX 249 /* of the one byte for its length, "tls13 " takes six */

int es_exporter_on_secret(gnutls_session_t s, const char *label, const gnutls_datum_t *secret)
{
    ngtcp2_crypto_conn_ref *ref = gnutls_session_get_ptr(s);
    struct es_conn *c = ref->user_data;

    if (strcmp(label, "EXPORTER_SECRET") == 0 && secret->size <= ES_EXPORTER_MAX) {
        memcpy(c->exporter.secret, secret->data, secret->size);
        c->exporter.n = (uint8_t)secret->size;
    }
    if (c->peer.tls->keylog != NULL) {
        return es_keylog_write(s, label, secret);
    }
    return c->exporter.next != NULL ? c->exporter.next(s, label, secret) : 0;
}

void es_exporter_wipe(struct es_exporter *e)
{
    gnutls_memset(e, 0, sizeof *e);
}

/* HKDF-Expand-Label (RFC 8446 7.1). */
static int expand(gnutls_mac_algorithm_t hash, const gnutls_datum_t *key, const char *label,
                  const uint8_t *context, size_t context_n, void *out, size_t n)
{
    uint8_t info[2 + 1 + 255 + 1 + ES_EXPORTER_MAX];
    size_t label_n = strlen(label), at = 0;
    gnutls_datum_t text;

    info[at++] = (uint8_t)(n >> 8);
    info[at++] = (uint8_t)n;
    info[at++] = (uint8_t)(6 + label_n);
    memcpy(info + at, "tls13 ", 6);
    memcpy(info + at + 6, label, label_n);
    at += 6 + label_n;
    info[at++] = (uint8_t)context_n;
    memcpy(info + at, context, context_n);
    text.data = info;
    text.size = (unsigned)(at + context_n);
    return gnutls_hkdf_expand(hash, key, &text, out, n) == 0 ? 0 : ES_ERR_TLS;
}

static int derive(const struct es_exporter *e, const char *label, const void *context, size_t context_n,
                  void *out, size_t n)
{
    /* The hash of the cipher suite, which the size of its secrets tells. */
    int is_256 = e->n == 32;
    gnutls_mac_algorithm_t mac = is_256 ? GNUTLS_MAC_SHA256 : GNUTLS_MAC_SHA384;
    gnutls_digest_algorithm_t digest = is_256 ? GNUTLS_DIG_SHA256 : GNUTLS_DIG_SHA384;
    uint8_t hash[ES_EXPORTER_MAX], own[ES_EXPORTER_MAX];
    gnutls_datum_t secret = {.data = (unsigned char *)(uintptr_t)e->secret, .size = e->n};
    gnutls_datum_t key = {.data = own, .size = e->n};
    int rc = ES_ERR_TLS;

    if (gnutls_hash_fast(digest, "", 0, hash) == 0 &&
        expand(mac, &secret, label, hash, e->n, own, e->n) == 0 &&
        gnutls_hash_fast(digest, context, context_n, hash) == 0) {
        rc = expand(mac, &key, "exporter", hash, e->n, out, n);
    }
    gnutls_memset(own, 0, sizeof own);
    return rc;
}

int es_exporter_op(struct es_link *l, const char *label, const void *context, size_t context_n, void *out,
                   size_t n)
{
    const struct es_conn *c = es_conn_of(l);

    if (c->state >= ES_CONN_ENDED || c->close_asked) {
        return ES_ERR_CLOSED;
    }
    if (!c->established || c->exporter.n == 0) {
        return ES_ERR_AGAIN;
    }
    if (strlen(label) > LABEL_MAX || n > (size_t)255 * c->exporter.n) {
        return ES_ERR_INVAL;
    }
    return derive(&c->exporter, label, context_n > 0 ? context : "", context_n, out, n);
}
