/* TLS contexts: certificates, trust, policy. */
#include <arpa/inet.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "internal.h"
#include "keylog.h"
#include "tls_verify.h"

/* TLS 1.3 only, AES first (0.28 us for a packet with AES-NI, ChaCha20 ten times that), groups that are cheap.
 */
static const char priority_text[] = "%DISABLE_TLS13_COMPAT_MODE:NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:"
                                    "+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:-GROUP-ALL:"
                                    "+GROUP-X25519:+GROUP-SECP256R1:+GROUP-SECP384R1";

static int fail(char *err, size_t n, int code, const char *what, const char *detail, int gnutls_code)
{
    snprintf(err, n, "%s%s%s%s%s", what, detail != NULL ? " " : "", detail != NULL ? detail : "",
             gnutls_code != 0 ? ": " : "", gnutls_code != 0 ? gnutls_strerror(gnutls_code) : "");
    return code;
}

static int tls_code(int rv)
{
    switch (rv) {
    case GNUTLS_E_FILE_ERROR:
        return ES_ERR_IO;
    case GNUTLS_E_MEMORY_ERROR:
        return ES_ERR_NOMEM;
    default:
        return ES_ERR_TLS;
    }
}

static int load_pair(gnutls_certificate_credentials_t cred, const struct es_tls_cert *own, char *err,
                     size_t n)
{
    gnutls_datum_t cert, key;
    int rv;

    if (!own->cert_file != !own->key_file || !own->cert_pem != !own->key_pem) {
        return fail(err, n, ES_ERR_INVAL, "a certificate needs its key, and a key its certificate", NULL, 0);
    }
    if (own->cert_file != NULL) {
        rv = gnutls_certificate_set_x509_key_file(cred, own->cert_file, own->key_file, GNUTLS_X509_FMT_PEM);
        return rv >= 0
                   ? 0
                   : fail(err, n, tls_code(rv), "cannot load certificate and key from", own->cert_file, rv);
    }
    cert.data = (unsigned char *)(uintptr_t)own->cert_pem;
    cert.size = (unsigned)strlen(own->cert_pem);
    key.data = (unsigned char *)(uintptr_t)own->key_pem;
    key.size = (unsigned)strlen(own->key_pem);
    rv = gnutls_certificate_set_x509_key_mem(cred, &cert, &key, GNUTLS_X509_FMT_PEM);
    return rv >= 0 ? 0 : fail(err, n, tls_code(rv), "cannot use the given certificate and key", NULL, rv);
}

static int load_own(struct es_tls *t, const struct es_tls_config *cfg, char *err, size_t n)
{
    struct es_tls_cert own = {NULL, cfg->cert_file, cfg->key_file, cfg->cert_pem, cfg->key_pem};
    gnutls_datum_t der;
    int rv;

    if (own.cert_file == NULL && own.cert_pem == NULL && own.key_file == NULL && own.key_pem == NULL) {
        return 0;
    }
    rv = load_pair(t->cred, &own, err, n);
    if (rv != 0) {
        return rv;
    }
    rv = gnutls_certificate_get_crt_raw(t->cred, 0, 0, &der);
    if (rv < 0 || es_cert_hashes(der.data, der.size, t->own_spki, t->own_der) != 0) {
        return fail(err, n, ES_ERR_TLS, "cannot read the certificate's public key", NULL, rv);
    }
    t->has_own = 1;
    memcpy(t->identity, t->own_spki, sizeof t->identity);
    return 0;
}

/* Adds a name and its key to what tickets are bound to, in whatever order they come. */
static int add_identity(struct es_tls *t, const struct es_tls_other *o)
{
    uint8_t text[256 + 32], whole[32], sum[32];
    size_t n = strlen(o->name);
    gnutls_datum_t der;

    memcpy(text, o->name, n);
    if (gnutls_certificate_get_crt_raw(o->cred, 0, 0, &der) < 0 ||
        es_cert_hashes(der.data, der.size, text + n, whole) != 0 ||
        gnutls_hash_fast(GNUTLS_DIG_SHA256, text, n + 32, sum) != 0) {
        return ES_ERR_TLS;
    }
    for (size_t i = 0; i < sizeof sum; i++) {
        t->identity[i] ^= sum[i];
    }
    return 0;
}

