/* TLS sessions over a byte stream (TCP), believed and shown like those of connections over QUIC. */
#include <gnutls/gnutls.h>
#include <string.h>
#include "../base/err.h"
#include "keylog.h"
#include "tls_verify.h"

static int verify(gnutls_session_t s)
{
    return es_tls_judge(gnutls_session_get_ptr(s), s);
}

static int keylog(gnutls_session_t s, const char *label, const gnutls_datum_t *secret)
{
    const struct es_tls_peer *p = gnutls_session_get_ptr(s);

    es_keylog_put(p->tls->keylog, s, label, secret);
    return 0;
}

static int on_server_name(gnutls_session_t s)
{
    const struct es_tls_peer *p = gnutls_session_get_ptr(s);
    char name[256];
    size_t n = sizeof name;
    unsigned type = 0;

    if (gnutls_server_name_get(s, name, &n, &type, 0) == 0 && type == GNUTLS_NAME_DNS) {
        (void)gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, es_tls_cred_for(p->tls, name));
    }
    return 0;
}

static int set_alpn(gnutls_session_t s, const char *const *alpn, size_t n)
{
    gnutls_datum_t names[8];

    if (n > sizeof names / sizeof *names) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        names[i].data = (unsigned char *)(uintptr_t)alpn[i];
        names[i].size = (unsigned)strlen(alpn[i]);
    }
    return gnutls_alpn_set_protocols(s, names, (unsigned)n,
                                     GNUTLS_ALPN_MANDATORY | GNUTLS_ALPN_SERVER_PRECEDENCE);
}

static int configure(struct es_tls_peer *p, gnutls_session_t s)
{
    const struct es_tls *t = p->tls;

    if (gnutls_priority_set(s, t->prio) != 0 ||
        gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, t->cred) != 0) {
        return -1;
    }
    if (t->keylog != NULL) {
        gnutls_session_set_keylog_function(s, keylog);
    }
    gnutls_handshake_set_timeout(s, GNUTLS_INDEFINITE_TIMEOUT); /* the connection has its own */
    if (!t->is_server) {
        gnutls_session_set_verify_function(s, verify);
        return t->server_name[0] != '\0' && t->name_ip_len == 0
                   ? gnutls_server_name_set(s, GNUTLS_NAME_DNS, t->server_name, strlen(t->server_name))
                   : 0;
    }
    if (t->trust != ES_TRUST_NONE) {
        gnutls_certificate_server_set_request(s,
                                              t->client_optional ? GNUTLS_CERT_REQUEST : GNUTLS_CERT_REQUIRE);
        gnutls_session_set_verify_function(s, verify);
        gnutls_certificate_send_x509_rdn_sequence(s, 1); /* see tls_session.c */
    }
    if (t->n_other > 0) {
        gnutls_handshake_set_post_client_hello_function(s, on_server_name);
    }
    return 0;
}

int es_tls_stream_session(struct es_tls_peer *p, const char *const *alpn, size_t n, gnutls_session_t *out)
{
    unsigned flags = (unsigned)GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS | GNUTLS_NO_SIGNAL | GNUTLS_KEY_SHARE_TOP;
    gnutls_session_t s;

    *out = NULL;
    if (gnutls_init(&s, flags | (p->tls->is_server ? GNUTLS_SERVER : GNUTLS_CLIENT)) != 0) {
        return ES_ERR_TLS;
    }
    gnutls_session_set_ptr(s, p);
    if (configure(p, s) != 0 || set_alpn(s, alpn, n) != 0) {
        gnutls_deinit(s);
        return ES_ERR_TLS;
    }
    *out = s;
    return 0;
}
