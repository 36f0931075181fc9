/* Keys and certificates: making our own, reading anybody's. */
#include <arpa/inet.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include "../base/clock.h"
#include "internal.h"
#include "tls_verify.h"

/* GnuTLS's memory into ours. */
static int copy_out(char **out, gnutls_datum_t *d)
{
    *out = es_malloc(d->size + 1);
    if (*out != NULL) {
        memcpy(*out, d->data, d->size);
        (*out)[d->size] = '\0';
    }
    gnutls_free(d->data);
    d->data = NULL;
    return *out != NULL ? 0 : ES_ERR_NOMEM;
}

static int hash_spki(gnutls_x509_crt_t crt, uint8_t out[32])
{
    gnutls_pubkey_t pub;
    gnutls_datum_t der = {NULL, 0};
    int rv = ES_ERR_TLS;

    if (gnutls_pubkey_init(&pub) != 0) {
        return ES_ERR_NOMEM;
    }
    if (gnutls_pubkey_import_x509(pub, crt, 0) == 0 &&
        gnutls_pubkey_export2(pub, GNUTLS_X509_FMT_DER, &der) == 0) {
        rv = gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, out) == 0 ? 0 : ES_ERR_TLS;
        gnutls_free(der.data);
    }
    gnutls_pubkey_deinit(pub);
    return rv;
}

int es_cert_hashes(const uint8_t *der, size_t n, uint8_t spki[32], uint8_t whole[32])
{
    gnutls_x509_crt_t crt;
    gnutls_datum_t d = {(unsigned char *)(uintptr_t)der, (unsigned)n};
    int rv = ES_ERR_TLS;

    if (gnutls_x509_crt_init(&crt) != 0) {
        return ES_ERR_NOMEM;
    }
    if (gnutls_x509_crt_import(crt, &d, GNUTLS_X509_FMT_DER) == 0 &&
        gnutls_hash_fast(GNUTLS_DIG_SHA256, der, n, whole) == 0) {
        rv = hash_spki(crt, spki);
    }
    gnutls_x509_crt_deinit(crt);
    return rv;
}

int es_key_generate(char **pem)
{
    gnutls_x509_privkey_t key;
    gnutls_datum_t out = {NULL, 0};
    int rv = ES_ERR_TLS;

    *pem = NULL;
    if (gnutls_x509_privkey_init(&key) != 0) {
        return ES_ERR_NOMEM;
    }
    if (gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1),
                                     0) == 0 &&
        gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &out) == 0) {
        rv = copy_out(pem, &out);
    }
    gnutls_x509_privkey_deinit(key);
    return rv;
}

static int add_name(gnutls_x509_crt_t crt, const char *name)
{
    uint8_t ip[16];

    if (inet_pton(AF_INET, name, ip) == 1) {
        return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, ip, 4, GNUTLS_FSAN_APPEND);
    }
    if (inet_pton(AF_INET6, name, ip) == 1) {
        return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, ip, 16, GNUTLS_FSAN_APPEND);
    }
    return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, name, (unsigned)strlen(name),
                                                GNUTLS_FSAN_APPEND);
}

static int fill_in(gnutls_x509_crt_t crt, gnutls_x509_privkey_t key, const struct es_cert_order *o)
{
    uint8_t serial[16];
    int rv;

    es_random(serial, sizeof serial);
    serial[0] = (serial[0] & 0x7f) | 0x01; /* positive and of full length */
    (void)((rv = gnutls_x509_crt_set_version(crt, 3)) ||
           (rv = gnutls_x509_crt_set_serial(crt, serial, sizeof serial)) ||
           (rv = gnutls_x509_crt_set_activation_time(crt, (time_t)o->not_before)) ||
           (rv = gnutls_x509_crt_set_expiration_time(crt, (time_t)o->not_after)) ||
           (rv = gnutls_x509_crt_set_key(crt, key)) ||
           (rv = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, o->names[0],
                                               (unsigned)strlen(o->names[0]))) ||
           (rv = gnutls_x509_crt_set_basic_constraints(crt, o->authority != 0, -1)) ||
           (rv = gnutls_x509_crt_set_key_usage(crt, o->authority
                                                        ? GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN
                                                        : GNUTLS_KEY_DIGITAL_SIGNATURE)));
    if (rv == 0 && (o->purposes & ES_CERT_FOR_SERVERS)) {
        rv = gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_SERVER, 0);
    }
    if (rv == 0 && (o->purposes & ES_CERT_FOR_CLIENTS)) {
        rv = gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_CLIENT, 0);
    }
    for (size_t i = 0; rv == 0 && i < o->n_names; i++) {
        rv = add_name(crt, o->names[i]);
    }
    return rv;
}

