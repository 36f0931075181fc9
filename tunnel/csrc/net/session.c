/* TLS of one socket. GnuTLS reads and writes memory: what came is put before it, what it wants to send is
 * gathered for one call of the kernel's. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <gnutls/x509.h>
#include "tls_internal.h"

#define RECORD 16384
#define TRIES  8

struct et_tls {
    gnutls_session_t s;
    struct et_sock *sock;         /* borrowed */
    struct et_certs *certs;       /* counted; a server's */
    struct et_tls_server *server; /* counted */
    struct et_tls_client *client; /* counted */
    const uint8_t *feed;          /* borrowed: what came and was not read */
    size_t feed_n;
    struct es_buf cipher; /* what the kernel did not take, from at on */
    size_t at;
    int eof;
    char *name; /* owned: what a server's certificate has to be for; NULL: nothing */
    char text[200];
};

/* ---- what GnuTLS reads and writes ---- */

static ssize_t pull(gnutls_transport_ptr_t ptr, void *to, size_t n)
{
    struct et_tls *t = ptr;

    if (t->feed_n == 0) {
        if (t->eof) {
            return 0;
        }
        gnutls_transport_set_errno(t->s, EAGAIN);
        return -1;
    }
    n = n < t->feed_n ? n : t->feed_n;
    memcpy(to, t->feed, n);
    t->feed += n;
    t->feed_n -= n;
    return (ssize_t)n;
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned ms)
{
    struct et_tls *t = ptr;

    return t->feed_n != 0 || t->eof;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const giovec_t *v, int count)
{
    struct et_tls *t = ptr;
    struct es_buf *to = t->cipher.n != 0 ? &t->cipher : &t->sock->p->tx;
    size_t all = 0;

    for (int i = 0; i < count; i++) {
        if (es_buf_put(to, v[i].iov_base, v[i].iov_len) != 0) {
            gnutls_transport_set_errno(t->s, ENOMEM);
            return -1;
        }
        all += v[i].iov_len;
    }
    return (ssize_t)all;
}

/* Sends what was gathered; keeps what the kernel does not take. */
static int send_gathered(struct et_sock *s)
{
    struct et_tls *t = s->tls;
    struct es_buf *tx = &s->p->tx;
    size_t at = 0;
    int rv = 1;

    if (t->cipher.n != 0) {
        rv = et_sock_send(s, &t->cipher, &t->at);
        if (rv == 1) {
            es_buf_free(&t->cipher);
            t->at = 0;
        }
    } else if (tx->n != 0) {
        rv = et_sock_send(s, tx, &at);
        if (rv == 0 && es_buf_put(&t->cipher, tx->p + at, tx->n - at) != 0) {
            et_sock_fail(s, ES_ERR_NOMEM, "out of memory");
            rv = ES_ERR_NOMEM;
        }
        es_buf_clear(tx);
    }
    return rv;
}

static int flush_gathered(struct et_sock *s)
{
    int rv = send_gathered(s);

    if (rv == 0) {
        et_sock_watch(s, s->watched | EPOLLOUT);
    }
    return rv;
}

size_t et_tls_queued(const struct et_tls *t)
{
    return t->cipher.n - t->at;
}

/* ---- failure ---- */

static int code_of(int rv)
{
    switch (rv) {
    case GNUTLS_E_MEMORY_ERROR:
        return ES_ERR_NOMEM;
    case GNUTLS_E_PREMATURE_TERMINATION:
        return ES_ERR_CLOSED;
    default:
        return ES_ERR_TLS;
    }
}

static void fail(struct et_sock *s, int rv)
{
    struct et_tls *t = s->tls;
    char text[256];
    int alert;

    if (s->state == ET_HANDSHAKE) {
        s->p->stats.handshakes_lost++;
    }
    if (rv == GNUTLS_E_FATAL_ALERT_RECEIVED || rv == GNUTLS_E_WARNING_ALERT_RECEIVED) {
        alert = gnutls_alert_get(t->s);
        snprintf(text, sizeof text, "the peer refused TLS: %s", gnutls_alert_get_name(alert));
    } else if (rv == GNUTLS_E_PREMATURE_TERMINATION && s->state == ET_HANDSHAKE) {
        snprintf(text, sizeof text, "the connection ended in the TLS handshake");
    } else if (rv == GNUTLS_E_PREMATURE_TERMINATION) {
        snprintf(text, sizeof text, "the connection ended without TLS having been closed");
    } else {
        snprintf(text, sizeof text, "TLS: %s", t->text[0] != '\0' ? t->text : gnutls_strerror(rv));
        if (!s->out_over && gnutls_alert_send_appropriate(t->s, rv) == 0) {
            (void)send_gathered(s);
        }
    }
    es_buf_clear(&s->p->tx);
    et_sock_fail(s, code_of(rv), text);
}

