/* How connections end: the reasons, CONNECTION_CLOSE, and what is answered to late packets. */
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>
#include "../base/utf8.h"
#include "internal.h"

#define AMPLIFICATION        3     /* RFC 9000 8.1 */
#define CERTIFICATE_REQUIRED 116   /* TLS alert, RFC 8446 6.2 */
#define CRYPTO_ERROR         0x100 /* + a TLS alert (RFC 9001 4.8) */

void es_conn_set_info(struct es_conn *c, enum es_close_cause cause, int err, int app, uint64_t code,
                      const char *reason, size_t n)
{
    struct es_close_info *info = &c->info;
    const unsigned char *from = (const unsigned char *)reason;
    size_t to = 0;

    info->cause = cause;
    info->err = err;
    info->app = app;
    info->code = code;
    /* Printable UTF-8, whatever the peer sent: this ends up in logs and on terminals. */
    for (size_t i = 0, take; i < n; i += take, to += take) {
        size_t len = es_utf8_printable(from + i, n - i);
        take = len > 0 ? len : 1;
        if (to + take >= sizeof info->reason) {
            break;
        }
        memcpy(info->reason + to, len > 0 ? &reason[i] : "?", take);
    }
    info->reason[to] = '\0';
}

static void set_text(struct es_conn *c, enum es_close_cause cause, int err, int app, uint64_t code,
                     const char *text)
{
    es_conn_set_info(c, cause, err, app, code, text, strlen(text));
}

static void write_close(struct es_conn *c)
{
    uint8_t buf[ES_PACKET_MAX];
    ngtcp2_path_storage ps;
    ngtcp2_pkt_info pi;
    ngtcp2_ccerr e;
    ngtcp2_ssize n;
    const uint8_t *reason = (const uint8_t *)c->info.reason;
    size_t len = strlen(c->info.reason);

    ngtcp2_path_storage_zero(&ps);
    memset(&pi, 0, sizeof pi);
    ngtcp2_ccerr_default(&e);
    if (!c->info.app) {
        ngtcp2_ccerr_set_transport_error(&e, c->info.code, reason, len);
    } else if (ngtcp2_conn_get_handshake_completed(c->nc)) {
        ngtcp2_ccerr_set_application_error(&e, c->info.code, reason, len);
    } else { /* RFC 9000 10.2.3: nothing of the application's before the handshake is over */
        ngtcp2_ccerr_set_transport_error(&e, NGTCP2_APPLICATION_ERROR, NULL, 0);
    }
    n = ngtcp2_conn_write_connection_close(c->nc, &ps.path, &pi, buf, sizeof buf, &e, es_conn_now(c));
    if (n <= 0) {
        return; /* nothing was ever sent, or nothing may be */
    }
    es_conn_read_path(c, &ps.path);
    (void)es_endpoint_send(c->ep, &ps.path, pi.ecn, buf, (size_t)n, (size_t)n, !c->link.is_server);
    c->remote = *(const union es_addr *)(const void *)ps.path.remote.addr;
    if (c->link.is_server) {
        c->local = *(const union es_addr *)(const void *)ps.path.local.addr;
    }
    c->bytes_out += (size_t)n;
    (void)es_buf_put(&c->close_packet, buf, (size_t)n);
}

void es_conn_end(struct es_conn *c, int say_so)
{
    if (c->state >= ES_CONN_ENDED) {
        return;
    }
    if (say_so) {
        write_close(c);
    }
    if (say_so || c->info.cause == ES_CLOSE_PEER) {
        c->linger = 3 * ngtcp2_conn_get_pto(c->nc);
    }
    c->state = ES_CONN_ENDED;
    es_list_remove(&c->dirty);
    es_refused_forget(c);
    if (!c->ep->deleting && es_timer_start(&c->ep->p->timers, &c->timer, es_conn_now(c)) != 0) {
        /* Without memory for a timer it is still running, or was never started: in both cases the object
         * stays until its endpoint goes. */
        c->linger = 0;
    }
}

/* Late packets of a connection that is over: answered at the 1st, 2nd, 4th, 8th, ... and no more than seven
 * times. */
void es_conn_repeat_close(struct es_conn *c)
{
    ngtcp2_path path = {{0}, {0}, NULL};
    unsigned k = ++c->close_answers;

    if (c->close_packet.n == 0 || k > 64 || (k & (k - 1)) != 0) {
        return;
    }
    /* Nobody has shown yet that the other end is there: three bytes for one, now as before. */
    if (c->link.is_server && !c->established && !c->proven &&
        c->bytes_out + c->close_packet.n > AMPLIFICATION * c->bytes_in) {
        return;
    }
    c->bytes_out += c->close_packet.n;
    path.local = es_nt_addr(&c->local);
    path.remote = es_nt_addr(&c->remote);
    (void)es_endpoint_send(c->ep, &path, 0, c->close_packet.p, c->close_packet.n, c->close_packet.n,
                           !c->link.is_server);
}

/* ---- reasons ---- */

static void alert_text(char *out, size_t n, unsigned alert, const char *who)
{
    const char *name = gnutls_alert_get_name((gnutls_alert_description_t)alert);

    if (alert == GNUTLS_A_NO_APPLICATION_PROTOCOL) {
        snprintf(out, n, "%s no application protocol in common (TLS alert %u)", who, alert);
    } else {
        snprintf(out, n, "%s TLS alert %u: %s", who, alert, name != NULL ? name : "unknown");
    }
}