static gnutls_datum_t text(const char *pem)
{
    gnutls_datum_t d = {(unsigned char *)(uintptr_t)pem, (unsigned)strlen(pem)};
    return d;
}

static int sign(gnutls_x509_crt_t crt, gnutls_x509_privkey_t key, const struct es_cert_order *o)
{
    gnutls_x509_crt_t issuer = NULL;
    gnutls_x509_privkey_t issuer_key = NULL;
    gnutls_datum_t in;
    int rv;

    if (o->issuer_cert == NULL) {
        return gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0);
    }
    rv = gnutls_x509_crt_init(&issuer);
    if (rv == 0) {
        in = text(o->issuer_cert);
        rv = gnutls_x509_crt_import(issuer, &in, GNUTLS_X509_FMT_PEM);
    }
    if (rv == 0) {
        rv = gnutls_x509_privkey_init(&issuer_key);
    }
    if (rv == 0) {
        in = text(o->issuer_key);
        rv = gnutls_x509_privkey_import2(issuer_key, &in, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN);
    }
    if (rv == 0) {
        rv = gnutls_x509_crt_sign2(crt, issuer, issuer_key, GNUTLS_DIG_SHA256, 0);
    }
    if (issuer_key != NULL) {
        gnutls_x509_privkey_deinit(issuer_key);
    }
    if (issuer != NULL) {
        gnutls_x509_crt_deinit(issuer);
    }
    return rv;
}

int es_cert_issue(const struct es_cert_order *o, char **pem, char *err_text, size_t n)
{
    gnutls_x509_privkey_t key = NULL;
    gnutls_x509_crt_t crt = NULL;
    gnutls_datum_t in = text(o->key_pem), out = {NULL, 0};
    int rv;

    *pem = NULL;
    /* RFC 5280 limits a common name to 64 bytes. */
    if (o->n_names == 0 || o->names[0][0] == '\0' || strlen(o->names[0]) > 64) {
        snprintf(err_text, n, "a certificate needs a name of 1 to 64 bytes");
        return ES_ERR_INVAL;
    }
    (void)((rv = gnutls_x509_privkey_init(&key)) || (rv = gnutls_x509_crt_init(&crt)) ||
           (rv = gnutls_x509_privkey_import2(key, &in, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN)) ||
           (rv = fill_in(crt, key, o)) || (rv = sign(crt, key, o)) ||
           (rv = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &out)));
    if (rv != 0) {
        snprintf(err_text, n, "cannot make a certificate: %s", gnutls_strerror(rv));
        rv = rv == GNUTLS_E_MEMORY_ERROR ? ES_ERR_NOMEM : ES_ERR_TLS;
    } else {
        rv = copy_out(pem, &out);
        if (rv != 0) {
            snprintf(err_text, n, "out of memory");
        }
    }
    if (crt != NULL) {
        gnutls_x509_crt_deinit(crt);
    }
    if (key != NULL) {
        gnutls_x509_privkey_deinit(key);
    }
    return rv;
}

int es_cert_self_sign(const char *key_pem, const char *const *names, size_t n_names, int days, char **pem,
                      char *err_text, size_t n)
{
    struct es_cert_order o;

    *pem = NULL;
    if (days < 1 || days > 36500) {
        snprintf(err_text, n, "a certificate is valid for 1 to 36500 days");
        return ES_ERR_INVAL;
    }
    memset(&o, 0, sizeof o);
    o.key_pem = key_pem;
    o.names = names;
    o.n_names = n_names;
    o.not_before = (int64_t)(es_clock_wall() / ES_SECOND) - 3600;
    o.not_after = o.not_before + (int64_t)days * 86400;
    o.purposes = ES_CERT_FOR_SERVERS | ES_CERT_FOR_CLIENTS;
    return es_cert_issue(&o, pem, err_text, n);
}

