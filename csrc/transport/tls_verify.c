/* Whom to believe: the check of the peer's certificate, with a reason that a person can act on. */
#include <gnutls/x509.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "internal.h"
#include "tls_verify.h"

enum { /* TLS alerts, RFC 8446 6.2 */
       ALERT_BAD_CERTIFICATE = 42,
       ALERT_CERTIFICATE_EXPIRED = 45,
       ALERT_UNKNOWN_CA = 48,
       ALERT_INTERNAL_ERROR = 80,
       ALERT_CERTIFICATE_REQUIRED = 116
};

__attribute__((format(printf, 3, 4))) static int refuse(struct es_tls_peer *p, unsigned alert,
                                                        const char *fmt, ...)
{
    va_list ap;

    p->alert = alert;
    va_start(ap, fmt);
    vsnprintf(p->reason, sizeof p->reason, fmt, ap);
    va_end(ap);
    return GNUTLS_E_CERTIFICATE_ERROR;
}

static void hex(char out[65], const uint8_t hash[32])
{
    for (int i = 0; i < 32; i++) {
        snprintf(out + 2 * i, 3, "%02x", hash[i]);
    }
}

static int verify_pin(struct es_tls_peer *p, const struct es_tls *t)
{
    char got[65], want[65];

    for (size_t i = 0; i < t->n_pins; i++) {
        if (memcmp(t->pins[i], p->pin, 32) == 0) {
            return 0;
        }
    }
    hex(got, p->pin);
    hex(want, t->pins[0]);
    return refuse(p, ALERT_BAD_CERTIFICATE, "the %s's key is sha256:%s, expected sha256:%s%s",
                  t->is_server ? "client" : "server", got, want,
                  t->n_pins > 1 ? " or another of the pins" : "");
}

/* The most telling of the bits GnuTLS set. */
static int explain(struct es_tls_peer *p, const struct es_tls *t, unsigned status)
{
    const char *whose = t->is_server ? "client" : "server";
    const char *what;
    unsigned alert = ALERT_BAD_CERTIFICATE;

    if (status & GNUTLS_CERT_SIGNER_NOT_FOUND) {
        what = t->is_server
                   ? "was issued by nobody we trust (unknown issuer)"
                   : "was issued by nobody we trust (unknown issuer): give its pin, or its issuer as ca";
        alert = ALERT_UNKNOWN_CA;
    } else if (status & GNUTLS_CERT_EXPIRED) {
        what = "has expired";
        alert = ALERT_CERTIFICATE_EXPIRED;
    } else if (status & GNUTLS_CERT_NOT_ACTIVATED) {
        what = "is not valid yet";
        alert = ALERT_CERTIFICATE_EXPIRED;
    } else if (status & GNUTLS_CERT_UNEXPECTED_OWNER) {
        return refuse(p, alert, "the server's certificate is for another name than \"%.150s\"",
                      t->server_name);
    } else if (status & GNUTLS_CERT_REVOKED) {
        what = "was revoked";
    } else if (status & GNUTLS_CERT_PURPOSE_MISMATCH) {
        what = t->is_server ? "is not meant for clients" : "is not meant for servers";
    } else if (status & GNUTLS_CERT_SIGNER_NOT_CA) {
        what = "was issued by a certificate that is no authority";
    } else if (status & GNUTLS_CERT_INSECURE_ALGORITHM) {
        what = "is signed with an insecure algorithm";
    } else if (status & GNUTLS_CERT_SIGNATURE_FAILURE) {
        what = "has a wrong signature";
    } else {
        what = "is not acceptable";
    }
    return refuse(p, alert, "the %s's certificate %s", whose, what);
}

static int verify_chain(struct es_tls_peer *p, const struct es_tls *t, gnutls_session_t s)
{
    gnutls_typed_vdata_st data[2];
    unsigned n = 0, status = 0;

    memset(data, 0, sizeof data);
    data[n].type = GNUTLS_DT_KEY_PURPOSE_OID;
    data[n++].data =
        (unsigned char *)(uintptr_t)(t->is_server ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER);
    if (t->name_ip_len != 0) {
        data[n].type = GNUTLS_DT_IP_ADDRESS;
        data[n].data = (unsigned char *)(uintptr_t)t->name_ip;
        data[n++].size = (unsigned)t->name_ip_len;
    } else if (t->server_name[0] != '\0') {
        data[n].type = GNUTLS_DT_DNS_HOSTNAME;
        data[n++].data = (unsigned char *)(uintptr_t)t->server_name;
    }
    if (gnutls_certificate_verify_peers(s, data, n, &status) < 0) {
        return refuse(p, ALERT_BAD_CERTIFICATE, "the peer's certificate cannot be read");
    }
    return status == 0 ? 0 : explain(p, t, status);
}

int es_tls_judge(struct es_tls_peer *p, gnutls_session_t s)
{
    const struct es_tls *t = p->tls;
    uint8_t whole[32];
    unsigned n = 0;
    const gnutls_datum_t *certs = gnutls_certificate_get_peers(s, &n);

    if (certs == NULL || n == 0) {
        if (t->is_server ? t->client_optional : t->trust == ES_TRUST_SKIP) {
            return 0;
        }
        return refuse(p, ALERT_CERTIFICATE_REQUIRED,
                      t->is_server ? "the client sent no certificate" : "the server sent no certificate");
    }
    if (es_cert_hashes(certs[0].data, certs[0].size, p->pin, whole) != 0) {
        return refuse(p, ALERT_BAD_CERTIFICATE, "the peer's certificate cannot be read");
    }
    p->has_pin = 1;
    es_buf_clear(&p->der);
    if (es_buf_put(&p->der, certs[0].data, certs[0].size) != 0) {
        return refuse(p, ALERT_INTERNAL_ERROR, "out of memory");
    }
    switch (t->trust) {
    case ES_TRUST_PIN:
        return verify_pin(p, t);
    case ES_TRUST_SYSTEM:
    case ES_TRUST_CA:
        return verify_chain(p, t, s);
    case ES_TRUST_NONE:
    case ES_TRUST_SKIP:
        break;
    }
    return 0;
}

int es_tls_verify(gnutls_session_t s)
{
    ngtcp2_crypto_conn_ref *ref = gnutls_session_get_ptr(s);
    struct es_conn *c = ref->user_data;

    return es_tls_judge(&c->peer, s);
}