/* The authorities that the peer's certificate is checked against. */
static int load_authorities(gnutls_certificate_credentials_t cred, const struct es_tls_config *cfg, char *err,
                            size_t n)
{
    int rv;

    if (cfg->trust == ES_TRUST_SYSTEM) {
        rv = gnutls_certificate_set_x509_system_trust(cred);
        return rv < 0 ? fail(err, n, ES_ERR_TLS, "cannot load the system's authorities", NULL, rv) : 0;
    }
    if (cfg->trust != ES_TRUST_CA) {
        return 0;
    }
    if (cfg->ca_file == NULL) {
        return fail(err, n, ES_ERR_INVAL, "no CA file given", NULL, 0);
    }
    rv = gnutls_certificate_set_x509_trust_file(cred, cfg->ca_file, GNUTLS_X509_FMT_PEM);
    if (rv <= 0) {
        return fail(err, n, rv < 0 ? tls_code(rv) : ES_ERR_TLS, "no certificate found in CA file",
                    cfg->ca_file, rv);
    }
    return 0;
}

static int load_trust(struct es_tls *t, const struct es_tls_config *cfg, char *err, size_t n)
{
    t->trust = cfg->trust;
    t->client_optional = cfg->client_optional;
    switch (cfg->trust) {
    case ES_TRUST_NONE:
        if (!cfg->is_server) {
            return fail(err, n, ES_ERR_TLS,
                        "nothing says whom to trust: give a pin, a CA file, or ask for no verification", NULL,
                        0);
        }
        return 0;
    case ES_TRUST_SYSTEM:
        if (!cfg->is_server && cfg->server_name == NULL) {
            return fail(err, n, ES_ERR_INVAL, "the system's authorities need a server name to check", NULL,
                        0);
        }
        return load_authorities(t->cred, cfg, err, n);
    case ES_TRUST_CA:
        return load_authorities(t->cred, cfg, err, n);
    case ES_TRUST_PIN:
        if (cfg->n_pins == 0) {
            return fail(err, n, ES_ERR_INVAL, "no pin given", NULL, 0);
        }
        t->pins = es_malloc(cfg->n_pins * sizeof *t->pins);
        if (t->pins == NULL) {
            return fail(err, n, ES_ERR_NOMEM, "out of memory", NULL, 0);
        }
        memcpy(t->pins, cfg->pins, cfg->n_pins * sizeof *t->pins);
        t->n_pins = cfg->n_pins;
        return 0;
    case ES_TRUST_SKIP:
        return 0;
    }
    return fail(err, n, ES_ERR_INVAL, "unknown kind of trust", NULL, 0);
}

/* ---- further certificates (SNI) ---- */

/* A host name, or one with "*" for its first label, in lower case. */
static char *copy_name(const char *name)
{
    size_t n = strlen(name), from = strncmp(name, "*.", 2) == 0 ? 2 : 0;
    char *copy;

    if (n <= from || n > 253 || name[from] == '.' || name[n - 1] == '.') {
        return NULL;
    }
    for (size_t i = from; i < n; i++) {
        char ch = name[i];
        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || ch == '-' ||
              ch == '_' || ch == '.')) {
            return NULL;
        }
    }
    copy = es_malloc(n + 1);
    for (size_t i = 0; copy != NULL && i <= n; i++) {
        copy[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + 32) : name[i];
    }
    return copy;
}