/* ---- reading ---- */

static void read_name(struct es_cert_info *out, const char *san, size_t n, unsigned type)
{
    char *to = out->names[out->n_names];

    if (type == GNUTLS_SAN_IPADDRESS) {
        if ((n == 4 && inet_ntop(AF_INET, san, to, sizeof out->names[0]) != NULL) ||
            (n == 16 && inet_ntop(AF_INET6, san, to, sizeof out->names[0]) != NULL)) {
            out->n_names++;
        }
        return;
    }
    if ((type != GNUTLS_SAN_DNSNAME && type != GNUTLS_SAN_RFC822NAME && type != GNUTLS_SAN_URI) ||
        memchr(san, '\0', n) != NULL) {
        return; /* a name with a zero inside means to deceive somebody */
    }
    memcpy(to, san, n);
    to[n] = '\0';
    out->n_names++;
}

static void read_names(gnutls_x509_crt_t crt, struct es_cert_info *out)
{
    for (unsigned i = 0; out->n_names < ES_CERT_NAMES_MAX; i++) {
        char san[sizeof out->names[0]];
        size_t n = sizeof san - 1;
        unsigned type = 0;
        int rv = gnutls_x509_crt_get_subject_alt_name2(crt, i, san, &n, &type, NULL);

        if (rv == GNUTLS_E_SHORT_MEMORY_BUFFER) {
            continue;
        }
        if (rv < 0) {
            break;
        }
        read_name(out, san, n, type);
    }
}

static int read_certificate(gnutls_x509_crt_t crt, struct es_cert_info *out)
{
    uint8_t serial[sizeof out->serial / 2 - 1];
    size_t n = sizeof serial;

    if (hash_spki(crt, out->spki) != 0) {
        return ES_ERR_TLS;
    }
    out->not_before = gnutls_x509_crt_get_activation_time(crt);
    out->not_after = gnutls_x509_crt_get_expiration_time(crt);
    if (gnutls_x509_crt_get_serial(crt, serial, &n) == 0) {
        for (size_t i = 0; i < n; i++) {
            snprintf(out->serial + 2 * i, 3, "%02x", serial[i]);
        }
    }
    n = sizeof out->subject;
    if (gnutls_x509_crt_get_dn(crt, out->subject, &n) != 0) {
        out->subject[0] = '\0'; /* longer than the field, or absent */
    }
    n = sizeof out->issuer;
    if (gnutls_x509_crt_get_issuer_dn(crt, out->issuer, &n) != 0) {
        out->issuer[0] = '\0';
    }
    read_names(crt, out);
    return 0;
}

static int inspect(const gnutls_datum_t *in, gnutls_x509_crt_fmt_t format, struct es_cert_info *out)
{
    gnutls_x509_crt_t crt;
    gnutls_datum_t der = {NULL, 0};
    int rv = ES_ERR_TLS;

    memset(out, 0, sizeof *out);
    if (gnutls_x509_crt_init(&crt) != 0) {
        return ES_ERR_NOMEM;
    }
    if (gnutls_x509_crt_import(crt, in, format) == 0 &&
        gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_DER, &der) == 0) {
        rv = gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, out->der) == 0 ? 0 : ES_ERR_TLS;
        gnutls_free(der.data);
    }
    if (rv == 0) {
        rv = read_certificate(crt, out);
    }
    gnutls_x509_crt_deinit(crt);
    return rv;
}

int es_cert_inspect(const char *cert_pem, struct es_cert_info *out)
{
    gnutls_datum_t in = text(cert_pem);
    return inspect(&in, GNUTLS_X509_FMT_PEM, out);
}

int es_cert_inspect_der(const uint8_t *der, size_t n, struct es_cert_info *out)
{
    gnutls_datum_t in = {(unsigned char *)(uintptr_t)der, (unsigned)n};
    return inspect(&in, GNUTLS_X509_FMT_DER, out);
}
