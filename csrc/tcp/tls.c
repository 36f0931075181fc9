/* TLS between the socket and HTTP/2. What was read waits in a borrowed window that TLS empties at once; what
 * is written goes straight to the socket. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "internal.h"

#define RECORD       16384
#define CRYPTO_ERROR 0x100

enum { CERTIFICATE_REQUIRED = 116 }; /* TLS alert, RFC 8446 6.2 */

static struct tcp_conn *conn_of(gnutls_transport_ptr_t p)
{
    return p;
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *to, size_t n)
{
    struct tcp_conn *c = conn_of(ptr);

    if (c->in_n == 0) {
        gnutls_transport_set_errno(c->tls, EAGAIN);
        return -1;
    }
    n = n < c->in_n ? n : c->in_n;
    memcpy(to, c->in, n);
    c->in += n;
    c->in_n -= n;
    return (ssize_t)n;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const giovec_t *v, int n)
{
    struct tcp_conn *c = conn_of(ptr);
    struct msghdr m;
    ssize_t rv;

    memset(&m, 0, sizeof m);
    m.msg_iov = (struct iovec *)(uintptr_t)v;
    m.msg_iovlen = (size_t)n;
    do {
        rv = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (rv < 0 && errno == EINTR);
    if (rv < 0) {
        gnutls_transport_set_errno(c->tls, errno == EWOULDBLOCK ? EAGAIN : errno);
        return -1;
    }
    c->bytes_out += (uint64_t)rv;
    c->t->stats.bytes_out += (uint64_t)rv;
    c->writes++;
    c->moved_at = tcp_now(c);
    return rv;
}

int tcp_tls_start(struct tcp_conn *c)
{
    const char *names[8];
    size_t n = 0;
    int rv;

    while (n < 8 && c->alpn[n][0] != '\0') {
        names[n] = c->alpn[n];
        n++;
    }
    rv = es_tls_stream_session(&c->peer, names, n, &c->tls);
    if (rv != 0) {
        return rv;
    }
    gnutls_transport_set_ptr(c->tls, c);
    gnutls_transport_set_pull_function(c->tls, pull);
    gnutls_transport_set_vec_push_function(c->tls, push);
    return 0;
}

static void alert_text(char *out, size_t n, unsigned alert, const char *who)
{
    const char *name = gnutls_alert_get_name((gnutls_alert_description_t)alert);

    snprintf(out, n, "%s %s (TLS alert %u)", who,
             alert == GNUTLS_A_NO_APPLICATION_PROTOCOL ? "no application protocol in common"
             : name != NULL                            ? name
                                                       : "unknown",
             alert);
}

/* What GnuTLS returned ends the connection. */
static void fail(struct tcp_conn *c, int rv)
{
    enum es_close_cause cause = c->established ? ES_CLOSE_ERROR : ES_CLOSE_HANDSHAKE;
    char text[256];

    if (rv == GNUTLS_E_FATAL_ALERT_RECEIVED || rv == GNUTLS_E_WARNING_ALERT_RECEIVED) {
        unsigned alert = (unsigned)gnutls_alert_get(c->tls);
        alert_text(text, sizeof text, alert, "from the peer:");
        tcp_end(c, c->established ? ES_CLOSE_PEER : ES_CLOSE_HANDSHAKE, ES_ERR_TLS, 0, CRYPTO_ERROR + alert,
                text);
    } else if (rv == GNUTLS_E_PUSH_ERROR || rv == GNUTLS_E_PULL_ERROR ||
               rv == GNUTLS_E_PREMATURE_TERMINATION) {
        tcp_end(c, cause, ES_ERR_CLOSED, 0, 0, "the peer broke off the TCP connection");
    } else {
        int level, alert = c->peer.alert != 0 ? (int)c->peer.alert : gnutls_error_to_alert(rv, &level);
        if (c->peer.reason[0] == '\0' && c->link.is_server &&
            (rv == GNUTLS_E_NO_CERTIFICATE_FOUND || alert == CERTIFICATE_REQUIRED)) {
            alert = CERTIFICATE_REQUIRED;
            snprintf(c->peer.reason, sizeof c->peer.reason, "the client sent no certificate");
        }
        (void)gnutls_alert_send(c->tls, GNUTLS_AL_FATAL, (gnutls_alert_description_t)alert);
        if (c->peer.reason[0] == '\0') {
            snprintf(c->peer.reason, sizeof c->peer.reason, "%s: %s",
                     c->established ? "TLS failed" : "the handshake failed", gnutls_strerror(rv));
        }
        tcp_end(c, cause, ES_ERR_TLS, 0, CRYPTO_ERROR + (uint64_t)alert, c->peer.reason);
    }
}

/* Which protocol was agreed on. */
static struct es_app *chosen(struct tcp_conn *c)
{
    gnutls_datum_t got;

    if (gnutls_alpn_get_selected_protocol(c->tls, &got) != 0) {
        return NULL;
    }
    for (size_t i = 0; i < 8 && c->alpn[i][0] != '\0'; i++) {
        if (got.size == strlen(c->alpn[i]) && memcmp(got.data, c->alpn[i], got.size) == 0) {
            return c->link.is_server ? c->t->apps[i] : c->app;
        }
    }
    return NULL;
}

void tcp_tls_shake(struct tcp_conn *c)
{
    size_t before;
    int rv;

    do {
        before = c->in_n;
        rv = gnutls_handshake(c->tls);
    } while (rv == GNUTLS_E_INTERRUPTED || rv == GNUTLS_E_WARNING_ALERT_RECEIVED ||
             (rv == GNUTLS_E_AGAIN && c->in_n > 0 && c->in_n < before));
    if (rv == GNUTLS_E_AGAIN) {
        c->no_room = gnutls_record_get_direction(c->tls) == 1;
        tcp_watch(c);
        return;
    }
    if (rv != 0) {
        fail(c, rv);
        return;
    }
    c->no_room = 0;
    c->app = chosen(c);
    if (c->app == NULL) {
        c->peer.alert = GNUTLS_A_NO_APPLICATION_PROTOCOL;
        snprintf(c->peer.reason, sizeof c->peer.reason, "no application protocol was chosen");
        fail(c, GNUTLS_E_NO_APPLICATION_PROTOCOL);
        return;
    }
    if (tcp_h2_start(c) != 0) {
        tcp_end(c, ES_CLOSE_ERROR, ES_ERR_NOMEM, 1, ES_APP_INTERNAL, "out of memory");
        return;
    }
    c->state = TCP_GREETING;
    tcp_watch(c);
    tcp_mark(c);
}

static void read_records(struct tcp_conn *c)
{
    uint8_t plain[RECORD];

    while (c->state == TCP_GREETING || c->state == TCP_OPEN) {
        size_t before = c->in_n;
        ssize_t n = gnutls_record_recv(c->tls, plain, sizeof plain);

        if (n > 0) {
            tcp_h2_read(c, plain, (size_t)n);
        } else if (n == 0) {
            tcp_end(c, ES_CLOSE_ERROR, ES_ERR_CLOSED, 0, 0, "the peer ended the connection without a word");
        } else if (n == GNUTLS_E_AGAIN) {
            if (c->in_n == 0 || c->in_n == before) {
                return;
            } /* else that was a message of TLS's own, a KeyUpdate perhaps, and there is more */
        } else if (n != GNUTLS_E_INTERRUPTED) {
            fail(c, (int)n);
        }
    }
}

void tcp_tls_read(struct tcp_conn *c, size_t n)
{
    c->in = c->t->rx;
    c->in_n = n;
    if (c->state == TCP_SHAKING) {
        tcp_tls_shake(c);
    }
    if (c->state == TCP_GREETING || c->state == TCP_OPEN) {
        read_records(c);
    }
    c->in = NULL;
    c->in_n = 0;
}

ssize_t tcp_tls_write(struct tcp_conn *c, const uint8_t *p, size_t n)
{
    ssize_t rv;

    do { /* what was taken the last time is not taken again */
        rv = c->again ? gnutls_record_send(c->tls, NULL, 0)
                      : gnutls_record_send(c->tls, p, n < RECORD ? n : RECORD);
    } while (rv == GNUTLS_E_INTERRUPTED);
    c->again = rv == GNUTLS_E_AGAIN;
    c->no_room = c->again;
    if (rv >= 0) {
        return rv;
    }
    if (!c->again) {
        fail(c, (int)rv);
        return -1;
    }
    return 0;
}

void tcp_tls_bye(struct tcp_conn *c)
{
    if (c->tls != NULL && !c->again) {
        (void)gnutls_bye(c->tls, GNUTLS_SHUT_WR);
    }
}