static int load_others(struct es_tls *t, const struct es_tls_config *cfg, char *err, size_t n)
{
    if (cfg->n_more == 0) {
        return 0;
    }
    if (cfg->n_more > ES_TLS_CERTS_MAX) {
        return fail(err, n, ES_ERR_INVAL, "too many certificates", NULL, 0);
    }
    t->other = es_calloc(cfg->n_more, sizeof *t->other);
    if (t->other == NULL) {
        return fail(err, n, ES_ERR_NOMEM, "out of memory", NULL, 0);
    }
    for (size_t i = 0; i < cfg->n_more; i++) {
        struct es_tls_other *o = &t->other[i];
        int rv;

        o->name = copy_name(cfg->more[i].name);
        if (o->name == NULL) {
            return fail(err, n, ES_ERR_INVAL, "no host name to give a certificate to:", cfg->more[i].name, 0);
        }
        t->n_other = i + 1;
        rv = gnutls_certificate_allocate_credentials(&o->cred);
        if (rv != 0) {
            o->cred = NULL;
            return fail(err, n, tls_code(rv), "cannot set up TLS", NULL, rv);
        }
        if ((rv = load_pair(o->cred, &cfg->more[i], err, n)) != 0 ||
            (rv = load_authorities(o->cred, cfg, err, n)) != 0) {
            return rv;
        }
        if (add_identity(t, o) != 0) {
            return fail(err, n, ES_ERR_TLS, "cannot read the public key for", o->name, 0);
        }
    }
    return 0;
}

gnutls_certificate_credentials_t es_tls_cred_for(const struct es_tls *t, const char *asked)
{
    const char *rest = strchr(asked, '.');
    gnutls_certificate_credentials_t wild = NULL;

    for (size_t i = 0; i < t->n_other; i++) {
        const struct es_tls_other *o = &t->other[i];
        if (strcasecmp(o->name, asked) == 0) {
            return o->cred;
        }
        if (rest != NULL && rest != asked && o->name[0] == '*' && strcasecmp(o->name + 1, rest) == 0) {
            wild = o->cred;
        }
    }
    return wild != NULL ? wild : t->cred;
}

static int load_name(struct es_tls *t, const struct es_tls_config *cfg, char *err, size_t n)
{
    if (cfg->server_name == NULL || cfg->is_server) {
        return 0;
    }
    size_t len = strlen(cfg->server_name);
    if (len == 0 || len >= sizeof t->server_name) {
        return fail(err, n, ES_ERR_INVAL, "server name of 1 to 255 bytes expected", NULL, 0);
    }
    memcpy(t->server_name, cfg->server_name, len + 1);
    if (inet_pton(AF_INET, t->server_name, t->name_ip) == 1) {
        t->name_ip_len = 4;
    } else if (inet_pton(AF_INET6, t->server_name, t->name_ip) == 1) {
        t->name_ip_len = 16;
    }
    return 0;
}

/* A policy must leave what QUIC can use: a cipher of TLS 1.3 that ngtcp2 knows, and a group. */
static int check_priority(gnutls_priority_t prio, char *err, size_t n)
{
    const unsigned *list;
    int left = 0, ciphers = gnutls_priority_cipher_list(prio, &list);

    for (int i = 0; i < ciphers; i++) {
        left |= list[i] == GNUTLS_CIPHER_AES_128_GCM || list[i] == GNUTLS_CIPHER_AES_256_GCM ||
                list[i] == GNUTLS_CIPHER_CHACHA20_POLY1305 || list[i] == GNUTLS_CIPHER_AES_128_CCM;
    }
    if (!left) {
        return fail(err, n, ES_ERR_INVAL,
                    "the TLS policy leaves none of AES-128-GCM, AES-256-GCM, CHACHA20-POLY1305, AES-128-CCM",
                    NULL, 0);
    }
    if (gnutls_priority_group_list(prio, &list) <= 0) {
        return fail(err, n, ES_ERR_INVAL, "the TLS policy leaves no group for the key exchange", NULL, 0);
    }
    return 0;
}

/* What may be negotiated. QUIC is TLS 1.3 and nothing else, and without the middlebox compatibility mode,
 * which it forbids (RFC 9001 8.4): whatever a policy says, these are added. */