/* ---- the handshake ---- */

static void keep_sni(struct et_sock *s)
{
    char name[256];
    size_t n = sizeof name - 1;
    unsigned type = 0;

    if (s->sni != NULL || gnutls_server_name_get(s->tls->s, name, &n, &type, 0) != 0 ||
        type != GNUTLS_NAME_DNS || n >= sizeof name) {
        return;
    }
    name[n] = '\0';
    if ((s->sni = es_malloc(strlen(name) + 1)) != NULL) {
        strcpy(s->sni, name);
    }
}

static int on_client_hello(gnutls_session_t session)
{
    struct et_tls *t = gnutls_session_get_ptr(session);
    const struct et_cert *c;

    keep_sni(t->sock);
    c = et_certs_for(t->server, t->certs, et_sock_sni(t->sock));
    if (c == NULL) {
        snprintf(t->text, sizeof t->text, "there is no certificate for the name that was asked for");
        return GNUTLS_E_UNRECOGNIZED_NAME;
    }
    return gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, c->cred);
}

static const char *reason(unsigned status)
{
    return status & GNUTLS_CERT_SIGNER_NOT_FOUND     ? "was issued by nobody we trust (unknown issuer)"
           : status & GNUTLS_CERT_EXPIRED            ? "has expired"
           : status & GNUTLS_CERT_NOT_ACTIVATED      ? "is not valid yet"
           : status & GNUTLS_CERT_UNEXPECTED_OWNER   ? "is for another name"
           : status & GNUTLS_CERT_REVOKED            ? "was revoked"
           : status & GNUTLS_CERT_PURPOSE_MISMATCH   ? "is not meant for servers"
           : status & GNUTLS_CERT_SIGNER_NOT_CA      ? "was issued by a certificate that is no authority"
           : status & GNUTLS_CERT_INSECURE_ALGORITHM ? "is signed with an insecure algorithm"
           : status & GNUTLS_CERT_SIGNATURE_FAILURE  ? "has a wrong signature"
                                                     : "is not acceptable";
}

/* Whom a client believes. */
static int on_certificate(gnutls_session_t session)
{
    struct et_tls *t = gnutls_session_get_ptr(session);
    gnutls_typed_vdata_st data[2];
    uint8_t spki[32], ip[16];
    unsigned n = 0, status = 0;
    const gnutls_datum_t *certs = gnutls_certificate_get_peers(session, &n);

    if (!t->client->verify && !t->client->has_pin) {
        return 0;
    }
    if (certs == NULL || n == 0) {
        snprintf(t->text, sizeof t->text, "the server sent no certificate");
        return GNUTLS_E_CERTIFICATE_ERROR;
    }
    if (t->client->has_pin) {
        if (et_tls_spki(&certs[0], spki) != 0 || memcmp(spki, t->client->pin, sizeof spki) != 0) {
            snprintf(t->text, sizeof t->text, "the server's key is not the one of the pin");
            return GNUTLS_E_CERTIFICATE_ERROR;
        }
        return 0;
    }
    n = 0;
    memset(data, 0, sizeof data);
    data[n].type = GNUTLS_DT_KEY_PURPOSE_OID;
    data[n++].data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_SERVER;
    if (t->name != NULL && (inet_pton(AF_INET, t->name, ip) == 1 || inet_pton(AF_INET6, t->name, ip) == 1)) {
        data[n].type = GNUTLS_DT_IP_ADDRESS;
        data[n].data = ip;
        data[n++].size = strchr(t->name, ':') != NULL ? 16 : 4;
    } else if (t->name != NULL) {
        data[n].type = GNUTLS_DT_DNS_HOSTNAME;
        data[n++].data = (unsigned char *)t->name;
    }
    if (gnutls_certificate_verify_peers(session, data, n, &status) < 0) {
        snprintf(t->text, sizeof t->text, "the server's certificate cannot be read");
        return GNUTLS_E_CERTIFICATE_ERROR;
    }
    if (status != 0) {
        snprintf(t->text, sizeof t->text, "the server's certificate %s%s%.100s", reason(status),
                 status & GNUTLS_CERT_UNEXPECTED_OWNER ? " than " : "",
                 status & GNUTLS_CERT_UNEXPECTED_OWNER && t->name != NULL ? t->name : "");
        return GNUTLS_E_CERTIFICATE_ERROR;
    }
    return 0;
}

