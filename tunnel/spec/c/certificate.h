/* A key and a certificate for the names given, made anew: PEM texts, to be freed with gnutls_free. */
#ifndef ET_SPEC_C_CERTIFICATE_H
#define ET_SPEC_C_CERTIFICATE_H

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct certificate {
    char *cert, *key; /* owned */
    uint8_t spki[32];
};

__attribute__((unused)) static void certificate_make(struct certificate *c, const char *const *names)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t crt;
    gnutls_pubkey_t pub;
    gnutls_datum_t d;
    unsigned char serial[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    int bad = 0;

    gnutls_x509_privkey_init(&key);
    gnutls_x509_crt_init(&crt);
    gnutls_pubkey_init(&pub);
    bad |= gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                        GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    bad |= gnutls_x509_crt_set_version(crt, 3);
    gnutls_rnd(GNUTLS_RND_NONCE, serial + 1, sizeof serial - 1);
    bad |= gnutls_x509_crt_set_serial(crt, serial, sizeof serial);
    bad |= gnutls_x509_crt_set_activation_time(crt, time(NULL) - 3600);
    bad |= gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 86400);
    bad |= gnutls_x509_crt_set_key(crt, key);
    bad |= gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, names[0],
                                         (unsigned)strlen(names[0]));
    bad |= gnutls_x509_crt_set_basic_constraints(crt, 1, -1);
    for (; *names != NULL; names++) {
        bad |= gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, *names, (unsigned)strlen(*names),
                                                    GNUTLS_FSAN_APPEND);
    }
    bad |= gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0);
    bad |= gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &d);
    c->cert = (char *)d.data;
    bad |= gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &d);
    c->key = (char *)d.data;
    bad |= gnutls_pubkey_import_x509(pub, crt, 0);
    bad |= gnutls_pubkey_export2(pub, GNUTLS_X509_FMT_DER, &d);
    bad |= gnutls_hash_fast(GNUTLS_DIG_SHA256, d.data, d.size, c->spki);
    gnutls_free(d.data);
    gnutls_pubkey_deinit(pub);
    gnutls_x509_crt_deinit(crt);
    gnutls_x509_privkey_deinit(key);
    if (bad) {
        abort();
    }
}

__attribute__((unused)) static void certificate_free(struct certificate *c)
{
    gnutls_free(c->cert);
    gnutls_free(c->key);
}

#endif