static int load_priority(struct es_tls *t, const struct es_tls_config *cfg, char *err, size_t n)
{
    char text[1024];
    const char *bad = NULL;
    int rv, k;

    if (cfg->priority == NULL) {
        rv = gnutls_priority_init(&t->prio, priority_text, NULL);
        if (rv != 0) {
            t->prio = NULL;
            return fail(err, n, tls_code(rv), "this GnuTLS refuses our ciphers", NULL, rv);
        }
        return 0;
    }
    k = snprintf(text, sizeof text, "%s:-VERS-ALL:+VERS-TLS1.3:%%DISABLE_TLS13_COMPAT_MODE", cfg->priority);
    if (k < 0 || (size_t)k >= sizeof text) {
        return fail(err, n, ES_ERR_INVAL, "the TLS policy is too long", NULL, 0);
    }
    rv = gnutls_priority_init(&t->prio, text, &bad);
    if (rv != 0) {
        t->prio = NULL;
        return fail(err, n, ES_ERR_INVAL, "GnuTLS does not understand the TLS policy at",
                    bad != NULL && *bad != '\0' ? bad : cfg->priority, rv);
    }
    return check_priority(t->prio, err, n);
}

int es_tls_new(struct es_tls **out, const struct es_tls_config *cfg, char *err, size_t n)
{
    struct es_tls *t = es_calloc(1, sizeof *t);
    int rv;

    *out = NULL;
    if (t == NULL) {
        return fail(err, n, ES_ERR_NOMEM, "out of memory", NULL, 0);
    }
    t->refs = 1;
    t->is_server = cfg->is_server;
    rv = gnutls_certificate_allocate_credentials(&t->cred);
    if (rv != 0) {
        t->cred = NULL;
        rv = fail(err, n, tls_code(rv), "cannot set up TLS", NULL, rv);
        goto fail;
    }
    rv = load_priority(t, cfg, err, n);
    if (rv == 0) {
        rv = load_own(t, cfg, err, n);
    }
    if (rv == 0 && cfg->is_server && !t->has_own) {
        rv = fail(err, n, ES_ERR_INVAL, "a server needs a certificate and a key", NULL, 0);
    }
    if (rv == 0) {
        rv = load_trust(t, cfg, err, n);
    }
    if (rv == 0) {
        rv = load_others(t, cfg, err, n);
    }
    if (rv == 0) {
        rv = load_name(t, cfg, err, n);
    }
    if (rv == 0 && cfg->keylog != NULL) {
        rv = es_keylog_open(&t->keylog, cfg->keylog);
        if (rv != 0) {
            fail(err, n, rv, "cannot write secrets to", cfg->keylog, 0);
        }
    }
    if (rv != 0) {
        goto fail;
    }
    *out = t;
    return 0;
fail:
    es_tls_unref(t);
    return rv;
}

void es_tls_ref(struct es_tls *t)
{
    t->refs++;
}

void es_tls_unref(struct es_tls *t)
{
    if (t == NULL || --t->refs > 0) {
        return;
    }
    if (t->prio != NULL) {
        gnutls_priority_deinit(t->prio);
    }
    if (t->cred != NULL) {
        gnutls_certificate_free_credentials(t->cred);
    }
    for (size_t i = 0; i < t->n_other; i++) {
        if (t->other[i].cred != NULL) {
            gnutls_certificate_free_credentials(t->other[i].cred);
        }
        es_free(t->other[i].name);
    }
    es_free(t->other);
    es_keylog_close(t->keylog);
    es_free(t->pins);
    es_free(t);
}

int es_tls_pin(const struct es_tls *t, uint8_t spki[32], uint8_t der[32])
{
    if (!t->has_own) {
        return ES_ERR_NOT_FOUND;
    }
    memcpy(spki, t->own_spki, 32);
    memcpy(der, t->own_der, 32);
    return 0;
}

void es_tls_key(uint8_t out[32], const uint8_t secret[32], const char *label)
{
    /* HKDF-Expand with one block of output is one HMAC over the label and a counter of 1 (RFC 5869). */
    gnutls_datum_t key = {(unsigned char *)(uintptr_t)secret, 32};
    gnutls_datum_t info = {(unsigned char *)(uintptr_t)label, (unsigned)strlen(label)};

    if (gnutls_hkdf_expand(GNUTLS_MAC_SHA256, &key, &info, out, 32) != 0) {
        memcpy(out, secret, 32); /* only without memory; the keys stay secret and stable, if not apart */
    }
}