static void end_by_peer(struct es_conn *c)
{
    ngtcp2_ccerr e;
    enum es_close_cause cause = c->established ? ES_CLOSE_PEER : ES_CLOSE_HANDSHAKE;
    char text[256];

    if (c->got_reset) {
        set_text(c, ES_CLOSE_RESET, ES_ERR_CLOSED, 0, 0,
                 "the peer lost this connection's state (stateless reset)");
        es_conn_end(c, 0);
        return;
    }
    memset(&e, 0, sizeof e);
    es_compat_peer_close(c->nc, &e);
    int app = e.type == NGTCP2_CCERR_TYPE_APPLICATION;
    int tls = !app && e.error_code >= CRYPTO_ERROR && e.error_code < CRYPTO_ERROR + 0x100;
    int err = tls ? ES_ERR_TLS : ES_ERR_CLOSED;
    if (e.reasonlen > 0) {
        es_conn_set_info(c, cause, err, app, e.error_code, (const char *)e.reason, e.reasonlen);
    } else if (tls) {
        alert_text(text, sizeof text, (unsigned)(e.error_code - CRYPTO_ERROR), "from the peer:");
        set_text(c, cause, err, app, e.error_code, text);
    } else if (!app && e.error_code == NGTCP2_CONNECTION_REFUSED) {
        set_text(c, cause, err, app, e.error_code, "the peer accepts no connections now");
    } else if (!app && e.error_code == NGTCP2_INVALID_TOKEN) {
        set_text(c, cause, err, app, e.error_code,
                 "our answer to the server's Retry came too late or changed");
    } else {
        set_text(c, cause, err, app, e.error_code, "");
    }
    c->linger = 3 * ngtcp2_conn_get_pto(c->nc);
    es_conn_end(c, 0);
}

static void end_by_tls(struct es_conn *c)
{
    unsigned alert = c->peer.alert != 0 ? c->peer.alert : ngtcp2_conn_get_tls_alert(c->nc);
    enum es_close_cause cause = c->established ? ES_CLOSE_ERROR : ES_CLOSE_HANDSHAKE;

    if (c->peer.reason[0] == '\0' && alert == CERTIFICATE_REQUIRED && c->link.is_server) {
        snprintf(c->peer.reason, sizeof c->peer.reason, "the client sent no certificate");
    } else if (c->peer.reason[0] == '\0') {
        alert_text(c->peer.reason, sizeof c->peer.reason, alert, "the handshake failed:");
    }
    set_text(c, cause, ES_ERR_TLS, 0, CRYPTO_ERROR + alert, c->peer.reason);
    es_conn_end(c, 1);
}

static void end_silently(struct es_conn *c, int liberr)
{
    if (liberr == NGTCP2_ERR_IDLE_CLOSE && c->established) {
        set_text(c, ES_CLOSE_IDLE, ES_ERR_TIMEOUT, 0, 0,
                 "nothing was heard of the peer for the idle time-out");
    } else if (liberr == NGTCP2_ERR_RECV_VERSION_NEGOTIATION) {
        set_text(c, ES_CLOSE_HANDSHAKE, ES_ERR_PROTOCOL, 0, 0,
                 c->peer.reason[0] != '\0' ? c->peer.reason
                                           : "the server speaks none of our versions of QUIC");
    } else {
        set_text(c, ES_CLOSE_HANDSHAKE, ES_ERR_TIMEOUT, 0, 0, "the handshake took too long: no answer");
    }
    es_conn_end(c, 0);
}

int es_conn_fail(struct es_conn *c, int liberr)
{
    if (c->state >= ES_CONN_ENDED) {
        return 0;
    }
    switch (liberr) {
    case NGTCP2_ERR_DRAINING:
    case NGTCP2_ERR_CLOSING:
        end_by_peer(c);
        return 0;
    case NGTCP2_ERR_DROP_CONN:
    case NGTCP2_ERR_RETRY:
        /* A fresh server connection whose first packet was nothing: forgotten at once, so that a genuine
         * Initial with the same id begins anew. */
        if (c->link.is_server && c->link.events == NULL) {
            es_conn_del(c);
            return 1;
        }
        break;
    case NGTCP2_ERR_RECV_VERSION_NEGOTIATION:
        if (c->version_offer == 0 || c->version_changed) {
            end_silently(c, liberr);
        } else if (es_conn_change_version(c) == 0) {
            es_conn_mark(c);
        } else {
            set_text(c, ES_CLOSE_HANDSHAKE, ES_ERR_NOMEM, 0, 0, "out of memory");
            es_conn_end(c, 0);
        }
        return 0;
    case NGTCP2_ERR_IDLE_CLOSE:
    case NGTCP2_ERR_HANDSHAKE_TIMEOUT:
        end_silently(c, liberr);
        return 0;
    case NGTCP2_ERR_CRYPTO:
        end_by_tls(c);
        return 0;
    case NGTCP2_ERR_CALLBACK_FAILURE:
        if (c->peer.alert != 0) {
            end_by_tls(c);
            return 0;
        }
        break;
    default:
        break;
    }
    enum es_close_cause cause = c->established ? ES_CLOSE_ERROR : ES_CLOSE_HANDSHAKE;
    int fatal = ngtcp2_err_is_fatal(liberr);
    set_text(c, cause, fatal ? ES_ERR_NOMEM : ES_ERR_PROTOCOL, 0,
             ngtcp2_err_infer_quic_transport_error_code(liberr), ngtcp2_strerror(liberr));
    es_conn_end(c, 1);
    return 0;
}
