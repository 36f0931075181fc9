/* The TLS session of a connection. */
#include <string.h>
#include "exporter.h"
#include "internal.h"
#include "ticket.h"
#include "tls_verify.h"

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

/* The client has said which host it wants: that one's certificate. */
static int on_server_name(gnutls_session_t s)
{
    ngtcp2_crypto_conn_ref *ref = gnutls_session_get_ptr(s);
    const struct es_conn *c = ref->user_data;
    char name[256];
    size_t n = sizeof name;
    unsigned type = 0;

    if (gnutls_server_name_get(s, name, &n, &type, 0) == 0 && type == GNUTLS_NAME_DNS) {
        (void)gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, es_tls_cred_for(c->peer.tls, name));
    }
    return 0;
}

static int configure_server(gnutls_session_t s, struct es_conn *c)
{
    struct es_tls *t = c->peer.tls;

    if (t->trust != ES_TRUST_NONE) {
        gnutls_certificate_server_set_request(s,
                                              t->client_optional ? GNUTLS_CERT_REQUEST : GNUTLS_CERT_REQUIRE);
        gnutls_session_set_verify_function(s, es_tls_verify);
        /* A client that is told whom we trust shows nothing rather than something of another authority, and
         * could not be told why it is refused. */
        gnutls_certificate_send_x509_rdn_sequence(s, 1);
    }
    if (t->n_other > 0) {
        gnutls_handshake_set_post_client_hello_function(s, on_server_name);
    }
    es_ticket_offer(s);
    if (c->ep->early != NULL && gnutls_record_set_max_early_data_size(s, UINT32_MAX) != 0) {
        return -1;
    }
    return ngtcp2_crypto_gnutls_configure_server_session(s);
}

static int configure_client(gnutls_session_t s, struct es_conn *c, const struct es_ticket *ticket)
{
    struct es_tls *t = c->peer.tls;

    gnutls_session_set_verify_function(s, es_tls_verify);
    if (t->server_name[0] != '\0' && t->name_ip_len == 0 &&
        gnutls_server_name_set(s, GNUTLS_NAME_DNS, t->server_name, strlen(t->server_name)) != 0) {
        return -1;
    }
    if (c->on_ticket != NULL) {
        es_ticket_listen(s);
    }
    if (ticket != NULL) { /* one that cannot be read costs a whole handshake */
        (void)gnutls_session_set_data(s, ticket->session, ticket->session_len);
    }
    return ngtcp2_crypto_gnutls_configure_client_session(s);
}

static int configure(gnutls_session_t s, struct es_conn *c, const struct es_ticket *ticket)
{
    struct es_tls *t = c->peer.tls;

    gnutls_session_set_ptr(s, &c->ref);
    if (gnutls_priority_set(s, t->prio) != 0 ||
        gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, t->cred) != 0 || set_alpn(s, c) != 0) {
        return -1;
    }
    c->exporter.next = gnutls_session_get_keylog_function(s); /* it heeds SSLKEYLOGFILE */
    gnutls_session_set_keylog_function(s, es_exporter_on_secret);
    gnutls_handshake_set_timeout(s, GNUTLS_INDEFINITE_TIMEOUT); /* QUIC has its own */
    return c->link.is_server ? configure_server(s, c) : configure_client(s, c, ticket);
}

gnutls_session_t es_tls_session_new(struct es_conn *c, const struct es_ticket *ticket)
{
    gnutls_session_t s;
    /* One key share is generated, for the first group; the rare server without it asks again. */
    unsigned flags = (unsigned)GNUTLS_KEY_SHARE_TOP | GNUTLS_NO_END_OF_EARLY_DATA;

    if (c->link.is_server) {
        flags |= GNUTLS_SERVER | GNUTLS_NO_AUTO_SEND_TICKET;
        flags |= c->ep->early != NULL ? (unsigned)GNUTLS_ENABLE_EARLY_DATA : 0;
    } else {
        flags |= GNUTLS_CLIENT;
        flags |= c->on_ticket == NULL ? (unsigned)GNUTLS_NO_TICKETS : 0;
        flags |= c->early == ES_EARLY_TRIED ? (unsigned)GNUTLS_ENABLE_EARLY_DATA : 0;
    }
    if (gnutls_init(&s, flags) != 0) {
        return NULL;
    }
    if (configure(s, c, ticket) != 0) {
        gnutls_deinit(s);
        return NULL;
    }
    return s;
}