static struct et_tls *begin(struct et_sock *s, unsigned flags, gnutls_priority_t priority,
                            const struct et_alpn *alpn)
{
    struct et_tls *t = es_calloc(1, sizeof *t);

    if (t == NULL) {
        return NULL;
    }
    t->sock = s;
    if (gnutls_init(&t->s, flags | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) != 0) {
        es_free(t);
        return NULL;
    }
    gnutls_session_set_ptr(t->s, t);
    gnutls_transport_set_ptr(t->s, t);
    gnutls_transport_set_pull_function(t->s, pull);
    gnutls_transport_set_pull_timeout_function(t->s, pull_timeout);
    gnutls_transport_set_vec_push_function(t->s, push);
    gnutls_handshake_set_timeout(t->s, GNUTLS_INDEFINITE_TIMEOUT); /* the socket's timer does that */
    if (gnutls_priority_set(t->s, priority) != 0 ||
        (alpn->n != 0 && gnutls_alpn_set_protocols(t->s, alpn->name, alpn->n,
                                                   flags & GNUTLS_SERVER
                                                       ? GNUTLS_ALPN_SERVER_PRECEDENCE | GNUTLS_ALPN_MANDATORY
                                                       : 0) != 0)) {
        gnutls_deinit(t->s);
        es_free(t);
        return NULL;
    }
    s->tls = t;
    return t;
}

int et_tls_accept(struct et_sock *s, struct et_tls_server *server)
{
    struct et_tls *t = begin(s, GNUTLS_SERVER, server->priority, &server->alpn);

    if (t == NULL) {
        return ES_ERR_NOMEM;
    }
    et_tls_server_ref(server);
    t->server = server;
    t->certs = server->certs;
    t->certs->refs++;
    gnutls_handshake_set_post_client_hello_function(t->s, on_client_hello);
    gnutls_certificate_server_set_request(t->s, GNUTLS_CERT_IGNORE);
    (void)gnutls_credentials_set(t->s, GNUTLS_CRD_CERTIFICATE, t->certs->cert[0].cred);
    (void)gnutls_session_ticket_enable_server(t->s, &server->ticket_key);
    return 0;
}

int et_tls_dial(struct et_sock *s, struct et_tls_client *client, const char *name)
{
    struct et_tls *t = begin(s, GNUTLS_CLIENT, client->priority, &client->alpn);
    uint8_t ip[16];

    if (t == NULL) {
        return ES_ERR_NOMEM;
    }
    client->refs++;
    t->client = client;
    gnutls_session_set_verify_function(t->s, on_certificate);
    if (gnutls_credentials_set(t->s, GNUTLS_CRD_CERTIFICATE, client->cred) != 0) {
        return ES_ERR_NOMEM;
    }
    if (name != NULL && name[0] != '\0') {
        if ((t->name = es_malloc(strlen(name) + 1)) == NULL) {
            return ES_ERR_NOMEM;
        }
        strcpy(t->name, name);
        if (inet_pton(AF_INET, name, ip) != 1 && inet_pton(AF_INET6, name, ip) != 1 &&
            gnutls_server_name_set(t->s, GNUTLS_NAME_DNS, name, strlen(name)) != 0) {
            return ES_ERR_INVAL;
        }
    }
    return 0;
}

void et_tls_del(struct et_tls *t)
{
    if (t == NULL) {
        return;
    }
    gnutls_deinit(t->s);
    if (t->certs != NULL) {
        et_certs_unref(t->certs);
    }
    if (t->server != NULL) {
        et_tls_server_unref(t->server);
    }
    if (t->client != NULL) {
        et_tls_client_unref(t->client);
    }
    es_buf_free(&t->cipher);
    es_free(t->name);
    es_free(t);
}

