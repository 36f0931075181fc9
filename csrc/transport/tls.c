/* TLS contexts (credentials and trust) and the sessions made from them. */
#include <arpa/inet.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include "internal.h"
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

static int load_own(struct es_tls *t, const struct es_tls_config *cfg, char *err, size_t n)
{
    gnutls_datum_t cert, key;
    int rv;

    if (!cfg->cert_file != !cfg->key_file || !cfg->cert_pem != !cfg->key_pem) {
        return fail(err, n, ES_ERR_INVAL, "a certificate needs its key, and a key its certificate", NULL, 0);
    }
    if (cfg->cert_file != NULL) {
        rv =
            gnutls_certificate_set_x509_key_file(t->cred, cfg->cert_file, cfg->key_file, GNUTLS_X509_FMT_PEM);
        if (rv < 0) {
            return fail(err, n, tls_code(rv), "cannot load certificate and key from", cfg->cert_file, rv);
        }
    } else if (cfg->cert_pem != NULL) {
        cert.data = (unsigned char *)(uintptr_t)cfg->cert_pem;
        cert.size = (unsigned)strlen(cfg->cert_pem);
        key.data = (unsigned char *)(uintptr_t)cfg->key_pem;
        key.size = (unsigned)strlen(cfg->key_pem);
        rv = gnutls_certificate_set_x509_key_mem(t->cred, &cert, &key, GNUTLS_X509_FMT_PEM);
        if (rv < 0) {
            return fail(err, n, tls_code(rv), "cannot use the given certificate and key", NULL, rv);
        }
    } else {
        return 0;
    }
    gnutls_datum_t own;
    rv = gnutls_certificate_get_crt_raw(t->cred, 0, 0, &own);
    if (rv < 0 || es_cert_hashes(own.data, own.size, t->own_spki, t->own_der) != 0) {
        return fail(err, n, ES_ERR_TLS, "cannot read the certificate's public key", NULL, rv);
    }
    t->has_own = 1;
    return 0;
}

static int load_trust(struct es_tls *t, const struct es_tls_config *cfg, char *err, size_t n)
{
    int rv;

    t->trust = cfg->trust;
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
        rv = gnutls_certificate_set_x509_system_trust(t->cred);
        return rv < 0 ? fail(err, n, ES_ERR_TLS, "cannot load the system's authorities", NULL, rv) : 0;
    case ES_TRUST_CA:
        if (cfg->ca_file == NULL) {
            return fail(err, n, ES_ERR_INVAL, "no CA file given", NULL, 0);
        }
        rv = gnutls_certificate_set_x509_trust_file(t->cred, cfg->ca_file, GNUTLS_X509_FMT_PEM);
        if (rv <= 0) {
            return fail(err, n, rv < 0 ? tls_code(rv) : ES_ERR_TLS, "no certificate found in CA file",
                        cfg->ca_file, rv);
        }
        return 0;
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
    rv = gnutls_priority_init(&t->prio, priority_text, NULL);
    if (rv != 0) {
        t->prio = NULL;
        rv = fail(err, n, tls_code(rv), "this GnuTLS refuses our ciphers", NULL, rv);
        goto fail;
    }
    rv = load_own(t, cfg, err, n);
    if (rv == 0 && cfg->is_server && !t->has_own) {
        rv = fail(err, n, ES_ERR_INVAL, "a server needs a certificate and a key", NULL, 0);
    }
    if (rv == 0) {
        rv = load_trust(t, cfg, err, n);
    }
    if (rv == 0) {
        rv = load_name(t, cfg, err, n);
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

/* ---- sessions ---- */

static int set_alpn(gnutls_session_t s, const struct es_conn *c)
{
    gnutls_datum_t names[32];
    size_t n = 0;

    if (!c->link.is_server) {
        names[n].data = (unsigned char *)(uintptr_t)c->app->alpn;
        names[n++].size = (unsigned)strlen(c->app->alpn);
    } else {
        for (; n < c->ep->n_apps && n < 32; n++) {
            names[n].data = (unsigned char *)(uintptr_t)c->ep->apps[n]->alpn;
            names[n].size = (unsigned)strlen(c->ep->apps[n]->alpn);
        }
    }
    /* Mandatory: without a name in common GnuTLS sends no_application_protocol (RFC 9001 8.1). */
    return gnutls_alpn_set_protocols(s, names, (unsigned)n,
                                     GNUTLS_ALPN_MANDATORY | GNUTLS_ALPN_SERVER_PRECEDENCE);
}

static int configure(gnutls_session_t s, struct es_conn *c)
{
    struct es_tls *t = c->tls_ctx;

    gnutls_session_set_ptr(s, &c->ref);
    if (gnutls_priority_set(s, t->prio) != 0 ||
        gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, t->cred) != 0 || set_alpn(s, c) != 0) {
        return -1;
    }
    gnutls_handshake_set_timeout(s, GNUTLS_INDEFINITE_TIMEOUT); /* QUIC has its own */
    if (c->link.is_server) {
        if (t->trust != ES_TRUST_NONE) {
            gnutls_certificate_server_set_request(s, t->trust == ES_TRUST_SKIP ? GNUTLS_CERT_REQUEST
                                                                               : GNUTLS_CERT_REQUIRE);
            gnutls_session_set_verify_function(s, es_tls_verify);
        }
        return ngtcp2_crypto_gnutls_configure_server_session(s);
    }
    gnutls_session_set_verify_function(s, es_tls_verify);
    if (t->server_name[0] != '\0' && t->name_ip_len == 0 &&
        gnutls_server_name_set(s, GNUTLS_NAME_DNS, t->server_name, strlen(t->server_name)) != 0) {
        return -1;
    }
    return ngtcp2_crypto_gnutls_configure_client_session(s);
}

gnutls_session_t es_tls_session_new(struct es_conn *c)
{
    gnutls_session_t s;
    /* No tickets: there is no resumption yet. */
    unsigned flags =
        c->link.is_server ? GNUTLS_SERVER | GNUTLS_NO_AUTO_SEND_TICKET : GNUTLS_CLIENT | GNUTLS_NO_TICKETS;

    /* One key share is generated, for the first group; the rare server without it asks again. */
    if (gnutls_init(&s, flags | (unsigned)GNUTLS_KEY_SHARE_TOP | GNUTLS_NO_END_OF_EARLY_DATA) != 0) {
        return NULL;
    }
    if (configure(s, c) != 0) {
        gnutls_deinit(s);
        return NULL;
    }
    return s;
}