static void shaken(struct et_sock *s)
{
    gnutls_datum_t d = {NULL, 0};
    char alpn[256] = "";

    if (gnutls_alpn_get_selected_protocol(s->tls->s, &d) == 0 && d.size < sizeof alpn) {
        memcpy(alpn, d.data, d.size);
        alpn[d.size] = '\0';
    }
    s->p->stats.handshakes++;
    et_sock_opened(s, alpn);
}

static void shake(struct et_sock *s)
{
    size_t before;
    int rv;

    do {
        before = s->tls->feed_n;
        rv = gnutls_handshake(s->tls->s);
    } while (rv == GNUTLS_E_INTERRUPTED || rv == GNUTLS_E_WARNING_ALERT_RECEIVED ||
             (rv == GNUTLS_E_AGAIN && s->tls->feed_n != 0 && s->tls->feed_n != before));
    if (rv < 0 && rv != GNUTLS_E_AGAIN) {
        fail(s, rv);
        return;
    }
    if (flush_gathered(s) >= 0 && rv == 0) {
        shaken(s);
    }
}

/* ---- data ---- */

static void read_records(struct et_sock *s)
{
    while (s->state == ET_OPEN && !s->in_over && !s->closing) {
        gnutls_packet_t packet = NULL;
        gnutls_datum_t d;
        size_t before = s->tls->feed_n;
        ssize_t n = gnutls_record_recv_packet(s->tls->s, &packet);

        if (n > 0) {
            gnutls_packet_get(packet, &d, NULL);
            et_sock_tell(s, d.data, d.size);
        }
        if (packet != NULL) {
            gnutls_packet_deinit(packet);
        }
        if (n == 0) {
            et_sock_tell_eof(s);
        } else if (n == GNUTLS_E_AGAIN) {
            if (s->tls->feed_n == 0 || s->tls->feed_n == before) {
                return;
            } /* else it was a message of TLS itself, such as a ticket, and others follow */
        } else if (n < 0 && n != GNUTLS_E_INTERRUPTED && n != GNUTLS_E_WARNING_ALERT_RECEIVED) {
            fail(s, (int)n);
        }
    }
}

static void take(struct et_sock *s)
{
    if (s->state == ET_HANDSHAKE) {
        shake(s);
    }
    if (s->state == ET_OPEN) {
        read_records(s);
    }
    if (s->state == ET_OPEN && s->p->tx.n != 0 && !s->out_over) { /* a key update, an alert */
        (void)flush_gathered(s);
    }
    es_buf_clear(&s->p->tx);
    s->tls->feed = NULL;
    s->tls->feed_n = 0;
}

void et_tls_take(struct et_sock *s, const uint8_t *p, size_t n)
{
    s->tls->feed = p;
    s->tls->feed_n = n;
    take(s);
}

void et_tls_take_eof(struct et_sock *s)
{
    s->tls->eof = 1;
    take(s);
}

/* Begins, with what was looked at before anybody knew that TLS ends here. */
void et_tls_shake(struct et_sock *s)
{
    struct es_buf in = s->in;

    memset(&s->in, 0, sizeof s->in);
    et_tls_take(s, in.p, in.n);
    es_buf_free(&in);
}

int et_tls_write(struct et_sock *s)
{
    struct et_tls *t = s->tls;
    int rv = 1, tries = 0;

    if (t->cipher.n != 0 && (rv = send_gathered(s)) <= 0) {
        return rv;
    }
    while (s->out_at < s->out.n) {
        size_t left = s->out.n - s->out_at;
        ssize_t n = gnutls_record_send(t->s, s->out.p + s->out_at, left < RECORD ? left : RECORD);
        if ((n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) && ++tries < TRIES) {
            continue; /* push never says so; GnuTLS may */
        }
        if (n < 0) {
            fail(s, (int)n);
            return ES_ERR_TLS;
        }
        s->out_at += (size_t)n;
        if (s->p->tx.n >= ET_TX && (rv = send_gathered(s)) <= 0) {
            return rv;
        }
    }
    return send_gathered(s);
}

int et_tls_bye(struct et_sock *s)
{
    int rv, tries = 0;

    do {
        rv = gnutls_bye(s->tls->s, GNUTLS_SHUT_WR);
    } while ((rv == GNUTLS_E_INTERRUPTED || rv == GNUTLS_E_AGAIN) && ++tries < TRIES);
    if (rv < 0) {
        fail(s, rv);
        return ES_ERR_TLS;
    }
    s->bye_said = 1;
    return send_gathered(s);
}
